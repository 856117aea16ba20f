"""Figures of patients: their segmented slices, and their assignment to training and validation in each split."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from segtune.plots.style import GREEN, ORANGE, shorten, text

CONTOURS: tuple[tuple[str, str, Literal["-", "--"]], ...] = (
    ("expert's contour", GREEN, "-"),
    ("predicted contour", ORANGE, "--"),
)  # name, colour, style
SIDES = {  # colour, letter, name
    "train": ("tab:blue", "T", "T: training"),
    "val": ("tab:orange", "V", "V: validation"),
    "unused": ("lightgrey", "", "unused"),
    "leak": ("tab:red", "L", "L: leak, in both training and validation"),
}


def patients(rows: Sequence[tuple[str, Sequence[tuple[str, Any, Any, Any]]]], *, title: str) -> Figure:
    """Draw one row per patient. Each slice has two pictures: the image, and the image with the contours of both masks.

    Pictures show the surroundings of the structure in all slices of the patient, and the whole prediction.

    Args: rows: for each patient, a label and a list of slices. Each slice consists of its name, its 8-bit image (S, S),
        its true mask and its predicted mask (both (S, S) bool).
    """
    n = max(len(slices) for _, slices in rows)
    figure = Figure(figsize=(1.0 + 2 * 1.9 * n, 1.0 + 2.15 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), 2 * n, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for i, (label, slices) in enumerate(rows):
        grid[i, 0].set_ylabel(text(label), fontsize="medium")
        structure = np.any([true for _, _, true, _ in slices], axis=0)
        for j, (name, image, true, predicted) in enumerate(slices):
            window = _window(structure | predicted)
            for axes, outlines in zip(grid[i, 2 * j : 2 * j + 2], ((), CONTOURS), strict=True):
                axes.imshow(image[window], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
                for mask, (_, colour, dashes) in zip((true[window], predicted[window]), outlines, strict=False):
                    if mask.any() and not mask.all():
                        axes.contour(mask, levels=[0.5], colors=[colour], linewidths=1.6, linestyles=dashes)
            grid[i, 2 * j].set_title(text(name), fontsize="small", loc="left")
    handles = [Line2D([], [], color=colour, linestyle=dashes) for _, colour, dashes in CONTOURS]
    names = [name for name, _, _ in CONTOURS]
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False, fontsize="medium")
    figure.suptitle(text(title), fontsize="medium")
    return figure


def _window(mask: np.ndarray, least: int = 96) -> tuple[slice, slice]:
    """Return a square window inside the image and around the mask. Its width is `least` pixels or more.

    If the image is smaller than this width, the window is as large as possible. If the mask is empty, the window is the
    whole image.
    """
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return slice(None), slice(None)
    side = min(max(least, int(1.4 * max(np.ptp(rows), np.ptp(columns)))), *mask.shape)
    starts = [
        min(max(0, (int(of[0]) + int(of[-1]) - side) // 2), size - side)
        for of, size in zip((rows, columns), mask.shape, strict=True)
    ]
    return slice(starts[0], starts[0] + side), slice(starts[1], starts[1] + side)


def sides(columns: Mapping[str, Mapping[str, Sequence[str]]], *, title: str) -> Figure:
    """Draw a table with one row per patient and one column per split.

    The colour shows whether the patient is used for training, used for validation, or unused. A patient in both
    training and validation is a leak and is drawn in red.

    Args: columns: for each split, a mapping from "train", "val" and "unused" to the names of the patients.
    """
    patients = sorted({name for column in columns.values() for side in column.values() for name in side})
    figure = Figure(figsize=(2.6 + 0.55 * len(columns), 2.2 + 0.24 * len(patients)), layout="constrained")
    axes = figure.subplots()
    for x, column in enumerate(columns.values()):
        on = {side: set(column.get(side, ())) for side in ("train", "val", "unused")}
        for y, patient in enumerate(patients):
            kind = "leak" if patient in on["train"] & on["val"] else next((side for side in on if patient in on[side]), None)
            if kind:
                colour, letter, _ = SIDES[kind]
                axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="white"))
                axes.text(x, y, letter, ha="center", va="center", fontsize="x-small", color="white")
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(patients) - 0.5, -0.5), ylabel="patient")
    axes.set_xticks(
        range(len(columns)), [text(shorten(name, 40)) for name in columns], rotation=60, ha="right", fontsize="small"
    )
    axes.set_yticks(range(len(patients)), [text(shorten(name, 40)) for name in patients], fontsize="small")
    axes.spines[:].set_visible(False)
    handles = [Rectangle((0, 0), 1, 1, facecolor=colour, label=name) for colour, _, name in SIDES.values()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    figure.suptitle(text(title), fontsize="medium", wrap=True)
    return figure
