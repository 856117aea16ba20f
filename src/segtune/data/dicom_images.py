"""Find DICOM images without labels, and group them by patient.

If files are named as in RVSC, the name gives the patient and the frame: P09-0020.dcm is frame 20 of patient P09. The
frame number is 20 * slice + phase.

All other images are grouped by the patient and study in their headers. If the headers give neither, they are grouped by
folder. Each group is then divided by series, as described in `stacks`. The groups are labelled P01, P02, ... in the
natural order of their first files. The frames of a group are counted from 0, in the natural order of the file names.
Frames in the same file keep their stored order.

If the headers do not determine slices and phases, the attribute `undefined` gives the reason, and no volume is
computed.
"""

import itertools
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from segtune.data import names, rvsc, stacks
from segtune.data.formats import dicom
from segtune.data.formats.dicom import Place
from segtune.data.stacks import EVEN, SAME_PLACE_MM, Frame, Stack, along
from segtune.data.unlabelled import Image, slice_without_label
from segtune.errors import InputError


@dataclass(frozen=True)
class Patient:
    """The DICOM images of one patient.

    Attributes:
        undefined: the reason why slices and phases are unknown; empty if they are known (see Image).
        folder: the folder that contains the images; empty if the file names give the patient.
    """

    patient: str
    frames: Sequence[Frame]
    gap_mm: float | None
    undefined: str
    folder: str

    def images(self) -> Iterator[Image]:
        """Read the images one by one. Raises: InputError that names the file."""
        for path, of_file in itertools.groupby(self.frames, key=lambda frame: frame.path):
            frames = {frame.place.frame: frame for frame in of_file}
            for index, pixels, header in dicom.read_frames(path, [*frames]):
                frame = frames[index]
                item = slice_without_label(
                    pixels,
                    patient=self.patient,
                    frame=frame.number,
                    slice_index=frame.slice_index,
                    spacing_mm=header.spacing_mm,
                    gap_mm=self.gap_mm,
                )
                yield Image(item, "" if self.folder else path.name, frame.phase, frame.undefined or self.undefined)


def find(files: Sequence[Path], root: Path, left_out: Counter[str]) -> tuple[list[Patient], list[str]]:
    """Group the files by patient.

    Args: left_out: counter to which DICOM objects without an image are added.
    Returns: the patients, and sentences that say which images were combined.
    Raises: InputError that names the file, for headers that cannot be read and for two files with the same name.
    """
    named: dict[str, dict[int, tuple[Path, Place]]] = {}  # files named as in RVSC: patient -> frame -> image
    others: list[tuple[Path, Place]] = []
    for path in tqdm(files, desc="headers", unit="file", leave=False, disable=None):
        places = dicom.read_places(path)
        if not places:
            left_out["DICOM objects that are no images"] += 1
        elif len(places) == 1 and (match := rvsc.DICOM_NAME.fullmatch(path.name)):
            frames, number = named.setdefault(match[1].upper(), {}), int(match[2])
            if number in frames:
                raise InputError(
                    f"{path} and {frames[number][0]} have the same name. Keep the correct one, and move the other elsewhere."
                )
            frames[number] = (path, places[0])
        else:
            others += [(path, place) for place in places]
    others.sort(key=lambda pair: [names.natural(part) for part in Path(names.relative(pair[0].parent, root)).parts])
    found = stacks.of_studies([Frame(path, number, place) for number, (path, place) in enumerate(others)])
    free = (label for n in itertools.count(1) if (label := f"P{n:02}") not in named)
    labelled = dict(zip(free, found, strict=False))
    by_name = [_by_name(label, named[label]) for label in sorted(named, key=lambda label: int(label[1:]))]
    return [*by_name, *(_by_place(label, stack, root) for label, stack in labelled.items())], _put_together(labelled)


def _by_place(patient: str, stack: Stack, root: Path) -> Patient:
    folder = Path(os.path.commonpath([frame.path.parent for frame in stack.frames]))
    frames = [frame._replace(number=number) for number, frame in enumerate(stack.frames)]
    return Patient(patient, frames, stack.gap_mm, stack.undefined, names.relative(folder, root))


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
    """Describe the contradiction between the headers and the slice numbers in the file names; empty if there is none."""
    if len({(frame.place.person, frame.place.study) for frame in frames}) > 1:
        return "its images belong to several patients or studies according to the headers, but to one patient by their names"
    if not all(frame.place.header.position and frame.place.header.axes for frame in frames):
        return ""
    positions: dict[int, list[float]] = {}
    for frame in frames:
        positions.setdefault(frame.slice_index, []).append(along(frame.place))
    if any(max(at) - min(at) > SAME_PLACE_MM for at in positions.values()):
        numbering = f"{rvsc.PHASES_PER_SLICE} * slice + phase"
        return f"images of one slice by their names ({numbering}) are at several positions according to their headers"
    for (here, a), (there, b) in itertools.pairwise(sorted(positions.items())):
        if gap_mm is not None and abs(abs(b[0] - a[0]) - (there - here) * gap_mm) > EVEN * gap_mm:
            return (
                f"slices {here} and {there} (as numbered by the file names) are {abs(b[0] - a[0]):.3g} mm apart, but the "
                f"headers give a slice distance of {gap_mm:.3g} mm"
            )
    return ""


# Sentences about combined images. They contain no header text and no file name, because both may contain a person's name.


def _put_together(labelled: Mapping[str, Stack]) -> list[str]:
    """Return sentences that say which images belong together according to the headers, unless the folders already show it."""
    return [
        *(sentence for label, stack in labelled.items() for sentence in _of_stack(label, stack)),
        *_of_studies(labelled),
        *_of_folders(labelled),
    ]


def _of_stack(label: str, stack: Stack) -> Iterator[str]:
    n_folders = len({frame.path.parent for frame in stack.frames if not frame.undefined})
    if stack.n_series > 1 or n_folders > 1:
        yield f"{label}: combined from {stack.n_series} series in {n_folders} folders, because all are of one patient and study"
    if stack.others:
        yield f"{label}: images in no volume ({stacks.OTHERWISE}): {stack.others}"


def _of_studies(labelled: Mapping[str, Stack]) -> Iterator[str]:
    """Yield sentences that say which labels belong to the same study, and which studies belong to the same patient.

    Studies and patients that are unknown (0) are left out.
    """
    of_study: dict[int, list[str]] = {}
    of_person: dict[int, dict[int, str]] = {}  # person -> study -> its first label
    for label, stack in labelled.items():
        of_study.setdefault(stack.study, []).append(label)
        of_person.setdefault(stack.person, {}).setdefault(stack.study, label)
    for study, labels in of_study.items():
        if study and len(labels) > 1:
            yield f"{', '.join(labels)} are stacks of one patient and study"
    for person, studies in of_person.items():
        if person and len(studies) > 1:
            yield f"{', '.join(studies.values())} are studies of one patient"


def _of_folders(labelled: Mapping[str, Stack]) -> list[str]:
    """Return sentences that say which labels have their files in the same folder."""
    folders: dict[Path, set[str]] = {}
    for label, stack in labelled.items():
        for frame in stack.frames:
            folders.setdefault(frame.path.parent, set()).add(label)
    mixed = {", ".join(sorted(labels)) for labels in folders.values() if len(labels) > 1}
    return [f"{labels} share a folder and were separated by patient and study" for labels in sorted(mixed)]
