"""Images on the network's grid and back: resampling, cropping, and restoring a prediction to the image's own grid."""

import dataclasses
import logging
import math
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from segtune.data.slices import Slice, SliceSet
from segtune.errors import InputError

log = logging.getLogger(__name__)

Number = TypeVar("Number", np.float32, np.float64)


def resample_and_crop(slices: SliceSet, *, size: int, spacing_mm: float | None = None, larger: str | None = None) -> SliceSet:
    """The slices on the grid that the network sees, but for the padding, which is left to to_tensors.

    An image is first resampled to spacing_mm, about its own centre: linearly, the mask to the nearest pixel, without a filter
    when it becomes coarser. What is then larger than size is cropped about the centre. Both None: the set as it is.

    Args:
        size: side of the network's square images [pixels].
        spacing_mm: of the new pixels, in both directions [mm]; None: as stored.
        larger: "crop": keep the centre of what is larger than size, and warn if that cuts the structure. None: refuse it.
    Raises: InputError naming the first image that is larger than size, if larger is None.
    """
    if larger not in (None, "crop"):
        raise InputError(f"data.larger={larger}: choose crop (keep the centre of a larger image) or null (refuse it).")
    if spacing_mm is not None and not 0 < spacing_mm < math.inf:
        raise InputError(f"data.spacing_mm={spacing_mm}: must be a distance in mm, or null to leave images as they are.")
    if spacing_mm is None and larger is None:
        return slices
    fitted = [_fit(item, size, spacing_mm, larger) for item in slices]
    if cut := [item for item in fitted if item.n_cut]:
        log.warning(
            "data.larger=crop cuts the structure on %d of %d slices, most on slice %d of patient %s; a larger data.size helps.",
            *(len(cut), len(slices), (worst := max(cut, key=lambda item: item.n_cut)).slice_index, worst.patient),
        )
    return SliceSet(fitted)


def restore(values: NDArray[np.float64], item: Slice, *, spacing_mm: float | None, larger: str | None) -> NDArray[np.float64]:
    """What the network says of a slice, from the network's grid back on the slice's own: the inverse of fit and of padding.

    Args:
        values: (S, S), of the whole square image that to_tensors made of the fitted slice.
        item: the slice as it was before fit.
        spacing_mm, larger: as they were for fit; S is its size.
    Returns: (H, W), linearly interpolated where spacing_mm is given; 0 where the slice was cropped.
    """
    for axis in _axes(item, len(values), spacing_mm, larger):
        at = axis.new_positions()
        rows = _interpolate(values[: axis.n_kept], at)
        if axis.n_new > axis.n_kept:
            rows[(at < -0.5) | (at > axis.n_kept - 0.5)] = 0
        values = rows.T
    return np.ascontiguousarray(values)


def _fit(item: Slice, size: int, spacing_mm: float | None, larger: str | None) -> Slice:
    """One slice on its new grid; its n_cut says how many pixels of its structure were cropped away."""
    axes = _axes(item, size, spacing_mm, larger)
    if spacing_mm is None and max(item.image.shape) <= size:
        return item
    lost, kept = item.mask.copy(), []
    for axis in axes:
        at, half = axis.old_positions(), 0.5 / axis.ratio
        is_cut = axis.n_new > axis.n_kept
        kept.append(slice(max(0, math.ceil(at[0] - half)), math.floor(at[-1] + half) + 1) if is_cut else slice(None))
    lost[tuple(kept)] = False
    nearest = [np.clip(np.floor(axis.old_positions() + 0.5), 0, axis.n - 1).astype(int) for axis in axes]
    rows, columns = (axis.old_positions() for axis in axes)
    image = np.ascontiguousarray(_interpolate(_interpolate(item.image, rows).T, columns).T)
    new_mm = (spacing_mm, spacing_mm) if spacing_mm is not None else item.spacing_mm
    mask, n_cut = item.mask[np.ix_(*nearest)], int(lost.sum())
    return dataclasses.replace(item, image=image, mask=mask, spacing_mm=new_mm, n_cut=n_cut)


class _Axis(NamedTuple):
    """One axis of an image: n pixels as stored, n_new after resampling, the middle n_kept of them kept. The centres coincide.

    ratio: old spacing / new spacing.
    """

    n: int
    ratio: float
    n_new: int
    n_kept: int

    def old_positions(self) -> NDArray[np.float64]:
        """Where the kept new pixels lie on the old axis [old pixels, from 0]."""
        return (np.arange(self.n_kept, dtype=np.float64) + self._first - (self.n_new - 1) / 2) / self.ratio + (self.n - 1) / 2

    def new_positions(self) -> NDArray[np.float64]:
        """Where the old pixels lie among the kept new ones [new pixels, from 0]; those cropped away lie outside."""
        return (np.arange(self.n, dtype=np.float64) - (self.n - 1) / 2) * self.ratio + (self.n_new - 1) / 2 - self._first

    @property
    def _first(self) -> int:
        return (self.n_new - self.n_kept) // 2


def _axes(item: Slice, size: int, spacing_mm: float | None, larger: str | None) -> list[_Axis]:
    """Rows and columns of a slice. Raises: InputError for one that is larger than size, if larger is None."""
    ratios = [1.0 if spacing_mm is None else old / spacing_mm for old in item.spacing_mm]
    full = [max(1, round(n * ratio)) for n, ratio in zip(item.image.shape, ratios, strict=True)]
    if larger is None:
        check_size(item, (full[0], full[1]), size)
    return [_Axis(n, r, new, min(new, size)) for n, r, new in zip(item.image.shape, ratios, full, strict=True)]


def _interpolate(image: NDArray[Number], at: NDArray[np.float64]) -> NDArray[Number]:
    """The image (H, W) at these rows, linearly between two rows; beyond the first and last one, these."""
    at = np.clip(at, 0, len(image) - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, len(image) - 1)
    share = (at - low).astype(image.dtype)[:, None]
    return (image[low] * (1 - share) + image[high] * share).astype(image.dtype)


def check_size(item: Slice, shape: tuple[int, int], size: int) -> None:
    height, width = shape
    if max(shape) <= size:
        return
    stored = "" if shape == item.image.shape else " at this data.spacing_mm"
    raise InputError(
        f"data.size={size}: frame {item.frame} of patient {item.patient} has {height} x {width} pixels{stored}. "
        f"Choose data.size={-(-max(shape) // 16) * 16} or more, data.larger=crop (keep the centre) or a wider data.spacing_mm."
    )
