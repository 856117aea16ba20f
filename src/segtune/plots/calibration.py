"""The figure of `python -m segtune.calibrate`: the effect of lambda at the first step and after a short training."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from segtune.plots.style import text


def calibration(record: Mapping[str, Any], *, title: str) -> Figure:
    """Draw the result of a calibration against lambda.

    The left axis shows the ratio of weighted penalty to loss at the first step, and the ratio of their gradients. The right
    axis shows the penalty after a short training, relative to a training without penalty.

    Args: record: the content of calibration.json.
    """
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    strengths = np.array([row["lambda"] for row in record["table"]])
    start = record["start"]
    axes.loglog(strengths, strengths * start["penalty"] / start["loss"], color="tab:blue", label="weighted penalty / loss")
    gradients = strengths * start["penalty_gradient"] / start["loss_gradient"]
    axes.loglog(strengths, gradients, "--", color="tab:blue", label="ratio of the gradients' norms")
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.axvline(record["lambda"], color="black", linewidth=0.8)
    axes.annotate(
        f"{record['lambda']:.3g} (ratio {record['ratio']:g})",
        (record["lambda"], 0.02),
        rotation=90,
        va="bottom",
        ha="right",
        xycoords=("data", "axes fraction"),
        fontsize="small",
    )
    axes.set(xlabel="lambda", ylabel="ratio at the first step")
    axes.grid(alpha=0.3)
    left = axes.twinx()
    free, *trials = record["trials"]
    shares = [trial["penalty"][-1] / free["penalty"][-1] for trial in trials]
    left.semilogx(
        [trial["strength"] for trial in trials], shares, "o-", color="tab:green", label="penalty left after a short training"
    )
    for trial, share in zip(trials, shares, strict=True):
        if trial["collapsed"]:
            left.plot(trial["strength"], share, "X", color="tab:red", markersize=10)
            left.annotate(
                "collapse",
                (trial["strength"], share),
                xytext=(-10, -3),
                textcoords="offset points",
                ha="right",
                fontsize="small",
                color="tab:red",
            )
    left.set(ylabel=f"penalty after {len(free['penalty'])} steps / without lambda", yscale="log", ylim=(0.01, 1.2))
    axes.set_title(text(title), fontsize="medium")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    return figure
