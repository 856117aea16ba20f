"""The scores of a configuration by patient and run, and the variance between runs, which may be pooled over configurations."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ALIKE = 0.5  # all configurations share one variance between runs if Bartlett's p is above this


@dataclass(frozen=True, eq=False)
class Block:
    """The runs of one configuration and fold, which scored the same patients. values: (S runs, n patients)."""

    patients: tuple[str, ...]
    values: Floats


@dataclass(frozen=True)
class Pooled:
    """The variance between runs that all configurations share, and its degrees of freedom.

    df = 0 means that the variance is not shared, and each configuration has its own.
    """

    variance: float = math.nan
    df: int = 0

    def of(self, own: float, df: int, scale: float = 1.0) -> tuple[float, float]:
        """The variance to use for a block, and its degrees of freedom.

        Args: own, df: the block's own variance and its degrees of freedom. scale: factor for the shared variance.
        """
        return (self.variance * scale, self.df) if self.df else (own, df)


UNLIKE = Pooled()


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of one configuration. Its blocks have no patient in common. pooled: the shared variance between runs."""

    blocks: tuple[Block, ...]
    pooled: Pooled = UNLIKE

    @property
    def means(self) -> dict[str, float]:
        """The mean of each patient over the runs that scored the patient."""
        return {p: float(v) for b in self.blocks for p, v in zip(b.patients, b.values.mean(0), strict=True)}


def pool(cells: Sequence[Scores]) -> Pooled:
    """Pool the variance of run means over all configurations, unless Bartlett's test hints that they differ (p <= ALIKE).

    Three seeds give an imprecise estimate of the variance of one configuration, but twelve configurations with three seeds each
    give a precise estimate of a common variance. If the variances differ, pooling would lead to false differences between noisy
    configurations. Therefore a mere hint is enough not to pool.
    """
    blocks = [block.values.mean(1) for cell in cells for block in cell.blocks if len(block.values) > 1]
    if len(blocks) < 2 or any(np.ptp(runs) < 1e-12 for runs in blocks) or scipy.stats.bartlett(*blocks).pvalue <= ALIKE:
        return UNLIKE
    df = sum(len(runs) - 1 for runs in blocks)
    return Pooled(sum(float(((runs - runs.mean()) ** 2).sum()) for runs in blocks) / df, df)
