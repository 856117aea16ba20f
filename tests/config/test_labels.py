import shlex
from pathlib import Path

import hydra
import pytest

from segtune.config import CONF, entry
from segtune.config.composing import Composed, Composer, options_of
from segtune.config.labels import Labels
from segtune.config.overrides import quote_numbers
from segtune.runs import identity
from segtune.sweeps import plan

STUDIES = sorted(path.stem for path in (CONF / "study").glob("*.yaml"))


def compose(overrides):
    return hydra.compose("config", [quote_numbers(one) for one in overrides], return_hydra_config=True)


@pytest.fixture(autouse=True)
def initialized(request):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def labelled(*overrides):
    cfg = compose(overrides)
    return identity.run_id(entry.plain(cfg)), Labels(Composer(compose)).of(cfg, options_of(cfg.hydra.runtime.choices))


def typed(label):
    """The run id of a command line that consists of the label's words."""
    return identity.run_id(entry.plain(compose(shlex.split(label))))


@pytest.mark.parametrize("study", [name if name == "l2" else pytest.param(name, marks=pytest.mark.slow) for name in STUDIES])
def test_the_label_of_every_run_of_a_study_gives_the_same_run(study):
    composer = Composer(compose)
    labels = Labels(composer)
    jobs = plan.combinations(list(compose([f"study={study}"]).hydra.sweeper.grids), [f"study={study}"])
    for number, job in enumerate(jobs):
        composed, _ = plan._compose(job, composer, set())
        run, label = identity.run_id(entry.plain(composed.cfg)), labels.of(composed.cfg, composed.options)
        words = [quote_numbers(word) for word in shlex.split(label)]
        assert identity.run_id(entry.plain(composer(words).cfg)) == run, label
        if number % 20 == 0:  # Hydra itself takes much longer
            assert typed(label) == run, label


@pytest.mark.parametrize(
    ("overrides", "label"),
    [
        ([], "loss=bce_dice split=0.2 reg=none batch=15"),
        (["loss=focal", "loss.gamma=3"], "loss=focal split=0.2 reg=none batch=15 loss.gamma=3"),
        (["loss=focal", "loss.gamma=2"], "loss=focal split=0.2 reg=none batch=15"),
        (["batch.size=5"], "loss=bce_dice split=0.2 reg=none batch.size=5"),
        (["batch=10", "batch.size=5"], "loss=bce_dice split=0.2 reg=none batch=10 batch.size=5"),
        (["split=0.20"], "loss=bce_dice split=0.2 reg=none batch=15"),
        (["split=kfold", "split.fold=3"], "loss=bce_dice split=kfold reg=none batch=15 split.fold=3"),
        (["reg=l1", "reg.lambda=5e-7"], "loss=bce_dice split=0.2 reg=l1 batch=15"),
        (["reg=l2", "reg.lambda=auto"], "loss=bce_dice split=0.2 reg=l2 batch=15 reg.lambda=auto"),
        (["optimizer.lr=1e-3", "seed=2"], "loss=bce_dice split=0.2 reg=none batch=15 seed=2"),
        (["optimizer.lr=1e-5"], "loss=bce_dice split=0.2 reg=none batch=15 optimizer.lr=1e-05"),
        (["model=unet_double"], "loss=bce_dice split=0.2 reg=none batch=15 model=unet_double"),
        (["data=rvsc", "data.root=/a b"], "loss=bce_dice split=0.2 reg=none batch=15 data=rvsc 'data.root=/a b'"),
        (["figures=false", "outputs=x", "name=y", "trainer.devices=1"], "loss=bce_dice split=0.2 reg=none batch=15"),
    ],
)
def test_a_label_names_the_axes_and_all_that_differs_from_the_options(overrides, label):
    run, found = labelled(*overrides)
    assert found == label
    assert typed(found) == run


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.allow=[duplicate_contour]"],
        ["data=folder", "data.root='5'", "data.pixel_mm=[1,1.5]", "data.patient='(?P<patient>[^_]+)_'"],
        ["data=folder", "data.root=a", "data.pixel_mm=1", "data.target='it\\'s'"],
        ["data=folder", "data.root=a", "data.pixel_mm=1", "data.target='5'"],
        ["data=folder", "data.root='a\\\\'", "data.pixel_mm=1"],
        ["+loss.extra=1"],
        ["loss=focal", "~loss.gamma"],
        ["tolerance_mm=3"],
        ["trainer.max_epochs=1", "model.dropout=0"],
        ["study=demo", "loss=bce"],
        ["data.n_patients=${data.seed}"],
    ],
)
def test_values_of_any_kind_come_back_from_a_label(overrides):
    run, label = labelled(*overrides)
    assert typed(label) == run


def test_an_option_of_the_users_own_group_comes_back_from_a_label(tmp_path):
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra/some.yaml").write_text("a: 1\n")
    place = f"hydra.searchpath=[{Path(tmp_path).as_uri()}]"
    cfg = hydra.compose("config", ["+extra=some", "extra.a=2", place], return_hydra_config=True)

    def compose_there(overrides):
        return hydra.compose("config", [*overrides, place], return_hydra_config=True)

    label = Labels(lambda overrides: Composed.of(compose_there(overrides))).of(cfg, options_of(cfg.hydra.runtime.choices))
    assert label.split()[-2:] == ["+extra=some", "extra.a=2"]
    assert identity.run_id(entry.plain(compose_there([quote_numbers(w) for w in shlex.split(label)]))) == identity.run_id(
        entry.plain(cfg)
    )
