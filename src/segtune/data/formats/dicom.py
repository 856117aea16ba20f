"""DICOM images and the few tags that are used. Headers may hold names: only TAGS, PLACE and WHOSE are read, and no text
of them is stored or logged.

A file holds one image or, as Enhanced MR, several frames, each of which is an image with tags of its own: those of its
functional groups.
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
from segtune.data.formats.dicom_errors import explained
from segtune.data.formats.dicom_pixels import check_grey, check_pixels, decoder_of
from segtune.data.slices import SPACINGS_MM
from segtune.errors import InputError

logging.getLogger("pydicom").propagate = False  # it logs tracebacks, and warnings that quote headers, which may hold names

IMAGE_CODE = "pydicom.dcmread(path).pixel_array"  # for a model card
GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")  # a later one replaces an earlier one's tags
TAGS = [
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "PixelData"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelSpacing", "SpacingBetweenSlices", "ImagePositionPatient", "ImageOrientationPatient"),
    *(*grey.TAGS, *GROUPS),
]
PLACE = [  # of `read_places`, which reads no pixels
    *("TriggerTime", "InstanceNumber", "SeriesInstanceUID", "SOPInstanceUID", "DimensionIndexSequence"),
    *(tag for tag in TAGS if tag != "PixelData"),
]
PERSON, STUDY = ("PatientID", "PatientName", "PatientBirthDate"), "StudyInstanceUID"
WHOSE = [*PERSON, STUDY]  # compared, as hashes; never kept
OF_A_FRAME = (  # the functional groups that are read: what they hold is a frame's as if it were an image's own
    *("PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence", "PixelValueTransformationSequence"),
    *("FrameContentSequence", "CardiacSynchronizationSequence", "TemporalPositionSequence", "MRImageFrameTypeSequence"),
    *("CTImageFrameTypeSequence", "MREchoSequence", "MRDiffusionSequence", "MRModifierSequence"),
)
TIMES = ("NominalCardiacTriggerDelayTime", "TriggerTime")  # of an image in the beat [ms]
ORDERS = ("TemporalPositionIndex", *TIMES)  # what a dimension may count that orders the phases
ACQUIRED = ("FrameType", "ComplexImageComponent", "StackID", "EffectiveEchoTime", "DiffusionBValue", "InversionTimes")

MAX_BYTES = 2**27  # of one image's file: such an image at 32 bits, and as much again of all else
MAX_FILM_BYTES = 2**30  # of a file of several frames
MAX_POSITION_MM = 1e6


class Header(NamedTuple):
    """The tags that are used, as numbers: spacing (row, column) and gap in mm; position and axes may be empty."""

    spacing_mm: tuple[float, float]
    gap_mm: float | None
    position: list[float]
    axes: list[float]


class Place(NamedTuple):
    """Where an image belongs among others. shape: (H, W). trigger_ms: in the beat; instance: its number; inf where not told.

    person, study, series, image: differ between these; they tell nothing else, and are 0 where the header does not tell them
    (image: never). frame: in its file, from 0.
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
    """The only image of a file (H, W), larger values brighter (see `grey`), and the few header tags that are used.

    Raises: InputError naming the file for anything that is no single grey image with a usable geometry.
    """
    names.check_file(path, MAX_BYTES)
    dataset = _dataset(path, TAGS)
    if (n := _n_frames(path, dataset)) != 1:
        raise InputError(f"{path}: expected one grey image, not {n} frames (NumberOfFrames). Store each as a file of its own.")
    ((_, image, header),) = _images(path, dataset, [0])
    return image, header


def read_frames(path: Path, frames: Sequence[int]) -> Iterator[tuple[int, NDArray[np.float32], Header]]:
    """Some of a file's images [frame, from 0], each as `read` gives it. Raises: InputError as `read`."""
    names.check_file(path, MAX_FILM_BYTES if len(frames) > 1 else MAX_BYTES)
    yield from _images(path, _dataset(path, TAGS), frames)


def read_places(path: Path) -> list[Place]:
    """What tells where a file's images belong, without their pixels; empty for an object that says that it is no image.

    Raises: InputError as `read`, but for what the pixels alone tell.
    """
    names.check_file(path)
    dataset = _dataset(path, [*PLACE, *WHOSE], stop_before_pixels=True)
    with explained(path):
        kind = UID(str(dataset.file_meta.get("MediaStorageSOPClassUID", "")))
        if kind.name != kind and "Image Storage" not in kind.name:  # known: a directory, a report, raw data
            return []
        shape = tuple(int(n) for name in ("Rows", "Columns") for n in _numbers(dataset, name))
        person, study, series = (
            _hash(*(dataset.get(name) for name in tags)) for tags in (PERSON, [STUDY], ["SeriesInstanceUID"])
        )
        image = _hash(dataset.get("SOPInstanceUID")) or hash(path)  # not told: the file's own
    if len(shape) != 2:
        raise InputError(f"{path}: the header gives no size (Rows, Columns), so there is no image in it. Move it elsewhere.")
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
    """Differs between values, but for their case and what fills them up; 0 if all are empty."""
    texts = tuple("" if value is None else str(value).upper().rstrip("^ \0").strip() for value in values)
    return hash(texts) or 1 if any(texts) else 0


def _counted(dataset: pydicom.Dataset, tags: pydicom.Dataset) -> list[float]:
    """A frame's number among the phases, where one of the file's dimensions counts them."""
    wanted = [pydicom.datadict.tag_for_keyword(name) for name in ORDERS]
    pointers = [item.get("DimensionIndexPointer") for item in dataset.get("DimensionIndexSequence") or []]
    indices = _numbers(tags, "DimensionIndexValues")
    return [index for pointer, index in zip(pointers, indices, strict=False) if pointer in wanted]


def _dataset(path: Path, tags: list[str], *, stop_before_pixels: bool = False) -> pydicom.FileDataset:
    """What the file says under these tags. Raises: InputError naming the file."""
    with explained(path):
        meta = pydicom.filereader.read_file_meta_info(path)
        is_deflated = meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
    if is_deflated:  # pydicom would inflate all of it, however much that is
        raise InputError(f"{path}: its header is compressed, too (deflated), which is not read. Store it uncompressed.")
    with explained(path):
        return pydicom.dcmread(path, specific_tags=tags, stop_before_pixels=stop_before_pixels)


def _n_frames(path: Path, dataset: pydicom.FileDataset) -> int:
    """How many images there are. Raises: InputError for several of which the file does not say where each one lies."""
    with explained(path):
        n = int(dataset.get("NumberOfFrames") or 1)
        n_told = len(dataset.get(GROUPS[1]) or [])
    if n != 1 and n_told == 0:
        raise InputError(
            f"{path}: expected one grey image, not {n} frames (NumberOfFrames) of which the header does not say where each "
            "lies, as that of Enhanced MR does (PerFrameFunctionalGroupsSequence). Store each frame as a file of its own."
        )
    if n_told not in (0, n):
        raise InputError(
            f"{path}: NumberOfFrames is {n}, but {n_told} are described (PerFrameFunctionalGroupsSequence). Copy it again."
        )
    return n


def _tags_of(path: Path, dataset: pydicom.Dataset, frame: int) -> pydicom.Dataset:
    """The tags of one image: the file's own and, for a frame, those of its functional groups."""
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
            raise InputError(f"{path}: its pixels are not the {shape[0]} x {shape[1]} of its header. Copy it again.")
        tags = _tags_of(path, dataset, frame)
        with explained(path):
            image = grey.values(path, pixels, tags, little_endian=is_little_endian)
        yield frame, image, _header(path, tags)


def _header(path: Path, dataset: pydicom.Dataset) -> Header:
    with explained(path):
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
