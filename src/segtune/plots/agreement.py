"""Bland and Altman's plots: predicted against the expert's volumes and ejection fraction."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from segtune.plots.style import BLUE, GREY, LABEL_WIDTH, ORANGE, text


@dataclass(frozen=True)
class Agreement:
    """One quantity of one configuration. Per patient: expert's value, predicted value, sd between runs (NaN for one run).

    `bias`, `lower` and `upper` describe the errors; `*_interval` are 95 % intervals of the limits. All are NaN where there
    are too few patients.
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
    """Bland and Altman's plots, error against the mean of both values: a row per configuration, a column per quantity.

    Args: rows: configuration, and quantity -> values. The quantity's name ends in its unit in brackets; all rows have the same.
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
        )  # the interval of a limit may reach beyond the figure; the table has its numbers
    handles = {label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, frameon=False, fontsize="small")
    figure.suptitle(text(textwrap.fill(title, 30 * len(names))), fontsize="medium")
    return figure


def _draw_agreement(axes: Axes, one: Agreement) -> tuple[int, list[float]]:
    """Draw one panel. Returns: the number of patients drawn, and the values that must be in view."""
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
