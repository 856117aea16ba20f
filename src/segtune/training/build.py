"""Configuration to objects: the slices, their split, the network, the loss, the penalty. Each from a resolved config."""

import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn

from segtune import nets
from segtune.data import splits
from segtune.data.grid import resample_and_crop
from segtune.data.slices import SliceSet
from segtune.data.splits import Split
from segtune.data.tensors import SliceData
from segtune.errors import InputError
from segtune.training.module import Segmenter

logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
log = logging.getLogger(__name__)
COARSE = 0.09  # two of the named shares, 0.2 apart, train on the same patients only where one is missed by 0.1
OURS = ("threads", "compile", "patience")  # of cfg.trainer, not for Lightning
TRAINER = {
    *("max_epochs", "accelerator", "devices", "precision", "accumulate_grad_batches", "gradient_clip_val"),
    *("gradient_clip_algorithm", "deterministic", "benchmark", "detect_anomaly"),
}


def slices(cfg: DictConfig) -> SliceSet:
    """The data set as it is, read by the reader of cfg.data."""
    return instantiate(cfg.data.reader)


def fit(cfg: DictConfig, data: SliceSet) -> SliceSet:
    """The data set as the network sees it: resampled and cropped, as far as cfg.data wants that."""
    return resample_and_crop(data, size=cfg.data.size, spacing_mm=cfg.data.get("spacing_mm"), larger=cfg.data.get("larger"))


def split(cfg: DictConfig, data: SliceSet) -> Split:
    """Who trains and who validates, by cfg.split."""
    if len(set(data.patients)) < 2:
        raise InputError(
            f"the data hold a single patient ({', '.join(set(data.patients))}): with nobody to validate on, nothing can be "
            "compared. Give at least two patients."
        )
    rule = splits.RULES[cfg.split.by]
    wanted = [name for name in inspect.signature(rule).parameters if name != "patients"]
    sides = rule(data.patients, **{name: cfg.split[name] for name in wanted})
    if cfg.split.by == "nested" and abs((got := len(sides.train) / len(data)) - (1 - cfg.split.val_fraction)) > COARSE:
        log.warning(
            "split.val_fraction=%g with split.by=nested: patients stay together, so that with these %d a share of %.2f trains, "
            "not %.2f, and so it may at a neighbouring value. For a finer choice give more patients.",
            *(cfg.split.val_fraction, len(set(data.patients)), got, 1 - cfg.split.val_fraction),
        )
    return sides


def datamodule(cfg: DictConfig, data: SliceSet, sides: Split) -> SliceData:
    return SliceData(
        data,
        sides,
        size=cfg.data.size,
        normalize=cfg.data.normalize,
        batch_size=None if cfg.batch.size == "patient" else cfg.batch.size,
        shuffle=cfg.batch.shuffle is not False,
        seed=cfg.seed,
    )


def network(model: DictConfig | dict[str, Any]) -> nn.Module:
    """The network that cfg.model describes, in the order in memory that convolutions are fastest in."""
    return instantiate(model).to(memory_format=torch.channels_last)


def module(cfg: DictConfig, hyperparameters: dict[str, Any], *, strength: float | None = None) -> Segmenter:
    """The experiment: network, loss, penalty and optimiser. The weights come from torch's global generator.

    `lambda` is a keyword of Python, so here it becomes `strength`; a penalty with lambdas of its own (l1l2) has none.

    Args: strength: lambda, if it is not the configuration's (calibrate).
    """
    net = network(cfg.model)
    if cfg.trainer.compile:
        torch.compiler.reset()  # else the ninth network that a process compiles runs as it is: a limit per function of torch's
        net.compile(mode=cfg.trainer.compile, dynamic=False)
    reg = cfg.get("reg") or {}
    penalty = _function(reg["penalty"], "reg.penalty") if "penalty" in reg else None
    if strength is None:
        strength = reg.get("lambda", 1.0)
    optimizer = _function(cfg.optimizer, "optimizer")
    unscales = str(cfg.trainer.precision).startswith("16") and cfg.trainer.get("gradient_clip_val")  # fused, Adam would too
    return Segmenter(
        net,
        _function(cfg.loss, "loss"),
        optimizer if unscales else fused(optimizer),
        scheduler=_function(cfg.scheduler, "scheduler") if cfg.scheduler else None,
        penalty=penalty,
        strength=strength,
        penalised=nets.PENALISED[reg["on"]](net) if penalty else (),
        seed=cfg.seed,
        hyperparameters=hyperparameters,
    )


def _function(cfg: DictConfig, key: str) -> Callable[..., Any]:
    """What a `_partial_` target gives, its arguments checked now and not at its first call."""
    function = instantiate(cfg)
    try:
        inspect.signature(function)
    except ValueError as error:
        given = ", ".join(str(name) for name in cfg if not str(name).startswith("_"))
        raise InputError(f"{key}: {cfg['_target_']} does not take all of these arguments: {given}.") from error
    return function


def fused(optimizer: Callable[..., Any]) -> Callable[..., Any]:
    """The optimiser as one kernel, where it has one and nothing else was said: the same update in a fraction of the time."""
    parameters = inspect.signature(optimizer).parameters
    chosen = {parameters[name].default for name in ("fused", "foreach") if name in parameters}
    return functools.partial(optimizer, fused=True) if "fused" in parameters and chosen == {None} else optimizer


def trainer(cfg: DictConfig, callbacks: list[pl.Callback], checkpoint_io: CheckpointIO) -> pl.Trainer:
    """Lightning's trainer with cfg.trainer's arguments (but for OURS).

    Logging (history.csv), checkpoints and the progress bar are ours; a cluster's requeue is ours too, so Lightning sees a
    plain environment.
    """
    arguments = {key: value for key, value in cfg.trainer.items() if key not in OURS}
    for key in sorted(str(key) for key in arguments.keys() - TRAINER):
        raise InputError(
            f"trainer.{key}: a run is whole epochs, each of them validated whole, so it takes of Lightning's arguments only "
            f"{', '.join(sorted(TRAINER))}."
        )
    try:
        return pl.Trainer(
            **arguments,
            callbacks=callbacks,
            enable_progress_bar=False,
            logger=False,
            num_sanity_val_steps=0,
            enable_model_summary=False,
            enable_checkpointing=False,
            plugins=[LightningEnvironment(), checkpoint_io],
        )
    except (TypeError, ValueError, ImportError, MisconfigurationException) as error:
        chosen = ", ".join(f"trainer.{key}={value}" for key, value in arguments.items())
        raise InputError(f"{chosen}: Lightning refuses this: {error}") from error


@contextmanager
def threads(cfg: DictConfig) -> Iterator[None]:
    """This process's CPU threads as cfg.trainer.threads wants them (null: all cores), and afterwards as they were."""
    before = torch.get_num_threads()
    if cfg.trainer.threads is not None:
        torch.set_num_threads(cfg.trainer.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
