"""Find the axis that counts the slices of a stored volume, unless the user gives the axis.

A volume's slices are the planes in which it was acquired or drawn. Most files store slices along the last axis, but files from
some tools (such as nibabel.as_closest_canonical) store them along another one. The rule for one volume is:

1. The spacing decides if one axis clearly differs from the other two. This is the case if the other two spacings are equal
   (within SQUARE) and the third differs (by DISTINCT), or if the largest spacing is at least CLEAR times the next one.
   (nnU-Net takes the axis of the largest spacing.)
2. Otherwise the shape may decide. A plane is called a strip if one of its sides [mm] is at least FLAT times the other
   side. The axis with the fewest pixels is chosen if planes perpendicular to this axis are not strips, but planes
   perpendicular to the last axis are strips.
3. Otherwise the volume itself does not determine the axis, for example if its voxels are cubes. Then the axis is used
   that the spacing of other volumes in the data set determines. If these volumes disagree, an error is raised. If there
   are no such volumes, the last axis is used, as in nnU-Net for equal spacings.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from segtune.errors import InputError

log = logging.getLogger(__name__)

LAST = 2
SQUARE = 1.01  # two spacings are equal if their ratio is at most this
DISTINCT = 1.05  # a third spacing differs from two equal ones if their ratio is at least this
CLEAR = 1.5  # the largest spacing is that of the slices if it is at least this times the next, even if pixels are not square
FLAT = 3.0  # a plane is a strip if the ratio of its sides is at least this
LONG = 20.0  # no image of a heart, head or body has a longest side [mm] this many times its shortest
KEY = "data.slice_axis"


class Axis(NamedTuple):
    """The axis of the stored array that counts the slices (0, 1 or 2), and what decided it."""

    axis: int
    decided_by: Literal["spacing", "shape", "nothing", "user"]


class Grid(NamedTuple):
    """The shape [pixels] and spacing [mm] of a stored volume along its stored axes."""

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]


def of_set(grids: Mapping[Path, Grid], chosen: int | None = None) -> dict[Path, int]:
    """Find the slice axis of each volume of a data set. Log a warning if the axis is unclear or is not the last one.

    Args: chosen: the axis that the user has set for all volumes; None: apply the rule of this module.
    Raises: InputError if spacing and shape of a volume contradict each other, or if one volume does not determine its
        axis and the other volumes disagree.
    """
    if chosen is not None and (isinstance(chosen, bool) or chosen not in (0, 1, LAST)):
        raise InputError(f"{KEY}={chosen}: must be the axis of the stored array that counts the slices (0, 1 or 2), or null.")
    if chosen is not None:
        for path, grid in grids.items():
            if len(grid.shape) < 3 and chosen != LAST:
                raise InputError(
                    f"{path}: the file holds a single plane, so axis {chosen} cannot count its slices. Remove {KEY} or the "
                    "file."
                )
        return dict.fromkeys(grids, chosen)
    found = {path: of_volume(path, grid) for path, grid in grids.items()}
    by_spacing = {one.axis for one in found.values() if one.decided_by == "spacing"}
    axes = {path: one.axis for path, one in found.items()}
    if undecided := [path for path, one in found.items() if one.decided_by == "nothing"]:
        if len(by_spacing) > 1:
            raise InputError(
                f"{undecided[0]}: its spacing does not show which axis counts the slices, and in other files it is axis "
                f"{' or '.join(map(str, sorted(by_spacing)))}. Store the slices of all volumes along the last axis, or set "
                f"{KEY}."
            )
        axes |= dict.fromkeys(undecided, next(iter(by_spacing), LAST))
        log.warning(
            "%d of %d volumes have about the same spacing along all axes (the first is %s), so it is unclear which axis "
            "counts the slices: axis %d (of 0, 1 and 2) is assumed. Choose another one with %s.",
            *(len(undecided), len(axes), undecided[0].name, axes[undecided[0]], KEY),
        )
    if others := [path for path, axis in axes.items() if axis != LAST]:
        by_shape = sum(found[path].decided_by == "shape" for path in others)
        log.warning(
            "%d of %d volumes do not store their slices along the last axis of the array (the first is %s, axis %d)%s. "
            "Each volume is read along its own axis. To use one axis for all volumes, set %s.",
            *(len(others), len(axes), others[0].name, axes[others[0]]),
            *(f"; in {by_shape} of them only the shape shows this" if by_shape else "", KEY),
        )
    return axes


def of_volume(path: Path, grid: Grid) -> Axis:
    """Find the slice axis of one volume. Raises: InputError if its spacing and shape contradict each other."""
    if len(grid.shape) < 3 or grid.shape[LAST] == 1:
        return Axis(LAST, "shape")
    axis = _by_spacing(grid.spacing_mm)
    if axis is not None:
        if _is_denied(grid, axis):
            sizes, spacing = (" x ".join(f"{n:g}" for n in numbers) for numbers in grid)
            raise InputError(
                f"{path}: according to its spacing, {spacing} mm, axis {axis} (of 0, 1 and 2) counts the slices, but its "
                f"shape, {sizes}, contradicts this. Correct the header, or set {KEY}."
            )
        return Axis(axis, "spacing")
    fewest = min(range(3), key=lambda one: (grid.shape[one], -one))
    if fewest != LAST and _stretch(grid, LAST) >= FLAT > _stretch(grid, fewest):
        return Axis(fewest, "shape")
    return Axis(LAST, "nothing")


def _by_spacing(spacing_mm: tuple[float, ...]) -> int | None:
    """Return the axis whose spacing shows that it counts the slices; None if it is unclear."""
    small, middle, large = sorted(range(3), key=lambda axis: spacing_mm[axis])
    low, high = spacing_mm[middle] / spacing_mm[small], spacing_mm[large] / spacing_mm[middle]
    if low <= SQUARE and high >= DISTINCT:
        return large
    if high <= SQUARE and low >= DISTINCT:
        return small
    return large if high >= CLEAR else None


def _is_denied(grid: Grid, axis: int) -> bool:
    """Return whether the shape of the volume makes it implausible that this axis counts the slices.

    This is the case if the slices would be narrow strips, and the number of slices would be at least FLAT times the
    width of a strip [pixels]. Because most files store slices along the last axis, there is another condition for the
    last axis: one side of the volume [mm] must also be at least LONG times another side.
    """
    plane = [grid.shape[other] for other in range(3) if other != axis]
    extents = [n * mm for n, mm in zip(grid.shape, grid.spacing_mm, strict=True)]
    is_strip = min(grid.shape[axis], max(plane)) >= FLAT * min(plane)
    return is_strip and (axis != LAST or max(extents) >= LONG * min(extents))


def _stretch(grid: Grid, axis: int) -> float:
    """The ratio (1 or more) of the longer to the shorter side [mm] of a plane perpendicular to the axis."""
    sides = [grid.shape[other] * grid.spacing_mm[other] for other in range(3) if other != axis]
    return max(sides) / min(sides)
