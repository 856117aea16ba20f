"""Reader of the Sunnybrook Cardiac Data (left ventricle, MICCAI challenge of 2009): DICOM images, and contours as text files.

    link.csv                                               patient_id,original_id: the two folders of each patient
    dicoms/SCD0000101/59.dcm                               <patient_id>/<frame>.dcm
    contourfiles/SC-HF-I-1/i-contours/IM-0001-0059-icontour-manual.txt                    <original_id>, frame, i or o

Files are identified by these names, not by headers. A patient's label is the original_id, under which the data were published.
It includes the diagnostic group (HF-I: heart failure with infarction). Frames are counted from 1, and each slice has 20 frames:
slice = (frame - 1) // 20, phase = (frame - 1) % 20.

Pixel coordinates in the contour files start at 1, so 1 is subtracted from x and y. The files do not document this. To
find it out, the endocardial contours of five patients (96 frames) were moved, and the mean image gradient along the
contours was divided by the mean gradient of the whole image. If the contours are moved by -2, -1, 0, 1 and 2 pixels in
x and y, this ratio is 2.11, 2.36, 2.11, 1.71 and 1.50. If the contours are moved in x or y alone, the ratio is also
largest at -1.

Phase: the epicardium was drawn at end-diastole only. Therefore, if all epicardial contours of a patient are at one
phase, this phase is end-diastole. If, in addition, the target is contoured at exactly one other phase, the other phase
is end-systole. If there are no epicardial contours, or they are at several phases, the target must be contoured at
exactly two phases, and end-diastole is the phase with contours of larger area (contours.end_diastole). Frames whose
phase is not decided by these rules have phase None.
"""

import csv
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from segtune.data import names
from segtune.data.formats import contours, dicom, files
from segtune.data.readers import ContourFile, Reader
from segtune.data.slices import Phase, Slice, SliceSet
from segtune.errors import InputError

TARGETS = {"endocardium": "i", "epicardium": "o"}
PHASES_PER_SLICE = 20
MAX_LINK_BYTES = 2**16  # of link.csv: 2,000 patients
FIRST_PX = 1.0  # coordinate of the first pixel's centre in the contour files
COLUMNS = ["patient_id", "original_id"]
IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")  # the name of a folder, never a path
IMAGE_NAME = re.compile(r"([0-9]+)\.dcm", re.IGNORECASE)
CONTOUR_LIKE = re.compile("([io])[-_ ]?contour", re.IGNORECASE | re.ASCII)
CONTOUR_FRAME = re.compile(r"IM-[0-9]{4}-([0-9]{4})-[io]contour-manual(?=\.)", re.IGNORECASE)
CONTOUR_NAME = {kind: re.compile(rf"IM-[0-9]{{4}}-([0-9]{{4}})-{kind}contour-manual\.txt", re.IGNORECASE) for kind in "io"}


def read(root: str | os.PathLike[str], *, target: str, masks: str | None = None) -> SliceSet:
    """Read all frames that have a contour of the target. Patients are ordered by patient_id, frames by number.

    Args:
        root: the folder that contains link.csv, dicoms and contourfiles. Files outside it are not read.
        target: "endocardium" (inner contour) or "epicardium" (outer contour) of the left ventricle.
        masks: how contours become masks, see contours.RASTERISERS.
    Raises: InputError that names the file, and the line if there is one, for missing, damaged or contradictory data.
    """
    if target not in TARGETS:
        raise InputError(f"data.target={target}: no such contour. Sunnybrook has {' and '.join(TARGETS)}.")
    rasterise = contours.rasteriser(masks)
    folder, link = _opened(root)
    _check_others(folder, link)
    return SliceSet(item for number in sorted(link) for item in _read_patient(folder, number, link[number], target, rasterise))


def contour_files(root: str | os.PathLike[str]) -> Iterator[ContourFile]:
    """Yield the contour files of both targets. Only link.csv is opened.

    Raises: InputError as in `read`, for errors in the names.
    """
    folder, link = _opened(root)
    for number in sorted(link):
        place = folder / "dicoms" / number
        images = _numbered(place, folder, IMAGE_NAME, "59.dcm") if place.is_dir() else {}
        outlines = _outlines(folder / "contourfiles", folder, link[number])
        for target, kind in TARGETS.items():
            for frame, path in sorted(outlines[kind].items()):
                yield ContourFile(link[number], frame, target, path, images.get(frame))


def _opened(root: str | os.PathLike[str]) -> tuple[Path, dict[str, str]]:
    """Return the data set's folder, and the content of link.csv: patient_id -> original_id."""
    folder = names.opened(root)
    if not any(path.name == "link.csv" and path.is_file() for path in names.entries(folder, folder)):
        raise InputError(
            f"data.root={root}: link.csv is missing. Give the folder that contains link.csv, dicoms and contourfiles."
        )
    link = _link(folder / "link.csv")
    for part, known in (("dicoms", link.keys()), ("contourfiles", link.values())):
        for path in names.entries(folder / part, folder):
            if path.is_dir() and path.name not in known:
                raise InputError(
                    f"{path}: link.csv does not list the patient {path.name}. Add a line for this patient, or move "
                    "the folder elsewhere."
                )
    return folder, link


def _link(path: Path) -> dict[str, str]:
    """Read link.csv. Returns: patient_id -> original_id."""
    lines = csv.reader(names.content(path, MAX_LINK_BYTES).decode("utf-8-sig", errors="replace").splitlines())
    rows = [(lines.line_num, [field.strip() for field in row]) for row in lines if any(row)]
    if not rows or rows[0][1] != COLUMNS:
        raise InputError(f"{path}, line 1: the file must begin with the line {','.join(COLUMNS)}.")
    if not rows[1:]:
        raise InputError(f"{path}: the file lists no patient. Replace it with the original copy.")
    link: dict[str, str] = {}
    taken: tuple[set[str], set[str]] = set(), set()
    for number, row in rows[1:]:
        if len(row) != 2 or not all(IDENTIFIER.fullmatch(name) for name in row):
            raise InputError(
                f"{path}, line {number}: {','.join(row)[:80]!r} is not a line like SCD0000101,SC-HF-I-1 (two folder "
                "names made of letters, digits, - and _). Correct it."
            )
        for name, others in zip(row, taken, strict=True):
            if name in others:
                raise InputError(f"{path}, line {number}: {name} is listed twice. Remove the wrong line.")
            others.add(name)
        link[row[0]] = row[1]
    return link


def _numbered(folder: Path, root: Path, name: re.Pattern[str], example: str) -> dict[int, Path]:
    """Find files by the frame number in their names. Returns: frame -> file.

    Raises: InputError if a file has the same suffix as the example but a different form of name, and if two files
        belong to the same frame.
    """
    found: dict[int, Path] = {}
    for path in names.entries(folder, root):
        if path.suffix.lower() != Path(example).suffix:
            continue
        match = name.fullmatch(path.name)
        if not match or not path.is_file() or int(match[1]) < 1:
            raise InputError(f"{path}: this is not a file named like {example}, with frames counted from 1. Move it elsewhere.")
        if int(match[1]) in found:
            raise InputError(f"{path} and {found[int(match[1])]} belong to the same frame. Move one of them elsewhere.")
        found[int(match[1])] = path
    return found


def _outlines(folder: Path, root: Path, original: str) -> dict[str, dict[int, Path]]:
    """Find the contour files of one patient.

    Returns: "i" or "o" -> frame -> file. If the patient has no folder for "i" or "o", there are no frames under this
        key.
    """
    patient = folder / original
    there = {path.name for path in names.entries(patient, root)} if patient.is_dir() else set()
    return {
        kind: _numbered(patient / f"{kind}-contours", root, name, f"IM-0001-0059-{kind}contour-manual.txt")
        if f"{kind}-contours" in there
        else {}
        for kind, name in CONTOUR_NAME.items()
    }


def _check_others(folder: Path, link: dict[str, str]) -> None:
    """Log the files that are not read.

    A copy of an image in another format (59.png beside 59.dcm) is accepted.

    Raises: InputError for an image or contour that is not read because of its name, format or folder.
    """
    images: dict[Path, dict[int, Path]] = {}
    drawn: dict[tuple[Path, str], dict[int, Path]] = {}
    for number, original in link.items():
        place, patient = folder / "dicoms" / number, folder / "contourfiles" / original
        images[place] = _numbered(place, folder, IMAGE_NAME, "59.dcm") if place.is_dir() else {}
        for kind, found in _outlines(folder / "contourfiles", folder, original).items():
            drawn[patient / f"{kind}-contours", kind] = found
    taken = {folder / "link.csv", *(path for found in (*images.values(), *drawn.values()) for path in found.values())}
    left = files.below(folder, taken)
    for path in left:
        first = path.name.split(".")[0]
        if like := CONTOUR_LIKE.search(path.name):
            frame = CONTOUR_FRAME.match(path.name)
            if not frame or int(frame[1]) not in drawn.get((path.parent, like[1].lower()), {}):
                raise InputError(
                    f"{path}: this contour would not be read, because it is not a file like "
                    "i-contours/IM-0001-0059-icontour-manual.txt (`x y` per line) in its patient's folder. Convert "
                    "it, rename it, move it to that folder, or move it out of the data."
                )
            continue
        is_beside = first.isascii() and first.isdigit() and int(first[:9]) in images.get(path.parent, {})
        is_image = files.is_dicom(path) or (path.parent in images and not files.is_text(path))
        if is_image and not is_beside:
            raise InputError(
                f"{path}: this image would not be read, because it is not a DICOM file named like dicoms/SCD0000101/59.dcm. "
                "Convert it, rename it, move it to such a folder, or move it out of the data."
            )
    files.log_not_read(left, folder)


def _read_patient(root: Path, number: str, original: str, target: str, rasterise: contours.Rasteriser) -> Iterator[Slice]:
    """Read all frames of one patient that have a contour of the target."""
    kind = TARGETS[target]
    if not (root / "dicoms" / number).is_dir():
        raise InputError(f"{root / 'dicoms' / number}: link.csv lists this patient, but the folder is missing. Add it.")
    images = _numbered(root / "dicoms" / number, root, IMAGE_NAME, "59.dcm")
    outlines = _outlines(root / "contourfiles", root, original)
    if not outlines[kind]:
        raise InputError(
            f"{root / 'contourfiles' / original / f'{kind}-contours'}: there is no {target} contour of patient {original}. "
            "Add the contours, or remove the patient's folders and the line in link.csv."
        )
    found, areas = {}, {}
    for frame, outline in sorted(outlines[kind].items()):
        if frame not in images:
            raise InputError(
                f"{outline}: there is no image {root / 'dicoms' / number / f'{frame}.dcm'} for this contour. Add it."
            )
        image, header = dicom.read(images[frame])
        points = contours.read(outline) - FIRST_PX
        try:
            found[frame] = image, header, rasterise(points, image.shape)
        except InputError as error:
            raise InputError(f"{outline}: {error}") from None
        areas[frame] = contours.area(points)
    phases = _phases(areas, outlines["o"])
    gap_mm = dicom.gap_mm((_position(frame)[0], header) for frame, (_, header, _) in found.items())
    for frame, (image, header, mask) in found.items():
        yield Slice(
            image=image,
            mask=mask,
            patient=original,
            frame=frame,
            slice_index=_position(frame)[0],
            phase=phases[frame],
            spacing_mm=header.spacing_mm,
            gap_mm=gap_mm,
        )


def _position(frame: int) -> tuple[int, int]:
    """Return the slice and the phase of a frame. Both are counted from 0."""
    return divmod(frame - 1, PHASES_PER_SLICE)


def _phases(areas: dict[int, float], epicardial: Iterable[int]) -> dict[int, Phase | None]:
    """Return the phase (ED, ES or None) of each contoured frame. The rule is in the docstring of this module.

    Args: areas: frame -> area of the target's contour. epicardial: the frames with an epicardial contour.
    """
    at = {frame: _position(frame)[1] for frame in areas}
    drawn = {_position(frame)[1] for frame in epicardial}
    diastole = drawn.pop() if len(drawn) == 1 else contours.end_diastole({_position(f): area for f, area in areas.items()})
    others = set(at.values()) - {diastole}
    systole = others.pop() if len(others) == 1 else None
    called: dict[int | None, Phase | None] = {} if diastole is None else {systole: "ES", diastole: "ED"}
    return {frame: called.get(phase) for frame, phase in at.items()}


READER = Reader(
    name="sunnybrook",
    kind="sunnybrook",
    targets=tuple(TARGETS),
    same_structures={"endocardium": {"acdc": "lv"}},
    image_code=dicom.IMAGE_CODE,
    contour_files=contour_files,
    first_px=FIRST_PX,
)
