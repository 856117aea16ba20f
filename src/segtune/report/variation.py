"""Divide the variance of Dice in a full grid into parts: axes, interactions, patients, folds and the residual."""

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from segtune.report.records import Cell
from segtune.report.scores import Floats
from segtune.report.stats import fold_mean


@dataclass(frozen=True)
class Source:
    """One source of variance.

    Attributes:
        df, sum_of_squares: the degrees of freedom and the sum of squares. On a single split, they are computed from
            the scores of all patients in all runs. In cross-validation, they are computed from the means of all folds.
        omega_squared: the estimated share of this source in the variance. It is corrected for the share that would be
            expected by chance alone (Hays 1963), and it is at least 0. It is NaN for the residual. If each
            configuration has one run on a single split, it is NaN for every source.
    """

    name: str
    df: int
    sum_of_squares: float
    omega_squared: float


def decompose(levels: Mapping[str, Sequence[str]], cells: Sequence[Cell]) -> list[Source]:
    """Compute the analysis of variance of configurations that are scored on the same patients.

    On a single split, the scores (configuration x run x patient) have these sources of variance: axes and their
    interactions, runs (replicates of a configuration), patients, and a residual. Axes are compared with the variance
    between runs, and patients with the residual. In cross-validation, the fold means (configuration x fold) have the
    sources axes and their interactions, folds, and a residual. Axes and folds are compared with the residual.

    Args: levels: a mapping from each axis to the value of the axis in each configuration.
    Returns: the axes and interactions, with the largest first, followed by the other sources. The list is empty if the
        configurations do not form a full grid, or if they do not have the same number of runs on the same patients.
    """
    names = [name for name, of in levels.items() if len(set(of)) > 1]
    scores = _aligned(cells)
    if scores is None or not names or np.ptp(scores) < 1e-15:
        return []
    grid = _full_grid([levels[name] for name in names], scores)
    if grid is None:
        return []
    n_runs, n_units = grid.shape[-2:]
    means = grid.mean((-2, -1))
    n = means.size
    total = float(((grid - grid.mean()) ** 2).sum())
    axes = {
        " x ".join(names[i] for i in of): (
            math.prod(means.shape[i] - 1 for i in of),
            n_runs * n_units * math.prod(s for i, s in enumerate(means.shape) if i not in of) * float((effect**2).sum()),
        )
        for of, effect in _effects(means).items()
    }
    ordered = sorted(axes.items(), key=lambda item: -item[1][1])
    units = n * n_runs * float(((grid.mean(tuple(range(grid.ndim - 1))) - grid.mean()) ** 2).sum())
    runs = n_units * float(((grid.mean(-1) - means[..., None]) ** 2).sum())
    rest = total - units - runs - sum(squares for _, squares in axes.values())
    folds = any(len(cell.scores.blocks) > 1 for cell in cells)
    sources = [*ordered, ("folds" if folds else "patients", (n_units - 1, units))]
    if not folds:
        sources.append(("runs", (n * (n_runs - 1), runs)))
    rest_df = n * n_runs * n_units - 1 - sum(df for _, (df, _) in sources)
    of_rest = max(rest, 0.0) / rest_df if rest_df else math.nan
    of_runs = of_rest if folds else runs / (n * (n_runs - 1)) if n_runs > 1 else math.nan

    def omega(name: str, df: int, squares: float) -> float:
        error = of_runs if name in axes else of_rest
        if not folds and n_runs < 2:
            return math.nan
        return max(0.0, (squares - df * error) / (total + of_rest)) if total else math.nan

    found = [Source(name, df, squares, omega(name, df, squares)) for name, (df, squares) in sources]
    return [*found, Source("residual", rest_df, max(rest, 0.0), math.nan)]


def _aligned(cells: Sequence[Cell]) -> Floats | None:
    """Return the scores as an array (C configurations, S runs, P patients).

    In cross-validation, the array contains the means of the K folds instead, with the shape (C, 1, K). Returns None if
    the configurations differ in their folds or numbers of runs, or if they have too few patients in common.
    """
    scores = [cell.scores for cell in cells]
    if any(len(of.blocks) > 1 for of in scores):
        folds = list(scores[0].of_fold)
        if any({*of.of_fold} != {*folds} for of in scores):
            return None
        shared = {fold: set.intersection(*({*of.of_fold[fold].patients} for of in scores)) for fold in folds}
        if not all(shared.values()):
            return None
        return np.array([[[fold_mean(of.of_fold[fold], shared[fold]) for fold in folds]] for of in scores])
    blocks = [of.blocks[0] for of in scores]
    patients = sorted(set.intersection(*({*block.patients} for block in blocks)))
    if len({len(block.values) for block in blocks}) != 1 or len(patients) < 2:
        return None
    return np.array([block.values[:, [block.patients.index(patient) for patient in patients]] for block in blocks])


def _full_grid(levels: Sequence[Sequence[str]], scores: Floats) -> Floats | None:
    """Arrange scores as an array with one dimension per axis, then runs and patients; None if the grid is not full."""
    order = [list(dict.fromkeys(of)) for of in levels]
    places: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, place in enumerate(zip(*levels, strict=True)):
        places[tuple(known.index(level) for known, level in zip(order, place, strict=True))].append(i)
    shape = tuple(len(known) for known in order)
    if len(places) != math.prod(shape) or any(len(of) != 1 for of in places.values()):
        return None
    grid = np.empty((*shape, *scores.shape[1:]))
    for place_in_grid, (i,) in places.items():
        grid[place_in_grid] = scores[i]
    return grid


def _effects(means: Floats) -> dict[tuple[int, ...], Floats]:
    """Return the effect of each set of axes.

    The effect is the mean of the scores over all other axes, minus the effects of all smaller subsets of the set.
    """
    found: dict[tuple[int, ...], Floats] = {(): np.full([1] * means.ndim, means.mean())}
    for size in range(1, means.ndim + 1):
        for axes in itertools.combinations(range(means.ndim), size):
            effect = means.mean(tuple(i for i in range(means.ndim) if i not in axes), keepdims=True)
            for fewer in range(size):
                for below in itertools.combinations(axes, fewer):
                    effect = effect - found[below]
            found[axes] = effect
    del found[()]
    return found
