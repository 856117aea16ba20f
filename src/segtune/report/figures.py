"""The study's figures. Pure functions of histories; knows nothing of segtune."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

History = Mapping[str, Sequence[float]]
COLOURS = {"train_loss": "tab:blue", "val_loss": "tab:orange", "train_dice": "tab:green", "val_dice": "tab:red"}
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

    Args: panels: (row, column) -> (history, best epoch); rows and columns in the order in which they first appear.
    """
    rows, columns = (list(dict.fromkeys(key[i] for key in panels)) for i in (0, 1))
    figure = Figure(figsize=(max(5.0, 1.0 + 2.6 * len(columns)), 1.1 + 2.1 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(columns), sharex=True, sharey=True, squeeze=False)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            axes = grid[i, j]
            if (row, column) not in panels:
                axes.set_axis_off()
                continue
            history, best_epoch = panels[row, column]
            _draw(axes, history, best_epoch)
            axes.set_title("\n".join([*textwrap.wrap(row, LABEL_WIDTH), column]), fontsize="small")
            axes.annotate(f"{history['val_dice'][best_epoch - 1]:.2f}", (best_epoch, history["val_dice"][best_epoch - 1]),
                          xytext=(0, -12), textcoords="offset points", ha="center", fontsize="x-small")  # fmt: skip
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
    lines = next(axes for axes in grid.flat if axes.axison).get_lines()[:4]
    figure.legend(lines, NAMES.values(), loc="outside lower center", ncols=2 if len(columns) < 3 else 4, frameon=False)
    figure.suptitle(title, fontsize="medium")
    return figure


def save(figure: Figure, stem: Path) -> list[Path]:
    """The figure as stem.png (150 dpi) and stem.svg; the same figure gives the same bytes."""
    with rc_context({"svg.hashsalt": "segtune", "svg.fonttype": "path"}):
        paths = [stem.with_name(stem.name + suffix) for suffix in (".png", ".svg")]
        figure.savefig(paths[0], dpi=150, metadata={"Software": None})
        figure.savefig(paths[1], metadata={"Date": None})
    return paths
