"""Critical values of two multiple comparisons, by numerical integration.

SciPy has no one-sided Dunnett quantile, and its studentized range takes seconds for a table of quantiles. Each
distribution is a double integral: the inner integral is over a normal variable (for a known standard error), and the
outer integral is over the estimated standard error. This module tabulates the inner integral, replaces the outer
integral by a sum over quantiles of the chi distribution, and interpolates the result over the degrees of freedom.
tests/report/test_quantiles.py compares the values with published tables and with
SciPy.
"""

import functools
from collections.abc import Callable

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.special import gammaincinv, ndtr

from segtune.report.scores import Floats

LEAST_DF, MOST_DF = 1.0, 2000.0
_Z, _Z_WEIGHTS = np.polynomial.legendre.leggauss(200)
_Z, _Z_WEIGHTS = 9.0 * _Z, 9.0 * _Z_WEIGHTS * np.exp(-((9.0 * _Z) ** 2) / 2) / np.sqrt(2 * np.pi)
_U, _U_WEIGHTS = np.polynomial.legendre.leggauss(400)
_U, _U_WEIGHTS = (_U + 1) / 2, _U_WEIGHTS / 2


def dunnett(n_others: int, df: Floats, alpha: float) -> Floats:
    """Return the one-sided critical value of Dunnett (1955).

    This is the upper alpha point of the largest of n_others t statistics, all with the same reference. Each t statistic
    is the difference of a mean from the same reference mean, divided by the standard error of this difference. The
    numerators of any two statistics therefore have the correlation 1/2.

    Args: n_others: at least 1. df: degrees of freedom, any shape; values below 1 count as 1.
    """
    return _at(_table("dunnett", n_others, alpha), df)


def studentized_range(n: int, df: Floats, alpha: float) -> Floats:
    """Return the upper alpha point of the studentized range of n means (Tukey 1953). Args: n: at least 2. df: as in dunnett."""
    return _at(_table("range", n, alpha), df)


def _at(table: Callable[[Floats], Floats], df: Floats) -> Floats:
    return np.exp(table(1 / np.clip(np.asarray(df, dtype=float), LEAST_DF, MOST_DF)))


@functools.lru_cache(maxsize=256)
def _table(kind: str, n: int, alpha: float) -> Callable[[Floats], Floats]:
    """Return the logarithm of a critical value as a function of 1 / df."""
    inverse = np.concatenate([[1 / MOST_DF], np.linspace(0.01, 0.2, 20), np.linspace(0.22, 1.0, 30)])
    known, below = (_largest if kind == "dunnett" else _range)(n)
    found: PchipInterpolator = PchipInterpolator(inverse, [np.log(_solve(known, below, 1 / one, alpha)) for one in inverse])
    return lambda inverse_df: np.asarray(found(inverse_df), dtype=float)


def _largest(n: int) -> tuple[Floats, Floats]:
    """Return points x, and P(largest of n correlated normal statistics <= x)."""
    x = np.linspace(-8, 12, 1201)
    return x, ndtr(np.sqrt(2) * x[:, None] + _Z) ** n @ _Z_WEIGHTS


def _range(n: int) -> tuple[Floats, Floats]:
    """Return points x, and P(range of n standard normal values <= x)."""
    x = np.linspace(0, 16, 1201)
    return x, n * ((ndtr(_Z) - ndtr(_Z - x[:, None])) ** (n - 1) @ _Z_WEIGHTS)


def _solve(x: Floats, below: Floats, df: float, alpha: float) -> float:
    """Return the critical value q for which the mean of P(statistic <= q s) is 1 - alpha.

    The mean is over the estimated standard error s.
    """
    s = np.sqrt(2 * gammaincinv(df / 2, _U) / df)
    spline = PchipInterpolator(x, np.where(below < 1e-12, 0.0, below))  # its slopes would overflow at denormal numbers
    low, high = 0.0, 1.0

    def reached(q: float) -> float:
        return float(spline(np.clip(q * s, x[0], x[-1])) @ _U_WEIGHTS)

    while reached(high) < 1 - alpha:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if reached(middle) < 1 - alpha else (low, middle)
    return (low + high) / 2
