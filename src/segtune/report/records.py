"""A sweep's results as one tidy table: a Record for each finished run, cells of replicates, and the axes that vary."""

import json
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from segtune.errors import InputError
from segtune.report import clinical, stats
from segtune.report.stats import UNLIKE, Block, Pooled, Scores, epochs_to, roughness
from segtune.runs import identity, layout
from segtune.runs.result import read_result, verify_files, why_not_done
from segtune.runs.state import state_of
from segtune.runs.sweep import read_sweep
from segtune.runs.tables import read_history, read_table

AXES = ("loss", "split", "reg", "batch")  # the scientific ones, in the order in which they are shown
FAMILY = {"bce_logdice": "bce_dice"}  # both forms are the study's "BCE + Dice"


@dataclass(frozen=True, eq=False)
class Record:
    """One finished run. patients: each validation patient's mean Dice over its slices, after the last epoch.

    levels: axis -> what the run is on it, of the axes that vary in the sweep. n_undefined: slices without a defined Dice
    (neither mask has a pixel), which no mean counts. facts: what the study's claims go by. scored: cases and patients in mm and
    ml; None if the run is of a version that recorded none.
    """

    run_id: str
    folder: Path
    overrides: tuple[str, ...]
    result: Mapping[str, Any]
    history: Mapping[str, list[float]]
    patients: Mapping[str, float]
    n_slices: int
    n_undefined: int
    levels: Mapping[str, str]
    facts: "Facts"
    scored: clinical.Scored | None

    @property
    def config(self) -> Mapping[str, Any]:
        return self.result["config"]

    @property
    def fingerprint(self) -> str:
        return str(self.result["data"].get("fingerprint"))

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def fold(self) -> int | None:
        return self.config["split"].get("fold")

    @property
    def dice(self) -> float:
        """The mean over validation patients; NaN if none has a defined Dice."""
        return statistics.fmean(self.patients.values()) if self.patients else math.nan

    @property
    def gap(self) -> float:
        return self.history["train_dice"][-1] - self.history["val_dice"][-1]

    @property
    def epochs_to_90(self) -> float:
        """The first epoch at 90 % of the run's own best validation Dice; NaN if that is 0 or undefined."""
        curve = np.nan_to_num(np.asarray(self.history["val_dice"]))
        return epochs_to(curve, 0.9 * curve.max()) if curve.max() > 0 else math.nan

    @property
    def seconds(self) -> float:
        return float(self.result["seconds"])

    @property
    def ratio(self) -> float:
        """Weighted penalty / data loss, means over the first epoch; NaN without a penalty."""
        total, data = self.history["train_loss"][0], self.history["train_data_loss"][0]
        return (total - data) / data if data > 0 and total != data else math.nan

    @property
    def weight_norm(self) -> float:
        """sqrt(sum w^2) over the kernels after the last epoch; NaN where the run has not recorded it."""
        squares = (self.result.get("weights") or {}).get("l2")
        return math.sqrt(squares) if isinstance(squares, int | float) and squares >= 0 else math.nan

    def roughness(self, column: str) -> float:
        return roughness(self.history[column])


@dataclass(frozen=True)
class Facts:
    """A run on the study's axes. context: all else of its configuration but seed and fold; runs are compared within it.

    l1, l2: lambda1 and lambda2, 0 without a penalty, NaN with one of another kind.
    """

    loss: str
    by: str
    share: float | None
    l1: float
    l2: float
    batch: str
    epochs: int
    context: str


@dataclass(frozen=True, eq=False)
class Cell:
    """Runs that are alike but for seed and fold."""

    name: str
    records: tuple[Record, ...]
    pooled: Pooled = UNLIKE

    @property
    def first(self) -> Record:
        return self.records[0]

    @property
    def facts(self) -> Facts:
        return self.first.facts

    @property
    def levels(self) -> Mapping[str, str]:
        return self.first.levels

    @cached_property
    def scores(self) -> Scores:
        """The patients' Dice by fold, of the patients whose Dice is defined in each of its runs."""
        folds: dict[int | None, list[Record]] = defaultdict(list)
        for record in self.records:
            if record.patients:
                folds[record.fold].append(record)
        blocks, known = [], set[str]()
        for of in folds.values():
            patients = tuple(p for p in of[0].patients if p not in known and all(p in record.patients for record in of))
            known |= {*patients}
            if patients:
                blocks.append(Block(patients, np.array([[record.patients[p] for p in patients] for record in of])))
        return Scores(tuple(blocks), self.pooled)

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({record.seed for record in self.records}))

    @property
    def scored(self) -> list[clinical.Scored]:
        """Of the runs that have recorded it."""
        return [record.scored for record in self.records if record.scored]

    def by_seed(self, value: Callable[[Record], float]) -> np.ndarray:
        """Of what a run has one value of: its mean over folds, for each seed in order."""
        of_seed: dict[int, list[float]] = defaultdict(list)
        for record in self.records:
            of_seed[record.seed].append(value(record))
        return np.array([float(np.mean(of_seed[seed])) for seed in sorted(of_seed)])

    def mean_of(self, value: Callable[[Record], float]) -> float:
        """The mean over runs of what is defined of it; NaN if nothing is."""
        values = [v for record in self.records if math.isfinite(v := value(record))]
        return statistics.fmean(values) if values else math.nan


@dataclass(frozen=True, eq=False)
class Sweep:
    """What is on disk of one or several sweeps. left_out: damaged runs; states: of the runs that are not there."""

    folders: tuple[Path, ...]
    commands: tuple[str, ...]
    n_listed: int
    records: tuple[Record, ...]
    cells: tuple[Cell, ...]
    axes: tuple[str, ...]
    states: Mapping[str, int]
    failures: tuple[tuple[str, str], ...]
    left_out: tuple[tuple[str, str], ...]


def read(folders: Sequence[Path]) -> Sweep:
    """Every finished run of these sweeps, whatever state the rest is in.

    Raises: InputError if a folder is none of a sweep.
    """
    listed: dict[Path, tuple[str, ...]] = {}
    commands, known = [], set[str]()
    for folder in folders:
        about = read_sweep(folder)
        commands.append(" ".join(str(word) for word in about["command"] or []))
        for run in about["runs"]:
            if run["run_id"] in known:  # in several sweeps, or in a copy of one: it is one run all the same
                continue
            known.add(run["run_id"])
            overrides = run["overrides"] if isinstance(run["overrides"], list) else []
            listed.setdefault(folder.resolve().parent / "runs" / run["run_id"], tuple(str(one) for one in overrides))
    states: dict[str, int] = defaultdict(int)
    failures, left_out, found = [], [], []
    for place, overrides in tqdm(listed.items(), desc="reading", disable=None):
        try:
            state, status = state_of(place, place.name)
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
            state, status = "damaged", {}
        if state != "completed":
            states[state] += 1
            error = status.get("error")
            if state == "failed" and isinstance(error, Mapping):
                failures.append((place.name, str(error.get("message", "no message"))))
            if (place / layout.RESULT).exists():
                left_out.append((place.name, why_not_done(place, place.name) or "it was finished just now."))
            continue
        try:
            found.append(_raw(place, overrides))
        except (InputError, LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            why = str(error) if isinstance(error, InputError) else f"its files in {place} are damaged."
            left_out.append((place.name, why))
    found, repeated = _each_once(found)
    records, axes = _with_levels(_told_apart(found))
    return Sweep(
        tuple(folders),
        tuple(commands),
        len(listed),
        records,
        _cells(records),
        axes,
        dict(states),
        tuple(failures),
        (*left_out, *repeated),
    )


def _each_once(raw: Sequence[Record]) -> tuple[list[Record], list[tuple[str, str]]]:
    """The records without those that repeat another one: the same seed and fold of a cell, from the same data elsewhere."""
    first: dict[tuple[str, int, int | None], Record] = {}
    repeated = []
    for record in raw:
        one = first.setdefault((identity.cell_id(record.config, record.fingerprint), record.seed, record.fold), record)
        if one is not record:
            why = f"it is run {one.run_id} over again, with the same data from another folder, and no replicate of it."
            repeated.append((record.run_id, why))
    return list(first.values()), repeated


def _raw(folder: Path, overrides: tuple[str, ...]) -> Record:
    """Raises: InputError, or what a wrong type raises, for files that do not fit each other: half of a run is no run."""
    result, history = read_result(folder), read_history(folder)
    verify_files(folder, result, (layout.HISTORY, *layout.TABLES, layout.PICTURES))
    _well_formed(result, folder / layout.RESULT)
    if history["epoch"] != list(range(1, int(result["last"]["epoch"]) + 1)):
        raise InputError(f"{folder / layout.HISTORY}: has not the epochs 1 to {result['last']['epoch']} of {layout.RESULT}.")
    patients: dict[str, list[float]] = defaultdict(list)
    scored, n_undefined = Counter[clinical.Case](), 0
    path = folder / layout.SLICES
    for row in read_table(folder, layout.SLICES):
        if row["which"] != "last":
            continue
        dice = float(row["dice"] or "nan")
        if not 0 <= dice <= 1 and not math.isnan(dice):
            raise InputError(f"{path}: a Dice of {dice:g} cannot be.")
        scored[clinical.case_of(row)] += 1
        if math.isnan(dice):
            n_undefined += 1
        else:
            patients[row["patient"]].append(dice)
    val, n_images = result["data"]["patients"].get("val"), (result["data"].get("n_images") or {}).get("val")
    if (val and {case.patient for case in scored} != set(val)) or (n_images and scored.total() != n_images):
        raise InputError(f"{path}: has not the {n_images} slices of the patients that {layout.RESULT} says were scored.")
    means = {patient: statistics.fmean(patients[patient]) for patient in sorted(patients)}
    in_mm = clinical.read(folder, result, scored)
    facts, n_slices = _facts(result), scored.total()
    return Record(folder.name, folder, overrides, result, history, means, n_slices, n_undefined, {}, facts, in_mm)


def _well_formed(result: Mapping[str, Any], path: Path) -> None:
    """Raises: InputError for a result whose parts are not of the kind that the report goes by."""
    data = result["data"]
    kinds: list[tuple[Any, Any]] = [
        (result["config"]["seed"], int),
        (result["seconds"], int | float),
        (result["best"]["epoch"], int),
        (result["best"]["val_dice"], int | float | None),
        (result["last"]["epoch"], int),
        (data["patients"], Mapping),
        *((side, list) for side in data["patients"].values()),
        *((result.get(key), Mapping | None) for key in ("weights", "git")),
        *((result.get(key), Mapping | None) for key in ("versions", "machine", "peak_memory_mb", "calibration")),
        *((data.get(key), list | None) for key in ("leaks", "findings")),
        *((one, Mapping) for one in data.get("findings") or ()),
        *((one.get(key), str) for one in data.get("findings") or () for key in ("severity", "kind")),
        (data.get("n_images"), Mapping | None),
        (result["config"]["data"], Mapping),
    ]
    if not all(isinstance(value, kind) for value, kind in kinds):
        raise InputError(f"{path}: damaged (a value is not of its kind). Remove it and start the run's command again.")


def _told_apart(raw: Sequence[Record]) -> list[Record]:
    """Where runs have read different data, a patient's label says which: P01 of one set is not P01 of another."""
    prints = {record.fingerprint for record in raw}
    if len(prints) < 2:
        return list(raw)
    found = []
    for record in raw:
        known = {*record.patients, *(record.scored.patients if record.scored else ())}
        label = {patient: f"{patient} ({record.fingerprint[:6]})" for patient in known}
        patients = {label[patient]: dice for patient, dice in record.patients.items()}
        found.append(replace(record, patients=patients, scored=record.scored and record.scored.renamed(label)))
    return found


def _facts(result: Mapping[str, Any]) -> Facts:
    config = result["config"]
    l1, l2 = _strengths(config.get("reg") or {}, result)
    axes = identity.axes(config)
    without = ("loss", "reg", "batch", "split.val_fraction")
    others = {
        key: value
        for key, value in identity.flat(config, replicates=False).items()
        if not f"{key}.".startswith(tuple(f"{w}." for w in without))
    }
    others["fingerprint"] = (result.get("data") or {}).get("fingerprint")
    return Facts(
        loss=axes["loss"],
        by=config["split"]["by"],
        share=config["split"].get("val_fraction"),
        l1=l1,
        l2=l2,
        batch=axes["batch"],
        epochs=int(config["trainer"]["max_epochs"]),
        context=json.dumps(others, sort_keys=True),
    )


def _strengths(reg: Mapping[str, Any], result: Mapping[str, Any]) -> tuple[float, float]:
    """lambda1 and lambda2; NaN for a penalty of another kind, whose runs so count as penalised."""
    penalty = str((reg.get("penalty") or {}).get("_target_", ""))
    one = reg.get("lambda", 0.0)
    if one == "auto":
        one = (result.get("calibration") or {})["lambda"]
    known = {
        "": (0.0, 0.0),
        "segtune.regularizers.l1": (one, 0.0),
        "segtune.regularizers.l2": (0.0, one),
        "segtune.regularizers.l1l2": (reg.get("lambda_l1"), reg.get("lambda_l2")),
    }
    l1, l2 = known.get(penalty, (math.nan, math.nan))
    return float(l1), float(l2)


def _with_levels(raw: Sequence[Record]) -> tuple[tuple[Record, ...], tuple[str, ...]]:
    """The records with their levels: an axis is a group of the configuration in which they differ (beyond seed and fold)."""
    groups = list(
        dict.fromkeys([*AXES, *(str(key) for record in raw for key in record.config if key not in identity.BOOKKEEPING)])
    )
    labels: dict[str, list[str]] = {}
    for group in groups:
        of = [{group: _settings(group, record.config.get(group))} for record in raw]
        if group == "data":
            of = _with_fingerprints(of, raw)
        texts = [json.dumps(identity.flat(one), sort_keys=True) for one in of]
        distinct = dict(zip(texts, of, strict=True))
        if len(distinct) < 2:
            continue
        others = dict(zip(distinct, identity.differences(list(distinct.values())), strict=True))
        named = []
        for record, text in zip(raw, texts, strict=True):
            base, other = identity.axes(record.config).get(group, ""), others[text]
            other = ", ".join(word.removeprefix(f"{group}.").removeprefix("fingerprint=") for word in other.split(", "))
            named.append(" ".join(filter(None, [base, other])) or str(record.config.get(group)))
        labels[group] = _distinct(named, texts, group)
    found = []
    for i, record in enumerate(raw):
        levels = {group: named[i] for group, named in labels.items()}
        found.append(replace(record, levels=levels))
    return tuple(found), tuple(labels)


def _distinct(named: list[str], texts: list[str], group: str) -> list[str]:
    """Names that are the same for different settings get the settings that tell them apart, null among them."""
    behind: dict[str, set[str]] = defaultdict(set)
    for name, text in zip(named, texts, strict=True):
        behind[name].add(text)
    found = []
    for name, text in zip(named, texts, strict=True):
        flats = [json.loads(one) for one in behind[name]]
        varying = sorted({key for one in flats for key in one if any(one.get(key) != other.get(key) for other in flats)})
        said = ", ".join(f"{key.removeprefix(f'{group}.')}={json.loads(text).get(key, 'null')}" for key in varying)
        found.append(f"{name} {said}".strip())
    return found


def _settings(group: str, value: Any) -> Any:
    """A group's part of a configuration, less what tells replicates apart, and less where data lie."""
    without = (*identity.REPLICATE, *identity.PATHS)
    if not isinstance(value, Mapping):
        return None if group in without else value
    return {key: _settings(f"{group}.{key}", item) for key, item in value.items() if f"{group}.{key}" not in without}


def _with_fingerprints(of: Sequence[Mapping[str, Any]], raw: Sequence[Record]) -> list[dict[str, Any]]:
    """The settings of each run's data, with their fingerprint where data that differ have the same settings."""
    texts = [json.dumps(identity.flat(one), sort_keys=True) for one in of]
    if len({*zip(texts, (record.fingerprint for record in raw), strict=True)}) == len({*texts}):
        return [dict(one) for one in of]
    return [{"data": {**one["data"], "fingerprint": record.fingerprint[:6]}} for one, record in zip(of, raw, strict=True)]


def _cells(records: Sequence[Record]) -> tuple[Cell, ...]:
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[identity.cell_id(record.config, record.fingerprint)].append(record)
    several = len({record.fingerprint for record in records}) > 1
    cells = [
        Cell(
            (" ".join(f"{axis}={level}" for axis, level in of[0].levels.items()) or identity.label(of[0].config))
            + (f" of data {of[0].fingerprint[:6]}" if several and "data" not in of[0].levels else ""),
            tuple(sorted(of, key=lambda record: (record.seed, record.fold or 0))),
        )
        for of in groups.values()
    ]
    pooled = stats.pool([cell.scores for cell in cells])
    return tuple(replace(cell, pooled=pooled) for cell in cells)
