"""Figures that compare configurations: means with intervals, values of single runs, and Dice against lambda."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from segtune.plots.style import BLUE, GREEN, GREY, ORANGE, shorten, text


def forest(rows: Sequence[tuple[str, float, float, float, bool]], *, title: str, label: str) -> Figure:
    """Draw a forest plot: one row per configuration, with its mean and interval.

    Args: rows: for each row, the name, the mean, the lower end and the upper end of the interval, and whether to
        highlight the row. If there is no interval, both ends are NaN.
        label: label of the x axis.
    """
    figure = Figure(figsize=(7.5, 1.1 + 0.24 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for y, (_, mean, low, high, special) in enumerate(rows):
        colour = BLUE if special else GREY
        axes.plot(mean, y, "o" if special else "s", color=colour, markersize=5)
        if np.isfinite(low + high):
            axes.plot([low, high], [y, y], color=colour, linewidth=1.5)
    axes.set_yticks(range(len(rows)), [text(shorten(row[0], 70)) for row in rows], fontsize="small")
    ends = [float(value) for row in rows for value in row[1:4] if np.isfinite(value)] or [0.5]
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel=label, xlim=(max(-0.02, min(ends) - 0.03), min(1.02, max(ends) + 0.03)))
    axes.grid(alpha=0.3, axis="x")
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
