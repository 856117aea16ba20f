"""From a configuration to an Experiment. This is where the configuration ends: nothing that trains or scores sees it."""

import functools
import inspect
import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn

from segtune import nets
from segtune.config.entry import plain
from segtune.data import contour_files, findings, readers, recognition, slice_checks, splits
from segtune.data.grid import resample_and_crop
from segtune.data.slices import SliceSet
from segtune.data.splits import Split
from segtune.errors import InputError, printable
from segtune.metrics.score import TOLERANCE_MM
from segtune.runs import identity
from segtune.runs.inputs import content_hashes
from segtune.training.experiment import Experiment, Penalty, TrainerSettings

logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
log = logging.getLogger(__name__)
COARSE = 0.09  # two of the named shares, 0.2 apart, train on the same patients only where one is missed by 0.1
OWN_TRAINER_KEYS = ("threads", "compile", "patience")  # the keys of cfg.trainer that are not arguments of Lightning's Trainer
LIGHTNING_KEYS = {
    *("max_epochs", "accelerator", "devices", "precision", "accumulate_grad_batches", "gradient_clip_val"),
    *("gradient_clip_algorithm", "deterministic", "benchmark", "detect_anomaly"),
}


def experiment(cfg: DictConfig) -> Experiment:
    """Read the data of a composed configuration, check and split them, and build everything that a run needs.

    Raises: InputError for data or settings that cannot be used.
    """
    started = time.perf_counter()
    config = plain(cfg)
    name = f"run {identity.run_id(config)}"
    stored = slices(cfg)
    sides = split(cfg, stored)
    found = slice_checks.for_run(
        stored, sides, allow=config["data"].get("allow"), of_contours=contour_files.for_run(config["data"], stored)
    )
    for kind, (n, first) in findings.warnings(found).items():
        log.warning("%s: %s (%d); the first: %s", name, findings.KINDS[kind], n, printable(first))
    fingerprint = stored.fingerprint()
    on_grid = resample_and_crop(
        stored, size=cfg.data.size, spacing_mm=cfg.data.get("spacing_mm"), larger=cfg.data.get("larger")
    )
    return Experiment(
        config=config,
        slices=on_grid,
        split=sides,
        calibration_split=split(cfg, stored, fold=0) if cfg.split.get("fold") else sides,
        findings=found + slice_checks.of_crop(on_grid),  # resample_and_crop has logged the latter
        fingerprint=fingerprint,
        inputs={"data": fingerprint, **content_hashes(config)},
        codes=recognition.codes(stored),
        network=functools.partial(network, cfg.model),
        loss=functools.partial(_function, cfg.loss, "loss"),
        penalty=_penalty(cfg),
        optimizer=_optimizer(cfg),
        scheduler=_function(cfg.scheduler, "scheduler") if cfg.scheduler else None,
        trainer=_trainer_settings(cfg.trainer),
        image_size=cfg.data.size,
        normalize=cfg.data.normalize,
        batch_size=None if cfg.batch.size == "patient" else cfg.batch.size,
        shuffle=cfg.batch.shuffle is not False,
        seed=cfg.seed,
        tolerance_mm=cfg.get("tolerance_mm") or TOLERANCE_MM,
        figures=bool(cfg.get("figures")),
        seconds=time.perf_counter() - started,
    )


def slices(cfg: DictConfig) -> SliceSet:
    """The data set as it is stored, read by the reader that cfg.data names. Raises: InputError."""
    readers.check_target(cfg.data)
    try:
        data: SliceSet = instantiate(cfg.data.reader)
        return data
    except InstantiationException as error:
        if not isinstance(error.__cause__, InputError):
            raise
        refusal = error.__cause__  # the reader's own, which Hydra has wrapped
    raise refusal


def split(cfg: DictConfig, data: SliceSet, *, fold: int | None = None) -> Split:
    """The training and the validation side by cfg.split. fold: another fold than the configuration's. Raises: InputError."""
    if len(set(data.patients)) < 2:
        raise InputError(
            f"the data hold a single patient ({', '.join(set(data.patients))}), so nobody is left to validate on. Give at "
            "least two patients."
        )
    rule = splits.RULES[cfg.split.by]
    settings = {**cfg.split, **({} if fold is None else {"fold": fold})}
    sides = rule(data.patients, **{name: settings[name] for name in inspect.signature(rule).parameters if name != "patients"})
    if cfg.split.by == "nested" and abs((got := len(sides.train) / len(data)) - (1 - cfg.split.val_fraction)) > COARSE:
        log.warning(
            "split.val_fraction=%g with split.by=nested: patients stay together, so with these %d patients a share of %.2f "
            "trains, not %.2f, and neighbouring values may give the same split. More patients allow a finer choice.",
            *(cfg.split.val_fraction, len(set(data.patients)), got, 1 - cfg.split.val_fraction),
        )
    return sides


def network(model: DictConfig | dict[str, Any]) -> nn.Module:
    """A new network as cfg.model describes it, in the memory format in which convolutions are fastest."""
    net: nn.Module = instantiate(model).to(memory_format=torch.channels_last)
    return net


def _penalty(cfg: DictConfig) -> Penalty | None:
    """The regulariser of cfg.reg. `lambda` is a keyword of Python, so from here on it is called a weight."""
    reg = cfg.get("reg") or {}
    if "penalty" not in reg:
        return None
    weight = reg.get("lambda", 1.0)
    return Penalty(
        _function(reg["penalty"], "reg.penalty"),
        nets.REGULARIZED[reg["on"]],
        weight=None if weight == "auto" else weight,
        ratio=float(reg.get("ratio") or 1.0),
        tunable="lambda" in reg,
        name=str(reg["penalty"]["_target_"]).rpartition(".")[2],
        on=reg["on"],
    )


def _optimizer(cfg: DictConfig) -> Callable[..., torch.optim.Optimizer]:
    """The optimiser of cfg.optimizer, fused unless Lightning must unscale half-precision gradients in order to clip them."""
    optimizer = _function(cfg.optimizer, "optimizer")
    unscales = str(cfg.trainer.precision).startswith("16") and cfg.trainer.get("gradient_clip_val")
    return optimizer if unscales else fused(optimizer)


def _function(cfg: DictConfig, key: str) -> Callable[..., Any]:
    """The function or object that a `_target_` gives. Arguments that a `_partial_` function does not take are refused now."""
    function: Callable[..., Any] = instantiate(cfg)
    try:
        inspect.signature(function)
    except ValueError as error:
        given = ", ".join(str(name) for name in cfg if not str(name).startswith("_"))
        raise InputError(f"{key}: {cfg['_target_']} does not take all of these arguments: {given}.") from error
    return function


def fused(optimizer: Callable[..., Any]) -> Callable[..., Any]:
    """The optimiser as one kernel, if it has one and the user chose no implementation: the same update in less time."""
    parameters = inspect.signature(optimizer).parameters
    chosen = {parameters[name].default for name in ("fused", "foreach") if name in parameters}
    return functools.partial(optimizer, fused=True) if "fused" in parameters and chosen == {None} else optimizer


def _trainer_settings(cfg: DictConfig) -> TrainerSettings:
    arguments = {str(key): value for key, value in cfg.items() if key not in OWN_TRAINER_KEYS}
    for key in sorted(arguments.keys() - LIGHTNING_KEYS):
        supported = ", ".join(sorted(LIGHTNING_KEYS))
        raise InputError(f"trainer.{key}: unsupported argument of Lightning's Trainer. Supported: {supported}.")
    return TrainerSettings(arguments, cfg.max_epochs, cfg.patience, cfg.threads, cfg.compile)
