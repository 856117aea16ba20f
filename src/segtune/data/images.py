"""Images without labels, as a clinic has them: DICOM or NIfTI below one folder, or a single file. Nothing outside is read.

DICOM. Files named like the RVSC's (P09-0020.dcm) are frame 20 = 20 * slice + phase of patient P09. Of all others each folder
is one patient: P01, P02, ... in the natural order of the folders, frames counted from 0 in the natural order of the names.
Their slices are ordered by their position along the normal, and the images at one position by TriggerTime or, where that
is not told, by InstanceNumber: those are its phases. Where headers do not tell that, `undefined` says why there is no volume.

NIfTI. Each file is a volume and each a patient of its own, called by its name (CASE_0000.nii.gz, if all end so, is CASE).
In a folder with an Info.cfg, as ACDC has it, the folder is the patient, and that file says which frames are ED and ES.
"""

import itertools
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from segtune.data import acdc, dicom, leftovers, names, nifti, nnunet, rvsc
from segtune.data.dicom import Place
from segtune.data.slices import Phase, Slice
from segtune.errors import InputError

MAGIC, MAGIC_AT = b"DICM", 128  # of a DICOM file, whatever its name
SAME_PLACE_MM = 0.1  # positions along the normal that are nearer than this are one slice
EVEN = 0.1  # distances of slices that differ by less than this share of them are one distance
LABEL_FOLDERS = (nnunet.LABELS, "labelsTs")
IMAGE_FOLDERS = (nnunet.IMAGES, "imagesTs")
ACDC_FRAME = re.compile("_frame([0-9]{1,4})$")


class Image(NamedTuple):
    """An image as a Slice, whose mask is all False.

    file: its file's name, without the folder; empty where it may be a person's: of DICOM files that are not named like the
    RVSC's. phase: ED, ES, a phase's or frame's number, or empty where there is only one.
    undefined: why slice_index and phase are not known (then 0 and empty); empty if they are.
    """

    item: Slice
    file: str
    phase: str
    undefined: str


class Frame(NamedTuple):
    """One DICOM image: its number in the patient, and where it lies."""

    path: Path
    number: int
    place: Place
    slice_index: int
    phase: str


@dataclass(frozen=True)
class Patient:
    """The DICOM images of one patient. undefined: see Image. folder: where they are, if the files' names do not say whose."""

    patient: str
    frames: Sequence[Frame]
    gap_mm: float | None
    undefined: str
    folder: str

    def images(self) -> Iterator[Image]:
        """The images, read one by one. Raises: InputError naming the file."""
        for path, of_file in itertools.groupby(self.frames, key=lambda frame: frame.path):
            frames = {frame.place.frame: frame for frame in of_file}
            for index, pixels, header in dicom.read_frames(path, [*frames]):
                frame = frames[index]
                item = _unlabelled(pixels, self.patient, frame.number, frame.slice_index, None, header.spacing_mm, self.gap_mm)
                yield Image(item, "" if self.folder else frame.path.name, frame.phase, self.undefined)


@dataclass(frozen=True)
class VolumeFile:
    """One NIfTI file. name: what it is called in results, unlike all others; it may have folders in it."""

    path: Path
    name: str
    patient: str
    frame: int
    phase: str

    def images(self, volume: nifti.Volume) -> Iterator[Image]:
        """The slices of the volume that nifti.read reads from `path`. Raises: InputError for pixels that are not finite."""
        known: dict[str, Phase] = {"ED": "ED", "ES": "ES"}
        for index, plane in enumerate(volume.voxels):
            pixels, phase = nifti.finite(self.path, index, plane), known.get(self.phase)
            item = _unlabelled(pixels, self.patient, self.frame, index, phase, volume.spacing_mm, volume.gap_mm)
            yield Image(item, self.path.name, self.phase, "")


@dataclass(frozen=True)
class Found:
    """What there is to be read: patients (DICOM) or volumes (NIfTI), never both. left_out: kind of file -> how many."""

    patients: Sequence[Patient]
    volumes: Sequence[VolumeFile]
    left_out: Mapping[str, int]


def find(source: str | os.PathLike[str]) -> Found:
    """The images below a folder, or of a single file. Reads DICOM headers, and no pixels.

    Raises: InputError if there is nothing to be read, if both kinds are there, for a link that leads out of the folder, and
    naming the file for what cannot be read.
    """
    root = Path(source).expanduser()
    if not root.exists():
        raise InputError(f"input={source}: there is no such folder or file.")
    files = [root] if root.is_file() else list(_walk(root, root, set()))
    left_out: Counter[str] = Counter()
    niftis = [path for path in files if nifti.stem(path) is not None]
    dicoms = [path for path in files if nifti.stem(path) is None and (root == path or _is_dicom(path))]
    others = [path for path in files if path not in {*niftis, *dicoms}]
    left_out["neither DICOM nor NIfTI"] = len(others)
    leftovers.tell([path for path in others if not leftovers.is_text(path)], root)
    if niftis and dicoms:
        raise InputError(
            f"input={source}: it holds DICOM ({dicoms[0].name}) and NIfTI ({niftis[0].name}). Give the folder of one of them."
        )
    volumes = _volumes(niftis, root, left_out)
    patients = _patients(dicoms, root, left_out)
    if not volumes and not patients:
        told = f" ({_told(left_out)})" if _told(left_out) else ""
        raise InputError(f"input={source}: there is no image in it{told}. Give a folder of DICOM or NIfTI files, or one file.")
    return Found(patients, volumes, {kind: n for kind, n in left_out.items() if n})


def _told(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in left_out.items() if n)


def _walk(folder: Path, root: Path, seen: set[str]) -> Iterator[Path]:
    """All files below a folder, in natural order. Raises: InputError as names.entries; also for a folder that is met twice."""
    real = os.path.realpath(folder)
    if real in seen:
        raise InputError(f"{folder}: this link leads to a folder that is read anyway. Remove it.")
    seen.add(real)
    for path in names.entries(folder, root):
        if path.is_dir():
            yield from _walk(path, root, seen)
        else:
            yield path


def _is_dicom(path: Path) -> bool:
    if path.suffix.lower() == ".dcm":
        return True
    try:
        with path.open("rb") as file:
            return file.read(MAGIC_AT + len(MAGIC))[MAGIC_AT:] == MAGIC
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Restore it.") from error


def _unlabelled(
    pixels: NDArray[np.float32],
    patient: str,
    frame: int,
    slice_index: int,
    phase: Phase | None,
    spacing_mm: tuple[float, float],
    gap_mm: float | None,
) -> Slice:
    return Slice(pixels, np.zeros(pixels.shape, bool), patient, frame, slice_index, phase, spacing_mm, gap_mm)


# DICOM


def _patients(files: Sequence[Path], root: Path, left_out: Counter[str]) -> list[Patient]:
    """The patients of these files; objects that are no images are counted."""
    named: dict[str, dict[int, tuple[Path, Place]]] = {}  # as the RVSC names them: patient -> frame -> image
    others: dict[Path, list[tuple[Path, Place]]] = {}
    for path in tqdm(files, desc="headers", unit="file", leave=False, disable=None):
        places = dicom.read_places(path)
        if not places:
            left_out["DICOM objects that are no images"] += 1
        elif len(places) == 1 and (match := rvsc.DICOM_NAME.fullmatch(path.name)):
            frames, number = named.setdefault(match[1].upper(), {}), int(match[2])
            if number in frames:
                raise InputError(f"{path} and {frames[number][0]} have the same name: which one counts? Move one elsewhere.")
            frames[number] = (path, places[0])
        else:
            others.setdefault(path.parent, []).extend((path, place) for place in places)
    labels = (label for n in itertools.count(1) if (label := f"P{n:02}") not in named)
    folders = sorted(others, key=lambda folder: [names.natural(part) for part in Path(_below(folder, root)).parts])
    return [
        *(_by_name(label, named[label]) for label in sorted(named, key=lambda label: int(label[1:]))),
        *(_by_place(label, others[folder], _below(folder, root)) for folder, label in zip(folders, labels, strict=False)),
    ]


def _by_name(patient: str, frames: Mapping[int, tuple[Path, Place]]) -> Patient:
    found = [
        Frame(path, number, place, number // rvsc.PHASES_PER_SLICE, str(number % rvsc.PHASES_PER_SLICE))
        for number, (path, place) in sorted(frames.items())
    ]
    gap_mm = dicom.gap_mm((frame.slice_index, frame.place.header) for frame in found)
    if why := _why_not_as_named(found, gap_mm):
        return Patient(patient, [frame._replace(slice_index=0, phase="") for frame in found], None, why, "")
    return Patient(patient, found, gap_mm, "", "")


def _why_not_as_named(frames: Sequence[Frame], gap_mm: float | None) -> str:
    """What in the headers contradicts slices that are counted by the files' names; empty if nothing does, or none tells."""
    if len({(frame.place.person, frame.place.study) for frame in frames}) > 1:
        return "its images are of several patients or studies, whatever their names say"
    if not all(frame.place.header.position and frame.place.header.axes for frame in frames):
        return ""
    along: dict[int, list[float]] = {}
    for frame in frames:
        along.setdefault(frame.slice_index, []).append(_along(frame.place))
    if any(max(at) - min(at) > SAME_PLACE_MM for at in along.values()):
        return f"images {rvsc.PHASES_PER_SLICE} * slice + phase, by their names, are not at one place, by their headers"
    for (here, a), (there, b) in itertools.pairwise(sorted(along.items())):
        if gap_mm is not None and abs(abs(b[0] - a[0]) - (there - here) * gap_mm) > EVEN * gap_mm:
            return (
                f"slices {here} and {there}, by their names, are {abs(b[0] - a[0]):.3g} mm apart, by their headers {gap_mm:.3g}"
            )
    return ""


def _by_place(patient: str, files: Sequence[tuple[Path, Place]], folder: str) -> Patient:
    """Slices and phases by what the headers tell; where they do not, the patient is `undefined`."""
    frames = [Frame(path, number, place, 0, "") for number, (path, place) in enumerate(files)]
    if why := _why_no_stack([frame.place for frame in frames]):
        return Patient(patient, frames, None, why, folder)
    stack = _stack(frames)
    positions = np.array([_along(at[0].place) for at in stack])
    gaps = np.diff(positions)
    counts = sorted({len(at) for at in stack})
    if len(counts) > 1:
        return Patient(patient, frames, None, f"some slices have {counts[0]} images, others {counts[-1]}", folder)
    if len(gaps) and np.ptp(gaps) > EVEN * np.median(gaps):
        return Patient(
            patient, frames, None, f"its slices are {gaps.min():.3g} to {gaps.max():.3g} mm apart: is one missing?", folder
        )
    if why := _why_no_phases(stack):
        return Patient(patient, frames, None, why, folder)
    found = [
        frame._replace(slice_index=index, phase=str(phase) if len(at) > 1 else "")
        for index, at in enumerate(stack)
        for phase, frame in enumerate(at)
    ]
    found.sort(key=lambda frame: frame.number)
    return Patient(patient, found, float(np.median(gaps)) if len(gaps) else None, "", folder)


def _why_no_stack(places: Sequence[Place]) -> str:
    """What keeps images from being parallel slices on one grid; empty if nothing does."""
    first = places[0]
    if len({(place.person, place.study) for place in places}) > 1:
        return "its images are of several patients or studies: give each a folder of its own"
    if not all(place.header.position and place.header.axes for place in places):
        return "the images do not say where they lie (ImagePositionPatient, ImageOrientationPatient)"
    if any(place.shape != first.shape for place in places):
        return "its images are of several sizes"
    if not all(np.allclose(place.header.spacing_mm, first.header.spacing_mm, rtol=1e-3, atol=0) for place in places):
        return "its images are of several spacings"
    if not all(np.allclose(place.header.axes, first.header.axes, rtol=0, atol=1e-3) for place in places):
        return "its images are of several orientations"
    return ""


def _why_no_phases(stack: Sequence[Sequence[Frame]]) -> str:
    """What keeps the images at one position from being one beat; empty if nothing does."""
    places = [[frame.place for frame in at] for at in stack]
    if any(len({place.image for place in at}) < len(at) for at in places):
        return "the same image (SOPInstanceUID) is there twice"
    if any(len({place.series for place in at}) > 1 for at in places):
        return "its images at one position are of several series: give each series a folder of its own"
    for at in places:
        times, numbers = ({place.trigger_ms for place in at}, {place.instance for place in at})
        if len(times - {math.inf}) < len(at) and len(times) > 1:
            return "several images at one position have the same time, or some have none (TriggerTime)"
        if len(at) > 1 and len(times) == 1 and len(numbers - {math.inf}) < len(at):
            return "its headers do not tell the order of the images at one position (TriggerTime, InstanceNumber)"
    return ""


def _along(place: Place) -> float:
    """Where an image lies along its own normal [mm]."""
    across, down = np.array(place.header.axes).reshape(2, 3)
    return float(np.dot(np.cross(across, down), np.array(place.header.position)))


def _stack(frames: Iterable[Frame]) -> list[list[Frame]]:
    """The images of each slice, slices along the normal, the images of one in the order of time."""
    found: list[list[Frame]] = []
    for frame in sorted(frames, key=lambda frame: _along(frame.place)):
        if found and _along(frame.place) - _along(found[-1][0].place) < SAME_PLACE_MM:
            found[-1].append(frame)
        else:
            found.append([frame])
    return [sorted(at, key=lambda frame: (frame.place.trigger_ms, frame.place.instance)) for at in found]


# NIfTI


def _volumes(files: Sequence[Path], root: Path, left_out: Counter[str]) -> list[VolumeFile]:
    """The volumes of these files; label images and films are counted."""
    folders: dict[Path, list[Path]] = {}
    for path in files:
        folders.setdefault(path.parent, []).append(path)
    infos = {folder: info for folder in folders if root.is_dir() and (info := folder / "Info.cfg").is_file()}
    hearts = _labels([(folder.resolve().name, _below(folder, root)) for folder in infos])
    patients = dict(zip(infos, hearts, strict=True))
    kept: list[tuple[Path, str]] = []
    for folder, inside in folders.items():
        stems = nifti.by_stem(inside)
        for stem, path in stems.items():
            of_acdc = folder in infos
            if folder.name in LABEL_FOLDERS or (stem.endswith("_gt") and (of_acdc or stem.removesuffix("_gt") in stems)):
                left_out["label images"] += 1
            elif of_acdc and stem.endswith("_4d"):
                left_out["films (_4d)"] += 1
            else:
                kept.append((path, stem))
    second = {(path.parent, stem.removesuffix("_0001")) for path, stem in kept if stem.endswith("_0001")}
    for path, stem in kept:
        if path.parent.name in IMAGE_FOLDERS and stem.endswith("_0000") and (path.parent, stem.removesuffix("_0000")) in second:
            raise InputError(f"{path}: this case has further channels beside it (_0001). Give a folder with one channel alone.")
    if all(stem.endswith("_0000") and stem != "_0000" for _, stem in kept):  # nnU-Net's only channel
        kept = [(path, stem.removesuffix("_0000")) for path, stem in kept]
    called = _labels([(stem, f"{_below(path.parent, root)}/{stem}".removeprefix("./")) for path, stem in kept])
    phases = {folder: {frame: phase for phase, frame in acdc.read_info(info).items()} for folder, info in infos.items()}
    found = []
    for name, (path, stem) in zip(called, kept, strict=True):
        match, of = ACDC_FRAME.search(stem), phases.get(path.parent)
        frame = int(match[1]) if of is not None and match else 0
        phase = "" if of is None else str(of.get(frame, frame))
        found.append(VolumeFile(path, name, patients.get(path.parent, name), frame, phase))
    return found


def _below(folder: Path, root: Path) -> str:
    return folder.relative_to(root if root.is_dir() else folder).as_posix()


def _labels(candidates: Sequence[tuple[str, str]]) -> list[str]:
    """The first label of each, if no two are alike, else the second."""
    short, long = ([pair[i] for pair in candidates] for i in (0, 1))
    return short if len({*short}) == len(short) else long
