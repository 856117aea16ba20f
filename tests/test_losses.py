import math
import subprocess
import sys

import monai.losses
import numpy as np
import pytest
import scipy.ndimage
import sklearn.metrics
import torch
import torch.nn.functional as F

from segtune import losses, nets
from segtune.config import overrides

ALL = [getattr(losses, option) for option in overrides.groups()["loss"]]
OVERLAPS = [losses.dice, losses.bce_dice, losses.dice_focal, losses.tversky, losses.focal_tversky, losses.boundary]


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


def test_dice_is_monais_dice_loss_per_image(batch):
    expected = monai.losses.DiceLoss(sigmoid=True)(*batch)
    assert losses.dice(*batch).item() == pytest.approx(expected.item(), abs=1e-12)


@pytest.mark.parametrize("loss", [loss for loss in ALL if loss is not losses.bce_logdice])
def test_a_batch_costs_the_mean_of_its_images(loss, batch):
    singles = [loss(logits, target).item() for logits, target in zip(batch[0].split(1), batch[1].split(1), strict=True)]
    assert loss(*batch).item() == pytest.approx(sum(singles) / 3, abs=1e-12)


@pytest.mark.parametrize("loss", ALL)
def test_an_empty_target_has_a_finite_cost_and_costs_nothing_if_nothing_is_predicted(loss):
    nothing = torch.zeros(2, 1, 16, 16)
    logits = torch.zeros(2, 1, 16, 16, requires_grad=True)
    value = loss(logits, nothing)
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()
    assert loss(nothing - 1e4, nothing).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("loss", OVERLAPS)
def test_an_overlap_calls_any_prediction_on_an_empty_target_wrong(loss):
    nothing = torch.zeros(1, 1, 16, 16)
    assert loss(nothing, nothing).item() > 0.99


@pytest.mark.parametrize(("loss", "empties"), [(losses.generalized_dice, True), (losses.boundary, True), (losses.dice, False)])
def test_which_losses_empty_the_prediction_of_an_empty_target(loss, empties):
    logits = torch.zeros(1, 1, 64, 64, requires_grad=True)
    loss(logits, torch.zeros(1, 1, 64, 64)).backward()
    assert (logits.grad > 1e-6).all().item() is empties


@pytest.mark.parametrize("loss", ALL)
def test_overfits_one_small_batch(loss):
    generator = torch.Generator().manual_seed(0)
    row, column = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    centres = 10 + 12 * torch.rand(4, 2, 1, 1, generator=generator)
    target = (((row - centres[:, 0]) ** 2 + (column - centres[:, 1]) ** 2) < 25).float()[:, None]
    image = 2 * target + torch.randn(4, 1, 32, 32, generator=generator)
    torch.manual_seed(0)
    net = nets.UNet(width=4, dropout=0.0)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    first = loss(net(image), target).item()
    for _ in range(60):
        optimizer.zero_grad()
        value = loss(net(image), target)
        value.backward()
        optimizer.step()
    assert value.item() < 0.5 * first
    overlap = ((net(image) > 0) * target).sum()
    assert 2 * overlap / ((net(image) > 0).sum() + target.sum()) > 0.9


def test_dice_focal_is_the_sum_and_monais(batch):
    value = losses.dice_focal(*batch, gamma=3, alpha=0.25)
    assert value.item() == pytest.approx((losses.dice(*batch) + losses.focal(*batch, gamma=3, alpha=0.25)).item(), abs=1e-12)
    expected = monai.losses.DiceFocalLoss(sigmoid=True, gamma=3, alpha=0.25)(*batch)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)


def test_tversky_with_both_weights_one_half_is_dice(batch):
    assert losses.tversky(*batch, alpha=0.5, beta=0.5).item() == pytest.approx(losses.dice(*batch).item(), abs=1e-12)


def test_tversky_without_alpha_takes_1_minus_beta(batch):
    assert losses.tversky(*batch, beta=0.9).item() == pytest.approx(losses.tversky(*batch, alpha=0.1, beta=0.9).item())


def test_tversky_by_hand_on_two_by_two():
    target = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])  # p = 1/2 everywhere: TP = FP = FN = 1
    index = 1 / (1 + 0.2 + 0.7)
    assert losses.tversky(torch.zeros(1, 1, 2, 2), target, alpha=0.2, beta=0.7).item() == pytest.approx(1 - index, abs=1e-5)
    expected = pytest.approx((1 - index) ** 2, abs=1e-5)
    assert losses.focal_tversky(torch.zeros(1, 1, 2, 2), target, alpha=0.2, beta=0.7, gamma=2).item() == expected


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_tversky_of_a_mask_is_scikit_learns_f_score(batch, weight):
    logits, target = (part[:1] for part in batch)
    beta = weight**2 / (1 + weight**2)
    f = sklearn.metrics.fbeta_score(target.flatten(), logits.flatten() > 0, beta=weight)
    assert losses.tversky(1e3 * logits, target, beta=beta).item() == pytest.approx(1 - f, abs=1e-5)


def test_beta_above_one_half_makes_a_missed_pixel_dearer_than_one_too_many():
    target = (torch.arange(16).reshape(1, 1, 4, 4) < 6).float()
    small, large = ((torch.arange(16).reshape(1, 1, 4, 4) < n).float() * 100 - 50 for n in (5, 7))
    assert losses.tversky(small, target, beta=0.7) > losses.tversky(large, target, beta=0.7)
    assert losses.tversky(small, target, beta=0.3) < losses.tversky(large, target, beta=0.3)


@pytest.mark.parametrize("gamma", [0.1, 1 / 3, 0.75, 2])
def test_the_slack_of_focal_tversky_lowers_its_largest_value_by_slack_to_the_gamma(gamma):
    target = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    worst = losses.focal_tversky(100 - 200 * target, target, gamma=gamma).item()
    assert worst == pytest.approx(1 - losses.SLACK**gamma, abs=1e-4)


def test_focal_tversky_with_gamma_1_is_tversky(batch):
    assert losses.focal_tversky(*batch, beta=0.8, gamma=1).item() == pytest.approx(losses.tversky(*batch, beta=0.8).item())


def test_generalized_dice_by_hand_on_two_by_two():
    target = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    logits = torch.tensor([[[[0.0, math.log(3)], [-math.log(3), 0.0]]]])  # p = 1/2, 3/4, 1/4, 1/2
    overlap = 1 / 1 * 0.5 + 1 / 9 * (0.25 + 0.75 + 0.5)
    total = 1 / 1 * (2 + 1) + 1 / 9 * (2 + 3)
    assert losses.generalized_dice(logits, target).item() == pytest.approx(1 - 2 * overlap / total)


def test_generalized_dice_weighs_the_classes_alike_if_they_are_of_one_size_or_one_is_empty(batch):
    logits = batch[0][:1]
    p, half = torch.sigmoid(logits), (torch.arange(64).reshape(1, 1, 8, 8) % 2).double()
    assert losses.generalized_dice(logits, half).item() == pytest.approx((p - half).abs().mean().item())
    assert losses.generalized_dice(logits, 0 * half).item() == pytest.approx(p.mean().item())


def test_generalized_dice_is_not_the_plain_dice_that_one_channel_gives(batch):
    one_channel = monai.losses.GeneralizedDiceLoss(sigmoid=True)(*batch)
    assert one_channel.item() == pytest.approx(losses.dice(*batch).item(), abs=1e-4)
    assert abs(losses.generalized_dice(*batch) - one_channel).item() > 1e-2


def test_outline_distances_are_those_to_the_nearest_pixel_of_the_other_side():
    mask = np.random.default_rng(0).random((9, 12)) < 0.2
    here, value = np.argwhere(np.ones_like(mask)), mask.flatten()
    between = np.linalg.norm(here[:, None] - here[None], axis=2)
    nearest = np.where(value[:, None] != value[None], between, np.inf).min(1).reshape(mask.shape)
    found = losses.outline_distance(torch.from_numpy(mask)[None, None].double())
    np.testing.assert_allclose(found[0, 0], (nearest - 0.5) / 15, atol=1e-7)  # 9, 12 and 15: the diagonal


def test_boundary_by_hand():
    target = torch.tensor([[[[1.0, 0.0, 0.0, 0.0]] * 3]])  # 3 x 4, diagonal 5; distances 0.5, 0.5, 1.5, 2.5 pixels in each row
    logits = torch.zeros(1, 1, 3, 4)
    without = losses.boundary(logits, target, weight=0)
    assert without.item() == losses.dice(logits, target).item()
    assert (losses.boundary(logits, target, weight=2) - without).item() == pytest.approx(2 * 0.5 * (5 / 4) / 5)


def test_boundary_differs_between_predictions_as_kervadecs_integral_does(batch):
    logits, target = batch
    mask = target.numpy() > 0
    phi = [scipy.ndimage.distance_transform_edt(~m) - scipy.ndimage.distance_transform_edt(m) for m in mask[:, 0]]
    phi = np.stack([(p - np.sign(p) / 2) / math.hypot(8, 8) for p in phi])[:, None]
    integral = [(phi * torch.sigmoid(x).numpy()).mean() for x in (logits, -logits)]
    ours = [(losses.boundary(x, target) - losses.dice(x, target)).item() for x in (logits, -logits)]
    assert ours[0] - ours[1] == pytest.approx(integral[0] - integral[1])


@pytest.mark.parametrize("truth", [0.0, 1.0])
def test_without_an_outline_each_wrong_pixel_is_a_diagonal_away(truth):
    target = torch.full((1, 1, 8, 8), truth)
    assert (losses.outline_distance(target) == 1).all()


def test_a_pixel_costs_more_the_farther_it_is_from_the_outline():
    target = torch.zeros(1, 1, 32, 32)
    target[..., 12:20, 12:20] = 1
    logits = 100 * target - 50
    near, far = logits.clone(), logits.clone()
    near[..., 16, 21], far[..., 16, 30] = 50, 50
    assert losses.boundary(far, target) > losses.boundary(near, target) > losses.boundary(logits, target)
    assert losses.dice(far, target) == losses.dice(near, target)


def test_topk_bce_of_all_pixels_is_bce(batch):
    assert losses.topk_bce(*batch, fraction=1).item() == pytest.approx(losses.bce(*batch).item(), abs=1e-12)


def test_topk_bce_is_the_mean_of_each_images_largest_values(batch):
    values = F.binary_cross_entropy_with_logits(*batch, reduction="none").flatten(1).numpy()
    expected = np.sort(values, axis=1)[:, -16:].mean()
    assert losses.topk_bce(*batch, fraction=0.25).item() == pytest.approx(expected)


def test_topk_bce_by_hand_and_of_at_least_one_pixel():
    logits = torch.tensor([[[[0.0, math.log(3)], [-math.log(3), 0.0]]]])
    target = torch.tensor([[[[1.0, 1.0], [1.0, 0.0]]]])  # p_t = 1/2, 3/4, 1/4, 1/2
    assert losses.topk_bce(logits, target, fraction=0.5).item() == pytest.approx(-math.log(0.25 * 0.5) / 2)
    assert losses.topk_bce(logits, target, fraction=0.01).item() == pytest.approx(-math.log(0.25))


def test_monai_is_imported_only_by_a_loss_that_uses_it():
    code = (
        "import sys, torch; from segtune import losses; x = torch.zeros(1, 1, 4, 4); losses.boundary(x, x); "
        "assert 'monai' not in sys.modules; losses.tversky(x, x); assert 'monai' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
