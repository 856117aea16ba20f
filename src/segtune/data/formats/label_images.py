"""Read the slices of a NIfTI image together with its label image."""

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtune.data.formats import nifti
from segtune.data.formats.nifti import Volume
from segtune.data.formats.nifti_header import AGREE
from segtune.data.slices import Phase, Slice
from segtune.errors import InputError

log = logging.getLogger(__name__)

MOST_SHOWN = 20  # labels that a message lists
ROUNDED, ROUNDED_FRACTION = 1e-4, 5e-7  # how far a stored label may be from a whole number, absolute and relative


@dataclass(frozen=True)
class Labels:
    """The labels of a data set.

    Attributes:
        known: the values that a label image may contain.
        wanted: the values of the structure.
        source: text that says in messages where the values are defined.
    """

    known: frozenset[int]
    wanted: frozenset[int]
    source: str


def read_slices(
    image: Path,
    label: Path,
    *,
    labels: Labels,
    patient: str,
    phase: Phase | None,
    frame: int,
    channel: int = 0,
    n_channels: int = 1,
    slice_axis: int | None = None,
) -> list[Slice]:
    """Read all slices of one image and its label image, in the stored order. slice_index counts from 0.

    Args: channel, n_channels, slice_axis: as in `nifti.read`, for the image file.
    Raises: InputError that names the file, if it is damaged, contradictory or not finite, or has unknown labels.
    """
    pixels = nifti.read(image, channel=channel, n_channels=n_channels, slice_axis=slice_axis)
    truth = nifti.read(label, slice_axis=pixels.slice_axis)
    _check_same_grid(image, pixels, label, truth)
    drawn = _labels(label, truth, labels)
    wanted = sorted(labels.wanted)
    return [
        Slice(
            image=nifti.finite(image, index, plane),
            mask=np.isin(drawn[index], wanted),
            patient=patient,
            frame=frame,
            slice_index=index,
            phase=phase,
            spacing_mm=pixels.spacing_mm,
            gap_mm=pixels.gap_mm,
        )
        for index, plane in enumerate(pixels.voxels)
    ]


def _check_same_grid(image: Path, pixels: Volume, label: Path, truth: Volume) -> None:
    """Check that an image and its label image have the same grid.

    A different origin is only logged, because pixels are matched by index.

    Raises: InputError if shape, spacing or orientation differ.
    """
    sizes = [
        " x ".join(map(str, np.moveaxis(volume.voxels, 0, 2 - volume.slice_axis).shape[::-1])) for volume in (pixels, truth)
    ]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"{label}: it has {sizes[1]} pixels, but its image {image.name} has {sizes[0]}. Replace the wrong file."
        )
    is_3d = pixels.gap_mm is not None and truth.gap_mm is not None
    grids = [(*volume.spacing_mm, (volume.gap_mm or 0.0) if is_3d else 0.0) for volume in (pixels, truth)]
    if not np.allclose(grids[0], grids[1], rtol=AGREE, atol=0):
        spacings = [" x ".join(f"{distance:g}" for distance in grid) for grid in grids]
        raise InputError(
            f"{label}: its spacing (rows, columns, slices) is {spacings[1]} mm, but that of its image {image.name} is "
            f"{spacings[0]} mm. Correct the header that is wrong."
        )
    if pixels.affine is None or truth.affine is None:
        return
    directions = [volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0) for volume in (pixels, truth)]  # type: ignore[index]
    if (directions[0] * directions[1]).sum(axis=0).min() < 0.99:
        raise InputError(
            f"{label}: its axes and those of its image {image.name} have different directions, so labels and pixels do not "
            "match. Store both in the same orientation."
        )
    moved = float(np.linalg.norm(pixels.affine[:3, 3] - truth.affine[:3, 3]))
    if moved > min(*pixels.spacing_mm, pixels.gap_mm or math.inf):
        log.warning("%s: its origin is %.1f mm away from that of its image. Pixels are still matched by index.", label, moved)


def _labels(label: Path, truth: Volume, labels: Labels) -> NDArray[Any]:
    """Return the labels of a volume as integers. Labels stored as floating-point numbers are rounded.

    Raises: InputError for values that are not whole numbers, and for unknown labels.
    """
    scaling = truth.header.get_slope_inter()
    scaled = "" if scaling[0] is None or scaling == (1, 0) else f"scl_slope {scaling[0]:.4g}, scl_inter {scaling[1] or 0:.4g}"
    values = np.unique(truth.voxels)
    if not np.isfinite(values).all():
        raise InputError(
            f"{label}: its values are not all whole numbers: some are not finite (NaN or infinite). Save them as integers."
        )
    whole = np.rint(values)
    if len(between := values[np.abs(values - whole) > np.maximum(ROUNDED, ROUNDED_FRACTION * np.abs(whole))]):
        few = ", ".join(f"{value:.4g}" for value in between[:3]) + (", ..." if len(between) > 3 else "")
        if scaled:
            raise InputError(
                f"{label}: its values are not all whole numbers ({few}), because the header scales them ({scaled}). "
                "Save the original labels as integers, unscaled (scl_slope 1, scl_inter 0)."
            )
        raise InputError(
            f"{label}: its values are not all whole numbers ({few}). If the file is an image, replace it by the labels. If the "
            "labels were interpolated, resample them by nearest neighbour. Then save them as integers."
        )
    unknown = whole[~np.isin(whole, sorted(labels.known))]
    if len(unknown):
        known = [str(value) for value in sorted(labels.known)]
        only = ", ".join(known[:MOST_SHOWN]) + (", ..." if len(known) > MOST_SHOWN else "")
        cure = (
            f"The header scales its values ({scaled}). Save the labels as integers, unscaled."
            if scaled
            else "Correct the labels or their definition."
        )
        raise InputError(
            f"{label}: it holds the label {unknown[0]:.0f}, which {labels.source} does not define (only {only}). {cure}"
        )
    return truth.voxels if truth.voxels.dtype.kind in "iu" else np.rint(truth.voxels)
