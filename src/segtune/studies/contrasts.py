"""Building blocks of claims: find configurations by their settings, and compute contrasts between them."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from segtune.report import stats
from segtune.report.claims import Contrast
from segtune.report.penalties import same_number
from segtune.report.records import FAMILY, Cell, Facts, Record
from segtune.report.scores import Floats
from segtune.report.stats import EQUIVALENCE

Weighted = tuple[float, str, Floats]  # coefficient, label, values of runs


def pick(
    cells: Sequence[Cell],
    *,
    l1: float,
    l2: float,
    loss: str | None = None,
    share: float | None = None,
    batch: str | None = None,
) -> Cell | None:
    """Find the configuration with these settings; if there are several, the one with most runs. None if there is none.

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
    """The configurations of a loss without penalty, by the share held out for validation.

    They have batch 15 if a configuration without penalty has it, and otherwise the most frequent batch.
    """
    batches = [cell.facts.batch for cell in cells if not cell.facts.l1 and not cell.facts.l2]
    batch = "15" if "15" in batches else max(set(batches), key=batches.count) if batches else ""
    shares = sorted({cell.facts.share for cell in cells if cell.facts.share is not None})
    found = {share: pick(cells, loss=loss, share=share, l1=0.0, l2=0.0, batch=batch) for share in shares}
    return {share: cell for share, cell in found.items() if cell}


def at(cells: dict[float, Cell], value: float) -> Cell | None:
    """The configuration with this share or lambda (up to rounding); None if there is none."""
    return next((cell for key, cell in cells.items() if math.isclose(key, value, rel_tol=1e-6)), None)


def dice_contrast(name: str, plus: Sequence[Cell], minus: Sequence[Cell], expect: str) -> Contrast:
    """Test a difference in mean Dice over patients after the last epoch. The margin is EQUIVALENCE."""
    estimate = stats.contrast([cell.scores for cell in plus], [cell.scores for cell in minus])
    groups = tuple((cell.name, [record.dice for record in cell.records]) for cell in dict.fromkeys([*plus, *minus]))
    return Contrast(name, estimate, expect, EQUIVALENCE, groups, "last Dice")


def run_contrast(
    name: str,
    groups: Sequence[Weighted],
    expect: str,
    *,
    unit: str,
    margin: float | None,
    null: float = 0.0,
    resolution: float = 0.0,
) -> Contrast:
    """Test a weighted sum of group means, for a quantity that has one value per run."""
    estimate = stats.run_contrast([(c, values) for c, _, values in groups], null=null, resolution=resolution)
    return Contrast(name, estimate, expect, margin, tuple((label, list(values)) for _, label, values in groups), unit)


def over(cells: Sequence[Cell], coefficient: float, value: Callable[[Record], float]) -> list[Weighted]:
    """Turn configurations into groups of a contrast, with equal weights whose sum is the coefficient."""
    return [(coefficient / len(cells), cell.name, cell.by_seed(value)) for cell in cells]


def mean_of(groups: Sequence[Weighted]) -> float:
    return float(np.mean([values.mean() for _, _, values in groups]))


def paired(one: Cell, other: Cell, value: Callable[[Record], float]) -> Floats:
    """The difference one - other of a quantity, for each seed that both configurations have."""
    a, b = (dict(zip(cell.seeds, cell.by_seed(value), strict=True)) for cell in (one, other))
    return np.array([a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())])
