"""result.json, which marks a run as done. The runs package is the seam between training and reporting: it imports no torch.

A run's id is a hash of its configuration and names its folder, outputs/runs/<run_id>/, which holds

    status.json     queued, running, completed, failed or interrupted; the attempt that owns it; its age is the heartbeat
    segtune.log     the log of all attempts
    history.csv     one row per epoch, appended as epochs end
    slices.csv      one row per validation slice, for the best and for the last epoch
    cases.csv       one row per validation case (a volume of a patient), 3-D over its slices: distances in mm, volumes in ml
    patients.csv    one row per validation patient: means over its cases, stroke volume, ejection fraction
    pictures.npz    image, expert's and predicted mask of the best, median and worst validation patient (last epoch)
    images.csv      a code of each image, by which evaluate recognises it (data/recognition.py), and its side
    checkpoints/    last.ckpt (from which an interrupted run resumes), best.ckpt (by validation Dice)
    result.json     everything else, with size and hash of the files above. It is written last and atomically: a run whose
                    result.json is there and matches its files is done
    curves.png/svg  the study's figure
    .lock           held by the process that works here, for as long as it lives

A sweep's folder, outputs/<study>/, holds sweep.json (the command and its runs) and jobs.json (the Slurm job of each run).
"""

import hashlib
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from segtune.errors import InputError, as_typed
from segtune.runs import layout
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
from segtune.runs.tables import csv_text, read_history

# Keys of result.json, at any depth, that differ when a run is repeated; everything else is the same.
MEASURED = ("seconds", "peak_memory_mb", "attempts", "files", "sha256")


def is_done(folder: Path, run: str) -> bool:
    """Whether the folder holds the complete result of this run: result.json and the files that it lists, unchanged."""
    return not why_not_done(folder, run)


def why_not_done(folder: Path, run: str) -> str:
    """Why the folder does not hold the complete result of this run; empty if it does."""
    try:
        result = read_result(folder)
        damaged = damaged_files(folder, result)
    except InputError as error:
        return str(error)
    if result.get("run_id") != run:
        return f"{folder / layout.RESULT}: it is of another run."
    told = ", ".join(str(folder / name) for name in damaged)
    return f"{told}: damaged (missing, or not what the run wrote). Start the run's command again." if damaged else ""


def set_aside(folder: Path, why: str, names: Iterable[str] | None = None) -> Path | None:
    """Move a run's files into a new folder <why>-N within its folder, so that nothing is deleted. None if there are no files.

    Args: names: the files to move; None for all.
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
    left.sort(key=lambda path: path.name != layout.RESULT)  # result.json first: without it, the rest does not count as done
    for path in left:
        path.rename(aside / path.name)
    return aside


def set_aside_damaged(folder: Path) -> tuple[Path, str] | None:
    """Move a damaged result aside. Returns its new folder and what is wrong with it, or None if there is no result.json.

    History and checkpoints stay if they are undamaged, because everything else can be computed from them again.
    """
    path = folder / layout.RESULT
    if not path.exists():
        return None
    try:
        result = parse_json(read_bytes(path, LARGEST_JSON))
        why = "" if _is_as_written(result) else f"{layout.RESULT} is not what the run wrote"
        damaged = damaged_files(folder, result, contents=True)
        derived = {layout.RESULT, *layout.TABLES, layout.PICTURES, layout.IMAGES}
        keeps = bool(result.get("files")) and not {*damaged} - derived
        why = why or f"{', '.join(damaged) or 'a file'} is not what the run wrote"
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        why, keeps = f"{layout.RESULT} is damaged", False
    aside = set_aside(folder, "damaged", derived if keeps else None)
    assert aside is not None
    return aside, why


def damaged_files(folder: Path, result: Mapping[str, Any], *, names: Iterable[str] = (), contents: bool = False) -> list[str]:
    """The names of files listed in result.json that are missing or have changed since.

    Sizes are compared, and the content of files with a later time stamp than result.json. Results of early versions list no
    files and pass.

    Args: names: the files to check; empty for all. contents: compare the content of each file.
    Raises: InputError if the list itself is damaged.
    """
    listed = result.get("files") or {}
    if not isinstance(listed, Mapping) or not all(isinstance(about, Mapping) for about in listed.values()):
        raise InputError(f"{folder / layout.RESULT}: damaged (files is no list of files). Start the run's command again.")
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
    """Raises: InputError naming the first of these files that is not, byte for byte, what the run wrote."""
    for name in damaged_files(folder, result, names=names, contents=True):
        raise InputError(
            f"{folder / name}: damaged (it is missing, or not what the run wrote). Start the run's command again "
            f"({as_typed('python -m segtune')}, not its sweep's), which makes it anew, or copy the run's folder again."
        )


def listed_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of each of FILES that exists."""
    paths = {name: folder / name for name in layout.FILES if (folder / name).exists()}
    return {name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for name, path in paths.items()}


def signed(result: Mapping[str, Any]) -> dict[str, Any]:
    """The result with a hash of its own content. It detects damage, not forgery."""
    return {**result, "sha256": _own_hash(result)}


def _own_hash(result: Mapping[str, Any]) -> str:
    """The SHA-256 of everything in result.json except its own "sha256" entry."""
    return hashlib.sha256(json_text({key: value for key, value in result.items() if key != "sha256"})).hexdigest()


def _is_as_written(result: Mapping[str, Any]) -> bool:
    """Whether result.json is unchanged since the run wrote it; results of early versions have no hash and pass."""
    try:
        return "sha256" not in result or result["sha256"] == _own_hash(result)
    except RecursionError:  # nested deeper than any result of a run
        return False


def check_history(folder: Path, epochs: int) -> dict[str, list[float]]:
    """history.csv, which must have exactly the epochs 1 ... n. Raises: InputError; what the run left is then set aside."""
    history = read_history(folder)
    if history["epoch"] == list(range(1, epochs + 1)):
        return history
    told = ", ".join(f"{epoch:g}" for epoch in history["epoch"][:20])
    aside = set_aside(folder, "damaged")
    raise InputError(
        f"{folder / layout.HISTORY}: it has the epochs {told or 'none'} where the run has 1 to {epochs}, so rows were lost, or "
        f"another process wrote into it. What the run left is in {aside}. Start its command again."
    )


def write_result(
    folder: Path, *, result: Mapping[str, Any], tables: Mapping[str, Iterable[Mapping[str, Any]]], pictures: Mapping[str, Any]
) -> None:
    """Write the tables, pictures.npz and, last, result.json (NaN as null).

    result.json lists size and SHA-256 of history, tables, pictures and checkpoints, which are on the disk by then, and a hash
    of its own content.
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
    write_atomically(folder / layout.RESULT, json_text(signed({**result, "files": listed_files(folder)})), durable=True)


def read_result(folder: Path) -> dict[str, Any]:
    """The content of result.json. Raises: InputError if it is missing, incomplete or has changed since the run wrote it."""
    result = read_json(folder / layout.RESULT, "The run has not finished; start its command again.")
    if not _is_as_written(result):
        raise InputError(
            f"{folder / layout.RESULT}: damaged (not what the run wrote). Start the run's command again, which makes it anew, "
            "or copy its folder again."
        )
    return result


def without_measurements(value: Any) -> Any:
    """A result without MEASURED keys at any depth: the part that a repeated run reproduces."""
    if not isinstance(value, Mapping):
        return value
    return {key: without_measurements(item) for key, item in value.items() if key not in MEASURED}
