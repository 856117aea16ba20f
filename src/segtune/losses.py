"""Losses of binary segmentation: pure functions (logits, target, *, hyperparameters) -> scalar, finite at any logit.

logits: (B, 1, H, W) float, unbounded. target: the same shape, float, 0 or 1. Every loss is >= 0, lower is better, and
averages over the images of the batch. With z = logit where the target is 1 and -logit where it is 0, the probability
that the model gives to the true class is sigmoid(z), and its logarithm is logsigmoid(z), which never overflows.

Overlaps (Dice, Tversky) are taken per image and then averaged, never over a batch as one volume: so a loss does not depend
on who shares a batch, and a large structure does not outvote a small one. MONAI's losses take seconds to import, which
happens at the first call of those that use them.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SMOOTH = 1e-5  # pixels added above and below in soft Dice: an empty prediction of an empty target scores 1
SLACK = 1e-6  # keeps the slope of x^gamma finite at 0 where gamma is below 1


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


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """1 - soft Dice (per image, then averaged); the gradient on an image with an empty target is next to nothing."""
    return 1 - soft_dice(logits, target).mean()


def bce_dice(logits: Tensor, target: Tensor) -> Tensor:
    """BCE + 1 - soft Dice (per image, then averaged): what the study's text describes."""
    return bce(logits, target) + 1 - soft_dice(logits, target).mean()


def bce_logdice(logits: Tensor, target: Tensor) -> Tensor:
    """BCE - ln(soft Dice (per image, then averaged)): what the study's printed losses fit, at its batch of one image."""
    return bce(logits, target) - torch.log(soft_dice(logits, target).mean())


def dice_focal(logits: Tensor, target: Tensor, *, gamma: float = 2.0, alpha: float | None = None) -> Tensor:
    """1 - soft Dice (per image, then averaged) + focal loss, whose gamma and alpha these are.

    Source: Zhu et al., AnatomyNet, Medical Physics 2019 (there over several classes).
    """
    return dice(logits, target) + focal(logits, target, gamma=gamma, alpha=alpha)


def tversky(logits: Tensor, target: Tensor, *, alpha: float | None = None, beta: float = 0.7) -> Tensor:
    """1 - T (per image, then averaged), T = (TP + s) / (TP + alpha FP + beta FN + s), s = SMOOTH / 2 pixels.

    TP = sum p y, FP = sum p (1 - y), FN = sum (1 - p) y with p = sigmoid(logits), y = target. alpha = beta = 0.5 is Dice.

    Args:
        alpha: in [0, 1], weight of the false positives; None: 1 - beta, as in all of the paper's experiments.
        beta: in [0, 1], weight of the false negatives; above 0.5 finds more of the structure, and more beside it.
    Returns: scalar in [0, 1]. An empty target costs about 1 unless the prediction is empty too: 0.
    Source: Salehi et al., Tversky loss function for image segmentation, MLMI 2017. Computed by MONAI.
    """
    return _tversky(logits, target, alpha, beta).mean()


def focal_tversky(
    logits: Tensor, target: Tensor, *, alpha: float | None = None, beta: float = 0.7, gamma: float = 0.75
) -> Tensor:
    """The mean over images of (1 - T + e)^gamma - e^gamma, T the Tversky index of `tversky`, e = SLACK.

    e keeps the slope finite at T = 1 and lowers a loss by up to e^gamma: 3e-5 at 0.75, 0.01 at 1/3 (the paper's 3, the
    most it tries), 0.25 at 0.1, where losses of different gammas are no longer of one scale.

    Args:
        alpha, beta: as in `tversky` (the paper calls them the other way round).
        gamma: above 0; 1 is the Tversky loss. Below 1 the slope grows as an image gets better, so training goes on at the good
            ones; above 1 the bad ones count more. The paper's gamma is 1 / this: its 4/3 is 0.75 here.
    Source: Abraham and Khan, A novel focal Tversky loss function, ISBI 2019. MONAI's asymmetric one wants two channels of
        probabilities.
    """
    values: Tensor = (_tversky(logits, target, alpha, beta) + SLACK) ** gamma - SLACK**gamma
    return values.mean()


def _tversky(logits: Tensor, target: Tensor, alpha: float | None, beta: float) -> Tensor:
    """1 - T of each image, (B,)."""
    from monai.losses import TverskyLoss

    loss = TverskyLoss(
        sigmoid=True,
        alpha=1 - beta if alpha is None else alpha,
        beta=beta,
        smooth_nr=SMOOTH / 2,
        smooth_dr=SMOOTH / 2,
        reduction="none",
    )
    result: Tensor = loss(logits, target).flatten()
    return result


def generalized_dice(logits: Tensor, target: Tensor) -> Tensor:
    """1 - 2 sum_c w_c sum p_c y_c / sum_c w_c sum (p_c + y_c) (per image, then averaged), w_c = 1 / (pixels of class c)^2.

    The classes are foreground and background: with one channel, MONAI's weights would cancel and leave plain Dice. The
    smaller class weighs more: at 1 % foreground by 10^4 to 1 a pixel, by 100 to 1 in all.

    Returns: scalar in [0, 1]. A class without pixels weighs as the other one, so an empty target costs the mean of p: unlike
        in Dice, with a gradient that empties the prediction.
    Source: Sudre et al., Generalised Dice overlap as a deep learning loss function, DLMIA 2017. Computed by MONAI.
    """
    from monai.losses import GeneralizedDiceLoss

    p = torch.cat([torch.sigmoid(logits), torch.sigmoid(-logits)], dim=1)
    # No smoothing: one class has pixels, so nothing is divided by 0, and against weights of 1 / pixels^2 1e-5 is not small.
    result: Tensor = GeneralizedDiceLoss(smooth_nr=0, smooth_dr=0)(p, torch.cat([target, 1 - target], dim=1))
    return result


def boundary(logits: Tensor, target: Tensor, *, weight: float = 1.0) -> Tensor:
    """1 - soft Dice + weight * the mean over all pixels of d |p - y|: a wrong pixel costs its distance d to the outline.

    With phi = d outside the target and -d inside, d |p - y| = phi (p - y): Kervadec's sum of phi p, plus a constant that
    makes a perfect prediction cost 0. For a small structure an empty prediction makes that term nearly 0 too, so that
    alone it learns slowly from random weights (as MONAI's Hausdorff losses do, at more cost); so Dice goes with it.

    Args: weight: >= 0, of the distances.
    Cost: the distances are scipy's, on the CPU, wherever the rest runs: about 40 ms for 15 images of 256 x 256 on one core.
    Source: Kervadec et al., Boundary loss for highly unbalanced segmentation, MIDL 2019 (the distances there in pixels, with
        a weight that rises from 0.01 by 0.01 an epoch).
    """
    wrong = torch.sigmoid(torch.where(target > 0.5, -logits, logits))
    return dice(logits, target) + weight * (outline_distance(target) * wrong).mean()


def outline_distance(target: Tensor) -> Tensor:
    """Each pixel's distance to the outline of its image's mask [diagonals of the image, from 0 to 1]; shaped as target.

    The outline runs half a pixel from the centres on both of its sides. Without one (empty or full mask): 1 everywhere,
    farther than any pixel can be.
    """
    from scipy.ndimage import distance_transform_edt

    masks = (target > 0.5).cpu().numpy()
    distances = np.ones(masks.shape, np.float32)
    for mask, distance in zip(masks[:, 0], distances[:, 0], strict=True):
        if mask.any() and not mask.all():
            to_other_side = np.maximum(distance_transform_edt(mask), distance_transform_edt(~mask))
            distance[:] = (to_other_side - 0.5) / math.hypot(*mask.shape)
    return torch.from_numpy(distances).to(target)


def topk_bce(logits: Tensor, target: Tensor, *, fraction: float = 0.1) -> Tensor:
    """The mean cross-entropy of the hardest pixels of each image, then averaged over the images [nats].

    Args: fraction: in (0, 1], the share of an image's pixels that count, at least one; 1 is `bce`.
    Source: Wu et al., Bridging category-level and instance-level semantic image segmentation, arXiv:1605.06885, 2016.
    """
    values = F.binary_cross_entropy_with_logits(logits, target, reduction="none").flatten(1)
    k = max(1, round(fraction * values.shape[1]))
    return values.topk(k, dim=1, sorted=False).values.mean()
