"""What claims are made of: finding configurations by their facts, and contrasts between them."""

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
    """The configuration with these facts that has most runs; None as an argument matches anything.

    Args: loss: matches its variants too (bce_dice matches bce_logdice).
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
    """share -> configuration of a loss without penalty, at batch 15 if there is any, else at the most frequent batch."""
    batches = [cell.facts.batch for cell in cells if not cell.facts.l1 and not cell.facts.l2]
    batch = "15" if "15" in batches else max(set(batches), key=batches.count) if batches else ""
    shares = sorted({cell.facts.share for cell in cells if cell.facts.share is not None})
    found = {share: pick(cells, loss=loss, share=share, l1=0.0, l2=0.0, batch=batch) for share in shares}
    return {share: cell for share, cell in found.items() if cell}


def at(cells: dict[float, Cell], value: float) -> Cell | None:
    """The configuration at this share or lambda, up to rounding."""
    return next((cell for key, cell in cells.items() if math.isclose(key, value, rel_tol=1e-6)), None)


def dice_contrast(name: str, plus: Sequence[Cell], minus: Sequence[Cell], expect: str) -> Contrast:
    """The difference in mean Dice over patients after the last epoch, with the margin of equivalence."""
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
    """A weighted sum of group means of a quantity that each run has one value of."""
    estimate = stats.run_contrast([(c, values) for c, _, values in groups], null=null, resolution=resolution)
    return Contrast(name, estimate, expect, margin, tuple((label, list(values)) for _, label, values in groups), unit)


def over(cells: Sequence[Cell], coefficient: float, value: Callable[[Record], float]) -> list[Weighted]:
    """The configurations as groups of a contrast, with equal weights that sum to the coefficient."""
    return [(coefficient / len(cells), cell.name, cell.by_seed(value)) for cell in cells]


def mean_of(groups: Sequence[Weighted]) -> float:
    return float(np.mean([values.mean() for _, _, values in groups]))


def paired(one: Cell, other: Cell, value: Callable[[Record], float]) -> Floats:
    """one - other for each seed that both have."""
    a, b = (dict(zip(cell.seeds, cell.by_seed(value), strict=True)) for cell in (one, other))
    return np.array([a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())])
