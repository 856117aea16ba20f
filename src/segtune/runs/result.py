"""Read and write result.json, which marks a run as done, and check that a run's files are undamaged.

A run's id is a hash of its configuration. Its folder, outputs/runs/<run_id>/, contains

    status.json     the state (`queued`, `running`, `completed`, `failed` or `interrupted`) and the id of the attempt
                    that owns the folder. A running attempt touches this file regularly (heartbeat)
    segtune.log     the log of all attempts
    history.csv     one row per epoch, appended after each epoch
    slices.csv      one row per validation slice, for the best and for the last epoch
    cases.csv       one row per validation case (a volume of a patient), scored in 3-D: distances in mm, volumes in ml
    patients.csv    one row per validation patient: the means over its cases, its stroke volume and ejection fraction
    pictures.npz    images, expert and predicted masks of the best, median and worst validation patient (last epoch)
    images.csv      one row per image, with its part of the split (column `side`) and its recognition code.
                    segtune.evaluate uses this code to recognise the image (data/recognition.py)
    checkpoints/    last.ckpt (from which an interrupted run resumes), best.ckpt (highest validation Dice)
    result.json     everything else, with size and hash of the files above. It is written last and atomically. A run is done
                    if its result.json exists and matches its files
    curves.png/svg  learning curves
    augmented.png   training images after augmentation, if there is any
    .lock           locked by the process that works on the run until that process ends

A sweep's folder, outputs/<study>/, contains sweep.json (the command and its runs) and jobs.json (the Slurm job of each run).
This module does not import torch.
"""

import hashlib
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from segtune.errors import InputError, as_typed
from segtune.runs import layout, schema
from segtune.runs.files import (
    LARGEST_JSON,
    check_owner,
    first_free,
    json_text,
    parse_json,
    read_bytes,
    read_json,
    sha256,
    sync,
    write_atomically,
)
from segtune.runs.schema import Result
from segtune.runs.tables import csv_text, read_history

# Keys of result.json, at any depth, whose values differ when a run is repeated. All other values are reproduced.
MEASURED = ("label", "seconds", "peak_memory_mb", "attempts", "files", "sha256")


def is_done(folder: Path, run: str) -> bool:
    """Return whether the folder contains the complete result of this run.

    The result is complete if result.json and all files that it lists are present and unchanged.
    """
    return not why_not_done(folder, run)


def why_not_done(folder: Path, run: str) -> str:
    """Return why the folder does not contain the complete result of this run, or an empty string if it does."""
    try:
        result = read_result(folder)
        damaged = damaged_files(folder, result)
    except InputError as error:
        return str(error)
    if result.get("run_id") != run:
        return f"{folder / layout.RESULT}: this file belongs to another run."
    told = ", ".join(str(folder / name) for name in damaged)
    return f"{told}: damaged (missing, or changed since the run). Start the run's command again." if damaged else ""


def set_aside(folder: Path, why: str, names: Iterable[str] | None = None) -> Path | None:
    """Move a run's files into a new folder <why>-N within its folder, so that nothing is deleted.

    Args: why: the reason, such as "damaged". names: the files to move. None means all files.
    Returns: the new folder; None if there were no files to move.
    """
    check_owner(folder / layout.RESULT)
    left = [
        folder / name
        for name in names or (layout.HISTORY, *layout.TABLES, layout.PICTURES, layout.IMAGES, layout.RESULT, layout.CHECKPOINTS)
        if (folder / name).exists()
    ]
    left += [] if names else sorted(folder.glob(f"{layout.CURVES}.*"))
    if not left:
        return None
    aside = first_free(folder, why)
    aside.mkdir()
    left.sort(key=lambda path: path.name != layout.RESULT)  # result.json first: without it, the run does not count as done
    for path in left:
        path.rename(aside / path.name)
    return aside


def set_aside_damaged(folder: Path) -> tuple[Path, str] | None:
    """Move the files of a damaged result into a new folder within the run's folder.

    The history and the checkpoints stay in place if they are undamaged, because all other files can be computed from
    them.

    Returns: the new folder and a description of the damage; None if there is no result.json.
    """
    path = folder / layout.RESULT
    if not path.exists():
        return None
    try:
        result = parse_json(read_bytes(path, LARGEST_JSON))
        why = "" if _is_as_written(result) else f"{layout.RESULT} has changed since the run wrote it"
        damaged = damaged_files(folder, result, contents=True)
        derived = {layout.RESULT, *layout.TABLES, layout.PICTURES, layout.IMAGES}
        keeps = bool(result.get("files")) and not {*damaged} - derived
        why = why or f"{', '.join(damaged) or 'a file'} is missing or has changed since the run"
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        why, keeps = f"{layout.RESULT} is damaged", False
    aside = set_aside(folder, "damaged", derived if keeps else None)
    assert aside is not None
    return aside, why


def damaged_files(folder: Path, result: Mapping[str, Any], *, names: Iterable[str] = (), contents: bool = False) -> list[str]:
    """Return the names of the files listed in result.json that are missing or have changed since it was written.

    The sizes of all files are compared. The hashes of their contents are compared only for files that are newer than
    result.json. Results of early versions list no files, so the returned list is empty for them.

    Args: names: the files to check. If it is empty, all files are checked. contents: whether to compare the contents
        of all checked files.
    Raises: InputError if the list of files itself is damaged.
    """
    listed = result.get("files") or {}
    if not isinstance(listed, Mapping) or not all(isinstance(about, Mapping) for about in listed.values()):
        raise InputError(f"{folder / layout.RESULT}: damaged (it has no valid list of files). Start the run's command again.")
    found = []
    for name, about in listed.items():
        if names and name not in names:
            continue
        path = folder / name
        try:
            is_whole = name in layout.FILES and (stat := path.stat()).st_size == about.get("bytes")
            if is_whole and (contents or stat.st_mtime_ns > (folder / layout.RESULT).stat().st_mtime_ns):
                is_whole = sha256(path) == about.get("sha256")
        except OSError:
            is_whole = False
        if not is_whole:
            found.append(name)
    return found


def verify_files(folder: Path, result: Mapping[str, Any], names: Iterable[str]) -> None:
    """Compare these files with their hashes in result.json. Raises: InputError for the first damaged file."""
    for name in damaged_files(folder, result, names=names, contents=True):
        raise InputError(
            f"{folder / name}: damaged (it is missing, or has changed since the run wrote it). To write it again, start the "
            f"command of this run ({as_typed('python -m segtune')}) instead of the command of its sweep, or copy the "
            "run's folder again."
        )


def listed_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the size and SHA-256 of each existing file of layout.FILES."""
    paths = {name: folder / name for name in layout.FILES if (folder / name).exists()}
    return {name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for name, path in paths.items()}


def signed(result: Mapping[str, Any]) -> dict[str, Any]:
    """Add to the result a hash of its own content, which detects damage but not forgery."""
    return {**result, "sha256": _own_hash(result)}


def _own_hash(result: Mapping[str, Any]) -> str:
    """Compute the SHA-256 of all of result.json except its own entry "sha256"."""
    return hashlib.sha256(json_text({key: value for key, value in result.items() if key != "sha256"})).hexdigest()


def _is_as_written(result: Mapping[str, Any]) -> bool:
    """Return whether result.json is unchanged since the run wrote it.

    Results of early versions contain no hash and count as unchanged.
    """
    try:
        return "sha256" not in result or result["sha256"] == _own_hash(result)
    except RecursionError:  # nested more deeply than any real result
        return False


def check_history(folder: Path, epochs: int) -> dict[str, list[float]]:
    """Read history.csv, which must contain exactly the epochs 1 to `epochs`.

    Raises: InputError if epochs are missing or extra. Before raising it, the function moves the run's files into a new
        subfolder of the run's folder.
    """
    history = read_history(folder)
    if history["epoch"] == list(range(1, epochs + 1)):
        return history
    told = ", ".join(f"{epoch:g}" for epoch in history["epoch"][:20])
    aside = set_aside(folder, "damaged")
    raise InputError(
        f"{folder / layout.HISTORY}: it contains the epochs {told or 'none'} instead of 1 to {epochs}, so rows were lost, or "
        f"another process wrote into it. The run's files were moved to {aside}. Start the run's command again."
    )


def write_result(
    folder: Path, *, result: Mapping[str, Any], tables: Mapping[str, Iterable[Mapping[str, Any]]], pictures: Mapping[str, Any]
) -> None:
    """Write the tables, pictures.npz and finally result.json (NaN as null).

    result.json contains the sizes and SHA-256 of history, tables, pictures and checkpoints, and a hash of its own
    content. It is written only when these files are safely on the disk.
    """
    import numpy as np

    for name, columns in layout.TABLES.items():
        write_atomically(folder / name, csv_text(columns, tables[name]).encode())
    packed = io.BytesIO()
    np.savez_compressed(packed, **pictures)
    write_atomically(folder / layout.PICTURES, packed.getvalue())
    for name in layout.FILES:
        if (folder / name).exists():
            sync(folder / name)
    sync(folder)
    write_atomically(
        folder / layout.RESULT,
        json_text(signed({"schema": schema.VERSION, **result, "files": listed_files(folder)})),
        durable=True,
    )


def read_result(folder: Path, *, needs: tuple[str, ...] = ()) -> Result:
    """Read result.json.

    Args: needs: entries that the caller needs, which a result of an early version may lack.
    Raises: InputError if the file is missing or incomplete, was written by a later version, or has changed since the
        run wrote it.
    """
    path, cure = folder / layout.RESULT, "Start the run's command again to write a new one, or copy the run's folder again."
    result = read_json(path, "The run has not finished; start its command again.")
    if not _is_as_written(result):
        raise InputError(f"{path}: damaged (changed since the run wrote it). {cure}")
    try:
        schema.check(result, Result, needs=needs)
    except schema.DamagedError as error:
        raise schema.describe(path, error, cure) from None
    return cast(Result, result)


def without_measurements(value: Any) -> Any:
    """Return a result without the keys in MEASURED at any depth.

    The remaining values are the same if the run is repeated.
    """
    if not isinstance(value, Mapping):
        return value
    return {key: without_measurements(item) for key, item in value.items() if key not in MEASURED}
