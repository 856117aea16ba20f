import pytest
from hydra.utils import instantiate

from segtune.config import entry, rules
from segtune.config.explain import explain
from segtune.config.overrides import groups, quote_numbers
from segtune.errors import InputError


def explained(*overrides):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever Hydra raises, the sentence is what counts
        entry.plain(entry.compose(overrides))
    return explain(caught.value)


def test_an_unknown_option_lists_the_known_ones_the_nearest_first():
    said = explained("loss=focl")
    assert said.startswith("loss=focl: no such option. Nearest: focal. Known: focal, ")
    assert set(said.partition("Known: ")[2].removesuffix(".").split(", ")) == set(groups()["loss"])
    message = explained("split=0.5")
    assert message.startswith("split=0.5: no such option. Nearest: 0.4. Known: 0.4, 0.6, 0.3,")
    assert "split.val_fraction=" in message
    assert explained("batch=12").startswith("batch=12: no such option. Nearest: 10. Known: 10, 15, 1, patient.")


def test_an_unknown_key_names_the_nearest_ones():
    assert explained("trainer.max_epoch=3").startswith("trainer.max_epoch: no such key. Nearest: trainer.max_epochs")
    assert explained("sed=3").startswith("sed: no such key. Nearest: seed")


def test_a_lambda_without_a_regulariser_is_refused_with_those_that_have_one():
    message = explained("reg=none", "reg.lambda=1e-3")
    assert message == "reg.lambda: the chosen reg has no lambda; only reg=l1, l2. Choose one or leave it out."


def test_a_missing_root_is_asked_for():
    assert explained("data=rvsc") == "data.root has no value: add data.root=... to the command."


def test_a_bug_is_not_explained_away():
    assert explain(ZeroDivisionError("x")) is None


@pytest.mark.parametrize(
    ("override", "words"),
    [("~loss", "a run needs one of loss=bce"), ("=3", "is not of the form key=value"), ("+", "is not of the form")],
)
def test_an_override_that_cannot_be_is_refused(override, words):
    with pytest.raises(InputError, match=words):
        quote_numbers(override)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["outputs="], "outputs=: must be a folder"),
        (["outputs=null"], "must be a folder"),
        (["figures=foo"], "figures=foo: must be true or false"),
        (["data=rvsc", "data.root=5"], "data.root=5: must be a folder"),
        (["on_failure=maybe"], "one of continue, stop"),
        (["seed=-1"], "a whole number from 0 to 4294967295"),
    ],
)
def test_a_setting_that_cannot_be_is_named(overrides, words):
    with pytest.raises(InputError, match=words):
        rules.check(entry.plain(entry.compose(overrides)))


def fails():
    raise TypeError("float() of nothing")


def test_a_bug_in_what_hydra_calls_stays_a_bug_and_a_wrong_argument_is_explained():
    for target, explained in (("test_explain.fails", False), ("test_explain.nothing", True)):
        with pytest.raises(Exception, match=target) as caught:
            instantiate({"_target_": target})
        assert (explain(caught.value) is not None) == explained
    with pytest.raises(Exception, match="unexpected") as caught:
        instantiate({"_target_": "test_explain.fails", "more": 1})
    assert "more" in explain(caught.value)


def test_an_unknown_key_of_another_verb_is_explained_by_its_own_keys():
    with pytest.raises(Exception, match="swep") as caught:
        entry.compose(["swep=x"], config_name="report")
    assert explain(caught.value, "report") == (
        "swep: no such key. Nearest: sweep, claims, run. See python -m segtune.report --help for all."
    )
