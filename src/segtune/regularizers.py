"""Penalties on weights: pure functions (parameters) -> scalar >= 0. The training loss adds lambda * penalty.

As in Keras, a penalty is a sum over all weights, not a norm and not a mean. The sum grows with the number of weights, so a
lambda that suits one network does not suit another. For the study's U-Net at initialisation the sums are about 35,659 (l1)
and 1,792 (l2).
"""

from collections.abc import Iterable

import torch
from torch import Tensor


def l1(parameters: Iterable[Tensor]) -> Tensor:
    """L1 penalty: sum |w| over all weights w."""
    return vector(parameters).abs().sum()


def l2(parameters: Iterable[Tensor]) -> Tensor:
    """L2 penalty: sum w^2 over all weights w, the squared L2 norm, as in Keras."""
    return vector(parameters).square().sum()


def l1l2(parameters: Iterable[Tensor], *, lambda_l1: float, lambda_l2: float) -> Tensor:
    """Combined penalty: lambda_l1 * sum |w| + lambda_l2 * sum w^2. The loss adds it without further scaling."""
    weights = vector(parameters)
    return lambda_l1 * weights.abs().sum() + lambda_l2 * weights.square().sum()


def vector(parameters: Iterable[Tensor]) -> Tensor:
    """Concatenate all parameters into one 1-D tensor, so that a penalty takes one operation, not one per tensor."""
    return torch.cat([parameter.flatten() for parameter in parameters])
