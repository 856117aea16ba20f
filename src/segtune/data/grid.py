"""Resample and crop images to the network's grid, and restore predictions to the image's own grid."""

import dataclasses
import logging
import math
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from segtune.data.slices import Slice, SliceSet
from segtune.errors import InputError

log = logging.getLogger(__name__)

Number = TypeVar("Number", np.float32, np.float64)


def resample_and_crop(
    slices: SliceSet, *, size: int, spacing_mm: float | None = None, larger: str | None = None, antialias: bool = False
) -> SliceSet:
    """Resample and crop the slices to the network's grid. (to_tensors adds the padding.)

    Each slice is first resampled to spacing_mm without moving its centre. The image is interpolated linearly, and the
    mask is resampled by nearest neighbour. If the result is larger than size, only its centre is kept. If both
    spacing_mm and larger are None, the set is returned unchanged.

    Args:
        size: side of the network's square images [pixels].
        spacing_mm: spacing of the new pixels in both directions [mm]; None: keep the stored spacing.
        larger: "crop": keep the centre of larger images, and log a warning if this cuts the structure. None: raise an
            error.
        antialias: if spacing_mm reduces the number of pixels, smooth the image first, to prevent aliasing (see
            _Axis.smoothed).
    Raises: InputError that names the first image larger than size, if larger is None.
    """
    if larger not in (None, "crop"):
        raise InputError(f"data.larger={larger}: choose crop (keep the centre of a larger image) or null (refuse it).")
    if spacing_mm is not None and not 0 < spacing_mm < math.inf:
        raise InputError(f"data.spacing_mm={spacing_mm}: must be a distance in mm, or null to leave images as they are.")
    if spacing_mm is None and larger is None:
        return slices
    seen = SliceSet(_as_seen(item, size, spacing_mm, larger, antialias) for item in slices)
    if cut := [item for item in seen if item.n_cut]:
        worst = max(cut, key=lambda item: item.n_cut)
        log.warning(
            "data.larger=crop cuts the structure on %d of %d slices, most on slice %d of patient %s. Increase data.size.",
            *(len(cut), len(slices), worst.slice_index, worst.patient),
        )
    return seen


def restore(values: NDArray[np.float64], item: Slice, *, spacing_mm: float | None, larger: str | None) -> NDArray[np.float64]:
    """Transform the network's output for a slice to the slice's own grid: undo padding and resample_and_crop.

    Args:
        values: (S, S), the network's whole output; S is data.size.
        item: the slice as it was read.
        spacing_mm, larger: as in resample_and_crop.
    Returns: (H, W). Values are interpolated linearly if spacing_mm is given, and are 0 where the slice was cropped.
    """
    rows, columns = _axes(item, len(values), spacing_mm, larger)
    return np.ascontiguousarray(columns.restored(rows.restored(values).T).T)


def _as_seen(item: Slice, size: int, spacing_mm: float | None, larger: str | None, antialias: bool) -> Slice:
    """One slice on the network's grid. Its n_cut is the number of pixels of the structure that were cropped away."""
    rows, columns = _axes(item, size, spacing_mm, larger)
    if spacing_mm is None and max(item.image.shape) <= size:
        return item
    outside = item.mask.copy()
    outside[rows.covered(), columns.covered()] = False
    image = columns.smoothed(rows.smoothed(item.image).T).T if antialias else item.image
    return dataclasses.replace(
        item,
        image=np.ascontiguousarray(columns.resampled(rows.resampled(image).T).T),
        mask=item.mask[np.ix_(rows.nearest(), columns.nearest())],
        spacing_mm=item.spacing_mm if spacing_mm is None else (spacing_mm, spacing_mm),
        n_cut=int(outside.sum()),
    )


class _Axis(NamedTuple):
    """Resampling and cropping along one axis of an image. The methods work on the first axis of an array.

    Attributes:
        n: number of stored (old) pixels.
        ratio: old spacing / new spacing.
        n_new: number of pixels after resampling. The centres of the old and the new axis coincide.
        n_kept: number of new pixels that remain after the centre is cropped.
    """

    n: int
    ratio: float
    n_new: int
    n_kept: int

    def resampled(self, image: NDArray[Number]) -> NDArray[Number]:
        """Resample and crop an array (n, W) to (n_kept, W)."""
        return _interpolate(image, self._old_positions())

    def smoothed(self, image: NDArray[Number]) -> NDArray[Number]:
        """Smooth an array (n, W) before downsampling, by a Gaussian (standard deviation (1 / ratio - 1) / 2 pixels)."""
        if self.ratio >= 1:
            return image
        smooth: NDArray[Number] = gaussian_filter1d(image, (1 / self.ratio - 1) / 2, axis=0, mode="nearest")
        return smooth

    def nearest(self) -> NDArray[np.int64]:
        """The nearest old pixel for each kept new pixel."""
        return np.clip(np.floor(self._old_positions() + 0.5), 0, self.n - 1).astype(int)

    def covered(self) -> slice:
        """The range of old pixels that the kept new pixels cover, completely or in part."""
        if self.n_new == self.n_kept:
            return slice(None)
        at, half = self._old_positions(), 0.5 / self.ratio
        return slice(max(0, math.ceil(at[0] - half)), math.floor(at[-1] + half) + 1)

    def restored(self, values: NDArray[Number]) -> NDArray[Number]:
        """Restore an array (n_kept or more, W) to (n, W), with 0 where it was cropped. Rows beyond n_kept are padding."""
        at = self._new_positions()
        rows = _interpolate(values[: self.n_kept], at)
        if self.n_new > self.n_kept:
            rows[(at < -0.5) | (at > self.n_kept - 0.5)] = 0
        return rows

    def _old_positions(self) -> NDArray[np.float64]:
        """The positions of the kept new pixels on the old axis [old pixels, from 0]."""
        return (np.arange(self.n_kept, dtype=np.float64) + self._first - (self.n_new - 1) / 2) / self.ratio + (self.n - 1) / 2

    def _new_positions(self) -> NDArray[np.float64]:
        """Return the positions of the old pixels on the new axis [new pixels, 0 is the first kept one].

        Old pixels that were cropped away lie outside the range of the kept pixels.
        """
        return (np.arange(self.n, dtype=np.float64) - (self.n - 1) / 2) * self.ratio + (self.n_new - 1) / 2 - self._first

    @property
    def _first(self) -> int:
        return (self.n_new - self.n_kept) // 2


def _axes(item: Slice, size: int, spacing_mm: float | None, larger: str | None) -> tuple[_Axis, _Axis]:
    """The two axes (rows, columns) of a slice. Raises: InputError if the slice is larger than size and larger is None."""
    ratios = [1.0 if spacing_mm is None else old / spacing_mm for old in item.spacing_mm]
    height, width = (max(1, round(n * ratio)) for n, ratio in zip(item.image.shape, ratios, strict=True))
    if larger is None:
        check_size(item, (height, width), size)
    rows, columns = (
        _Axis(n, ratio, new, min(new, size)) for n, ratio, new in zip(item.image.shape, ratios, (height, width), strict=True)
    )
    return rows, columns


def _interpolate(image: NDArray[Number], at: NDArray[np.float64]) -> NDArray[Number]:
    """Interpolate an image (H, W) linearly at these row positions. Positions outside give the first or last row."""
    at = np.clip(at, 0, len(image) - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, len(image) - 1)
    share = (at - low).astype(image.dtype)[:, None]
    between: NDArray[Number] = (image[low] * (1 - share) + image[high] * share).astype(image.dtype)
    return between


def check_size(item: Slice, shape: tuple[int, int], size: int) -> None:
    """Check that a slice is not larger than size x size [pixels].

    Args: shape: (H, W) of the slice, possibly after resampling.
    Raises: InputError that names the slice.
    """
    height, width = shape
    if max(shape) <= size:
        return
    stored = "" if shape == item.image.shape else " at this data.spacing_mm"
    raise InputError(
        f"data.size={size}: frame {item.frame} of patient {item.patient} has {height} x {width} pixels{stored}. "
        f"Choose data.size={-(-max(shape) // 16) * 16} or more, data.larger=crop (keeps the centre), or a larger "
        "data.spacing_mm."
    )
