"""Learning rate schedules: their factors at the first, a middle and the last step."""

import pytest
import torch

from segtune import optimizers, schedules


def rates(schedule, n_steps, **settings):
    """The learning rate of each step."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=2.0)
    scheduler, found = schedule(optimizer, n_steps=n_steps, **settings), []
    for _ in range(n_steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return [*found, optimizer.param_groups[0]["lr"]]


def test_constant_is_the_optimizers_rate_after_a_linear_warm_up():
    assert rates(schedules.constant, 4) == [2.0] * 5
    assert rates(schedules.constant, 6, warmup_steps=4) == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0]


def test_cosine_is_torchs_and_ends_at_zero():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=2.0)
    theirs, expected = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10), []
    for _ in range(11):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    assert rates(schedules.cosine, 10) == pytest.approx(expected, abs=1e-12)
    warm = rates(schedules.cosine, 14, warmup_steps=4)
    assert warm[:4] == [0.5, 1.0, 1.5, 2.0]
    assert warm[4:] == pytest.approx(expected, abs=1e-12)


def test_weights_decay_and_biases_do_not():
    layer = torch.nn.Conv2d(1, 2, 3)
    layer.weight.grad, layer.bias.grad = torch.zeros_like(layer.weight), torch.zeros_like(layer.bias)
    weight, bias = layer.weight.clone(), layer.bias.clone()
    optimizers.adamw_on_weights(layer.parameters(), lr=0.1, weight_decay=0.5).step()
    assert torch.allclose(layer.weight, weight * 0.95)
    assert torch.equal(layer.bias, bias)
