"""The tests of claims 9 to 13 of the right-ventricle study, which are about penalties.

right_ventricle.py contains the table of all claims.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from segtune.report import curves, stats
from segtune.report.claims import Contrast, Found
from segtune.report.groups import Group
from segtune.report.penalties import lambda_series
from segtune.report.records import Cell, Plan, Record
from segtune.report.scores import Floats
from segtune.studies.contrasts import Weighted, at, dice_contrast, log_rank, run_contrast, weighted

Rule = Callable[[Cell, dict[float, Cell], dict[float, Cell]], Found]
HALF = math.log(0.5)


def best_series(rule: Rule) -> Callable[[Sequence[Cell]], Found]:
    """Turn the rule for one series of configurations into the test of a claim for a whole sweep.

    The configurations of a series differ only in lambda. The series with the largest Found.weight is used.
    """

    def find(cells: Sequence[Cell]) -> Found:
        found = [rule(none, l1, l2) for none, l1, l2 in lambda_series(cells) if none]
        return max(found, key=lambda one: one.weight, default=Found())

    return find


def l2_collapse(none: Cell, l1: dict[float, Cell], l2: dict[float, Cell]) -> Found:
    """Test claim 9."""
    return _collapse(none, l2, (0.01, 0.1), "lambda2")


def l2_faster(none: Cell, l1: dict[float, Cell], l2: dict[float, Cell]) -> Found:
    """Test claim 10."""
    return _faster(none, l2, (0.0005, 0.00075, 0.001), "lambda2")


def l2_small(none: Cell, l1: dict[float, Cell], l2: dict[float, Cell]) -> Found:
    """Test claim 11."""
    small = {value: cell for value, cell in l2.items() if value < 0.0005 * (1 - 1e-9)}
    return Found([dice_contrast(f"lambda2 {value:g} - none", [cell], [none], "same") for value, cell in small.items()])


def l1_both(none: Cell, l1: dict[float, Cell], l2: dict[float, Cell]) -> Found:
    """Test claim 13."""
    collapse, faster = _collapse(none, l1, (0.005, 0.1), "lambda1"), _faster(none, l1, (5e-7,), "lambda1")
    return Found(collapse.tests + faster.tests, collapse.missing + faster.missing)


def _collapse(none: Cell, cells: dict[float, Cell], lambdas: Sequence[float], name: str) -> Found:
    """Test claims 9 and 13: compared to no penalty, each lambda at least halves the weights and lowers Dice."""
    tests, missing = [], []
    for value in lambdas:
        cell = at(cells, value)
        if cell is None:
            missing.append(f"{name} {value:g}")
            continue
        groups = [weighted(cell, 1.0, _log_norm), weighted(none, -1.0, _log_norm)]
        title = f"{name} {value:g} - none: "
        tests.append(run_contrast(f"{title}weights", groups, "lower", null=HALF, margin=None, unit="ln |w|"))
        tests.append(dice_contrast(f"{title}Dice", [cell], [none], "lower"))
    return Found(tests, missing)


def _log_norm(record: Record) -> float:
    return math.log(record.weight_norm) if record.weight_norm > 0 else math.nan


def _faster(none: Cell, cells: dict[float, Cell], lambdas: Sequence[float], name: str) -> Found:
    """Test claims 10 and 13: with each of these lambdas, 90 % of the best Dice without penalty is reached in fewer epochs."""
    last = none.facts.epochs
    best = {unit: float(curve.max()) for unit, curve in _mean_curves(none, last).items()}
    has_folds, before = none.first.fold is not None, float(np.mean([*best.values()]))

    def epochs(cell: Cell, coefficient: float) -> Weighted:
        """Return the first epoch in which a run's Dice reaches its goal, or the last epoch + 1 if no epoch does."""
        goals = {unit: 0.9 * (best.get(unit, math.nan) if has_folds else before) for unit in {*best, *cell.seeds}}
        reached = {
            unit: curves.epochs_to([*curve], goals[unit])
            for unit, curve in _mean_curves(cell, last).items()
            if unit in goals and goals[unit] > 0
        }
        return Weighted(coefficient, cell.name, reached, has_folds)

    tests, missing = [], []
    for value in lambdas:
        cell = at(cells, value)
        if cell is None:
            missing.append(f"{name} {value:g}")
            continue
        groups = [epochs(cell, 1.0), epochs(none, -1.0)]
        unit = f"epochs to 90 % of the best Dice without penalty ({0.9 * before:.3f})"
        test = run_contrast(f"{name} {value:g} - none: epochs", groups, "lower", margin=0.5, unit=unit, resolution=1.0)
        tests.append(replace(test, own_p=_log_rank_of(groups, last)))
    return Found(tests, missing)


def _mean_curves(cell: Cell, epochs: int) -> dict[int, Floats]:
    """Return the curve of validation Dice for each fold, averaged over the runs of the fold.

    On a single split, there is one curve for each seed instead.

    The curve of a run that stopped early is continued with its last value.
    """
    found: dict[int, list[Floats]] = defaultdict(list)
    for record in cell.records:
        curve = np.nan_to_num(np.asarray(record.history["val_dice"][:epochs], dtype=float))
        whole = np.pad(curve, (0, epochs - len(curve)), mode="edge")
        found[record.seed if record.fold is None else record.fold].append(whole)
    return {unit: np.mean(of, axis=0) for unit, of in sorted(found.items())}


def _log_rank_of(groups: Sequence[Weighted], last: float) -> float:
    one, other = (np.array([*group.values.values()]) for group in groups)
    return log_rank(one, other, last) if len(one) and len(other) else math.nan


def magnitude(cells: Sequence[Cell]) -> Found:
    """Test claim 12 with the lambdas of L1 and L2 together."""
    found = []
    for none, l1, l2 in lambda_series(cells):
        named = [(f"{name} {value:g}", cell) for name, of in (("lambda2", l2), ("lambda1", l1)) for value, cell in of.items()]
        named = [(name, cell) for name, cell in named if cell.scores.blocks]
        if len(named) < 2:
            continue
        if none is None or not none.scores.blocks:
            found.append(Found(missing=["no penalty"]))
            continue
        name, best = max(named, key=lambda item: stats.mean(item[1].scores).value)
        beats = dice_contrast(f"best lambda, {name} - none", [best], [none], "higher")
        chosen = replace(beats, own_p=min(1.0, len(named) * beats.estimate.p), premise=True)
        found.append(Found([chosen, *_ratios(named, none)]))
    return max(found, key=lambda one: one.weight, default=Found())


def _ratios(named: Sequence[tuple[str, Cell]], none: Cell) -> list[Contrast]:
    """Test the ratio of penalty and loss at each lambda that may be the best.

    If no lambda has a ratio within the margin, only the lambda with the nearest ratio is tested. The claim can be
    contradicted only in this case.
    """
    group = Group(1, (none, *(cell for _, cell in named)), Plan())
    stays = group.verdicts.may_be_best[1:]
    tests = []
    for (name, cell), is_kept in zip(named, stays, strict=True):
        if is_kept:
            groups, unit = [weighted(cell, 1.0, _log_ratio)], "log10(weighted penalty / loss)"
            tests.append(run_contrast(f"{name}: ratio", groups, "within", margin=1.0, unit=unit, resolution=0.01))
    nearest = min(tests, key=lambda test: abs(test.estimate.value), default=None)
    return [replace(nearest, expect="same")] if nearest and abs(nearest.estimate.value) > 1 else tests


def _log_ratio(record: Record) -> float:
    return math.log10(record.ratio) if record.ratio > 0 else math.nan
