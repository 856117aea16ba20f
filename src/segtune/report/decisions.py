"""Decide which configurations may be the best, and which are clearly worse than another.

Both decisions use the t statistics T[j, i] = (mean of j - mean of i) / standard error:

- The set that may be best (Hsu's multiple comparisons with the best, 1981): configuration i is dropped from the set if T[j, i]
  exceeds Dunnett's one-sided critical value for some j. In at least 95 % of sweeps the truly best configuration stays.
- Clearly worse (Tukey 1953): i is clearly worse than j if T[j, i] exceeds the critical value of the studentized range. In at
  least 95 % of sweeps, all such statements are true.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segtune.report import quantiles
from segtune.report.differences import Differences
from segtune.runs.words import count

ALPHA = 0.05
LEAST_RUNS = 2  # of a configuration on a single split; with one, the variance between runs is unknown, and nothing leaves
LEAST_FOLDS = 5
CLEAR_RUNS, CLEAR_PATIENTS = 5, 8  # for a clear difference on a single split; in cross-validation LEAST_FOLDS
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Decision:
    """The decisions on C configurations.

    may_be_best: (C,), true for configurations that may be the best.
    worse: (C, C), worse[i, j] is true if configuration i is clearly worse than configuration j.
    """

    may_be_best: Bools
    worse: Bools


def decide(found: Differences, *, alpha: float = ALPHA, n_configurations: int | None = None) -> Decision:
    """Decide among C configurations.

    Args:
        alpha: error rate of this look at the data. If several looks are planned, their error rates add up to 5 %.
        n_configurations: the number of configurations at the start of the sweep, if some have been dropped since then.
            If it is None, C is used.
    """
    n = n_configurations or len(found.means)
    better = found.means[None] - found.means[:, None]  # [i, j]: how much better j is than i
    t = better / np.sqrt(found.variance)
    np.fill_diagonal(t, -math.inf)
    nothing = np.zeros_like(t, dtype=bool)
    leaves = t > quantiles.dunnett(n - 1, found.df, alpha) if can_leave(found) else nothing
    worse = t > quantiles.studentized_range(n, found.df, alpha) / math.sqrt(2) if not lacking(found) else nothing
    return Decision(np.logical_not(leaves.any(1)), worse)


def can_leave(found: Differences) -> bool:
    return found.n_folds >= LEAST_FOLDS if found.n_folds else found.n_runs >= LEAST_RUNS


def lacking(found: Differences) -> Sequence[str]:
    """Return everything that is still needed before a difference can be called clear; empty if nothing is needed."""
    return missing(found.n_runs, found.n_patients, found.n_folds)


def missing(n_runs: int, n_patients: int, n_folds: int) -> Sequence[str]:
    """Return which runs, patients or folds a comparison still needs. Args: n_folds: 0 on a single split."""
    if n_folds:
        more = LEAST_FOLDS - n_folds
        return [f"{count(more, 'more fold')} ({LEAST_FOLDS} are needed, there are {n_folds})"] if more > 0 else []
    found = []
    if n_runs < CLEAR_RUNS:
        found.append(f"{count(CLEAR_RUNS - n_runs, 'more seed')} ({CLEAR_RUNS} are needed, there are {n_runs})")
    if n_patients < CLEAR_PATIENTS:
        more = CLEAR_PATIENTS - n_patients
        found.append(f"{count(more, 'more validation patient')} ({CLEAR_PATIENTS} are needed, there are {n_patients})")
    return found
