"""An image without a label, as the input of prediction."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segtune.data.slices import Phase, Slice


class Image(NamedTuple):
    """An image without a label.

    Attributes:
        item: the image as a Slice with an empty mask.
        file: the file's name without its folder. It is empty for DICOM files whose names do not have the form used by
            RVSC, because such a file name may contain a person's name.
        phase: ED, ES, or the number of a phase or frame; empty if there is only one phase.
        undefined: the reason why slice_index and phase are unknown; empty if they are known. If they are unknown,
            slice_index is 0 and phase is empty.
    """

    item: Slice
    file: str
    phase: str
    undefined: str


def slice_without_label(
    pixels: NDArray[np.float32],
    *,
    patient: str,
    frame: int,
    slice_index: int,
    phase: Phase | None = None,
    spacing_mm: tuple[float, float],
    gap_mm: float | None,
) -> Slice:
    """Make a Slice with an empty mask from an image (H, W)."""
    return Slice(pixels, np.zeros(pixels.shape, bool), patient, frame, slice_index, phase, spacing_mm, gap_mm)
