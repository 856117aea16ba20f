"""Every option file composes and instantiates: a new YAML is tested on arrival."""

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from conftest import TINY
from segtune import app, build

OPTIONS = [(group, option) for group, options in app.groups().items() for option in options if "/" not in group]
REQUIRED = {("data", "rvsc"): ["data.root=x"]}


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_makes_a_module(group, option):
    cfg = app.compose([f"{group}={option}", *REQUIRED.get((group, option), []), *TINY[1:]])
    app.check(app.plain(cfg))
    module = build.module(cfg, {})
    image = torch.zeros(2, 1, 32, 32)
    assert module.loss(module(image), image).isfinite()
    assert (module.penalties()[1] > 0) == (module.penalty is not None)
    assert module.configure_optimizers().param_groups[0]["lr"] == cfg.optimizer.lr


@pytest.mark.parametrize("option", app.groups()["loss"])
def test_an_option_a_function_and_a_file_share_one_name(option):
    assert app.compose([f"loss={option}"]).loss["_target_"] == f"segtune.losses.{option}"


def test_option_files_hold_only_their_own_keys():
    shares = {name: app.compose([f"split={name}"]).split for name in app.groups()["split"]}
    assert {name: share.val_fraction for name, share in shares.items()} == {name: float(name) for name in shares}
    assert {(share.by, share.seed) for share in shares.values()} == {("patient", 0)}


def test_published_defaults():
    cfg = app.compose(["reg=l1l2", "loss=focal"])
    assert (cfg.reg.lambda_l1, cfg.reg.lambda_l2, cfg.loss.gamma, cfg.loss.alpha) == (5e-5, 1e-3, 2, None)
    assert (app.compose(["reg=l1"]).reg["lambda"], app.compose(["reg=l2"]).reg["lambda"]) == (5e-7, 5e-4)
    assert (cfg.trainer.max_epochs, cfg.optimizer.lr, cfg.model.width, cfg.data.size, cfg.batch.size) == (15, 1e-3, 16, 256, 15)


def test_lambda_reaches_the_module_under_another_name():
    cfg = app.compose(["reg=l1", "reg.lambda=0.25", "reg.on=all", *TINY[1:]])
    module = build.module(cfg, {})
    assert module.strength == 0.25
    assert len(module.penalised) == len(list(module.net.parameters()))
    raw, weighted = module.penalties()
    assert weighted.item() == pytest.approx(0.25 * raw.item())


def test_l1l2_weighs_its_two_terms_by_its_own_lambdas():
    cfg = app.compose(["reg=l1l2", "reg.lambda_l1=2", "reg.lambda_l2=3", *TINY[1:]])
    module = build.module(cfg, {})
    weights = torch.cat([p.flatten() for p in module.penalised])
    expected = 2 * weights.abs().sum() + 3 * weights.square().sum()
    assert [value.item() for value in module.penalties()] == pytest.approx([expected.item()] * 2)


def test_every_target_of_the_readers_gets_what_it_asks_for():
    for option in app.groups()["data"]:
        reader = app.compose([f"data={option}", *REQUIRED.get(("data", option), [])]).data.reader
        assert isinstance(reader, DictConfig)
        assert callable(instantiate({**reader, "_partial_": True}))
