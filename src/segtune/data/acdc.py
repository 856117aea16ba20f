"""Reader of the Automated Cardiac Diagnosis Challenge (ACDC, MICCAI 2017): NIfTI images and labels at two phases.

    training/patient001/Info.cfg                       ED: 1, ES: 12, ...: the frames of end-diastole and end-systole
    training/patient001/patient001_frame01.nii.gz      the image of one frame
    training/patient001/patient001_frame01_gt.nii.gz   its labels: 1 right ventricle, 2 myocardium, 3 left ventricle (cavity)

A patient has the name of its folder. Of Info.cfg only the two frames are used. The film (patient001_4d.nii.gz) is not read.
"""

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from segtune.data import names
from segtune.data.formats import label_images, nifti
from segtune.data.formats.files import is_lost, is_text, log_not_read
from segtune.data.readers import Reader
from segtune.data.slices import Phase, Slice, SliceSet, collected
from segtune.errors import InputError

TARGETS = {"rv": 1, "myocardium": 2, "lv": 3}
PATIENT = re.compile("patient[0-9]+")
FRAME = re.compile("[0-9]{1,4}")
ANY_FRAME = re.compile("patient[0-9]+_frame", re.IGNORECASE)
PATIENT_FILE = re.compile("(patient[0-9]+)", re.IGNORECASE)
PARTS = ("training", "testing", "database")  # folders of the challenge's archive
MAX_INFO_BYTES = 2**16


class _Frame(NamedTuple):
    """One labelled frame and its files."""

    patient: str
    phase: Phase
    frame: int
    image: Path
    label: Path


def read(root: str | os.PathLike[str], *, target: str, slice_axis: int | None = None, empty: str = "keep") -> SliceSet:
    """Every slice of the two labelled frames: patients by number, end-diastole first, slices in the stored order.

    Args:
        root: the folder of the patients, or its parent, in which it is called training. Nothing outside it is read.
        target: "rv" (right ventricle), "myocardium" or "lv" (left ventricle's cavity).
        slice_axis: the axis of the stored arrays that counts the slices; None: see axes.
        empty: "keep" or "drop" slices without the target.
    Raises: InputError naming the file, and line where there is one, for anything missing, damaged or contradictory.
    """
    if target not in TARGETS:
        raise InputError(f"data.target={target}: ACDC has the structures {', '.join(TARGETS)}.")
    top = folder = names.opened(root)
    around = names.entries(folder, top)
    if any(path.name == "training" and path.is_dir() for path in around):
        if outside := next((path for path in around if path.is_dir() and PATIENT.fullmatch(path.name)), None):
            raise InputError(
                f"{outside}: a patient beside the folder training; only those inside it are read. Move it into training or "
                "elsewhere."
            )
        left = [path for path in around if path.name not in PARTS]
        folder = folder / "training"
        around = names.entries(folder, top)
    else:
        left = []
    patients = [path for path in around if path.is_dir()]
    if not patients:
        raise InputError(
            f"data.root={root}: no patient's folder (like patient001) in {folder}. Give the folder that holds them, or its "
            "parent."
        )
    for path in patients:
        if not PATIENT.fullmatch(path.name):
            raise InputError(
                f"{path}: a patient's folder must have a name like patient001. Correct data.root, or move the folder elsewhere."
            )
    files = [path for path in around if path not in patients]
    left += files
    _check_no_patient(left, {path.name for path in patients})
    labels = label_images.Labels(frozenset(range(4)), frozenset({TARGETS[target]}), "ACDC")
    frames = [frame for path in patients for frame in _frames(path, top, left)]
    log_not_read(left, top)
    axis = nifti.slice_axes(((frame.image, 1) for frame in frames), slice_axis)

    def slices() -> Iterator[Slice]:
        for one in frames:
            yield from label_images.read_slices(
                one.image,
                one.label,
                labels=labels,
                patient=one.patient,
                phase=one.phase,
                frame=one.frame,
                slice_axis=axis[one.image],
            )

    return collected(slices(), empty=empty)


def _check_no_patient(files: list[Path], patients: set[str]) -> None:
    """Raises: InputError for a file of a patient without a folder, and for a frame outside its patient's folder."""
    for path in files:
        name = PATIENT_FILE.match(path.name)
        if name and not is_text(path) and (name[1] not in patients or ANY_FRAME.match(path.name)):
            raise InputError(
                f"{path}: it is not in its patient's folder, so it would be lost. Put it, unpacked, into the folder "
                f"{name[1]}, or move it elsewhere."
            )


def _frames(folder: Path, root: Path, left: list[Path]) -> Iterator[_Frame]:
    """The two frames of one patient; files that are not read are added to `left`.

    Raises: InputError if a file is missing, or if a labelled frame would be lost.
    """
    found = names.entries(folder, root)
    info = next((path for path in found if path.name == "Info.cfg" and path.is_file()), None)
    if info is None:
        raise InputError(f"{folder}: there is no Info.cfg, which gives the frames of end-diastole and end-systole. Restore it.")
    images = nifti.by_stem([path for path in found if path.name.startswith(f"{folder.name}_frame")])
    others = [path for path in found if path not in images.values()]
    if lost := next((path for path in others if _is_lost_frame(path, images)), None):
        raise InputError(
            f"{lost}: only files like {folder.name}_frame01.nii.gz (or .nii) directly in the patient's folder are read, "
            "so this one would be lost. Convert it to .nii.gz and rename it, or move it elsewhere."
        )
    frames = read_info(info)
    for phase, frame in frames.items():
        stem = f"{folder.name}_frame{frame:02d}"
        for name in (stem, f"{stem}_gt"):
            if name not in images:
                raise InputError(
                    f"{folder / name}.nii.gz: missing, but Info.cfg says that frame {frame} is {phase}. Add it or correct that."
                )
        yield _Frame(folder.name, phase, frame, images[stem], images[f"{stem}_gt"])
    stems = {f"{folder.name}_frame{frame:02d}" for frame in frames.values()}
    more = [stem for stem in images if stem.removesuffix("_gt") not in stems]
    for stem in more:
        if stem.endswith("_gt"):
            raise InputError(
                f"{images[stem]}: these labels would be lost, because Info.cfg names this frame neither ED nor ES. Correct "
                "Info.cfg, or move the file elsewhere."
            )
    left += [images[stem] for stem in more]
    left += [path for path in others if path != info and not (nifti.stem(path) or "").startswith(f"{folder.name}_4d")]


def _is_lost_frame(path: Path, taken: Collection[str]) -> bool:
    if path.is_dir():
        return any(ANY_FRAME.match(name) and not is_text(Path(name)) for _, _, files in os.walk(path) for name in files)
    return bool(ANY_FRAME.match(path.name)) and is_lost(path, taken)


def read_info(path: Path) -> dict[Phase, int]:
    """The frames of end-diastole and end-systole [from 1], from the lines `ED: 1` and `ES: 12`. Other lines are ignored.

    Raises: InputError naming file and line.
    """
    lines = names.content(path, MAX_INFO_BYTES).decode("utf-8-sig", errors="replace").splitlines()
    frames: dict[Phase, int] = {}
    phases: tuple[Phase, ...] = ("ED", "ES")
    for number, line in enumerate(lines, start=1):
        key, _, value = (part.strip() for part in line.partition(":"))
        for phase in phases:
            if key != phase:
                continue
            if not FRAME.fullmatch(value) or int(value) < 1:
                raise InputError(
                    f"{path}, line {number}: {value[:40]!r} is not the number of a frame, from 1. Write `{phase}: 1`."
                )
            if phase in frames:
                raise InputError(f"{path}, line {number}: {phase} is given twice. Remove the wrong line.")
            frames[phase] = int(value)
    for phase in phases:
        if phase not in frames:
            raise InputError(f"{path}: no line `{phase}: ...` with the number of that frame. Add it.")
    if frames["ED"] == frames["ES"]:
        raise InputError(f"{path}: ED and ES are both frame {frames['ED']}, but are two phases of a heartbeat. Correct it.")
    return {phase: frames[phase] for phase in phases}


READER = Reader(
    name="acdc",
    kind="acdc",
    targets=tuple(TARGETS),
    same_structures={"rv": {"rvsc": "endocardium"}, "lv": {"sunnybrook": "endocardium"}},
    image_code=nifti.IMAGE_CODE,
)
