"""Reader of the Right Ventricle Segmentation Challenge's files (RVSC, MICCAI 2012): DICOM images, contours as text.

Both layouts are read: a folder per patient (patient09/P09list.txt, P09dicom/, P09contours-manual/) and the flat copies.
Everything is keyed on file names: P09-0020.dcm is frame 20 of patient P09, and frame = 20 * slice + phase. DICOM headers
may hold names; only the tags listed here are read, none is stored or logged.

Phase. A patient is expected to be contoured at exactly two of its 20 cardiac phases: end-diastole is the one whose
contours enclose the larger area (on average over the slices contoured at both; the earlier one if equal), end-systole
the other. A patient that does not fit, with one phase or more than two, has phase None throughout.
"""

import logging
import math
import os
import re
import warnings
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
from numpy.typing import NDArray

from segtune.data import contours
from segtune.data.slices import Phase, Slice, SliceSet
from segtune.errors import InputError

log = logging.getLogger(__name__)

TARGETS = {"endocardium": "i", "epicardium": "o"}
PHASES_PER_SLICE = 20
DICOM_NAME = re.compile(r"(P\d+)-(\d{4})\.dcm", re.IGNORECASE)
CONTOUR_NAME = re.compile(r"(P\d+)-(\d{4})-([io])contour-manual\.txt", re.IGNORECASE)
LIST_NAME = re.compile(r"(P\d+)list\.txt", re.IGNORECASE)
TAGS = [
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "PixelData"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelSpacing", "SpacingBetweenSlices", "ImagePositionPatient", "ImageOrientationPatient"),
]
Key = tuple[str, int]  # patient, frame


def read(root: str | os.PathLike[str], *, target: str) -> SliceSet:
    """Every frame that has a contour of the target, patients in order of their number, frames in order of theirs.

    Args:
        root: the folder TrainingSet, or its parent.
        target: "endocardium" (inner contour) or "epicardium" (outer contour).
    Raises: InputError naming the file, and line where there is one, for anything missing, damaged or contradictory.
    """
    if target not in TARGETS:
        raise InputError(f"data.target={target}: RVSC has the contours {' and '.join(TARGETS)}.")
    folder = Path(root).expanduser()
    folder = folder / "TrainingSet" if (folder / "TrainingSet").is_dir() else folder
    if not folder.is_dir():
        raise InputError(f"data.root={root}: there is no such folder.")
    dicoms, outlines, lists = _find(folder)
    if not dicoms:
        raise InputError(
            f"data.root={root}: no RVSC image found below {folder} (files named like P09-0020.dcm). "
            "Give the folder TrainingSet or its parent."
        )
    kind = TARGETS[target]
    wanted = {(patient, frame) for patient, frame, letter in outlines if letter == kind}
    for patient, list_file in lists.items():
        listed = set(_listed(list_file, patient, kind, dicoms, outlines))
        if listed and (extra := {key for key in wanted if key[0] == patient} - listed):
            log.warning("%s does not list %s; read all the same.", list_file, ", ".join(_name(*key) for key in sorted(extra)))
        wanted |= listed
    for patient in sorted({patient for patient, _ in dicoms} - {patient for patient, _ in wanted}):
        raise InputError(
            f"{folder}: patient {patient} has images but no {target} contour "
            f"({patient}-NNNN-{kind}contour-manual.txt). Add the contours or move the patient's files elsewhere."
        )
    return SliceSet(item for patient in _by_number(wanted) for item in _read_patient(patient, dicoms, outlines, kind))


def _find(folder: Path) -> tuple[dict[Key, Path], dict[tuple[str, int, str], Path], dict[str, Path]]:
    """Images, contours and list files below a folder, by what their names say."""
    dicoms: dict[Key, Path] = {}
    outlines: dict[tuple[str, int, str], Path] = {}
    lists: dict[str, Path] = {}

    def add(table: dict[Any, Path], key: Any, path: Path) -> None:
        if key in table:
            raise InputError(f"{path} and {table[key]} have the same name: which one counts? Move one elsewhere.")
        table[key] = path

    for directory, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(directory) / name
            if match := DICOM_NAME.fullmatch(name):
                add(dicoms, (match[1].upper(), int(match[2])), path)
            elif match := CONTOUR_NAME.fullmatch(name):
                add(outlines, (match[1].upper(), int(match[2]), match[3].lower()), path)
            elif match := LIST_NAME.fullmatch(name):
                add(lists, match[1].upper(), path)
    return dicoms, outlines, lists


def _listed(
    list_file: Path, patient: str, kind: str, dicoms: dict[Key, Path], outlines: dict[tuple[str, int, str], Path]
) -> Iterable[Key]:
    """Frames for which a list file names a contour of this kind; each must be there, and its image too."""
    try:
        lines = list_file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise InputError(f"{list_file}: cannot be read ({error.strerror}). Restore it or remove it.") from error
    for number, line in enumerate(lines, start=1):
        name = line.strip().replace("\\", "/").rsplit("/", 1)[-1]
        if not name:
            continue
        match = CONTOUR_NAME.fullmatch(name)
        if not match or match[1].upper() != patient:
            raise InputError(
                f"{list_file}, line {number}: {line.strip()[:80]!r} does not name a contour of patient {patient} "
                f"(like {patient}-0020-icontour-manual.txt)."
            )
        key = (patient, int(match[2]))
        if key not in dicoms:
            raise InputError(
                f"{list_file}, line {number}: it lists frame {match[2]}, but there is no {_name(*key)}.dcm. "
                "Add the image or remove the line."
            )
        if match[3].lower() != kind:
            continue
        if (*key, kind) not in outlines:
            raise InputError(f"{list_file}, line {number}: the contour file {name} is missing. Add it or remove the line.")
        yield key


def _read_patient(patient: str, dicoms: dict[Key, Path], outlines: dict[tuple[str, int, str], Path], kind: str) -> list[Slice]:
    """All labelled frames of one patient."""
    frames = sorted(frame for name, frame, letter in outlines if name == patient and letter == kind)
    images, headers, masks, areas = {}, {}, {}, {}
    for frame in frames:
        outline = outlines[patient, frame, kind]
        if (patient, frame) not in dicoms:
            raise InputError(f"{outline}: there is no image {_name(patient, frame)}.dcm for this contour. Add it.")
        points = contours.read(outline)
        images[frame], headers[frame] = _read_dicom(dicoms[patient, frame])
        try:
            masks[frame] = contours.mask(points, images[frame].shape)
        except InputError as error:
            raise InputError(f"{outline}: {error}") from None
        areas[frame] = contours.area(points)
    phases = _phases(areas)
    gap_mm = _gap_mm(headers)
    return [
        Slice(
            image=images[frame],
            mask=masks[frame],
            patient=patient,
            frame=frame,
            slice_index=frame // PHASES_PER_SLICE,
            phase=phases[frame],
            spacing_mm=headers[frame].spacing_mm,
            gap_mm=gap_mm,
        )
        for frame in frames
    ]


class Header(NamedTuple):
    """The tags that are used, as numbers: spacing (row, column) and gap in mm; position and axes may be empty."""

    spacing_mm: tuple[float, float]
    gap_mm: float | None
    position: list[float]
    axes: list[float]


def _read_dicom(path: Path) -> tuple[NDArray[np.float32], Header]:
    """The image (H, W) as stored and the few header tags that are used."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a warning of pydicom may quote a header value, and that may be a name
            header = pydicom.dcmread(path, specific_tags=TAGS)
            pixels = header.pixel_array
            spacing_mm = _numbers(header, "PixelSpacing")
            gap_mm = [value for value in _numbers(header, "SpacingBetweenSlices") if value]  # 0: not known
            position, axes = _numbers(header, "ImagePositionPatient"), _numbers(header, "ImageOrientationPatient")
    except pydicom.errors.InvalidDicomError:
        raise InputError(f"{path}: this is not a DICOM file, whatever its name says. Replace it by the original.") from None
    except RuntimeError as error:
        raise InputError(
            f"{path}: its pixels cannot be decoded; if they are compressed, install a decoder (pip install pylibjpeg "
            "pylibjpeg-libjpeg pylibjpeg-openjpeg), else copy the file again."
        ) from error
    except Exception as error:  # a damaged file makes pydicom fail in many ways, none of them a bug of ours
        raise InputError(f"{path}: damaged or incomplete DICOM file ({type(error).__name__}). Copy it again.") from None
    if pixels.ndim != 2:
        raise InputError(f"{path}: expected one grey image, found an array of shape {pixels.shape}.")
    if len(spacing_mm) != 2 or not all(0 < value < math.inf for value in spacing_mm):
        raise InputError(f"{path}: the header has no usable PixelSpacing, without which nothing is known in mm. Restore it.")
    if not (gap_mm == [] or (len(gap_mm) == 1 and 0 < gap_mm[0] < math.inf)):
        raise InputError(f"{path}: SpacingBetweenSlices is {gap_mm}, not a distance in mm. Restore it or remove the tag.")
    if len(position) not in (0, 3) or len(axes) not in (0, 6) or not np.isfinite([*position, *axes]).all():
        raise InputError(
            f"{path}: ImagePositionPatient (3 numbers) or ImageOrientationPatient (6) is not usable. Restore or remove them."
        )
    return pixels.astype(np.float32), Header((spacing_mm[0], spacing_mm[1]), gap_mm[0] if gap_mm else None, position, axes)


def _numbers(header: pydicom.Dataset, name: str) -> list[float]:
    """A tag's values; empty if it is absent or empty."""
    value = header.get(name)
    if value is None or value == "":
        return []
    return [float(one) for one in ([value] if isinstance(value, str | int | float) else value)]


def _phases(areas: dict[int, float]) -> dict[int, Phase | None]:
    """End-diastole or end-systole per labelled frame, by the rule at the head of this file."""
    at: dict[int, dict[int, float]] = {}
    for frame, value in areas.items():
        at.setdefault(frame % PHASES_PER_SLICE, {})[frame // PHASES_PER_SLICE] = value
    if len(at) != 2:
        return dict.fromkeys(areas)
    first, second = sorted(at)
    both = at[first].keys() & at[second].keys() or at[first].keys() | at[second].keys()
    larger_first = sum(at[first].get(i, 0) for i in both) >= sum(at[second].get(i, 0) for i in both)
    diastole = first if larger_first else second
    return {frame: "ED" if frame % PHASES_PER_SLICE == diastole else "ES" for frame in areas}


def _gap_mm(headers: dict[int, Header]) -> float | None:
    """Distance of neighbouring slice centres [mm]: the tag for it, else from the positions of the labelled slices."""
    stated = [header.gap_mm for header in headers.values() if header.gap_mm is not None]
    if stated:
        return float(np.median(stated))
    positions = {}
    for frame, header in headers.items():
        if header.position and header.axes:
            across, down = np.array(header.axes).reshape(2, 3)
            positions[frame // PHASES_PER_SLICE] = float(np.dot(np.cross(across, down), np.array(header.position)))
    steps = sorted(positions)
    gaps = [abs(positions[b] - positions[a]) / (b - a) for a, b in pairwise(steps)]
    return float(np.median(gaps)) if gaps and np.median(gaps) > 0 else None


def _name(patient: str, frame: int) -> str:
    return f"{patient}-{frame:04d}"


def _by_number(keys: Iterable[Key]) -> list[str]:
    return sorted({patient for patient, _ in keys}, key=lambda patient: int(patient[1:]))
