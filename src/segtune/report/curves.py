"""Numbers that describe the curve of one run: its roughness, its speed, and the epoch from which it stays constant."""

import math
from collections.abc import Sequence

import numpy as np


def roughness(values: Sequence[float]) -> float:
    """Mean |second difference| of a curve divided by its range; NaN for fewer than three epochs or a flat curve."""
    curve = np.asarray(values, dtype=float)
    span = np.ptp(curve) if len(curve) else 0.0
    return float(np.abs(np.diff(curve, 2)).mean() / span) if len(curve) > 2 and span > 0 else math.nan


def epochs_to(values: Sequence[float], threshold: float) -> float:
    """The first epoch at which a curve reaches the threshold, counted from 1.

    The result is the number of epochs + 1 if the curve never reaches the threshold.
    """
    reached = np.flatnonzero(np.asarray(values, dtype=float) >= threshold)
    return float(reached[0] + 1 if len(reached) else len(values) + 1)


def settled(values: Sequence[float], share: float = 0.02) -> float:
    """The epoch from which a curve stays near its last value. Epochs are counted from 1.

    A value is near the last value if the difference is at most `share` times the range of the curve.
    """
    curve = np.asarray(values, dtype=float)
    away = np.flatnonzero(~(np.abs(curve - curve[-1]) <= share * np.ptp(curve)))
    return float(away[-1] + 2 if len(away) else 1)
