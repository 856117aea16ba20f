"""Bland-Altman plots that compare predicted volumes and ejection fractions with the expert's."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from segtune.plots.style import BLUE, GREY, LABEL_WIDTH, ORANGE, text


@dataclass(frozen=True)
class Agreement:
    """The data of one Bland-Altman plot: one quantity, such as the ED volume, for one configuration.

    true, predicted: the expert's and the predicted value of each patient.
    sd: for each patient, the standard deviation of the predicted value between runs; NaN for a single run.
    bias: the mean error.
    lower, upper: the limits of agreement.
    lower_interval, upper_interval: 95 % confidence intervals of the limits.
    The bias, the limits and the intervals are NaN if there are too few patients.
    """

    true: Sequence[float]
    predicted: Sequence[float]
    sd: Sequence[float]
    bias: float
    lower: float
    upper: float
    lower_interval: tuple[float, float]
    upper_interval: tuple[float, float]


def agreement(rows: Sequence[tuple[str, Mapping[str, Agreement]]], *, title: str) -> Figure:
    """Draw Bland-Altman plots: error against mean, one row per configuration and one column per quantity.

    Args: rows: for each configuration, its name and a mapping from each quantity to the data of its plot. The name of a
        quantity ends with the unit in square brackets. All rows must have the same quantities.
    """
    names = list(rows[0][1])
    figure = Figure(figsize=(0.6 + 3.6 * len(names), 1.3 + 2.8 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(names), sharex="col", sharey="col", squeeze=False)
    for column, name in zip(grid.T, names, strict=True):
        quantity, _, unit = name.partition(" [")
        ends = [0.0]
        for axes, (cell, row) in zip(column, rows, strict=True):
            n, drawn = _draw_agreement(axes, row[name])
            ends += drawn
            about = f"{quantity}, {n} patient{'s' * (n != 1)}"
            axes.set_title(text("\n".join([*textwrap.wrap(cell, LABEL_WIDTH), about])), fontsize="small")
            axes.set_ylabel(f"predicted - expert's [{unit}", fontsize="small")
            axes.tick_params(labelsize="small")
        column[-1].set_xlabel(f"mean of both [{unit}", fontsize="small")
        pad = 0.08 * (max(ends) - min(ends) or 1)
        column[0].set_ylim(
            min(ends) - pad, max(ends) + pad
        )  # the intervals of the limits may extend beyond the axes; the table shows their numbers
    handles = {label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, frameon=False, fontsize="small")
    figure.suptitle(text(textwrap.fill(title, 30 * len(names))), fontsize="medium")
    return figure


def _draw_agreement(axes: Axes, one: Agreement) -> tuple[int, list[float]]:
    """Draw one panel. Return the number of patients drawn, and the y values that the axis must include."""
    true, predicted, sd = (np.asarray(values, dtype=float) for values in (one.true, one.predicted, one.sd))
    errors, bars = predicted - true, np.nan_to_num(sd)
    axes.axhline(0, color=GREY, linewidth=0.8)
    for limit, interval, label in (
        (one.lower, one.lower_interval, "_"),
        (one.upper, one.upper_interval, "limits of agreement"),
    ):
        if np.isfinite(limit):
            axes.axhline(limit, color=ORANGE, linestyle="--", linewidth=1.3, label=label)
            shade = "95 % interval of a limit" if label != "_" else "_"
            axes.axhspan(*interval, color=ORANGE, alpha=0.15, linewidth=0, label=shade)
    if np.isfinite(one.bias):
        axes.axhline(one.bias, color=BLUE, linewidth=1.5, label="bias")
    label = "a patient (bar: sd between its runs)"
    axes.errorbar((true + predicted) / 2, errors, yerr=bars, fmt="o", color="black", markersize=4, linewidth=0.8, label=label)
    axes.grid(alpha=0.3)
    ends = np.array([*(errors - bars), *(errors + bars), one.lower, one.upper])
    return int(np.isfinite(errors).sum()), ends[np.isfinite(ends)].tolist()
