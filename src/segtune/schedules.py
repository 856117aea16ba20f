"""Learning rate schedules for every optimiser step: functions that take an optimiser and return a scheduler."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def constant(optimizer: Optimizer, *, n_steps: int, warmup_steps: int = 0) -> LambdaLR:
    """Keep the optimiser's learning rate, after a linear warm-up: (i + 1) / warmup_steps of it in step i = 0, 1, ...

    Args: n_steps: number of steps of the run, which this schedule does not need.
    """
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, warmup_steps)))


def cosine(optimizer: Optimizer, *, n_steps: int, warmup_steps: int = 0) -> LambdaLR:
    """Decrease the learning rate to 0 along half a cosine, after a linear warm-up as in `constant`.

    In step i after the w warm-up steps, the factor is (1 + cos(pi (i - w) / (n_steps - w))) / 2.
    Source: Loshchilov and Hutter, SGDR, ICLR 2017, equation 5, without restarts.
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return (1 + math.cos(math.pi * min(1.0, (step - warmup_steps) / max(1, n_steps - warmup_steps)))) / 2

    return LambdaLR(optimizer, factor)
