"""The length of a run in epochs. An epoch is a pass through the training images or a number of optimiser steps."""

from collections.abc import Mapping
from typing import Any

VALIDATIONS = 10  # about this number in a run in steps, if trainer.val_every_steps is null


def steps_per_epoch(trainer: Mapping[str, Any]) -> int | None:
    """Return the number of optimiser steps per epoch; None if an epoch is a pass through the training images.

    Args: trainer: cfg.trainer.
    """
    if trainer.get("max_steps") is None:
        return None
    return int(trainer.get("val_every_steps") or trainer["max_steps"] // _validations(trainer["max_steps"]))


def _validations(max_steps: int) -> int:
    """Return the divisor of max_steps that is nearest to VALIDATIONS, and at most twice as large."""
    divisors = [n for n in range(1, 2 * VALIDATIONS + 1) if max_steps % n == 0]
    return min(divisors, key=lambda n: abs(n - VALIDATIONS))


def n_epochs(trainer: Mapping[str, Any]) -> int:
    """Return the number of epochs of a run. Args: trainer: cfg.trainer."""
    steps = steps_per_epoch(trainer)
    return int(trainer["max_epochs"] if steps is None else trainer["max_steps"] // steps)
