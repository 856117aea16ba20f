"""Read and write NIfTI volumes. Headers are checked before pixels are read (see nifti_header).

One axis of the stored array counts the slices. In most files, this is the last axis (see axes). Of the other two axes,
the first counts the columns of an image, and the second counts its rows. So slice k is array[:, :, k].T, or
array[k, :, :].T if the first axis counts slices. Nothing is flipped or rotated to an anatomical orientation, so slice 0
may be at the apex or at the base.
"""

import gzip
import io
import math
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from nibabel.nifti1 import Nifti1Header
from numpy.typing import NDArray

from segtune.data import names
from segtune.data.formats import axes, nifti_header
from segtune.data.formats.nifti_header import HEADERS, MAX_BYTES, Header, exactly
from segtune.errors import InputError

IMAGE_CODE = "slice k is np.asarray(nibabel.load(path).dataobj)[:, :, k].T"  # for a model card
ENDINGS = (".nii.gz", ".nii")
CHUNK_BYTES = 2**20
GRID = (  # the header fields that describe the grid of the pixels
    *("dim", "pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


class Volume(NamedTuple):
    """One 3-D volume.

    Attributes:
        voxels: (K, H, W) slices, rows, columns, of any real dtype.
        spacing_mm: distance of rows and of columns [mm].
        gap_mm: distance of slices [mm]; None for a single plane.
        affine: (4, 4) [mm]; None if the header has none.
        header: as stored, for `encode`. Its texts may contain names of persons.
        slice_axis: the axis of the stored array that counts the slices; it is the first axis of voxels.
    """

    voxels: NDArray[Any]
    spacing_mm: tuple[float, float]
    gap_mm: float | None
    affine: NDArray[np.float64] | None
    header: Nifti1Header
    slice_axis: int


def stem(path: Path) -> str | None:
    """The file's name without .nii.gz or .nii, in Unicode form NFC; None if it has neither ending."""
    ending = next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), None)
    return names.normal(path.name[: -len(ending)]) if ending else None


def by_stem(paths: list[Path]) -> dict[str, Path]:
    """Map stems to NIfTI files. Ignore other files. Raises: InputError if both name.nii and name.nii.gz exist."""
    found: dict[str, Path] = {}
    for path in paths:
        if (name := stem(path)) is None:
            continue
        if not path.is_file():
            raise InputError(f"{path}: this is a folder, but it is named like a NIfTI file. Move it elsewhere.")
        if name in found:
            raise InputError(
                f"{path} and {found[name]} are files of the same image. Keep the correct one, and move the other elsewhere."
            )
        found[name] = path
    return found


def slice_axes(files: Iterable[tuple[Path, int]], chosen: int | None = None) -> dict[Path, int]:
    """Find the slice axis of each file of a data set (see axes.of_set). Only headers are read.

    Args: files: each file with its number of channels along a fourth axis. chosen: the value of data.slice_axis.
    """
    grids = {}
    for path, n_channels in files:
        with _opened(path) as file:
            header = nifti_header.read(path, file, n_channels)
        grids[path] = axes.Grid(header.shape[:3], tuple(header.zooms))
    return axes.of_set(grids, chosen)


def read(path: Path, *, channel: int = 0, n_channels: int = 1, slice_axis: int | None = None) -> Volume:
    """Read one 3-D volume with its spacing and affine.

    Only the bytes that the header announces are read, and volumes larger than MAX_BYTES are refused. This prevents
    damaged headers and compressed files from using up the memory.

    Args:
        channel: index of the volume along the fourth axis.
        n_channels: length of the fourth axis; 1 for a file with 3 axes (or 2).
        slice_axis: the stored axis that counts the slices (see slice_axes); None: find it from this file alone.
    Raises: InputError that names the file.
    """
    with _opened(path) as file:
        header = nifti_header.read(path, file, n_channels)
        voxels = _voxels(path, file, header, channel, n_channels)
    if slice_axis is None or len(header.shape) < 3:
        slice_axis = axes.of_volume(path, axes.Grid(header.shape[:3], tuple(header.zooms))).axis
    columns, rows = (axis for axis in range(3) if axis != slice_axis)
    spacing_mm = (header.zooms[rows], header.zooms[columns])
    gap_mm = header.zooms[slice_axis] if len(header.zooms) > slice_axis else None
    voxels = voxels.transpose(2 - slice_axis, 2 - rows, 2 - columns)
    return Volume(voxels, spacing_mm, gap_mm, header.affine, header.stored, slice_axis)


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedIOBase]:
    """Open a file, and decompress it if necessary. Raises: InputError for every read error inside the `with` block."""
    names.check_file(path)
    try:
        with path.open("rb") as raw:
            compressed = raw.peek(2)[:2] == b"\x1f\x8b"
            with gzip.GzipFile(fileobj=raw) if compressed else raw as file:
                yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: the file is damaged or was cut off ({_words(error)}). Copy it again.") from None
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or _words(error)}). Make it readable, or replace it with the original."
        ) from error


def n_frames(path: Path) -> int:
    """The number of volumes along the fourth axis of a file. It is 1 if `read` would reject the header.

    Raises: InputError if the path is not a file, or if the file has more than MAX_BYTES pixels.
    """
    names.check_file(path)
    try:
        with _opened(path) as file:
            block = file.read(max(kind.sizeof_hdr for kind in HEADERS.values()))
        kind = HEADERS[block[:4]]
        shape = tuple(int(n) for n in kind(block[: kind.sizeof_hdr], check=False).get_data_shape())
    except Exception:  # `read` will report the error
        return 1
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 4 or min(shape) < 1:
        return 1
    if math.prod(shape) > MAX_BYTES:
        raise InputError(
            f"{path}: the header gives a size of {' x '.join(map(str, shape))} pixels, but at most "
            f"{MAX_BYTES / 1e9:.1f} billion are read. If the file is really so large, crop or resample it first; if "
            "not, copy the file again."
        )
    return shape[3]


def _words(error: Exception) -> str:
    return str(error) or "it ends before its last pixel"


def _voxels(path: Path, file: io.BufferedIOBase, about: Header, channel: int, n_channels: int) -> NDArray[Any]:
    """Read and scale the pixels, with the stored axes in reverse order. The file must be positioned just after the header."""
    shape, dtype = about.shape, about.dtype
    n_bytes = math.prod(shape[:3]) * dtype.itemsize
    too_long = f"{path}: it holds more than the {' x '.join(map(str, shape))} pixels in its header. Copy the file again."
    if path.stat().st_size > 1.1 * (about.offset + n_channels * n_bytes) + CHUNK_BYTES:
        raise InputError(too_long)  # before gzip reads the whole file
    _pass_over(file, about.offset - int(about.stored.sizeof_hdr) + channel * n_bytes)
    content = exactly(file, n_bytes)
    _pass_over(file, (n_channels - 1 - channel) * n_bytes)
    if file.read(1):  # reading to the end also makes gzip compare its checksum
        raise InputError(too_long)
    rows, columns, n_slices = shape[1], shape[0], shape[2] if len(shape) > 2 else 1
    voxels: NDArray[Any] = np.frombuffer(content, dtype).reshape(n_slices, rows, columns)
    slope, inter = about.scale
    if slope is not None and (slope, inter) != (1, 0):
        with np.errstate(over="ignore"):  # infinite values are refused later
            voxels = voxels.astype(np.float32)
            voxels *= np.float32(slope)
            voxels += np.float32(inter or 0)
    return voxels


def encode(mask: NDArray[np.bool_], like: Nifti1Header, slice_axis: int = axes.LAST) -> bytes:
    """Encode a mask (K, H, W) as a .nii.gz file with the values 0 and 1, on the grid of another file's header.

    Args:
        like: the header of the other file. Only the grid is copied from it.
        slice_axis: the axis of the stored array that counts the slices (see Volume).
    """
    mask = np.moveaxis(mask, -3, -1 - slice_axis)
    header = type(like)()
    for name in GRID:
        header[name] = like[name]
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    header["vox_offset"] = header.sizeof_hdr + 4  # the four bytes say that no extension follows
    return gzip.compress(header.binaryblock + bytes(4) + mask.astype(np.uint8).tobytes(), 6, mtime=0)


def _pass_over(file: io.BufferedIOBase, n_bytes: int) -> None:
    """Read and discard n_bytes. (Seeking would not detect that the file was cut off.)"""
    while n_bytes > 0:
        n_bytes -= len(exactly(file, min(n_bytes, CHUNK_BYTES)))


def finite(path: Path, index: int, plane: NDArray[Any]) -> NDArray[np.float32]:
    """Copy one slice as float32, so that the whole volume need not stay in memory.

    Raises: InputError that names the file, if a value is not finite.
    """
    with np.errstate(over="ignore"):
        image = plane.astype(np.float32)
    if bad := int((~np.isfinite(image)).sum()):
        raise InputError(
            f"{path}: {bad} pixels of slice {index} (from 0) are not finite numbers (NaN or infinite). Replace them; "
            "outside the body use 0."
        )
    return image
