"""Read the header of a NIfTI file, and check it before any pixel is read."""

import io
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from numpy.typing import NDArray

from segtune.data.slices import SPACINGS_MM
from segtune.errors import InputError

HEADERS: dict[bytes, type[Nifti1Header]] = {
    header.sizeof_hdr.to_bytes(4, order): header for header in (Nifti1Header, Nifti2Header) for order in ("little", "big")
}
MAX_BYTES = 2**30  # of one volume, counting at least 4 bytes per pixel: 512 x 512 x 1024 pixels
MAX_EXTENSION_BYTES = 2**24  # between header and pixels; skipped, because it may contain a person's name
UPRIGHT = 0.99  # the axes are at right angles if a voxel's volume / product of its sides is at least this
AGREE = 0.01  # relative difference up to which two distances agree
MM = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 0.001}


class Header(NamedTuple):
    """The checked part of a header.

    Attributes:
        shape, dtype: shape and number type of the stored array.
        offset: the byte at which the pixels begin.
        scale: (scl_slope, scl_inter).
        zooms: spacing along the stored axes [mm].
        affine: (4, 4) [mm]; None if the header has none.
        stored: the original header.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    scale: tuple[float | None, float | None]
    zooms: list[float]
    affine: NDArray[np.float64] | None
    stored: Nifti1Header


def read(path: Path, file: io.BufferedIOBase, n_channels: int) -> Header:
    """Read the header, and leave the file positioned after it. Raises: InputError for an unusable header."""
    first = file.read(4)
    kind = HEADERS.get(first)
    if kind is None:
        raise InputError(f"{path}: this is not a NIfTI file. Replace it with the original copy.")
    block = first + exactly(file, kind.sizeof_hdr - 4)
    try:
        header = kind(block, check=False)
        shape = tuple(int(n) for n in header.get_data_shape())
        dtype, offset, scale = header.get_data_dtype(), header.get_data_offset(), header.get_slope_inter()
        unit = MM[header.get_xyzt_units()[0]]
        zooms = [float(zoom) * unit for zoom in header.get_zooms()[:3]]
        stated = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
        with np.errstate(all="ignore"):  # infinite values are refused below
            affine = np.diag([unit, unit, unit, 1.0]) @ header.get_best_affine() if stated else None
        single = header["magic"].item().startswith(b"n+")
    except Exception as error:  # nibabel raises many kinds of exceptions for damaged headers
        raise InputError(f"{path}: damaged NIfTI header ({type(error).__name__}). Copy the file again.") from None
    if not single:
        raise InputError(f"{path}: the header is not that of a single .nii file. Convert the image to a .nii.gz file.")
    while len(shape) > (4 if n_channels > 1 else 3) and shape[-1] == 1:
        shape = shape[:-1]
    _check_shape(path, shape, n_channels)
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise InputError(f"{path}: its pixels are {dtype}, not plain numbers. Convert it to a grey image.")
    n_pixels = math.prod(shape[:3])
    if n_pixels * max(dtype.itemsize, 4) > MAX_BYTES:
        raise InputError(
            f"{path}: the header gives a size of {' x '.join(map(str, shape))} pixels of {dtype}, but volumes of "
            f"more than {MAX_BYTES / 2**30:g} GiB are not read. If it is really so large, crop or resample it first. "
            "If not, copy it again."
        )
    if not kind.sizeof_hdr <= offset <= kind.sizeof_hdr + MAX_EXTENSION_BYTES:
        raise InputError(
            f"{path}: the header says that pixels begin at byte {offset}, which is impossible. Copy the file again."
        )
    _check_geometry(path, zooms, affine)
    return Header(shape, dtype, offset, scale, zooms, affine, header)


def _check_shape(path: Path, shape: tuple[int, ...], n_channels: int) -> None:
    size = " x ".join(map(str, shape))
    if len(shape) < 2 or min(shape) < 1:
        raise InputError(f"{path}: the image has {size or 'no'} pixels, so it is empty. Copy the file again.")
    if n_channels > 1 and (len(shape) != 4 or shape[3] != n_channels):
        raise InputError(
            f"{path}: its shape is {size}, but dataset.json names {n_channels} channels, so the fourth axis must have "
            f"length {n_channels}. Correct dataset.json or the file."
        )
    if n_channels == 1 and len(shape) > 3:
        raise InputError(
            f"{path}: its shape is {size} ({len(shape)} axes), but one 3-D volume is expected. Store a single frame."
        )


def _check_geometry(path: Path, zooms: list[float], affine: NDArray[np.float64] | None) -> None:
    """Check spacing and affine. Raises: InputError if one of them is unusable, or if they contradict each other."""
    if not all(SPACINGS_MM[0] <= zoom <= SPACINGS_MM[1] for zoom in zooms):
        raise InputError(
            f"{path}: the header gives the spacing as {' x '.join(f'{zoom:g}' for zoom in zooms)} mm (pixdim), which is "
            "unusable, so distances in mm are unknown. Correct the header."
        )
    if affine is None:
        return
    with np.errstate(all="ignore"):
        columns = affine[:3, :3]
        lengths = np.sqrt((columns**2).sum(axis=0))
        volume = abs(np.linalg.det(columns / lengths)) if np.isfinite(affine).all() and lengths.all() else 0.0
    if not volume > 0.5:
        raise InputError(f"{path}: the affine is unusable, as its axes do not span 3 dimensions. Correct the header.")
    if volume < UPRIGHT:
        raise InputError(
            f"{path}: the affine is sheared: its axes are not at right angles, so distances and volumes cannot be computed "
            "from the pixel size. Resample the image onto a grid with right angles."
        )
    if not np.allclose(lengths[: len(zooms)], zooms, rtol=AGREE, atol=0):
        raise InputError(
            f"{path}: the affine gives the spacing as {' x '.join(f'{length:g}' for length in lengths)} mm, but pixdim as "
            f"{' x '.join(f'{zoom:g}' for zoom in zooms)} mm. Correct the header."
        )


def exactly(file: io.BufferedIOBase, n_bytes: int) -> bytes:
    """Read exactly n_bytes. Raises: EOFError if the file ends earlier."""
    content = file.read(n_bytes)
    if len(content) < n_bytes:
        raise EOFError
    return content
