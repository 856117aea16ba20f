"""Every option file composes and instantiates: a new YAML is tested on arrival."""

import inspect

import pytest
import torch
from hydra.utils import get_method, instantiate
from omegaconf import DictConfig

from conftest import TINY
from segtune import losses
from segtune.config import entry, overrides, rules
from segtune.training import build

OPTIONS = [(group, option) for group, options in overrides.groups().items() for option in options if "/" not in group]
REQUIRED = {("data", name): ["data.root=x"] for name in ("rvsc", "sunnybrook", "acdc")} | {
    ("data", "nnunet"): ["data.root=x", "data.target=RV"],
    ("data", "folder"): ["data.root=x", "data.pixel_mm=1"],
}
MODELS = {  # tiny, where model.width is not what makes them so
    "basic_unet": ["model.features=[2,2,4,4,8,2]"],
    "attention_unet": ["model.channels=[2,2,4,4,8]"],
}


def composed(group, option, *settings):
    """The tiny configuration with this option."""
    tiny = [setting for setting in TINY[1:] if not (option in MODELS and setting.startswith("model."))]
    tiny += ["trainer.max_steps=null"] if group == "recipe" else []
    return entry.compose([f"{group}={option}", *REQUIRED.get((group, option), []), *tiny, *MODELS.get(option, []), *settings])


@pytest.mark.parametrize("option", overrides.groups()["data"])
def test_every_option_of_data_composes_and_its_reader_takes_its_arguments(option):
    config = entry.plain(composed("data", option))
    rules.check(config)
    arguments = config["data"]["reader"]
    inspect.signature(get_method(arguments.pop("_target_"))).bind(**arguments)


@pytest.mark.parametrize(("group", "option"), [pair for pair in OPTIONS if pair[0] != "data"])
def test_every_option_composes_and_makes_a_module(group, option):
    cfg = composed(group, option)
    rules.check(entry.plain(cfg))
    module = build.experiment(cfg).module()
    image = torch.zeros(2, 1, 32, 32)
    assert module.loss(module(image), image).isfinite()
    assert (module.penalties()[1] > 0) == (module.penalty is not None)
    ((optimizer,), _) = module.configure_optimizers()
    assert optimizer.param_groups[0].get("initial_lr", optimizer.param_groups[0]["lr"]) == cfg.optimizer.lr


@pytest.mark.parametrize("option", overrides.groups()["model"])
def test_every_network_makes_a_step_and_then_evaluates(option):
    module = build.experiment(composed("model", option, "reg=l2")).module()
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 1, 32, 48, generator=generator)
    target = (torch.rand(2, 1, 32, 48, generator=generator) < 0.3).float()
    ((optimizer,), _) = module.configure_optimizers()
    before = [parameter.clone() for parameter in module.regularized_parameters]
    (module.loss(module(image), target) + module.penalties()[1]).backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.net.parameters())
    optimizer.step()
    assert all((new != old).any() for new, old in zip(module.regularized_parameters, before, strict=True))
    module.eval()
    with torch.inference_mode():
        logits = module(image)
        assert logits.shape == image.shape
        assert logits.isfinite().all()
        assert torch.allclose(module(image[:1]), logits[:1], atol=1e-5)


@pytest.mark.parametrize("option", overrides.groups()["model"])
def test_every_network_takes_images_of_16_pixels(option):
    assert build.experiment(composed("model", option)).module()(torch.randn(2, 1, 16, 16)).shape == (2, 1, 16, 16)


@pytest.mark.parametrize("option", overrides.groups()["model"])
def test_a_penalty_on_kernels_sees_every_convolution_that_is_not_1_by_1(option):
    module = build.experiment(composed("model", option, "reg=l2")).module()
    expected = [p for p in module.net.parameters() if p.dim() == 4 and p.shape[2:] != (1, 1)]
    assert {id(p) for p in module.regularized_parameters} == {id(p) for p in expected}
    assert len(expected) >= 13


@pytest.mark.parametrize("option", overrides.groups()["model"])
def test_same_seed_same_weights_of_every_network(option):
    def weights():
        torch.manual_seed(3)
        return torch.cat([p.flatten() for p in build.experiment(composed("model", option)).module().net.parameters()])

    assert torch.equal(weights(), weights())


@pytest.mark.parametrize("option", overrides.groups()["loss"])
def test_an_option_a_function_and_a_file_share_one_name(option):
    assert entry.compose([f"loss={option}"]).loss["_target_"] == f"segtune.losses.{option}"


@pytest.mark.parametrize("option", overrides.groups()["loss"])
def test_a_loss_has_in_its_file_the_defaults_of_its_function(option):
    given = {key: value for key, value in entry.compose([f"loss={option}"]).loss.items() if not key.startswith("_")}
    parameters = inspect.signature(getattr(losses, option)).parameters.values()
    assert given == {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def test_the_networks_are_of_comparable_size():
    def size(option):
        return sum(p.numel() for p in instantiate(entry.compose([f"model={option}"]).model).parameters())

    expected = {"unet": 1_177_649, "unet_double": 2_161_361, "basic_unet": 1_948_129, "attention_unet": 1_987_417}
    expected["unet_plain"] = 1_943_761
    assert {option: size(option) for option in overrides.groups()["model"]} == expected


def test_unet_double_is_the_study_s_network_with_two_convolutions_per_block():
    single, double = (dict(entry.compose([f"model={option}"]).model) for option in ("unet", "unet_double"))
    assert double == {**single, "convolutions": 2}


def test_option_files_hold_only_their_own_keys():
    shares = {name: entry.compose([f"split={name}"]).split for name in overrides.groups()["split"] if name[0].isdigit()}
    assert {name: share.val_fraction for name, share in shares.items()} == {name: float(name) for name in shares}
    assert {(share.by, share.seed) for share in shares.values()} == {("patient", 0)}


def test_published_defaults():
    cfg = entry.compose(["reg=l1l2", "loss=focal"])
    assert (cfg.reg.lambda_l1, cfg.reg.lambda_l2, cfg.loss.gamma, cfg.loss.alpha) == (5e-5, 1e-3, 2, None)
    assert (entry.compose(["reg=l1"]).reg["lambda"], entry.compose(["reg=l2"]).reg["lambda"]) == (5e-7, 5e-4)
    assert (cfg.trainer.max_epochs, cfg.optimizer.lr, cfg.model.width, cfg.data.size, cfg.batch.size) == (15, 1e-3, 16, 256, 15)


def test_lambda_reaches_the_module_under_another_name():
    cfg = entry.compose(["reg=l1", "reg.lambda=0.25", "reg.on=all", *TINY[1:]])
    module = build.experiment(cfg).module()
    assert module.penalty_weight == 0.25
    assert len(module.regularized_parameters) == len(list(module.net.parameters()))
    raw, weighted = module.penalties()
    assert weighted.item() == pytest.approx(0.25 * raw.item())


def test_l1l2_weighs_its_two_terms_by_its_own_lambdas():
    cfg = entry.compose(["reg=l1l2", "reg.lambda_l1=2", "reg.lambda_l2=3", *TINY[1:]])
    module = build.experiment(cfg).module()
    weights = torch.cat([p.flatten() for p in module.regularized_parameters])
    expected = 2 * weights.abs().sum() + 3 * weights.square().sum()
    assert [value.item() for value in module.penalties()] == pytest.approx([expected.item()] * 2)


def test_every_target_of_the_readers_gets_what_it_asks_for():
    for option in overrides.groups()["data"]:
        reader = entry.compose([f"data={option}", *REQUIRED.get(("data", option), [])]).data.reader
        assert isinstance(reader, DictConfig)
        assert callable(instantiate({**reader, "_partial_": True}))
