"""From masks to numbers: per image, slice, case (a volume: patient x phase x volume) and patient.

One rule for empty masks: both empty is undefined (NaN, counted, left out of means); one empty is the worst value: 0 for an
overlap, the image's diagonal for a distance. So a model that predicts nothing scores worst, and not undefined, wherever there
is something to be found. The geometry that a case needs for its distances and volumes may be unknown: then they are NaN, and
the row's `undefined` says why.
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
TOLERANCE_MM = 2.0  # of surface Dice, where no other is chosen: one to three pixels of cardiac MRI
DISTANCES = ("hd_mm", "hd95_mm", "assd_mm", "surface_dice")


@dataclass(frozen=True, eq=False)
class Pair:
    """The two masks of a slice, and where it lies: patient, phase, volume, slice_index, ... as in slices.Slice.

    pred, true: (H, W) bool, on the grid that spacing_mm speaks of.
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
        """The two masks of a data.slices.Slice."""
        place = (item.patient, item.phase, item.slice_index, item.spacing_mm, item.gap_mm)
        return cls(pred, true, *place, n_cut=item.n_cut, volume=item.volume)

    def __post_init__(self) -> None:
        if not (self.pred.dtype == self.true.dtype == bool and self.pred.shape == self.true.shape):
            found = [f"{mask.dtype} {mask.shape}" for mask in (self.pred, self.true)]
            raise ValueError(f"masks must be bool and of one shape, got {found[0]} and {found[1]}.")


def score_slice(pair: Pair, *, tolerance_mm: float) -> Row:
    """OVERLAPS and DISTANCES in the slice's plane, its pixels, and n_one_empty, n_both_empty (1 or 0)."""
    about = {"patient": pair.patient, "phase": pair.phase, "volume": pair.volume, "slice_index": pair.slice_index}
    c = _counted([pair])
    return {**about, **_overlaps(c), **_distances(pair.pred, pair.true, pair.spacing_mm, tolerance_mm)}


def score_case(pairs: Sequence[Pair], *, tolerance_mm: float) -> Row:
    """The same in 3-D over all slices of one volume of a patient, in any order; its millilitres and their error [ml].

    Overlaps need no geometry. Distances and volumes are NaN, and `undefined` says why, unless the slices follow each other
    without a hole, with a known gap, on one grid: a missing slice would be a hole in both masks. A case with one slice is
    scored in its plane, and has no volume. Slices beyond the first and the last that are given count as empty. Where a crop
    has cut the expert's structure, all is of what is left, and there is no volume.
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
    """From the rows of a patient's cases: means over the defined ones, stroke volume [ml] and ejection fraction with errors.

    n_one_empty and n_both_empty count cases. Stroke volume and ejection fraction need one ED and one ES of known volume and an
    expert's EDV above 0, each visit its own; else they are NaN and `undefined` says why. Of several visits they are the means.
    A prediction without any EDV has ejection fraction 0, not NaN: nothing was found, and that must not be left out.
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
    """Of a patient's cases the ED and the ES of each visit, and what keeps them from an ejection fraction; empty if nothing."""
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
    """The rows of all slices in the order given, of all cases and of all patients in the order of first appearance."""

    slices: list[Row]
    cases: list[Row]
    patients: list[Row]


def score_pairs(pairs: Sequence[Pair], *, tolerance_mm: float) -> Scores:
    """Args: pairs: slices of any number of patients, phases and volumes. tolerance_mm: of surface Dice."""
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
    """Means over slices, cases and patients, each with its counts, and how well volumes and what follows from them agree.

    Returns: {"slices", "cases", "patients": {metric: volumes.Mean as a dict}, "agreement": {quantity: volumes.Agreement as a
    dict}}; a volume's is of one phase at a time, of several visits the mean, so that a patient counts once.
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
    """A row for each patient: the mean of each side's volumes over its cases of a phase that have one."""
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
