"""Read sweeps from disk: check and read all finished runs, and record the state of the other runs."""

import json
import math
import shlex
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from segtune.errors import InputError
from segtune.report import axes, clinical
from segtune.report.records import Facts, Plan, Record, Sweep
from segtune.runs import budget, identity, layout
from segtune.runs.result import read_result, verify_files, why_not_done
from segtune.runs.schema import OF_A_FINISHED_RUN
from segtune.runs.state import state_of
from segtune.runs.sweep import read_sweep
from segtune.runs.tables import read_history, read_table

DAMAGE = (InputError, LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)


def read(folders: Sequence[Path]) -> Sweep:
    """Read all finished runs of these sweeps. Other runs may be unfinished or damaged.

    Raises: InputError if a folder is not the folder of a sweep.
    """
    listed: dict[str, _Listed] = {}
    commands, looks, added = [], set[tuple[int, ...]](), set[str]()
    for folder in folders:
        about = read_sweep(folder)
        commands.append(about["command"])
        looks.add(tuple(about.get("looks", ())))
        added |= {*about.get("added", ())}
        for run in about["runs"]:  # a run that several sweeps list counts once
            place = folder.resolve().parent / "runs" / run["run_id"]
            listed.setdefault(run["run_id"], _Listed(place, tuple(run["overrides"]), run.get("replicate", 0)))
    found = _Found()
    for one in tqdm(listed.values(), desc="reading", disable=None):
        found.add(one)
    waiting = tuple(listed[run].position for run, state in found.unfinished.items() if state != "failed")
    n_positions = 1 + max((one.position for one in listed.values()), default=0)
    once, repeated = _without_repeats(found.records)
    records, names = axes.with_levels(_with_distinct_patients(once))
    return Sweep(
        folders=tuple(folders),
        commands=tuple(shlex.join(words) for words in commands),
        studies=tuple(named_study(words) for words in commands),
        n_listed=len(listed),
        records=records,
        cells=axes.group(records),
        axes=names,
        unfinished=found.unfinished,
        failures=tuple(found.failures),
        left_out=(*found.left_out, *repeated),
        plan=Plan(looks.pop() if len(folders) == 1 else (), waiting, frozenset(added), n_positions),
    )


def named_study(command: Sequence[str]) -> str:
    """The value of `study=` in a sweep's command; empty if the command has no `study=`.

    For example, `study=claims` gives `claims`.
    """
    names = [word.removeprefix("study=").strip("'\"") for word in command if word.startswith("study=")]
    return names[-1] if names else ""


@dataclass(frozen=True)
class _Listed:
    """A run in the list of a sweep. `position` has the same meaning as in Record."""

    place: Path
    overrides: tuple[str, ...]
    position: int


@dataclass
class _Found:
    """The runs read so far. The attributes have the same meaning as in Sweep."""

    records: list[Record] = field(default_factory=list)
    unfinished: dict[str, str] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def add(self, listed: _Listed) -> None:
        """Read one run. A damaged run is added to left_out with the reason."""
        place = listed.place
        try:
            state, status = state_of(place, place.name)
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
            state, status = "damaged", {}
        if state != "completed":
            self._add_unfinished(place, state, status)
            return
        try:
            self.records.append(replace(read_run(place, listed.overrides), position=listed.position))
        except DAMAGE as error:
            why = str(error) if isinstance(error, InputError) else f"its files in {place} are damaged."
            self.left_out.append((place.name, why))

    def _add_unfinished(self, place: Path, state: str, status: Mapping[str, Any]) -> None:
        self.unfinished[place.name] = state
        error = status.get("error")
        if state == "failed" and isinstance(error, Mapping):
            self.failures.append((place.name, str(error.get("message", "no message"))))
        if (place / layout.RESULT).exists():
            why = why_not_done(place, place.name) or "it finished while the report was read. Start the report again."
            self.left_out.append((place.name, why))


def _without_repeats(records: Sequence[Record]) -> tuple[list[Record], list[tuple[str, str]]]:
    """Remove repeated runs.

    A run is repeated if a run in another folder has the same configuration, seed, fold and data.

    Returns: the remaining runs, and (run id, reason) of each repeated run.
    """
    first: dict[tuple[str, int, int | None], Record] = {}
    repeated = []
    for record in records:
        one = first.setdefault((identity.cell_id(record.config, record.fingerprint), record.seed, record.fold), record)
        if one is not record:
            why = f"it repeats run {one.run_id} on the same data in another folder, so it is not another replicate."
            repeated.append((record.run_id, why))
    return list(first.values()), repeated


def read_run(folder: Path, overrides: tuple[str, ...]) -> Record:
    """Read one finished run.

    Raises: InputError if its files are damaged or contradict each other. Values of a wrong type may raise any other
        exception listed in DAMAGE.
    """
    result, history = read_result(folder, needs=OF_A_FINISHED_RUN), read_history(folder)
    verify_files(folder, result, (layout.HISTORY, *layout.TABLES, layout.PICTURES))
    if history["epoch"] != list(range(1, int(result["last"]["epoch"]) + 1)):
        raise InputError(
            f"{folder / layout.HISTORY}: the file must contain the epochs 1 to {result['last']['epoch']}, as required "
            f"by {layout.RESULT}."
        )
    slices = _read_slices(folder, result)
    return Record(
        run_id=folder.name,
        folder=folder,
        overrides=overrides,
        result=result,
        history=history,
        patients=slices.means(),
        n_slices=slices.cases.total(),
        n_undefined=slices.n_undefined,
        cases=slices.cases,
        levels={},
        facts=facts_of(result),
        scored=clinical.read(folder, result, slices.cases),
    )


@dataclass
class _Slices:
    """The content of slices.csv for the last epoch.

    Attributes:
        cases: number of slices of each case.
        dice: patient -> defined Dice values of the patient's slices.
        n_undefined: number of slices without a defined Dice.
    """

    cases: Counter[clinical.Case]
    dice: dict[str, list[float]]
    n_undefined: int

    def means(self) -> dict[str, float]:
        return {patient: statistics.fmean(self.dice[patient]) for patient in sorted(self.dice)}


def _read_slices(folder: Path, result: Mapping[str, Any]) -> _Slices:
    """Read slices.csv.

    Raises: InputError if a Dice is impossible, or if the file does not contain exactly the slices of the validation
    patients.
    """
    path, found = folder / layout.SLICES, _Slices(Counter(), defaultdict(list), 0)
    for row in read_table(folder, layout.SLICES):
        if row["which"] != "last":
            continue
        dice = float(row["dice"] or "nan")
        if not 0 <= dice <= 1 and not math.isnan(dice):
            raise InputError(f"{path}: a Dice of {dice:g} is not between 0 and 1.")
        found.cases[clinical.case_of(row)] += 1
        if math.isnan(dice):
            found.n_undefined += 1
        else:
            found.dice[row["patient"]].append(dice)
    val, n_images = result["data"]["patients"].get("val"), (result["data"].get("n_images") or {}).get("val")
    wrong_patients = val and {case.patient for case in found.cases} != set(val)
    if wrong_patients or (n_images and found.cases.total() != n_images):
        raise InputError(
            f"{path}: its slices must be the {n_images} slices of the validation patients that {layout.RESULT} lists."
        )
    return found


def _with_distinct_patients(raw: Sequence[Record]) -> list[Record]:
    """Add the data's fingerprint to the patients' labels if the runs use different data sets.

    This is needed because the same label, such as P01, means different patients in different data sets.
    """
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


def facts_of(result: Mapping[str, Any]) -> Facts:
    """The scientific settings of a run. Args: result: the content of its result file."""
    config = result["config"]
    l1, l2 = _lambdas(config.get("reg") or {}, result)
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
        epochs=budget.n_epochs(config["trainer"]),
        context=json.dumps(others, sort_keys=True),
    )


def _lambdas(reg: Mapping[str, Any], result: Mapping[str, Any]) -> tuple[float, float]:
    """The lambdas of L1 and L2. They are NaN for other kinds of penalty, so that such runs do not count as unpenalised."""
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
