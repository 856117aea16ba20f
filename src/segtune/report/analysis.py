"""The statistical analysis of a sweep: ranking, comparisons, claims, power and variance.

All tested values are from the last epoch. Values of the best epoch are only shown, never tested.
"""

import itertools
import math
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

from segtune.report import claims, clinical, stats, variation
from segtune.report.claims import Study, Verdict
from segtune.report.comparisons import DECLARED, Comparison, Judged, judge
from segtune.report.records import Cell, Sweep
from segtune.report.stats import Estimate

SEED = 0  # seed of the simulations and bootstrap draws


@dataclass(frozen=True, eq=False)
class Analysis:
    """The analysis of a sweep. Its properties are computed on first use.

    Attributes:
        study: the published study whose claims are judged; None: no claims are judged.
    """

    sweep: Sweep
    study: Study | None = None

    @cached_property
    def cells(self) -> list[tuple[Cell, Estimate]]:
        """The configurations with a defined Dice and their mean Dice over patients, best first."""
        found = [(cell, stats.mean(cell.scores)) for cell in self.sweep.cells if cell.scores.blocks]
        return sorted(found, key=lambda one: -one[1].value)

    @cached_property
    def best(self) -> Cell | None:
        return self.cells[0][0] if self.cells else None

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """All comparisons: pairs of values of each axis, then the best configuration against every other configuration."""
        found = [comparison for axis in self.sweep.axes for comparison in self._of_axis(axis)]
        return found if self._one_axis else found + self._with_best()

    def _with_best(self) -> list[Comparison]:
        """The comparisons of the best configuration with every other configuration."""
        if not self.best:
            return []
        first, selection = self.best, len(self.cells) / 2
        return [
            Comparison(
                "best", one.name, f"{first.name}  -  {one.name}", stats.contrast([first.scores], [one.scores]), selection
            )
            for one, _ in self.cells[1:]
        ]

    def by_level(self, axis: str) -> dict[str, list[Cell]]:
        """The configurations with a defined Dice, grouped by their value on an axis."""
        found: dict[str, list[Cell]] = defaultdict(list)
        for cell in self.sweep.cells:
            if cell.scores.blocks:
                found[cell.levels[axis]].append(cell)
        return found

    def _all_pairs(self, axis: str) -> bool:
        """Whether all pairs of values of an axis are compared.

        On the axis reg, each penalty is compared only with "none", if some runs have no penalty.
        """
        return axis != "reg" or "none" not in self.by_level(axis)

    @property
    def _one_axis(self) -> bool:
        """Whether there is one axis, and its comparisons already cover all pairs of configurations."""
        return (
            len(self.sweep.axes) == 1
            and self._all_pairs(axis := self.sweep.axes[0])
            and len(self.by_level(axis)) == len(self.cells)
        )

    def _of_axis(self, axis: str) -> list[Comparison]:
        """The comparisons of values of an axis, over the configurations that are equal in everything else."""
        groups = {level: {self._context(cell, axis): cell for cell in cells} for level, cells in self.by_level(axis).items()}
        if self._all_pairs(axis):
            pairs = list(itertools.combinations(groups, 2))
        else:
            pairs = [(level, "none") for level in groups if level != "none"]
        found = []
        for one, other in pairs:
            common = [key for key in groups[one] if key in groups[other]]
            if common:
                sides = [[groups[level][key].scores for key in common] for level in (one, other)]
                found.append(Comparison("axis", axis, f"{one} - {other}", stats.contrast(sides[0], sides[1])))
        return found

    @staticmethod
    def _context(cell: Cell, axis: str) -> tuple[object, ...]:
        """The properties that two configurations must share to be compared on this axis: the data, and their other values."""
        return axis == "data" or cell.first.fingerprint, *(value for key, value in cell.levels.items() if key != axis)

    @cached_property
    def judged(self) -> list[Judged]:
        """The comparisons with their verdicts after Holm's correction."""
        corrected = stats.holm([comparison.p for comparison in self.comparisons])
        return [judge(comparison, p, self.family) for comparison, p in zip(self.comparisons, corrected, strict=True)]

    @cached_property
    def family(self) -> int:
        """The number of comparisons in Holm's correction: those for which a difference could be declared at all."""
        return sum(math.isfinite(comparison.p) for comparison in self.comparisons)

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """The verdicts on the study's claims, whose tests are a separate family; empty without a study."""
        return claims.verdicts(self.study.claims, self.sweep.cells) if self.study else []

    @cached_property
    def not_worse(self) -> list[Cell]:
        """The best configuration, and the configurations that are not declared lower."""
        if not self.best:
            return []
        declared = {(one.comparison.kind, one.comparison.name, one.why) for one in self.judged if one.verdict == DECLARED}
        if self._one_axis:
            level, axis = self.best.levels[self.sweep.axes[0]], self.sweep.axes[0]
            lower = {
                cell.name
                for cell, _ in self.cells
                if ("axis", f"{level} - {cell.levels[axis]}", "higher") in declared
                or ("axis", f"{cell.levels[axis]} - {level}", "lower") in declared
            }
        else:  # if patients differ, the best configuration may be lower on the patients that both have scored
            lower = {cell.name for cell, _ in self.cells if ("best", f"{self.best.name}  -  {cell.name}", "higher") in declared}
        return [cell for cell, _ in self.cells if cell.name not in lower]

    @cached_property
    def power(self) -> tuple[float, float, float]:
        """The power to declare a true difference of 0.05 between two configurations.

        Returns: the power, the sd of the patients' differences, and the sd of runs, from which it is computed.
        """
        pairs = [c.estimate for c in self.comparisons if math.isfinite(c.estimate.sd_patients)]
        if not pairs:
            return math.nan, math.nan, math.nan
        sds = sorted(e.sd_patients for e in pairs)
        sd, run = sds[len(sds) // 2], variation.run_sd([cell.scores for cell, _ in self.cells])
        least = min(pairs, key=lambda e: (e.n_seeds, e.n_patients))
        tests = math.ceil(self.family * max(c.selection for c in self.comparisons))
        pooled = self.cells[0][0].pooled
        found = variation.power(sd, run, least.n_patients, least.n_seeds, tests, effect=0.05, pooled=pooled, seed=SEED)
        return found, sd, run

    @cached_property
    def variance(self) -> list[tuple[str, int, float, float]] | None:
        """The contribution of each axis to the variance of Dice; None if there is no exact one (see variation.decompose)."""
        records = [record for record in self.sweep.records if record.patients]
        levels = {axis: [record.levels[axis] for record in records] for axis in self.sweep.axes}
        return variation.decompose(levels, [record.dice for record in records]) if records else None

    @cached_property
    def ranks(self) -> dict[str, tuple[float, int, int]]:
        """Configuration -> the share of bootstrap draws in which it ranks first, and the 95 % interval of its rank."""
        if not self.cells:
            return {}
        first, limits = variation.rank_stability([cell.scores for cell, _ in self.cells], seed=SEED)
        return {
            cell.name: (float(p), int(low), int(high))
            for (cell, _), p, (low, high) in zip(self.cells, first, limits, strict=True)
        }

    @cached_property
    def scored(self) -> list[tuple[Cell, list[clinical.Row]]]:
        """The configurations, best first, each with its rows of clinical.patient_rows (empty if its runs recorded none)."""
        return [(cell, clinical.patient_rows(cell.scored)) for cell, _ in self.cells]
