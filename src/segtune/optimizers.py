"""Optimisers that torch does not have: functions from parameters to a torch.optim.Optimizer."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


def keras_adam(
    parameters: Iterable[nn.Parameter], *, lr: float = 1e-3, eps: float = 1e-7, fused: bool | None = None
) -> torch.optim.Optimizer:
    """Adam as Keras computes it: eps is added to sqrt(v), where torch adds it to sqrt(v / (1 - 0.999^t)).

    Beside sqrt(v) torch's eps is 1/32 as large in step 1, 1/3 in step 100: where gradients are below 1e-5, the first
    steps differ. Torch's Adam with its eps set anew before each step is Keras's, to rounding.

    Source: Kingma and Ba, Adam, ICLR 2015: Keras has the form at the end of section 2, torch that of algorithm 1.
    """
    adam = torch.optim.Adam(parameters, lr=lr, fused=fused)

    def place(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            group["steps"] = group.get("steps", 0) + 1  # in the group, so that checkpoints keep it
            group["eps"] = eps / math.sqrt(1 - group["betas"][1] ** group["steps"])

    adam.register_step_pre_hook(place)
    return adam
