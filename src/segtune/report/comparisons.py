"""The differences between the configurations of a group, with their verdicts."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.stats

from segtune.report import stats
from segtune.report.differences import Differences
from segtune.report.groups import Group
from segtune.report.records import Cell
from segtune.report.scores import Floats
from segtune.report.stats import EQUIVALENCE

CLEARLY_WORSE, EQUIVALENT, NOT_ENOUGH = "clearly worse", "equivalent", "not enough evidence"
MOST_ALL_PAIRS = 400  # configurations of a group whose pairs are all compared; above it, each is compared with the best only


@dataclass(frozen=True, eq=False)
class Comparison:
    """The difference a - b of two configurations.

    Attributes:
        low, high: the 95 % interval of the difference. low90, high90: the 90 % interval. All four values are NaN if
            there are too few runs or patients.
        run_variance: False if the interval lacks the variance between runs, because a configuration has a single run.
        worse: the configuration that is clearly worse; None if neither of the two is clearly worse.
    """

    group: Group
    a: Cell
    b: Cell
    difference: float
    low: float
    high: float
    low90: float
    high90: float
    df: float
    run_variance: bool
    worse: Cell | None
    verdict: str


def compare(group: Group) -> Iterator[Comparison]:
    """Compare each pair of configurations of a group. The better configuration comes first in each comparison.

    In a very large group, each configuration is compared with the best one only.
    """
    n, found, verdicts = len(group.cells), group.shown, group.verdicts
    known = verdicts.n_reached == verdicts.n_looks and not verdicts.lacking and not group.plan.added
    widths = _half_widths(found) if found is not None else []
    for i in range(n if n <= MOST_ALL_PAIRS else 1):
        for j in range(i + 1, n):
            a, b = group.cells[i], group.cells[j]
            worse = b if verdicts.worse[j, i] else a if verdicts.worse[i, j] else None
            if found is None:
                e = stats.contrast([a.scores], [b.scores])  # on what both have, while the sweep is not complete
                pair = e.value, e.low, e.high, e.low90, e.high90, math.nan, e.run_variance
                yield Comparison(group, a, b, *pair, worse, CLEARLY_WORSE if worse else NOT_ENOUGH)
                continue
            difference = float(found.means[i] - found.means[j])
            wide, narrow = float(widths[0][i, j]), float(widths[1][i, j])
            inside = known and abs(difference) + narrow < EQUIVALENCE
            yield Comparison(
                group,
                a,
                b,
                difference,
                max(-1.0, difference - wide),
                min(1.0, difference + wide),
                max(-1.0, difference - narrow),
                min(1.0, difference + narrow),
                float(found.own_df[i, j]),
                group.has_folds or min(group.estimates[i].n_seeds, group.estimates[j].n_seeds) > 1,
                worse,
                CLEARLY_WORSE if worse else EQUIVALENT if inside else NOT_ENOUGH,
            )


def _half_widths(found: Differences) -> list[Floats]:
    """Return half the width of the 95 % and of the 90 % interval, each (C, C)."""
    error = found.own_variance**0.5
    return [scipy.stats.t.ppf(q, np.maximum(found.own_df, 1.0)) * error for q in (0.975, 0.95)]
