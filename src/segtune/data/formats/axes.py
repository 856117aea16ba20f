"""Which axis of a stored volume counts its slices: found from spacing and shape, as nnU-Net does, or as the user says.

A volume's slices are the planes in which it was acquired or drawn, and most files store them along their last axis. After
nibabel.as_closest_canonical, or as another tool saved them, it may be any of the three. The rule, for one volume:

1. Spacing tells (as nnU-Net: the axis of the largest spacing) where one axis is clearly the odd one: the other two have square
   pixels (within SQUARE) and it differs from them (by DISTINCT), or its spacing is at least CLEAR times the next smaller one.
2. Else shape tells: where planes across the last axis would be strips (FLAT to one and beyond, in mm), and those across the
   axis with the fewest pixels would not.
3. Else, as in a volume of cubes, nothing tells. It is the axis that spacing gives for the other volumes of the data set if
   they agree, and the last otherwise: where nnU-Net's rule ends for equal spacings too.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from segtune.errors import InputError

log = logging.getLogger(__name__)

LAST = 2
SQUARE = 1.01  # ratio of two spacings up to which they are one
DISTINCT = 1.05  # ratio from which on a third spacing is another than the two that are one
CLEAR = 1.5  # ratio of the largest spacing to the next from which on it is that of slices, however stretched the pixels are
FLAT = 3.0  # ratio of a plane's sides from which on it is a strip
LONG = 20.0  # ratio of a volume's longest side to its shortest [mm] beyond which no heart, head or body is cut
KEY = "data.slice_axis"


class Axis(NamedTuple):
    """The axis that counts the slices (0, 1 or 2 of the stored array), and what tells it."""

    axis: int
    told_by: Literal["spacing", "shape", "nothing", "user"]


class Grid(NamedTuple):
    """A stored volume's numbers of pixels and its spacing [mm], each along the stored axes."""

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]


def of_set(grids: Mapping[Path, Grid], chosen: int | None = None) -> dict[Path, int]:
    """The slice axis of each volume of a data set. Says in the log where it is not the last, and where nothing tells it.

    Args: chosen: the axis of all of them, as the user says; None: by the rule.
    Raises: InputError if the rule contradicts itself in a volume, or if nothing tells it in one and the others disagree.
    """
    if chosen is not None and (isinstance(chosen, bool) or chosen not in (0, 1, LAST)):
        raise InputError(f"{KEY}={chosen}: must be 0, 1 or 2, the axis of the stored array that counts the slices, or null.")
    if chosen is not None:
        for path, grid in grids.items():
            if len(grid.shape) < 3 and chosen != LAST:
                raise InputError(f"{path}: a single plane, which has no axis {chosen} of slices. Remove {KEY} or the file.")
        return dict.fromkeys(grids, chosen)
    found = {path: of_volume(path, grid) for path, grid in grids.items()}
    told = {one.axis for one in found.values() if one.told_by == "spacing"}
    axes = {path: one.axis for path, one in found.items()}
    if untold := [path for path, one in found.items() if one.told_by == "nothing"]:
        if len(told) > 1:
            raise InputError(
                f"{untold[0]}: its spacing does not tell which axis counts the slices, and in other files it is axis "
                f"{' or '.join(map(str, sorted(told)))}. Store all volumes with their slices along the last, or give {KEY}."
            )
        axes |= dict.fromkeys(untold, next(iter(told), LAST))
        log.warning(
            "%d of %d volumes have about the same spacing along all axes (the first is %s), so that nothing tells which axis "
            "counts the slices: axis %d is taken, of 0, 1 and 2. %s chooses another one.",
            *(len(untold), len(axes), untold[0].name, axes[untold[0]], KEY),
        )
    if others := [path for path, axis in axes.items() if axis != LAST]:
        by_shape = sum(found[path].told_by == "shape" for path in others)
        log.warning(
            "%d of %d volumes do not have their slices along the last axis of the stored array (the first is %s, axis %d)%s; "
            "they are read along their own. %s chooses one for all.",
            *(len(others), len(axes), others[0].name, axes[others[0]]),
            *(f", which only the shape tells for {by_shape}" if by_shape else "", KEY),
        )
    return axes


def of_volume(path: Path, grid: Grid) -> Axis:
    """The slice axis of one volume. Raises: InputError where spacing and shape contradict each other."""
    if len(grid.shape) < 3 or grid.shape[LAST] == 1:
        return Axis(LAST, "shape")
    axis = _by_spacing(grid.spacing_mm)
    if axis is not None:
        if _is_denied(grid, axis):
            sizes, spacing = (" x ".join(f"{n:g}" for n in numbers) for numbers in grid)
            raise InputError(
                f"{path}: its spacing, {spacing} mm, says that axis {axis} counts the slices (of 0, 1 and 2), but its shape, "
                f"{sizes}, does not. Correct the header, or say which axis it is by {KEY}."
            )
        return Axis(axis, "spacing")
    fewest = min(range(3), key=lambda one: (grid.shape[one], -one))
    if fewest != LAST and _stretch(grid, LAST) >= FLAT > _stretch(grid, fewest):
        return Axis(fewest, "shape")
    return Axis(LAST, "nothing")


def _by_spacing(spacing_mm: tuple[float, ...]) -> int | None:
    """The axis whose spacing is clearly that of slices; None if none is."""
    small, middle, large = sorted(range(3), key=lambda axis: spacing_mm[axis])
    low, high = spacing_mm[middle] / spacing_mm[small], spacing_mm[large] / spacing_mm[middle]
    if low <= SQUARE and high >= DISTINCT:
        return large
    if high <= SQUARE and low >= DISTINCT:
        return small
    return large if high >= CLEAR else None


def _is_denied(grid: Grid, axis: int) -> bool:
    """Whether shape speaks against this axis: its planes would be strips, and more of them than a strip is wide.

    The last axis, along which most files store their slices, needs more against it: a volume LONG times as long as the strip.
    """
    plane = [grid.shape[other] for other in range(3) if other != axis]
    extents = [n * mm for n, mm in zip(grid.shape, grid.spacing_mm, strict=True)]
    is_strip = min(grid.shape[axis], max(plane)) >= FLAT * min(plane)
    return is_strip and (axis != LAST or max(extents) >= LONG * min(extents))


def _stretch(grid: Grid, axis: int) -> float:
    """Ratio of the sides [mm] of a plane across the axis, from 1."""
    sides = [grid.shape[other] * grid.spacing_mm[other] for other in range(3) if other != axis]
    return max(sides) / min(sides)
