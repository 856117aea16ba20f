"""The statistical analysis of a sweep: groups of comparable configurations, verdicts, claims, power and variance.

All tests and verdicts use values from the last epoch. Values from the best epoch are shown, but not tested.
"""

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

from segtune.report import claims, clinical, groups, planning, stats, variation, winner
from segtune.report.claims import Study, Verdict
from segtune.report.comparisons import Comparison, compare
from segtune.report.groups import Group
from segtune.report.records import Cell, Sweep
from segtune.report.stats import Estimate

SEED = 0  # seed of the bootstrap draws


@dataclass(frozen=True, eq=False)
class Effect:
    """The mean change of Dice between two values of an axis, over pairs of configurations that are otherwise equal."""

    other: str
    estimate: Estimate
    n_pairs: int


@dataclass(frozen=True, eq=False)
class Analysis:
    """The analysis of a sweep. Its properties are computed on first use.

    Attributes:
        study: the published study whose claims are judged; None: no claims are judged.
    """

    sweep: Sweep
    study: Study | None = None

    @cached_property
    def groups(self) -> list[Group]:
        """The configurations with a defined Dice, grouped by the patients they are scored on; largest group first."""
        return groups.group(self.sweep.cells, self.sweep.plan)

    @cached_property
    def cells(self) -> list[tuple[Cell, Estimate]]:
        """The configurations with a defined Dice and their mean Dice over patients, group by group, best first."""
        return [pair for group in self.groups for pair in zip(group.cells, group.estimates, strict=True)]

    @property
    def best(self) -> Cell | None:
        """The configuration with the highest Dice among those in `may_be_best`; None if there are no groups."""
        return self.may_be_best[0] if self.groups else None

    @cached_property
    def may_be_best(self) -> list[Cell]:
        """The configurations of the first group that may be the best."""
        return kept(self.groups[0]) if self.groups else []

    @cached_property
    def comparisons(self) -> list[Comparison]:
        return [comparison for group in self.groups for comparison in compare(group)]

    @cached_property
    def honest(self) -> dict[int, winner.Honest]:
        """For each group number, the score of the group's winner. This score has no selection bias.

        See winner.honest_score. Groups with too few patients or runs are left out.
        """
        found = {group.number: winner.honest_score([cell.scores for cell in group.cells], seed=SEED) for group in self.groups}
        return {number: one for number, one in found.items() if one is not None}

    @cached_property
    def next_step(self) -> planning.NextStep | None:
        return planning.next_step(self.groups[0], self.sweep) if self.groups else None

    def by_level(self, axis: str) -> dict[str, list[Cell]]:
        """The configurations with a defined Dice, grouped by their value on an axis."""
        found: dict[str, list[Cell]] = defaultdict(list)
        for cell in self.sweep.cells:
            if cell.scores.blocks:
                found[cell.levels[axis]].append(cell)
        return found

    def effects(self, axis: str) -> dict[str, Effect]:
        """For each value of an axis, the mean difference from a reference value of this axis.

        The mean is over pairs of configurations that differ only in this axis and belong to the same group. On the axis
        `reg`, the reference value is "none". On the other axes, it is the value with the highest mean. The reference
        value itself and values without a pair are left out.
        """
        number = {id(cell): group.number for group in self.groups for cell in group.cells}
        of = {
            level: {(number[id(cell)], *_others(cell, axis)): cell for cell in cells}
            for level, cells in self.by_level(axis).items()
        }
        means = {level: stats.contrast([cell.scores for cell in cells.values()], None).value for level, cells in of.items()}
        reference = "none" if axis == "reg" and "none" in of else max(means, key=lambda level: means[level], default="")
        found = {}
        for level, cells in of.items():
            common = [key for key in cells if key in of[reference]]
            if level != reference and common:
                sides = [[side[key].scores for key in common] for side in (cells, of[reference])]
                found[level] = Effect(reference, stats.contrast(*sides), len(common))
        return found

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """The verdicts on the study's claims; empty without a study.

        The p values of the claims are corrected separately from the p values of the comparisons.
        """
        return claims.verdicts(self.study.claims, self.sweep.cells) if self.study else []

    @cached_property
    def variance(self) -> list[variation.Source]:
        """The sources of variance in the first group (see variation.decompose); empty if its grid is incomplete."""
        if not self.groups:
            return []
        cells = self.groups[0].cells
        return variation.decompose({axis: [cell.levels[axis] for cell in cells] for axis in self.sweep.axes}, cells)

    @cached_property
    def scored(self) -> list[tuple[Cell, list[clinical.Row]]]:
        """The configurations, sorted from best to worst, each with the result of clinical.patient_rows.

        The result is empty if the runs of the configuration recorded no scores in mm and ml.
        """
        return [(cell, clinical.patient_rows(cell.scored)) for cell, _ in self.cells]


def kept(group: Group) -> list[Cell]:
    """The configurations of a group that may be the best."""
    return [cell for cell, stays in zip(group.cells, group.verdicts.may_be_best, strict=True) if stays]


def _others(cell: Cell, axis: str) -> tuple[object, ...]:
    """The values of a configuration on all other axes."""
    return tuple(value for key, value in cell.levels.items() if key != axis)
