"""Find series of configurations that differ only in lambda."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

from segtune.report.records import FAMILY, Cell

Series = tuple[Cell | None, dict[float, Cell], dict[float, Cell]]


def lambda_series(cells: Sequence[Cell]) -> Iterator[Series]:
    """Yield the series for each combination of loss, share and batch. The loss BCE + Dice comes first.

    Yields: the configuration without a penalty (None if there is none), a mapping from lambda to the configuration with
    L1, and a mapping from lambda to the configuration with L2.
    """
    sets: dict[tuple[str, float | None, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        sets[cell.facts.loss, cell.facts.share, cell.facts.batch].append(cell)
    for _, of in sorted(sets.items(), key=lambda item: FAMILY.get(item[0][0], item[0][0]) != "bce_dice"):
        free = [cell for cell in of if same_number(cell.facts.l1, 0.0) and same_number(cell.facts.l2, 0.0)]
        none = max(free, key=lambda cell: len(cell.records), default=None)
        l1 = {cell.facts.l1: cell for cell in of if cell.facts.l1 and not cell.facts.l2}
        l2 = {cell.facts.l2: cell for cell in of if cell.facts.l2 and not cell.facts.l1}
        yield none, dict(sorted(l1.items())), dict(sorted(l2.items()))


def same_number(one: float, other: float) -> bool:
    """Whether two numbers are equal up to rounding. NaN is equal to no number."""
    return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-15)
