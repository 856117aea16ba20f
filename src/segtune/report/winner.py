"""Estimate the score of the best configuration without the bias of choosing and scoring it on the same data."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segtune.report.scores import Floats, Scores
from segtune.report.stats import fold_mean

N_DRAWS = 1000
LEAST_PATIENTS, LEAST_FOLDS, LEAST_RUNS = 3, 3, 3


@dataclass(frozen=True)
class Honest:
    """The honest score of a winner.

    Attributes:
        naive: the mean Dice that was used to choose the winner. The mean is over the patients that were scored in all
            configurations.
        score: the mean over bootstrap draws. In each draw, the winner is chosen on the drawn patients (or folds) and
            runs. Its score is then computed on the patients (or folds) and runs that were not drawn. A draw contains
            less information than all data, so the score tends to be too low.
    """

    naive: float
    score: float


def honest_score(cells: Sequence[Scores], *, seed: int, n: int = N_DRAWS) -> Honest | None:
    """Repeat the choice of the best configuration in bootstrap draws, and score each draw's winner out of bag.

    On a single split, patients and the runs of each configuration are drawn; in cross-validation, folds are drawn. Source: the
    out-of-bag error of Breiman (1996), applied to the choice of a configuration.

    Args: cells: configurations scored on the same patients. seed: seed of the draws. n: number of draws.
    Returns: None if there is only one configuration, or if there are too few patients, folds or runs.
    """
    if len(cells) < 2:
        return None
    random = np.random.default_rng(seed)
    if any(len(cell.blocks) > 1 for cell in cells):
        return _over_folds(cells, random, n)
    blocks = [cell.blocks[0] for cell in cells]
    patients = sorted(set.intersection(*({*block.patients} for block in blocks)))
    if len(patients) < LEAST_PATIENTS or min(len(block.values) for block in blocks) < LEAST_RUNS:
        return None
    values = [block.values[:, [block.patients.index(patient) for patient in patients]] for block in blocks]
    drawn = _draw(random, len(patients), n)
    inside, outside = np.empty((len(values), n)), np.empty((len(values), n))
    absent = _shares(drawn == 0)
    for i, of in enumerate(values):
        runs = _draw(random, len(of), n)
        inside[i] = ((runs @ of) * drawn).sum(1) / len(of) / len(patients)
        outside[i] = ((_shares(runs == 0) @ of) * absent).sum(1)
    return _result(np.array([of.mean() for of in values]), inside, outside)


def _over_folds(cells: Sequence[Scores], random: np.random.Generator, n: int) -> Honest | None:
    of_fold = [cell.of_fold for cell in cells]
    folds = sorted(set.intersection(*({*of} for of in of_fold)), key=str)
    shared = {fold: set.intersection(*({*of[fold].patients} for of in of_fold)) for fold in folds}
    folds = [fold for fold in folds if shared[fold]]
    if len(folds) < LEAST_FOLDS:
        return None
    table = np.array([[fold_mean(of[fold], shared[fold]) for fold in folds] for of in of_fold])
    weights = np.array([len(shared[fold]) for fold in folds]) / sum(len(shared[fold]) for fold in folds)
    drawn = _draw(random, len(folds), n)
    inside = table @ (drawn * weights).T / (drawn * weights).sum(1)
    outside = table @ _shares((drawn == 0) * weights).T
    return _result(table @ weights, inside, outside)


def _draw(random: np.random.Generator, size: int, n: int) -> Floats:
    """Draw `size` items with replacement. Returns: how often each item was drawn (n, size)."""
    return random.multinomial(size, np.full(size, 1 / size), size=n).astype(float)


def _shares(weights: Floats) -> Floats:
    """Divide each row by its sum. A row of zeros becomes NaN."""
    total = weights.sum(1, keepdims=True)
    shares: Floats = np.divide(weights, total, out=np.full(weights.shape, np.nan), where=total > 0)
    return shares


def _result(means: Floats, inside: Floats, outside: Floats) -> Honest:
    of_winner = np.take_along_axis(outside, inside.argmax(0)[None], axis=0)[0]
    return Honest(float(means.max()), float(np.nanmean(of_winner)))
