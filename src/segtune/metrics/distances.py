"""Distances in mm between the boundaries of two masks.

Boundary: the mask minus its erosion with the 4-neighbourhood (2-D) or 6-neighbourhood (3-D). Everything outside the image
counts as background, so a mask that touches the edge of the image has a boundary there. Distances are measured between pixel
centres.

Empty masks: if both masks are empty, the distances are undefined (NaN). If exactly one mask is empty, the metric has
its worst possible value: the diagonal of the image for distances, and 0 for surface Dice. A model that predicts nothing
therefore gets the worst score. In this case, MONAI 1.6.1 returns NaN and leaves the NaN out of the mean. If all values
are NaN, MONAI's mean is 0.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]


class SurfaceDistances(NamedTuple):
    """Distances between the boundaries of a predicted and a true mask. All distance metrics are derived from them.

    pred_to_true_mm: (n,) float64, the distance of each boundary pixel of the prediction to the boundary of the true mask. It
        has length 0 if the prediction is empty.
    true_to_pred_mm: (m,) float64, the distance of each boundary pixel of the true mask to the boundary of the
        prediction.
    diagonal_mm: the diagonal of the whole image or volume, from edge to edge, which is longer than any distance between two
        pixels.
    If exactly one mask is empty, all distances of the other mask's boundary pixels are set to diagonal_mm.
    """

    pred_to_true_mm: NDArray[np.float64]
    true_to_pred_mm: NDArray[np.float64]
    diagonal_mm: float


def boundary(mask: Mask) -> Mask:
    """Return the True pixels that touch a False pixel or the edge of the image. Args: mask: (H, W) or (D, H, W) bool."""
    inner: Mask = ndimage.binary_erosion(mask)
    return mask & ~inner


def surface_distances(pred: Mask, true: Mask, *, spacing_mm: Sequence[float]) -> SurfaceDistances:
    """Compute the Euclidean distance of each boundary pixel of one mask to the nearest boundary pixel of the other [mm].

    Args:
        pred, true: (H, W) or (D, H, W) bool, both of the same shape.
        spacing_mm: distance between neighbouring pixel centres along each axis [mm]; in 3-D, the slice distance comes
        first.
    Raises: ValueError if a mask is not bool (such as a probability map), if the shapes differ, or if spacing_mm is invalid.
    """
    if pred.dtype != bool or true.dtype != bool:
        raise ValueError(f"masks must be bool, got {pred.dtype} and {true.dtype}. Apply a threshold first.")
    if pred.shape != true.shape or len(spacing_mm) != pred.ndim:
        raise ValueError(
            f"masks have the shapes {pred.shape} and {true.shape}, and spacing_mm has {len(spacing_mm)} values. "
            "Both masks must have the same shape, and spacing_mm must have one value per axis."
        )
    if not all(0 < step < math.inf for step in spacing_mm):
        raise ValueError(f"spacing_mm={tuple(spacing_mm)}: all values must be finite distances above 0, in mm.")
    diagonal = math.hypot(*(n * step for n, step in zip(pred.shape, spacing_mm, strict=True)))
    if not (pred.any() and true.any()):
        from_pred, from_true = (np.full(np.count_nonzero(boundary(mask)), diagonal) for mask in (pred, true))
        return SurfaceDistances(from_pred, from_true, diagonal)
    box = ndimage.find_objects((pred | true).view(np.uint8))[0]  # contains both boundaries; faster, same result
    edges = boundary(pred[box]), boundary(true[box])
    to_pred, to_true = (ndimage.distance_transform_edt(~edge, sampling=spacing_mm) for edge in edges)
    return SurfaceDistances(to_true[edges[0]], to_pred[edges[1]], diagonal)


def hausdorff_mm(d: SurfaceDistances, percentile: float = 100) -> float:
    """Hausdorff distance (percentile = 100) or HD95 (percentile = 95) [mm, 0 to the diagonal, lower is better].

    Formula: max(P_q(d(p, T) over p in P), P_q(d(t, P) over t in T)), where P and T are the boundaries of prediction and true
    mask, and P_q is the percentile q. Percentiles are interpolated linearly, as numpy does.

    The percentile is computed for each direction and the larger value is returned, as in MONAI and DeepMind's
    surface-distance. MedPy pools the distances of both directions first. The longer boundary then dominates: an error
    in 10 % of a short boundary may affect only 1 % of the pooled distances, and HD95 ignores it.

    Undefined: NaN if both masks are empty. If exactly one mask is empty, the value is the diagonal of the image.
    Source: Huttenlocher et al. 1993, doi:10.1109/34.232073; Maier-Hein et al. 2024 (Metrics Reloaded),
    doi:10.1038/s41592-023-02151-z.
    """
    return max((float(np.percentile(part, percentile)) for part in d[:2] if part.size), default=math.nan)


def assd_mm(d: SurfaceDistances) -> float:
    """Average symmetric surface distance (ASSD) [mm, 0 to the diagonal, lower is better].

    Formula: (sum of d(p, T) over p in P + sum of d(t, P) over t in T) / (|P| + |T|), where P and T are the boundaries of
    prediction and true mask.
    Undefined: NaN if both masks are empty. If exactly one mask is empty, the value is the diagonal of the image.
    Source: Heimann et al. 2009, doi:10.1109/TMI.2009.2013851.
    """
    both = np.concatenate(d[:2])
    return float(both.mean()) if both.size else math.nan


def surface_dice(d: SurfaceDistances, *, tolerance_mm: float) -> float:
    """Surface Dice [0 to 1, higher is better].

    This is the fraction of the boundary pixels of both masks that lie within the tolerance of the other mask's
    boundary.

    Formula: (|{p: d(p, T) <= tolerance}| + |{t: d(t, P) <= tolerance}|) / (|P| + |T|), where P and T are the boundaries of
    prediction and true mask. Each boundary pixel counts once; pixels are not weighted by their surface area.
    A distance that exceeds the tolerance only by rounding, such as 3 * 0.1 mm for a tolerance of 0.3 mm, is within the
    tolerance.
    Undefined: NaN if both masks are empty. If exactly one mask is empty, the value is 0 for any tolerance.
    Source: Nikolov et al. 2021, doi:10.2196/26151.
    """
    if not tolerance_mm >= 0:
        raise ValueError(f"tolerance_mm={tolerance_mm}: must be a distance of at least 0 mm.")
    both = np.concatenate(d[:2])
    if not (d.pred_to_true_mm.size and d.true_to_pred_mm.size):
        return 0.0 if both.size else math.nan
    return float(np.mean(both <= tolerance_mm * (1 + 1e-9)))
