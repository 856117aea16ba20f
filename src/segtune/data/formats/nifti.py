"""Slices of one NIfTI image and its label image. Files may come from anywhere: what they claim is checked first.

One axis of the stored array counts the slices, mostly the last (see axes); of the other two the first counts the columns of an
image, the second its rows: array[:, :, k].T, or array[k, :, :].T where the first counts slices. Nothing is flipped or rotated
to an anatomical orientation, so slice 0 may be the apex or the base.
"""

import gzip
import io
import logging
import math
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from numpy.typing import NDArray

from segtune.data import names
from segtune.data.formats import axes
from segtune.data.slices import SPACINGS_MM, Phase, Slice
from segtune.errors import InputError

log = logging.getLogger(__name__)

IMAGE_CODE = "slice k is np.asarray(nibabel.load(path).dataobj)[:, :, k].T"  # for a model card
ENDINGS = (".nii.gz", ".nii")
HEADERS: dict[bytes, type[Nifti1Header]] = {
    header.sizeof_hdr.to_bytes(4, order): header for header in (Nifti1Header, Nifti2Header) for order in ("little", "big")
}
MAX_BYTES = 2**30  # of one volume, its pixels as float32 at least: 512 x 512 x 1024
MAX_EXTENSION_BYTES = 2**24  # between the header and the pixels; passed over, it may hold a name
CHUNK_BYTES = 2**20
UPRIGHT = 0.99  # volume of a voxel, as a share of the product of its sides, below which its axes are not at right angles
MOST_SHOWN = 20  # labels that a message lists
ROUNDED, ROUNDED_FRACTION = 1e-4, 5e-7  # how far a label stored as a fraction may be from its number; and as a share of it
AGREE = 0.01  # how far two statements of one distance may differ, as a share of it
GRID = (  # the header's fields that say where its pixels lie
    *("dim", "pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)
MM = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 0.001}


class Volume(NamedTuple):
    """voxels: (K, H, W) slices, rows, columns, any real dtype. affine: (4, 4) in mm, None where the header states none.

    header: as stored, for `encode`. Its texts may hold names. slice_axis: which axis of the stored array became the first.
    """

    voxels: NDArray[Any]
    spacing_mm: tuple[float, float]
    gap_mm: float | None
    affine: NDArray[np.float64] | None
    header: Nifti1Header
    slice_axis: int


class _Header(NamedTuple):
    """What is used of a header: the stored array's shape, dtype, first byte and (slope, inter); spacing [mm] and affine."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    scale: tuple[float | None, float | None]
    zooms: list[float]
    affine: NDArray[np.float64] | None
    stored: Nifti1Header


@dataclass(frozen=True)
class Labels:
    """The values that a label image may hold, those that are the structure, and who says so (for messages)."""

    known: frozenset[int]
    wanted: frozenset[int]
    source: str


def stem(path: Path) -> str | None:
    """The file's name without .nii.gz or .nii, its letters composed; None if it is not named as NIfTI."""
    ending = next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), None)
    return names.normal(path.name[: -len(ending)]) if ending else None


def by_stem(paths: list[Path]) -> dict[str, Path]:
    """stem -> file; files of other kinds are passed over. Raises: InputError where name.nii and name.nii.gz are both there."""
    found: dict[str, Path] = {}
    for path in paths:
        if (name := stem(path)) is None:
            continue
        if not path.is_file():
            raise InputError(f"{path}: a folder, named like a file. Move it elsewhere.")
        if name in found:
            raise InputError(f"{path} and {found[name]} are the same image: which one counts? Move one elsewhere.")
        found[name] = path
    return found


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
    """All slices of one image and its label image, in the order in which they are stored, slice_index from 0.

    Args: channel, n_channels: which of how many volumes along the image file's fourth axis; slice_axis: see `read`.
    Raises: InputError naming the file for anything damaged, contradictory or not finite, and for label values not known.
    """
    pixels = read(image, channel=channel, n_channels=n_channels, slice_axis=slice_axis)
    truth = read(label, slice_axis=pixels.slice_axis)
    _check_same_grid(image, pixels, label, truth)
    drawn = _labels(label, truth, labels)
    wanted = sorted(labels.wanted)
    return [
        Slice(
            image=finite(image, index, plane),
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


def slice_axes(files: Iterable[tuple[Path, int]], chosen: int | None = None) -> dict[Path, int]:
    """The slice axis of each file of a data set, by axes.of_set; only headers are read.

    Args: files: file, and how many channels it holds along a fourth axis. chosen: what the user says (data.slice_axis).
    """
    grids = {}
    for path, n_channels in files:
        with _opened(path) as file:
            header = _header(path, file, n_channels)
        grids[path] = axes.Grid(header.shape[:3], tuple(header.zooms))
    return axes.of_set(grids, chosen)


def read(path: Path, *, channel: int = 0, n_channels: int = 1, slice_axis: int | None = None) -> Volume:
    """One 3-D volume, and of its header only what is used: sizes, spacing, affine, scaling.

    No byte is read that the header does not announce, and no volume that is larger than MAX_BYTES, so that neither a
    header nor a compressed file can claim more memory than that.

    Args: channel: which volume of n_channels along the fourth axis; a file of one channel must have three axes (or two).
        slice_axis: the stored axis that counts the slices, as slice_axes found it; None: by this file alone.
    Raises: InputError naming the file.
    """
    with _opened(path) as file:
        header = _header(path, file, n_channels)
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
    """The file, unpacked if it is compressed. Raises: InputError for all that goes wrong while it is read."""
    names.check_file(path)
    try:
        with path.open("rb") as raw:
            compressed = raw.peek(2)[:2] == b"\x1f\x8b"
            with gzip.GzipFile(fileobj=raw) if compressed else raw as file:
                yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: the file is damaged or was cut off ({_words(error)}). Copy it again.") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or _words(error)}). Restore it.") from error


def n_frames(path: Path) -> int:
    """How many volumes a file holds along its fourth axis; 1 where the header is such that `read` refuses it.

    Raises: InputError for a file that is none, and for a film of more than MAX_BYTES pixels.
    """
    names.check_file(path)
    try:
        with path.open("rb") as raw:
            compressed = raw.peek(2)[:2] == b"\x1f\x8b"
            with gzip.GzipFile(fileobj=raw) if compressed else raw as file:
                block = file.read(max(kind.sizeof_hdr for kind in HEADERS.values()))
        kind = HEADERS[block[:4]]
        shape = tuple(int(n) for n in kind(block[: kind.sizeof_hdr], check=False).get_data_shape())
    except Exception:  # what is wrong with it is for `read` to say
        return 1
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 4 or min(shape) < 1:
        return 1
    if math.prod(shape) > MAX_BYTES:
        raise InputError(
            f"{path}: the header announces {' x '.join(map(str, shape))} pixels; a film of more than {MAX_BYTES / 1e9:.1f} "
            "billion is not read. If it is so large, crop or resample it first; if not, copy it again."
        )
    return shape[3]


def _words(error: Exception) -> str:
    return str(error) or "it ends before its last pixel"


def _header(path: Path, file: io.BufferedIOBase, n_channels: int) -> _Header:
    """The header, from which the file is read on. Raises: InputError for one that cannot be."""
    first = file.read(4)
    kind = HEADERS.get(first)
    if kind is None:
        raise InputError(f"{path}: this is not a NIfTI file, whatever its name says. Replace it by the original.")
    block = first + _exactly(file, kind.sizeof_hdr - 4)
    try:
        header = kind(block, check=False)
        shape = tuple(int(n) for n in header.get_data_shape())
        dtype, offset, scale = header.get_data_dtype(), header.get_data_offset(), header.get_slope_inter()
        unit = MM[header.get_xyzt_units()[0]]
        zooms = [float(zoom) * unit for zoom in header.get_zooms()[:3]]
        stated = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
        with np.errstate(all="ignore"):  # what is not finite is refused below
            affine = np.diag([unit, unit, unit, 1.0]) @ header.get_best_affine() if stated else None
        single = header["magic"].item().startswith(b"n+")
    except Exception as error:  # a damaged header makes nibabel fail in many ways, none of them a bug of ours
        raise InputError(f"{path}: damaged NIfTI header ({type(error).__name__}). Copy the file again.") from None
    if not single:
        raise InputError(f"{path}: the header is not that of a single .nii file. Convert it to one.")
    while len(shape) > (4 if n_channels > 1 else 3) and shape[-1] == 1:
        shape = shape[:-1]
    _check_shape(path, shape, n_channels)
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise InputError(f"{path}: its pixels are {dtype}, not plain numbers. Convert it to a grey image.")
    n_pixels = math.prod(shape[:3])
    if n_pixels * max(dtype.itemsize, 4) > MAX_BYTES:
        raise InputError(
            f"{path}: the header announces {' x '.join(map(str, shape))} pixels of {dtype}; a volume of more than "
            f"{MAX_BYTES / 2**30:g} GiB is not read. If it is so large, crop or resample it first; if not, copy it again."
        )
    if not kind.sizeof_hdr <= offset <= kind.sizeof_hdr + MAX_EXTENSION_BYTES:
        raise InputError(f"{path}: the header says that pixels begin at byte {offset}, which cannot be. Copy the file again.")
    _check_geometry(path, zooms, affine)
    return _Header(shape, dtype, offset, scale, zooms, affine, header)


def _voxels(path: Path, file: io.BufferedIOBase, about: _Header, channel: int, n_channels: int) -> NDArray[Any]:
    """The pixels, scaled, with the stored axes in reverse. Of the file the header has been read, and nothing else."""
    shape, dtype = about.shape, about.dtype
    n_bytes = math.prod(shape[:3]) * dtype.itemsize
    too_long = f"{path}: it holds more than the {' x '.join(map(str, shape))} pixels of its header. Copy it again."
    if path.stat().st_size > 1.1 * (about.offset + n_channels * n_bytes) + CHUNK_BYTES:
        raise InputError(too_long)  # before gzip looks at each byte of what follows
    _pass_over(file, about.offset - int(about.stored.sizeof_hdr) + channel * n_bytes)
    content = _exactly(file, n_bytes)
    _pass_over(file, (n_channels - 1 - channel) * n_bytes)
    if file.read(1):  # reading to the end is also what makes gzip compare its checksum
        raise InputError(too_long)
    rows, columns, n_slices = shape[1], shape[0], shape[2] if len(shape) > 2 else 1
    voxels: NDArray[Any] = np.frombuffer(content, dtype).reshape(n_slices, rows, columns)
    slope, inter = about.scale
    if slope is not None and (slope, inter) != (1, 0):
        with np.errstate(over="ignore"):  # what becomes infinite is refused later
            voxels = voxels.astype(np.float32)
            voxels *= np.float32(slope)
            voxels += np.float32(inter or 0)
    return voxels


def encode(mask: NDArray[np.bool_], like: Nifti1Header, slice_axis: int = axes.LAST) -> bytes:
    """A .nii.gz file of a mask (K, H, W) as 0 and 1, on the grid of this header, of which nothing else is kept.

    Args: slice_axis: the stored axis that K counts, as Volume has it.
    """
    mask = np.moveaxis(mask, -3, -1 - slice_axis)
    header = type(like)()
    for name in GRID:
        header[name] = like[name]
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    header["vox_offset"] = header.sizeof_hdr + 4  # the four bytes say that no extension follows
    return gzip.compress(header.binaryblock + bytes(4) + mask.astype(np.uint8).tobytes(), 6, mtime=0)


def _exactly(file: io.BufferedIOBase, n_bytes: int) -> bytes:
    content = file.read(n_bytes)
    if len(content) < n_bytes:
        raise EOFError
    return content


def _pass_over(file: io.BufferedIOBase, n_bytes: int) -> None:
    """Read on without keeping anything; a seek in a file that was cut off would not be noticed."""
    while n_bytes > 0:
        n_bytes -= len(_exactly(file, min(n_bytes, CHUNK_BYTES)))


def _check_shape(path: Path, shape: tuple[int, ...], n_channels: int) -> None:
    size = " x ".join(map(str, shape))
    if len(shape) < 2 or min(shape) < 1:
        raise InputError(f"{path}: an image of {size or 'no'} pixels is none. Copy the file again.")
    if n_channels > 1 and (len(shape) != 4 or shape[3] != n_channels):
        raise InputError(
            f"{path}: an array of {size}, but dataset.json names {n_channels} channels, which would make a fourth axis of "
            f"{n_channels}. Correct dataset.json or the file."
        )
    if n_channels == 1 and len(shape) > 3:
        raise InputError(
            f"{path}: an array of {size} with {len(shape)} axes where one 3-D volume is expected. Give one frame alone."
        )


def _check_geometry(path: Path, zooms: list[float], affine: NDArray[np.float64] | None) -> None:
    """Spacing must be distances; an affine, where the header states one, must say the same."""
    if not all(SPACINGS_MM[0] <= zoom <= SPACINGS_MM[1] for zoom in zooms):
        raise InputError(
            f"{path}: the header gives the spacing as {' x '.join(f'{zoom:g}' for zoom in zooms)} mm (pixdim), without which "
            "nothing is known in mm. Restore it."
        )
    if affine is None:
        return
    with np.errstate(all="ignore"):
        columns = affine[:3, :3]
        lengths = np.sqrt((columns**2).sum(axis=0))
        volume = abs(np.linalg.det(columns / lengths)) if np.isfinite(affine).all() and lengths.all() else 0.0
    if not volume > 0.5:
        raise InputError(f"{path}: the affine is not that of an image: its axes do not span a space. Restore the header.")
    if volume < UPRIGHT:
        raise InputError(
            f"{path}: the affine is sheared: its axes are not at right angles, so that the sizes of a pixel tell neither "
            "distances nor volumes. Resample it onto an upright grid."
        )
    if not np.allclose(lengths[: len(zooms)], zooms, rtol=AGREE, atol=0):
        raise InputError(
            f"{path}: the affine gives the spacing as {' x '.join(f'{length:g}' for length in lengths)} mm, pixdim as "
            f"{' x '.join(f'{zoom:g}' for zoom in zooms)} mm: which one counts? Correct the header."
        )


def _check_same_grid(image: Path, pixels: Volume, label: Path, truth: Volume) -> None:
    """The label image must be drawn on the image's own grid; an origin that differs is said, since no pixel moves by it."""
    sizes = [
        " x ".join(map(str, np.moveaxis(volume.voxels, 0, 2 - volume.slice_axis).shape[::-1])) for volume in (pixels, truth)
    ]
    if sizes[0] != sizes[1]:
        raise InputError(f"{label}: it has {sizes[1]} pixels, its image {image.name} {sizes[0]}. Which labels belong to it?")
    is_3d = pixels.gap_mm is not None and truth.gap_mm is not None
    grids = [(*volume.spacing_mm, (volume.gap_mm or 0.0) if is_3d else 0.0) for volume in (pixels, truth)]
    if not np.allclose(grids[0], grids[1], rtol=AGREE, atol=0):
        spacings = [" x ".join(f"{distance:g}" for distance in grid) for grid in grids]
        raise InputError(
            f"{label}: its spacing (rows, columns, slices) is {spacings[1]} mm, that of its image {image.name} {spacings[0]} "
            "mm. Correct the header that is wrong."
        )
    if pixels.affine is None or truth.affine is None:
        return
    directions = [volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0) for volume in (pixels, truth)]  # type: ignore[index]
    if (directions[0] * directions[1]).sum(axis=0).min() < 0.99:
        raise InputError(
            f"{label}: its axes point elsewhere than those of its image {image.name}, so that pixel and label would not meet. "
            "Store both in one orientation."
        )
    moved = float(np.linalg.norm(pixels.affine[:3, 3] - truth.affine[:3, 3]))
    if moved > min(*pixels.spacing_mm, pixels.gap_mm or math.inf):
        log.warning("%s: its origin is %.1f mm from that of its image; pixels are taken as they are stored.", label, moved)


def _labels(label: Path, truth: Volume, labels: Labels) -> NDArray[Any]:
    """The volume's values as labels, those that storage as fractions has rounded as whole numbers.

    Raises: InputError for values that are none, and for labels that are not known.
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
                f"{label}: its values are not all whole numbers, as labels are ({few}), scaled by the header ({scaled}). "
                "Save the labels as integers, unscaled (scl_slope 1, scl_inter 0), as they were before."
            )
        raise InputError(
            f"{label}: its values are not all whole numbers, as labels are ({few}). If it is an image, replace it; if labels "
            "were interpolated, resample them to the nearest; then save them as integers."
        )
    unknown = whole[~np.isin(whole, sorted(labels.known))]
    if len(unknown):
        known = [str(value) for value in sorted(labels.known)]
        only = ", ".join(known[:MOST_SHOWN]) + (", ..." if len(known) > MOST_SHOWN else "")
        cure = f"The header scales it ({scaled}): save the labels as integers, unscaled." if scaled else "Correct one."
        raise InputError(
            f"{label}: it holds the label {unknown[0]:.0f}, which {labels.source} does not name (only {only}). {cure}"
        )
    return truth.voxels if truth.voxels.dtype.kind in "iu" else np.rint(truth.voxels)


def finite(path: Path, index: int, plane: NDArray[Any]) -> NDArray[np.float32]:
    """A copy of one slice as float32, so that no slice keeps its whole volume in memory."""
    with np.errstate(over="ignore"):
        image = plane.astype(np.float32)
    if bad := int((~np.isfinite(image)).sum()):
        raise InputError(
            f"{path}: {bad} pixels of slice {index} (from 0) are not finite numbers (NaN or infinite). Replace them, by 0 if "
            "they lie outside the body."
        )
    return image
