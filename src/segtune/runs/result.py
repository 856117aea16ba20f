"""The seam between computing and reporting: what a run is, and what it leaves on disk. Imports no torch.

A run is its configuration: run_id(config) names its folder, outputs/runs/<run_id>/. There

    status.json     queued, running, completed, failed or interrupted; who works on it (attempt); its age is the heartbeat
    segtune.log     what the run said, with times, over all its attempts
    history.csv     one row per epoch, appended as epochs end
    slices.csv      one row per validation slice, for the best and for the last epoch
    cases.csv       one row per validation case (a volume of a patient), 3-D over its slices: distances in mm, volumes in ml
    patients.csv    one row per validation patient: means over its cases, stroke volume, ejection fraction
    pictures.npz    image, expert's and predicted mask of the best, median and worst validation patient (last epoch)
    images.csv      a code of each image, by which evaluate knows it again (data/recognition.py), and its side
    checkpoints/    last.ckpt (from which a run that was cut off goes on), best.ckpt (by validation Dice)
    result.json     the rest, with size and hash of the files above, written last and atomically: where it is and matches,
                    the run is done
    curves.png/svg  the study's figure
    .lock           held by the process that works here, for as long as it lives

and a sweep's folder, outputs/<study>/, holds sweep.json: the command and its runs; and jobs.json: which Slurm job has which
run. Other modules take the names from here.
"""

import csv
import fcntl
import hashlib
import io
import json
import math
import os
import re
import secrets
import shutil
import socket
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segtune.errors import InputError, printable

if TYPE_CHECKING:
    import numpy as np  # a tenth of a second that reading results does without

HISTORY, SLICES, CASES, PATIENTS, PICTURES, IMAGES, RESULT, SWEEP, CURVES, SIDES = (
    *("history.csv", "slices.csv", "cases.csv", "patients.csv", "pictures.npz", "images.csv"),
    *("result.json", "sweep.json", "curves", "sides"),
)
STATUS, LOG, LOCK, JOBS = "status.json", "segtune.log", ".lock", "jobs.json"
PARTIAL = ".partial"  # ends the name of a file that is being written
CHECKPOINTS, LAST, BEST = "checkpoints", "last.ckpt", "best.ckpt"
HISTORY_COLUMNS = (
    *("epoch", "lr", "train_loss", "train_data_loss", "train_penalty", "train_soft_dice", "train_dice"),
    *("val_loss", "val_data_loss", "val_bce", "val_focal", "val_dice_loss", "val_soft_dice", "val_dice", "seconds"),
)
SLICE_COLUMNS = (
    *("which", "patient", "phase", "volume", "slice_index", "frame", "soft_dice", "dice", "iou", "n_true", "n_pred"),
    *("n_overlap", "sensitivity", "precision", "hd_mm", "hd95_mm", "assd_mm", "surface_dice", "n_one_empty", "n_both_empty"),
)
CASE_COLUMNS = (
    *("which", "patient", "phase", "volume", "n_slices", "dice", "iou", "sensitivity", "precision"),
    *("hd_mm", "hd95_mm", "assd_mm", "surface_dice", "n_true", "n_pred", "n_overlap", "n_one_empty", "n_both_empty"),
    *("volume_true_ml", "volume_pred_ml", "volume_error_ml", "undefined"),
)
PATIENT_COLUMNS = (
    *("which", "patient", "n_cases", "dice", "iou", "sensitivity", "precision"),
    *("hd_mm", "hd95_mm", "assd_mm", "surface_dice", "n_one_empty", "n_both_empty"),
    *("stroke_volume_true_ml", "stroke_volume_pred_ml", "stroke_volume_error_ml"),
    *("ejection_fraction_true", "ejection_fraction_pred", "ejection_fraction_error", "undefined"),
)
TABLES = {SLICES: SLICE_COLUMNS, CASES: CASE_COLUMNS, PATIENTS: PATIENT_COLUMNS}  # what is scored, by file
IMAGE_COLUMNS = ("patient", "side", "code")
FILES = (HISTORY, *TABLES, PICTURES, IMAGES, f"{CHECKPOINTS}/{LAST}", f"{CHECKPOINTS}/{BEST}")  # whose hashes result.json has
BOOKKEEPING = ("hydra", "outputs", "name", "figures", "on_failure", "dry_run", "trainer.devices")  # where and how, not what
# Keys of result.json, at any depth, that differ when a run is repeated; everything else is the same.
MEASURED = ("seconds", "peak_memory_mb", "attempts", "files", "sha256")
BEAT_S = 10.0  # how often a working process touches status.json
STALE_S = 60.0  # after how long without a touch it is taken for dead, where its lock cannot be seen
DAY_S = 86_400.0  # the age from which a temporary file is a dead process's, where its lock cannot be seen
PATHS = ("data.root", "data.reader.root")  # where the data lie, which says nothing of what they are
STATES = ("queued", "running", "completed", "failed", "interrupted")  # that status.json may say
KINDS = {  # of what status.json may say; a value of another kind is as if it were not there
    **dict.fromkeys(("state", "since", "host", "job", "signal", "run_id", "attempt"), str),
    **{"pid": int, "overrides": list, "config": dict, "error": dict},
}
LARGEST_JSON, LARGEST_TABLE, LARGEST_PICTURES = 2**26, 2**27, 2**30  # bytes of a file that is read; pictures: unpacked
REPLICATE = ("seed", "split.fold")  # what tells the runs of one cell apart

Config = Mapping[str, Any]


def run_id(config: Config) -> str:
    """12 hex digits of a SHA-256 over the configuration without bookkeeping and without null or empty keys.

    Key order does not count, nor how a number is written (1, 1.0), so that a new option which defaults to null orphans
    no run.
    """
    return _hash(config, without=BOOKKEEPING)


def cell_id(config: Config, data: str | None = None) -> str:
    """The run id without the seed, the fold and where the data lie: replicates of a cell share it.

    Args: data: the fingerprint of its data, which says what they are wherever they lie.
    """
    return _hash({**config, "fingerprint": data}, without=(*BOOKKEEPING, *REPLICATE, *PATHS))


def placeless_id(config: Config) -> str:
    """The run id without where the data lie: runs of the same data in different folders share it."""
    return _hash(config, without=(*BOOKKEEPING, *PATHS))


def axes(config: Config) -> dict[str, str]:
    """What a run is called on the axes of a sweep: loss, split, reg, batch, by their options' names and values."""
    reg = config.get("reg") or {}
    strengths = ",".join(
        f"{value:g}" if value != "auto" else f"auto {reg.get('ratio') or 1:g}"
        for key, value in reg.items()
        if key.startswith("lambda")
    )
    return {
        "loss": _called(config["loss"]["_target_"]),
        "split": f"{share:g}" if (share := config["split"].get("val_fraction")) is not None else config["split"]["by"],
        "reg": f"{_called(reg['penalty']['_target_'])}({strengths})" if reg.get("penalty") else "none",
        "batch": str(config["batch"]["size"]),
    }


def _called(target: str) -> str:
    """What a function is called: one of segtune by its name, any other by all of its path, for lab.bce is not bce."""
    return target.rpartition(".")[2] if target.startswith("segtune.") else target


def label(config: Config) -> str:
    """One line that names a run for a person: loss=focal split=0.6 reg=none batch=15."""
    return " ".join(f"{key}={value}" for key, value in axes(config).items())


def differences(configs: Sequence[Config]) -> list[str]:
    """A word for each configuration on where it departs from the others, beyond what its label says."""
    named = (
        *(*BOOKKEEPING, "loss._target_", "loss._partial_", "reg.penalty", "reg.lambda", "reg.lambda_l1", "reg.lambda_l2"),
        *("reg.ratio", "batch.size", "split.val_fraction", "data.reader"),
    )
    flat = [_flat(config, without=named) for config in configs]
    values: dict[str, set[str]] = {key: set() for one in flat for key in one}
    for one in flat:
        for key in values:
            values[key].add(repr(one.get(key)))
    # a key of loss or reg that only some options have, and have alike, is no difference beyond the option's name
    alike = {key for key in values if key.startswith(("loss.", "reg.")) and len(values[key] - {"None"}) < 2}
    varying = sorted(key for key in values if len(values[key]) > 1 and key not in alike)
    return [", ".join(f"{key}={one[key]}" for key in varying if key in one) for one in flat]


def flat(config: Config, *, replicates: bool = True) -> dict[str, Any]:
    """Dotted keys to values, as the run id sees them; replicates=False: as the cell id does."""
    return _flat(config, without=BOOKKEEPING if replicates else (*BOOKKEEPING, *REPLICATE, *PATHS))


def is_done(folder: Path, run: str) -> bool:
    """Whether the folder holds the whole result of this run: result.json as it was written, and the files that it lists."""
    return not why_not_done(folder, run)


def why_not_done(folder: Path, run: str) -> str:
    """What keeps the folder from holding the whole result of this run; empty if nothing does."""
    try:
        result = read_result(folder)
        damaged = damaged_files(folder, result)
    except InputError as error:
        return str(error)
    if result.get("run_id") != run:
        return f"{folder / RESULT}: it is of another run."
    told = ", ".join(str(folder / name) for name in damaged)
    return f"{told}: damaged (missing, or not what the run wrote). Start the run's command again." if damaged else ""


def set_aside(folder: Path, why: str, names: Iterable[str] | None = None) -> Path | None:
    """Move what a run left in its folder to a folder <why>-N in there; nothing is deleted. None if it had left nothing.

    Args: names: of the files to move; None: all.
    """
    check_attempt(folder / RESULT)
    left = [
        folder / name for name in names or (HISTORY, *TABLES, PICTURES, IMAGES, RESULT, CHECKPOINTS) if (folder / name).exists()
    ]
    left += [] if names else sorted(folder.glob(f"{CURVES}.*"))
    if not left:
        return None
    aside = _free(folder, why)
    aside.mkdir()
    for path in sorted(left, key=lambda path: path.name != RESULT):  # the result first: the rest alone is not done
        path.rename(aside / path.name)
    return aside


def set_aside_damaged(folder: Path) -> tuple[Path, str] | None:
    """Move a result that does not count any more out of the way; where it is now and what is wrong with it, or None.

    Where history and checkpoints are as result.json lists them, they stay: what is derived from them is made anew.
    """
    path = folder / RESULT
    if not path.exists():
        return None
    try:
        result = _parse_json(_content(path, LARGEST_JSON))
        why = "" if _is_as_written(result) else f"{RESULT} is not what the run wrote"
        damaged = damaged_files(folder, result, contents=True)
        derived = {RESULT, *TABLES, PICTURES, IMAGES}
        keeps = bool(result.get("files")) and not {*damaged} - derived
        why = why or f"{', '.join(damaged) or 'a file'} is not what the run wrote"
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        why, keeps = f"{RESULT} is damaged", False
    aside = set_aside(folder, "damaged", derived if keeps else None)
    assert aside is not None
    return aside, why


# What a result says of its files


def damaged_files(folder: Path, result: Mapping[str, Any], *, names: Iterable[str] = (), contents: bool = False) -> list[str]:
    """The files of `files` in result.json that are not there or not what the run wrote, by their names in the folder.

    Sizes are compared, and the contents of those that were changed after result.json was written. Results of before have no
    `files`: nothing is known of theirs.

    Args: names: of the files to look at; none: all. contents: compare the contents of all of these.
    Raises: InputError for a list that is none.
    """
    listed = result.get("files") or {}
    if not isinstance(listed, Mapping) or not all(isinstance(about, Mapping) for about in listed.values()):
        raise InputError(f"{folder / RESULT}: damaged (files is no list of files). Start the run's command again.")
    found = []
    for name, about in listed.items():
        if names and name not in names:
            continue
        path = folder / name
        try:
            is_whole = name in FILES and (stat := path.stat()).st_size == about.get("bytes")
            if is_whole and (contents or stat.st_mtime_ns > (folder / RESULT).stat().st_mtime_ns):
                is_whole = sha256(path) == about.get("sha256")
        except OSError:
            is_whole = False
        if not is_whole:
            found.append(name)
    return found


def verify(folder: Path, result: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raises: InputError naming the first of these files that is not, byte for byte, what the run wrote."""
    for name in damaged_files(folder, result, names=names, contents=True):
        raise InputError(
            f"{folder / name}: damaged (it is missing, or not what the run wrote). Start the run's command again (python -m "
            "segtune, not its sweep's), which makes it anew, or copy the run's folder again."
        )


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def listed_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of each of FILES that is there."""
    paths = {name: folder / name for name in FILES if (folder / name).exists()}
    return {name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for name, path in paths.items()}


def signed(result: Mapping[str, Any]) -> dict[str, Any]:
    """The result with the hash of its own content. It tells damage; whoever wants to deceive can write another one."""
    return {**result, "sha256": _own_hash(result)}


def _own_hash(result: Mapping[str, Any]) -> str:
    """The SHA-256 of everything in result.json except its own "sha256" entry."""
    return hashlib.sha256(json_text({key: value for key, value in result.items() if key != "sha256"})).hexdigest()


def _is_as_written(result: Mapping[str, Any]) -> bool:
    """Whether result.json still says what the run wrote; those of before do not tell."""
    try:
        return "sha256" not in result or result["sha256"] == _own_hash(result)
    except RecursionError:  # deeper than anything that a run writes
        return False


def append_history(folder: Path, row: Mapping[str, float]) -> None:
    """Add an epoch's row to history.csv; its keys are HISTORY_COLUMNS."""
    if set(row) != set(HISTORY_COLUMNS):
        raise ValueError(f"history row with {sorted(set(row) ^ set(HISTORY_COLUMNS))} missing or unknown")
    path = folder / HISTORY
    text = csv_text(HISTORY_COLUMNS, [row], header=not path.exists())
    check_attempt(path)
    with naming(path), path.open("a", encoding="utf-8", newline="") as file:
        file.write(text)


def cut_history(folder: Path, epochs: int) -> bool:
    """Keep the first epochs of history.csv (a run goes on from its checkpoint); False if they are not all there."""
    try:
        rows = [row for row in _read_csv(folder / HISTORY) if None not in row.values()][:epochs]
        numbers = [[float(row[column]) for column in HISTORY_COLUMNS] for row in rows]
    except (InputError, KeyError, ValueError):
        return False
    whole = [row[0] for row in numbers] == list(range(1, epochs + 1))
    if whole:
        write_atomically(folder / HISTORY, csv_text(HISTORY_COLUMNS, rows).encode())
    return whole


def check_history(folder: Path, epochs: int) -> dict[str, list[float]]:
    """history.csv, which must have exactly the epochs 1 ... n. Raises: InputError; what the run left is then set aside."""
    history = read_history(folder)
    if history["epoch"] == list(range(1, epochs + 1)):
        return history
    told = ", ".join(f"{epoch:g}" for epoch in history["epoch"][:20])
    aside = set_aside(folder, "damaged")
    raise InputError(
        f"{folder / HISTORY}: it has the epochs {told or 'none'} where the run has 1 to {epochs}, so rows were lost, or "
        f"another process wrote into it. What the run left is in {aside}. Start its command again."
    )


def write(
    folder: Path, *, result: Mapping[str, Any], tables: Mapping[str, Iterable[Mapping[str, Any]]], pictures: Mapping[str, Any]
) -> None:
    """Write what a finished run leaves: the TABLES and pictures.npz, then, last of all, result.json (NaN as null).

    result.json lists size and SHA-256 of history, tables, pictures and checkpoints, which are on the disk by then, and of
    its own content.
    """
    import numpy as np

    for name, columns in TABLES.items():
        write_atomically(folder / name, csv_text(columns, tables[name]).encode())
    packed = io.BytesIO()
    np.savez_compressed(packed, **pictures)
    write_atomically(folder / PICTURES, packed.getvalue())
    for name in FILES:
        if (folder / name).exists():
            _sync(folder / name)
    _sync(folder)
    write_atomically(folder / RESULT, json_text(signed({**result, "files": listed_files(folder)})), durable=True)


def read_result(folder: Path) -> dict[str, Any]:
    """result.json of a finished run. Raises: InputError if it is not there, not whole, or not what the run wrote."""
    result = _read_json(folder / RESULT, "The run has not finished; start its command again.")
    if not _is_as_written(result):
        raise InputError(
            f"{folder / RESULT}: damaged (not what the run wrote). Start the run's command again, which makes it anew, or copy "
            "its folder again."
        )
    return result


def read_history(folder: Path) -> dict[str, list[float]]:
    """history.csv by column, as far as it got."""
    path = folder / HISTORY
    rows = _read_csv(path)
    try:
        return {column: [float(row[column]) for row in rows] for column in HISTORY_COLUMNS}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: damaged. Remove {folder / RESULT} and start the run's command again.") from error


def read_table(folder: Path, name: str) -> list[dict[str, str]]:
    """One of the TABLES, a dict per row. Raises: InputError if it is not there (early runs have slices.csv alone)."""
    return _read_csv(folder / name)


def read_pictures(folder: Path) -> "dict[str, np.ndarray]":
    """pictures.npz: {best,median,worst}_{image,true,pred,frame,patient}."""
    import numpy as np

    path = folder / PICTURES
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > LARGEST_PICTURES:
                raise ValueError(f"more than {LARGEST_PICTURES} bytes")
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except FileNotFoundError:
        raise
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        MemoryError,
        RuntimeError,
        NotImplementedError,
        zipfile.BadZipFile,
    ) as error:
        raise InputError(f"{path}: damaged. Remove {folder / RESULT} and start the run's command again.") from error


# Who works on a run, and what became of it


class BusyError(InputError):
    """Another process works on this run."""


class LostError(InputError):
    """This process does not own the run's folder any more, and must not write into it."""


_attempts: dict[str, str] = {}  # absolute folder -> the attempt that this process makes there (working)


def check_attempt(path: Path) -> None:
    """Raise LostError unless this process still owns the run's folder in which it is about to write this file.

    A process that was suspended may wake after another one took its run over, and a folder may have been removed: status.json
    then names another attempt, or is not there. A process that works on no run has nothing to check.
    """
    for folder in path.parent.resolve(), path.parent.resolve().parent:
        if (mine := _attempts.get(str(folder))) is not None:
            status = read_status(folder)
            if status is None or status.get("attempt") != mine:
                why = "is gone" if status is None else "belongs to another process now"
                raise LostError(
                    f"{folder}: this run's folder {why} (removed, or taken over while this process stood still), so nothing "
                    "more is written here. Start its command again."
                )


@contextmanager
def lock(folder: Path, *, waiting: Callable[[BusyError], None] | None = None) -> Iterator[None]:
    """The sole right to write into a run's (or sweep's) folder. The kernel takes it from a process that dies.

    Args: waiting: called once if another process has it, which is then waited for. None: raise at once.

    Raises: BusyError, which names the other process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("ab") as file:
        while (busy := _occupied(folder, file.fileno(), fcntl.LOCK_EX)) is not None:
            if waiting is None:
                raise busy
            waiting(busy)
            while _occupied(folder, file.fileno(), fcntl.LOCK_EX) is not None:
                time.sleep(0.5)
            break
        yield  # closing the file gives the lock back


def _occupied(folder: Path, file: int, kind: int) -> BusyError | None:
    """Take the lock, or say who has it. Some network file systems keep a lock to one machine: there the heartbeat counts."""
    status = read_status(folder) or {}
    host = printable(status.get("host", "another machine"))
    busy = BusyError(f"{folder}: process {status.get('pid', '?')} on {host} works on it.")
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return busy
    except OSError:  # a file system without locks
        return busy if _beats(folder, status) else None
    return busy if status.get("host") != socket.gethostname() and _beats(folder, status) else None


def _beats(folder: Path, status: Mapping[str, Any]) -> bool:
    """Whether its status was touched a moment ago; a time in the future, which a copied folder may have, is no such moment."""
    try:
        return status.get("state") == "running" and abs(time.time() - (folder / STATUS).stat().st_mtime) < STALE_S
    except OSError:
        return False


def write_status(folder: Path, state: str, **about: Any) -> None:
    """status.json: the state, since when, and what else is known of this attempt."""
    status = {"state": state, "since": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **about}
    write_atomically(folder / STATUS, _json(status))


def queue(folder: Path, *, if_queued: bool = False, **about: Any) -> None:
    """Say that a run waits its turn, unless somebody works on it. if_queued: only where it already says so."""
    try:
        with lock(folder):
            if not if_queued or (read_status(folder) or {}).get("state") == "queued":
                write_status(folder, "queued", **{"host": socket.gethostname(), "pid": os.getpid(), **about})
    except (BusyError, OSError):
        pass  # it is running; or nothing can be written there, which the run itself will say


def read_status(folder: Path) -> dict[str, Any] | None:
    """status.json, or None where there is none that can be read: what it says can be found out without it.

    What is not of its kind (KINDS) is left out.
    """
    try:
        status = json.loads(_content(folder / STATUS, LARGEST_JSON))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(status, dict):
        return None
    if isinstance(error := status.get("error"), dict):
        texts = {key: value for key, value in error.items() if isinstance(value, str)}
        status["error"] = {"kind": "error", "message": "no message", "traceback": "", **texts}
    if not all(isinstance(one, str) for one in _listed(status.get("overrides"))):
        del status["overrides"]
    return {key: value for key, value in status.items() if isinstance(value, KINDS.get(key, object))}


@contextmanager
def working(folder: Path, **about: Any) -> Iterator[str]:
    """Say `running` in status.json and keep touching it, from a thread of its own, until the block ends.

    Within the block nothing is written into the folder once it is another process's (check_attempt). Half-written files of a
    process that was killed here are removed; the lock must be held. Gives the attempt's name, for the status that ends it.
    """
    for path in [*folder.glob(f".*{PARTIAL}"), *(folder / CHECKPOINTS).glob(f".*{PARTIAL}")]:
        _remove_if_stale(path)
    attempt, place = secrets.token_hex(8), str(folder.resolve())
    about = {"host": socket.gethostname(), "pid": os.getpid(), **about, "attempt": attempt}
    write_status(folder, "running", **about)
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT_S):
            try:
                if (read_status(folder) or {}).get("attempt") == attempt:
                    os.utime(folder / STATUS)
            except OSError:
                continue  # a file system that is away for a moment; a longer absence shows as stale

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    _attempts[place] = attempt
    try:
        yield attempt
    finally:
        _attempts.pop(place, None)
        over.set()
        thread.join()


def end_attempt(folder: Path, attempt: str, state: str, **about: Any) -> None:
    """An attempt's final status, unless the folder is gone or another process's by now."""
    if (read_status(folder) or {}).get("attempt") == attempt:
        write_status(folder, state, **about, attempt=attempt)


def state(folder: Path, run: str) -> tuple[str, dict[str, Any]]:
    """A run's state, and its status.json.

    completed (its result.json is there and whole), running (somebody works on it), stale (somebody did, and died),
    queued, failed, interrupted, or missing (never begun). The files decide, not what a dead process said of itself.
    """
    status = read_status(folder) or {}
    if is_done(folder, run):
        return "completed", status
    said = status.get("state")
    if said not in STATES:
        return "missing", status
    if said == "completed":  # its result has been damaged or removed since
        return "interrupted", status
    if (
        said == "queued"
        and "job" not in status
        and status.get("host") == socket.gethostname()
        and not _lives(status.get("pid", 0))
    ):
        begun = (folder / CHECKPOINTS / LAST).exists()  # whoever was to start it is gone
        return "interrupted" if begun else "missing", status
    if said == "running":
        return ("running" if _alive(folder, status) else "stale"), status
    return said, status


def _alive(folder: Path, status: Mapping[str, Any]) -> bool:
    if status.get("host") != socket.gethostname():
        return _beats(folder, status)
    try:
        with (folder / LOCK).open("rb") as file:
            return _occupied(folder, file.fileno(), fcntl.LOCK_SH) is not None
    except OSError:
        return _beats(folder, status)


def refuse_another(folder: Path, run: str) -> None:
    """Raises: InputError if the folder holds another run than this one: it is never written into."""
    found = {(read_status(folder) or {}).get("run_id")}
    with suppress(InputError):  # no result, or a damaged one
        found.add(read_result(folder).get("run_id"))
    for other in found - {None, run}:
        raise InputError(
            f"{folder} holds run {other}, another configuration than this one ({run}). Name an empty folder, or leave "
            "hydra.run.dir out of the command."
        )


def _lives(pid: int) -> bool:
    if pid <= 0:  # which would be a group of processes
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # somebody else's
    return True


def epochs_done(folder: Path) -> int:
    """How many epochs history.csv holds."""
    try:
        return max((folder / HISTORY).read_bytes().count(b"\n") - 1, 0)
    except OSError:
        return 0


# Sweeps


def write_sweep(folder: Path, *, command: list[str], runs: list[dict[str, Any]], elsewhere: bool = False) -> Path:
    """Write sweep.json, which says what command asked for which runs, and return the folder that it is in.

    Args: elsewhere: where the folder holds the sweep.json of other runs, take the first of <folder>-2, <folder>-3, ... that
        does not. Otherwise that earlier file keeps a name of its own in the folder.
    """
    asked, number = {run["run_id"] for run in runs}, 1
    while True:
        place = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        with lock(place, waiting=lambda busy: None):
            others = (place / SWEEP).exists() and _runs_of(place) != asked
            if others and elsewhere and _runs_of(place) is not None:
                number += 1
                continue
            if others:
                (place / SWEEP).rename(_free(place, Path(SWEEP).stem, Path(SWEEP).suffix))
            about = {"command": command, "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "runs": runs}
            write_atomically(place / SWEEP, _json(about))
            return place


def _runs_of(folder: Path) -> set[str] | None:
    """The ids of the runs that sweep.json lists; None for a damaged file, which is nobody's."""
    try:
        return {run["run_id"] for run in read_sweep(folder)["runs"]}
    except InputError:
        return None


def read_sweep(folder: Path) -> dict[str, Any]:
    """sweep.json: command, and runs (run_id, overrides, axes). Raises: InputError if the folder is none of a sweep."""
    cure = "sweep= names the folder of a sweep, like sweep=outputs/grid; starting its command again writes the file anew."
    about = _read_json(folder / SWEEP, cure)
    runs = about.get("runs")
    if not isinstance(runs, list) or not all(isinstance(run, dict) and _is_name(run.get("run_id")) for run in runs):
        raise InputError(f"{folder / SWEEP}: damaged (it lists no runs). {cure}")
    about["command"] = [str(word) for word in _listed(about.get("command"))]
    for run in runs:
        run["overrides"] = [str(one) for one in _listed(run.get("overrides")) if not str(one).startswith("-")]
        axes = run.get("axes")
        run["axes"] = {key: str(value) for key, value in axes.items()} if isinstance(axes, dict) else {}
    return about


def _listed(value: Any) -> list[Any]:
    """The value, if it is a list; else an empty one."""
    return value if isinstance(value, list) else []


def _is_name(value: Any) -> bool:
    """Whether this can be a folder's name, and not a way out of the folder."""
    return isinstance(value, str) and value.isprintable() and 0 < len(value) < 256 and Path(value).name == value != ".."


def write_jobs(folder: Path, jobs: Mapping[str, str]) -> None:
    """Add run id -> Slurm job to jobs.json."""
    with lock(folder, waiting=lambda busy: None):
        write_atomically(folder / JOBS, _json(read_jobs(folder) | dict(jobs)))


def read_jobs(folder: Path) -> dict[str, str]:
    """jobs.json; empty where there is none."""
    if not (folder / JOBS).exists():
        return {}
    cure = "Remove it; runs that Slurm has already are then submitted again, which does no harm."
    found = {run: str(job) for run, job in _read_json(folder / JOBS, cure).items()}
    return {run: job for run, job in found.items() if re.fullmatch(r"[\w.+-]{1,64}", job, re.ASCII)}  # 12_3


def write_atomically(path: Path, content: bytes, *, durable: bool = False) -> None:
    """The file appears whole or not at all, whatever happens in between. durable: and is on the disk before this returns."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)
        if durable:
            _sync(temporary)
    if durable:
        _sync(path.parent)


def write_files(stem: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Files of one name and several suffixes, a figure's say: contents by suffix. The folder is made if it is not there."""
    check_attempt(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(stem.name + suffix) for suffix in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        write_atomically(path, content)
    return paths


def _sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An error of the disk in this block names the file: a full disk is noticed while writing, where nothing says of what."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well and vanishes when it does not.

    Raises: LostError if `path` is in a run's folder that this process does not own any more.
    """
    check_attempt(path)
    with _partial(path, is_folder=False) as temporary:
        with naming(path):
            yield temporary
        temporary.chmod(0o644)
        check_attempt(path)
        temporary.replace(path)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that becomes it when the block ends well, and vanishes when it does not.

    Raises: InputError, before the block, if there is something already but an empty folder; after it, if there is by then.
    """
    _refuse_existing(path)
    where = path.resolve()
    where.parent.mkdir(parents=True, exist_ok=True)
    with _partial(where, is_folder=True) as temporary:
        with naming(path):
            yield temporary
        temporary.chmod(0o755)
        _refuse_existing(path)
        temporary.replace(where)


@contextmanager
def _partial(path: Path, *, is_folder: bool) -> Iterator[Path]:
    """A new file or folder beside `path`, locked while this process works on it; removed at the end if it is still there.

    Those that dead processes have left beside it are removed first.
    """
    for stale in path.parent.glob(f".*{PARTIAL}"):
        _remove_if_stale(stale)
    start = path.name.encode()[:100].decode(errors="ignore")  # a file system counts bytes
    while True:
        if is_folder:
            temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{start}.", suffix=PARTIAL))
            handle = os.open(temporary, os.O_RDONLY)
        else:
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{start}.", suffix=PARTIAL)
            temporary = Path(name)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        if temporary.exists():  # nobody took it for stale before it was locked
            break
        os.close(handle)
    try:
        yield temporary
    finally:
        _remove(temporary)
        os.close(handle)


def _remove_if_stale(path: Path) -> None:
    """Remove a temporary file or folder whose writer is dead: its lock is free or, without locks, it is a day old."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(path)
        except BlockingIOError:
            pass  # its writer lives
        except OSError:
            if time.time() - os.fstat(handle).st_mtime > DAY_S:
                _remove(path)
        finally:
            os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _refuse_existing(path: Path) -> None:
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"output={path}: is there already. Name a new folder, or remove this one.")


def _hash(config: Config, *, without: tuple[str, ...]) -> str:
    return hashlib.sha256(json.dumps(_flat(config, without=without), sort_keys=True).encode()).hexdigest()[:12]


def _flat(config: Config, *, without: tuple[str, ...]) -> dict[str, Any]:
    """Dotted keys to values, whole floats as ints; no null, no empty mapping or list, nothing of or below `without`."""
    found: dict[str, Any] = {}

    def visit(key: str, value: Any) -> None:
        if key in without or value is None or value == []:
            return
        if isinstance(value, Mapping):
            for name, item in value.items():
                visit(f"{key}.{name}" if key else str(name), item)
        else:
            found[key] = int(value) if isinstance(value, float) and value.is_integer() else value

    visit("", config)
    return found


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def json_text(value: Any) -> bytes:
    """As JSON, which knows no NaN: it is null."""
    return _json(_without_nan(value))


def without_measurements(value: Any) -> Any:
    """A result less MEASURED, at any depth: what a repeated run gives again."""
    if not isinstance(value, Mapping):
        return value
    return {key: without_measurements(item) for key, item in value.items() if key not in MEASURED}


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _free(folder: Path, stem: str, suffix: str = "") -> Path:
    """The first of stem-1, stem-2, ... that is not taken."""
    number = 1
    while (folder / f"{stem}-{number}{suffix}").exists():
        number += 1
    return folder / f"{stem}-{number}{suffix}"


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], *, header: bool = True) -> str:
    """The rows as CSV; a key that a row lacks, or None, is empty, NaN is nan. Text is text to a spreadsheet too (cell)."""
    lines = _Lines()
    writer: csv.DictWriter[str] = csv.DictWriter(lines, columns, lineterminator="\r\n", restval="")
    if header:
        writer.writerow({column: cell(column) for column in columns})
    writer.writerows({column: cell(value) for column, value in row.items()} for row in rows)
    return "".join(lines)


class _Lines(list[str]):
    """Lines of a table, which end in \\n. Where the writer is told \\r\\n, it puts a text with either of these in quotes."""

    def write(self, line: str) -> None:
        self.append(line.removesuffix("\r\n") + "\n")


# How a cell begins that a spreadsheet computes, and what `cell` has made of one; full-width signs are signs to some.
FORMULA = re.compile("'*([\\s\0\ufeff]*[=+\\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n])")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|[+-]?(inf|nan)", re.IGNORECASE | re.ASCII)


def cell(value: Any) -> Any:
    """What stands in a table for a value: a text that a spreadsheet would take for a formula gets a ' before it.

    Numbers stay as they are, and so does a text that is one.
    """
    if not isinstance(value, str) or not FORMULA.match(value) or NUMBER.fullmatch(value):
        return value
    return f"'{value}"


def _uncelled(value: Any) -> Any:
    """The text for which `cell` wrote this."""
    return value[1:] if isinstance(value, str) and value.startswith("'") and FORMULA.match(value) else value


def _read_csv(path: Path) -> list[dict[str, str]]:
    try:
        content = _content(path, LARGEST_TABLE).decode()
        rows = csv.DictReader(io.StringIO(content, newline=""))
        return [{column: _uncelled(value) for column, value in row.items()} for row in rows]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Has the run started?") from error
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path}: damaged ({error}). Start the run's command again.") from error


def _content(path: Path, most: int) -> bytes:
    """A file's bytes. Raises: OSError; ValueError for one that is larger than any of ours, or that is no file."""
    if path.exists() and not path.is_file():
        raise ValueError("is no file")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"larger than {most >> 20} MB")
    return content


def _read_json(path: Path, cure: str) -> dict[str, Any]:
    try:
        return _parse_json(_content(path, LARGEST_JSON))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). {cure}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({error}). {cure}") from error


def _parse_json(content: bytes) -> dict[str, Any]:
    found = json.loads(content)
    if not isinstance(found, dict):
        raise ValueError("not an object of keys and values")
    return found
