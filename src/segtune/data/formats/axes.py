"""The axis of a stored volume that counts its slices: found from spacing and shape, as in nnU-Net, or given by the user.

A volume's slices are the planes in which it was acquired or drawn. Most files store them along their last axis, but after
nibabel.as_closest_canonical, or from another tool, it may be any of the three. The rule for one volume:

1. The spacing decides (in nnU-Net: the axis of the largest spacing) if one axis clearly differs: the other two have square
   pixels (within SQUARE) and it differs from them (by DISTINCT), or its spacing is at least CLEAR times the next smaller one.
2. Otherwise the shape decides, if planes across the last axis would be strips (FLAT to one or more, in mm) and those across
   the axis with the fewest pixels would not.
3. Otherwise, as for cubic voxels, nothing decides. Then it is the axis that spacing gives for the other volumes of the data
   set if they agree, and the last axis otherwise, which is also nnU-Net's choice for equal spacings.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from segtune.errors import InputError

log = logging.getLogger(__name__)

LAST = 2
SQUARE = 1.01  # ratio of two spacings up to which they are equal
DISTINCT = 1.05  # ratio from which a third spacing differs from two equal ones
CLEAR = 1.5  # ratio of the largest spacing to the next from which it is that of slices, even if pixels are not square
FLAT = 3.0  # ratio of a plane's sides from which it is a strip
LONG = 20.0  # ratio of a volume's longest side to its shortest [mm] that no image of a heart, head or body has
KEY = "data.slice_axis"


class Axis(NamedTuple):
    """The axis that counts the slices (0, 1 or 2 of the stored array), and what decided it."""

    axis: int
    decided_by: Literal["spacing", "shape", "nothing", "user"]


class Grid(NamedTuple):
    """A stored volume's shape [pixels] and spacing [mm], both along the stored axes."""

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]


def of_set(grids: Mapping[Path, Grid], chosen: int | None = None) -> dict[Path, int]:
    """The slice axis of each volume of a data set. Logs where it is not the last axis, or unclear.

    Args: chosen: the user's axis for all of them; None: by the rule.
    Raises: InputError if spacing and shape of a volume contradict each other, or if nothing decides for one volume and the
        others disagree.
    """
    if chosen is not None and (isinstance(chosen, bool) or chosen not in (0, 1, LAST)):
        raise InputError(f"{KEY}={chosen}: must be 0, 1 or 2, the axis of the stored array that counts the slices, or null.")
    if chosen is not None:
        for path, grid in grids.items():
            if len(grid.shape) < 3 and chosen != LAST:
                raise InputError(f"{path}: a single plane, which has no axis {chosen} of slices. Remove {KEY} or the file.")
        return dict.fromkeys(grids, chosen)
    found = {path: of_volume(path, grid) for path, grid in grids.items()}
    by_spacing = {one.axis for one in found.values() if one.decided_by == "spacing"}
    axes = {path: one.axis for path, one in found.items()}
    if undecided := [path for path, one in found.items() if one.decided_by == "nothing"]:
        if len(by_spacing) > 1:
            raise InputError(
                f"{undecided[0]}: its spacing does not show which axis counts the slices, and in other files it is axis "
                f"{' or '.join(map(str, sorted(by_spacing)))}. Store the slices of all volumes along the last, or give "
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
            "%d of %d volumes do not have their slices along the last axis of the stored array (the first is %s, axis %d)%s; "
            "each is read along its own axis. Choose one axis for all with %s.",
            *(len(others), len(axes), others[0].name, axes[others[0]]),
            *(f", found by the shape alone in {by_shape}" if by_shape else "", KEY),
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
    """The axis with the spacing of slices; None if it is unclear."""
    small, middle, large = sorted(range(3), key=lambda axis: spacing_mm[axis])
    low, high = spacing_mm[middle] / spacing_mm[small], spacing_mm[large] / spacing_mm[middle]
    if low <= SQUARE and high >= DISTINCT:
        return large
    if high <= SQUARE and low >= DISTINCT:
        return small
    return large if high >= CLEAR else None


def _is_denied(grid: Grid, axis: int) -> bool:
    """Whether the shape contradicts this axis: its planes would be strips, and more of them than a strip is wide.

    The last axis, along which most files store their slices, is only contradicted if one side of the volume is also LONG times
    another one.
    """
    plane = [grid.shape[other] for other in range(3) if other != axis]
    extents = [n * mm for n, mm in zip(grid.shape, grid.spacing_mm, strict=True)]
    is_strip = min(grid.shape[axis], max(plane)) >= FLAT * min(plane)
    return is_strip and (axis != LAST or max(extents) >= LONG * min(extents))


def _stretch(grid: Grid, axis: int) -> float:
    """Ratio of the sides [mm] of a plane across the axis, from 1."""
    sides = [grid.shape[other] * grid.spacing_mm[other] for other in range(3) if other != axis]
    return max(sides) / min(sides)
