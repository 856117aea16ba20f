"""The scores of a configuration for each patient and run."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Block:
    """The runs of one configuration and fold, which scored the same patients.

    Attributes:
        values: the scores, (S runs, P patients).
        fold: the number of the fold; None on a single split.
    """

    patients: tuple[str, ...]
    values: Floats
    fold: int | None = None


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of one configuration: one block on a single split, one block per fold in cross-validation."""

    blocks: tuple[Block, ...]

    @property
    def means(self) -> dict[str, float]:
        """The mean of each patient over the runs that scored the patient."""
        return {p: float(v) for b in self.blocks for p, v in zip(b.patients, b.values.mean(0), strict=True)}

    @property
    def has_folds(self) -> bool:
        return any(block.fold is not None for block in self.blocks)

    @property
    def of_fold(self) -> dict[int | None, Block]:
        return {block.fold: block for block in self.blocks}
