"""What is said of a heart, in ml; and of many cases together, with the count of those that a mean leaves out or punishes."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Mean(NamedTuple):
    """A mean, never without the cases behind it.

    value: over the defined ones; NaN, not 0, if there is none.
    n: defined ones. n_one_empty, n_both_empty: as the rows count them, the former in the mean with the worst value.
    n_undefined: left out, for empty masks or an unknown geometry.
    """

    value: float
    n: int
    n_one_empty: int
    n_both_empty: int
    n_undefined: int


class Agreement(NamedTuple):
    """Bland-Altman: the mean error, and the limits between which 95 % of normally distributed errors lie [unit of the values].

    n: pairs with both values; n_undefined: the others, left out.
    """

    bias: float
    sd: float
    lower: float
    upper: float
    n: int
    n_undefined: int


class Disc(NamedTuple):
    """Where a slice lies, as in data.slices.Slice. shape: (H, W)."""

    slice_index: int
    shape: tuple[int, ...]
    spacing_mm: tuple[float, float]
    gap_mm: float | None


def why_undefined(discs: Sequence[Disc]) -> str:
    """What keeps slices, in order, from being a volume; empty if nothing does."""
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
    """But for the rounding of headers."""
    return np.allclose(a, b, rtol=1e-3, atol=0)


def volume_ml(areas_px: Iterable[int], *, spacing_mm: tuple[float, float], gap_mm: float) -> float:
    """sum of area_i * gap / 1000, Simpson's sum of discs [ml, 0 or more]; consecutive slices, each once, 0 for empty ones.

    Args:
        areas_px: True pixels of each slice's mask.
        spacing_mm, gap_mm: of pixel centres and of slice centres [mm]; not the slices' thickness, which is less.
    Source: Schulz-Menger et al. 2020 (SCMR), doi:10.1186/s12968-020-00610-6.
    """
    return sum(areas_px) * spacing_mm[0] * spacing_mm[1] * gap_mm / 1000


def stroke_volume_ml(edv_ml: float, esv_ml: float) -> float:
    """EDV - ESV [ml]; NaN if either is. Negative where the end-systolic volume is the larger one: a sign of a wrong mask."""
    return edv_ml - esv_ml


def ejection_fraction(edv_ml: float, esv_ml: float) -> float:
    """(EDV - ESV) / EDV [a fraction, at most 1]; NaN if either volume is, or if EDV is 0."""
    return (edv_ml - esv_ml) / edv_ml if edv_ml else math.nan


def mean(rows: Sequence[Mapping[str, Any]], column: str) -> Mean:
    """The mean of a column over rows of metrics.score_slice, score_case or score_patient.

    Undefined values are left out and counted, so compare models by it only where their counts agree.
    """
    defined = [row[column] for row in rows if not math.isnan(row[column])]
    n_one_empty, n_both_empty = (sum(row[name] for row in rows) for name in ("n_one_empty", "n_both_empty"))
    value = sum(defined) / len(defined) if defined else math.nan
    return Mean(value, len(defined), n_one_empty, n_both_empty, len(rows) - len(defined))


def bland_altman(pred: Sequence[float], true: Sequence[float]) -> Agreement:
    """bias = mean(e), limits = bias -+ 1.96 sd(e), e = pred - true, sd with n - 1; e.g. of volumes or ejection fractions.

    Args: pred, true: (n,), one per patient (errors of one patient are not independent).
    Undefined: pairs with a NaN are left out and counted. bias is NaN without a pair, sd and limits with fewer than two.
    Source: Bland and Altman 1986, doi:10.1016/S0140-6736(86)90837-8.
    """
    errors = np.asarray(pred, float) - np.asarray(true, float)
    defined = errors[~np.isnan(errors)]
    bias = float(defined.mean()) if defined.size else math.nan
    sd = float(defined.std(ddof=1)) if defined.size > 1 else math.nan
    return Agreement(bias, sd, bias - 1.96 * sd, bias + 1.96 * sd, defined.size, errors.size - defined.size)
