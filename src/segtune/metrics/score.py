"""Compute the scores of predicted masks per slice, per case (the slices of one volume of a patient) and per patient.

Rule for empty masks: if both masks are empty, the score is undefined (NaN). Undefined scores are left out of means, and
their number is reported. If exactly one mask is empty, the score is the worst possible value: 0 for an overlap, the
diagonal of the image for a distance. A model that predicts nothing therefore gets the worst score, and not an undefined
one, wherever the structure is present.

Distances and volumes of a case need its geometry. If the geometry is unknown, they are NaN and the column `undefined` gives
the reason.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segtune.metrics import distances, overlap, volumes

Row = dict[str, Any]

OVERLAPS = ("dice", "iou", "sensitivity", "precision")
TOLERANCE_MM = 2.0  # default tolerance of surface Dice; one to three pixels in cardiac MRI
DISTANCES = ("hd_mm", "hd95_mm", "assd_mm", "surface_dice")


@dataclass(frozen=True, eq=False)
class Pair:
    """The predicted and the true mask of a slice, and the position of the slice.

    The fields that are not described here have the same meaning as in data.slices.Slice.

    pred, true: (H, W) bool, on a grid with pixels of size spacing_mm.
    """

    pred: NDArray[np.bool_]
    true: NDArray[np.bool_]
    patient: str
    phase: str | None
    slice_index: int
    spacing_mm: tuple[float, float]
    gap_mm: float | None
    n_cut: int = 0
    volume: str = ""

    @classmethod
    def of(cls, item: Any, pred: NDArray[np.bool_], true: NDArray[np.bool_]) -> "Pair":
        """Create a Pair from a data.slices.Slice and its two masks."""
        place = (item.patient, item.phase, item.slice_index, item.spacing_mm, item.gap_mm)
        return cls(pred, true, *place, n_cut=item.n_cut, volume=item.volume)

    def __post_init__(self) -> None:
        if not (self.pred.dtype == self.true.dtype == bool and self.pred.shape == self.true.shape):
            found = [f"{mask.dtype} {mask.shape}" for mask in (self.pred, self.true)]
            raise ValueError(f"masks must be bool and of the same shape, got {found[0]} and {found[1]}.")


def score_slice(pair: Pair, *, tolerance_mm: float) -> Row:
    """Compute the scores of one slice in 2-D.

    The scores are OVERLAPS, DISTANCES and pixel counts. n_one_empty and n_both_empty are 0 or 1.
    """
    about = {"patient": pair.patient, "phase": pair.phase, "volume": pair.volume, "slice_index": pair.slice_index}
    c = _counted([pair])
    return {**about, **_overlaps(c), **_distances(pair.pred, pair.true, pair.spacing_mm, tolerance_mm)}


def score_case(pairs: Sequence[Pair], *, tolerance_mm: float) -> Row:
    """Compute the scores of one case in 3-D.

    These are the scores of `score_slice`, the predicted and the true volume [ml], and the volume error [ml].

    Args: pairs: all slices of one volume of a patient, in any order. Slices outside the given range count as empty.

    Overlaps need no geometry. Distances and volumes need consecutive slices with a known distance on the same grid, because a
    missing slice would be a gap in both masks. Otherwise the distances and volumes are NaN and `undefined` gives the
    reason. A case with one slice gets its distances in 2-D and no volume. If a crop has removed part of the true mask,
    the scores describe the remaining part, and the volume is NaN.
    """
    pairs = sorted(pairs, key=lambda pair: pair.slice_index)
    first, c = pairs[0], _counted(pairs)
    why = volumes.why_undefined([volumes.Disc(p.slice_index, p.true.shape, p.spacing_mm, p.gap_mm) for p in pairs])
    about = {"patient": first.patient, "phase": first.phase, "volume": first.volume}
    row = {**about, "n_slices": len(pairs), **_overlaps(c)}
    if len(pairs) == 1:
        row |= _distances(first.pred, first.true, first.spacing_mm, tolerance_mm)
    elif why:
        row |= dict.fromkeys(DISTANCES, math.nan)
    else:
        assert first.gap_mm is not None
        pred, true = np.stack([pair.pred for pair in pairs]), np.stack([pair.true for pair in pairs])
        row |= _distances(pred, true, (first.gap_mm, *first.spacing_mm), tolerance_mm)
    if not why and any(pair.n_cut for pair in pairs):
        why = "data.larger=crop cuts the expert's structure"
    volume = {
        side: math.nan if why else volumes.volume_ml([int(n)], spacing_mm=first.spacing_mm, gap_mm=first.gap_mm or math.nan)
        for side, n in (("true", c.n_true), ("pred", c.n_pred))
    }
    return row | _with_error("volume", "_ml", volume["true"], volume["pred"]) | {"undefined": why}


def score_patient(cases: Sequence[Row]) -> Row:
    """Compute the scores of one patient from the rows of its cases (`score_case`).

    OVERLAPS and DISTANCES are means over the cases for which they are defined. n_one_empty and n_both_empty count cases.
    Stroke volume [ml], ejection fraction and their errors need an ED case and an ES case for every visit. The volumes
    of these cases must be known, and the true EDV must be above 0. Otherwise the values are NaN and `undefined` gives
    the reason. If a patient has several visits, the values are means over visits. A predicted EDV of 0 gives an
    ejection fraction of 0, not NaN, so that a prediction that found nothing is not left out.
    """
    beats, why = _beats(cases)
    row: Row = {"patient": cases[0]["patient"], "n_cases": len(cases)}
    row |= {name: volumes.mean(cases, name).value for name in (*OVERLAPS, *DISTANCES)}
    row |= {name: sum(case[name] for case in cases) for name in ("n_one_empty", "n_both_empty")}
    strokes, fractions = [math.nan] * 2, [math.nan] * 2
    if not why:
        sides = [[[beat[phase][f"volume_{side}_ml"] for phase in ("ED", "ES")] for beat in beats] for side in ("true", "pred")]
        strokes = [statistics.fmean(volumes.stroke_volume_ml(*ml) for ml in side) for side in sides]
        fractions = [statistics.fmean(volumes.ejection_fraction(*ml) if ml[0] else 0.0 for ml in side) for side in sides]
    row |= _with_error("stroke_volume", "_ml", *strokes) | _with_error("ejection_fraction", "", *fractions)
    return row | {"undefined": why}


def _beats(cases: Sequence[Row]) -> tuple[list[Mapping[str, Row]], str]:
    """Return the ED and ES case of each visit, and the reason why the ejection fraction is undefined.

    If the ejection fraction is defined, the reason is "".
    """
    beats: dict[str, dict[str, Row]] = {}
    for case in cases:
        if case["phase"]:
            beats.setdefault(case["volume"], {})[case["phase"]] = case
    n = {phase: sum(phase in beat for beat in beats.values()) for phase in ("ED", "ES")}
    if absent := [phase for phase in n if not n[phase]]:
        return [], f"{absent[0]} is missing"
    why = ""
    for volume, beat in beats.items():
        at = f"{volume}, " if volume else ""
        absent = [phase for phase in n if phase not in beat]
        unknown = [f"{at}{phase}: {beat[phase]['undefined']}" for phase in n if phase in beat and beat[phase]["undefined"]]
        if absent:
            why = why or f"{n['ED']} ED and {n['ES']} ES, but {volume or 'one'} has no {absent[0]}"
        elif unknown:
            why = why or unknown[0]
        elif not beat["ED"]["volume_true_ml"]:
            why = why or f"{at}the expert's end-diastolic volume is 0"
    return list(beats.values()), why


class Scores(NamedTuple):
    """The rows of all slices, cases and patients.

    Slices are in the given order, cases and patients in the order in which they first appear.
    """

    slices: list[Row]
    cases: list[Row]
    patients: list[Row]


def score_pairs(pairs: Sequence[Pair], *, tolerance_mm: float) -> Scores:
    """Compute the scores of all slices, cases and patients.

    Args:
        pairs: slices of any number of patients, phases and volumes.
        tolerance_mm: tolerance of surface Dice [mm].
    """
    cases: dict[tuple[str, str | None, str], list[Pair]] = {}
    for pair in pairs:
        cases.setdefault((pair.patient, pair.phase, pair.volume), []).append(pair)
    case_rows = [score_case(case, tolerance_mm=tolerance_mm) for case in cases.values()]
    patients: dict[str, list[Row]] = {}
    for row in case_rows:
        patients.setdefault(row["patient"], []).append(row)
    slice_rows = [score_slice(pair, tolerance_mm=tolerance_mm) for pair in pairs]
    return Scores(slice_rows, case_rows, [score_patient(rows) for rows in patients.values()])


def summarize(scores: Scores) -> dict[str, Any]:
    """Compute the means over slices, cases and patients with their counts, and the agreement of volumes with the expert.

    Returns: a dict. Each of the keys "slices", "cases" and "patients" has the value {metric: volumes.Mean as a dict}.
    The key "agreement" has the value {quantity: volumes.Agreement as a dict}. The quantities are ED volume, ES volume,
    stroke volume and ejection fraction. Several visits of a patient are averaged, so each patient counts once.
    """
    means = {
        level: {name: volumes.mean(rows, name)._asdict() for name in (*OVERLAPS, *DISTANCES)}
        for level, rows in scores._asdict().items()
    }
    agreement = {f"volume_{phase}_ml": _agreement(_of_phase(scores.cases, phase), "volume", "_ml") for phase in ("ED", "ES")}
    agreement["stroke_volume_ml"] = _agreement(scores.patients, "stroke_volume", "_ml")
    agreement["ejection_fraction"] = _agreement(scores.patients, "ejection_fraction", "")
    return {**means, "agreement": agreement}


def _of_phase(cases: Sequence[Row], phase: str) -> list[Row]:
    """Return one row per patient: the mean true and predicted volumes of the patient's cases of this phase.

    Cases whose volume is undefined are left out.
    """
    mine: dict[str, list[Row]] = {}
    for case in cases:
        if case["phase"] == phase:
            mine.setdefault(case["patient"], []).append(case)
    sides = ("volume_true_ml", "volume_pred_ml")
    defined = ([row for row in rows if not math.isnan(row["volume_true_ml"])] for rows in mine.values())
    return [{side: statistics.fmean(row[side] for row in rows) if rows else math.nan for side in sides} for rows in defined]


def _agreement(rows: Sequence[Row], name: str, unit: str) -> dict[str, float]:
    pred, true = ([row[f"{name}_{side}{unit}"] for row in rows] for side in ("pred", "true"))
    return volumes.bland_altman(pred, true)._asdict()


def _counted(pairs: Sequence[Pair]) -> overlap.Counts[float]:
    sides = [[int(np.count_nonzero(mask)) for mask in (p.true, p.pred, p.pred & p.true)] for p in pairs]
    return overlap.Counts(*(sum(side) for side in zip(*sides, strict=True)))


def _overlaps(c: overlap.Counts[float]) -> Row:
    empty = {"n_one_empty": int((c.n_true == 0) != (c.n_pred == 0)), "n_both_empty": int(c.n_true == c.n_pred == 0)}
    values = (overlap.dice(c), overlap.iou(c), overlap.sensitivity(c), overlap.precision(c))
    return {**dict(zip(OVERLAPS, values, strict=True)), **c._asdict(), **empty}


def _distances(pred: distances.Mask, true: distances.Mask, spacing_mm: Sequence[float], tolerance_mm: float) -> Row:
    d = distances.surface_distances(pred, true, spacing_mm=spacing_mm)
    hd_mm, hd95_mm = distances.hausdorff_mm(d), distances.hausdorff_mm(d, 95)
    values = (hd_mm, hd95_mm, distances.assd_mm(d), distances.surface_dice(d, tolerance_mm=tolerance_mm))
    return dict(zip(DISTANCES, values, strict=True))


def _with_error(name: str, unit: str, true: float, pred: float) -> Row:
    return {f"{name}_true{unit}": true, f"{name}_pred{unit}": pred, f"{name}_error{unit}": pred - true}
