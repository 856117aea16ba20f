"""segtune as the study's notebook ran it, step by step from equal weights against the same training in numpy."""

import math
from dataclasses import replace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

import numpy_unet
from conftest import TINY
from segtune.config import entry
from segtune.data.splits import Split
from segtune.training import build
from segtune.training.checkpoints import WholeFiles

AS_RUN = ["study=as_run", "batch=1", "loss=bce_logdice"]
SMALL = [*TINY, "data.size=64", "model.width=4", "model.dropout=0", "trainer.max_epochs=1"]
PENALTIES = {
    "none": (["reg=none"], {}),
    "l1": (["reg=l1", "reg.lambda=5e-5"], {"lambda_l1": 5e-5}),
    "l2": (["reg=l2", "reg.lambda=0.001"], {"lambda_l2": 1e-3}),
    "l1l2": (["reg=l1l2", "reg.lambda_l1=5e-5", "reg.lambda_l2=0.001"], {"lambda_l1": 5e-5, "lambda_l2": 1e-3}),
}


def torch_s_eps(t):
    """What torch's eps of 1e-7, added to sqrt(v / (1 - 0.999^t)), is beside sqrt(v), to which Keras adds it."""
    return 1e-7 * math.sqrt(1 - 0.999**t)


class Losses(pl.Callback):
    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_index):
        self.values.append(outputs["loss"].item())


def experiment(*overrides):
    """The experiment, the module and the data: five images that train, three that validate, in the data set's order."""
    made = build.experiment(entry.compose([*SMALL, *AS_RUN, *overrides]))
    made = replace(made, split=Split(train=made.split.train[:5], val=made.split.val[:3]))
    torch.manual_seed(made.seed)
    return made, made.module(), made.datamodule()


def fit(made, module, data):
    """Train for the one epoch; returns the losses of its steps."""
    losses = Losses()
    made.make_trainer([losses], WholeFiles()).fit(module, datamodule=data)
    return losses.values


def pairs(data, side):
    """Images and masks of these indices, (64, 64) each."""
    images, masks = data._train
    return [(images[index, 0].double().numpy(), masks[index, 0].double().numpy()) for index in side]


def to_numpy(net):
    """Weights and running statistics of a nets.UNet as the reference takes them: its kernels are Keras's, turned."""

    def array(value, *order):
        turned = value.detach().flip(2, 3).permute(order) if order else value.detach()
        return turned.double().contiguous().numpy()

    weights = {"head.kernel": array(net.head.weight[:, :, 0, 0].T), "head.bias": array(net.head.bias)}
    statistics = {}
    for i, up in enumerate(net.up):
        weights |= {f"up.{i}.kernel": array(up.weight, 2, 3, 0, 1), f"up.{i}.bias": array(up.bias)}
    for group in ("down", "merge"):
        for i, (convolution, norm, _) in enumerate(getattr(net, group)):
            name = f"{group}.{i}"
            weights |= {f"{name}.kernel": array(convolution.weight, 2, 3, 1, 0), f"{name}.bias": array(convolution.bias)}
            weights |= {f"{name}.scale": array(norm.weight), f"{name}.shift": array(norm.bias)}
            statistics |= {f"{name}.mean": array(norm.running_mean), f"{name}.variance": array(norm.running_var)}
    return weights, statistics


def close(values, expected):
    """Within 1e-4, absolute and relative."""
    values, expected = np.asarray(values), np.asarray(expected)
    return (np.abs(values - expected) <= 1e-4 * np.minimum(1, np.abs(expected))).all()


@pytest.mark.parametrize("rule", ["keras", "torch"])
@pytest.mark.parametrize("penalty", PENALTIES)
def test_five_steps_and_the_evaluation_after_them_are_the_reference_s(penalty, rule):
    overrides, lambdas = PENALTIES[penalty]
    made, module, data = experiment(*overrides, *(["optimizer._target_=torch.optim.Adam"] if rule == "torch" else []))
    reference = numpy_unet.Training(*to_numpy(module.net), **lambdas)
    if rule == "torch":
        reference.eps = torch_s_eps
    assert close(fit(made, module, data), [reference.step(*pair) for pair in pairs(data, data._split.train)])
    statistics = to_numpy(module.net)[1]
    assert len(statistics) == 18
    assert max(np.abs(value - reference.statistics[name]).max() for name, value in statistics.items()) < 1e-5
    evaluated = np.mean([reference.evaluate(*pair) for pair in pairs(data, data._split.val)])
    assert close(module.row["val_data_loss"], evaluated)
    assert close(module.row["val_loss"], evaluated + reference.penalty())


def test_where_torch_adds_eps_moves_the_losses_by_more_than_the_tolerance():
    """So an eps of 1e-7 in torch's own Adam is not Keras's: it takes the rule."""
    _, module, data = experiment("seed=1")
    rules = {"keras": lambda t: 1e-7, "torch": torch_s_eps}
    references = {name: numpy_unet.Training(*to_numpy(module.net), eps=eps) for name, eps in rules.items()}
    keras, torch_s = ([r.step(*pair) for pair in pairs(data, data._split.train)] for r in references.values())
    assert keras[0] == torch_s[0]
    assert not close(torch_s, keras)
    assert np.abs(np.subtract(torch_s, keras)).max() < 1e-2


@pytest.mark.parametrize("penalty", ["none", "l1l2"])
def test_the_reference_s_gradients_are_central_differences(penalty):
    _, module, data = experiment("data.size=32", "model.width=2")
    reference = numpy_unet.Training(*to_numpy(module.net), **PENALTIES[penalty][1])
    random, (image, mask) = np.random.default_rng(0), pairs(data, data._split.train)[0]
    for weight in reference.weights.values():  # nothing at its neutral value
        weight += random.uniform(-0.1, 0.1, weight.shape)
    gradients = reference.gradients(image, mask)[1]
    assert gradients.keys() == reference.weights.keys()
    for name, weight in reference.weights.items():
        direction, values = random.normal(size=weight.shape), []
        for step in (1e-6, -2e-6, 1e-6):  # there, to the other side, and back
            weight += step * direction
            values.append(reference.gradients(image, mask)[0])
        difference = (values[0] - values[1]) / 2e-6
        assert difference == pytest.approx((gradients[name] * direction).sum(), rel=1e-5, abs=1e-7), name
