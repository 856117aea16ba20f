"""The records in result.json, status.json, sweep.json and the tables: their entries and types, and the version of the format.

In memory, a record is a dict, so entries of earlier and later versions are kept even if this version does not know
them. `check` validates a record that was read from a file. Version 0 means that the file has no entry `schema`, because
it was written before this entry existed. Entries that were added later are not required.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import msgspec

from segtune.errors import InputError

VERSION = 1  # of the format that this version writes


class File(TypedDict, total=False):
    """The size and the SHA-256 of a file that a run wrote."""

    bytes: int
    sha256: str


class Finding(TypedDict):
    """One problem in the data.

    The severity is "error" or "warning". The patient is None if the problem does not concern a single patient.
    """

    severity: str
    kind: str
    patient: NotRequired[str | None]
    message: NotRequired[str]


class Data(TypedDict, total=False):
    """The data of a run.

    patients: the patients in each of "train", "val" and "unused". n_images: the number of slices in "train" and in
    "val". leaks: the patients that are in both "train" and "val". pixel_mm: the smallest and the largest size of a
    training pixel [mm].
    """

    fingerprint: str
    patients: dict[str, list[str]]
    n_images: dict[str, int] | None
    leaks: list[str] | None
    n_leaks: int
    pixel_mm: list[float] | None
    findings: list[Finding] | None


class Config(TypedDict, total=False):
    """The parts of a composed configuration that reports, status and evaluation read. Other parts are not listed."""

    seed: int
    data: dict[str, Any]
    split: dict[str, Any]
    loss: dict[str, Any]
    reg: dict[str, Any] | None
    batch: dict[str, Any]
    model: dict[str, Any]
    trainer: dict[str, Any]


class Epoch(TypedDict, total=False):
    """The summary of one epoch: its row of history.csv, the mean Dice over patients, and all metrics.

    None means that a value is undefined.
    """

    epoch: int
    val_dice: float | None
    patient_dice: float | None
    metrics: dict[str, Any]


class Result(TypedDict, total=False):
    """The content of result.json.

    config: the composed configuration.
    options: the chosen option of each config group.
    label: the overrides that repeat the run.
    inputs: the content hashes of data and code.
    score: how predictions were processed before scoring (tta, largest_component), if the configuration requests any
        processing.
    expected: the score of this configuration in the sweep from which it was chosen (runs/expected.py).
    files: the size and hash of each file.
    sha256: the hash of all other entries of the record.
    """

    schema: int
    run_id: str
    cell_id: str
    config: Config
    options: dict[str, str]
    label: str
    inputs: dict[str, str]
    data: Data
    tolerance_mm: float | None
    expected: dict[str, Any]
    best: Epoch
    last: Epoch
    epochs_to_90: int | None
    calibration: dict[str, Any] | None
    score: dict[str, bool]
    weights: dict[str, float | None] | None
    seconds: float
    peak_memory_mb: dict[str, float | None] | None
    versions: dict[str, str | None] | None
    git: dict[str, Any] | None
    machine: dict[str, Any] | None
    attempts: list[dict[str, Any]]
    files: dict[str, File]
    sha256: str


class Failure(TypedDict, total=False):
    """The reason why a run failed.

    The kind is "input", "not finite", "out of memory", "killed", "taken over" or "error".
    """

    kind: str
    message: str
    traceback: str


class Status(TypedDict, total=False):
    """The content of status.json. state: one of state.STATES; attempt: an id of the process that owns the folder."""

    schema: int
    state: str
    since: str
    host: str
    pid: int
    job: str
    signal: str
    attempt: str
    run_id: str
    overrides: list[str]
    config: Config
    options: dict[str, str]
    label: str
    error: Failure


class SweepRun(TypedDict, total=False):
    """One run of a sweep.

    axes: the run's values of all keys that differ within the sweep, and its loss, split, reg and batch.

    replicate: the index (from 0) of the run's seed among the seeds of its configuration. In cross-validation, it is
    the index of the run's fold among the folds. A plan with several looks uses this index.
    """

    run_id: str
    folder: str
    overrides: list[str]
    options: dict[str, str]
    label: str
    axes: dict[str, str]
    replicate: int


class Sweep(TypedDict, total=False):
    """The content of sweep.json: the command of the sweep, the time of writing, its runs, and its plan.

    looks: the numbers of seeds (or folds) at which verdicts are made; if empty, verdicts are made once, when all runs are done.
    added: ids of runs that were added to configurations after an earlier sweep was judged. They do not affect verdicts.
    """

    schema: int
    command: list[str]
    written: str
    runs: list[SweepRun]
    looks: list[int]
    added: list[str]


REQUIRED: Mapping[type, tuple[str, ...]] = {
    Result: ("run_id",),
    Data: ("patients",),
    Epoch: ("epoch",),
    Status: ("state",),
    Sweep: ("runs",),
    SweepRun: ("run_id",),
}
OF_A_FINISHED_RUN = ("config", "data", "best", "last", "seconds")  # entries needed for scoring or reporting a run


class DamagedError(ValueError):
    """A record has a missing entry, an entry of the wrong type, or a later version.

    The message contains the name of the entry.
    """


def check(record: Mapping[str, Any], kind: type, *, needs: tuple[str, ...] = ()) -> None:
    """Check that a record has the entries of its type, with values of the right types.

    Args: needs: entries that the caller needs, in addition to those that every version has.
    Raises: DamagedError. The message begins with the name of the entry, as in "best.epoch: Expected `int`, got `str`".
    """
    version = record.get("schema", 0)
    if isinstance(version, int) and version > VERSION:
        raise DamagedError(
            f"schema: format {version} is from a later version of segtune; this version reads up to {VERSION}. Install "
            "the later version."
        )
    try:
        msgspec.convert(record, kind)
    except (msgspec.ValidationError, RecursionError, UnicodeError) as error:
        what, _, place = str(error).partition(" - at `$")
        raise DamagedError(f"{place.strip('.`') or 'the record'}: {what}") from None
    for name in (*REQUIRED.get(kind, ()), *needs):
        if name not in record:
            raise DamagedError(f"{name}: is missing")
    for name, part in (("data", Data), ("best", Epoch), ("last", Epoch)):
        if kind is Result and name in record:
            for entry in REQUIRED[part]:
                if name in needs and entry not in record[name]:
                    raise DamagedError(f"{name}.{entry}: is missing")


def of_known_types(record: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """Return the record without its entries of a wrong type. It is used for status.json, which is only informative."""
    types = kind.__annotations__
    return {name: value for name, value in record.items() if name not in types or _fits(value, types[name])}


def _fits(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError, UnicodeError):
        return False
    return True


def describe(path: Path, error: DamagedError, cure: str) -> InputError:
    """Return the error for a damaged file. Its message names the file and the entry, and says what to do (`cure`)."""
    return InputError(f"{path}: damaged ({error}). {cure}")
