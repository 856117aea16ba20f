"""Overlap metrics computed from pixel counts: Dice, IoU, sensitivity, precision.

In the formulas, P is the set of foreground pixels of the prediction and T that of the true mask (the expert's).
"""

import math
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torchmetrics import Metric

Numbers = TypeVar("Numbers", Tensor, float)  # counts of a batch, on any device, or of one image or case


class Counts(NamedTuple, Generic[Numbers]):
    """Numbers of foreground pixels in the true mask, in the prediction, and in both.

    Each field is a (B,) int64 tensor with one count per image, or a single number for one image or case.
    """

    n_true: Numbers
    n_pred: Numbers
    n_overlap: Numbers


def counts(pred: Tensor, true: Tensor) -> Counts[Tensor]:
    """Count the pixels of each image of a batch. Args: pred, true: (B, ...) bool."""
    pred, true = pred.flatten(1), true.flatten(1)
    return Counts(n_true=true.sum(1), n_pred=pred.sum(1), n_overlap=(pred & true).sum(1))


def dice(c: Counts[Numbers]) -> Numbers:
    """Dice: 2 |P and T| / (|P| + |T|). (B,) float64 in [0, 1], higher is better; NaN where both masks are empty."""
    return _ratio(2 * c.n_overlap, c.n_true + c.n_pred)


def iou(c: Counts[Numbers]) -> Numbers:
    """IoU: |P and T| / |P or T|. (B,) float64 in [0, 1], higher is better; NaN where both masks are empty."""
    return _ratio(c.n_overlap, c.n_true + c.n_pred - c.n_overlap)


def sensitivity(c: Counts[Numbers]) -> Numbers:
    """Sensitivity: |P and T| / |T|. (B,) float64 in [0, 1], higher is better.

    NaN where both masks are empty, 0 where only the true mask is empty.
    """
    return _ratio(c.n_overlap, c.n_true + (c.n_true == 0) * c.n_pred)


def precision(c: Counts[Numbers]) -> Numbers:
    """Precision: |P and T| / |P|. (B,) float64 in [0, 1], higher is better.

    NaN where both masks are empty, 0 where only the prediction is empty.
    """
    return _ratio(c.n_overlap, c.n_pred + (c.n_pred == 0) * c.n_true)


def _ratio(part: Numbers, whole: Numbers) -> Numbers:
    if isinstance(part, Tensor):
        return part.double() / whole
    return part / whole if whole else math.nan


class MeanOverlap(Metric):
    """Mean Dice and mean IoU over images.

    `update` only stores counts on the device, so a training step does not wait for the device.
    """

    full_state_update = False
    counts: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("counts", [], dist_reduce_fx="cat")

    def update(self, pred: Tensor, true: Tensor) -> None:
        """Add a batch. Args: pred, true: (B, ...) bool."""
        self.counts.append(torch.stack(counts(pred, true), dim=1))

    def compute(self) -> dict[str, Tensor]:
        """Return the means as `dice` and `iou`, and as `n_undefined` the number of images where both masks are empty.

        Images where both masks are empty are left out of the means. The means are NaN if no image is left.
        """
        c: Counts[Tensor] = Counts(*torch.cat(self.counts).cpu().unbind(1))
        return {"dice": dice(c).nanmean(), "iou": iou(c).nanmean(), "n_undefined": dice(c).isnan().sum()}
