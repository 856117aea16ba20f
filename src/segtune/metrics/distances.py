"""Distances in mm between the boundaries of two masks, and the conventions they follow.

Boundary: the mask minus its erosion with the 4-neighbourhood (2-D) or 6-neighbourhood (3-D); what lies outside the image is
background, so that a mask has a boundary where it is cut off. A distance is from pixel centre to pixel centre.

Empty masks: both empty is undefined (NaN). One empty has no distance, and gets the worst there can be: the image's diagonal,
and surface Dice 0. So a model that predicts nothing scores worst, where MONAI 1.6.1 has NaN, drops it and averages to 0.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]


class SurfaceDistances(NamedTuple):
    """The one computation that all distances derive from.

    pred_to_true_mm: (n,) float64, from each boundary pixel of the prediction to the expert's boundary; empty if it has none.
    true_to_pred_mm: (m,) float64, the other way.
    diagonal_mm: of the whole image (or volume), edge to edge: longer than any distance between two of its pixels.
    If one mask is empty, the other's pixels are all a diagonal away.
    """

    pred_to_true_mm: NDArray[np.float64]
    true_to_pred_mm: NDArray[np.float64]
    diagonal_mm: float


def boundary(mask: Mask) -> Mask:
    """The True pixels that have a False pixel, or the image's edge, as a direct neighbour. Args: mask: (H, W) or (D, H, W)."""
    inner: Mask = ndimage.binary_erosion(mask)
    return mask & ~inner


def surface_distances(pred: Mask, true: Mask, *, spacing_mm: Sequence[float]) -> SurfaceDistances:
    """Euclidean distance of every boundary pixel of one mask to the nearest boundary pixel of the other [mm].

    Args:
        pred, true: (H, W) or (D, H, W) bool, of one shape.
        spacing_mm: distance of neighbouring pixel centres along each axis [mm], slices' first.
    Raises: ValueError for masks that are not bool (a probability is no mask), for shapes or spacings that don't fit.
    """
    if pred.dtype != bool or true.dtype != bool:
        raise ValueError(f"masks must be bool, got {pred.dtype} and {true.dtype}: apply a threshold first.")
    if pred.shape != true.shape or len(spacing_mm) != pred.ndim:
        raise ValueError(
            f"masks of {pred.shape} and {true.shape} with {len(spacing_mm)} spacings: give one shape, one per axis."
        )
    if not all(0 < step < math.inf for step in spacing_mm):
        raise ValueError(f"spacing_mm={tuple(spacing_mm)}: must be distances in mm.")
    diagonal = math.hypot(*(n * step for n, step in zip(pred.shape, spacing_mm, strict=True)))
    if not (pred.any() and true.any()):
        from_pred, from_true = (np.full(np.count_nonzero(boundary(mask)), diagonal) for mask in (pred, true))
        return SurfaceDistances(from_pred, from_true, diagonal)
    box = ndimage.find_objects((pred | true).view(np.uint8))[0]  # both boundaries lie in it: the same distances, sooner
    edges = boundary(pred[box]), boundary(true[box])
    to_pred, to_true = (ndimage.distance_transform_edt(~edge, sampling=spacing_mm) for edge in edges)
    return SurfaceDistances(to_true[edges[0]], to_pred[edges[1]], diagonal)


def hausdorff_mm(d: SurfaceDistances, percentile: float = 100) -> float:
    """max(P_q(d(p, T) over p in P), P_q(d(t, P) over t in T)), q = percentile: 100 is the Hausdorff distance, 95 is HD95.

    [mm, 0 to the diagonal, lower is better]. P, T: the boundaries. Percentiles are taken in each direction, then the larger
    one, as MONAI and DeepMind's surface-distance do. MedPy pools both directions first: then the longer boundary outvotes the
    shorter one, and a part that is far off, 10 % of one boundary, vanishes as 1 % of both.
    Between two ranks a percentile is linear, as numpy's.
    Undefined: NaN if both masks are empty; the diagonal if one is.
    Source: Huttenlocher et al. 1993, doi:10.1109/34.232073; Maier-Hein et al. 2024 (Metrics Reloaded),
    doi:10.1038/s41592-023-02151-z.
    """
    return max((float(np.percentile(part, percentile)) for part in d[:2] if part.size), default=math.nan)


def assd_mm(d: SurfaceDistances) -> float:
    """(sum of d(p, T) over P + sum of d(t, P) over T) / (|P| + |T|), the average symmetric surface distance.

    [mm, 0 to the diagonal, lower is better]. Undefined: NaN if both masks are empty; the diagonal if one is.
    Source: Heimann et al. 2009, doi:10.1109/TMI.2009.2013851.
    """
    both = np.concatenate(d[:2])
    return float(both.mean()) if both.size else math.nan


def surface_dice(d: SurfaceDistances, *, tolerance_mm: float) -> float:
    """(|{p: d(p, T) <= tolerance}| + |{t: d(t, P) <= tolerance}|) / (|P| + |T|), the share of both boundaries that agree.

    [0 to 1, higher is better]. Boundary pixels are counted, not weighed by their area.
    A distance that equals the tolerance but for rounding (3 pixels of 0.1 mm and 0.3 mm) is within it.
    Undefined: NaN if both masks are empty; 0 if one is, whatever the tolerance.
    Source: Nikolov et al. 2021, doi:10.2196/26151.
    """
    if not tolerance_mm >= 0:
        raise ValueError(f"tolerance_mm={tolerance_mm}: must be a distance in mm.")
    both = np.concatenate(d[:2])
    if not (d.pred_to_true_mm.size and d.true_to_pred_mm.size):
        return 0.0 if both.size else math.nan
    return float(np.mean(both <= tolerance_mm * (1 + 1e-9)))
