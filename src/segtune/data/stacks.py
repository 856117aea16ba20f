"""Arrange the DICOM images of one patient and study in stacks, by position and time.

The slices of a stack are ordered by their position along the normal. Images at the same position are phases of the heartbeat,
ordered by trigger time or, if it is missing, by instance number. Several series are combined if they have the same size,
spacing and orientation and form a consistent stack: one series for each slice, or one for each moment of the heartbeat.
If several series have the same positions, but do not form a heartbeat, they are treated as different acquisitions. If
each acquisition has its own folder, each becomes a stack of its own. Otherwise, no stack is formed from these series.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segtune.data.formats.dicom import Place

SAME_PLACE_MM = 0.1  # images closer than this along the normal are one slice
EVEN = 0.1  # relative difference up to which slice distances, and time steps, count as equal
MOMENTS = 3  # least number of series that count as moments of a heartbeat, because two may be rest and stress
OTHERWISE = "of other series, whose positions do not fit this stack"


class Frame(NamedTuple):
    """One DICOM image of a patient.

    Attributes:
        number: the image's number within the patient.
        undefined: the reason why slice and phase are unknown; empty if they are known.
    """

    path: Path
    number: int
    place: Place
    slice_index: int = 0
    phase: str = ""
    undefined: str = ""


class Stack(NamedTuple):
    """Images in their original order, with their slice and phase numbers.

    Attributes:
        gap_mm: distance of neighbouring slices [mm]; None if unknown.
        undefined: the reason why slices and phases are unknown; empty if they are known.
        person, study: the hashes that are defined in Place; 0 if unknown.
        n_series: number of series in the stack.
        others: number of images in the stack that do not belong to any volume.
    """

    frames: list[Frame]
    gap_mm: float | None
    undefined: str
    person: int = 0
    study: int = 0
    n_series: int = 1
    others: int = 0

    def is_heart(self) -> bool:
        return not self.undefined and len({frame.slice_index for frame in self.frames}) > 1


def of_studies(frames: Sequence[Frame]) -> list[Stack]:
    """Arrange images in stacks, in the order of their first images.

    An image that does not fit into any stack of its study is added to the study's largest stack. The attribute
    `undefined` of the image gives the reason.
    """
    studies: dict[tuple[object, ...], list[Frame]] = {}
    for frame in frames:
        place = frame.place
        key = (place.person, place.study) if place.study or place.person else (frame.path.parent,)
        studies.setdefault(key, []).append(frame)
    found = [stack for mine in studies.values() for stack in _of_study(mine)]
    return sorted(found, key=lambda stack: stack.frames[0].number)


def _of_study(frames: Sequence[Frame]) -> list[Stack]:
    person, study = frames[0].place.person, frames[0].place.study
    found = [stack for alike in _alike(frames) for stack in _resolved(alike, is_known=bool(study))]
    if study and len(found) > 1:
        hearts = sorted((stack for stack in found if stack.is_heart()), key=lambda stack: -len(stack.frames))
        found = [*hearts] if hearts else [_stacked(frames)]
        if hearts:
            taken = {frame.number for stack in hearts for frame in stack.frames}
            others = [frame._replace(undefined=OTHERWISE) for frame in frames if frame.number not in taken]
            largest = sorted([*hearts[0].frames, *others], key=lambda frame: frame.number)
            found[0] = hearts[0]._replace(frames=largest, others=len(others))
    return [
        stack._replace(
            person=person, study=study, n_series=len({_series(frame) for frame in stack.frames if not frame.undefined})
        )
        for stack in found
    ]


def _series(frame: Frame) -> object:
    """Return a key for the image's series. If the header gives no series, the key is the image's folder."""
    return frame.place.series or frame.path.parent


def _grouped(frames: Iterable[Frame], depth: int | None = None) -> list[list[Frame]]:
    """Return one list of frames for each series. If a depth is given, return one list for each folder at this depth."""
    found: dict[object, list[Frame]] = {}
    for frame in frames:
        key = _series(frame) if depth is None else frame.path.parent.parts[:depth]
        found.setdefault(key, []).append(frame)
    return list(found.values())


def _alike(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Combine all series that have the same grid into one group of frames.

    A series with images on several grids is a group of its own.
    """
    found: list[list[Frame]] = []
    alone: list[list[Frame]] = []
    for series in _grouped(frames):
        if _why_no_stack([frame.place for frame in series]):
            alone.append(series)
            continue
        same = (one for one in found if not _why_no_stack([one[0].place, series[0].place]))
        if (one := next(same, None)) is not None:
            one += series
        else:
            found.append(series)
    return [*found, *alone]


def _resolved(frames: Sequence[Frame], *, is_known: bool) -> list[Stack]:
    """Arrange images with the same grid as one stack, or each folder separately.

    The folders are arranged separately if one stack is impossible. They are also arranged separately if the study is
    unknown and at least one folder forms a heart without the others (see Stack.is_heart).

    Args: is_known: whether the headers give the study.
    """
    frames = sorted(frames, key=lambda frame: frame.number)
    whole = _stacked(frames)
    folders = _below_first(frames)
    if len(folders) == 1:
        return [whole] if not whole.undefined else _apart(frames) or [whole]
    if not whole.undefined and (is_known or not any(_stacked(part).is_heart() for part in folders)):
        return [whole]
    found = [stack for part in folders for stack in _resolved(part, is_known=is_known)]
    return found if not is_known or any(stack.is_heart() for stack in found) else [whole]


def _below_first(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Return one list of frames for each folder, at the first depth at which there are several folders."""
    depth = max(len(frame.path.parent.parts) for frame in frames)
    return next((parts for n in range(1, depth + 1) if len(parts := _grouped(frames, n)) > 1), [list(frames)])


def _apart(frames: Sequence[Frame]) -> list[Stack]:
    """Arrange each series of one folder as a stack of its own.

    The list is empty in two cases: no series is a heart (several slices with known phases), or two series have images
    at the same position.
    """
    found = [_stacked(series) for series in _grouped(frames)]
    if len(found) < 2 or not any(stack.is_heart() for stack in found):
        return []
    if _why_no_stack([frame.place for frame in frames]) or any(
        len({_series(frame) for frame in at}) > 1 for at in _slices(frames)
    ):
        return []
    return found


def _stacked(frames: Sequence[Frame]) -> Stack:
    """Use the image headers to arrange the images as one stack. If this is impossible, `undefined` gives the reason."""
    frames = list(frames)
    if why := _why_no_stack([frame.place for frame in frames]):
        return Stack(frames, None, why)
    slices = _slices(frames)
    gaps = np.diff(np.array([along(at[0].place) for at in slices]))
    counts = sorted({len(at) for at in slices})
    why = _why_no_phases(slices)
    if len(counts) > 1:
        why = f"some slices have {counts[0]} images, others {counts[-1]}"
    elif len(gaps) and np.ptp(gaps) > EVEN * np.median(gaps):
        why = f"its slices are {gaps.min():.3g} to {gaps.max():.3g} mm apart, so one may be missing"
    if why:
        return Stack(frames, None, why)
    found = [
        frame._replace(slice_index=index, phase=str(phase) if len(at) > 1 else "")
        for index, at in enumerate(slices)
        for phase, frame in enumerate(at)
    ]
    return Stack(sorted(found, key=lambda frame: frame.number), float(np.median(gaps)) if len(gaps) else None, "")


def _why_no_stack(places: Sequence[Place]) -> str:
    """Return the reason why the images are not parallel slices on one grid; an empty text if they are."""
    first = places[0]
    if not all(place.header.position and place.header.axes for place in places):
        return "the headers do not give the position of the images (ImagePositionPatient, ImageOrientationPatient)"
    if any(place.shape != first.shape for place in places):
        return "its images have different sizes"
    if not all(np.allclose(place.header.spacing_mm, first.header.spacing_mm, rtol=1e-3, atol=0) for place in places):
        return "its images have different spacings"
    if not all(np.allclose(place.header.axes, first.header.axes, rtol=0, atol=1e-3) for place in places):
        return "its images have different orientations"
    return ""


def _why_no_phases(slices: Sequence[Sequence[Frame]]) -> str:
    """Return the reason why the images at one position do not form one heartbeat; an empty text if they do."""
    places = [[frame.place for frame in at] for at in slices]
    if any(len({place.image for place in at}) < len(at) for at in places):
        return "the same image (SOPInstanceUID) occurs twice"
    if any(len({place.series for place in at}) > 1 for at in places) and not _are_moments(places):
        return "images at one position belong to several series, so each series must be in a folder of its own"
    for at in places:
        times, numbers = ({place.trigger_ms for place in at}, {place.instance for place in at})
        if len(times - {math.inf}) < len(at) and len(times) > 1:
            return "images at one position have the same time (TriggerTime), or some have no time"
        if len(at) > 1 and len(times) == 1 and len(numbers - {math.inf}) < len(at):
            return "its headers do not give the order of the images at one position (TriggerTime, InstanceNumber)"
    return ""


def _are_moments(places: Sequence[Sequence[Place]]) -> bool:
    """Return whether each series is one moment of the heartbeat.

    This is the case if each series has one image at every position, and the series have the same order in time and equal time
    steps at all positions.
    """
    orders = set()
    for at in places:
        at = sorted(at, key=lambda place: place.trigger_ms)
        steps = np.diff([place.trigger_ms for place in at]) if math.isfinite(at[-1].trigger_ms) else np.zeros(1)
        if len(at) < MOMENTS or steps.min() <= 0 or np.ptp(steps) > EVEN * np.median(steps):
            return False
        orders.add(tuple(place.series for place in at))
    return len(orders) == 1 and all(len({*order}) == len(order) for order in orders)


def along(place: Place) -> float:
    """The position of an image along its normal [mm]."""
    across, down = np.array(place.header.axes).reshape(2, 3)
    return float(np.dot(np.cross(across, down), np.array(place.header.position)))


def _slices(frames: Iterable[Frame]) -> list[list[Frame]]:
    """Group the images by slice. Slices are ordered along the normal, and the images of a slice by time."""
    found: list[list[Frame]] = []
    for frame in sorted(frames, key=lambda frame: along(frame.place)):
        if found and along(frame.place) - along(found[-1][0].place) < SAME_PLACE_MM:
            found[-1].append(frame)
        else:
            found.append([frame])
    return [sorted(at, key=lambda frame: (frame.place.trigger_ms, frame.place.instance)) for at in found]
