"""Overlap metrics from counts of pixels: Dice, IoU, sensitivity, precision."""

import math
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torchmetrics import Metric

Numbers = TypeVar("Numbers", Tensor, float)  # of a batch, wherever it lives; or of one image or case


class Counts(NamedTuple, Generic[Numbers]):
    """Pixels of the expert's mask, of the prediction, of both: each (B,) int64, one per image; or one number."""

    n_true: Numbers
    n_pred: Numbers
    n_overlap: Numbers


def counts(pred: Tensor, true: Tensor) -> Counts[Tensor]:
    """Args: pred, true: (B, ...) bool."""
    pred, true = pred.flatten(1), true.flatten(1)
    return Counts(n_true=true.sum(1), n_pred=pred.sum(1), n_overlap=(pred & true).sum(1))


def dice(c: Counts[Numbers]) -> Numbers:
    """2 |P and T| / (|P| + |T|), (B,) float64 in [0, 1], higher is better; NaN where both are empty."""
    return _ratio(2 * c.n_overlap, c.n_true + c.n_pred)


def iou(c: Counts[Numbers]) -> Numbers:
    """|P and T| / |P or T|, (B,) float64 in [0, 1], higher is better; NaN where both are empty."""
    return _ratio(c.n_overlap, c.n_true + c.n_pred - c.n_overlap)


def sensitivity(c: Counts[Numbers]) -> Numbers:
    """|P and T| / |T|, (B,) float64 in [0, 1], higher is better; NaN where both are empty, 0 where only T is."""
    return _ratio(c.n_overlap, c.n_true + (c.n_true == 0) * c.n_pred)


def precision(c: Counts[Numbers]) -> Numbers:
    """|P and T| / |P|, (B,) float64 in [0, 1], higher is better; NaN where both are empty, 0 where only P is."""
    return _ratio(c.n_overlap, c.n_pred + (c.n_pred == 0) * c.n_true)


def _ratio(part: Numbers, whole: Numbers) -> Numbers:
    if isinstance(part, Tensor):
        return part.double() / whole
    return part / whole if whole else math.nan


class MeanOverlap(Metric):
    """Mean over images of Dice and of IoU. An update only stores counts, so that a training step waits for no device."""

    full_state_update = False
    counts: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("counts", [], dist_reduce_fx="cat")

    def update(self, pred: Tensor, true: Tensor) -> None:
        """Args: pred, true: (B, ...) bool."""
        self.counts.append(torch.stack(counts(pred, true), dim=1))

    def compute(self) -> dict[str, Tensor]:
        """dice, iou: means over the defined images, NaN if none is; n_undefined: images both masks of which were empty."""
        c: Counts[Tensor] = Counts(*torch.cat(self.counts).cpu().unbind(1))
        return {"dice": dice(c).nanmean(), "iou": iou(c).nanmean(), "n_undefined": dice(c).isnan().sum()}
