"""The scores of a configuration by patient and run, and the variance between runs that configurations may share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ALIKE = 0.5  # Bartlett's p above which all configurations share one variance between runs


@dataclass(frozen=True, eq=False)
class Block:
    """Runs of one configuration and fold, which scored the same patients: values (S runs, n patients)."""

    patients: tuple[str, ...]
    values: Floats


@dataclass(frozen=True)
class Pooled:
    """The variance between runs that all configurations share, with its degrees of freedom; df = 0: each has its own."""

    variance: float = math.nan
    df: int = 0

    def of(self, own: float, df: int, scale: float = 1.0) -> tuple[float, float]:
        """The variance to use, and its degrees of freedom. Args: own: the variance of a block. scale: of the shared one."""
        return (self.variance * scale, self.df) if self.df else (own, df)


UNLIKE = Pooled()


@dataclass(frozen=True, eq=False)
class Scores:
    """One configuration: blocks that share no patient (folds do not overlap), and the sweep's variance between runs."""

    blocks: tuple[Block, ...]
    pooled: Pooled = UNLIKE

    @property
    def means(self) -> dict[str, float]:
        """Each patient's mean over the runs that scored it."""
        return {p: float(v) for b in self.blocks for p, v in zip(b.patients, b.values.mean(0), strict=True)}


def pool(cells: Sequence[Scores]) -> Pooled:
    """One variance of run means for all configurations, unless Bartlett's test gives a hint that theirs differ (p <= ALIKE).

    Three seeds say little about the variance of one configuration; twelve configurations of three say a lot about a common
    one. If the variances differ, pooling would declare false differences of noisy configurations, so a hint is enough not to
    pool.
    """
    blocks = [block.values.mean(1) for cell in cells for block in cell.blocks if len(block.values) > 1]
    if len(blocks) < 2 or any(np.ptp(runs) < 1e-12 for runs in blocks) or scipy.stats.bartlett(*blocks).pvalue <= ALIKE:
        return UNLIKE
    df = sum(len(runs) - 1 for runs in blocks)
    return Pooled(sum(float(((runs - runs.mean()) ** 2).sum()) for runs in blocks) / df, df)
