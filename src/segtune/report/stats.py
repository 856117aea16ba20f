"""Estimates with confidence intervals and tests, as pure functions of scores.

The independent units are patients and runs on a single split, and folds in cross-validation. Slices are never treated
as independent units. segtune.report.differences describes the model. Each function of this module estimates a single
quantity; segtune.report.decisions makes decisions among all configurations.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats

from segtune.report.decisions import ALPHA as ALPHA
from segtune.report.decisions import missing
from segtune.report.differences import residual_mean_square
from segtune.report.scores import Block, Floats, Scores

LEAST_VALUES = 3  # independent values that a test on a quantity of a run needs
EQUIVALENCE = 0.01  # Dice: smaller differences are of no practical importance


@dataclass(frozen=True)
class Estimate:
    """A mean or difference, its t intervals, and its t-test against `null`. Values that are not available are NaN.

    Attributes:
        low, high: the 95 % interval.
        low90, high90: the 90 % interval.
        n_patients: number of patients; 0 for quantities of a run, such as roughness.
        n_folds: number of folds; 0 on a single split.
        n_seeds: the smallest number of runs that a configuration has in a fold. For a quantity of a run, it is the
            smallest number of independent values that a group has.
        n_runs: number of runs of all configurations.
        p: two-sided p value of the t-test.
        run_variance: False if the interval lacks the variance between runs because a configuration has a single run.
        null: the value under the null hypothesis.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    low90: float = math.nan
    high90: float = math.nan
    n_patients: int = 0
    n_folds: int = 0
    n_seeds: int = 0
    n_runs: int = 0
    p: float = math.nan
    run_variance: bool = True
    null: float = 0.0

    @property
    def testable_p(self) -> float:
        """The p value, or NaN if there are too few runs, patients or folds for a verdict. `holm` ignores NaN."""
        return self.p if not self.limit() else math.nan

    def limit(self) -> str:
        """Return what is missing for a verdict, such as patients or seeds; empty if nothing is missing."""
        if self.n_patients:
            return " and ".join(missing(self.n_seeds, self.n_patients, self.n_folds))
        if self.n_seeds < LEAST_VALUES:
            unit = "fold" if self.n_folds else "seed"
            return f"{self.n_seeds} {unit}{'s' * (self.n_seeds != 1)}, but {LEAST_VALUES} are needed"
        return ""

    def within(self, margin: float) -> bool:
        """Whether the estimate is equivalent to `null`: its 90 % interval lies in null +/- margin (two one-sided tests)."""
        return not self.limit() and -margin < self.low90 - self.null and self.high90 - self.null < margin


Pair = tuple[Scores, Scores | None]
Term = tuple[float, float]  # variance, degrees of freedom


def mean(cell: Scores) -> Estimate:
    """Estimate the mean Dice of a configuration over patients. The interval is clipped to [0, 1], the range of a Dice."""
    return contrast([cell], None)


def contrast(plus: Sequence[Scores], minus: Sequence[Scores] | None) -> Estimate:
    """Estimate the mean difference plus[k] - minus[k] over patients and pairs k of configurations.

    A patient is used if both configurations of a pair have scored it. On a single split, the variance is computed as in
    differences.of_runs, with one difference for each patient. In cross-validation it is the variance between the folds'
    differences, and only folds that all configurations have are used.

    Args:
        plus: configurations.
        minus: the same number of configurations, in the same order. A configuration may occur several times. If `minus`
            is None, the mean of plus is estimated.
    """
    if any(len(cell.blocks) > 1 for cell in (*plus, *(minus or ()))):
        return _of_folds(plus, minus)
    others: Sequence[Scores | None] = minus or [None] * len(plus)
    shared = _shared_patients(list(zip(plus, others, strict=True)))
    n = len(shared)
    if not n:
        return Estimate(math.nan, run_variance=False)
    cells = {id(cell): cell for cell in (*plus, *(minus or ()))}
    values, weights = _weigh(shared)
    terms: list[Term] = []
    residual, sizes = 0.0, []
    for key, of_patient in weights.items():
        block = cells[key].blocks[0]
        sizes.append(len(block.values))
        variance, rest = _of_runs(block, np.array([of_patient.get(patient, 0.0) for patient in block.patients]))
        residual += rest
        if sizes[-1] > 1:
            terms.append((variance, sizes[-1] - 1))
    x = float(values.var(ddof=1)) / n if n > 1 else math.nan
    return Estimate(
        float(values.mean()),
        *_interval(float(values.mean()), *_crossed((x, n - 1), terms, residual), bounds=(0, 1) if minus is None else (-1, 1)),
        n_patients=n,
        n_seeds=min(sizes),
        n_runs=sum(sizes),
        p=_t_test(float(values.mean()), *_crossed((x, n - 1), terms, residual)),
        run_variance=min(sizes) > 1,
    )


def _shared_patients(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """For each patient, the pairs in which both configurations have scored the patient. Patients are sorted by name."""
    means = {id(cell): cell.means for pair in pairs for cell in pair if cell is not None}
    shared: dict[str, list[Pair]] = defaultdict(list)
    for one, other in pairs:
        for patient in means[id(one)].keys() & means[id(one if other is None else other)].keys():
            shared[patient].append((one, other))
    return dict(sorted(shared.items()))


def _weigh(shared: Mapping[str, Sequence[Pair]]) -> tuple[Floats, dict[int, dict[str, float]]]:
    """Return the value of each patient, (P,), and the weight of each configuration and patient in the estimate.

    The weights have the form {id of a configuration: {patient: weight}}.
    """
    means = {id(cell): cell.means for pairs in shared.values() for pair in pairs for cell in pair if cell is not None}
    weights: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    values = np.zeros(len(shared))
    for i, (patient, pairs) in enumerate(shared.items()):
        for one, other in pairs:
            for cell, sign in ((one, 1.0), (other, -1.0)):
                if cell is not None:
                    values[i] += sign * means[id(cell)][patient] / len(pairs)
                    weights[id(cell)][patient] += sign / len(pairs) / len(shared)
    return values, weights


def _of_runs(block: Block, weights: Floats) -> tuple[float, float]:
    """Return the variance of a mean over runs, and the part of this variance that is residual variance.

    The mean is taken over `values @ weights`, which has one value per run. The residual is the interaction of patients
    and runs. For a single run, both results are 0.

    Args: weights: (P,), the weight of each patient.
    """
    n_runs = len(block.values)
    if n_runs < 2:
        return 0.0, 0.0
    variance = float((block.values @ weights).var(ddof=1)) / n_runs
    return variance, float((weights**2).sum()) * residual_mean_square(block.values) / n_runs


def _crossed(of_patients: Term, of_runs: Sequence[Term], residual: float) -> Term:
    """Return the variance max(X + R - E, X, R) and its degrees of freedom (Satterthwaite 1946).

    X is the variance due to patients, R is the sum of the variances due to runs, and E is the residual variance.
    """
    x, _ = of_patients
    r = sum(variance for variance, _ in of_runs)
    variance = max(x + r - residual, x, r) if math.isfinite(x) else math.nan
    below = sum(v**2 / df for v, df in [*of_runs, of_patients] if df)
    return variance, max(1.0, variance**2 / below) if below > 0 else 1.0


def _of_folds(plus: Sequence[Scores], minus: Sequence[Scores] | None) -> Estimate:
    """Estimate the contrast in cross-validation, where the independent units are folds."""
    cells = [*plus, *(minus or ())]
    of_fold = [cell.of_fold for cell in cells]
    folds = sorted(set.intersection(*({*of} for of in of_fold)), key=str)
    if not folds:
        return Estimate(math.nan, run_variance=False)
    signs = [1 / len(plus)] * len(plus) + [-1 / len(minus or (1,))] * len(minus or ())
    values, sizes = [], []
    for fold in folds:
        blocks = [of[fold] for of in of_fold]
        patients = set.intersection(*({*block.patients} for block in blocks))
        sizes.append(len(patients))
        if patients:
            values.append(sum(sign * fold_mean(block, patients) for sign, block in zip(signs, blocks, strict=True)))
    weights = np.array([size for size in sizes if size]) / max(sum(sizes), 1)
    if not values:
        return Estimate(math.nan, run_variance=False)
    value, n = float(np.array(values) @ weights), len(values)
    term = (float(np.var(values, ddof=1)) * float((weights**2).sum()), n - 1.0) if n > 1 else (math.nan, 1.0)
    return Estimate(
        value,
        *_interval(value, *term, bounds=(0, 1) if minus is None else (-1, 1)),
        n_patients=sum(sizes),
        n_folds=n,
        n_seeds=min(len(block.values) for of in of_fold for block in of.values()),
        n_runs=sum(len(of[fold].values) for of in of_fold for fold in folds),
        p=_t_test(value, *term),
    )


def fold_mean(block: Block, patients: set[str]) -> float:
    """The mean of a block over all its runs and the given patients."""
    return float(block.values[:, [patient in patients for patient in block.patients]].mean())


def run_contrast(groups: Sequence[tuple[float, Floats]], *, null: float = 0.0, resolution: float = 0.0) -> Estimate:
    """Estimate a weighted sum of the means of several groups of runs, with Welch's t interval and t-test.

    The estimate is the sum of coefficient * mean, where the sum is over groups.

    Args:
        groups: for each group a coefficient and the values of independent runs.
        null: the value under the null hypothesis.
        resolution: the step size of values that are counts; 0 for other values. The variance is assumed to be at least
            step^2 / 12, because runs with equal counts can still differ by less than a step.
    """
    value = sum(c * float(np.mean(v)) for c, v in groups)
    seeds = min(len(v) for _, v in groups)
    n_runs = sum(len(v) for _, v in groups)
    if seeds < 2 or not math.isfinite(value):
        return Estimate(value, n_seeds=seeds, n_runs=n_runs, null=null, run_variance=False)
    variances = [max(float(np.var(v, ddof=1)), resolution**2 / 12) for _, v in groups]
    terms = [(c**2 * s / len(v), len(v) - 1) for (c, v), s in zip(groups, variances, strict=True)]
    return Estimate(
        value,
        *_interval(value, *_freedom(terms)),
        n_seeds=seeds,
        n_runs=n_runs,
        p=_t_test(value - null, *_freedom(terms)),
        null=null,
    )


def _freedom(terms: Sequence[Term]) -> Term:
    """The sum of independent variances, and its degrees of freedom (Satterthwaite 1946)."""
    variance = sum(v for v, _ in terms)
    return variance, variance**2 / below if (below := sum(v**2 / df for v, df in terms)) > 0 else 1.0


def _interval(
    value: float, variance: float, df: float, *, bounds: tuple[float, float] = (-math.inf, math.inf)
) -> tuple[float, float, float, float]:
    """Return the 95 % and 90 % t intervals. Args: bounds: the range to which the intervals are clipped."""
    if not math.isfinite(variance):
        return math.nan, math.nan, math.nan, math.nan
    wide, narrow = (float(scipy.stats.t.ppf(q, df)) * math.sqrt(variance) for q in (0.975, 0.95))
    low, high = bounds
    return max(value - wide, low), min(value + wide, high), max(value - narrow, low), min(value + narrow, high)


def _t_test(value: float, variance: float, df: float) -> float:
    if not math.isfinite(variance):
        return math.nan
    if variance <= 0:
        return 1.0 if abs(value) < 1e-15 else 0.0
    return 2 * float(scipy.stats.t.sf(abs(value) / math.sqrt(variance), df))


def holm(p: Sequence[float]) -> list[float]:
    """Correct the p values of a family by Holm's step-down method (1979). NaN stays NaN and does not count in the family."""
    values = np.array(p, dtype=float)
    tested = np.flatnonzero(np.isfinite(values))
    order = tested[np.argsort(values[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    values[order] = np.minimum(1, np.maximum.accumulate(factors * values[order]))
    corrected: list[float] = values.tolist()
    return corrected
