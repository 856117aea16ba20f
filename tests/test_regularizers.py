import pytest
import torch

from segtune import nets, regularizers

WEIGHTS = [torch.tensor([[1.0, -2.0]]), torch.tensor([0.5])]


def test_l1_and_l2_by_hand():
    assert regularizers.l1(WEIGHTS).item() == 3.5
    assert regularizers.l2(WEIGHTS).item() == 5.25


def test_l1l2_is_the_weighted_sum_of_both():
    assert regularizers.l1l2(WEIGHTS, lambda_l1=2, lambda_l2=4).item() == 2 * 3.5 + 4 * 5.25


def test_at_initialisation_the_sums_are_the_closed_form_of_the_study_s_network():
    torch.manual_seed(0)
    kernels = nets.kernels(nets.UNet())
    assert regularizers.l2(kernels).item() == pytest.approx(1792, rel=0.01)
    assert regularizers.l1(kernels).item() == pytest.approx(35_659, rel=0.01)


def test_gradient_is_the_sign_and_twice_the_weight():
    weight = torch.tensor([1.5, -0.5], requires_grad=True)
    regularizers.l1([weight]).backward()
    assert weight.grad.tolist() == [1, -1]
    weight.grad = None
    regularizers.l2([weight]).backward()
    assert weight.grad.tolist() == [3, -1]
