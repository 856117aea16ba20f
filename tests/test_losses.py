import math

import monai.losses
import pytest
import sklearn.metrics
import torch
import torch.nn.functional as F

from segtune import losses

ALL = [losses.bce, losses.focal, losses.bce_dice, losses.bce_logdice]


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(3, 1, 8, 8, generator=generator, dtype=torch.float64)
    return logits, (torch.rand(3, 1, 8, 8, generator=generator) < 0.3).double()


def test_bce_is_scikit_learns_log_loss(batch):
    logits, target = batch
    expected = sklearn.metrics.log_loss(target.flatten(), torch.sigmoid(logits).flatten())
    assert losses.bce(*batch).item() == pytest.approx(expected, abs=1e-12)


def test_bce_by_hand_on_two_by_two():
    logits = torch.tensor([[[[0.0, math.log(3)], [-math.log(3), 0.0]]]])
    target = torch.tensor([[[[1.0, 1.0], [1.0, 0.0]]]])
    assert losses.bce(logits, target).item() == pytest.approx(-math.log(0.5 * 0.75 * 0.25 * 0.5) / 4)


def test_focal_with_gamma_0_is_bce(batch):
    assert losses.focal(*batch, gamma=0).item() == pytest.approx(losses.bce(*batch).item(), abs=1e-12)


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [None, 0.25, 0.75])
def test_focal_is_monais(batch, gamma, alpha):
    expected = monai.losses.FocalLoss(gamma=gamma, alpha=alpha)(*batch)
    assert losses.focal(*batch, gamma=gamma, alpha=alpha).item() == pytest.approx(expected.item(), rel=1e-6)


def test_focal_with_alpha_1_ignores_the_background(batch):
    logits, target = batch
    other = torch.where(target > 0, logits, -logits)
    assert losses.focal(logits, target, alpha=1) == losses.focal(other, target, alpha=1)


def test_focal_by_hand():
    logits, target = torch.tensor([[[[math.log(3)]]]]), torch.ones(1, 1, 1, 1)
    assert losses.focal(logits, target, gamma=2).item() == pytest.approx(-(0.25**2) * math.log(0.75))


def test_soft_dice_is_one_minus_monais_dice_loss(batch):
    expected = 1 - monai.losses.DiceLoss(sigmoid=True, reduction="none")(*batch).flatten()
    torch.testing.assert_close(losses.soft_dice(*batch), expected, atol=1e-12, rtol=0)


def test_soft_dice_by_hand():
    target = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])
    assert losses.soft_dice(torch.zeros(1, 1, 2, 2), target).item() == pytest.approx(2 * 1.0 / (2 + 2), abs=1e-5)


def test_soft_dice_averages_images_not_pixels():
    target = torch.zeros(2, 1, 4, 4)
    target[0], target[1, 0, 0, 0] = 1, 1
    logits = torch.full((2, 1, 4, 4), 50.0)
    expected = [1.0, 2 / 17]
    assert losses.soft_dice(logits, target).tolist() == pytest.approx(expected, abs=1e-5)
    dice_part = losses.bce_dice(logits, target) - losses.bce(logits, target)
    assert dice_part.item() == pytest.approx(1 - sum(expected) / 2, abs=1e-5)


def test_bce_logdice_is_bce_minus_the_logarithm_of_soft_dice(batch):
    expected = losses.bce(*batch) - math.log(losses.soft_dice(*batch).mean())
    assert losses.bce_logdice(*batch).item() == pytest.approx(expected.item())


def test_empty_prediction_of_an_empty_target_has_soft_dice_1():
    assert losses.soft_dice(torch.full((1, 1, 8, 8), -1e4), torch.zeros(1, 1, 8, 8)).item() == 1


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize("logit", [1e4, -1e4])
@pytest.mark.parametrize("truth", [0.0, 1.0])
def test_finite_with_finite_gradient_at_logits_of_1e4(loss, logit, truth):
    logits = torch.full((2, 1, 16, 16), logit, requires_grad=True)
    value = loss(logits, torch.full((2, 1, 16, 16), truth))
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()
    assert value >= 0


@pytest.mark.parametrize("loss", ALL)
def test_a_perfect_prediction_costs_nothing(loss):
    target = (torch.arange(16).reshape(1, 1, 4, 4) < 5).float()
    assert loss(2000 * target - 1000, target).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("loss", ALL)
def test_gradients_are_right(loss, batch):
    logits, target = (part[:, :, :3, :3] for part in batch)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), logits.clone().requires_grad_())


def test_focal_discounts_easy_pixels(batch):
    logits, target = batch
    easy = F.binary_cross_entropy_with_logits(logits, target, reduction="none") < 0.1
    assert easy.any()
    assert (losses.focal(*batch) < losses.bce(*batch)).item()
