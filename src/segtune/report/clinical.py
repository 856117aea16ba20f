"""Overlap, distances in mm and volumes in ml of a configuration, from cases.csv and patients.csv of its runs.

The statistical unit is the patient. Values are averaged over the cases of a patient in each run, then over the runs that scored
the patient, and then over patients. So each patient counts once, even if several runs scored it. None of these values is
tested, because configurations are judged on Dice over patients only.
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
from segtune.runs.words import count

Row = dict[str, Any]

OVERLAPS = ("dice", "iou", "sensitivity", "precision")
LENGTHS = ("hd_mm", "hd95_mm", "assd_mm")
DISTANCES = (*LENGTHS, "surface_dice")  # metrics that need the distances of pixels and slices
METRICS = (*OVERLAPS, *DISTANCES)
VOLUMES = {"volume_ED_ml": "ED", "volume_ES_ml": "ES"}  # quantity -> phase of the cases that have it
OF_PATIENTS = ("stroke_volume_ml", "ejection_fraction")  # quantities in patients.csv
QUANTITIES = (*VOLUMES, *OF_PATIENTS)
COUNTS = ("n_one_empty", "n_both_empty")
LEAST_FOR_LIMITS = 6  # patients; limits of agreement from fewer are wider than anything they could tell


def column(quantity: str, what: str) -> str:
    """The name of the column that contains the expert's value (`true`) or the predicted value (`pred`) of a quantity.

    For example, the quantity `volume_ED_ml` and `true` give the column `volume_ED_true_ml`.
    """
    stem = quantity.removesuffix("_ml")
    return f"{stem}_{what}{quantity[len(stem) :]}"


# One run


class Case(NamedTuple):
    """The identity of one case.

    `volume` distinguishes several volumes of a patient at one phase. If there is only one volume, it is empty.
    """

    patient: str
    phase: str
    volume: str


def case_of(row: Mapping[str, Any]) -> Case:
    """The case of a row of slices.csv or cases.csv. Files of older versions have no column `volume`."""
    return Case(row["patient"], row.get("phase") or "", row.get("volume") or "")


@dataclass(frozen=True, eq=False)
class Scored:
    """The scores of a run after its last epoch.

    Attributes:
        tolerance_mm: the tolerance of surface Dice.
        cases: patient -> the patient's rows of cases.csv.
        patients: patient -> the patient's row of patients.csv.
    """

    tolerance_mm: float
    cases: Mapping[str, list[Row]]
    patients: Mapping[str, Row]

    def renamed(self, label: Mapping[str, str]) -> "Scored":
        """The same scores with other patient labels. Args: label: old label -> new label."""
        cases = {label[patient]: of for patient, of in self.cases.items()}
        return Scored(self.tolerance_mm, cases, {label[patient]: of for patient, of in self.patients.items()})


def read(folder: Path, result: Mapping[str, Any], slices: Counter[Case]) -> Scored | None:
    """Read cases.csv and patients.csv of a finished run.

    The result is None for runs of older versions, which did not write these files.

    Args: slices: the number of slices of each case in slices.csv.
    Raises: InputError if the files have impossible values or contradict each other. Values of a wrong type may raise other
        exceptions.
    """
    tolerance_mm, case_file, patient_file = result.get("tolerance_mm"), folder / layout.CASES, folder / layout.PATIENTS
    if tolerance_mm is None and not case_file.exists() and not patient_file.exists():
        return None
    if isinstance(tolerance_mm, bool) or not isinstance(tolerance_mm, int | float) or not 0 <= tolerance_mm < math.inf:
        raise InputError(f"{folder / layout.RESULT}: tolerance_mm={tolerance_mm!r} is not a distance in mm.")
    cases = _read_cases(case_file, slices)
    return Scored(float(tolerance_mm), cases, _read_patients(patient_file, cases))


def _read_cases(path: Path, slices: Counter[Case]) -> dict[str, list[Row]]:
    """Read the cases of each patient. Raises: InputError if they contradict slices.csv or each other."""
    rows = _last(path, (*METRICS, *(column("volume_ml", side) for side in ("true", "pred"))))
    seen = Counter({case_of(row): int(row["n_slices"]) for row in rows})
    if seen != slices or len(seen) != len(rows):
        raise InputError(f"{path}: the cases or their numbers of slices do not agree with {layout.SLICES}.")
    if any(math.isnan(row["dice"]) != (row["n_both_empty"] == 1) or row["n_one_empty"] * row["dice"] > 0 for row in rows):
        raise InputError(f"{path}: the Dice of a case contradicts the number of its empty masks.")
    cases: dict[str, list[Row]] = {}
    for row in rows:
        cases.setdefault(row["patient"], []).append(row)
    return cases


def _read_patients(path: Path, cases: Mapping[str, list[Row]]) -> dict[str, Row]:
    """Read the row of each patient. Raises: InputError if a row contradicts the patient's cases."""
    rows = _last(path, (*METRICS, *(column(name, side) for name in OF_PATIENTS for side in ("true", "pred"))))
    patients = {row["patient"]: row for row in rows}
    if patients.keys() != cases.keys() or len(patients) != len(rows):
        raise InputError(f"{path}: the patients do not agree with those in {layout.SLICES}.")
    for name, row in patients.items():
        expected = {"dice": _mean(case["dice"] for case in cases[name])}
        expected |= {key: sum(case[key] for case in cases[name]) for key in COUNTS}
        if any(abs(row[key] - value) > 1e-9 or math.isnan(row[key]) != math.isnan(value) for key, value in expected.items()):
            raise InputError(f"{path}: the row of patient {name} contradicts {layout.CASES}.")
    return patients


def _last(path: Path, columns: Sequence[str]) -> list[Row]:
    """Read the rows of the last epoch. The values in `columns` and in COUNTS are converted to numbers.

    Raises: InputError for impossible values.
    """
    rows: list[Row] = [row for row in read_table(path.parent, path.name) if row["which"] == "last"]
    columns = (*columns, *COUNTS)
    if any(None in row.values() for row in rows):
        raise InputError(f"{path}: a line is cut off.")
    values = np.array([[float(row[key]) for key in columns] for row in rows]).reshape(-1, len(columns))
    wrong = _impossible({key: values[:, i] for i, key in enumerate(columns)})
    if wrong.any():
        raise InputError(f"{path}: patient {rows[int(wrong.argmax())]['patient']} has an impossible value.")
    return [row | dict(zip(columns, numbers, strict=True)) for row, numbers in zip(rows, values.tolist(), strict=True)]


def _impossible(at: Mapping[str, np.ndarray]) -> np.ndarray:
    """Find impossible values. Args: at: column -> values (n,). Returns: (n,) bool, True for rows with an impossible value."""
    wrong: np.ndarray = np.any([np.isinf(value) for value in at.values()], axis=0)
    for key, value in at.items():
        if key in COUNTS:
            wrong |= ~(value >= 0)
        elif key in LENGTHS or key.startswith("volume"):
            wrong |= value < 0
        elif key in METRICS:
            wrong |= (value < 0) | (value > 1)
    for group in (OVERLAPS, DISTANCES):  # in a row, either all metrics of a group are defined or none
        wrong |= np.any([np.isnan(at[key]) != np.isnan(at[group[0]]) for key in group], axis=0)
    return wrong


def _mean(values: Iterable[float]) -> float:
    """The mean of the defined values; NaN if there is none."""
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def _sd(values: Sequence[float]) -> float:
    """The sample sd (with n - 1); NaN for fewer than two values. (statistics.stdev is exact, but takes 20 times as long.)"""
    mean = _mean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)) if len(values) > 1 else math.nan


# One configuration


def patient_rows(runs: Sequence[Scored]) -> list[Row]:
    """Table rows, one for each patient that these runs scored.

    A row contains means over runs, and counts over the cases of all runs. Columns: *_pred_sd: sd between runs.
    surface_dice: NaN if the runs have different tolerances. Counts: see _count_cases.
    """
    mixed = len({run.tolerance_mm for run in runs}) > 1
    found = []
    for name in sorted({name for run in runs for name in run.patients}):
        mine = [run.patients[name] for run in runs if name in run.patients]
        row: Row = {"patient": name, "n_runs": len(mine)} | {key: _mean(of[key] for of in mine) for key in METRICS}
        if mixed:
            row["surface_dice"] = math.nan
        for quantity, phase in VOLUMES.items():
            of_runs = [_volume(run.cases.get(name, ()), phase) for run in runs]
            row |= _over_runs(quantity, of_runs, "volume_ml")
        for quantity in OF_PATIENTS:
            row |= _over_runs(quantity, mine, quantity)
        found.append(row | _count_cases([case for run in runs for case in run.cases.get(name, ())], len(mine)))
    return found


def _over_runs(quantity: str, rows: Sequence[Row], source: str) -> Row:
    """The expert's value, and the mean and sd of the predicted value over runs.

    Args: source: the quantity's name in the rows.
    """
    predicted = [value for row in rows if not math.isnan(value := row[column(source, "pred")])]
    return {
        column(quantity, "true"): _mean(row[column(source, "true")] for row in rows),
        column(quantity, "pred"): _mean(predicted),
        column(quantity, "pred_sd"): _sd(predicted),
    }


def _count_cases(cases: Sequence[Row], n_runs: int) -> Row:
    """Counts over a patient's cases in all runs.

    Columns: n_one_empty: number of cases with one empty mask. n_both_empty: number of cases with two empty masks.
    n_undefined: number of cases without distances, because both masks are empty or the geometry is unknown.
    n_one_empty_mm: number of cases with one empty mask for which distances are defined. one_empty: the cases with one
    empty mask, in words.
    """
    with_distances = [case for case in cases if not math.isnan(case["hd_mm"])]
    empty = Counter(case_of(case) for case in cases if case["n_one_empty"])
    words = [
        f"{', '.join(filter(None, names)) or 'a case'} in {n} of {count(n_runs, 'run')}" for (_, *names), n in empty.items()
    ]
    return {
        "n_cases": len(cases),
        **{key: int(sum(case[key] for case in cases)) for key in COUNTS},
        "n_undefined": len(cases) - len(with_distances),
        "n_one_empty_mm": sum(case["n_one_empty"] > 0 for case in with_distances),
        "one_empty": "; ".join(words),
    }


def _volume(cases: Sequence[Row], phase: str) -> Row:
    """A patient's volume at a phase in one run. It is the mean over visits, because each patient counts once."""
    sides = [column("volume_ml", side) for side in ("true", "pred")]
    return {side: _mean(case[side] for case in cases if case["phase"] == phase) for side in sides}


def metric_rows(patients: Sequence[Row], runs: Sequence[Scored]) -> list[Row]:
    """Table rows, one for each of METRICS: the mean over patients, and counts over the cases of all runs.

    Columns: n_patients: number of patients with a defined value. n_one_empty: number of cases that get the worst value.
    n_undefined: number of cases that are left out.
    """
    tolerances = sorted({run.tolerance_mm for run in runs})
    found = []
    for name in METRICS:
        mixed = name == "surface_dice" and len(tolerances) > 1
        one_empty, undefined = ("n_one_empty_mm", "n_undefined") if name in DISTANCES else COUNTS
        found.append(
            {
                "metric": name,
                "mean": _mean(row[name] for row in patients),
                "n_patients": sum(not math.isnan(row[name]) for row in patients),
                "n_cases": sum(row["n_cases"] for row in patients),
                "n_one_empty": 0 if mixed else sum(row[one_empty] for row in patients),
                "n_undefined": sum(row["n_cases" if mixed else undefined] for row in patients),
                "n_runs": len(runs),
                "tolerance_mm": ", ".join(f"{value:g}" for value in tolerances) if name == "surface_dice" else "",
            }
        )
    return found


def agreement_rows(patients: Sequence[Row]) -> list[Row]:
    """Table rows, one for each of QUANTITIES: bias and limits of agreement (Bland and Altman) from one value per patient.

    Values are in ml, except for the ejection fraction. Columns: *_low, *_high: 95 % interval of each limit. sd_runs: sd
    of the predicted value between runs, as root mean square over patients. n_undefined: number of patients that lack
    the expert's or the predicted value.
    """
    found = []
    for quantity in QUANTITIES:
        true, predicted = ([row[column(quantity, side)] for row in patients] for side in ("true", "pred"))
        a = volumes.bland_altman(predicted, true)
        spread = [row[column(quantity, "pred_sd")] ** 2 for row in patients]
        (below, above), sd = _limit_factors(a.n), a.sd
        known = a.n >= LEAST_FOR_LIMITS
        found.append(
            {
                "quantity": quantity,
                "bias": a.bias,
                "sd": sd,
                "lower": a.lower if known else math.nan,
                "lower_low": a.bias - above * sd,
                "lower_high": a.bias - below * sd,
                "upper": a.upper if known else math.nan,
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
    """The exact 95 % interval of a limit of agreement, for n normally distributed errors.

    The ends of the interval are given as distances from the bias, in units of the sd. NaN for n < LEAST_FOR_LIMITS.

    The estimated limit, mean + 1.96 sd, has a noncentral t distribution. Source: Carkeet 2015,
    doi:10.1097/OPX.0000000000000513.
    """
    if n < LEAST_FOR_LIMITS:
        return math.nan, math.nan
    from scipy.stats import nct

    low, high = (float(nct.ppf(q, n - 1, 1.96 * math.sqrt(n))) / math.sqrt(n) for q in (0.025, 0.975))
    return low, high
