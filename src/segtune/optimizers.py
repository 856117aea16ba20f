"""Optimisers that torch does not have: functions that take parameters and return a torch.optim.Optimizer."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


def keras_adam(
    parameters: Iterable[nn.Parameter], *, lr: float = 1e-3, eps: float = 1e-7, fused: bool | None = None
) -> torch.optim.Optimizer:
    """Adam as Keras computes it: Keras adds eps to sqrt(v), torch adds eps to sqrt(v / (1 - 0.999^t)).

    v is the running mean of the squared gradients and t the number of the step. Relative to sqrt(v), torch's eps is 1/32 of
    Keras's in step 1 and 1/3 in step 100, so the first steps differ where gradients are below 1e-5. This function uses torch's
    Adam and adjusts its eps before each step, which gives the same updates as Keras up to rounding.

    Source: Kingma and Ba, Adam, ICLR 2015. Keras uses the form at the end of section 2, torch uses algorithm 1.
    """
    adam = torch.optim.Adam(parameters, lr=lr, fused=fused)

    def adjust_eps(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            group["steps"] = group.get("steps", 0) + 1  # stored in the group so that checkpoints include it
            group["eps"] = eps / math.sqrt(1 - group["betas"][1] ** group["steps"])

    adam.register_step_pre_hook(adjust_eps)
    return adam


def adamw_on_weights(
    parameters: Iterable[nn.Parameter], *, lr: float = 2e-3, weight_decay: float = 1e-2, fused: bool | None = None
) -> torch.optim.Optimizer:
    """AdamW with weight decay on weights only, not on biases or on the scale and shift of batch norm.

    Source: Loshchilov and Hutter, Decoupled weight decay regularization, ICLR 2019.
    """
    given = list(parameters)
    weights, others = ([one for one in given if (one.dim() > 1) is is_weight] for is_weight in (True, False))
    groups = [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=lr, fused=fused)
