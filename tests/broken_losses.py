"""Losses that fail in ways of their own: loss._target_=broken_losses.<name>, with tests/ on PYTHONPATH."""

import os
import signal
import time

import torch

from segtune import losses


def raises(logits, target):
    raise ZeroDivisionError("raised on purpose")


def out_of_memory(logits, target):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB (simulated).")


def too_large(logits, target):
    return torch.empty(2**50).sum()  # torch's own words for memory that this machine has not


def not_finite(logits, target):
    return logits.mean() * float("nan")


def killed(logits, target):
    os.kill(os.getpid(), signal.SIGKILL)  # what the kernel does when memory runs out


def slow(logits, target):
    time.sleep(float(os.environ.get("SLOW_S", "0.1")))  # an epoch of a second, however small the network
    return losses.bce_dice(logits, target)


def stuck(logits, target):
    time.sleep(600)
    return losses.bce(logits, target)
