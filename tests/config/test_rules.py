import pytest

from segtune.config import entry, rules
from segtune.data import readers, splits
from segtune.errors import InputError


def refusal(overrides):
    """The message with which a configuration is refused, by its values alone or by what its reader knows."""
    config = entry.plain(entry.compose(overrides))
    with pytest.raises(InputError) as caught:  # noqa: PT012 -- either of the two
        rules.check(config)
        readers.check_target(config["data"])
    return str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["reg=l1", "reg.lambda=-1"], "reg.lambda=-1: must be a number of at least 0"),
        (["reg=l2", "reg.lambda=nan"], "reg.lambda=nan: must be"),
        (["reg=l2", "reg.lambda=abc"], "reg.lambda=abc: must be"),
        (["reg=l1l2", "reg.lambda_l2=-1"], "reg.lambda_l2=-1: must be"),
        (["reg=l1", "reg.on=some"], "reg.on=some: must be one of kernels, all"),
        (["batch.size=0"], "batch.size=0: must be a whole number of at least 1"),
        (["batch.size=1.5"], "batch.size=1.5: must be a whole number"),
        (["batch.size=true"], "batch.size=True: must be a whole number"),
        (["data=folder", "data.root=x", "data.pixel_mm=1", "data.ed=1.5"], "data.ed=1.5: must be a frame's number, the text"),
        (["data=nnunet", "data.root=x", "data.target=1", "data.es=[]"], "data.es=[]: must be a frame's number, the text"),
        (
            ["data=nnunet", "data.root=x", "data.target=1", "data.ed=2", "data.es=2"],
            "data.ed=2 and data.es=2: ED and ES are",
        ),
        (["data.size=100"], "data.size=100: must be a multiple of 16"),
        (["data.normalize=max"], "data.normalize=max: must be one of zscore, divide255"),
        (["data.target=heart"], "data.target=heart: must be one of endocardium, epicardium"),
        (["split.val_fraction=1"], "split.val_fraction=1: must be a share above 0 and below 1"),
        (["split.by=slice"], "split.by=slice: must be one of patient, kfold, nested, contiguous, image"),
        (["trainer.max_epochs=0"], "trainer.max_epochs=0: must be"),
        (["trainer.devices=2"], "trainer.devices=2: must be 1"),
        (["trainer.threads=0"], "trainer.threads=0: must be"),
        (["seed=-1"], "seed=-1: must be"),
        (["optimizer.lr=0"], "optimizer.lr=0: must be a number above 0"),
        (["scheduler=step", "scheduler.step_size=0"], "scheduler.step_size=0: must be a whole number of at least 1"),
        (["scheduler=step", "scheduler.step_size=x"], "scheduler.step_size=x: must be"),
        (["scheduler=step", "scheduler.gamma=-1"], "scheduler.gamma=-1: must be a number above 0"),
        (["scheduler=step", "scheduler.gamma=x"], "scheduler.gamma=x: must be"),
        (["scheduler=cosine", "scheduler.T_max=0"], "scheduler.T_max=0: must be a whole number of at least 1"),
        (
            ["model=attention_unet", "model.strides=[3,3,3,3]"],
            "model.strides=[3, 3, 3, 3]: must be a list of 4 whole numbers from",
        ),
        (
            ["model=attention_unet", "model.strides=[2,2]"],
            "model.strides=[2, 2]: must be a list of 4 whole numbers from 1 to 2",
        ),
        (["model=attention_unet", "model.channels=[1,1,1,1,1]"], "model.channels=[1, 1, 1, 1, 1]: must be a list of 5 whole"),
        (["model=basic_unet", "model.norm=foo"], "model.norm=foo: must be one of batch, instance"),
        (["trainer.threads=100000"], "trainer.threads=100000: must be a whole number from 1 to 1024"),
        (["+trainer.accumulate_grad_batches=0"], "trainer.accumulate_grad_batches=0: must be"),
        (["+trainer.benchmark=foo"], "trainer.benchmark=foo: must be true or false"),
        (["+trainer.deterministic=foo"], "trainer.deterministic=foo: must be true, false or warn"),
        (["+trainer.gradient_clip_val=-1"], "trainer.gradient_clip_val=-1: must be a number of at least 0"),
        (["loss=focal", "loss.alpha=2"], "loss.alpha=2: must be a number of at least 0 and up to 1"),
    ],
)
def test_values_that_cannot_be_are_refused_by_key(overrides, message):
    assert refusal(overrides).startswith(message)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["split=kfold", "split.fold=99"],
            "split.fold=99: split.n_folds=5 has folds 0 to 4; name those, like split.fold=0,1 -m",
        ),
        (
            ["split=kfold", "study=as_run"],
            "split.by=contiguous goes with split.val_fraction, not with split.fold, split.n_folds: choose a share",
        ),
        (["split=kfold", "study=nested"], "split.by=nested goes with split.val_fraction"),
        (
            ["split.by=kfold"],
            "split.by=kfold goes with split.fold, split.n_folds, not with split.val_fraction: choose split=kfold",
        ),
        (["split=0.1", "study=nested"], "split.val_fraction=0.1: must be at least 0.2 with split.by=nested"),
        (["reg=l2", "reg.lambda=1e-3", "reg.ratio=0.3"], "reg.ratio=0.3 goes with reg.lambda=auto, not with reg.lambda=0.001"),
        (["loss=tversky", "loss.alpha=0", "loss.beta=0"], "loss.alpha=0 with loss.beta=0: the loss is 0 whatever"),
        (["loss=focal_tversky", "loss.gamma=0"], "loss.gamma=0: must be above 0 with loss=focal_tversky"),
        (["study=as_run", "model=basic_unet"], "model.bn_momentum=0.01 (study=as_run has it) goes with model=unet or"),
    ],
)
def test_values_that_cannot_be_beside_each_other_are_refused_by_key(overrides, message):
    assert refusal(overrides).startswith(message)


def test_the_least_share_of_nested_is_its_test_side():
    assert rules.NESTED_FROM == splits.TEST_FRACTION


def test_the_defaults_and_every_valid_edge_pass():
    for overrides in (
        [],
        ["split=kfold", "split.fold=4"],
        ["split=0.2", "study=nested"],
        ["loss=focal", "loss.gamma=0", "loss.alpha=0"],
        ["loss=tversky", "loss.beta=0"],
        ["loss=tversky", "loss.alpha=0"],
        ["reg=l2", "reg.lambda=auto", "reg.ratio=0.3"],
        ["study=as_run", "model=unet_double"],
        ["loss=focal", "loss.alpha=0.25"],
        ["trainer.devices=[1]"],
        ["reg=l1", "reg.lambda=0"],
        ["data=rvsc", "data.root=x"],
    ):
        rules.check(entry.plain(entry.compose(overrides)))
