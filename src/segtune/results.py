"""The seam between computing and reporting: what a run is, and what it leaves on disk. Imports no torch.

A run is its configuration: run_id(config) names its folder, outputs/runs/<run_id>/. There

    status.json     queued, running, completed, failed or interrupted; who works on it; its age is the heartbeat
    segtune.log     what the run said, with times, over all its attempts
    history.csv     one row per epoch, appended as epochs end
    slices.csv      one row per validation slice, for the best and for the last epoch
    cases.csv       one row per validation case (a volume of a patient), 3-D over its slices: distances in mm, volumes in ml
    patients.csv    one row per validation patient: means over its cases, stroke volume, ejection fraction
    pictures.npz    image, expert's and predicted mask of the best, median and worst validation patient (last epoch)
    checkpoints/    last.ckpt (from which a run that was cut off goes on), best.ckpt (by validation Dice)
    result.json     the rest, written last and atomically: where it is and matches, the run is done
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
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segtune.errors import InputError

if TYPE_CHECKING:
    import numpy as np  # a tenth of a second that reading results does without

HISTORY, SLICES, CASES, PATIENTS, PICTURES, RESULT, SWEEP, CURVES, SIDES = (
    *("history.csv", "slices.csv", "cases.csv", "patients.csv", "pictures.npz"),
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
BOOKKEEPING = ("hydra", "outputs", "figures", "on_failure", "dry_run", "trainer.devices")  # where and how, not what
MEASURED = ("seconds", "peak_memory_mb")  # at any depth of result.json: all else is the same when a run is repeated
BEAT_S = 10.0  # how often a working process touches status.json
STALE_S = 60.0  # after how long without a touch it is taken for dead, where its lock cannot be seen
REPLICATE = ("seed", "split.fold")  # what tells the runs of one cell apart

Config = Mapping[str, Any]


def run_id(config: Config) -> str:
    """12 hex digits of a SHA-256 over the configuration without bookkeeping and without null or empty keys.

    Key order does not count, nor how a number is written (1, 1.0), so that a new option which defaults to null orphans
    no run.
    """
    return _hash(config, without=BOOKKEEPING)


def cell_id(config: Config) -> str:
    """The run id without the seed and the fold: replicates of a cell share it."""
    return _hash(config, without=(*BOOKKEEPING, *REPLICATE))


def axes(config: Config) -> dict[str, str]:
    """What a run is called on the axes of a sweep: loss, split, reg, batch, by their options' names and values."""
    reg = config.get("reg") or {}
    strengths = ",".join(
        f"{value:g}" if value != "auto" else f"auto {reg.get('ratio') or 1:g}"
        for key, value in reg.items()
        if key.startswith("lambda")
    )
    return {
        "loss": config["loss"]["_target_"].rpartition(".")[2],
        "split": f"{share:g}" if (share := config["split"].get("val_fraction")) is not None else config["split"]["by"],
        "reg": f"{reg['penalty']['_target_'].rpartition('.')[2]}({strengths})" if reg.get("penalty") else "none",
        "batch": str(config["batch"]["size"]),
    }


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
    return _flat(config, without=BOOKKEEPING if replicates else (*BOOKKEEPING, *REPLICATE))


def is_done(folder: Path, run: str) -> bool:
    """Whether the folder holds the whole result of this run."""
    try:
        return read_result(folder).get("run_id") == run
    except InputError:
        return False


def set_aside(folder: Path, why: str) -> Path | None:
    """Move what a run left in its folder to a folder <why>-N in there; nothing is deleted. None if it had left nothing."""
    left = [folder / name for name in (HISTORY, *TABLES, PICTURES, RESULT, CHECKPOINTS) if (folder / name).exists()]
    left += sorted(folder.glob(f"{CURVES}.*"))
    if not left:
        return None
    aside = _free(folder, why)
    aside.mkdir()
    for path in sorted(left, key=lambda path: path.name != RESULT):  # the result first: the rest alone is not done
        path.rename(aside / path.name)
    return aside


def append_history(folder: Path, row: Mapping[str, float]) -> None:
    """Add an epoch's row to history.csv; its keys are HISTORY_COLUMNS."""
    if set(row) != set(HISTORY_COLUMNS):
        raise ValueError(f"history row with {sorted(set(row) ^ set(HISTORY_COLUMNS))} missing or unknown")
    path = folder / HISTORY
    text = csv_text(HISTORY_COLUMNS, [row], header=not path.exists())
    with path.open("a", encoding="utf-8", newline="") as file:
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


def write(
    folder: Path, *, result: Mapping[str, Any], tables: Mapping[str, Iterable[Mapping[str, Any]]], pictures: Mapping[str, Any]
) -> None:
    """Write what a finished run leaves: the TABLES and pictures.npz, then, last of all, result.json (NaN as null)."""
    import numpy as np

    for name, columns in TABLES.items():
        write_atomically(folder / name, csv_text(columns, tables[name]).encode())
    packed = io.BytesIO()
    np.savez_compressed(packed, **pictures)
    write_atomically(folder / PICTURES, packed.getvalue())
    write_atomically(folder / RESULT, json_text(result))


def read_result(folder: Path) -> dict[str, Any]:
    """result.json of a finished run. Raises: InputError if it is not there or not whole."""
    return _read_json(folder / RESULT, "The run has not finished; start its command again.")


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

    with np.load(folder / PICTURES, allow_pickle=False) as file:
        return dict(file)


# Who works on a run, and what became of it


class BusyError(InputError):
    """Another process works on this run."""


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
    busy = BusyError(f"{folder}: process {status.get('pid', '?')} on {status.get('host', 'another machine')} works on it.")
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return busy
    except OSError:  # a file system without locks
        return busy if _beats(folder, status) else None
    return busy if status.get("host") != socket.gethostname() and _beats(folder, status) else None


def _beats(folder: Path, status: Mapping[str, Any]) -> bool:
    try:
        return status.get("state") == "running" and time.time() - (folder / STATUS).stat().st_mtime < STALE_S
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
    """status.json, or None where there is none that can be read: what it says can be found out without it."""
    try:
        status = json.loads((folder / STATUS).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return status if isinstance(status, dict) else None


@contextmanager
def working(folder: Path, **about: Any) -> Iterator[None]:
    """Say `running` in status.json and keep touching it, from a thread of its own, until the block ends.

    Half-written files of a process that was killed here are removed; the lock must be held.
    """
    for path in [*folder.glob(f".*{PARTIAL}"), *(folder / CHECKPOINTS).glob(f".*{PARTIAL}")]:
        path.unlink(missing_ok=True)
    about = {"host": socket.gethostname(), "pid": os.getpid(), **about}
    write_status(folder, "running", **about)
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT_S):
            try:
                os.utime(folder / STATUS)
            except OSError:
                continue  # a file system that is away for a moment; a longer absence shows as stale

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def state(folder: Path, run: str) -> tuple[str, dict[str, Any]]:
    """A run's state, and its status.json.

    completed (its result.json is there and whole), running (somebody works on it), stale (somebody did, and died),
    queued, failed, interrupted, or missing (never begun). The files decide, not what a dead process said of itself.
    """
    status = read_status(folder) or {}
    if is_done(folder, run):
        return "completed", status
    said = str(status.get("state", "missing"))
    if said == "completed":  # its result has been damaged or removed since
        return "interrupted", status
    if said == "queued" and "job" not in status and status.get("host") == socket.gethostname() and not _lives(status["pid"]):
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
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
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


def write_sweep(folder: Path, *, command: list[str], runs: list[dict[str, Any]]) -> None:
    """sweep.json: which command asked for which runs. An earlier one that asked for others keeps a name of its own."""
    path = folder / SWEEP
    with lock(folder, waiting=lambda busy: None):
        if path.exists():
            try:
                same = {run["run_id"] for run in read_sweep(folder)["runs"]} == {run["run_id"] for run in runs}
            except InputError:  # cut off in the middle, say: kept, but not in the way
                same = False
            if not same:
                path.rename(_free(folder, path.stem, path.suffix))
        about = {"command": command, "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "runs": runs}
        write_atomically(path, _json(about))


def read_sweep(folder: Path) -> dict[str, Any]:
    """sweep.json: command, and runs (run_id, overrides, axes). Raises: InputError if the folder is none of a sweep."""
    cure = "sweep= names the folder of a sweep, like sweep=outputs/grid; starting its command again writes the file anew."
    about = _read_json(folder / SWEEP, cure)
    runs = about.get("runs")
    if not isinstance(runs, list) or not all(isinstance(run, dict) and _is_name(run.get("run_id")) for run in runs):
        raise InputError(f"{folder / SWEEP}: damaged (it lists no runs). {cure}")
    return {"command": [], **about, "runs": [{"overrides": [], "axes": {}, **run} for run in runs]}


def _is_name(value: Any) -> bool:
    """Whether this can be a folder's name, and not a way out of the folder."""
    return isinstance(value, str) and Path(value).name == value != ".."


def write_jobs(folder: Path, jobs: Mapping[str, str]) -> None:
    """Add run id -> Slurm job to jobs.json."""
    with lock(folder, waiting=lambda busy: None):
        write_atomically(folder / JOBS, _json(read_jobs(folder) | dict(jobs)))


def read_jobs(folder: Path) -> dict[str, str]:
    """jobs.json; empty where there is none."""
    if not (folder / JOBS).exists():
        return {}
    cure = "Remove it; runs that Slurm has already are then submitted again, which does no harm."
    return {run: str(job) for run, job in _read_json(folder / JOBS, cure).items()}


def write_atomically(path: Path, content: bytes) -> None:
    """The file appears whole or not at all, whatever happens in between."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well and vanishes when it does not."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that becomes it when the block ends well, and vanishes when it does not.

    Raises: InputError, before the block, if there is something already but an empty folder; after it, if there is by then.
    """
    _refuse_existing(path)
    where = path.resolve()
    where.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=where.parent, prefix=f".{where.name}.", suffix=PARTIAL))
    try:
        yield temporary
        temporary.chmod(0o755)
        _refuse_existing(path)
        temporary.replace(where)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
    """The rows as CSV; a key that a row lacks, or None, is empty, NaN is nan."""
    text = io.StringIO(newline="")
    writer: csv.DictWriter[str] = csv.DictWriter(text, columns, lineterminator="\n", restval="")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _read_csv(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Has the run started?") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: damaged ({error}). Start the run's command again.") from error


def _read_json(path: Path, cure: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). {cure}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({error}). {cure}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: damaged (not an object of keys and values). {cure}")
    return found
