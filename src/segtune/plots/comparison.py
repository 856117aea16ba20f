"""Figures that compare configurations: means with intervals, values of single runs, and Dice against lambda."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from segtune.plots.style import BLUE, GREEN, GREY, ORANGE, shorten, text

VERDICTS = {  # verdict on the configuration of the row -> colour, mark, meaning
    "better": (BLUE, "+", "the row is clearly better than the column"),
    "worse": (ORANGE, "\N{MINUS SIGN}", "the row is clearly worse than the column"),
    "equivalent": ("#cfe5d9", "=", "equivalent"),
    "unclear": ("#eeeeee", "?", "not enough evidence"),
}


@dataclass(frozen=True)
class Row:
    """A configuration in a forest plot.

    low, high: the ends of the interval of its mean; NaN without an interval. special: whether to highlight it. points: the
    values whose mean it is.
    """

    name: str
    mean: float
    low: float
    high: float
    special: bool
    points: Sequence[float] = ()


def forest(rows: Sequence[Row], *, title: str, label: str, highlighted: str, other: str) -> Figure:
    """Draw a forest plot: one row per configuration, with its mean, its interval and its single values.

    Args: label: label of the x axis. highlighted, other: what the colours of highlighted and of other rows mean.
    """
    figure = Figure(figsize=(8.5, 1.6 + 0.36 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for y, row in enumerate(rows):
        colour = BLUE if row.special else GREY
        axes.plot(row.points, [y + 0.27] * len(row.points), "o", color=colour, alpha=0.5, markersize=3.5, markeredgewidth=0)
        if np.isfinite(row.low + row.high):
            axes.plot([row.low, row.high], [y, y], color=colour, linewidth=2)
        axes.plot(row.mean, y, "o" if row.special else "s", color=colour, markersize=6.5, markeredgecolor="white")
        axes.annotate(
            f"{row.mean:.3f}",
            (1.01, y),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize="small",
            color=colour,
            weight="bold" if row.special else "normal",
        )
    axes.set_yticks(range(len(rows)), [text(shorten(row.name, 60)) for row in rows], fontsize="small")
    ends = [float(x) for row in rows for x in (row.mean, row.low, row.high, *row.points) if np.isfinite(x)] or [0.5]
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel=label, xlim=(max(-0.02, min(ends) - 0.02), min(1.01, max(ends) + 0.02)))
    axes.grid(alpha=0.3, axis="x")
    figure.suptitle(text(textwrap.fill(title, 84)), fontsize="medium", x=0.01, ha="left", weight="bold")
    handles = [
        Line2D([], [], color=BLUE, marker="o", label=highlighted),
        Line2D([], [], color=GREY, marker="s", label=other),
        Line2D([], [], color=GREY, marker="o", alpha=0.4, linestyle="", markersize=3.5, label="a patient"),
    ]
    shown = [handle for handle, is_used in zip(handles, _kinds(rows), strict=True) if is_used]
    figure.legend(handles=shown, loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    return figure


def _kinds(rows: Sequence[Row]) -> tuple[bool, bool, bool]:
    """Return whether there are highlighted rows, other rows, and single values."""
    special = [row.special for row in rows]
    return any(special), not all(special), any(len(row.points) for row in rows)


def significance(names: Sequence[str], verdicts: Sequence[Sequence[str]], *, title: str) -> Figure:
    """Draw a significance map: the verdict on each pair of configurations.

    Args: verdicts: for the configuration of each row and that of each column, one of better, worse, equivalent, or unclear.
    """
    n = len(names)
    figure = Figure(figsize=(max(6.0, 3.4 + 0.36 * n), 1.7 + 0.3 * n), layout="constrained")
    axes = figure.subplots()
    for (i, j), verdict in np.ndenumerate(np.array(verdicts)):
        if i != j:
            colour, mark, _ = VERDICTS[str(verdict)]
            axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=colour, edgecolor="white", linewidth=1.5))
            ink = "white" if verdict in ("better", "worse") else "black"
            axes.text(j, i, mark, ha="center", va="center", weight="bold", color=ink)
    axes.set_yticks(range(n), [text(f"{shorten(name, 50)}  {i + 1}") for i, name in enumerate(names)], fontsize="small")
    axes.set_xticks(range(n), [str(i + 1) for i in range(n)], fontsize="small")
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5), aspect="equal")
    axes.spines[:].set_visible(False)
    present = {str(verdict) for i, row in enumerate(verdicts) for j, verdict in enumerate(row) if i != j}
    handles = [
        Rectangle((0, 0), 1, 1, facecolor=colour, label=f"{mark} {name}")
        for key, (colour, mark, name) in VERDICTS.items()
        if key in present
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=1, frameon=False, fontsize="small")
    figure.suptitle(text(title), fontsize="medium")
    return figure


def cost(points: Sequence[tuple[str, float, float, bool]], *, title: str, label: str) -> Figure:
    """Draw the mean of each configuration against its cost, and connect those that no cheaper configuration reaches.

    Args: points: the name, the cost [s], the mean, and whether to highlight the configuration. label: label of the y axis.
    """
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    front: list[tuple[str, float, float, bool]] = []
    for point in sorted(points, key=lambda one: (one[1], -one[2])):
        if not front or point[2] > front[-1][2]:
            front.append(point)
    axes.plot([x for _, x, _, _ in front], [y for _, _, y, _ in front], color="black", linewidth=1, linestyle=":", zorder=1)
    for name, x, y, special in points:
        axes.plot(x, y, "o" if special else "s", color=BLUE if special else GREY, markersize=7, markeredgecolor="white")
        if any(name == one[0] for one in front):
            axes.annotate(text(shorten(name, 45)), (x, y), xytext=(6, -11), textcoords="offset points", fontsize="small")
    axes.set(xscale="log", xlabel="mean computing time of a run [s]", ylabel=label)
    seconds = [x for _, x, _, _ in points]
    axes.set_xlim(0.8 * min(seconds), 2.5 * max(seconds))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.grid(alpha=0.3)
    axes.set_title(text(title), fontsize="medium")
    return figure


def strip(groups: Sequence[tuple[str, Sequence[float]]], *, unit: str) -> Figure:
    """Draw a strip plot: the value of every run, in one row per group, with the mean of each group.

    The report uses this plot to show the evidence for or against a claim.
    """
    figure = Figure(figsize=(5.2, 0.8 + 0.3 * len(groups)), layout="constrained")
    axes = figure.subplots()
    for y, (_, values) in enumerate(groups):
        found = np.asarray(values, dtype=float)
        found = found[np.isfinite(found)]
        axes.plot(found, np.full(len(found), y), "o", color=BLUE, alpha=0.6, markersize=4.5)
        if len(found):
            axes.plot([found.mean()] * 2, [y - 0.3, y + 0.3], color="black", linewidth=1.5)
    axes.set_yticks(range(len(groups)), [text(shorten(name, 60)) for name, _ in groups], fontsize="x-small")
    axes.set(ylim=(len(groups) - 0.4, -0.6))
    axes.set_xlabel(unit, fontsize="small")
    axes.tick_params(axis="x", labelsize="small")
    axes.grid(alpha=0.3, axis="x")
    return figure


@dataclass(frozen=True)
class LambdaPoint:
    """One point of a figure of Dice against lambda.

    penalty_weight: the lambda.
    dice: the mean, and the lower and upper end of its 95 % interval.
    ratio: weighted penalty / loss in the first epoch.
    norm: the norm of the weights at the end of training.
    """

    penalty_weight: float
    dice: tuple[float, float, float]
    ratio: float
    norm: float


def response(
    points: Sequence[LambdaPoint], none: LambdaPoint | None, calibrated: float | None, *, title: str, symbol: str
) -> Figure:
    """Draw the effect of lambda.

    The upper panel shows Dice and, on a second axis, the ratio of weighted penalty to loss. The lower panel shows the norm of
    the weights at the end of training.

    Args:
        points: one point per lambda.
        none: the values for training without a penalty, drawn as horizontal lines. If it is None, these lines are not
            drawn.
        calibrated: the lambda at which penalty and loss are equal, drawn as a vertical line. If it is None, this line
            is not drawn.
        symbol: label of the x axis.
    """
    figure = Figure(figsize=(6.8, 5.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    x = np.array([point.penalty_weight for point in points])
    dice = np.array([point.dice for point in points])
    bars = np.nan_to_num(np.abs(dice[:, 1:] - dice[:, :1]).T)
    upper.errorbar(
        x, dice[:, 0], yerr=bars, fmt="o-", color=BLUE, capsize=3, label="Dice, mean over patients and 95 % interval"
    )
    if none:
        upper.axhline(none.dice[0], color=BLUE, linestyle="--", linewidth=1, label="Dice without penalty")
    second = upper.twinx()
    ratios = np.array([point.ratio for point in points])
    second.plot(x, ratios, "^:", color=ORANGE, label="weighted penalty / loss, first epoch")
    if np.isfinite(ratios).any():
        second.set_yscale("log")
    second.set_ylabel("weighted penalty / loss", color=ORANGE)
    upper.set(xscale="log", ylabel="Dice, last epoch", ylim=(-0.02, 1.02))
    norms = np.array([point.norm for point in points])
    if np.isfinite(norms).any():
        lower.plot(x, norms, "s-", color=GREEN, label="norm of the weights at the end")
        lower.set_yscale("log")
    else:
        lower.text(
            0.5,
            0.5,
            "the runs did not record the norm of their weights",
            transform=lower.transAxes,
            ha="center",
            fontsize="small",
        )
    if none and np.isfinite(none.norm):
        lower.axhline(none.norm, color=GREEN, linestyle="--", linewidth=1, label="norm without penalty")
    lower.set(ylabel="norm of weights", xlabel=symbol)
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
        if calibrated:
            axes.axvline(
                calibrated, color="black", linewidth=0.9, label=f"penalty = loss at {calibrated:.3g}" if axes is upper else "_"
            )
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    upper.set_title(text(title), fontsize="medium")
    return figure
