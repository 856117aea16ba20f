"""Building blocks of claims: find configurations by their settings, and compute contrasts between them.

Some claims are about a quantity of a run, such as the roughness of its curve. On a single split, such a quantity has
one value per seed. In cross-validation, it has one value per fold, which is the mean over the seeds of the fold.
Configurations are then paired by fold, because runs of one fold share their training images.
"""

import functools
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from segtune.report import stats
from segtune.report.claims import Contrast
from segtune.report.penalties import same_number
from segtune.report.records import FAMILY, Cell, Facts, Record
from segtune.report.scores import Floats
from segtune.report.stats import EQUIVALENCE, Estimate

Quantity = Callable[[Record], float]
MOST_ENUMERATED = 200_000  # assignments of runs to two groups; 10 and 10 runs have 184,756


def pick(
    cells: Sequence[Cell],
    *,
    l1: float,
    l2: float,
    loss: str | None = None,
    share: float | None = None,
    batch: str | None = None,
) -> Cell | None:
    """Find the configuration with these settings.

    If several configurations match, the configuration with the most runs is returned. If no configuration matches,
    None is returned.

    Args: loss, share, batch: None matches all values. loss also matches its variants (bce_dice matches bce_logdice).
    """

    def fits(facts: Facts) -> bool:
        return (
            (loss is None or loss in (facts.loss, FAMILY.get(facts.loss)))
            and (share is None or (facts.share is not None and same_number(facts.share, share)))
            and same_number(facts.l1, l1)
            and same_number(facts.l2, l2)
            and (batch is None or facts.batch == batch)
        )

    return max((cell for cell in cells if fits(cell.facts)), key=lambda cell: len(cell.records), default=None)


def plain(cells: Sequence[Cell], loss: str) -> dict[float, Cell]:
    """Return the configurations that have this loss and no penalty. The keys are the shares held out for validation.

    Only configurations with batch 15 are returned. If no configuration without penalty has batch 15, the most frequent
    batch is used instead.
    """
    batches = [cell.facts.batch for cell in cells if not cell.facts.l1 and not cell.facts.l2]
    batch = "15" if "15" in batches else max(set(batches), key=batches.count) if batches else ""
    shares = sorted({cell.facts.share for cell in cells if cell.facts.share is not None})
    found = {share: pick(cells, loss=loss, share=share, l1=0.0, l2=0.0, batch=batch) for share in shares}
    return {share: cell for share, cell in found.items() if cell}


def at(cells: Mapping[float, Cell], value: float) -> Cell | None:
    """The configuration with this share or lambda (up to rounding); None if there is none."""
    return next((cell for key, cell in cells.items() if math.isclose(key, value, rel_tol=1e-6)), None)


@dataclass(frozen=True)
class Arm:
    """The configurations of one loss, with one configuration for each share.

    Either all of them train for the same number of epochs, or all of them train for the same number of steps.

    epochs: the number of epochs of the configuration that has the largest training set.
    """

    name: str
    epochs: int
    cells: dict[float, Cell]
    missing: list[str]


def arms(cells: Sequence[Cell], loss: str, shares: Sequence[float]) -> list[Arm]:
    """Find two arms among nested runs: one with equal epochs for all training sets, and one with equal optimiser steps.

    Without the second arm, the effect of a smaller training set cannot be separated from that of fewer steps.
    """
    by_epochs = {
        epochs: plain([c for c in cells if c.facts.epochs == epochs], loss) for epochs in {c.facts.epochs for c in cells}
    }
    base = max(by_epochs, key=lambda epochs: (len(by_epochs[epochs]), -epochs), default=0)
    found = []
    for name, is_matched in (("equal epochs", False), ("equal updates", True)):
        own, missing = {}, []
        for share in shares:
            epochs = round(base * (1 - min(shares)) / (1 - share)) if is_matched else base
            cell = next((one for n, of in by_epochs.items() if abs(n - epochs) <= is_matched and (one := at(of, share))), None)
            if cell:
                own[share] = cell
            else:
                missing.append(f"{loss}, nested, at {100 * share:g} % with {epochs} epochs ({name})")
        found.append(Arm(name, base, own, missing))
    return found


def dice_contrast(name: str, plus: Sequence[Cell], minus: Sequence[Cell], expect: str) -> Contrast:
    """Test a difference in mean Dice over patients after the last epoch. The margin is EQUIVALENCE."""
    estimate = stats.contrast([cell.scores for cell in plus], [cell.scores for cell in minus])
    groups = tuple((cell.name, [record.dice for record in cell.records]) for cell in dict.fromkeys([*plus, *minus]))
    return Contrast(name, estimate, expect, EQUIVALENCE, groups, "last Dice")


@dataclass(frozen=True)
class Weighted:
    """A group of a contrast: its coefficient and the values of a quantity.

    There is one value per fold in cross-validation, otherwise one value per seed.
    """

    coefficient: float
    label: str
    values: dict[int, float]
    has_folds: bool

    @property
    def mean(self) -> float:
        return float(np.mean([*self.values.values()])) if self.values else math.nan


def weighted(cell: Cell, coefficient: float, value: Quantity) -> Weighted:
    """Turn a configuration into a group of a contrast, without the folds or seeds in which the quantity is undefined."""
    has_folds = any(record.fold is not None for record in cell.records)
    found: dict[int, list[float]] = defaultdict(list)
    for record in cell.records:
        if math.isfinite(one := value(record)):
            found[(record.fold or 0) if has_folds else record.seed].append(one)
    return Weighted(coefficient, cell.name, {unit: float(np.mean(of)) for unit, of in sorted(found.items())}, has_folds)


def over(cells: Sequence[Cell], coefficient: float, value: Quantity) -> list[Weighted]:
    """Turn configurations into groups of a contrast, with equal weights whose sum is the coefficient."""
    return [weighted(cell, coefficient / len(cells), value) for cell in cells]


def spread(cell: Cell, coefficient: float, value: Quantity) -> Weighted:
    """Like `weighted`, but use the absolute deviation of each run from its fold median (Brown and Forsythe 1974)."""
    of_fold: dict[int | None, list[float]] = defaultdict(list)
    for record in cell.records:
        of_fold[record.fold].append(value(record))
    medians = {fold: float(np.median(values)) for fold, values in of_fold.items()}
    return weighted(cell, coefficient, lambda record: abs(value(record) - medians[record.fold]))


def run_contrast(
    name: str,
    groups: Sequence[Weighted],
    expect: str,
    *,
    unit: str,
    margin: float | None,
    null: float = 0.0,
    resolution: float = 0.0,
    paired: bool = False,
) -> Contrast:
    """Test a weighted sum of the means of several groups of runs.

    Args:
        margin, null, resolution: as in Contrast and stats.run_contrast.
        paired: whether to pair the groups by seed on a single split. They are always paired by fold in cross-validation.
    """
    shown = tuple((group.label, list(group.values.values())) for group in groups)
    estimate = estimate_of(groups, null=null, resolution=resolution, paired=paired)
    return Contrast(name, estimate, expect, margin, shown, unit)


def estimate_of(groups: Sequence[Weighted], *, null: float = 0.0, resolution: float = 0.0, paired: bool = False) -> Estimate:
    """Estimate a weighted sum of group means. Args: as in run_contrast."""
    has_folds = all(group.has_folds for group in groups)
    if not has_folds and not paired:
        independent = [(group.coefficient, np.array([*group.values.values()])) for group in groups]
        if not all(len(values) for _, values in independent):
            return Estimate(math.nan, null=null, run_variance=False)
        return stats.run_contrast(independent, null=null, resolution=resolution)
    units = sorted(set.intersection(*({*group.values} for group in groups)))
    if not units:
        return Estimate(math.nan, null=null, run_variance=False)
    sums = np.array([sum(group.coefficient * group.values[unit] for group in groups) for unit in units])
    step = resolution * math.sqrt(sum(group.coefficient**2 for group in groups))
    found = stats.run_contrast([(1.0, sums)], null=null, resolution=step)
    return replace(found, n_folds=len(units) if has_folds else 0, n_runs=len(units) * len(groups))


def mean_of(groups: Sequence[Weighted]) -> float:
    return float(np.mean([group.mean for group in groups]))


def log_rank(one: Floats, other: Floats, last: float) -> float:
    """Return the two-sided p value of the log-rank test with Peto and Peto's weights.

    The p value is that of a permutation test of the log-rank scores.

    Each event is weighted by the share of runs in which the event has not happened yet. Without weights, a single run
    in which the event never happens would cancel nine runs in which it happens early.

    All assignments of the runs to the two groups are enumerated if there are at most MOST_ENUMERATED of them. Otherwise, the
    normal approximation is used with the variance over all assignments.

    Args: one, other: the time of the event in each run. last: the last observed time. Later times are censored: it is
        only known that the event is later.
    """
    times = np.concatenate([one, other])
    events = np.unique(times[times <= last])
    hazards = np.array([np.mean(times[times >= event] == event) for event in events])
    weights = np.array([np.mean(times >= event) for event in events])
    expected = np.array([(weights * hazards)[events <= time].sum() for time in times])
    scores = np.array([weights[events == time].sum() for time in times]) - expected
    n, k, total = len(times), len(one), float(scores[: len(one)].sum())
    if math.comb(n, k) <= MOST_ENUMERATED:
        sums = scores[_assignments(n, k)].sum(1)
        return float(np.mean(np.abs(sums) >= abs(total) - 1e-9))
    variance = k * (n - k) / (n * (n - 1)) * float((scores**2).sum())
    return 2 * float(norm.sf(abs(total) / math.sqrt(variance))) if variance > 0 else 1.0


@functools.lru_cache(maxsize=4)
def _assignments(n: int, k: int) -> NDArray[np.int64]:
    """Return all choices of k out of n indices (comb(n, k), k)."""
    return np.array(list(itertools.combinations(range(n), k)))
