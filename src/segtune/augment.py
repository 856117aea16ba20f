"""Data augmentation: random changes of whole batches of training images, as tensor operations on the training device."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST = 1e-6  # of a standard deviation or a range, so that constant images stay finite
BIAS_GRID = 4  # the bias field is interpolated from BIAS_GRID x BIAS_GRID random values
PATCH_SHARE = 0.7  # augment.patch=auto: side of a patch / side of the image


def augment(
    image: Tensor,
    mask: Tensor,
    *,
    random: torch.Generator,
    patch: int | None = None,
    p_geometry: float = 0.0,
    rotation_deg: float = 0.0,
    scale: float = 1.0,
    shear: float = 0.0,
    shift: float = 0.0,
    mirror: bool = False,
    p_bias: float = 0.0,
    bias_sd: float = 0.0,
    p_gamma: float = 0.0,
    gamma: float = 1.0,
    p_contrast: float = 0.0,
    contrast: float = 0.0,
    p_brightness: float = 0.0,
    brightness: float = 0.0,
    p_noise: float = 0.0,
    noise_sd: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Augment a batch of images and their masks. Each image gets its own random numbers.

    The geometric changes are combined into one affine map, so that each image is resampled only once. Images are
    interpolated bilinearly and padded by repeating their border; masks are resampled by nearest neighbour and padded
    with background. Intensity changes are applied afterwards, in the order of the arguments. U(a, b) is a
    random number from the uniform distribution on (a, b). N(0, s) is one from the normal distribution with mean 0 and
    standard deviation s.

    Args:
        image: (B, 1, S, S) float, normalised per image, so that intensities are in standard deviations.
        mask: (B, 1, S, S) bool.
        random: generator on the device of image.
        patch: side P of the result [pixels], which is cropped around the centre of the image; None: no crop (P = S).
        p_geometry, p_bias, p_gamma, p_contrast, p_brightness, p_noise: probability of each change for an image.
        rotation_deg: rotation by U(-rotation_deg, rotation_deg) [degrees].
        scale: enlargement by scale^U(-1, 1).
        shear: horizontal shear by U(-shear, shear) [pixels per pixel].
        shift: shift along both axes by U(-shift, shift) [fraction of S].
        mirror: exchange left and right with a probability of 1/2.
        bias_sd: multiply by exp(f), where the smooth field f is interpolated bicubically from 4 x 4 values
            N(0, bias_sd).
        gamma: raise grey values, scaled to 0 ... 1, to the power gamma^U(-1, 1). Mean and standard deviation are restored.
        contrast: multiply the deviation from the mean by 1 + U(-contrast, contrast).
        brightness: add U(-brightness, brightness).
        noise_sd: add noise N(0, U(0, noise_sd)) to each pixel.
    Returns: image (B, 1, P, P) and mask (B, 1, P, P) bool.
    """
    n, side = len(image), image.shape[-1]

    def uniform(low: float, high: float, columns: int = 1) -> Tensor:
        return torch.rand((n, columns), generator=random, device=image.device) * (high - low) + low

    def chosen(p: float) -> Tensor:
        return torch.rand((n, 1), generator=random, device=image.device) < p

    moves = p_geometry > 0 and (rotation_deg or scale != 1 or shear or shift)
    if moves or mirror:
        angle, size, slant = uniform(-1, 1), uniform(-1, 1), uniform(-1, 1)
        offset, is_moved = uniform(-shift, shift, 2), chosen(p_geometry)
        angle = torch.where(is_moved, angle * math.radians(rotation_deg), 0)
        size = torch.where(is_moved, size * math.log(scale), 0)
        slant = torch.where(is_moved, slant * shear, 0)
        offset = torch.where(is_moved, offset, 0)
        flip = torch.where(chosen(0.5), -1.0, 1.0) if mirror else torch.ones_like(angle)
        image, mask = _moved(image, mask, _inverse(angle, size, slant, flip), offset, patch or side)
    elif patch:
        first = (side - patch) // 2
        image, mask = (one[..., first : first + patch, first : first + patch] for one in (image, mask))
    if p_bias and bias_sd:
        grid = torch.randn((n, 1, BIAS_GRID, BIAS_GRID), generator=random, device=image.device)
        grid = grid * _per_image(torch.where(chosen(p_bias), bias_sd, 0.0))
        image = image * F.interpolate(grid, size=image.shape[2:], mode="bicubic", align_corners=True).exp()
    if p_gamma and gamma != 1:
        exponent = torch.where(chosen(p_gamma), uniform(-1, 1) * math.log(gamma), 0).exp()
        image = _with_gamma(image, _per_image(exponent))
    if p_contrast and contrast:
        mean = image.mean((2, 3), keepdim=True)
        image = mean + (image - mean) * _per_image(1 + torch.where(chosen(p_contrast), uniform(-contrast, contrast), 0))
    if p_brightness and brightness:
        image = image + _per_image(torch.where(chosen(p_brightness), uniform(-brightness, brightness), 0))
    if p_noise and noise_sd:
        noise = torch.randn(image.shape, generator=random, device=image.device)
        image = image + noise * _per_image(torch.where(chosen(p_noise), uniform(0, noise_sd), 0))
    return image, mask


def patch_side(patch: int | str | None, size: int) -> int | None:
    """Return the side of a patch [pixels].

    For `auto`, it is PATCH_SHARE times the side of the image, rounded to a multiple of 16.
    """
    return max(16, math.floor(PATCH_SHARE * size / 16 + 0.5) * 16) if patch == "auto" else None if patch is None else int(patch)


def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _inverse(angle: Tensor, log_scale: Tensor, shear: Tensor, flip: Tensor) -> Tensor:
    """Return the inverse (B, 2, 2) of M = rotation(angle) @ [[1, shear], [0, 1]] @ diag(flip, 1) * exp(log_scale).

    Args: each (B, 1), angle in radians. det M = flip * exp(log_scale)^2 is the factor by which areas change.
    """
    cos, sin, shrink = angle.cos(), angle.sin(), (-log_scale).exp()
    # rows of diag(flip, 1) @ [[1, -shear], [0, 1]] @ rotation(-angle)
    first = torch.cat([flip * (cos + shear * sin), flip * (sin - shear * cos)], dim=1)
    second = torch.cat([-sin, cos], dim=1)
    return torch.stack([first, second], dim=1) * shrink[..., None]


def _moved(image: Tensor, mask: Tensor, inverse: Tensor, offset: Tensor, patch: int) -> tuple[Tensor, Tensor]:
    """Resample image and mask, so that a point x [pixels from the centre] of the image moves to M (x - offset * S).

    Args: inverse: the inverse of M, (B, 2, 2). offset: (B, 2), along columns and rows [fraction of S].
    """
    theta = torch.cat([inverse * (patch / image.shape[-1]), 2 * offset[..., None]], dim=2)  # grid_sample's range is -1 to 1
    where = F.affine_grid(theta, [len(image), 1, patch, patch], align_corners=False)
    image = F.grid_sample(image, where, mode="bilinear", padding_mode="border", align_corners=False)
    mask = F.grid_sample(mask.to(image.dtype), where, mode="nearest", padding_mode="zeros", align_corners=False) > 0.5
    return image, mask


def _with_gamma(image: Tensor, exponent: Tensor) -> Tensor:
    """Change the gamma of each image, and restore its mean and standard deviation. Exponent 1 changes nothing."""
    low, high = (extreme(image, dim=(2, 3), keepdim=True) for extreme in (torch.amin, torch.amax))
    curved = ((image - low) / (high - low).clamp_min(LEAST)).clamp(0, 1) ** exponent
    spread, mean = torch.std_mean(image, dim=(2, 3), keepdim=True)
    new_spread, new_mean = torch.std_mean(curved, dim=(2, 3), keepdim=True)
    return torch.where(exponent == 1, image, (curved - new_mean) * (spread / new_spread.clamp_min(LEAST)) + mean)
