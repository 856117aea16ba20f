"""Volumes in ml, ejection fraction, means with counts of empty and undefined cases, and Bland-Altman statistics."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Mean(NamedTuple):
    """A mean over rows, with the numbers of rows that it includes and leaves out.

    value: mean over the rows with a defined value; NaN, not 0, if there is none.
    n: number of rows with a defined value.
    n_one_empty: sum of the column n_one_empty. These cases are part of the mean, with the worst possible value.
    n_both_empty: sum of the column n_both_empty.
    n_undefined: number of rows left out, because both masks are empty or the geometry is unknown.
    """

    value: float
    n: int
    n_one_empty: int
    n_both_empty: int
    n_undefined: int


class Agreement(NamedTuple):
    """Bland-Altman statistics of errors, in the unit of the values.

    bias, sd: mean and standard deviation of the errors. lower, upper: limits of agreement, which contain 95 % of normally
    distributed errors. n: number of pairs with both values. n_undefined: number of pairs left out, because a value is NaN.
    """

    bias: float
    sd: float
    lower: float
    upper: float
    n: int
    n_undefined: int


class Disc(NamedTuple):
    """Position and grid of a slice. shape is (H, W); the other fields have the same meaning as in data.slices.Slice."""

    slice_index: int
    shape: tuple[int, ...]
    spacing_mm: tuple[float, float]
    gap_mm: float | None


def why_undefined(discs: Sequence[Disc]) -> str:
    """Return the reason why the slices, sorted by slice_index, do not form a volume, or "" if they do."""
    first = discs[0]
    if len(discs) == 1:
        return "one slice is no volume"
    if first.gap_mm is None:
        return "the distance of slices is not known"
    grid = (*first.spacing_mm, first.gap_mm)
    if any(disc.shape != first.shape or not _same(grid, (*disc.spacing_mm, disc.gap_mm or math.nan)) for disc in discs):
        return "its slices differ in size or spacing"
    for here, there in itertools.pairwise(disc.slice_index for disc in discs):
        if there == here:
            return f"slice {here} is there twice"
        if there > here + 1:
            return f"slice {here + 1} is missing"
    return ""


def _same(a: Sequence[float], b: Sequence[float]) -> bool:
    """Return whether the values are equal, up to the rounding in file headers."""
    return np.allclose(a, b, rtol=1e-3, atol=0)


def volume_ml(areas_px: Iterable[int], *, spacing_mm: tuple[float, float], gap_mm: float) -> float:
    """Compute a volume as the sum of discs (Simpson's method) [ml, >= 0].

    Formula: sum of area_i * gap_mm / 1000, with area_i in mm^2.

    Args:
        areas_px: number of True pixels in the mask of each slice. Slices must be consecutive, with 0 for an empty slice.
        spacing_mm: distance between pixel centres [mm].
        gap_mm: distance between slice centres [mm]. This is not the slice thickness, which is smaller if there are gaps.
    Source: Schulz-Menger et al. 2020 (SCMR), doi:10.1186/s12968-020-00610-6.
    """
    return sum(areas_px) * spacing_mm[0] * spacing_mm[1] * gap_mm / 1000


def stroke_volume_ml(edv_ml: float, esv_ml: float) -> float:
    """Stroke volume: EDV - ESV [ml]. NaN if either volume is NaN. A negative value indicates a wrong mask."""
    return edv_ml - esv_ml


def ejection_fraction(edv_ml: float, esv_ml: float) -> float:
    """Ejection fraction: (EDV - ESV) / EDV [fraction, at most 1]. NaN if either volume is NaN or if EDV is 0."""
    return (edv_ml - esv_ml) / edv_ml if edv_ml else math.nan


def mean(rows: Sequence[Mapping[str, Any]], column: str) -> Mean:
    """Mean of a column over rows of score.score_slice, score.score_case or score.score_patient.

    Undefined values are left out and counted. Two models should only be compared by their means if these counts are equal.
    """
    defined = [row[column] for row in rows if not math.isnan(row[column])]
    n_one_empty, n_both_empty = (sum(row[name] for row in rows) for name in ("n_one_empty", "n_both_empty"))
    value = sum(defined) / len(defined) if defined else math.nan
    return Mean(value, len(defined), n_one_empty, n_both_empty, len(rows) - len(defined))


def bland_altman(pred: Sequence[float], true: Sequence[float]) -> Agreement:
    """Bland-Altman statistics of e = pred - true: bias = mean(e), limits of agreement = bias -+ 1.96 sd(e).

    sd is the sample standard deviation, with n - 1 in the denominator.

    Args: pred, true: (n,), for example volumes. Give one value per patient, as errors of one patient are not independent.
    Undefined: Pairs with a NaN are left out and counted. bias is NaN if no pair is left; sd and limits are NaN if fewer
        than two pairs are left.
    Source: Bland and Altman 1986, doi:10.1016/S0140-6736(86)90837-8.
    """
    errors = np.asarray(pred, float) - np.asarray(true, float)
    defined = errors[~np.isnan(errors)]
    bias = float(defined.mean()) if defined.size else math.nan
    sd = float(defined.std(ddof=1)) if defined.size > 1 else math.nan
    return Agreement(bias, sd, bias - 1.96 * sd, bias + 1.96 * sd, defined.size, errors.size - defined.size)
