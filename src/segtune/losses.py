"""Loss functions for binary segmentation: pure functions (logits, target, *, hyperparameters) -> scalar.

logits: (B, 1, H, W) float, unbounded. target: same shape, float, 0 or 1. Every loss is >= 0, and lower values are
better. It is averaged over the images of the batch, and is finite for all finite logits. Let z = logit where the target
is 1 and z = -logit where the target is 0. The predicted probability of the true class is then sigmoid(z), and its
logarithm is logsigmoid(z), which never overflows.

Overlap measures (Dice, Tversky) are computed for each image and then averaged. The batch is never treated as one volume, so
the overlap of an image does not depend on the other images in its batch, and large structures do not dominate small ones.
MONAI takes seconds to import, so it is imported inside the functions that use it.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SMOOTH = 1e-5  # [pixels] added to numerator and denominator of soft Dice, so that two empty masks score 1 and not 0 / 0
SLACK = 1e-6  # added to x in x^gamma, because the derivative at x = 0 is infinite for gamma < 1


def bce(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy: the mean of -log p_t over all pixels, where p_t is the probability of the true class [nats]."""
    return F.binary_cross_entropy_with_logits(logits, target)


def focal(logits: Tensor, target: Tensor, *, gamma: float = 2.0, alpha: float | None = None) -> Tensor:
    """Focal loss: the mean over all pixels of -a_t (1 - p_t)^gamma log p_t [nats]; p_t is the probability of the true class.

    Args:
        gamma: >= 0. Larger values reduce the weight of well-classified pixels. 0 gives (weighted) cross-entropy.
        alpha: In [0, 1]. a_t is alpha on foreground and 1 - alpha on background. None: a_t is 1 everywhere.
    Source: Lin et al., Focal loss for dense object detection, ICCV 2017, equations 4 and 5.
    """
    z = torch.where(target > 0.5, logits, -logits)
    # (1 - p_t)^gamma = exp(gamma * logsigmoid(-z)). This form and its gradient are numerically stable even where p_t is 1.
    value = -torch.exp(gamma * F.logsigmoid(-z)) * F.logsigmoid(z)
    if alpha is not None:
        value = value * torch.where(target > 0.5, alpha, 1 - alpha)
    return value.mean()


def soft_dice(logits: Tensor, target: Tensor) -> Tensor:
    """Soft Dice of each image: (2 sum p y + s) / (sum p + sum y + s), where p = sigmoid(logits), y = target, s = SMOOTH.

    Returns: (B,), in [0, 1], higher is better. An empty target gives about 0, or 1 if the prediction is empty too.
    Source: Milletari et al., V-Net, 3DV 2016. In V-Net, the denominator contains squares. Here it does not, as in the
        published study.
    """
    probability = torch.sigmoid(logits).flatten(1)
    truth = target.flatten(1)
    overlap = (probability * truth).sum(1)
    return (2 * overlap + SMOOTH) / (probability.sum(1) + truth.sum(1) + SMOOTH)


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """Dice loss: 1 - soft Dice, per image, then averaged. Images with an empty target contribute almost no gradient."""
    return 1 - soft_dice(logits, target).mean()


def bce_dice(logits: Tensor, target: Tensor) -> Tensor:
    """BCE + 1 - soft Dice, with soft Dice averaged over images. This is the loss that the text of the study describes."""
    return bce(logits, target) + 1 - soft_dice(logits, target).mean()


def bce_logdice(logits: Tensor, target: Tensor) -> Tensor:
    """BCE - ln(mean soft Dice over images). The losses printed by the study match this formula for batches of one image."""
    return bce(logits, target) - torch.log(soft_dice(logits, target).mean())


def dice_focal(logits: Tensor, target: Tensor, *, gamma: float = 2.0, alpha: float | None = None) -> Tensor:
    """Sum of Dice loss and focal loss: `dice(logits, target) + focal(logits, target, gamma=gamma, alpha=alpha)`.

    Source: Zhu et al., AnatomyNet, Medical Physics 2019 (a version for several classes).
    """
    return dice(logits, target) + focal(logits, target, gamma=gamma, alpha=alpha)


def tversky(logits: Tensor, target: Tensor, *, alpha: float | None = None, beta: float = 0.7) -> Tensor:
    """Tversky loss: 1 - T, per image, then averaged, where T = (TP + s) / (TP + alpha FP + beta FN + s) and s = SMOOTH / 2.

    TP = sum p y, FP = sum p (1 - y), FN = sum (1 - p) y, where p = sigmoid(logits) and y = target.
    alpha = beta = 0.5 gives the Dice loss.

    Args:
        alpha: Weight of false positives, in [0, 1]. None: 1 - beta, as in all experiments of the paper.
        beta: Weight of false negatives, in [0, 1]. Values above 0.5 favour sensitivity at the cost of more false positives.
    Returns: scalar in [0, 1]. An empty target costs about 1, or 0 if the prediction is empty too.
    Source: Salehi et al., Tversky loss function for image segmentation, MLMI 2017. Computed by MONAI.
    """
    return _tversky(logits, target, alpha, beta).mean()


def focal_tversky(
    logits: Tensor, target: Tensor, *, alpha: float | None = None, beta: float = 0.7, gamma: float = 0.75
) -> Tensor:
    """Focal Tversky loss: mean over images of (1 - T + e)^gamma - e^gamma, where T is the index in `tversky` and e = SLACK.

    gamma is the reciprocal of the paper's gamma. Without e, the gradient would be infinite at T = 1 for gamma < 1. e
    lowers the loss by up to e^gamma. This is 3e-5 for gamma = 0.75, 0.01 for gamma = 1/3, and 0.25 for gamma = 0.1.
    (gamma = 1/3 corresponds to 3 in the paper, where it is the most extreme value.) Therefore losses with different
    gammas cannot be compared if one of the gammas is as small as 0.1.

    Args:
        alpha, beta: as in `tversky`. In the paper, the meanings of alpha and beta are swapped.
        gamma: must be positive; gamma = 1 gives the Tversky loss. Below 1, the gradient grows as T approaches 1, so
            well-segmented images keep contributing. Above 1, poorly segmented images dominate. gamma = 0.75 corresponds
            to 4/3 in the paper.
    Source: Abraham and Khan, A novel focal Tversky loss function, ISBI 2019. MONAI's AsymmetricFocalTverskyLoss is not used,
        because it needs two channels of probabilities.
    """
    values: Tensor = (_tversky(logits, target, alpha, beta) + SLACK) ** gamma - SLACK**gamma
    return values.mean()


def _tversky(logits: Tensor, target: Tensor, alpha: float | None, beta: float) -> Tensor:
    """Compute 1 - T of each image, (B,), where T is the Tversky index."""
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
    """Generalised Dice loss: 1 - 2 sum_c w_c sum(p_c y_c) / sum_c w_c sum(p_c + y_c), per image, then averaged.

    The sums over c include foreground and background. With the foreground alone, MONAI's class weights would cancel
    out, and the result would be the plain Dice loss. p_c and y_c are the predicted and true maps of class c. The class
    weight w_c is 1 / (pixels of class c)^2, so the smaller class has a larger weight. With 1 % foreground, for example,
    the weight of a foreground pixel is 10^4 times the weight of a background pixel. The weight of the whole foreground
    is 100 times that of the whole background.

    Returns: scalar in [0, 1]. A class without pixels gets the weight of the other class. Therefore, if the target is
        empty, the loss is the mean foreground probability of the image. Its gradient pushes the prediction towards an
        empty mask, which is not the case with Dice loss.
    Source: Sudre et al., Generalised Dice overlap as a deep learning loss function, DLMIA 2017. Computed by MONAI.
    """
    from monai.losses import GeneralizedDiceLoss

    p = torch.cat([torch.sigmoid(logits), torch.sigmoid(-logits)], dim=1)
    # No smoothing is needed: at least one class has pixels, so the denominator is above 0. Smoothing would even distort the
    # loss, because 1e-5 is not small compared with weights of 1 / pixels^2.
    result: Tensor = GeneralizedDiceLoss(smooth_nr=0, smooth_dr=0)(p, torch.cat([target, 1 - target], dim=1))
    return result


def boundary(logits: Tensor, target: Tensor, *, weight: float = 1.0) -> Tensor:
    """Dice loss plus boundary loss: 1 - soft Dice + weight * mean over all pixels of d |p - y|.

    d is the distance of the pixel to the outline of the target, see `outline_distance`; p = sigmoid(logits), y = target.
    With phi = d outside the target and phi = -d inside, d |p - y| = phi (p - y). Kervadec's boundary term is phi p.
    Here, a constant is added, so that the loss of a perfect prediction is 0. On small structures the boundary term is
    almost 0 for an empty prediction too. Training with this term alone would therefore be slow from random weights, so
    it is combined with Dice. MONAI's Hausdorff losses have the same weakness and take longer to compute.

    Args: weight: >= 0, weight of the boundary term.
    Cost: scipy computes the distances on the CPU, even when training on a GPU, in about 40 ms for 15 images of 256 x 256 on
        one core.
    Source: Kervadec et al., Boundary loss for highly unbalanced segmentation, MIDL 2019. There the distances are in pixels,
        and the weight starts at 0.01 and rises by 0.01 per epoch.
    """
    wrong = torch.sigmoid(torch.where(target > 0.5, -logits, logits))
    return dice(logits, target) + weight * (outline_distance(target) * wrong).mean()


def outline_distance(target: Tensor) -> Tensor:
    """Compute each pixel's distance to the outline of its image's mask [fraction of the image's diagonal, 0 to 1].

    The outline runs between foreground and background pixels, half a pixel from the centres of both. An empty or full mask
    has no outline; the distance is then 1 everywhere, which is larger than any real distance.

    Args: target: (B, 1, H, W), 0 or 1.
    Returns: tensor with the shape, dtype and device of target.
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
    """Mean cross-entropy of the pixels with the highest cross-entropy in each image, averaged over the images [nats].

    Args: fraction: the share of each image's pixels that are used, in (0, 1]. At least one pixel is used. With 1, the
        loss equals `bce`.
    Source: Wu et al., Bridging category-level and instance-level semantic image segmentation, arXiv:1605.06885, 2016.
    """
    values = F.binary_cross_entropy_with_logits(logits, target, reduction="none").flatten(1)
    k = max(1, round(fraction * values.shape[1]))
    return values.topk(k, dim=1, sorted=False).values.mean()
