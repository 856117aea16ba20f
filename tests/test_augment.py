"""Augmentation: what happens to geometry, intensity and masks, and that it is a function of the seed alone."""

import math

import pytest
import torch
from omegaconf import OmegaConf

from segtune.augment import _inverse, augment, patch_side
from segtune.config import CONF

FULL = {key: value for key, value in OmegaConf.load(CONF / "augment" / "full.yaml").items() if not key.startswith("_")}
RANGES = {"rotation_deg": 0, "scale": 1, "shear": 0, "shift": 0, "bias_sd": 0, "gamma": 1, "contrast": 0, "brightness": 0}
S = 96


def discs(n, radius=14.0, at=(0.0, 0.0), side=S):
    """n images of a smooth disc whose centre is `at` pixels (columns, rows) from the middle, and their masks."""
    y, x = torch.meshgrid(*[torch.arange(side, dtype=torch.float32) - (side - 1) / 2] * 2, indexing="ij")
    distance = torch.hypot(x - at[0], y - at[1]) - radius
    return torch.sigmoid(-distance).expand(n, 1, side, side), (distance < 0).expand(n, 1, side, side)


def seeded(image, mask, seed=0, **settings):
    return augment(image, mask, random=torch.Generator().manual_seed(seed), **settings)


def centres(weights):
    """The centre of mass of each image (columns, rows), in pixels from its middle."""
    side = weights.shape[-1]
    at = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    weights = weights[:, 0].double()
    return torch.stack([(weights.sum(1) * at).sum(1), (weights.sum(2) * at).sum(1)], dim=1) / weights.sum((1, 2))[:, None]


def test_ranges_of_zero_change_nothing():
    image, mask = torch.randn(3, 1, 32, 32), torch.rand(3, 1, 32, 32) > 0.5
    new, where = seeded(image, mask, **FULL | RANGES | {"noise_sd": 0, "patch": None})
    assert torch.equal(new, image)
    assert torch.equal(where, mask)


def test_probabilities_of_zero_change_nothing_but_the_last_bits():
    image, mask = torch.randn(3, 1, 32, 32), torch.rand(3, 1, 32, 32) > 0.5
    new, where = seeded(image, mask, **FULL | dict.fromkeys([k for k in FULL if k.startswith("p_")], 0) | {"patch": None})
    assert torch.allclose(new, image, atol=1e-5)
    assert torch.equal(where, mask)


@pytest.mark.parametrize("settings", [{}, {"mirror": True}, {"patch": 80}])
def test_image_and_mask_move_together(settings):
    image, mask = discs(64, radius=10, at=(7.0, -4.0))
    geometry = {"p_geometry": 1, "rotation_deg": 30, "scale": 1.3, "shear": 0.1, "shift": 0.1}
    new, where = seeded(image, mask, **geometry, **settings)
    assert new.shape == where.shape == (64, 1, *[settings.get("patch", S)] * 2)
    assert (centres(new) - centres(where)).norm(dim=1).max() < 0.5
    assert centres(where).std(0).min() > 2  # they did move


def test_areas_change_by_the_determinant():
    image, mask = discs(64, side=160)
    _, where = seeded(image, mask, p_geometry=1, rotation_deg=30, scale=1.3, shear=0.1)
    random = torch.Generator().manual_seed(0)
    _, log_scale, _ = (torch.rand((64, 1), generator=random) * 2 - 1 for _ in range(3))
    expected = 1.3 ** (2 * log_scale[:, 0])
    ratio = where.sum((1, 2, 3)) / mask[0].sum()
    assert torch.allclose(ratio, expected, rtol=0.03)


@pytest.mark.parametrize("flip", [1.0, -1.0])
def test_the_inverse_is_that_of_rotation_shear_scale_and_flip(flip):
    angle, log_scale, shear = 0.4, 0.2, 0.1
    rotation = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = rotation @ torch.tensor([[1, shear], [0, 1]]) @ torch.diag(torch.tensor([flip, 1.0])) * math.exp(log_scale)
    inverse = _inverse(*(torch.tensor([[value]]) for value in (angle, log_scale, shear, flip)))[0]
    assert torch.allclose(inverse @ matrix, torch.eye(2), atol=1e-6)


def test_a_positive_angle_turns_from_columns_to_rows_and_a_mirror_exchanges_left_and_right():
    image, mask = discs(1, radius=6, at=(20.0, 0.0))
    turned = torch.stack([centres(seeded(image, mask, seed, p_geometry=1, rotation_deg=90)[1])[0] for seed in range(40)])
    assert turned[:, 0].min() > -1  # at most 90 degrees
    assert turned[:, 1].min() < -15
    assert turned[:, 1].max() > 15
    sides = {round(float(centres(seeded(image, mask, seed, mirror=True)[1])[0, 0])) for seed in range(20)}
    assert sides == {-20, 20}


def test_angles_and_scales_are_spread_over_their_ranges_by_the_seed():
    image, mask = discs(400, radius=6, at=(20.0, 0.0), side=64)
    at = centres(seeded(image, mask, p_geometry=1, rotation_deg=30, scale=1.3)[1])
    angles = torch.rad2deg(torch.atan2(at[:, 1], at[:, 0]))
    scales = torch.log(at.norm(dim=1) / 20) / math.log(1.3)
    for values, bound in ((angles / 30, 1.05), (scales, 1.1)):
        assert values.abs().max() < bound
        assert values.mean().abs() < 0.1
        assert abs(values.std() - 3**-0.5) < 0.05


def test_the_same_seed_is_the_same_to_the_bit_and_another_is_not():
    image, mask = torch.randn(4, 1, 64, 64), torch.rand(4, 1, 64, 64) > 0.5
    one, again, other = (seeded(image, mask, seed, **FULL | {"patch": 48}) for seed in (1, 1, 2))
    assert torch.equal(one[0], again[0])
    assert torch.equal(one[1], again[1])
    assert not torch.equal(one[0], other[0])


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_constant_images_stay_finite_and_labels_stay_labels(value):
    image, (_, mask) = torch.full((50, 1, S, S), value), discs(50)
    new, where = seeded(image, mask, **FULL | {"patch": None})
    assert new.isfinite().all()
    assert where.dtype == torch.bool
    assert where.any((1, 2, 3)).all()


def test_gamma_keeps_mean_and_standard_deviation():
    image = torch.randn(20, 1, 32, 32).exp()
    new, _ = seeded(image, image > 1, p_gamma=1, gamma=2)
    assert torch.allclose(new.mean((1, 2, 3)), image.mean((1, 2, 3)), atol=1e-4)
    assert torch.allclose(new.std((1, 2, 3)), image.std((1, 2, 3)), rtol=1e-3)
    assert (new - image).abs().amax((1, 2, 3)).min() > 0.01


def test_half_of_the_images_get_a_change_of_probability_one_half():
    image = torch.randn(1000, 1, 4, 4)
    for change in ({"p_brightness": 0.5, "brightness": 0.25}, {"p_noise": 0.5, "noise_sd": 0.15}):
        new, _ = seeded(image, image > 0, **change)
        assert abs((new != image).any((1, 2, 3)).double().mean() - 0.5) < 0.05


@pytest.mark.parametrize(("size", "patch"), [(160, 112), (80, 64), (256, 176), (128, 96), (64, 48), (32, 16), (16, 16)])
def test_an_automatic_patch_is_seven_tenths_of_the_image_and_a_multiple_of_16(size, patch):
    assert patch_side("auto", size) == patch
    assert patch_side(None, size) is None
    assert patch_side(32, size) == 32
