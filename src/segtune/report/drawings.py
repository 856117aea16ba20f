"""The figures of a report, with the data that they show and their alt texts."""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from segtune.plots import agreement, comparison, curves, patients
from segtune.report import axes, clinical
from segtune.report.analysis import Analysis
from segtune.report.claims import Verdict
from segtune.report.formats import fixed, short_percent
from segtune.report.penalties import lambda_series
from segtune.report.pictures import chosen_pictures
from segtune.report.records import Cell, Sweep
from segtune.report.sentences import answer
from segtune.runs import identity

MOST_PANELS = 60  # configurations in the figure of curves; with more, curves are drawn on demand on the page
MOST_ROWS = 60  # configurations in the forest plot
LEAST_MAPPED, MOST_MAPPED = 3, 24  # configurations in the significance map
LEAST_COST_RATIO = 1.2  # of computing times, below which Dice is not drawn against them
DICE = "Dice after the last epoch, mean over patients"
MOST_SPLITS = 24  # columns in the figure of splits
MOST_AGREEMENTS = 3  # if more configurations are that may be the best, the figure of agreement shows only the best
QUANTITIES = {  # name, unit, and factor from the table's unit to this one
    "ejection_fraction": ("Ejection fraction", "percentage points", 100),
    "volume_ED_ml": ("End-diastolic volume", "ml", 1),
    "volume_ES_ml": ("End-systolic volume", "ml", 1),
    "stroke_volume_ml": ("Stroke volume", "ml", 1),
}
DRAWN = ("ejection_fraction", "volume_ED_ml", "volume_ES_ml")  # the quantities in the figure of agreement

Drawing = tuple[Callable[[], Figure], str]  # the function that draws the figure, and its alt text


def draw(analysis: Analysis, name: str) -> dict[str, Drawing]:
    """Prepare the report's figures. Returns: file name -> (function that draws the figure, alt text)."""
    return {
        **_forest(analysis),
        **_curves(analysis, name),
        **_significance(analysis),
        **_cost(analysis),
        **{f"claim_{verdict.claim.number:02}": _claim(verdict) for verdict in analysis.verdicts if _has_values(verdict)},
        **_responses(analysis),
        **_patients(analysis, name),
        **_agreement(analysis, name),
        **_splits(analysis.sweep, name),
    }


def _forest(analysis: Analysis) -> dict[str, Drawing]:
    kept = {
        id(cell)
        for group in analysis.groups
        for cell, stays in zip(group.cells, group.verdicts.may_be_best, strict=True)
        if stays
    }
    top = [
        comparison.Row(cell.name, e.value, e.low, e.high, id(cell) in kept, [*cell.scores.means.values()])
        for cell, e in analysis.cells[:MOST_ROWS]
    ]
    if not top:
        return {}
    decided = bool(analysis.groups[0].verdicts.n_reached)
    more = f" (the best {MOST_ROWS} of {len(analysis.cells)} are shown)" if len(analysis.cells) > MOST_ROWS else ""
    said = answer(analysis.groups[0]) if len(top) > 1 else f"{top[0].name} is the only configuration."
    draw_it = partial(
        comparison.forest,
        top,
        title=f"{said}{more}",
        label=DICE,
        highlighted="may be the best" if decided else "not decided yet",
        other="can be dropped",
    )
    return {"cells": (draw_it, f"Dice of {len(top)} configurations with intervals; {top[0].name} has {top[0].mean:.3f}.")}


def _significance(analysis: Analysis) -> dict[str, Drawing]:
    """A map of the verdicts on all pairs of the first group, if it has three configurations or more, and not too many."""
    group = analysis.groups[0] if analysis.groups else None
    if group is None or not LEAST_MAPPED <= len(group.cells) <= MOST_MAPPED:
        return {}
    found = {(one.a.name, one.b.name): one for one in analysis.comparisons if one.group is group}

    def verdict(row: Cell, column: Cell) -> str:
        one = found.get((row.name, column.name)) or found.get((column.name, row.name))
        if one is None or not (one.worse or one.verdict == "equivalent"):
            return "unclear"
        return "equivalent" if one.worse is None else "worse" if one.worse is row else "better"

    names, verdicts = [cell.name for cell in group.cells], [[verdict(a, b) for b in group.cells] for a in group.cells]
    clear = sum(of.count("worse") for of in verdicts)
    alt = f"Verdicts on the pairs of {len(names)} configurations: {clear} clear differences. The table below has them all."
    return {"significance": (partial(comparison.significance, names, verdicts, title="Verdict on each pair"), alt)}


def _cost(analysis: Analysis) -> dict[str, Drawing]:
    """Dice against computing time, if configurations of the first group differ in it."""
    group = analysis.groups[0] if analysis.groups else None
    if group is None or len(group.cells) < 2:
        return {}
    points = [
        (cell.name, cell.mean_of(lambda record: record.seconds), e.value, bool(stays))
        for cell, e, stays in zip(group.cells, group.estimates, group.verdicts.may_be_best, strict=True)
    ]
    points = [point for point in points if point[1] > 0 and math.isfinite(point[2])]
    seconds = [point[1] for point in points] or [1.0]
    if max(seconds) < LEAST_COST_RATIO * min(seconds):
        return {}
    alt = f"Dice against the computing time of a run for {len(points)} configurations."
    return {"cost": (partial(comparison.cost, points, title="Dice against computing time", label=DICE), alt)}


def _curves(analysis: Analysis, name: str) -> dict[str, Drawing]:
    sweep = analysis.sweep
    if len(sweep.cells) > MOST_PANELS:
        return {}
    published = analysis.study.published if analysis.study else lambda facts: None
    panels = {
        _place(sweep, cell): curves.Panel([record.history for record in cell.records], published(cell.facts))
        for cell in sweep.cells
    }
    alt = f"Losses and Dice by epoch, one panel for each of {len(panels)} configurations. The numbers are in tables/cells.csv."
    title = f"{name}: {len(sweep.records)} of {sweep.n_listed} runs"
    scaled = partial(curves.overview, panels, title=f"{title}, each loss divided by its panel's maximum")
    unscaled = partial(curves.overview, panels, title=f"{title}, unscaled losses", scaled=False)
    return {"curves": (scaled, alt), "curves_unscaled": (unscaled, alt)}


def _place(sweep: Sweep, cell: Cell) -> tuple[str, str]:
    """The row label and the column label of a panel.

    The row label contains loss, penalty and other axes. The column label contains split and batch if runs differ in them. If
    runs differ in neither, the row label is the name of the configuration.
    """
    varied = [name for name in ("split", "batch") if name in sweep.axes]
    if not varied:
        return cell.name, ""
    levels = {**identity.axes(cell.first.config), **cell.levels}
    rest = [axes.typed(axis, level) for axis, level in cell.levels.items() if axis not in axes.FIRST]
    penalty = levels["reg"] if "reg" in sweep.axes or levels["reg"] != "none" else ""
    row = ", ".join(filter(None, [levels["loss"], penalty, *rest]))
    return row, ", ".join(f"{'validation' if name == 'split' else name} {levels[name]}" for name in varied)


def _has_values(verdict: Verdict) -> bool:
    return any(math.isfinite(value) for test in verdict.found.tests[:1] for _, values in test.groups for value in values)


def _claim(verdict: Verdict) -> Drawing:
    """Draw the values of a claim's first test, and of the claim's other tests that have the same unit."""
    unit = verdict.found.tests[0].unit
    groups = {label: values for test in verdict.found.tests if test.unit == unit for label, values in test.groups}
    shown = [(label, values) for label, values in groups.items() if np.isfinite(values).any()]
    means = "; ".join(f"{label} mean {np.mean(values):.3g}" for label, values in shown)
    return partial(comparison.strip, shown, unit=unit), f"Claim {verdict.claim.number}, {unit} of every run: {means}."


def _responses(analysis: Analysis) -> dict[str, Drawing]:
    """A response curve for each set of configurations that differ only in lambda and have at least two lambdas."""
    contexts: dict[str, list[Cell]] = defaultdict(list)
    for cell in analysis.sweep.cells:
        if cell.scores.blocks:
            contexts[cell.facts.context].append(cell)
    found: dict[str, Drawing] = {}
    for cells in contexts.values():
        for none, l1, l2 in lambda_series(cells):
            for symbol, series in (("lambda_l1", l1), ("lambda_l2", l2)):
                if len(series) > 1:
                    found[f"response_{len(found) + 1}"] = _response(analysis, symbol, none, series)
    return found


def _response(analysis: Analysis, symbol: str, none: Cell | None, series: Mapping[float, Cell]) -> Drawing:
    estimates = {id(cell): e for cell, e in analysis.cells}

    def point(cell: Cell, weight: float) -> comparison.LambdaPoint:
        e = estimates[id(cell)]
        ratio, norm = cell.mean_of(lambda record: record.ratio), cell.mean_of(lambda record: record.weight_norm)
        return comparison.LambdaPoint(weight, (e.value, e.low, e.high), ratio, norm)

    points = [point(cell, weight) for weight, cell in series.items()]
    without = point(none, 0.0) if none else None
    measured = [p.penalty_weight / p.ratio for p in points if p.ratio > 0]
    calibrated = statistics.median(measured) if measured else None
    facts = next(iter(series.values())).facts
    share = "" if facts.share is None else f", {short_percent(facts.share)} held out"
    title = f"{facts.loss}, {facts.by} split{share}, batch {facts.batch}, {facts.epochs} epochs"
    best = max(points, key=lambda p: p.dice[0])
    alt = f"Dice against {symbol} for {title}: highest {best.dice[0]:.3f} at {best.penalty_weight:g}"
    alt += f", {without.dice[0]:.3f} without penalty." if without else "."
    return partial(comparison.response, points, without, calibrated, title=title, symbol=symbol), alt


def _patients(analysis: Analysis, name: str) -> dict[str, Drawing]:
    pictures = chosen_pictures(analysis)
    if not pictures:
        return {}
    labels = ", ".join(label.replace("\n", " ") for label, _ in pictures)
    title = f"{name}: best, median and worst patient of the best configuration"
    alt = f"Image, expert's contour and predicted contour for {labels}."
    return {"patients": (partial(patients.patients, pictures, title=title), alt)}


def _agreement(analysis: Analysis, name: str) -> dict[str, Drawing]:
    rows = _agreements(analysis)
    if not rows:
        return {}
    numbers = "; ".join(
        f"{what} of {cell}: bias {fixed(one.bias, 1)}, limits {fixed(one.lower, 1)} to {fixed(one.upper, 1)}"
        for cell, row in rows
        for what, one in row.items()
    )
    alt = f"Error against the mean of the predicted and the expert's value, one point per patient. {numbers}."
    return {"agreement": (partial(agreement.agreement, rows, title=f"{name}: predicted and expert's volumes"), alt)}


def _agreements(analysis: Analysis) -> list[tuple[str, dict[str, agreement.Agreement]]]:
    """Return the agreement between the predicted and the expert's values, for each configuration that may be the best.

    If more than MOST_AGREEMENTS configurations may be the best, only the configuration with the highest Dice is used.
    """
    kept = [id(cell) for cell in analysis.may_be_best]
    kept = kept if len(kept) <= MOST_AGREEMENTS else kept[:1]
    found = []
    for cell, rows in analysis.scored:
        if id(cell) not in kept:
            continue
        of = {row["quantity"]: row for row in clinical.agreement_rows(rows)}
        if any(of[quantity]["n_patients"] for quantity in DRAWN):
            found.append((cell.name, dict(_panel(quantity, of[quantity], rows) for quantity in DRAWN)))
    return found


def _panel(quantity: str, row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> tuple[str, agreement.Agreement]:
    """The panel of a quantity: its name with unit, and its values converted to that unit."""
    name, unit, scale = QUANTITIES[quantity]
    true, predicted, sd = (
        [scale * patient[clinical.column(quantity, what)] for patient in rows] for what in ("true", "pred", "pred_sd")
    )
    bias, lower, upper, lower_low, lower_high, upper_low, upper_high = (
        scale * row[key] for key in ("bias", "lower", "upper", "lower_low", "lower_high", "upper_low", "upper_high")
    )
    intervals = (lower_low, lower_high), (upper_low, upper_high)
    return f"{name} [{unit}]", agreement.Agreement(true, predicted, sd, bias, lower, upper, *intervals)


def _splits(sweep: Sweep, name: str) -> dict[str, Drawing]:
    splits: dict[str, Mapping[str, Any]] = {}
    several = len({record.result["data"].get("fingerprint") for record in sweep.records}) > 1
    for record in sweep.records:
        data = record.result["data"]
        of = f" of {str(data.get('fingerprint'))[:6]}" if several else ""
        splits.setdefault(_split_name(record.config["split"]) + of, data["patients"])
    shown = dict(sorted(splits.items())[:MOST_SPLITS])
    leaks = {str(leak) for record in sweep.records for leak in record.result["data"].get("leaks") or ()}
    leaked = f"{len(leaks)} patients leak." if leaks else "no patient leaks."
    title = f"{name}: patients in training and validation"
    return {"sides": (partial(patients.sides, shown, title=title), f"The patients of {len(shown)} splits; {leaked}")}


def _split_name(config: Mapping[str, Any]) -> str:
    """The name of a split, such as "patient 0.2 seed 0" or "kfold fold 1 of 5 seed 0"."""
    number = f"fold {config['fold']} of {config.get('n_folds')}" if "fold" in config else config.get("val_fraction")
    return f"{config['by']} {number} seed {config.get('seed')}"
