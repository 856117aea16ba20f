"""Checks that find errors in contours, such as copies, self-crossings and an endocardium outside its epicardium."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segtune.data import findings, slice_checks
from segtune.data.formats import contours
from segtune.errors import InputError

NESTED_FRACTION = 0.99  # smallest valid fraction of the endocardium inside the epicardium; below 1 because they may touch
MOST_PX = 2048  # largest extent [pixels] of a contour that is rasterised; a larger contour extends beyond its image anyway


@dataclass(frozen=True, eq=False)
class Outline:
    """One contour file and its contour.

    Attributes:
        points: (N, 2), columns x and y [pixels, from 0].
        shape: (H, W) of the image; None if unknown.
    """

    patient: str
    frame: int
    target: str
    file: str
    points: NDArray[np.float64]
    shape: tuple[int, int] | None


def find_in_contours(outlines: Sequence[Outline]) -> list[findings.Finding]:
    """The findings in these contours, errors first."""
    outside = [_outside(one) for one in outlines]
    drawn = {index: _drawn(one) for index, one in enumerate(outlines) if outside[index] is None}
    nested = _nested(outlines, drawn)
    return findings.ranked(
        [
            *(one for one in outside if one is not None),
            *_copied_contours(outlines, nested),
            *(one for index in nested for one in _not_nested(outlines[index], nested[index])),
            *(one for index, contour in drawn.items() for one in _shape(outlines[index], contour)),
        ]
    )


class _Drawn(NamedTuple):
    """The winding numbers of a contour in a part of the image. row, column: position of the first pixel of this part."""

    winding: NDArray[np.int64]
    row: int
    column: int


def _drawn(outline: Outline) -> _Drawn | None:
    """Rasterise the contour on its bounding box. Return None if the box is implausibly large or far from the image."""
    low, high = np.floor(outline.points.min(axis=0)), np.ceil(outline.points.max(axis=0))
    if (high - low > MOST_PX).any() or (np.abs(low) > 2**31).any():
        return None
    width, height = (high - low).astype(int) + 1
    return _Drawn(contours.winding(outline.points - low, (height, width)), int(low[1]), int(low[0]))


def _outside(outline: Outline) -> findings.Finding | None:
    try:
        if outline.shape is not None:
            contours.check_inside(outline.points, outline.shape)
    except InputError as error:
        return findings.Finding("error", "outside_image", outline.patient, outline.frame, outline.file, str(error))
    return None


def _nested(outlines: Sequence[Outline], drawn: dict[int, _Drawn | None]) -> dict[int, float]:
    """Return a dict from each epicardium to the fraction of the same frame's endocardium that it encloses.

    Frames without both contours are left out.
    """
    inner = {(one.patient, one.frame): drawn.get(index) for index, one in enumerate(outlines) if one.target == "endocardium"}
    shares = {}
    for index, outer in drawn.items():
        one = outlines[index]
        within = inner.get((one.patient, one.frame))
        if one.target != "epicardium" or outer is None or within is None or not within.winding.any():
            continue
        rows, columns = np.nonzero(within.winding)
        rows, columns = rows + within.row - outer.row, columns + within.column - outer.column
        height, width = outer.winding.shape
        on = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        shares[index] = float(np.count_nonzero(outer.winding[rows[on], columns[on]]) / len(rows))
    return shares


def _not_nested(outer: Outline, share: float) -> Iterator[findings.Finding]:
    if share < NESTED_FRACTION:
        message = (
            f"only {share:.0%} of the endocardium lies inside this epicardium. One of the two contours belongs to "
            "another frame or another heart. Replace the wrong one with the original copy, or draw it again."
        )
        yield findings.Finding("warning", "not_nested", outer.patient, outer.frame, outer.file, message)


def _copied_contours(outlines: Sequence[Outline], nested: dict[int, float]) -> Iterator[findings.Finding]:
    """Report contours that are copies of another contour.

    Among equal contours, the original is the contour that encloses the largest fraction of the endocardium in its own
    frame. If there is a tie, the original is the first contour.
    """
    for group in slice_checks.alike(_open(one.points).tobytes() for one in outlines):
        original, *copies = sorted(group, key=lambda index: -nested.get(index, 1.0))
        first = outlines[original]
        for one in (outlines[index] for index in copies):
            across = one.patient != first.patient
            other = f"patient {first.patient}, frame {first.frame}" if across else f"frame {first.frame}"
            message = (
                f"this contour is identical to the {first.target} of {other} ({first.file}), so one of the two is wrong. "
                "Replace the wrong one with the original copy, or remove it from the data."
            )
            yield findings.Finding(
                "error" if across else "warning", "duplicate_contour", one.patient, one.frame, one.file, message
            )


def _open(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Remove the last point of the contour if it is equal to the first point."""
    return points[:-1] if (points[0] == points[-1]).all() else points


def _shape(outline: Outline, contour: _Drawn | None) -> Iterator[findings.Finding]:
    about = (outline.patient, outline.frame, outline.file)
    if contour is None:
        return
    n_inside = np.count_nonzero(contour.winding)
    if n_inside < slice_checks.TINY_PX:
        yield findings.Finding("warning", "tiny", *about, f"the {outline.target} has {n_inside} pixels. Is it drawn correctly?")
    plain = max(np.count_nonzero(contour.winding == 1), np.count_nonzero(contour.winding == -1))
    if n_inside > plain:
        message = (
            f"the {outline.target} crosses itself: it winds twice or in the opposite direction around {n_inside - plain} of "
            f"{n_inside} pixels. Draw it again."
        )
        yield findings.Finding("warning", "self_crossing", *about, message)
