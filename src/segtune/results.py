"""The seam between computing and reporting: what a run is, and what it leaves on disk. Imports no torch.

A run is its configuration: run_id(config) names its folder, outputs/runs/<run_id>/. There

    history.csv     one row per epoch, appended as epochs end
    slices.csv      one row per validation slice, for the best and for the last epoch
    pictures.npz    image, expert's and predicted mask of the best, median and worst validation patient (last epoch)
    checkpoints/    best.ckpt (by validation Dice), last.ckpt
    result.json     the rest, written last and atomically: where it is and matches, the run is done
    curves.png/svg  the study's figure

and a sweep's folder, outputs/<study>/, holds sweep.json: the command and its runs. Other modules take the names from here.
"""

import csv
import hashlib
import io
import json
import math
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from segtune.errors import InputError

HISTORY, SLICES, PICTURES, RESULT, SWEEP, CURVES = (
    *("history.csv", "slices.csv", "pictures.npz", "result.json", "sweep.json", "curves"),
)
CHECKPOINTS = "checkpoints"
HISTORY_COLUMNS = (
    *("epoch", "lr", "train_loss", "train_data_loss", "train_penalty", "train_soft_dice", "train_dice"),
    *("val_loss", "val_data_loss", "val_bce", "val_focal", "val_dice_loss", "val_soft_dice", "val_dice", "seconds"),
)
SLICE_COLUMNS = (
    *("which", "patient", "phase", "slice_index", "frame", "soft_dice", "dice", "iou", "n_true", "n_pred", "n_overlap"),
)
BOOKKEEPING = ("hydra", "outputs", "figures", "trainer.devices")  # where and how, not what
REPLICATE = ("seed",)  # what tells the runs of one cell apart

Config = Mapping[str, Any]


def run_id(config: Config) -> str:
    """12 hex digits of a SHA-256 over the configuration without bookkeeping and without null or empty keys.

    Key order does not count, nor how a number is written (1, 1.0), so that a new option which defaults to null orphans
    no run.
    """
    return _hash(config, without=BOOKKEEPING)


def cell_id(config: Config) -> str:
    """The run id without the seed: replicates of a cell share it."""
    return _hash(config, without=(*BOOKKEEPING, *REPLICATE))


def axes(config: Config) -> dict[str, str]:
    """What a run is called on the axes of a sweep: loss, split, reg, batch, by their options' names and values."""
    reg = config.get("reg") or {}
    strengths = ",".join(f"{value:g}" for key, value in reg.items() if key.startswith("lambda"))
    return {
        "loss": config["loss"]["_target_"].rpartition(".")[2],
        "split": f"{config['split']['val_fraction']:g}",
        "reg": f"{reg['penalty']['_target_'].rpartition('.')[2]}({strengths})" if reg.get("penalty") else "none",
        "batch": str(config["batch"]["size"]),
    }


def label(config: Config) -> str:
    """One line that names a run for a person: loss=focal split=0.6 reg=none batch=15."""
    return " ".join(f"{key}={value}" for key, value in axes(config).items())


def differences(configs: Sequence[Config]) -> list[str]:
    """A word for each configuration on where it departs from the others, beyond loss, split, reg and batch."""
    named = (*BOOKKEEPING, "loss", "reg", "batch", "split.val_fraction", "data.reader")
    flat = [_flat(config, without=named) for config in configs]
    varying = sorted({key for one in flat for key in one if any(one.get(key) != other.get(key) for other in flat)})
    return [", ".join(f"{key}={one.get(key)}" for key in varying) for one in flat]


def is_done(folder: Path, run: str) -> bool:
    """Whether the folder holds the whole result of this run."""
    try:
        return read_result(folder)["run_id"] == run
    except InputError:
        return False


def begin(folder: Path) -> None:
    """Make a run's folder ready to start from nothing. What a run that was cut off left there is moved aside, not deleted."""
    folder.mkdir(parents=True, exist_ok=True)
    left = [path for path in folder.iterdir() if path.name in (HISTORY, SLICES, PICTURES, RESULT, CHECKPOINTS)]
    if left:
        aside = _free(folder, "interrupted")
        aside.mkdir()
        for path in left:
            path.rename(aside / path.name)


def append_history(folder: Path, row: Mapping[str, float]) -> None:
    """Add an epoch's row to history.csv; its keys are HISTORY_COLUMNS."""
    if set(row) != set(HISTORY_COLUMNS):
        raise ValueError(f"history row with {sorted(set(row) ^ set(HISTORY_COLUMNS))} missing or unknown")
    path = folder / HISTORY
    text = _csv(HISTORY_COLUMNS, [row], header=not path.exists())
    with path.open("a", encoding="utf-8", newline="") as file:
        file.write(text)


def write(folder: Path, *, result: Mapping[str, Any], slices: Iterable[Mapping[str, Any]], pictures: Mapping[str, Any]) -> None:
    """Write what a finished run leaves: slices.csv and pictures.npz, then, last of all, result.json (NaN as null)."""
    write_atomically(folder / SLICES, _csv(SLICE_COLUMNS, slices).encode())
    packed = io.BytesIO()
    np.savez_compressed(packed, **pictures)
    write_atomically(folder / PICTURES, packed.getvalue())
    write_atomically(folder / RESULT, (json.dumps(_without_nan(result), indent=2) + "\n").encode())


def read_result(folder: Path) -> dict[str, Any]:
    """result.json of a finished run. Raises: InputError if it is not there or not whole."""
    return _read_json(folder / RESULT, "The run has not finished; start its command again.")


def read_history(folder: Path) -> dict[str, list[float]]:
    """history.csv by column, as far as it got."""
    rows = _read_csv(folder / HISTORY)
    return {column: [float(row[column]) for row in rows] for column in HISTORY_COLUMNS}


def read_slices(folder: Path) -> list[dict[str, str]]:
    """slices.csv, a dict per row."""
    return _read_csv(folder / SLICES)


def read_pictures(folder: Path) -> dict[str, np.ndarray]:
    """pictures.npz: {best,median,worst}_{image,true,pred,frame,patient}."""
    with np.load(folder / PICTURES, allow_pickle=False) as file:
        return dict(file)


def write_sweep(folder: Path, *, command: list[str], runs: list[dict[str, Any]]) -> None:
    """sweep.json: which command asked for which runs. An earlier one that asked for others keeps a name of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SWEEP
    if path.exists():
        earlier = _read_json(path, "Move it elsewhere.")
        if {run["run_id"] for run in earlier["runs"]} != {run["run_id"] for run in runs}:
            path.rename(_free(folder, path.stem, path.suffix))
    about = {"command": command, "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "runs": runs}
    write_atomically(path, (json.dumps(about, indent=2) + "\n").encode())


def read_sweep(folder: Path) -> dict[str, Any]:
    """sweep.json. Raises: InputError if the folder is none of a sweep."""
    return _read_json(folder / SWEEP, "sweep= names the folder of a sweep, like sweep=outputs/grid.")


def write_atomically(path: Path, content: bytes) -> None:
    """The file appears whole or not at all, whatever happens in between."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well and vanishes when it does not."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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


def _without_nan(value: Any) -> Any:
    """JSON knows no NaN."""
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


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], *, header: bool = True) -> str:
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


def _read_json(path: Path, cure: str) -> dict[str, Any]:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). {cure}") from error
    except ValueError as error:
        raise InputError(f"{path}: damaged ({error}). {cure}") from error
