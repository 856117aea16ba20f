"""Groups of configurations that are scored on the same patients, and the verdicts within each group.

Configurations are compared only within a group, because Dice values from different validation patients, or from different data
sets, cannot be compared.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from segtune.report import decisions, stats
from segtune.report.decisions import Bools
from segtune.report.differences import Differences, of_folds, of_runs
from segtune.report.records import Cell, Plan, Record, scores_of
from segtune.report.scores import Floats, Scores
from segtune.report.stats import Estimate, fold_mean
from segtune.runs.words import count

Side = Mapping[int | None, frozenset[object]]  # fold -> (case, number of its slices) on the validation side


@dataclass(frozen=True, eq=False)
class Verdicts:
    """The verdicts in a group of C configurations.

    Attributes:
        may_be_best: (C,), true for configurations that may be the best.
        worse: (C, C), worse[i, j] is true if configuration i is clearly worse than configuration j.
        left_at: (C,), the look (counted from 1) at which a configuration was ruled out as the best; 0: it may be the
            best.
        n_looks: number of planned looks.
        n_reached: number of looks at which verdicts were made. A look is reached when all runs of the look are done.
        lacking: what is missing before a difference can be called clear.
        unjudged: index of a configuration that could not be judged -> reason.
    """

    may_be_best: Bools
    worse: Bools
    left_at: tuple[int, ...]
    n_looks: int
    n_reached: int
    lacking: tuple[str, ...]
    unjudged: Mapping[int, str]


@dataclass(frozen=True, eq=False)
class Group:
    """Configurations that are scored on the same patients.

    number: the number of the group, counted from 1.
    cells: the configurations, sorted from best to worst.
    """

    number: int
    cells: tuple[Cell, ...]
    plan: Plan

    @cached_property
    def estimates(self) -> list[Estimate]:
        return [stats.mean(cell.scores) for cell in self.cells]

    @cached_property
    def has_folds(self) -> bool:
        return len({record.fold for cell in self.cells for record in cell.records}) > 1

    @cached_property
    def shown(self) -> Differences | None:
        """The differences computed from all finished runs, including those that do not affect verdicts.

        None if there are too few runs for a confidence interval.
        """
        found, indices, _ = self._differences(lambda record: True, least_runs=1)
        return found if len(indices) == len(self.cells) else None

    @cached_property
    def verdicts(self) -> Verdicts:
        n = len(self.cells)
        kept, worse, left = np.ones(n, dtype=bool), np.zeros((n, n), dtype=bool), [0] * n
        looks: Sequence[int | None] = self.plan.looks or (None,)
        reached, last, why = 0, self.shown, dict[int, str]()
        for number, look in enumerate(looks, 1):
            if not self.plan.reached(look):
                break
            reached = number
            alpha = decisions.ALPHA / len(looks)
            found, indices, why = self._differences(self._decides(look), least_runs=decisions.LEAST_RUNS)
            if found is not None:  # clear differences are among all, whether or not they have left the set
                last = found
                worse[np.ix_(indices, indices)] |= decisions.decide(found, alpha=alpha, n_configurations=n).worse
            found, indices, _ = self._differences(self._decides(look), kept, least_runs=decisions.LEAST_RUNS)
            if found is not None:
                decision = decisions.decide(found, alpha=alpha, n_configurations=n)
                for index, stays in zip(indices, decision.may_be_best, strict=True):
                    if not stays:
                        kept[index], left[index] = False, number
        return Verdicts(kept, worse, tuple(left), len(looks), reached, self._lacking(last), why)

    def _decides(self, look: int | None) -> Callable[[Record], bool]:
        return lambda record: record.run_id not in self.plan.added and (look is None or record.position < look)

    def _lacking(self, found: Differences | None) -> tuple[str, ...]:
        if found is not None:
            return tuple(decisions.lacking(found))
        n_folds = len({record.fold for cell in self.cells for record in cell.records}) if self.has_folds else 0
        patients = min(len(cell.scores.means) for cell in self.cells)
        return tuple(decisions.missing(min(e.n_seeds for e in self.estimates), patients, n_folds))

    def _differences(
        self, used: Callable[[Record], bool], alive: Bools | None = None, *, least_runs: int
    ) -> tuple[Differences | None, list[int], dict[int, str]]:
        """Compute the differences between the configurations that can be judged.

        Args: used: function that returns whether a run is used. alive: (C,), true for configurations that have not been
            ruled out; None: all.
            least_runs: the smallest number of runs with which a configuration is judged on a single split.
        Returns: the differences (None if fewer than two can be judged), the indices of the judged configurations, and
            index -> reason for each configuration that is not judged although it has not been ruled out.
        """
        scores = {
            index: scores_of([record for record in cell.records if used(record)])
            for index, cell in enumerate(self.cells)
            if alive is None or alive[index]
        }
        if self.has_folds:
            return _over_folds(scores)
        n_runs = {index: sum(len(block.values) for block in of.blocks) for index, of in scores.items()}
        why = {index: f"it has {count(n, 'run')}" for index, n in n_runs.items() if n < least_runs}
        return _over_runs({index: of for index, of in scores.items() if index not in why}, why)


def _over_runs(scores: Mapping[int, Scores], why: dict[int, str]) -> tuple[Differences | None, list[int], dict[int, str]]:
    blocks = {index: of.blocks[0] for index, of in scores.items()}
    patients = set.intersection(*({*block.patients} for block in blocks.values())) if blocks else set()
    if len(blocks) < 2 or len(patients) < 2:
        return None, [], why
    values = [block.values[:, [patient in patients for patient in block.patients]] for block in blocks.values()]
    return of_runs(values), [*blocks], why


def _over_folds(scores: Mapping[int, Scores]) -> tuple[Differences | None, list[int], dict[int, str]]:
    folds = sorted({fold for of in scores.values() for fold in of.of_fold}, key=str)
    why = {
        index: f"it lacks {'fold' if len(absent) == 1 else 'folds'} {', '.join(map(str, absent))}"
        for index, of in scores.items()
        if (absent := [fold for fold in folds if fold not in of.of_fold])
    }
    whole = {index: of for index, of in scores.items() if index not in why}
    if len(whole) < 2 or len(folds) < 2:
        return None, [], why
    columns, sizes = [], []
    for fold in folds:
        blocks = [of.of_fold[fold] for of in whole.values()]
        patients = set.intersection(*({*block.patients} for block in blocks))
        if patients:
            columns.append([fold_mean(block, patients) for block in blocks])
            sizes.append(len(patients))
    if len(columns) < 2:
        return None, [], why
    n_runs = min(len(block.values) for of in whole.values() for block in of.blocks)
    table: Floats = np.array(columns).T
    return of_folds(table, np.array(sizes) / sum(sizes), n_patients=sum(sizes), n_runs=n_runs), [*whole], why


def group(cells: Iterable[Cell], plan: Plan) -> list[Group]:
    """Group the configurations with a defined Dice by the patients on which they are scored.

    Returns: the groups, the largest first.
    """
    found: list[tuple[dict[int | None, frozenset[object]], list[Cell]]] = []
    for cell in sorted(cells, key=lambda one: -len({record.fold for record in one.records})):
        if not cell.scores.blocks:
            continue
        side = _side(cell)
        for known, members in found:
            if _alike(side, known) and members[0].first.fingerprint == cell.first.fingerprint:
                known.update(side)
                members.append(cell)
                break
        else:
            found.append((side, [cell]))
    ranked = [_ranked(members) for _, members in found]
    ranked.sort(key=lambda members: (-len(members), -_mean_dice(members[0])))
    return [Group(number, tuple(members), plan) for number, members in enumerate(ranked, 1)]


def _ranked(cells: Sequence[Cell]) -> list[Cell]:
    """Sort configurations by their mean Dice on the patients that all of them have scored.

    If there are no such patients, the mean of a configuration is taken over its own patients.
    """
    common = set.intersection(*({*cell.scores.means} for cell in cells))
    return sorted(cells, key=lambda cell: _mean_dice(cell, common or None), reverse=True)


def _side(cell: Cell) -> dict[int | None, frozenset[object]]:
    return {record.fold: frozenset(record.cases.items()) for record in cell.records}


def _alike(one: Side, other: Side) -> bool:
    """Whether two configurations have a fold in common, and the same patients in each common fold."""
    common = one.keys() & other.keys()
    return bool(common) and all(one[fold] == other[fold] for fold in common)


def _mean_dice(cell: Cell, patients: set[str] | None = None) -> float:
    means = [dice for patient, dice in cell.scores.means.items() if patients is None or patient in patients]
    return sum(means) / len(means)
