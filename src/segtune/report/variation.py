"""The variation of results: statistical power, variance between runs, stability of the ranking, and analysis of variance."""

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from segtune.report.scores import Floats, Pooled, Scores
from segtune.report.stats import ALPHA, LEAST_PATIENTS, LEAST_SEEDS


def power(
    sd_patients: float,
    sd_run: float,
    n_patients: int,
    n_seeds: int,
    family: int,
    *,
    effect: float,
    pooled: Pooled,
    seed: int,
    n: int = 2000,
) -> float:
    """Simulate the power: the share of comparisons of two configurations that are declared if they truly differ by `effect`.

    Args:
        sd_patients: sd of the patients' differences.
        sd_run: sd of the common shift of all patients of a run.
        family: number of tests in the family. Only the first (strictest) step of Holm's correction is simulated, so the result
            is a lower bound.
        pooled: the variance between runs that all configurations share, if they do.
        seed: seed of the simulation.
        n: number of simulations.
    """
    if n_seeds < LEAST_SEEDS or n_patients < LEAST_PATIENTS or not math.isfinite(sd_patients + sd_run):
        return 0.0
    random = np.random.default_rng(seed)
    residual = sd_patients * math.sqrt(n_seeds / 2)
    sides = random.normal(0, sd_run, (2, n, n_seeds, 1)) + random.normal(0, residual, (2, n, n_seeds, n_patients))
    differences = effect + sides[0].mean(1) - sides[1].mean(1)
    by_patient = scipy.stats.wilcoxon(differences, axis=1, method="exact" if n_patients <= 50 else "auto").pvalue
    variances = sides.mean(3).var(2, ddof=1)
    if pooled.df:
        of_run = np.full((2, n), (sd_run**2 + residual**2 / n_patients) / n_seeds)
        df = np.full(n, pooled.df)
    else:
        of_run = variances / n_seeds
        df = of_run.sum(0) ** 2 / (of_run**2).sum(0) * (n_seeds - 1)
    by_run = 2 * scipy.stats.t.sf(np.abs(differences.mean(1)) / np.sqrt(of_run.sum(0)), df)
    return float(np.mean(np.maximum(by_patient, by_run) <= ALPHA / max(family, 1)))


def run_sd(cells: Sequence[Scores]) -> float:
    """The sd of the common shift of all patients of a run, pooled over configurations; NaN if no configuration has two runs."""
    total, freedom = 0.0, 0
    for block in (block for cell in cells for block in cell.blocks):
        n_s, n_p = block.values.shape
        if n_s < 2 or n_p < 2:
            continue
        runs = block.values.mean(1)
        rest = block.values - runs[:, None] - block.values.mean(0) + block.values.mean()
        total += (n_s - 1) * (float(runs.var(ddof=1)) - float((rest**2).sum()) / ((n_s - 1) * (n_p - 1)) / n_p)
        freedom += n_s - 1
    return math.sqrt(max(total / freedom, 0)) if freedom else math.nan


def rank_stability(cells: Sequence[Scores], *, seed: int, n: int = 1000) -> tuple[Floats, NDArray[np.int64]]:
    """Estimate the stability of the ranking, by a bootstrap of patients and of the runs within each fold.

    Args: seed: seed of the bootstrap. n: number of bootstrap draws.
    Returns: for each of C configurations, the share of draws in which it ranks first (C,), and the 2.5th and 97.5th percentile
        of its rank (C, 2), where 1 is best. In ties the earlier configuration ranks higher. A configuration without a patient
        in a draw ranks last.
    """
    random = np.random.default_rng(seed)
    patients = sorted({patient for cell in cells for block in cell.blocks for patient in block.patients})
    column = {patient: i for i, patient in enumerate(patients)}
    drawn = random.multinomial(len(patients), np.full(len(patients), 1 / len(patients)), size=n).astype(float)
    means = np.empty((len(cells), n))
    for i, cell in enumerate(cells):
        above, below = np.zeros(n), np.zeros(n)
        for block in cell.blocks:
            n_s = len(block.values)
            counts = random.multinomial(n_s, np.full(n_s, 1 / n_s), size=n) / n_s
            weights = drawn[:, [column[patient] for patient in block.patients]]
            above += ((counts @ block.values) * weights).sum(1)
            below += weights.sum(1)
        means[i] = np.divide(above, below, out=np.full(n, -np.inf), where=below > 0)
    ranks = np.empty((len(cells), n), dtype=np.int64)
    np.put_along_axis(ranks, np.argsort(-means, axis=0, kind="stable"), np.arange(1, len(cells) + 1)[:, None], axis=0)
    limits = np.percentile(ranks, [2.5, 97.5], axis=1, method="inverted_cdf")
    return (ranks == 1).mean(1), limits.T.astype(np.int64)


def decompose(levels: Mapping[str, Sequence[str]], values: Sequence[float]) -> list[tuple[str, int, float, float]] | None:
    """Compute the exact analysis of variance of a full grid: the contribution of each axis and each interaction.

    Args:
        levels: axis -> its value in each run.
        values: the result of each run.

    Returns: for each source (axes joined by ' x '): its name, degrees of freedom, sum of squares, and eta^2, its share of the
        total sum of squares. The largest is first, and the residual (between replicates) last. None if the runs are not a full
        grid with equally many replicates.
    """
    names = [name for name, of in levels.items() if len(set(of)) > 1]
    grid = _full_grid([levels[name] for name in names], values)
    if grid is None:
        return None
    *shape, n = grid.shape
    means = grid.mean(-1)
    total = float(((grid - grid.mean()) ** 2).sum())
    rows = []
    for axes, effect in _effects(means).items():
        squares = n * math.prod(size for i, size in enumerate(shape) if i not in axes) * float((effect**2).sum())
        freedom = math.prod(shape[i] - 1 for i in axes)
        rows.append((" x ".join(names[i] for i in axes), freedom, squares, squares / total if total else math.nan))
    rows.sort(key=lambda row: -row[2])
    residual = float(((grid - means[..., None]) ** 2).sum())
    return [*rows, ("residual", math.prod(shape) * (n - 1), residual, residual / total if total else math.nan)]


def _full_grid(levels: Sequence[Sequence[str]], values: Sequence[float]) -> Floats | None:
    """Arrange results as an array with one dimension per axis and a last dimension for replicates.

    Returns: the array; None if the grid is not full, if a result is not finite, or if all results are equal.
    """
    if not levels or np.ptp(list(values)) < 1e-15 or not np.isfinite(list(values)).all():
        return None
    order = [list(dict.fromkeys(of)) for of in levels]
    found: dict[tuple[int, ...], list[float]] = defaultdict(list)
    for value, *place in zip(values, *levels, strict=True):
        found[tuple(known.index(level) for known, level in zip(order, place, strict=True))].append(value)
    shape = tuple(len(known) for known in order)
    replicates = {len(of) for of in found.values()}
    if len(found) != math.prod(shape) or len(replicates) != 1:
        return None
    grid = np.empty((*shape, replicates.pop()))
    for place_in_grid, of in found.items():
        grid[place_in_grid] = of
    return grid


def _effects(means: Floats) -> dict[tuple[int, ...], Floats]:
    """The effect of each set of axes: the mean over all other axes, minus the effects of all smaller subsets of these axes."""
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
