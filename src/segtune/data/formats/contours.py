"""Read contour files, and convert between contours and masks.

Convention: `x y` is column and row, and the centre of the first pixel is (0, 0).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import contourpy
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segtune.data import names
from segtune.errors import InputError

Rasteriser = Callable[[NDArray[np.float64], tuple[int, int]], NDArray[np.bool_]]

MAX_BYTES, MAX_POINTS = 2**20, 10_000  # of a contour file; contours drawn by hand have a few hundred points
FAR_PX = 1e6  # largest plausible coordinate [pixels]
EDGE_PX = 1.0  # how far outside the outermost pixel centres a vertex may lie [pixels]


def read(path: Path) -> NDArray[np.float64]:
    """Read the vertices of a contour from a text file with one `x y` pair per line. The contour may be closed or not.

    Returns: (N, 2) float64, N >= 3, columns x (column) and y (row) [pixels].
    Raises: InputError that names the file and the line, for lines that are not two numbers, for fewer than 3 points or more
        than MAX_POINTS, and for a second contour in the file.
    """
    lines = names.content(path, MAX_BYTES).decode("utf-8-sig", errors="replace").splitlines()
    points, at = [], []
    for number, line in enumerate(lines, start=1):
        fields = line.replace(",", " ").split()
        if not fields:
            continue
        try:
            x, y = (float(field) for field in fields)
        except ValueError:
            x = y = np.nan
        is_plain = all(field.isascii() and "_" not in field for field in fields)  # Python would accept 1_0
        if not (is_plain and abs(x) < FAR_PX and abs(y) < FAR_PX):
            shown = line.strip()[:40]
            raise InputError(f"{path}, line {number}: {shown!r} is not a point; write two finite numbers, `x y`, in pixels.")
        points.append((x, y))
        at.append(number)
    if len(points) > MAX_POINTS:
        raise InputError(
            f"{path}: it has {len(points)} points, but at most {MAX_POINTS} are read. Replace it with the original."
        )
    if len({*points}) < 3:
        raise InputError(
            f"{path}: a contour needs at least 3 different points, but this one has {len({*points})}. Replace it with the "
            "original copy, or draw it again."
        )
    _check_single(path, points, at)
    return np.array(points, dtype=np.float64)


def _check_single(path: Path, points: Sequence[tuple[float, float]], at: Sequence[int]) -> None:
    """Check that the points are a single contour.

    A second contour may begin after an empty line, or after the first contour was closed. Fewer than 3 points do not
    form a contour, so empty lines before or after them are ignored.

    Args: at: the line of each point in the file.
    Raises: InputError that names the line at which the second contour begins.
    """
    cure = (
        "A file must hold one contour. If the structure has two parts, provide masks as images (data=folder). If it has "
        "one, remove the other points"
    )
    parts: list[list[int]] = []
    for index, line in enumerate(at):
        if index == 0 or line > at[index - 1] + 1:
            parts.append([])
        parts[-1].append(index)
    whole = [part for part in parts if len({points[index] for index in part}) >= 3]
    if len(whole) > 1:
        raise InputError(
            f"{path}, line {at[whole[1][0]]}: a second contour begins after an empty line. {cure} or the empty line."
        )
    distinct: set[tuple[float, float]] = set()
    closed = len(points) - 1  # index of the point that closes the contour
    for index, point in enumerate(points):
        if point == points[0] and len(distinct) >= 3:
            closed = index
            break
        distinct.add(point)
    if len({*points[closed:]}) >= 3:
        raise InputError(
            f"{path}, line {at[closed + 1]}: the contour was closed at line {at[closed]}, but more points follow: a second "
            f"contour or a repetition. {cure}."
        )


def area(contour: NDArray[np.float64]) -> float:
    """Area enclosed by a simple polygon [pixels^2], by the shoelace formula 1/2 |sum x_i y_(i+1) - x_(i+1) y_i|.

    Args: contour: (N, 2), closed or not.
    """
    x, y = (contour - contour.mean(axis=0)).T
    return float(0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))


def end_diastole(areas: Mapping[tuple[int, int], float]) -> int | None:
    """Return the cardiac phase at which the contours are larger.

    The mean areas of the two phases are compared, over the slices that have contours at both phases.

    Args: areas: (slice, phase) -> area of the patient's contour [pixels^2].
    Returns: the phase, or the earlier phase if the areas are equal; None unless exactly two phases are contoured.
    """
    at: dict[int, dict[int, float]] = {}
    for (index, phase), value in areas.items():
        at.setdefault(phase, {})[index] = value
    if len(at) != 2:
        return None
    first, second = sorted(at)
    both = at[first].keys() & at[second].keys() or at[first].keys() | at[second].keys()
    larger_first = sum(at[first].get(i, 0) for i in both) >= sum(at[second].get(i, 0) for i in both)
    return first if larger_first else second


def mask(contour: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels whose centre lies inside the polygon (even-odd rule).

    The centre of the pixel in row r and column c is the point (x, y) = (c, r), without an offset of half a pixel.
    Functions that draw polygons (PIL) add or remove the pixels of the outline, which changes the area of a small
    structure by 18 %. Testing pixel centres has no such bias if centres exactly on the outline are treated correctly:
    they are inside on the left and upper edges, and outside on the right and lower edges. Contours drawn in steps of
    half a pixel pass through many centres. Counting all of them as inside, as matplotlib and scikit-image do, adds 2 %
    to the area.

    Args: contour: (N, 2) x y [pixels]. shape: (H, W).
    Returns: (H, W) bool.
    Raises: InputError when a vertex lies outside the image or no pixel centre lies inside the contour.
    """
    check_inside(contour, shape)
    inside: NDArray[np.bool_] = winding(contour, shape) % 2 == 1
    if not inside.any():
        raise InputError(
            "the contour encloses no pixel centre: it is smaller than a pixel, or its points lie on a line. Replace it "
            "with the original copy, or draw it again."
        )
    return inside


def winding(contour: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.int64]:
    """The winding number of a polygon at each pixel centre: how often the polygon winds around that point.

    For a polygon that does not cross itself, the winding number is 0 outside. Inside it is 1 or -1, depending on the
    direction of the polygon.

    Args: contour: (N, 2) x y. shape: (H, W); the centre of the pixel in row r and column c is (c, r).
    """
    height, width = shape
    x, y = contour.T
    next_x, next_y = np.roll(contour, -1, axis=0).T
    rows = np.arange(height)[:, None]
    row, edge = np.nonzero((y <= rows) != (next_y <= rows))  # edges crossed by the line through a row's centres
    crossing = x[edge] + (row - y[edge]) * (next_x[edge] - x[edge]) / (next_y[edge] - y[edge])
    turns = np.zeros((height, width + 1), dtype=np.int64)  # crossings between one centre and the next, with their direction
    np.add.at(turns, (row, np.clip(np.ceil(crossing).astype(int), 0, width)), np.where(next_y > y, 1, -1)[edge])
    return np.cumsum(turns[:, :width], axis=1)


def mask_pil(contour: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels that PIL paints for the filled and outlined polygon, as in the published study's notebook.

    PIL truncates the coordinates of every vertex, which moves a structure up and left by half a pixel on average. It also
    paints every pixel of the outline, which adds half a pixel all around: a disc of 141 pixels becomes one of 164 to 177.

    Args, Returns, Raises: as in `mask`.
    """
    check_inside(contour, shape)
    height, width = shape
    canvas = Image.new("L", (width, height), 0)
    ImageDraw.Draw(canvas).polygon([(x, y) for x, y in contour.tolist()], fill=1, outline=1)
    painted: NDArray[np.bool_] = np.asarray(canvas) > 0
    if not painted.any():
        raise InputError("the contour covers no pixel: it lies outside the image.")
    return painted


def enclosed(mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], int, int]:
    """The part of a mask (H, W) that a single contour can enclose: the largest component, with its holes filled.

    Pixels are neighbours if they share an edge. Among equally large components the first is taken. A hole that touches
    the outside only at a corner is also filled.

    Returns: the mask (H, W), the number of removed pixels and the number of filled pixels. An empty mask stays empty.
    """
    from scipy import ndimage  # takes a quarter of a second to import

    components, n = ndimage.label(mask)
    largest = components == 1 + np.argmax(np.bincount(components.ravel(), minlength=n + 1)[1:]) if n else mask
    filled: NDArray[np.bool_] = ndimage.binary_fill_holes(largest)
    return filled, int(np.count_nonzero(mask & ~filled)), int(np.count_nonzero(filled & ~mask))


def outlines(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """The closed outlines of a mask (H, W), halfway between the centres of True and False pixels.

    A mask returned by `enclosed` has a single outline, and `mask` turns it back into the same mask, even at the image's edge
    and for a single pixel.

    Returns: one array (N, 2) per outline, x y [pixels] in steps of half a pixel. The last point equals the first.
    """
    lines: Any = contourpy.contour_generator(z=np.pad(mask, 1).astype(np.float64)).lines(0.5)
    return [line - 1 for line in lines]


def text(contour: NDArray[np.float64]) -> str:
    """Format a contour as in RVSC: one `x y` pair per line, with two decimals and CRLF line ends."""
    return "".join(f"{x:.2f} {y:.2f}\r\n" for x, y in contour.tolist())


RASTERISERS: dict[str | None, Rasteriser] = {None: mask, "pil": mask_pil}


def rasteriser(masks: str | None) -> Rasteriser:
    """Return the function that makes masks from contours. Args: masks: None for `mask`, or "pil" for `mask_pil`."""
    if masks not in RASTERISERS:
        raise InputError(
            f"data.masks={masks}: choose null (a pixel is in the mask if its centre is inside the contour) or pil (as "
            "published)."
        )
    return RASTERISERS[masks]


def check_inside(contour: NDArray[np.float64], shape: tuple[int, int]) -> None:
    """Check that all vertices are inside the image. Raises: InputError if a vertex is outside."""
    height, width = shape
    low, high = contour.min(axis=0), contour.max(axis=0)
    if (low < -EDGE_PX).any() or (high > np.array([width - 1, height - 1]) + EDGE_PX).any():
        raise InputError(
            f"the contour lies outside the image: x {low[0]:g} to {high[0]:g}, y {low[1]:g} to {high[1]:g}, but the image "
            f"has {width} columns and {height} rows. Check whether it is the contour of another frame, or whether x and y are "
            "swapped."
        )
