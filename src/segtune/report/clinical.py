"""Cells in millimetres and millilitres: what cases.csv and patients.csv of their runs say of overlap, distance and volume.

The unit is the patient: in each run the mean over its cases, then over the runs that scored it, then over patients. So a
patient counts once, in however many runs, and a cell's mean is the mean of its patients' rows. Nothing here is tested: Dice
over patients is the one endpoint that differences are declared on.
"""

import functools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segtune.errors import InputError
from segtune.metrics import volumes
from segtune.runs import layout
from segtune.runs.tables import read_table

Row = dict[str, Any]

OVERLAPS = ("dice", "iou", "sensitivity", "precision")
LENGTHS = ("hd_mm", "hd95_mm", "assd_mm")
DISTANCES = (*LENGTHS, "surface_dice")  # what needs to know how far apart pixels and slices are
METRICS = (*OVERLAPS, *DISTANCES)
VOLUMES = {"volume_ED_ml": "ED", "volume_ES_ml": "ES"}  # quantity: the phase of the cases whose volume it is
OF_PATIENTS = ("stroke_volume_ml", "ejection_fraction")  # quantities that patients.csv has
QUANTITIES = (*VOLUMES, *OF_PATIENTS)
COUNTS = ("n_one_empty", "n_both_empty")


def column(quantity: str, what: str) -> str:
    """The column of a quantity's expert's or predicted value: volume_ED_ml, true -> volume_ED_true_ml."""
    stem = quantity.removesuffix("_ml")
    return f"{stem}_{what}{quantity[len(stem) :]}"


# One run


class Case(NamedTuple):
    """One volume of a patient: what it is called beside the others. volume: empty where the phase alone tells."""

    patient: str
    phase: str
    volume: str


def case_of(row: Mapping[str, Any]) -> Case:
    """The case of a row of slices.csv or cases.csv; those of older versions have no column volume."""
    return Case(row["patient"], row.get("phase") or "", row.get("volume") or "")


@dataclass(frozen=True, eq=False)
class Scored:
    """What a run scored after its last epoch. tolerance_mm: of surface Dice. cases, patients: by the patient's label."""

    tolerance_mm: float
    cases: Mapping[str, list[Row]]
    patients: Mapping[str, Row]

    def renamed(self, label: Mapping[str, str]) -> "Scored":
        """With other labels: label: old -> new."""
        cases = {label[patient]: of for patient, of in self.cases.items()}
        return Scored(self.tolerance_mm, cases, {label[patient]: of for patient, of in self.patients.items()})


def read(folder: Path, result: Mapping[str, Any], slices: Counter[Case]) -> Scored | None:
    """cases.csv and patients.csv of a finished run; None if it is of a version that wrote neither.

    Args: slices: how many slices of each case slices.csv says were scored.
    Raises: InputError, or what a wrong type raises, if the files cannot be, or do not fit each other.
    """
    tolerance_mm, paths = result.get("tolerance_mm"), (folder / layout.CASES, folder / layout.PATIENTS)
    if tolerance_mm is None and not any(path.exists() for path in paths):
        return None
    if isinstance(tolerance_mm, bool) or not isinstance(tolerance_mm, int | float) or not 0 <= tolerance_mm < math.inf:
        raise InputError(f"{folder / layout.RESULT}: tolerance_mm={tolerance_mm!r} is no distance in mm.")
    case_file, patient_file = paths
    of_cases = _last(case_file, (*METRICS, *(column("volume_ml", side) for side in ("true", "pred"))))
    of_patients = _last(patient_file, (*METRICS, *(column(name, side) for name in OF_PATIENTS for side in ("true", "pred"))))
    seen = Counter({case_of(row): int(row["n_slices"]) for row in of_cases})
    if seen != slices or len(seen) != len(of_cases):
        raise InputError(
            f"{case_file}: has not each patient and phase (and volume) of {layout.SLICES} once, with as many slices."
        )
    if any(math.isnan(row["dice"]) != (row["n_both_empty"] == 1) or row["n_one_empty"] * row["dice"] > 0 for row in of_cases):
        raise InputError(f"{case_file}: a case's Dice and what it counts as empty do not fit each other.")
    cases: dict[str, list[Row]] = {}
    for row in of_cases:
        cases.setdefault(row["patient"], []).append(row)
    patients = {row["patient"]: row for row in of_patients}
    if patients.keys() != cases.keys() or len(patients) != len(of_patients):
        raise InputError(f"{patient_file}: has not each patient of {layout.SLICES} once.")
    for name, row in patients.items():
        expected = {"dice": _mean(case["dice"] for case in cases[name])}
        expected |= {key: sum(case[key] for case in cases[name]) for key in COUNTS}
        if any(abs(row[key] - value) > 1e-9 or math.isnan(row[key]) != math.isnan(value) for key, value in expected.items()):
            raise InputError(f"{patient_file}: what it says of patient {name} is not what {layout.CASES} says.")
    return Scored(float(tolerance_mm), cases, patients)


def _last(path: Path, columns: Sequence[str]) -> list[Row]:
    """The rows of the last epoch, with these columns and COUNTS as numbers. Raises: InputError for one that cannot be."""
    rows: list[Row] = [row for row in read_table(path.parent, path.name) if row["which"] == "last"]
    columns = (*columns, *COUNTS)
    if any(None in row.values() for row in rows):
        raise InputError(f"{path}: has a line that is cut off.")
    values = np.array([[float(row[key]) for key in columns] for row in rows]).reshape(-1, len(columns))
    at = {key: values[:, i] for i, key in enumerate(columns)}
    wrong = np.isinf(values).any(1)
    for key, value in at.items():
        if key in COUNTS:
            wrong |= ~(value >= 0)
        elif key in LENGTHS or key.startswith("volume"):
            wrong |= value < 0
        elif key in METRICS:
            wrong |= (value < 0) | (value > 1)
    for group in (OVERLAPS, DISTANCES):  # defined all or none
        wrong |= np.any([np.isnan(at[key]) != np.isnan(at[group[0]]) for key in group], axis=0)
    if wrong.any():
        raise InputError(f"{path}: has a number of patient {rows[int(wrong.argmax())]['patient']} that cannot be.")
    return [row | dict(zip(columns, numbers, strict=True)) for row, numbers in zip(rows, values.tolist(), strict=True)]


def _mean(values: Iterable[float]) -> float:
    """Over the defined ones; NaN if there is none."""
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def _sd(values: Sequence[float]) -> float:
    """With n - 1; NaN below two. (statistics.stdev is exact, and takes twenty times as long.)"""
    mean = _mean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)) if len(values) > 1 else math.nan


# One cell


def patient_rows(runs: Sequence[Scored]) -> list[Row]:
    """A row for each patient that these runs scored: means over the runs, and what its cases count in all of them.

    n_one_empty, n_both_empty, n_undefined: of n_cases. n_undefined: without distances, for empty masks or an unknown
    geometry; n_one_empty_mm: one empty, with distances. one_empty: where. *_sd: between runs. surface_dice is NaN where runs
    have another tolerance than others.
    """
    found = []
    for name in sorted({name for run in runs for name in run.patients}):
        mine = [run.patients[name] for run in runs if name in run.patients]
        cases = [case for run in runs for case in run.cases.get(name, ())]
        row: Row = {"patient": name, "n_runs": len(mine)} | {key: _mean(of[key] for of in mine) for key in METRICS}
        if len({run.tolerance_mm for run in runs}) > 1:
            row["surface_dice"] = math.nan
        for quantity in QUANTITIES:
            rows = [_volume(run.cases.get(name, ()), VOLUMES[quantity]) for run in runs] if quantity in VOLUMES else mine
            of = "volume_ml" if quantity in VOLUMES else quantity
            predicted = [value for one in rows if not math.isnan(value := one[column(of, "pred")])]
            row[column(quantity, "true")] = _mean(one[column(of, "true")] for one in rows)
            row[column(quantity, "pred")] = _mean(predicted)
            row[column(quantity, "pred_sd")] = _sd(predicted)
        undefined = [math.isnan(case["hd_mm"]) for case in cases]
        row |= {"n_cases": len(cases)} | {key: int(sum(case[key] for case in cases)) for key in COUNTS}
        row |= {
            "n_undefined": sum(undefined),
            "n_one_empty_mm": sum(
                case["n_one_empty"] > 0 for case, unknown in zip(cases, undefined, strict=True) if not unknown
            ),
            "one_empty": "; ".join(
                f"{', '.join(filter(None, called)) or 'a case'} in {n} of {len(mine)} run{'s' * (len(mine) != 1)}"
                for (_, *called), n in Counter(case_of(case) for case in cases if case["n_one_empty"]).items()
            ),
        }
        found.append(row)
    return found


def _volume(cases: Sequence[Row], phase: str) -> Row:
    """What one run says of a patient's volume at a phase: the mean over its visits, for a patient counts once."""
    sides = [column("volume_ml", side) for side in ("true", "pred")]
    return {side: _mean(case[side] for case in cases if case["phase"] == phase) for side in sides}


def metric_rows(patients: Sequence[Row], runs: Sequence[Scored]) -> list[Row]:
    """A row for each of METRICS: its mean over patients, and the cases of all runs behind it.

    n_patients: with a defined value. n_one_empty: in the mean, with the worst value; n_undefined: left out of it.
    """
    tolerances = sorted({run.tolerance_mm for run in runs})
    found = []
    for name in METRICS:
        one_empty, undefined = ("n_one_empty_mm", "n_undefined") if name in DISTANCES else COUNTS
        if mixed := name == "surface_dice" and len(tolerances) > 1:
            one_empty, undefined = "", "n_cases"
        found.append(
            {
                "metric": name,
                "mean": _mean(row[name] for row in patients),
                "n_patients": sum(not math.isnan(row[name]) for row in patients),
                "n_cases": sum(row["n_cases"] for row in patients),
                "n_one_empty": 0 if mixed else sum(row[one_empty] for row in patients),
                "n_undefined": sum(row[undefined] for row in patients),
                "n_runs": len(runs),
                "tolerance_mm": ", ".join(f"{value:g}" for value in tolerances) if name == "surface_dice" else "",
            }
        )
    return found


def agreement_rows(patients: Sequence[Row]) -> list[Row]:
    """A row for each of QUANTITIES, [ml] or a fraction: Bland and Altman's bias and limits, one value per patient.

    *_low, *_high: 95 % interval of each limit. sd_runs: between runs of one patient, its root mean square over patients.
    n_undefined: patients without both values.
    """
    found = []
    for quantity in QUANTITIES:
        true, predicted = ([row[column(quantity, side)] for row in patients] for side in ("true", "pred"))
        a = volumes.bland_altman(predicted, true)
        spread = [row[column(quantity, "pred_sd")] ** 2 for row in patients]
        (below, above), sd = _limit_factors(a.n), a.sd
        found.append(
            {
                "quantity": quantity,
                "bias": a.bias,
                "sd": sd,
                "lower": a.lower,
                "lower_low": a.bias - above * sd,
                "lower_high": a.bias - below * sd,
                "upper": a.upper,
                "upper_low": a.bias + below * sd,
                "upper_high": a.bias + above * sd,
                "mean_absolute_error": _mean(abs(p - t) for p, t in zip(predicted, true, strict=True)),
                "sd_runs": math.sqrt(_mean(spread)),
                "n_patients": a.n,
                "n_undefined": a.n_undefined,
            }
        )
    return found


@functools.cache
def _limit_factors(n: int) -> tuple[float, float]:
    """A limit's exact 95 % interval from n normal errors, in sd from the bias; NaN below two.

    (mean + 1.96 sd) has a noncentral t distribution. Source: Carkeet 2015, doi:10.1097/OPX.0000000000000513.
    """
    if n < 2:
        return math.nan, math.nan
    from scipy.stats import nct

    low, high = (float(nct.ppf(q, n - 1, 1.96 * math.sqrt(n))) / math.sqrt(n) for q in (0.025, 0.975))
    return low, high
