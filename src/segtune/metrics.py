"""Overlap of masks, from counts. One rule for empty masks: both empty is undefined (NaN, counted, left out of means);
one empty is 0."""

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric


class Counts(NamedTuple):
    """Pixels per image, each (B,) int64: of the expert's mask, of the prediction, of both."""

    n_true: Tensor
    n_pred: Tensor
    n_overlap: Tensor


def counts(pred: Tensor, true: Tensor) -> Counts:
    """Args: pred, true: (B, ...) bool."""
    pred, true = pred.flatten(1), true.flatten(1)
    return Counts(n_true=true.sum(1), n_pred=pred.sum(1), n_overlap=(pred & true).sum(1))


def dice(c: Counts) -> Tensor:
    """2 |P and T| / (|P| + |T|) per image, (B,) float64 in [0, 1], higher is better; NaN where both are empty."""
    return 2 * c.n_overlap.double() / (c.n_true + c.n_pred)


def iou(c: Counts) -> Tensor:
    """|P and T| / |P or T| per image, (B,) float64 in [0, 1], higher is better; NaN where both are empty."""
    return c.n_overlap.double() / (c.n_true + c.n_pred - c.n_overlap)


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
        c = Counts(*torch.cat(self.counts).cpu().unbind(1))
        return {"dice": dice(c).nanmean(), "iou": iou(c).nanmean(), "n_undefined": dice(c).isnan().sum()}
