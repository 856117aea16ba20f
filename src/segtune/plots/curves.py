"""The study's figures. Pure functions of histories; knows nothing of segtune."""

import io
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

History = Mapping[str, Sequence[float]]
COLOURS = {"train_loss": "tab:blue", "val_loss": "tab:orange", "train_dice": "tab:green", "val_dice": "tab:red"}
DASHES = {"train_loss": "-", "val_loss": "--", "train_dice": "-", "val_dice": "--"}  # for whom the colours are alike
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"  # Okabe and Ito's, safe for the colour-blind
SIDES = {  # colour, letter, name
    "train": ("tab:blue", "T", "T: trains"),
    "val": ("tab:orange", "V", "V: validates"),
    "unused": ("lightgrey", "", "on no side"),
    "leak": ("tab:red", "L", "L: leak, on both sides"),
}
BEST = "best epoch of a run"
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
    _draw_panel(axes, axes, Panel([history]), scaled=True)
    for line in axes.get_lines():
        if line.get_label() == BEST:
            line.set_label(f"best: {history['val_dice'][best_epoch - 1]:.3f}")
    _frame(axes)
    axes.set(xlabel="epoch", ylabel="Dice, loss / maximum")
    axes.set_title(text(title), fontsize="medium")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    return figure


def _frame(axes: Axes) -> None:
    axes.set_ylim(0, 1.03)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)


@dataclass(frozen=True)
class Panel:
    """One cell of an overview: the histories of its replicates, and the study's own curves, if it printed them."""

    histories: Sequence[History]
    published: History | None = None


def overview(panels: Mapping[tuple[str, str], Panel], *, title: str, scaled: bool = True) -> Figure:
    """Small multiples: a panel per cell, as in the study; of replicates the median, and the range as a band.

    Args:
        panels: (row, column) -> panel; rows and columns in the order in which they first appear. Where that would leave more
            than half of the places empty, the panels follow one another.
        scaled: each loss over its panel's maximum, as published; else losses as they are, on a logarithmic axis at the right.
    """
    rows, columns = (list(dict.fromkeys(key[i] for key in panels)) for i in (0, 1))
    places = {key: (rows.index(key[0]), columns.index(key[1])) for key in panels}
    if 2 * len(panels) < len(rows) * len(columns):
        places = {key: divmod(i, IN_A_ROW) for i, key in enumerate(panels)}
    n_rows, n_columns = (1 + max(place[i] for place in places.values()) for i in (0, 1))
    wide = 2.6 if scaled else 2.9
    figure = Figure(figsize=(max(6.0, 1.0 + wide * n_columns), 1.3 + 2.1 * n_rows), layout="constrained")
    grid = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
    for place, axes in np.ndenumerate(grid):
        if place not in places.values():
            axes.set_axis_off()
    losses = [
        min(v, 1e300)
        for panel in panels.values()
        for h in panel.histories
        for name in ("train_loss", "val_loss")
        for v in h[name]
    ]
    positive = [value for value in losses if np.isfinite(value) and value > 0] or [1.0]
    handles: dict[str, Any] = {}
    for (row, column), (i, j) in places.items():
        axes, panel = grid[i, j], panels[row, column]
        right = axes if scaled else axes.twinx()
        if not scaled:
            right.set(yscale="log", ylim=(0.8 * min(positive), 1.25 * max(positive)))
            right.tick_params(labelright=(i, j + 1) not in places.values(), labelsize="x-small")
        _draw_panel(axes, right, panel, scaled=scaled)
        axes.set_title(text("\n".join([*textwrap.wrap(row, LABEL_WIDTH), column])), fontsize="small")
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


def _draw_panel(axes: Axes, right: Axes, panel: Panel, *, scaled: bool) -> None:
    longest = max(len(history["epoch"]) for history in panel.histories)
    epochs = np.arange(1, longest + 1)
    curves = {name: _padded([history[name] for history in panel.histories], longest) for name in COLOURS}
    largest = _largest(curves["train_loss"], curves["val_loss"]) if scaled else 1.0
    names = NAMES if scaled else {name: label.removesuffix(" / max") for name, label in NAMES.items()}
    for name, colour in COLOURS.items():
        on, scale = (right, largest) if name.endswith("loss") else (axes, 1.0)
        values = curves[name] / scale
        with warnings.catch_warnings():  # an epoch in which no run has a number
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


def forest(rows: Sequence[tuple[str, float, float, float, bool]], *, title: str, label: str) -> Figure:
    """Means with their intervals, one under the other.

    Args: rows: name, mean, low, high (NaN: no interval), whether it stands out.
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
    """Every run's value by group, and the groups' means: what a claim was decided by."""
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
class Agreement:
    """One quantity of one cell, a value per patient: the expert's, the predicted, and its sd between runs (NaN: one run).

    bias, lower, upper: of the errors; *_interval: of the limits. All NaN where there are too few patients.
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
    """Bland and Altman's plots, the error against the mean of both values: a row per cell, a column per quantity.

    Args: rows: cell, and by the quantity's name (its unit in brackets at the end) what is drawn; the same in each row.
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
        column[0].set_ylim(min(ends) - pad, max(ends) + pad)  # a limit's interval may leave the figure: numbers say it
    handles = {label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, frameon=False, fontsize="small")
    figure.suptitle(text(textwrap.fill(title, 30 * len(names))), fontsize="medium")
    return figure


def _draw_agreement(axes: Axes, one: Agreement) -> tuple[int, list[float]]:
    """One panel. Returns: how many patients it shows, and the ends of what must be in view."""
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


@dataclass(frozen=True)
class Strength:
    """One lambda of a response curve: Dice with its interval, weighted penalty / loss of the first epoch, weights' norm."""

    strength: float
    dice: tuple[float, float, float]
    ratio: float
    norm: float


def response(points: Sequence[Strength], none: Strength | None, calibrated: float | None, *, title: str, symbol: str) -> Figure:
    """Dice against lambda, the measured penalty / loss ratio on a second axis; below, the norm of the weights at the end."""
    figure = Figure(figsize=(6.8, 5.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    x = np.array([point.strength for point in points])
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
            0.5, 0.5, "the runs have not recorded their weights", transform=lower.transAxes, ha="center", fontsize="small"
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


def patients(rows: Sequence[tuple[str, Sequence[tuple[str, Any, Any, Any]]]], *, title: str) -> Figure:
    """Who is segmented how: a row per patient; of each slice the image, the expert's contour, the prediction, the error.

    Args: rows: label, and slices (name, image (S, S) 8 bits, expert's and predicted mask (S, S) bool).
    """
    n = max(len(slices) for _, slices in rows)
    figure = Figure(figsize=(1.0 + 1.5 * 4 * n, 0.9 + 1.75 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), 4 * n, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for i, (label, slices) in enumerate(rows):
        grid[i, 0].set_ylabel(text(label), fontsize="small")
        for j, (name, image, true, predicted) in enumerate(slices):
            window = _window(true | predicted)
            image, true, predicted = image[window], true[window], predicted[window]
            error = np.stack(
                [
                    np.where(true & ~predicted, part[0], np.where(predicted & ~true, part[1], image / 510))
                    for part in zip(to_rgb(BLUE), to_rgb(ORANGE), strict=True)
                ],
                axis=-1,
            )
            shown = (
                ("image", image, ()),
                ("expert", image, ((true, GREEN),)),
                ("prediction", image, ((predicted, ORANGE),)),
                ("error", error, ()),
            )
            for k, (what, picture, outlines) in enumerate(shown):
                axes = grid[i, 4 * j + k]
                axes.imshow(picture, cmap="gray", vmin=0, vmax=255 if picture.ndim == 2 else 1, interpolation="nearest")
                for mask, colour in outlines:
                    if mask.any() and not mask.all():
                        axes.contour(mask, levels=[0.5], colors=[colour], linewidths=1.2)
                axes.set_title(text(f"{what}\n{name}") if k == 0 else what, fontsize="x-small")
    handles = [Rectangle((0, 0), 1, 1, facecolor=colour) for colour in (BLUE, ORANGE)]
    figure.legend(
        handles,
        ["missed by the network", "not in the expert's mask"],
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize="small",
    )
    figure.suptitle(text(title), fontsize="medium")
    return figure


def _window(mask: np.ndarray, least: int = 96) -> tuple[slice, slice]:
    """A square around the mask, at least this wide, inside the image."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return slice(None), slice(None)
    side = min(max(least, int(1.4 * max(np.ptp(rows), np.ptp(columns)))), *mask.shape)
    starts = [
        min(max(0, (int(of[0]) + int(of[-1]) - side) // 2), size - side)
        for of, size in zip((rows, columns), mask.shape, strict=True)
    ]
    return slice(starts[0], starts[0] + side), slice(starts[1], starts[1] + side)


def shorten(name: str, width: int) -> str:
    """The name, its middle left out where it is longer than this."""
    return name if len(name) <= width else f"{name[: width // 2 - 1]} … {name[-(width // 2 - 2) :]}"


def text(name: str) -> str:
    """A name from the data, which matplotlib is not to read as a formula."""
    return name.replace("$", r"\$")


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
    axes.set_xticks(
        range(len(columns)), [text(shorten(name, 40)) for name in columns], rotation=60, ha="right", fontsize="small"
    )
    axes.set_yticks(range(len(patients)), [text(shorten(name, 40)) for name in patients], fontsize="small")
    axes.spines[:].set_visible(False)
    handles = [Rectangle((0, 0), 1, 1, facecolor=colour, label=name) for colour, _, name in SIDES.values()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    figure.suptitle(text(title), fontsize="medium", wrap=True)
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


def rendered(figure: Figure) -> dict[str, bytes]:
    """The figure as the content of a .png (150 dpi) and a .svg file; the same figure gives the same bytes."""
    found = {}
    with rc_context({"svg.hashsalt": "segtune", "svg.fonttype": "path"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a label in another script: boxes, no failure
        for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
            content = io.BytesIO()
            figure.savefig(content, dpi=150, metadata=metadata, format=suffix[1:])
            found[suffix] = content.getvalue()
    return found
