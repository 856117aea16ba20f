"""Read DICOM images, and the few header tags that segtune needs.

Headers may contain names of persons. Therefore only the tags in TAGS, PLACE and IDENTITY are read, and their text is neither
stored nor logged.

A file contains one image or, in Enhanced MR, several frames. Each frame is an image, and its tags are in its functional
groups.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels import iter_pixels
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from segtune.data import names
from segtune.data.formats import grey
from segtune.data.formats.dicom_checks import check_grey, check_pixels, decoder_of
from segtune.data.formats.dicom_errors import explained
from segtune.data.slices import SPACINGS_MM
from segtune.errors import InputError

logging.getLogger("pydicom").propagate = False  # its log quotes headers, which may contain names of persons

IMAGE_CODE = "pydicom.dcmread(path).pixel_array"  # for a model card
GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")  # tags in the second replace those in the first
TAGS = [
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "PixelData"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelSpacing", "SpacingBetweenSlices", "ImagePositionPatient", "ImageOrientationPatient"),
    *(*grey.TAGS, *GROUPS),
]
PLACE = [  # tags for `read_places`, which reads no pixels
    *("TriggerTime", "InstanceNumber", "SeriesInstanceUID", "SOPInstanceUID", "DimensionIndexSequence"),
    *(tag for tag in TAGS if tag != "PixelData"),
]
PERSON, STUDY = ("PatientID", "PatientName", "PatientBirthDate"), "StudyInstanceUID"
IDENTITY = [*PERSON, STUDY]  # compared as hashes, never stored
OF_A_FRAME = (  # the functional groups that are read for a frame's tags
    *("PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence", "PixelValueTransformationSequence"),
    *("FrameContentSequence", "CardiacSynchronizationSequence", "TemporalPositionSequence", "MRImageFrameTypeSequence"),
    *("CTImageFrameTypeSequence", "MREchoSequence", "MRDiffusionSequence", "MRModifierSequence"),
)
TIMES = ("NominalCardiacTriggerDelayTime", "TriggerTime")  # tags for the time of an image in the heartbeat [ms]
ORDERS = ("TemporalPositionIndex", *TIMES)  # a dimension with one of these tags gives the order of the phases
ACQUIRED = ("FrameType", "ComplexImageComponent", "StackID", "EffectiveEchoTime", "DiffusionBValue", "InversionTimes")

MAX_BYTES = 2**27  # of a file with one image: the largest image at 32 bits, and as much again for everything else
MAX_FILM_BYTES = 2**30  # of a file with several frames
MAX_POSITION_MM = 1e6


class Header(NamedTuple):
    """The geometry in a DICOM header.

    Attributes:
        spacing_mm: spacing of rows and columns [mm].
        gap_mm: distance of neighbouring slices [mm]; None if the header does not give it.
        position, axes: ImagePositionPatient and ImageOrientationPatient; empty if absent.
    """

    spacing_mm: tuple[float, float]
    gap_mm: float | None
    position: list[float]
    axes: list[float]


class Place(NamedTuple):
    """The place of an image among the other images of a patient.

    Attributes:
        shape: (H, W).
        trigger_ms: time in the heartbeat [ms]; inf if unknown.
        instance: the image's number; inf if unknown.
        person, study, series: hashes that identify the person, the study and the series; 0 if unknown.
        image: hash that identifies the image; always known.
        frame: index of the image in the file, from 0.
    """

    header: Header
    shape: tuple[int, int]
    trigger_ms: float
    instance: float
    person: int
    study: int
    series: int
    image: int
    frame: int


def read(path: Path) -> tuple[NDArray[np.float32], Header]:
    """Read the image (H, W) and the header of a file with a single image. Larger values are brighter (see `grey`).

    Raises: InputError that names the file, if it is not a single grey image with a usable geometry.
    """
    names.check_file(path, MAX_BYTES)
    dataset = _dataset(path, TAGS)
    if (n := _n_frames(path, dataset)) != 1:
        raise InputError(
            f"{path}: expected one grey image, not {n} frames (NumberOfFrames). Store each frame in a file of its own."
        )
    ((_, image, header),) = _images(path, dataset, [0])
    return image, header


def read_frames(path: Path, frames: Sequence[int]) -> Iterator[tuple[int, NDArray[np.float32], Header]]:
    """Read some images of a file one by one.

    Args: frames: the indices of these images in the file, from 0.
    Returns: the index, the pixels and the header of each image. Pixels and header are those that `read` returns.
    Raises: InputError as in `read`.
    """
    names.check_file(path, MAX_FILM_BYTES if len(frames) > 1 else MAX_BYTES)
    yield from _images(path, _dataset(path, TAGS), frames)


def read_places(path: Path) -> list[Place]:
    """Read the Place of each image in a file, without its pixels. The list is empty for DICOM objects without images.

    Raises: InputError as in `read`, except for errors in the pixels.
    """
    names.check_file(path)
    dataset = _dataset(path, [*PLACE, *IDENTITY], stop_before_pixels=True)
    with explained(path):
        kind = UID(str(dataset.file_meta.get("MediaStorageSOPClassUID", "")))
        if (
            kind.name != kind and "Image Storage" not in kind.name
        ):  # a known DICOM object without an image, such as a directory or a report
            return []
        shape = tuple(int(n) for name in ("Rows", "Columns") for n in _numbers(dataset, name))
        person, study, series = (
            _hash(*(dataset.get(name) for name in tags)) for tags in (PERSON, [STUDY], ["SeriesInstanceUID"])
        )
        image = _hash(dataset.get("SOPInstanceUID")) or hash(path)  # without the tag, each file is an image of its own
    if len(shape) != 2:
        raise InputError(f"{path}: the header gives no size (Rows, Columns), so the file contains no image. Move it elsewhere.")
    check_grey(path, dataset)
    n_frames, places = _n_frames(path, dataset), []
    for frame in range(n_frames):
        tags = _tags_of(path, dataset, frame)
        with explained(path):
            trigger_ms = next((value for name in TIMES for value in _numbers(tags, name)), math.inf)
            instance = (*_numbers(dataset, "InstanceNumber"), math.inf)[0]
            is_enhanced = any(name in dataset for name in GROUPS)
            if n_frames > 1:
                instance = (*_numbers(tags, "TemporalPositionIndex"), *_counted(dataset, tags), frame)[0]
            of = _hash(series, *(tags.get(name) for name in ACQUIRED)) if is_enhanced else series
        header, about = _header(path, tags), (person, study, of, hash((image, frame)) if frame else image, frame)
        places.append(Place(header, (shape[0], shape[1]), trigger_ms, instance, *about))
    return places


def _hash(*values: object) -> int:
    """A hash of the values that ignores case and padding; 0 if all are empty."""
    texts = tuple("" if value is None else str(value).upper().rstrip("^ \0").strip() for value in values)
    return hash(texts) or 1 if any(texts) else 0


def _counted(dataset: pydicom.Dataset, tags: pydicom.Dataset) -> list[float]:
    """Return a list with the index of the frame's phase. The list is empty if the file has no dimension for phases."""
    wanted = [pydicom.datadict.tag_for_keyword(name) for name in ORDERS]
    pointers = [item.get("DimensionIndexPointer") for item in dataset.get("DimensionIndexSequence") or []]
    indices = _numbers(tags, "DimensionIndexValues")
    return [index for pointer, index in zip(pointers, indices, strict=False) if pointer in wanted]


def _dataset(path: Path, tags: list[str], *, stop_before_pixels: bool = False) -> pydicom.FileDataset:
    """Read these tags of a file. Raises: InputError that names the file."""
    with explained(path):
        meta = pydicom.filereader.read_file_meta_info(path)
        is_deflated = meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
    if is_deflated:  # pydicom would decompress all of the file, whatever its size
        raise InputError(f"{path}: its header is compressed (deflated), which is not supported. Store it uncompressed.")
    with explained(path):
        return pydicom.dcmread(path, specific_tags=tags, stop_before_pixels=stop_before_pixels)


def _n_frames(path: Path, dataset: pydicom.FileDataset) -> int:
    """Return the number of images in the file.

    Raises: InputError if several images have no positions, or if the header contradicts itself about their number.
    """
    with explained(path):
        n = int(dataset.get("NumberOfFrames") or 1)
        n_described = len(dataset.get(GROUPS[1]) or [])
    if n != 1 and n_described == 0:
        raise InputError(
            f"{path}: expected one grey image, not {n} frames (NumberOfFrames) without positions. Enhanced "
            "MR stores the positions in PerFrameFunctionalGroupsSequence. Store each frame in a file of its own."
        )
    if n_described not in (0, n):
        raise InputError(
            f"{path}: NumberOfFrames is {n}, but PerFrameFunctionalGroupsSequence describes {n_described} frames. "
            "Copy the file again."
        )
    return n


def _tags_of(path: Path, dataset: pydicom.Dataset, frame: int) -> pydicom.Dataset:
    """Return the tags of one image.

    For a file with a single image, these are the tags of the file. In Enhanced MR, the tags in the functional groups of
    the frame are added.
    """
    if not any(name in dataset for name in GROUPS):
        return dataset
    found = pydicom.Dataset()
    with explained(path):
        for element in dataset:
            if element.keyword not in (*GROUPS, "PixelData"):
                found[element.tag] = element
        shared, per_frame = (dataset.get(name) or [] for name in GROUPS)
        for groups in (*shared[:1], *per_frame[frame : frame + 1]):
            for name in OF_A_FRAME:
                for item in groups.get(name) or []:
                    found.update(item)
            if values := groups.get("RealWorldValueMappingSequence"):
                found.RealWorldValueMappingSequence = values
    return found


def _images(
    path: Path, dataset: pydicom.FileDataset, frames: Sequence[int]
) -> Iterator[tuple[int, NDArray[np.float32], Header]]:
    n_frames = _n_frames(path, dataset)
    shape = check_pixels(path, dataset, n_frames)
    with explained(path):
        syntax = dataset.file_meta.TransferSyntaxUID
        is_little_endian = syntax.is_little_endian
        decoded = iter_pixels(dataset, indices=list(frames) if n_frames > 1 else None, allow_excess_frames=False)
    _, missing = decoder_of(path, syntax)
    for frame in frames:
        with explained(path, missing):
            pixels = next(decoded)
        if pixels.shape != shape:
            raise InputError(
                f"{path}: its pixels do not have the size {shape[0]} x {shape[1]} in its header. Copy the file again."
            )
        tags = _tags_of(path, dataset, frame)
        with explained(path):
            image = grey.values(path, pixels, tags, little_endian=is_little_endian)
        yield frame, image, _header(path, tags)


def _header(path: Path, dataset: pydicom.Dataset) -> Header:
    with explained(path):
        spacing_mm = _numbers(dataset, "PixelSpacing")
        gap_mm = [value for value in _numbers(dataset, "SpacingBetweenSlices") if value]  # 0: unknown
        position, axes = _numbers(dataset, "ImagePositionPatient"), _numbers(dataset, "ImageOrientationPatient")
    if len(spacing_mm) != 2 or not all(SPACINGS_MM[0] <= value <= SPACINGS_MM[1] for value in spacing_mm):
        raise InputError(f"{path}: the header has no usable PixelSpacing, so distances in mm are unknown. Correct the tag.")
    if not (gap_mm == [] or (len(gap_mm) == 1 and SPACINGS_MM[0] <= gap_mm[0] <= SPACINGS_MM[1])):
        raise InputError(f"{path}: SpacingBetweenSlices is {gap_mm}, not a distance in mm. Correct or remove the tag.")
    is_near = all(abs(value) <= MAX_POSITION_MM for value in position) and all(abs(value) < 1.01 for value in axes)
    if len(position) not in (0, 3) or len(axes) not in (0, 6) or not is_near:
        raise InputError(
            f"{path}: ImagePositionPatient (3 numbers) or ImageOrientationPatient (6) is unusable. Correct or remove both."
        )
    return Header((spacing_mm[0], spacing_mm[1]), gap_mm[0] if gap_mm else None, position, axes)


def _numbers(header: pydicom.Dataset, name: str) -> list[float]:
    """The values of a tag; an empty list if the tag is absent or empty."""
    value = header.get(name)
    if value is None or value == "":
        return []
    return [float(one) for one in ([value] if isinstance(value, str | int | float) else value)]


def gap_mm(headers: Iterable[tuple[int, Header]]) -> float | None:
    """Return the distance of neighbouring slice centres [mm]; None if unknown.

    It is taken from SpacingBetweenSlices, or calculated from the positions if this tag is absent.

    Args: headers: the slice index and the header of each image of one patient.
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
