import re

import pytest
from hydra.utils import instantiate

from segtune.config import entry, rules
from segtune.config.error_messages import explain
from segtune.config.overrides import groups, quote_numbers
from segtune.errors import InputError


def explained(*overrides):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever Hydra raises, the sentence is what counts
        entry.plain(entry.compose(overrides))
    return explain(caught.value)


def test_an_unknown_option_lists_the_known_ones_the_nearest_first():
    said = explained("loss=focl")
    assert re.match(r"loss=focl: .*\bfocal\b.*: focal, ", said)  # the nearest, then all
    assert set(said.rpartition(": ")[2].removesuffix(".").split(", ")) == set(groups()["loss"])
    message = explained("split=0.5")
    assert re.match(r"split=0\.5: .*\b0\.4\b.*: 0\.4, 0\.6, 0\.3,", message)
    assert "split.val_fraction=" in message
    assert re.match(r"batch=12: .*\b10\b.*: 10, 15, 1, patient\b", explained("batch=12"))


def test_an_unknown_key_names_the_nearest_ones():
    assert re.match(r"trainer\.max_epoch: [^:]*: trainer\.max_epochs\b", explained("trainer.max_epoch=3"))
    assert re.match(r"sed: [^:]*: seed\b", explained("sed=3"))


def test_a_lambda_without_a_regulariser_is_refused_with_those_that_have_one():
    message = explained("reg=none", "reg.lambda=1e-3")
    assert re.match(r"reg\.lambda: .*\breg=l1, l2\b", message)
    assert "l1l2" not in message


def test_a_missing_root_is_asked_for():
    assert re.match(r"data\.root\b.*\bdata\.root=\.\.\.", explained("data=rvsc"))


def test_a_bug_is_not_explained_away():
    assert explain(ZeroDivisionError("x")) is None


@pytest.mark.parametrize(
    ("override", "words"),
    [("~loss", r"~loss: .*\bloss=bce\b"), ("=3", r"'=3'.*\bkey=value\b"), ("+", r"'\+'.*\bkey=value\b")],
)
def test_an_override_that_cannot_be_is_refused(override, words):
    with pytest.raises(InputError, match=words):
        quote_numbers(override)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["outputs="], "^outputs=: .*folder"),
        (["outputs=null"], "^outputs=.*folder"),
        (["figures=foo"], "^figures=foo: .*true.*false"),
        (["data=rvsc", "data.root=5"], "^data.root=5: .*folder"),
        (["on_failure=maybe"], "^on_failure=maybe: .*continue, stop"),
        (["seed=-1"], r"^seed=-1: .*\b0\b.*\b4294967295\b"),
    ],
)
def test_a_setting_that_cannot_be_is_named(overrides, words):
    with pytest.raises(InputError, match=words):
        rules.check(entry.plain(entry.compose(overrides)))


def fails():
    raise TypeError("float() of nothing")


def test_a_bug_in_what_hydra_calls_stays_a_bug_and_a_wrong_argument_is_explained():
    for target, explained in (("test_error_messages.fails", False), ("test_error_messages.nothing", True)):
        with pytest.raises(Exception, match=target) as caught:
            instantiate({"_target_": target})
        assert (explain(caught.value) is not None) == explained
    with pytest.raises(Exception, match="unexpected") as caught:
        instantiate({"_target_": "test_error_messages.fails", "more": 1})
    assert "more" in explain(caught.value)


def test_an_unknown_key_of_another_verb_is_explained_by_its_own_keys():
    with pytest.raises(Exception, match="swep") as caught:
        entry.compose(["swep=x"], config_name="report")
    assert re.match(r"swep: [^:]*: sweep, claims, run\..*\bpython -m segtune\.report --help\b", explain(caught.value, "report"))


def test_a_mistyped_group_is_told_the_group():
    assert re.search(r"Nearest: loss\b(?!\.)", explained("los=bce"))
