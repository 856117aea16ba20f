import itertools

import hydra
import pytest
from hydra.errors import HydraException

from segtune.config import CONF, composing, entry
from segtune.config.composing import Composed, Composer
from segtune.config.overrides import quote_numbers
from segtune.sweeps import plan

STUDIES = sorted(path.stem for path in (CONF / "study").glob("*.yaml"))
UNUSUAL = [
    ["loss=focal", "reg=l1", "~loss.gamma"],
    ["loss=focal", "reg=l1", "+loss.extra=1"],
    ["loss=focal", "reg=l1", "++loss.gamma=1"],
    ["loss=focal", "reg=l1", "loss.gamma=1", "loss.gamma=3"],
    ["loss=focal", "loss=bce", "reg=l1"],
    ["loss=focal", "reg=l1l2", "reg.lambda_l1=1e-3", "reg.lambda_l2=0"],
    ["loss=focal", "reg=l1", "reg.lambda=auto", "reg.ratio=0.5"],
    ["loss=focal", "reg=l1", "loss.gamma=${seed}", "seed=4"],
    ["loss=focal", "reg=l1", "seed=1", "data.n_patients=7", "data.root=null"],
    ["data=rvsc", "data.root='5'", "model=unet_double", "batch='10'"],
    ["data=folder", "model=basic_unet", "data.root=a", "data.pixel_mm=[1,1.5]", "data.ed=[0,x]"],
    ["loss=focal", "reg=l1", "loss={gamma:1}"],
    ["loss=focal", "reg=l1", "outputs=elsewhere", "optimizer.lr=1e-3"],
    ["loss=focal", "reg=l1", "hydra.sweep.dir=there", "hydra/launcher=local"],
    ["study=as_run", "loss=bce", "reg=l2", "reg.lambda=0.1"],
    ["study=demo", "loss=bce", "split='0.6'", "batch=patient", "batch.size=3"],
    ["loss=nothing", "reg=l1"],
    ["loss=focal", "reg=l1", "split=0.6"],
    ["loss=focal", "reg=none", "reg.lambda=1"],
    ["loss=focal", "reg=l1", "trainer=1"],
    ["loss=focal", "reg=l1", "seed.a=1"],
    ["loss=focal", "reg=l1", "scheduler=step", "scheduler.step_size=2", "optimizer=sgd", "trainer.max_epochs=3"],
]


def compose(overrides):
    return hydra.compose("config", list(overrides), return_hydra_config=True)


@pytest.fixture(autouse=True)
def initialized():
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def outcome(make, overrides):
    """What composing gives: everything that the sweep uses of it, or the error."""
    try:
        composed = make(overrides)
    except (HydraException, ValueError) as error:
        return type(error), str(error)
    return entry.plain(composed.cfg), composing.leaves(composed.cfg), composed.options, composed.outputs


def by_hydra(overrides):
    return Composed.of(compose(overrides))


@pytest.mark.parametrize("study", [name if name == "l2" else pytest.param(name, marks=pytest.mark.slow) for name in STUDIES])
def test_put_together_is_what_hydra_composes_for_every_seventh_run_of_a_study(study):
    composer = Composer(compose)
    jobs = plan.combinations(list(compose([f"study={study}"]).hydra.sweeper.grids), [f"study={study}"])
    for job in jobs[::7]:
        assert outcome(composer, job) == outcome(by_hydra, job)


@pytest.mark.parametrize("overrides", UNUSUAL, ids=" ".join)
def test_unusual_overrides_give_what_hydra_gives_the_first_time_and_again(overrides):
    composer, expected = Composer(compose), outcome(by_hydra, overrides)
    assert [outcome(composer, overrides) for _ in range(2)] == [expected] * 2


def test_one_configuration_does_not_change_the_next():
    composer = Composer(compose)
    for overrides in (["loss=focal", "reg=l1", "loss.gamma=5", "seed=3"], ["loss=focal", "reg=l1"]):
        assert outcome(composer, overrides) == outcome(by_hydra, overrides)


def test_an_option_that_changes_other_groups_too_is_left_to_hydra(tmp_path):
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss/wide.yaml").write_text(
        "# @package _global_\nloss:\n  _target_: lab.wide\n  _partial_: true\nsplit:\n  seed: 3\n"
    )
    place = f"hydra.searchpath=[{tmp_path.as_uri()}]"
    overrides = ["loss=wide", "reg=l1", place]
    assert outcome(Composer(compose), overrides) == outcome(by_hydra, overrides)
    assert Composer(compose)(overrides).cfg.split.seed == 3


def test_hydra_composes_each_option_once_and_no_combination():
    asked = []

    def counting(overrides):
        asked.append(tuple(overrides))
        return compose(overrides)

    composer = Composer(counting)
    for loss, reg, lr in itertools.product(("bce", "focal"), ("l1", "l2", "none"), ("1e-3", "1e-4")):
        composer([quote_numbers(one) for one in (f"loss={loss}", f"reg={reg}", f"optimizer.lr={lr}")])
    assert len(asked) == 1 + 2 + 3
