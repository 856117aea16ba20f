"""Learning rate schedules for every optimiser step: functions that take an optimiser and return a scheduler."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def constant(optimizer: Optimizer, *, n_steps: int, warmup_steps: int = 0) -> LambdaLR:
    """Keep the learning rate of the optimiser constant after a linear warm-up.

    During the warm-up, the learning rate in step i = 0, 1, ... is multiplied by (i + 1) / warmup_steps.

    Args: n_steps: number of steps of the run (not used by this schedule).
    """
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, warmup_steps)))


def cosine(optimizer: Optimizer, *, n_steps: int, warmup_steps: int = 0) -> LambdaLR:
    """Decrease the learning rate to 0 along half a cosine, after a linear warm-up as in `constant`.

    After w warm-up steps, the factor in step i is (1 + cos(pi (i - w) / (n_steps - w))) / 2.
    Source: Loshchilov and Hutter, SGDR, ICLR 2017, equation 5, without restarts.
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return (1 + math.cos(math.pi * min(1.0, (step - warmup_steps) / max(1, n_steps - warmup_steps)))) / 2

    return LambdaLR(optimizer, factor)
