"""Losses of binary segmentation: pure functions (logits, target, *, hyperparameters) -> scalar, finite at any logit.

logits: (B, 1, H, W) float, unbounded. target: the same shape, float, 0 or 1. Every loss is >= 0, lower is better, and
averages over the images of the batch. With z = logit where the target is 1 and -logit where it is 0, the probability
that the model gives to the true class is sigmoid(z), and its logarithm is logsigmoid(z), which never overflows.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

SMOOTH = 1e-5  # pixels added above and below in soft Dice: an empty prediction of an empty target scores 1


def bce(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy: the mean of -log p_t over all pixels, p_t the probability of the true class [nats]."""
    return F.binary_cross_entropy_with_logits(logits, target)


def focal(logits: Tensor, target: Tensor, *, gamma: float = 2.0, alpha: float | None = None) -> Tensor:
    """Focal loss: the mean over all pixels of -a_t (1 - p_t)^gamma log p_t [nats].

    Args:
        gamma: >= 0, how much well-classified pixels are discounted; 0 gives (weighted) cross-entropy.
        alpha: in [0, 1], a_t = alpha on foreground and 1 - alpha on background; None: a_t = 1 everywhere.
    Source: Lin et al., Focal loss for dense object detection, ICCV 2017, equations 4 and 5.
    """
    z = torch.where(target > 0.5, logits, -logits)
    # (1 - p_t)^gamma = exp(gamma * logsigmoid(-z)): stable, and so is its gradient where p_t is 1.
    value = -torch.exp(gamma * F.logsigmoid(-z)) * F.logsigmoid(z)
    if alpha is not None:
        value = value * torch.where(target > 0.5, alpha, 1 - alpha)
    return value.mean()


def soft_dice(logits: Tensor, target: Tensor) -> Tensor:
    """Soft Dice of each image: (2 sum p y + s) / (sum p + sum y + s), p = sigmoid(logits), s = SMOOTH pixels.

    Returns: (B,), in [0, 1], higher is better. An empty target gives about 0 unless the prediction is empty too: 1.
    Source: Milletari et al., V-Net, 3DV 2016 (there with squares in the denominator; the study has none).
    """
    probability = torch.sigmoid(logits).flatten(1)
    truth = target.flatten(1)
    overlap = (probability * truth).sum(1)
    return (2 * overlap + SMOOTH) / (probability.sum(1) + truth.sum(1) + SMOOTH)


def bce_dice(logits: Tensor, target: Tensor) -> Tensor:
    """BCE + 1 - soft Dice (per image, then averaged): what the study's text describes."""
    return bce(logits, target) + 1 - soft_dice(logits, target).mean()


def bce_logdice(logits: Tensor, target: Tensor) -> Tensor:
    """BCE - ln(soft Dice (per image, then averaged)): what the study's printed losses fit, at its batch of one image."""
    return bce(logits, target) - torch.log(soft_dice(logits, target).mean())
