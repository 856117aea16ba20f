import re

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
        (["reg=l1", "reg.lambda=-1"], r"reg.lambda=-1: .*\b0\b"),
        (["reg=l2", "reg.lambda=nan"], "reg.lambda=nan: "),
        (["reg=l2", "reg.lambda=abc"], "reg.lambda=abc: "),
        (["reg=l1l2", "reg.lambda_l2=-1"], "reg.lambda_l2=-1: "),
        (["reg=l1", "reg.on=some"], "reg.on=some: .*kernels, all"),
        (["batch.size=0"], r"batch.size=0: .*\b1\b"),
        (["batch.size=1.5"], "batch.size=1.5: .*whole"),
        (["batch.size=true"], "batch.size=True: .*whole"),
        (["data=folder", "data.root=x", "data.pixel_mm=1", "data.ed=1.5"], "data.ed=1.5: .*largest"),
        (["data=nnunet", "data.root=x", "data.target=1", "data.es=[]"], r"data.es=\[\]: .*smallest"),
        (
            ["data=nnunet", "data.root=x", "data.target=1", "data.ed=2", "data.es=2"],
            r"data.ed=2 \w+ data.es=2: ",
        ),
        (["trainer.max_steps=100", "trainer.max_epochs=5"], "trainer.max_epochs=5 and trainer.max_steps=100: .*null"),
        (["trainer.max_epochs=null"], "no length of the run: .*trainer.max_steps"),
        (["trainer.val_every_steps=5"], "trainer.val_every_steps=5 needs trainer.max_steps"),
        (["trainer.max_steps=100", "trainer.val_every_steps=30"], r"trainer.max_steps=100: .*multiple .*val_every_steps=30\b"),
        (["scheduler=cosine", "scheduler.T_max=3", "scheduler.warmup_steps=2"], r"scheduler.T_max=3: .*\bno effect\b"),
        (["recipe=strong", "scheduler=cosine", "scheduler.T_max=3"], r"scheduler.T_max=3: .*\bno effect\b"),
        (["recipe=strong", "trainer.max_steps=50"], "scheduler.warmup_steps=50: .*trainer.max_steps=50"),
        (["recipe=strong", "average.decay=1"], "average.decay=1: .*below 1"),
        (["recipe=strong", "augment.patch=100"], "augment.patch=100: .*multiple of 16"),
        (["recipe=strong", "augment.patch=176"], r"augment.patch=176: .*\b160\b"),
        (["recipe=strong", "augment.p_gamma=2"], r"augment.p_gamma=2: .*\b1\b"),
        (["recipe=strong", "augment.mirror=1"], "augment.mirror=1: .*true or false"),
        (["data.downsample=1"], r"data.downsample=1: .*\b2\b"),
        (["data.size=48", "data.downsample=2"], "data.size=48 with data.downsample=2: .*multiple of 32"),
        (["data.antialias=2"], "data.antialias=2: .*true"),
        (["model=unet_plain", "model.norm=layer"], "model.norm=layer: .*batch, instance"),
        (["data.size=100"], r"data.size=100: .*\b16\b"),
        (["data.normalize=max"], "data.normalize=max: .*zscore, divide255"),
        (["data.target=heart"], "data.target=heart: .*endocardium, epicardium"),
        (["split.val_fraction=1"], r"split.val_fraction=1: .*\b0\b.*\b1\b"),
        (["split.by=slice"], "split.by=slice: .*patient, kfold, nested, contiguous, image"),
        (["trainer.max_epochs=0"], "trainer.max_epochs=0: "),
        (["trainer.devices=2"], r"trainer.devices=2: .*\b1\b"),
        (["trainer.threads=0"], "trainer.threads=0: "),
        (["seed=-1"], "seed=-1: "),
        (["optimizer.lr=0"], r"optimizer.lr=0: .*\b0\b"),
        (["scheduler=step", "scheduler.step_size=0"], r"scheduler.step_size=0: .*\b1\b"),
        (["scheduler=step", "scheduler.step_size=x"], "scheduler.step_size=x: "),
        (["scheduler=step", "scheduler.gamma=-1"], r"scheduler.gamma=-1: .*\b0\b"),
        (["scheduler=step", "scheduler.gamma=x"], "scheduler.gamma=x: "),
        (["scheduler=cosine", "scheduler.T_max=0"], r"scheduler.T_max=0: .*\b1\b"),
        (
            ["model=attention_unet", "model.strides=[3,3,3,3]"],
            r"model.strides=\[3, 3, 3, 3\]: .*\b1\b.*\b2\b",
        ),
        (
            ["model=attention_unet", "model.strides=[2,2]"],
            r"model.strides=\[2, 2\]: .*model.channels=",
        ),
        (["model=attention_unet", "model.channels=[1,1,1,1,1]"], r"model.channels=\[1, 1, 1, 1, 1\]: .*\b2\b"),
        (["model=basic_unet", "model.norm=foo"], "model.norm=foo: .*batch, instance"),
        (["trainer.threads=100000"], r"trainer.threads=100000: .*\b1\b.*\b1024\b"),
        (["+trainer.accumulate_grad_batches=0"], "trainer.accumulate_grad_batches=0: "),
        (["+trainer.benchmark=foo"], "trainer.benchmark=foo: .*true.*false"),
        (["+trainer.deterministic=foo"], "trainer.deterministic=foo: .*true.*false.*warn"),
        (["+trainer.gradient_clip_val=-1"], r"trainer.gradient_clip_val=-1: .*\b0\b"),
        (["loss=focal", "loss.alpha=2"], r"loss.alpha=2: .*\b0\b.*\b1\b"),
    ],
)
def test_values_that_cannot_be_are_refused_by_key(overrides, message):
    assert re.match(message, refusal(overrides))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["split=kfold", "split.fold=99"],
            r"split.fold=99: split.n_folds=5\b.*\b0\b.*\b4\b.*split.fold=0,1 -m",
        ),
        (
            ["split=kfold", "study=as_run"],
            r"split.by=contiguous\b.*split.val_fraction\b.*split.fold, split.n_folds: ",
        ),
        (["split=kfold", "split.by=nested"], r"split.by=nested\b.*split.val_fraction\b.*split.fold.*split=nested"),
        (["split=nested", "split.fold=5"], r"split.fold=5: split.n_folds=5\b.*\b0\b.*\b4\b.*split.fold=0,1 -m"),
        (["split=nested", "split.val_fraction=0.1"], r"split.val_fraction=0.1: .*\b0\.2\b.*split.n_folds=5\b.*\b0\.8\b"),
        (["split=nested", "split.by=patient"], r"split.by=patient\b.*split.val_fraction\b.*split.fold"),
        (
            ["split.by=kfold"],
            r"split.by=kfold\b.*split.fold, split.n_folds\b.*split.val_fraction: .*split=kfold",
        ),
        (["split=0.1", "split.by=nested"], r"split.val_fraction=0.1: .*\b0\.2\b.*split.by=nested"),
        (["reg=l2", "reg.lambda=1e-3", "reg.ratio=0.3"], r"reg.ratio=0.3\b.*reg.lambda=auto\b.*reg.lambda=0.001\b"),
        (["loss=tversky", "loss.alpha=0", "loss.beta=0"], r"loss.alpha=0 \w+ loss.beta=0: "),
        (["loss=focal_tversky", "loss.gamma=0"], "loss.gamma=0: .*loss=focal_tversky"),
        (["study=as_run", "model=basic_unet"], r"model.bn_momentum=0.01\b.*study=as_run\b.*model=unet\b"),
    ],
)
def test_values_that_cannot_be_beside_each_other_are_refused_by_key(overrides, message):
    assert re.match(message, refusal(overrides))


def test_the_least_share_of_nested_is_its_test_side():
    assert rules.NESTED_FROM == splits.TEST_FRACTION


def test_the_defaults_and_every_valid_edge_pass():
    for overrides in (
        [],
        ["split=kfold", "split.fold=4"],
        ["split=0.2", "split.by=nested"],
        ["split=nested", "split.fold=4"],
        ["split=nested", "split.n_folds=10", "split.val_fraction=0.1", "split.fold=9"],
        ["split=0.6", "split.images_per_patient=1"],
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
