"""Standard errors of the differences between configurations that are scored on the same patients.

On a single split, a score is modelled as

    y[configuration, patient, run] = configuration + patient + run + configuration x patient + residual,

where a run (its seed) shifts all its patients together, and a configuration may suit some patients better than others.
The standard error includes both the variance of the paired differences between patients and the variance between runs.
In cross-validation the fold is the unit, because all patients of a fold are scored by networks with the same training
set. Scores are averaged over the patients and runs of each fold.

There are two versions of each variance. `variance` is used for decisions. It has a floor, because among (for example)
twelve configurations with three runs each, one is likely to have a tiny sample variance by chance. Without a floor,
this configuration would win or lose too easily (see `floored`). `own_variance` has no floor and is used for the
interval of a single difference. docs/statistics.md has the formulas, the error rates and the power.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaincinv

from segtune.report.scores import Floats

LEAST_VARIANCE = 1e-14  # of a difference; scores are rounded, so that equal ones are not infinitely certain
LEAST_FOLD_VARIANCE = 1e-8  # of a configuration over folds; Shukla's estimate can be negative


@dataclass(frozen=True, eq=False)
class Differences:
    """The means of C configurations, and the variance of the difference between each pair of configurations.

    Attributes:
        means: (C,).
        variance, df: (C, C), with floors, for decisions. df: degrees of freedom, by Satterthwaite's formula.
        own_variance, own_df: (C, C), without floors, for the interval of a single difference.
        run_part: (C, C), the part of `variance` that is due to runs (or folds). More runs (or folds) would reduce it.
        n_patients: number of patients.
        n_runs: number of runs (per fold) of the configuration with the fewest runs.
        n_folds: number of folds; 0 on a single split.
    """

    means: Floats
    variance: Floats
    df: Floats
    own_variance: Floats
    own_df: Floats
    run_part: Floats
    n_patients: int
    n_runs: int
    n_folds: int


def of_runs(scores: Sequence[Floats]) -> Differences:
    """Compute the differences on a single split.

    The variance of a difference is V = max(X + R - E, X, R) with

        X = s_D^2 / P                      s_D^2: variance over patients of D, the difference of the means over runs
        R = v_i / S_i + v_j / S_j          v_i: variance over runs of m_i, the mean over patients
        E = e / (P S_i) + e / (P S_j)      e: residual mean square (patient x run)

    If all configurations have equally many runs, X + R - E is unbiased in the crossed analysis of variance.

    Args: scores: one array (S runs, P patients) for each of the C configurations, with C >= 2 and P >= 2. With a single
        run, the variance between runs is unknown and taken as 0. The difference may then be shown with a warning, but
        it must not be used for decisions.
    """
    n_patients = scores[0].shape[1]
    sizes = np.array([len(of) for of in scores], dtype=float)
    patients = np.array([of.mean(0) for of in scores])
    runs = [of.mean(1) for of in scores]
    own = np.array([of.var(ddof=1) if len(of) > 1 else 0.0 for of in runs])
    run_df = np.maximum(sizes - 1, 1)
    residual = float(np.mean([residual_mean_square(of) for of in scores]))
    covariance = np.cov(patients, ddof=1)
    spread = np.diagonal(covariance)
    x = np.maximum(_sum(spread) - 2 * covariance, 0) / n_patients
    e = residual / n_patients * _sum(1 / sizes)
    pairs = x[np.triu_indices(len(x), 1)]
    floored_x = np.maximum(x, np.median(pairs) / _median_ratio(n_patients - 1))
    of_run = floored(own, run_df) / sizes
    variance, df = _crossed(floored_x, of_run, e, n_patients, _cautious_df(own, run_df))
    own_variance, own_df = _crossed(x, own / sizes, e, n_patients, run_df)
    return Differences(patients.mean(1), variance, df, own_variance, own_df, _sum(of_run), n_patients, int(sizes.min()), 0)


def _crossed(x: Floats, of_runs: Floats, e: Floats, n_patients: int, run_df: Floats) -> tuple[Floats, Floats]:
    """Return the variance of each difference and its degrees of freedom. Args: of_runs: v / S of each configuration, (C,)."""
    r = _sum(of_runs)
    variance = np.maximum.reduce([x + r - e, x, r, np.full_like(x, LEAST_VARIANCE)])
    return variance, _ratio(variance**2, _sum(of_runs**2 / run_df) + x**2 / (n_patients - 1))


def of_folds(table: Floats, weights: Floats, *, n_patients: int, n_runs: int) -> Differences:
    """Compute the differences in cross-validation.

    The variance of a configuration over folds is estimated by Shukla's method (1972), after subtracting the means of
    the rows and columns of the table. So a fold that is hard for all configurations adds no variance, and a noisy
    configuration increases only its own variance.

    If some configurations are much noisier than others, Shukla's estimates for the others are unreliable. Therefore the
    variance for decisions is at least the variance of the pair's own differences. The interval uses only the variance
    of the pair's own differences.

    Args:
        table: (C configurations, K folds), C >= 2, K >= 2: the mean score over the patients and runs of a fold.
        weights: (K,), the share of each fold in the mean, proportional to its number of patients; their sum is 1.
        n_runs: number of runs of a fold.
    """
    n, n_folds = table.shape
    scale, df = float((weights**2).sum()), n_folds - 1.0
    means = table @ weights
    if n == 2:
        v = max(float((table[0] - table[1]).var(ddof=1)), LEAST_VARIANCE)
        pair, freedom = np.full((2, 2), v * scale), np.full((2, 2), df)
        return Differences(means, pair, freedom, pair, freedom, pair, n_patients, n_runs, n_folds)
    centred = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    squares = (centred**2).sum(1)
    own = np.maximum((n * (n - 1) * squares - squares.sum()) / ((n - 1) * (n - 2) * df), LEAST_FOLD_VARIANCE)
    least = floored(own, np.full(n, df))
    covariance = np.cov(table, ddof=1)
    pair = np.maximum(_sum(np.diagonal(covariance)) - 2 * covariance, LEAST_VARIANCE)
    variance = np.maximum(_sum(least), pair) * scale
    freedom = np.where(_sum(least) >= pair, _sum(least) ** 2 / _sum(least**2 / df), df)
    return Differences(means, variance, freedom, pair * scale, np.full_like(pair, df), variance, n_patients, n_runs, n_folds)


def floored(variances: Floats, df: Floats) -> Floats:
    """Raise small variances to a floor: the median of all variances, divided by the median of chi^2_df / df.

    The alternative is Bartlett's test, which chooses between one common variance and one for each configuration. It has more
    power if all variances are equal, but then a change of 0.02 in a single run can change every verdict.
    """
    return np.maximum(variances, np.median(variances) / _median_ratio(df))


def _cautious_df(variances: Floats, df: Floats) -> Floats:
    """Return the degrees of freedom of floored variances between runs, for decisions.

    The degrees of freedom are below S - 1, because a noisy configuration may have a small sample variance by chance.
    With S - 1, such a configuration would be dropped in 6 % of sweeps although it is the best. The degrees of
    freedom are higher for variances near the floor, because the floor is estimated from all configurations. The constants
    were chosen by simulation (docs/statistics.md).
    """
    least = np.median(variances) / _median_ratio(df)
    near = np.divide(least, floored(variances, df), out=np.ones_like(df), where=least > 0) ** 4
    shared = max(len(variances) / 4, 1.0) - 1
    return np.maximum(df - 1.75 / df, 0.5) * (1 + shared * near)


def _median_ratio(df: Floats | float) -> Floats:
    """Return the median of a sample variance divided by the true variance."""
    return np.asarray(2 * gammaincinv(np.asarray(df) / 2, 0.5) / df)


def residual_mean_square(values: Floats) -> float:
    """Return the mean square of the residuals after subtracting the means of runs and patients.

    Args: values: (S runs, P patients).
    """
    n_runs, n_patients = values.shape
    if n_runs < 2 or n_patients < 2:
        return 0.0
    rest = values - values.mean(1, keepdims=True) - values.mean(0) + values.mean()
    return float((rest**2).sum() / ((n_runs - 1) * (n_patients - 1)))


def _sum(values: Floats) -> Floats:
    """Return values[i] + values[j] for all pairs, (C, C). Args: values: (C,)."""
    return values[:, None] + values[None]


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.full_like(above, np.inf), where=below > 0)
