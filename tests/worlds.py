"""Simulated scores with a known truth: the worlds in which the statistics of a report are tried."""

import numpy as np

PATIENT_SD, RESIDUAL_SD = 0.1, 0.05
WORLDS = {  # name: (sd of runs, sd of configuration x patient)
    "A": (0.02, 0.0),
    "B": (0.02, 0.05),
    "C": ((0.005, 0.02, 0.1), 0.05),  # in turn
    "D": (0.05, 0.05),  # times exp(0.63 z)
    "E": ((0.1, *[0.01] * 11), 0.05),  # the first is noisy
    "F": (0.03, 0.05),  # collapses, skewed patients, clipped
    "G": (0.05, 0.08),
}


def runs(name, random, *, n=12, seeds=5, patients=16, best=0.0, turn=0):
    """Scores on a single split (configuration, run, patient); the first configuration is better by `best`.

    Args: turn: in world C, the place of the first configuration among the three run variances.
    """
    run, interaction = WORLDS[name]
    sd = np.resize(np.roll(run, -turn) if name == "C" else run, n)
    if name == "D":
        sd = sd * np.exp(0.63 * random.normal(size=n))
    mean = np.r_[best, np.zeros(n - 1)] + 0.7
    effects = random.beta(5, 1.5, patients) - 5 / 6.5 if name == "F" else random.normal(0, PATIENT_SD, patients)
    scores = (
        mean[:, None, None]
        + effects
        + random.normal(0, interaction, (n, 1, patients))
        + random.normal(size=(n, seeds, 1)) * sd[:, None, None]
        + random.normal(0, RESIDUAL_SD, (n, seeds, patients))
    )
    if name == "F":
        scores = np.clip(scores - 0.3 * (random.random((n, seeds, 1)) < 0.05), 0, 1)
    return scores


def folds(random, *, n=12, n_folds=10, seeds=1, patients=2, run_sd=0.02, fold_sd=0.03, interaction=0.05, best=0.0, noisy=False):
    """Means of folds (configuration, fold). Args: patients: of a fold. noisy: whether the first configuration is noisy."""
    sd = np.full(n, run_sd)
    of_fold = np.full(n, fold_sd)
    if noisy:
        sd[0], of_fold[0] = 0.1, max(fold_sd, 0.05)
    scores = (
        (np.r_[best, np.zeros(n - 1)] + 0.7)[:, None, None, None]
        + random.normal(0, PATIENT_SD, (1, n_folds, 1, patients))
        + random.normal(0, interaction, (n, n_folds, 1, patients))
        + random.normal(size=(n, n_folds, 1, 1)) * of_fold[:, None, None, None]
        + random.normal(size=(n, n_folds, seeds, 1)) * sd[:, None, None, None]
        + random.normal(0, RESIDUAL_SD, (n, n_folds, seeds, patients))
    )
    return scores.mean((2, 3))
