"""Reader of the Right Ventricle Segmentation Challenge (RVSC, MICCAI 2012): DICOM images, and contours as text files.

Two layouts are read: a folder per patient (patient09/P09list.txt, P09dicom/, P09contours-manual/), and copies with all files in
one folder. Files are identified by their names: P09-0020.dcm is frame 20 of patient P09, and frame = 20 * slice + phase.

Phase: a patient should be contoured at exactly two of its 20 cardiac phases. End-diastole is the phase with the larger
mean contour area over the slices that are contoured at both phases. If the areas are equal, it is the earlier phase.
End-systole is the other phase. If a patient is contoured at one phase, or at more than two, the phase of all its slices
is None.

Contour files whose names end in -auto were computed by software, for example by segtune.predict. They are read only if
there are no contour files whose names end in -manual. In this case a warning is logged, and list files are ignored,
because list files name manual contours.
"""

import logging
import os
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from segtune.data import names
from segtune.data.formats import contours, dicom
from segtune.data.formats.files import is_companion, is_dicom, is_text, log_not_read
from segtune.data.readers import ContourFile, Reader
from segtune.data.slices import Phase, Slice, SliceSet
from segtune.errors import InputError

log = logging.getLogger(__name__)

TARGETS = {"endocardium": "i", "epicardium": "o"}
PHASES_PER_SLICE = 20
DICOM_NAME = re.compile(r"(P\d+)-(\d{4})\.dcm", re.IGNORECASE | re.ASCII)
CONTOUR_NAME = re.compile(r"(P\d+)-(\d{4})-([io])contour-(manual|auto)\.txt", re.IGNORECASE | re.ASCII)
FRAME_NAME = re.compile(r"(P[0-9]+)-([0-9]{4})(?![0-9])(?:-([io])contour-(?:manual|auto)(?=\.))?", re.IGNORECASE)
CONTOUR_LIKE = re.compile("[io][-_ ]?contour", re.IGNORECASE | re.ASCII)
BESIDE = re.compile(r"TrainingSet|Test[0-9]*Set|\..*")  # the challenge's folders, and hidden ones
ARCHIVES = (".zip", ".gz", ".tgz", ".tar", ".7z", ".rar")
LIST_NAME = re.compile(r"(P\d+)list\.txt", re.IGNORECASE | re.ASCII)
MAX_LIST_BYTES = 2**18  # of a list file: 4,000 contours
Key = tuple[str, int]  # patient, frame
Outline = tuple[str, int, str]  # patient, frame, i (endocardium) or o (epicardium)


def read(root: str | os.PathLike[str], *, target: str, masks: str | None = None) -> SliceSet:
    """Read all frames that have a contour of the target. Patients and frames are ordered by number.

    Args:
        root: the folder TrainingSet, or its parent.
        target: "endocardium" (inner contour) or "epicardium" (outer contour).
        masks: how contours become masks, see contours.RASTERISERS.
    Raises: InputError that names the file, and the line if there is one, for missing, damaged or contradictory data.
    """
    if target not in TARGETS:
        raise InputError(f"data.target={target}: RVSC has no such contour. Its contours are {' and '.join(TARGETS)}.")
    rasterise = contours.rasteriser(masks)
    folder = _opened(root)
    dicoms, outlines, lists, left = _find(folder, root)
    if not dicoms:
        raise InputError(
            f"data.root={root}: there is no RVSC image (a file named like P09-0020.dcm) below {folder}. "
            "Give the folder TrainingSet or its parent."
        )
    top = names.opened(root)
    around = [] if folder == top or not os.access(top, os.R_OK) else sorted(top.iterdir())
    beside = [path for path in around if not BESIDE.fullmatch(path.name)]
    log_not_read([*beside, *left], top)
    kind = TARGETS[target]
    wanted = {(patient, frame) for patient, frame, letter in outlines if letter == kind}
    for patient in sorted({patient for patient, _ in dicoms} - {patient for patient, _ in wanted}):
        raise InputError(
            f"{folder}: patient {patient} has images but no {target} contour "
            f"({patient}-NNNN-{kind}contour-manual.txt). Add the contours or move the patient's files elsewhere."
        )
    for patient, list_file in lists.items():
        listed = set(_listed(list_file, patient, kind, dicoms, outlines))
        if listed and (extra := {key for key in wanted if key[0] == patient} - listed):
            log.warning(
                "%s does not list the contours of %s. They are read anyway.",
                list_file,
                ", ".join(_name(*key) for key in sorted(extra)),
            )
        wanted |= listed
    return SliceSet(
        item for patient in _by_number(wanted) for item in _read_patient(patient, dicoms, outlines, kind, rasterise)
    )


def contour_files(root: str | os.PathLike[str]) -> Iterator[ContourFile]:
    """Yield the contour files of both targets, without opening them.

    Raises: InputError as in `read`, for errors in the names.
    """
    dicoms, outlines, _, _ = _find(_opened(root), root)
    targets = {kind: target for target, kind in TARGETS.items()}
    for patient, frame, kind in sorted(outlines):
        yield ContourFile(patient, frame, targets[kind], outlines[patient, frame, kind], dicoms.get((patient, frame)))


def _opened(root: str | os.PathLike[str]) -> Path:
    top = names.opened(root)
    folder = top / "TrainingSet" if (top / "TrainingSet").is_dir() else top
    names.check_inside(folder, top)
    return folder


class _Files(NamedTuple):
    """The files of a data set, identified by their names.

    Attributes:
        dicoms: (patient, frame) -> image file.
        outlines: (patient, frame, "i" or "o") -> contour file. "i" is the inner contour, "o" the outer contour.
        lists: patient -> list file.
        others: all other files.
    """

    dicoms: dict[Key, Path]
    outlines: dict[Outline, Path]
    lists: dict[str, Path]
    others: list[Path]


def _find(folder: Path, root: str | os.PathLike[str]) -> _Files:
    """Find the images, contours and list files below a folder by their names, and all other files.

    A link to a folder is not followed. It must point to a folder inside `folder`, because the content of that folder is
    found without the link. A link to a file may point to any file inside root.
    """
    dicoms: dict[Key, Path] = {}
    manual: dict[Outline, Path] = {}
    computed: dict[Outline, Path] = {}
    lists: dict[str, Path] = {}
    others: list[Path] = []

    def add(table: dict[Any, Path], key: Any, path: Path) -> None:
        if key in table:
            raise InputError(f"{path} and {table[key]} have the same name. Move one of them elsewhere.")
        names.check_inside(path, Path(root).expanduser())
        table[key] = path

    for path in _walk(folder):
        if match := DICOM_NAME.fullmatch(path.name):
            add(dicoms, (match[1].upper(), int(match[2])), path)
        elif match := CONTOUR_NAME.fullmatch(path.name):
            key = (match[1].upper(), int(match[2]), match[3].lower())
            add(manual if match[4].lower() == "manual" else computed, key, path)
        elif match := LIST_NAME.fullmatch(path.name):
            add(lists, match[1].upper(), path)
        elif not path.name.startswith(".") and not is_companion(path):
            others.append(path)
    taken = {os.path.realpath(path) for table in (dicoms, manual, computed) for path in table.values()}
    others = [path for path in others if os.path.realpath(path) not in taken]  # without files that are read through a link
    for path in others:
        _check_lost(path, dicoms.keys(), manual.keys() | computed.keys())
    if computed and not manual:
        log.warning(
            "%s: its contours were computed (-auto), not drawn by an expert, so scores against them do not measure agreement "
            "with an expert.",
            folder,
        )
        return _Files(dicoms, computed, {}, others)
    return _Files(dicoms, manual, lists, others)


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder. Raises: InputError for a link to a folder outside, or an unreadable folder."""

    def unreadable(error: OSError) -> None:
        raise InputError(f"{error.filename}: this folder cannot be read ({error.strerror}). Make it readable.") from error

    for directory, folders, files in os.walk(folder, onerror=unreadable):
        folders.sort()
        for name in folders:
            names.check_inside(Path(directory) / name, folder)
        yield from (Path(directory) / name for name in sorted(files))


def _check_lost(path: Path, images: Collection[Key], drawn: Collection[Outline]) -> None:
    """Check that an unread file is not an image or contour that was missed because of its name or format.

    A copy of an image in another format (P09-0020.png beside P09-0020.dcm) is accepted.

    Raises: InputError that names the file.
    """
    match = FRAME_NAME.match(path.name)
    key = (match[1].upper(), int(match[2])) if match else None
    if CONTOUR_LIKE.search(path.name) and path.name.isascii() and path.suffix.lower() not in ARCHIVES:
        if not (match and match[3] and key and (*key, match[3].lower()) in drawn):
            raise InputError(
                f"{path}: this contour would not be read, because its name is not like P09-0020-icontour-manual.txt (a text "
                "file with `x y` per line). Convert or rename it, or move it elsewhere."
            )
    elif (is_dicom(path) or (match and not is_text(path))) and key not in images:
        raise InputError(
            f"{path}: this image would not be read, because it is not a DICOM file with a name like P09-0020.dcm. Convert or "
            "rename it, or move it elsewhere."
        )


def _listed(list_file: Path, patient: str, kind: str, dicoms: dict[Key, Path], outlines: dict[Outline, Path]) -> Iterable[Key]:
    """Yield the frames for which a list file names a contour of this kind.

    Raises: InputError if a contour of this kind, or the image of a listed frame, is missing.
    """
    lines = names.content(list_file, MAX_LIST_BYTES).decode("utf-8-sig", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        name = line.strip().replace("\\", "/").rsplit("/", 1)[-1]
        if not name:
            continue
        match = CONTOUR_NAME.fullmatch(name)
        if not match or match[1].upper() != patient or match[4].lower() != "manual":
            raise InputError(
                f"{list_file}, line {number}: {line.strip()[:60]!r} does not name a contour of patient {patient} "
                f"(like {patient}-0020-icontour-manual.txt). Correct the line."
            )
        key = (patient, int(match[2]))
        if key not in dicoms:
            raise InputError(
                f"{list_file}, line {number}: it lists frame {match[2]}, but there is no image {_name(*key)}.dcm. "
                "Add the image or remove the line."
            )
        if match[3].lower() != kind:
            continue
        if (*key, kind) not in outlines:
            raise InputError(f"{list_file}, line {number}: the contour file {name} is missing. Add it or remove the line.")
        yield key


def _read_patient(
    patient: str,
    dicoms: dict[Key, Path],
    outlines: dict[Outline, Path],
    kind: str,
    rasterise: contours.Rasteriser,
) -> list[Slice]:
    """Read all labelled frames of one patient."""
    frames = sorted(frame for name, frame, letter in outlines if name == patient and letter == kind)
    images, headers, masks, areas = {}, {}, {}, {}
    for frame in frames:
        outline = outlines[patient, frame, kind]
        if (patient, frame) not in dicoms:
            raise InputError(f"{outline}: there is no image {_name(patient, frame)}.dcm for this contour. Add it.")
        points = contours.read(outline)
        images[frame], headers[frame] = dicom.read(dicoms[patient, frame])
        try:
            masks[frame] = rasterise(points, images[frame].shape)
        except InputError as error:
            raise InputError(f"{outline}: {error}") from None
        areas[frame] = contours.area(points)
    phases = _phases(areas)
    gap_mm = dicom.gap_mm((frame // PHASES_PER_SLICE, header) for frame, header in headers.items())
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


def _phases(areas: dict[int, float]) -> dict[int, Phase | None]:
    """Return the phase (ED, ES or None) of each labelled frame. The rule is in the docstring of this module."""
    diastole = contours.end_diastole({divmod(frame, PHASES_PER_SLICE): value for frame, value in areas.items()})
    if diastole is None:
        return dict.fromkeys(areas)
    return {frame: "ED" if frame % PHASES_PER_SLICE == diastole else "ES" for frame in areas}


def _name(patient: str, frame: int) -> str:
    return f"{patient}-{frame:04d}"


def _by_number(keys: Iterable[Key]) -> list[str]:
    return sorted({patient for patient, _ in keys}, key=lambda patient: int(patient[1:]))


READER = Reader(
    name="rvsc",
    kind="rvsc",
    targets=tuple(TARGETS),
    same_structures={"endocardium": {"acdc": "rv"}},
    image_code=dicom.IMAGE_CODE,
    contour_files=contour_files,
)
