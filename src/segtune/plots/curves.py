"""Learning curves: loss and Dice against the epoch, for one run or for many configurations in a grid of panels."""

import textwrap
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from segtune.plots.style import LABEL_WIDTH, text

History = Mapping[str, Sequence[float]]
COLOURS = {"train_loss": "tab:blue", "val_loss": "tab:orange", "train_dice": "tab:green", "val_dice": "tab:red"}
DASHES = {"train_loss": "-", "val_loss": "--", "train_dice": "-", "val_dice": "--"}  # readable without colour vision
BEST = "best epoch of a run"
IN_A_ROW = 6  # panels per row if the panels are not arranged by the row and column of their key
NAMES = {
    "train_loss": "training loss / max",
    "val_loss": "validation loss / max",
    "train_dice": "training Dice",
    "val_dice": "validation Dice",
}


def curves(history: History, best_epoch: int, *, title: str, augmented: bool = False) -> Figure:
    """Draw the learning curves of one run.

    The figure shows the training loss and the validation loss, both divided by their common maximum. It also shows the
    training Dice and the validation Dice, with a mark at the best validation Dice.

    Args:
        history: column -> values, with the columns epoch, train_loss, val_loss, train_dice, val_dice.
        best_epoch: epoch with the best validation Dice, counted from 1.
        augmented: whether the training values were computed on augmented images.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    _draw_panel(axes, axes, Panel([history]), scaled=True)
    for line in axes.get_lines():
        if np.isnan(np.asarray(line.get_ydata(), dtype=float)).all():
            line.set_label("_")  # a run without validation patients
        elif line.get_label() == BEST:
            line.set_label(f"best: {history['val_dice'][best_epoch - 1]:.3f}")
        elif augmented and str(line.get_label()).startswith("training"):
            line.set_label(f"{line.get_label()} (augmented images)")
    _frame(axes)
    axes.set(xlabel="epoch", ylabel="Dice, loss / maximum")
    axes.set_title(text(textwrap.fill(title, 70)), fontsize="medium")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    return figure


def _frame(axes: Axes) -> None:
    axes.set_ylim(0, 1.03)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)


@dataclass(frozen=True)
class Panel:
    """The data of one panel of `overview`: the histories of a configuration's runs.

    published: the learning curves that the published study printed for this configuration, if any.
    """

    histories: Sequence[History]
    published: History | None = None


def overview(panels: Mapping[tuple[str, str], Panel], *, title: str, scaled: bool = True) -> Figure:
    """Draw the learning curves of many configurations, with one panel for each configuration.

    A panel shows the median over runs as a line, and the range of the runs as a band.

    Args:
        panels: (row, column) -> panel. Rows and columns appear in the order of their first occurrence. If half of this grid
            or more would be empty, or if it has a single column, the panels are placed one after another instead.
        scaled: if True, each loss is divided by the largest loss in its panel. If False, losses are drawn on a
            logarithmic axis on the right.
    """
    places = _places(list(panels))
    n_rows, n_columns = (1 + max(place[i] for place in places.values()) for i in (0, 1))
    wide = 2.6 if scaled else 2.9
    figure = Figure(figsize=(max(6.0, 1.0 + wide * n_columns), 1.3 + 2.1 * n_rows), layout="constrained")
    grid = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
    for place, axes in np.ndenumerate(grid):
        if place not in places.values():
            axes.set_axis_off()
    lowest, highest = _positive_losses(panels.values())
    handles: dict[str, Any] = {}
    for (row, column), (i, j) in places.items():
        axes, panel = grid[i, j], panels[row, column]
        right = axes if scaled else axes.twinx()
        if not scaled:
            right.set(yscale="log", ylim=(0.8 * lowest, 1.25 * highest))
            right.tick_params(labelright=(i, j + 1) not in places.values(), labelsize="x-small")
        _draw_panel(axes, right, panel, scaled=scaled)
        axes.set_title(text("\n".join([*textwrap.wrap(row, LABEL_WIDTH), *([column] if column else [])])), fontsize="small")
        _frame(axes)
        if (i + 1, j) not in places.values():
            axes.set_xlabel("epoch")
            axes.tick_params(labelbottom=True)
        for line in [*axes.get_lines(), *right.get_lines()]:
            if not str(line.get_label()).startswith("_"):
                handles.setdefault(str(line.get_label()), line)
    figure.legend(
        handles.values(), handles, loc="outside lower center", ncols=2 if n_columns < 3 else 5, frameon=False, fontsize="small"
    )
    figure.suptitle(text(textwrap.fill(title, 30 + 30 * n_columns)), fontsize="medium")
    return figure


def _places(panels: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[int, int]]:
    """Return the position (row, column) of each panel. See `overview` for the arrangement."""
    rows, columns = (list(dict.fromkeys(key[i] for key in panels)) for i in (0, 1))
    if 2 * len(panels) <= len(rows) * len(columns) or len(columns) == 1:
        return {key: divmod(i, IN_A_ROW) for i, key in enumerate(panels)}
    return {key: (rows.index(key[0]), columns.index(key[1])) for key in panels}


def _positive_losses(panels: Iterable[Panel]) -> tuple[float, float]:
    """Return the smallest and largest positive loss as limits of a logarithmic axis; (1, 1) if no loss is positive."""
    losses = [v for panel in panels for h in panel.histories for name in ("train_loss", "val_loss") for v in h[name]]
    positive = [value for v in losses if np.isfinite(value := min(v, 1e300)) and value > 0] or [1.0]
    return min(positive), max(positive)


def _draw_panel(axes: Axes, right: Axes, panel: Panel, *, scaled: bool) -> None:
    longest = max(len(history["epoch"]) for history in panel.histories)
    epochs = np.arange(1, longest + 1)
    curves = {name: _padded([history[name] for history in panel.histories], longest) for name in COLOURS}
    largest = _largest(curves["train_loss"], curves["val_loss"]) if scaled else 1.0
    names = NAMES if scaled else {name: label.removesuffix(" / max") for name, label in NAMES.items()}
    for name, colour in COLOURS.items():
        on, scale = (right, largest) if name.endswith("loss") else (axes, 1.0)
        values = curves[name] / scale
        with warnings.catch_warnings():  # numpy warns of epochs in which all values are NaN
            warnings.simplefilter("ignore", RuntimeWarning)
            middle, low, high = np.nanmedian(values, 0), np.nanmin(values, 0), np.nanmax(values, 0)
        if len(values) > 1:
            on.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0)
        on.plot(
            epochs, middle, DASHES[name], color=colour, label=names[name], marker="." if longest == 1 else "", linewidth=1.3
        )
        if panel.published:
            its = np.asarray(panel.published[name], dtype=float)
            if scaled and name.endswith("loss"):
                its = its / _largest(*(np.asarray(panel.published[loss]) for loss in ("train_loss", "val_loss")))
            label = "as published (one run)" if name == "val_dice" else "_"
            on.plot(panel.published["epoch"], its, ":", color=colour, linewidth=1.6, alpha=0.75, label=label)
    for run in curves["val_dice"]:
        if np.isfinite(run).any():
            best = int(np.nanargmax(run))
            axes.plot(
                best + 1,
                run[best],
                "o",
                color=COLOURS["val_dice"],
                markeredgecolor="black",
                markersize=5 if len(panel.histories) == 1 else 3.5,
                label=BEST,
                linestyle="none",
            )


def _padded(rows: Sequence[Sequence[float]], length: int) -> np.ndarray:
    return np.array([[*row, *[np.nan] * (length - len(row))] for row in rows], dtype=float)


def _largest(*losses: np.ndarray) -> float:
    values = np.concatenate([loss.ravel() for loss in losses])
    return float(values[np.isfinite(values)].max(initial=1e-12))
