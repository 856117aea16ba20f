"""Reader of the Automated Cardiac Diagnosis Challenge (ACDC, MICCAI 2017): NIfTI images and labels at two phases.

    training/patient001/Info.cfg                       ED: 1, ES: 12, ...: the frames of end-diastole and end-systole
    training/patient001/patient001_frame01.nii.gz      the image of one frame
    training/patient001/patient001_frame01_gt.nii.gz   its labels: 1 right ventricle, 2 myocardium, 3 left ventricle (cavity)

The folder's name is the patient's label. Only the two frames are read from Info.cfg. The cine series of the whole
heartbeat (patient001_4d.nii.gz) is not read.
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
    """One labelled frame of a patient, with its image file and its label file."""

    patient: str
    phase: Phase
    frame: int
    image: Path
    label: Path


def read(root: str | os.PathLike[str], *, target: str, slice_axis: int | None = None, empty: str = "keep") -> SliceSet:
    """Read all slices of the two labelled frames of every patient.

    Patients are ordered by number. The end-diastolic frame comes first, and slices keep their stored order.

    Args:
        root: the folder that contains the patients' folders. If this folder is named training, root may also be its
            parent. Files outside root are not read.
        target: "rv" (right ventricle), "myocardium" or "lv" (left ventricle's cavity).
        slice_axis: the axis of the stored arrays that counts the slices; None: apply the rule in formats.axes.
        empty: "keep" or "drop" the slices that do not show the target.
    Raises: InputError that names the file, and the line if there is one, for missing, damaged or contradictory files.
    """
    if target not in TARGETS:
        raise InputError(f"data.target={target}: ACDC has the structures {', '.join(TARGETS)}.")
    top = folder = names.opened(root)
    around = names.entries(folder, top)
    if any(path.name == "training" and path.is_dir() for path in around):
        if outside := next((path for path in around if path.is_dir() and PATIENT.fullmatch(path.name)), None):
            raise InputError(
                f"{outside}: this patient's folder is beside the folder training/, but only patients inside it are "
                "read. Move the patient's folder into training/, or elsewhere."
            )
        left = [path for path in around if path.name not in PARTS]
        folder = folder / "training"
        around = names.entries(folder, top)
    else:
        left = []
    patients = [path for path in around if path.is_dir()]
    if not patients:
        raise InputError(
            f"data.root={root}: {folder} contains no patient's folder (like patient001). Set data.root to the folder that "
            "contains the patients' folders, or to its parent."
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
    """Check that no file of a patient lies outside that patient's folder.

    Raises: InputError for a file of a patient who has no folder, and for a frame outside its patient's folder.
    """
    for path in files:
        name = PATIENT_FILE.match(path.name)
        if name and not is_text(path) and (name[1] not in patients or ANY_FRAME.match(path.name)):
            raise InputError(
                f"{path}: this file is not in its patient's folder, so it would not be read. Unpack it if necessary and move "
                f"it into the folder {name[1]}, or move it elsewhere."
            )


def _frames(folder: Path, root: Path, left: list[Path]) -> Iterator[_Frame]:
    """Yield the two labelled frames of one patient, and add the files that are not read to `left`.

    Raises: InputError if a file is missing, or if a labelled frame would be ignored.
    """
    found = names.entries(folder, root)
    info = next((path for path in found if path.name == "Info.cfg" and path.is_file()), None)
    if info is None:
        raise InputError(
            f"{folder}: the file Info.cfg, which names the frames of end-diastole and end-systole, is missing. Add the file."
        )
    images = nifti.by_stem([path for path in found if path.name.startswith(f"{folder.name}_frame")])
    others = [path for path in found if path not in images.values()]
    if lost := next((path for path in others if _is_lost_frame(path, images)), None):
        raise InputError(
            f"{lost}: only files named like {folder.name}_frame01.nii.gz (or .nii) directly in the patient's folder are "
            "read, so this file would be ignored. Convert it to .nii.gz and rename it, or move it elsewhere."
        )
    frames = read_info(info)
    for phase, frame in frames.items():
        stem = f"{folder.name}_frame{frame:02d}"
        for name in (stem, f"{stem}_gt"):
            if name not in images:
                raise InputError(
                    f"{folder / name}.nii.gz: this file is missing, but Info.cfg says that frame {frame} is {phase}. Add the "
                    "file or correct Info.cfg."
                )
        yield _Frame(folder.name, phase, frame, images[stem], images[f"{stem}_gt"])
    stems = {f"{folder.name}_frame{frame:02d}" for frame in frames.values()}
    more = [stem for stem in images if stem.removesuffix("_gt") not in stems]
    for stem in more:
        if stem.endswith("_gt"):
            raise InputError(
                f"{images[stem]}: these labels would be ignored, because in Info.cfg this frame is neither ED nor ES. "
                "Correct Info.cfg, or move the file elsewhere."
            )
    left += [images[stem] for stem in more]
    left += [path for path in others if path != info and not (nifti.stem(path) or "").startswith(f"{folder.name}_4d")]


def _is_lost_frame(path: Path, taken: Collection[str]) -> bool:
    if path.is_dir():
        return any(ANY_FRAME.match(name) and not is_text(Path(name)) for _, _, files in os.walk(path) for name in files)
    return bool(ANY_FRAME.match(path.name)) and is_lost(path, taken)


def read_info(path: Path) -> dict[Phase, int]:
    """Read the frame numbers of end-diastole and end-systole from Info.cfg.

    They are given by lines like `ED: 1` and `ES: 12`, counted from 1. Other lines are ignored.

    Returns: phase -> frame number.
    Raises: InputError that names the file and the line.
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
                    f"{path}, line {number}: {value[:40]!r} is not a frame number (1 or more). Write a line like `{phase}: 1`."
                )
            if phase in frames:
                raise InputError(f"{path}, line {number}: {phase} is given twice. Remove the wrong line.")
            frames[phase] = int(value)
    for phase in phases:
        if phase not in frames:
            raise InputError(f"{path}: there is no line `{phase}: ...` with the number of that frame. Add the line.")
    if frames["ED"] == frames["ES"]:
        raise InputError(
            f"{path}: ED and ES are both frame {frames['ED']}, but they must be different frames. Correct the file."
        )
    return {phase: frames[phase] for phase in phases}


READER = Reader(
    name="acdc",
    kind="acdc",
    targets=tuple(TARGETS),
    same_structures={"rv": {"rvsc": "endocardium"}, "lv": {"sunnybrook": "endocardium"}},
    image_code=nifti.IMAGE_CODE,
)
