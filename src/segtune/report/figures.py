"""The study's figures. Pure functions of histories; knows nothing of segtune."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

History = Mapping[str, Sequence[float]]
COLOURS = {"train_loss": "tab:blue", "val_loss": "tab:orange", "train_dice": "tab:green", "val_dice": "tab:red"}
SIDES = {  # colour, letter, name
    "train": ("tab:blue", "T", "T: trains"),
    "val": ("tab:orange", "V", "V: validates"),
    "unused": ("lightgrey", "", "on no side"),
    "leak": ("tab:red", "L", "L: leak, on both sides"),
}
IN_A_ROW = 6  # panels of an overview that is no grid
LABEL_WIDTH = 40  # characters above one panel of an overview
NAMES = {
    "train_loss": "training loss / max",
    "val_loss": "validation loss / max",
    "train_dice": "training Dice",
    "val_dice": "validation Dice",
}


def curves(history: History, best_epoch: int, *, title: str) -> Figure:
    """The study's figure of one run: both losses over their common maximum, both Dice, the best validation Dice marked.

    Args: history: columns epoch, train_loss, val_loss, train_dice, val_dice. best_epoch: counted from 1.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    _draw(axes, history, best_epoch)
    axes.set(xlabel="epoch", ylabel="Dice, loss / maximum")
    axes.set_title(title, fontsize="medium")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    return figure


def _draw(axes: Axes, history: History, best_epoch: int) -> None:
    """One run's four curves and its marker into axes that run from 0 to 1."""
    losses = np.concatenate([history["train_loss"], history["val_loss"]])
    largest = losses[np.isfinite(losses)].max(initial=1e-12)
    for name, colour in COLOURS.items():
        values = np.asarray(history[name], dtype=float) / (largest if name.endswith("loss") else 1.0)
        axes.plot(history["epoch"], values, color=colour, label=NAMES[name], marker="." if len(values) == 1 else "")
    best = history["val_dice"][best_epoch - 1]
    axes.plot(best_epoch, best, "o", color=COLOURS["val_dice"], markeredgecolor="black", label=f"best: {best:.3f}")
    axes.set_ylim(0, 1.03)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)


def overview(panels: Mapping[tuple[str, str], tuple[History, int]], *, title: str) -> Figure:
    """Small multiples of `curves`: one panel per run.

    Args: panels: (row, column) -> (history, best epoch); rows and columns in the order in which they first appear. Where
        that would leave more than half of the places empty, the panels follow one another.
    """
    rows, columns = (list(dict.fromkeys(key[i] for key in panels)) for i in (0, 1))
    places = {key: (rows.index(key[0]), columns.index(key[1])) for key in panels}
    if 2 * len(panels) < len(rows) * len(columns):
        places = {key: divmod(i, IN_A_ROW) for i, key in enumerate(panels)}
    n_rows, n_columns = (1 + max(place[i] for place in places.values()) for i in (0, 1))
    figure = Figure(figsize=(max(5.0, 1.0 + 2.6 * n_columns), 1.1 + 2.1 * n_rows), layout="constrained")
    grid = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
    for place, axes in np.ndenumerate(grid):
        if place not in places.values():
            axes.set_axis_off()
    for (row, column), (i, j) in places.items():
        axes, (history, best_epoch) = grid[i, j], panels[row, column]
        _draw(axes, history, best_epoch)
        axes.set_title("\n".join([*textwrap.wrap(row, LABEL_WIDTH), column]), fontsize="small")
        axes.annotate(f"{history['val_dice'][best_epoch - 1]:.2f}", (best_epoch, history["val_dice"][best_epoch - 1]),
                      xytext=(0, -12), textcoords="offset points", ha="center", fontsize="x-small")  # fmt: skip
        if (i + 1, j) not in places.values():
            axes.set_xlabel("epoch")
            axes.tick_params(labelbottom=True)
    lines = next(axes for axes in grid.flat if axes.axison).get_lines()[:4]
    figure.legend(lines, NAMES.values(), loc="outside lower center", ncols=2 if n_columns < 3 else 4, frameon=False)
    figure.suptitle(title, fontsize="medium")
    return figure


def sides(columns: Mapping[str, Mapping[str, Sequence[str]]], *, title: str) -> Figure:
    """Who is where: a row per patient, a column per split; a patient on both sides is a leak, in red.

    Args: columns: name of the split -> the patients that train, val(idate) and are unused.
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
    axes.set_xticks(range(len(columns)), columns, rotation=60, ha="right", fontsize="small")
    axes.set_yticks(range(len(patients)), patients, fontsize="small")
    axes.spines[:].set_visible(False)
    handles = [Rectangle((0, 0), 1, 1, facecolor=colour, label=name) for colour, _, name in SIDES.values()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    figure.suptitle(title, fontsize="medium", wrap=True)
    return figure


def calibration(record: Mapping[str, Any], *, title: str) -> Figure:
    """What a lambda does: the ratio of weighted penalty to loss that it starts at, and what is left of the weights.

    Args: record: what segtune.calibrate writes.
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
    axes.annotate(f"{record['lambda']:.3g} (ratio {record['ratio']:g})", (record["lambda"], 0.02), rotation=90, va="bottom",
                  ha="right", xycoords=("data", "axes fraction"), fontsize="small")  # fmt: skip
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
            left.annotate("collapse", (trial["strength"], share), xytext=(-10, -3), textcoords="offset points", ha="right",
                          fontsize="small", color="tab:red")  # fmt: skip
    left.set(ylabel=f"penalty after {len(free['penalty'])} steps / without lambda", yscale="log", ylim=(0.01, 1.2))
    axes.set_title(title, fontsize="medium")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    return figure


def save(figure: Figure, stem: Path) -> list[Path]:
    """The figure as stem.png (150 dpi) and stem.svg; the same figure gives the same bytes."""
    with rc_context({"svg.hashsalt": "segtune", "svg.fonttype": "path"}):
        paths = [stem.with_name(stem.name + suffix) for suffix in (".png", ".svg")]
        figure.savefig(paths[0], dpi=150, metadata={"Software": None})
        figure.savefig(paths[1], metadata={"Date": None})
    return paths
