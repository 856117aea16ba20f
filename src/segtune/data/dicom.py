"""One DICOM image and the few tags that are used. Headers may hold names: only TAGS, PLACE and WHOSE are read, and no text
of them is stored or logged.
"""

import logging
import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000TransferSyntaxes

from segtune.data import names
from segtune.data.slices import SPACINGS_MM
from segtune.errors import InputError

logging.getLogger("pydicom").propagate = False  # it logs tracebacks, and warnings that quote headers, which may hold names

TAGS = [
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "PixelData"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelSpacing", "SpacingBetweenSlices", "ImagePositionPatient", "ImageOrientationPatient"),
]
PLACE = [  # of `read_place`, which reads no pixels
    *("TriggerTime", "InstanceNumber", "SeriesInstanceUID", "SOPInstanceUID"),
    *(tag for tag in TAGS if tag != "PixelData"),
]
WHOSE = ["PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID"]  # compared, as a hash; never kept

MAX_PIXELS = 2**24  # of one image: 4096 x 4096
MAX_BYTES = 2**27  # of one file: such an image at 32 bits, and as much again of all else
MAX_POSITION_MM = 1e6
JP2 = b"\0\0\0\x0cjP  "  # begins a JPEG 2000 file; pydicom can look for the pixels in one without end


class Header(NamedTuple):
    """The tags that are used, as numbers: spacing (row, column) and gap in mm; position and axes may be empty."""

    spacing_mm: tuple[float, float]
    gap_mm: float | None
    position: list[float]
    axes: list[float]


class Place(NamedTuple):
    """Where an image belongs among others. shape: (H, W). trigger_ms: in the beat; instance: its number; inf where not told.

    whose, series, image: differ between patients and studies, between series, and between images; they tell nothing else.
    """

    header: Header
    shape: tuple[int, int]
    trigger_ms: float
    instance: float
    whose: int
    series: int
    image: int


def read(path: Path) -> tuple[NDArray[np.float32], Header]:
    """The image (H, W) as stored and the few header tags that are used.

    Raises: InputError naming the file for anything that is no single grey image with a usable geometry.
    """
    names.check_file(path, MAX_BYTES)
    dataset = _dataset(path, TAGS)
    _check_pixels(path, dataset)
    with _explained(path):
        pixels = dataset.pixel_array
    return pixels.astype(np.float32), _header(path, dataset)


def read_place(path: Path) -> Place | None:
    """What tells where an image belongs, without its pixels; None for an object that says of itself that it is no image.

    Raises: InputError as `read`, but for what the pixels alone tell.
    """
    names.check_file(path)
    dataset = _dataset(path, [*PLACE, *WHOSE], stop_before_pixels=True)
    with _explained(path):
        kind = pydicom.uid.UID(str(dataset.file_meta.get("MediaStorageSOPClassUID", "")))
        if kind.name != kind and "Image Storage" not in kind.name:  # known: a directory, a report, raw data
            return None
        shape = tuple(int(n) for name in ("Rows", "Columns") for n in _numbers(dataset, name))
        trigger_ms, instance = ((*_numbers(dataset, name), math.inf)[0] for name in ("TriggerTime", "InstanceNumber"))
        whose = hash(tuple(str(dataset.get(name)) for name in WHOSE))
        series, image = (hash(str(dataset.get(name))) for name in ("SeriesInstanceUID", "SOPInstanceUID"))
        image = image if dataset.get("SOPInstanceUID") else hash(path)  # not told: the file's own
    if len(shape) != 2:
        raise InputError(f"{path}: the header gives no size (Rows, Columns), so there is no image in it. Move it elsewhere.")
    _check_grey(path, dataset)
    return Place(_header(path, dataset), (shape[0], shape[1]), trigger_ms, instance, whose, series, image)


def _dataset(path: Path, tags: list[str], *, stop_before_pixels: bool = False) -> pydicom.FileDataset:
    """What the file says under these tags. Raises: InputError naming the file."""
    with _explained(path):
        meta = pydicom.filereader.read_file_meta_info(path)
        is_deflated = meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
    if is_deflated:  # pydicom would inflate all of it, however much that is
        raise InputError(f"{path}: its header is compressed, too (deflated), which is not read. Store it uncompressed.")
    with _explained(path):
        return pydicom.dcmread(path, specific_tags=tags, stop_before_pixels=stop_before_pixels)


def _check_pixels(path: Path, dataset: pydicom.FileDataset) -> None:
    """Before they are decoded, which can take any amount of memory. Raises: InputError if they are not one grey image."""
    with _explained(path):
        rows, columns, bits = (int(dataset[name].value) for name in ("Rows", "Columns", "BitsAllocated"))
        content, syntax = bytes(dataset.PixelData or b""), dataset.file_meta.TransferSyntaxUID
        is_compressed = syntax.is_compressed
    _check_grey(path, dataset)
    if rows * columns > MAX_PIXELS:
        raise InputError(
            f"{path}: {rows} x {columns} pixels; more than {MAX_PIXELS / 1e6:.0f} million are not read. Crop or resample it."
        )
    if syntax in JPEG2000TransferSyntaxes and JP2 in content:
        raise InputError(f"{path}: its pixels are a whole JPEG 2000 file, which DICOM does not allow. Store it uncompressed.")
    n_bytes = rows * columns * bits / 8
    padding = n_bytes / 10 + 2**16 if is_compressed else min(rows, columns) * bits / 8  # what is less than a row or column
    if len(content) >= n_bytes + padding:
        raise InputError(f"{path}: it holds more than the {rows} x {columns} pixels of its header. Copy it again.")


def _check_grey(path: Path, dataset: pydicom.FileDataset) -> None:
    with _explained(path):
        n_values = int(dataset.get("SamplesPerPixel") or 1) * int(dataset.get("NumberOfFrames") or 1)
        is_grey = n_values == 1 and dataset.get("PhotometricInterpretation") == "MONOCHROME2"
    if not is_grey:
        raise InputError(
            f"{path}: expected one grey image (MONOCHROME2), not colours, several frames or inverted values. Convert it."
        )


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What pydicom says of a file, as an InputError without the header's values, one of which may be a name."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a warning of pydicom may quote one, too
            yield
    except pydicom.errors.InvalidDicomError:
        raise InputError(f"{path}: this is not a DICOM file, whatever its name says. Replace it by the original.") from None
    except RecursionError:
        raise InputError(f"{path}: its header is nested without end, or nearly so. Replace it by the original.") from None
    except RuntimeError as error:
        raise InputError(
            f"{path}: its pixels cannot be decoded; if they are compressed, install a decoder (pip install pylibjpeg "
            "pylibjpeg-libjpeg pylibjpeg-openjpeg), else copy the file again."
        ) from error
    except Exception as error:  # a damaged file makes pydicom fail in many ways, none of them a bug of ours
        raise InputError(f"{path}: damaged or incomplete DICOM file ({type(error).__name__}). Copy it again.") from None


def _header(path: Path, dataset: pydicom.Dataset) -> Header:
    with _explained(path):
        spacing_mm = _numbers(dataset, "PixelSpacing")
        gap_mm = [value for value in _numbers(dataset, "SpacingBetweenSlices") if value]  # 0: not known
        position, axes = _numbers(dataset, "ImagePositionPatient"), _numbers(dataset, "ImageOrientationPatient")
    if len(spacing_mm) != 2 or not all(SPACINGS_MM[0] <= value <= SPACINGS_MM[1] for value in spacing_mm):
        raise InputError(f"{path}: the header has no usable PixelSpacing, without which nothing is known in mm. Restore it.")
    if not (gap_mm == [] or (len(gap_mm) == 1 and SPACINGS_MM[0] <= gap_mm[0] <= SPACINGS_MM[1])):
        raise InputError(f"{path}: SpacingBetweenSlices is {gap_mm}, not a distance in mm. Restore it or remove the tag.")
    is_near = all(abs(value) <= MAX_POSITION_MM for value in position) and all(abs(value) < 1.01 for value in axes)
    if len(position) not in (0, 3) or len(axes) not in (0, 6) or not is_near:
        raise InputError(
            f"{path}: ImagePositionPatient (3 numbers) or ImageOrientationPatient (6) is not usable. Restore or remove them."
        )
    return Header((spacing_mm[0], spacing_mm[1]), gap_mm[0] if gap_mm else None, position, axes)


def _numbers(header: pydicom.Dataset, name: str) -> list[float]:
    """A tag's values; empty if it is absent or empty."""
    value = header.get(name)
    if value is None or value == "":
        return []
    return [float(one) for one in ([value] if isinstance(value, str | int | float) else value)]


def gap_mm(headers: Iterable[tuple[int, Header]]) -> float | None:
    """Distance of neighbouring slice centres [mm]: the tag for it, else from the positions; None where neither tells.

    Args: headers: of one patient's images, each with the number of its slice.
    """
    headers = list(headers)
    stated = [header.gap_mm for _, header in headers if header.gap_mm is not None]
    if stated:
        return float(np.median(stated))
    positions = {}
    for index, header in headers:
        if header.position and header.axes:
            across, down = np.array(header.axes).reshape(2, 3)
            positions[index] = float(np.dot(np.cross(across, down), np.array(header.position)))
    gaps = [abs(positions[b] - positions[a]) / (b - a) for a, b in pairwise(sorted(positions))]
    return float(np.median(gaps)) if gaps and np.median(gaps) > 0 else None
