"""Images without labels, as a clinic has them: DICOM or NIfTI below one folder, or a single file. Nothing outside is read.

DICOM. Files named like the RVSC's (P09-0020.dcm) are frame 20 = 20 * slice + phase of patient P09. All others are put
together by patient and study (by folder, where headers tell neither), and then by series, as `stacks` says: P01, P02, ... in
the natural order of their first files, frames counted from 0 in the natural order of the names, and within a file of several.
Where headers do not tell slices and phases, `undefined` says why there is no volume.

NIfTI. Each file is a volume and each a patient of its own, called by its name (CASE_0000.nii.gz, if all end so, is CASE). A
fourth axis is time: each of its frames, from 0, is a volume and a phase of that patient.
In a folder with an Info.cfg, as ACDC has it, the folder is the patient, frames are counted from 1, and that file says which
are ED and ES. Nothing is read twice: of a film (_4d) and single frames of it (_frame01), what suffices alone is read.
"""

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from segtune.data import acdc, names, nnunet, rvsc, stacks
from segtune.data.formats import dicom, nifti
from segtune.data.formats.dicom import Place
from segtune.data.formats.files import is_text, tell
from segtune.data.slices import Phase, Slice
from segtune.data.stacks import EVEN, SAME_PLACE_MM, Frame, Stack, along
from segtune.errors import InputError

MAGIC, MAGIC_AT = b"DICM", 128  # of a DICOM file, whatever its name
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
                yield Image(item, "" if self.folder else frame.path.name, frame.phase, frame.undefined or self.undefined)


@dataclass(frozen=True)
class VolumeFile:
    """One NIfTI file, or one frame of a film. name: what it is called in results, unlike all others; it may have folders in it.

    n_frames, index: volumes along a fourth axis, and which of them this is. phases: a film's phase by the number of its frame,
    where that is known; first: the number of its first frame.
    """

    path: Path
    name: str
    patient: str
    frame: int
    phase: str
    n_frames: int = 1
    index: int = 0
    first: int = 0
    phases: Mapping[int, str] = field(default_factory=dict)

    def frames(self) -> list["VolumeFile"]:
        """Each frame of a film; the file itself, if it is a single volume."""
        if self.n_frames == 1:
            return [self]
        numbers = [self.first + index for index in range(self.n_frames)]
        return [
            replace(self, index=index, frame=number, phase=self.phases.get(number, str(number)))
            for index, number in enumerate(numbers)
        ]

    def read(self, slice_axis: int | None = None) -> nifti.Volume:
        """Args: slice_axis: as in nifti.read. Raises: InputError naming the file."""
        return nifti.read(self.path, channel=self.index, n_channels=self.n_frames, slice_axis=slice_axis)

    def images(self, volume: nifti.Volume) -> Iterator[Image]:
        """The slices of the volume that `read` returns. Raises: InputError for pixels that are not finite."""
        known: dict[str, Phase] = {"ED": "ED", "ES": "ES"}
        for index, plane in enumerate(volume.voxels):
            pixels, phase = nifti.finite(self.path, index, plane), known.get(self.phase)
            item = _unlabelled(pixels, self.patient, self.frame, index, phase, volume.spacing_mm, volume.gap_mm)
            yield Image(item, self.path.name, self.phase, "")


@dataclass(frozen=True)
class Found:
    """What there is to be read: patients (DICOM) or volumes (NIfTI), never both. left_out: kind of file -> how many.

    put_together: sentences on which images are one patient's, where folders alone do not say so.
    """

    patients: Sequence[Patient]
    volumes: Sequence[VolumeFile]
    left_out: Mapping[str, int]
    put_together: Sequence[str] = ()


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
    tell([path for path in others if not is_text(path)], root)
    if niftis and dicoms:
        raise InputError(
            f"input={source}: it holds DICOM ({dicoms[0].name}) and NIfTI ({niftis[0].name}). Give the folder of one of them."
        )
    volumes = _volumes(niftis, root, left_out)
    patients, put_together = _patients(dicoms, root, left_out)
    if not volumes and not patients:
        told = f" ({_told(left_out)})" if _told(left_out) else ""
        raise InputError(f"input={source}: there is no image in it{told}. Give a folder of DICOM or NIfTI files, or one file.")
    return Found(patients, volumes, {kind: n for kind, n in left_out.items() if n}, put_together)


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


def _patients(files: Sequence[Path], root: Path, left_out: Counter[str]) -> tuple[list[Patient], list[str]]:
    """The patients of these files, and what was put together; objects that are no images are counted."""
    named: dict[str, dict[int, tuple[Path, Place]]] = {}  # as the RVSC names them: patient -> frame -> image
    others: list[tuple[Path, Place]] = []
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
            others += [(path, place) for place in places]
    others.sort(key=lambda pair: [names.natural(part) for part in Path(_below(pair[0].parent, root)).parts])
    found = stacks.of_studies([Frame(path, number, place) for number, (path, place) in enumerate(others)])
    free = (label for n in itertools.count(1) if (label := f"P{n:02}") not in named)
    labelled = dict(zip(free, found, strict=False))
    by_name = [_by_name(label, named[label]) for label in sorted(named, key=lambda label: int(label[1:]))]
    return [*by_name, *(_by_place(label, stack, root) for label, stack in labelled.items())], _put_together(labelled)


def _by_place(patient: str, stack: Stack, root: Path) -> Patient:
    folder = Path(os.path.commonpath([frame.path.parent for frame in stack.frames]))
    frames = [frame._replace(number=number) for number, frame in enumerate(stack.frames)]
    return Patient(patient, frames, stack.gap_mm, stack.undefined, _below(folder, root))


def _put_together(labelled: Mapping[str, Stack]) -> list[str]:
    """What the headers say of whose the images are, beyond what the folders do. Nothing of a header or a name is in it."""
    said = []
    for label, stack in labelled.items():
        n_folders = len({frame.path.parent for frame in stack.frames if not frame.undefined})
        if stack.n_series > 1 or n_folders > 1:
            said.append(f"{label}: {stack.n_series} series in {n_folders} folders put together, of one patient and study")
        if stack.others:
            said.append(f"{label}: images in no volume, {stacks.OTHERWISE}: {stack.others}")
    for key, what in (("study", "stacks of one patient and study"), ("person", "studies of one patient")):
        alike: dict[int, dict[int, str]] = {}
        for label, stack in labelled.items():
            alike.setdefault(getattr(stack, key), {}).setdefault(hash(label) if key == "study" else stack.study, label)
        said += [f"{', '.join(of.values())}: {what}" for one, of in alike.items() if one and len(of) > 1]
    folders: dict[Path, set[str]] = {}
    for label, stack in labelled.items():
        for frame in stack.frames:
            folders.setdefault(frame.path.parent, set()).add(label)
    mixed = {", ".join(sorted(of)) for of in folders.values() if len(of) > 1}
    return [*said, *(f"{labels}: told apart by patient and study in one folder" for labels in sorted(mixed))]


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
    positions: dict[int, list[float]] = {}
    for frame in frames:
        positions.setdefault(frame.slice_index, []).append(along(frame.place))
    if any(max(at) - min(at) > SAME_PLACE_MM for at in positions.values()):
        return f"images {rvsc.PHASES_PER_SLICE} * slice + phase, by their names, are not at one place, by their headers"
    for (here, a), (there, b) in itertools.pairwise(sorted(positions.items())):
        if gap_mm is not None and abs(abs(b[0] - a[0]) - (there - here) * gap_mm) > EVEN * gap_mm:
            return (
                f"slices {here} and {there}, by their names, are {abs(b[0] - a[0]):.3g} mm apart, by their headers {gap_mm:.3g}"
            )
    return ""


# NIfTI


def _volumes(files: Sequence[Path], root: Path, left_out: Counter[str]) -> list[VolumeFile]:
    """The volumes of these files; label images and films are counted."""
    folders: dict[Path, list[Path]] = {}
    for path in files:
        folders.setdefault(path.parent, []).append(path)
    infos = {folder: info for folder in folders if root.is_dir() and (info := folder / "Info.cfg").is_file()}
    hearts = _labels([(folder.resolve().name, _below(folder, root)) for folder in infos])
    patients = dict(zip(infos, hearts, strict=True))
    phases = {folder: {frame: phase for phase, frame in acdc.read_info(info).items()} for folder, info in infos.items()}
    kept: list[tuple[Path, str]] = []
    for folder, inside in folders.items():
        stems = nifti.by_stem(inside)
        spare = _read_elsewhere(stems, phases.get(folder))
        for stem, path in stems.items():
            of_acdc = folder in infos
            if folder.name in LABEL_FOLDERS or (stem.endswith("_gt") and (of_acdc or stem.removesuffix("_gt") in stems)):
                left_out["label images"] += 1
            elif stem in spare:
                left_out["films (_4d)" if stem.endswith("_4d") else "frames of films (_4d)"] += 1
            else:
                kept.append((path, stem))
    second = {(path.parent, stem.removesuffix("_0001")) for path, stem in kept if stem.endswith("_0001")}
    for path, stem in kept:
        if path.parent.name in IMAGE_FOLDERS and stem.endswith("_0000") and (path.parent, stem.removesuffix("_0000")) in second:
            raise InputError(f"{path}: this case has further channels beside it (_0001). Give a folder with one channel alone.")
    if all(stem.endswith("_0000") and stem != "_0000" for _, stem in kept):  # nnU-Net's only channel
        kept = [(path, stem.removesuffix("_0000")) for path, stem in kept]
    called = _labels([(stem, f"{_below(path.parent, root)}/{stem}".removeprefix("./")) for path, stem in kept])
    found = []
    for name, (path, stem) in zip(called, kept, strict=True):
        match, of = ACDC_FRAME.search(stem), phases.get(path.parent)
        frame = int(match[1]) if of is not None and match else 0
        phase = "" if of is None else str(of.get(frame, frame))
        file = VolumeFile(path, name, patients.get(path.parent, name), frame, phase, nifti.n_frames(path))
        found.append(replace(file, first=int(of is not None), phases=of or {}))
        _check_film(found[-1])
    return found


def _read_elsewhere(stems: Mapping[str, Path], phases: Mapping[int, str] | None) -> set[str]:
    """Films of which single frames suffice, and single frames that a film has, too.

    Args: stems: of one folder, and their files. phases: of the frames that Info.cfg names, where there is one.
    """
    spare: set[str] = set()
    for stem in stems:
        frames = {int(match[1]): one for one in stems if (match := ACDC_FRAME.search(one)) and _film(one) == stem}
        if not stem.endswith("_4d") or not frames:
            continue
        n = nifti.n_frames(stems[stem])
        is_enough = phases is not None and (phases.keys() <= frames.keys() or n < max(phases))
        spare |= {stem} if is_enough else {*frames.values()} if n > 1 else set()
    return spare


def _film(stem: str) -> str:
    """What the film is called that a frame like patient001_frame01 is of."""
    return ACDC_FRAME.sub("_4d", stem)


def _check_film(file: VolumeFile) -> None:
    """Raises: InputError for a fourth axis that is not time, and for frames of Info.cfg that the film has not."""
    if file.n_frames > 1 and file.path.parent.name in IMAGE_FOLDERS:
        raise InputError(
            f"{file.path}: in a folder {file.path.parent.name} a fourth axis (of {file.n_frames}) counts channels, not time. "
            "Give a folder with one channel alone, or, if it is a film, a folder of another name."
        )
    if file.n_frames > 1 and (beyond := max(file.phases, default=0)) > file.n_frames:
        raise InputError(
            f"{file.path}: it has {file.n_frames} frames, but Info.cfg says that frame {beyond} is {file.phases[beyond]}. "
            "Correct one of them."
        )


def _below(folder: Path, root: Path) -> str:
    return folder.relative_to(root if root.is_dir() else folder).as_posix()


def _labels(candidates: Sequence[tuple[str, str]]) -> list[str]:
    """The first label of each, if no two are alike, else the second."""
    short, long = ([pair[i] for pair in candidates] for i in (0, 1))
    return short if len({*short}) == len(short) else long
