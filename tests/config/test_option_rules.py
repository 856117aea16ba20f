import importlib
import re

import pytest

from segtune.config import entry, option_rules, rules
from segtune.config.overrides import groups
from segtune.errors import InputError

OWN = {"_target_": "lab.mine", "weight": -1, "gamma": "a", "alpha": 7, "beta": 0, "channels": [1], "width": 0, "bn_momentum": 3}


@pytest.mark.parametrize("group", ["loss", "model", "optimizer", "scheduler"])
def test_a_users_own_option_may_use_any_key_with_any_value(group):
    rules.check({**entry.plain(entry.compose([])), group: {**OWN, "lr": -1, "step_size": 0}})


def test_a_users_own_reader_may_use_any_key_with_any_value():
    config = entry.plain(entry.compose([]))
    own = {"reader": {"_target_": "lab.read"}, "root": ["a"], "ed": 1, "es": 1, "n_patients": 0, "seed": -1, "masks": "x"}
    rules.check({**config, "data": {**config["data"], **own}})


@pytest.mark.parametrize("levels", [4, 6])
def test_monai_s_attention_unet_may_have_any_number_of_levels_in_an_option_of_the_users_own(levels):
    model = {"_target_": "monai.networks.nets.AttentionUnet", "channels": [8] * levels, "strides": [2] * (levels - 1)}
    rules.check({**entry.plain(entry.compose([])), "model": model})
    with pytest.raises(InputError, match=r"^model\.strides=.*model\.channels="):
        rules.check({**entry.plain(entry.compose([])), "model": {**model, "strides": [2] * levels}})


@pytest.mark.parametrize("target", option_rules.OF_TARGET)
def test_every_rule_is_of_something_that_exists(target):
    module, _, name = target.rpartition(".")
    assert callable(getattr(importlib.import_module(module), name))


def every_option():
    return [f"{group}={name}" for group in ("loss", "reg", "model", "optimizer", "scheduler") for name in groups()[group]]


@pytest.mark.parametrize("option", every_option())
def test_a_text_is_refused_for_every_number_of_segtune_s_own_options(option):
    group = option.partition("=")[0]
    values = entry.plain(entry.compose([option]))[group]
    numbers = [key for key, value in values.items() if rules.is_number(value) and key not in ("spatial_dims", "momentum")]
    numbers = [key for key in numbers if not key.endswith("_channels")]
    for key in numbers:
        config = entry.plain(entry.compose([option]))
        config[group][key] = "many"
        with pytest.raises(InputError, match=rf"^{group}\.{re.escape(key)}=many: "):
            rules.check(config)
