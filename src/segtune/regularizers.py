"""Penalties on weights: pure functions (parameters) -> scalar >= 0, without the lambda that the loss multiplies them by.

As in Keras: sums over all weights, not norms and not means. A sum grows with the number of weights, so a lambda belongs
to a network; for the study's U-Net at initialisation the sums are about 35,659 (l1) and 1,792 (l2).
"""

from collections.abc import Iterable

import torch
from torch import Tensor


def l1(parameters: Iterable[Tensor]) -> Tensor:
    """sum |w|."""
    return vector(parameters).abs().sum()


def l2(parameters: Iterable[Tensor]) -> Tensor:
    """sum w^2 (Keras's L2: the square of the norm)."""
    return vector(parameters).square().sum()


def l1l2(parameters: Iterable[Tensor], *, lambda_l1: float, lambda_l2: float) -> Tensor:
    """lambda_l1 * sum |w| + lambda_l2 * sum w^2: with a lambda for each term, already weighted; the loss adds it as it is."""
    weights = vector(parameters)
    return lambda_l1 * weights.abs().sum() + lambda_l2 * weights.square().sum()


def vector(parameters: Iterable[Tensor]) -> Tensor:
    """All values in one row, whatever their order in memory: one kernel then sees them all."""
    return torch.cat([parameter.flatten() for parameter in parameters])
