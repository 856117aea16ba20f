"""Build an Experiment from a configuration. The modules that train and score use the Experiment, not the configuration."""

import functools
import inspect
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from segtune import nets, schedules
from segtune.augment import patch_side
from segtune.config.entry import plain
from segtune.data import contour_files, findings, readers, recognition, slice_checks, splits
from segtune.data.grid import resample_and_crop
from segtune.data.slices import SliceSet
from segtune.data.splits import Split
from segtune.data.tensors import Batch
from segtune.errors import InputError, printable
from segtune.metrics.score import TOLERANCE_MM
from segtune.runs import budget, expected, identity
from segtune.runs.inputs import content_hashes
from segtune.training.experiment import Experiment, Penalty, TrainerSettings

logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
log = logging.getLogger(__name__)
# Warn if the actual training share differs from the requested one by more than this. Two option files with shares that are 0.2
# apart can only give the same training patients if one of the shares is missed by 0.1.
COARSE = 0.09
OWN_TRAINER_KEYS = (
    "max_steps",
    "val_every_steps",
    "threads",
    "compile",
    "patience",
)  # the keys of cfg.trainer that are not arguments of Lightning's Trainer
COSINE = "torch.optim.lr_scheduler.CosineAnnealingLR"  # the target of scheduler=cosine
LIGHTNING_KEYS = {
    *("max_epochs", "accelerator", "devices", "precision", "accumulate_grad_batches", "gradient_clip_val"),
    *("gradient_clip_algorithm", "deterministic", "benchmark", "detect_anomaly"),
}


def experiment(cfg: DictConfig, *, options: Mapping[str, str] | None = None, label: str = "") -> Experiment:
    """Read, check and split the data of a composed configuration, and build all objects that a run needs.

    Args:
        options: config group -> chosen option, which the run records.
        label: the overrides that repeat the run; if empty, the label is made from the configuration.
    Raises: InputError for invalid data or settings.
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
        stored,
        size=cfg.data.size,
        spacing_mm=cfg.data.get("spacing_mm"),
        larger=cfg.data.get("larger"),
        antialias=bool(cfg.data.get("antialias")),
    )
    scheduler, interval = _scheduler(cfg)
    return Experiment(
        config=config,
        options=options or {},
        label=label or identity.label(config),
        slices=on_grid,
        split=sides,
        calibration_split=split(cfg, stored, fold=0) if cfg.split.get("fold") else sides,
        # the latter are already logged by resample_and_crop
        findings=found + [asdict(one) for one in slice_checks.of_crop(on_grid)],
        fingerprint=fingerprint,
        inputs={"data": fingerprint, **content_hashes(config)},
        codes=recognition.codes(stored),
        network=functools.partial(network, cfg.model),
        loss=functools.partial(_function, cfg.loss, "loss"),
        penalty=_penalty(cfg),
        optimizer=_optimizer(cfg),
        scheduler=scheduler,
        scheduler_interval=interval,
        augment=_augmentation(cfg),
        average_decay=cfg.average.get("decay"),
        trainer=_trainer_settings(cfg.trainer),
        image_size=cfg.data.size,
        downsample=cfg.data.get("downsample"),
        normalize=cfg.data.normalize,
        batch_size=None if cfg.batch.size == "patient" else cfg.batch.size,
        shuffle=cfg.batch.shuffle is not False,
        seed=cfg.seed,
        tta=(cfg.score or {}).get("tta") or False,
        largest_component=(cfg.score or {}).get("largest_component") or False,
        tolerance_mm=cfg.get("tolerance_mm") or TOLERANCE_MM,
        figures=bool(cfg.get("figures")),
        expected=expected.score(folder, config, fingerprint) if (folder := cfg.split.get("chosen_from")) else None,
        seconds=time.perf_counter() - started,
    )


def slices(cfg: DictConfig) -> SliceSet:
    """Read the data set with the reader in cfg.data, without resampling or cropping. Raises: InputError."""
    readers.check_target(cfg.data)
    try:
        data: SliceSet = instantiate(cfg.data.reader)
        return data
    except InstantiationException as error:
        if not isinstance(error.__cause__, InputError):
            raise
        refusal = error.__cause__  # raised by the reader and wrapped by Hydra
    raise refusal


def split(cfg: DictConfig, data: SliceSet, *, fold: int | None = None) -> Split:
    """Split the slices into training and validation according to cfg.split.

    Args: fold: use this fold instead of cfg.split.fold.
    Raises: InputError if the data have a single patient.
    """
    if len(set(data.patients)) < 2 and cfg.split.by != "all":
        raise InputError(
            f"the data contain a single patient ({', '.join(set(data.patients))}), so no patient is left for "
            "validation. Give at least two patients."
        )
    rule = splits.RULES[cfg.split.by]
    settings = {**cfg.split, **({} if fold is None else {"fold": fold})}
    arguments = {name: settings.get(name) for name in inspect.signature(rule).parameters if name != "patients"}
    sides = rule(data.patients, **arguments)
    is_single = cfg.split.by == "nested" and settings.get("n_folds") is None
    if is_single and abs((got := len(sides.train) / len(data)) - (1 - cfg.split.val_fraction)) > COARSE:
        log.warning(
            "split.val_fraction=%g with split.by=nested: a patient's images are never divided, so with these %d patients the "
            "training share is %.2f instead of %.2f, and similar values may give the same split. Use more patients.",
            *(cfg.split.val_fraction, len(set(data.patients)), got, 1 - cfg.split.val_fraction),
        )
    return sides if (kept := settings.get("images_per_patient")) is None else _thinned(sides, data, kept, cfg.split.seed)


def _thinned(sides: Split, data: SliceSet, images_per_patient: int, seed: int) -> Split:
    """Keep images_per_patient training images of each patient, and log a warning if a patient has fewer."""
    counts = Counter(data.patients[index] for index in sides.train)
    if few := [patient for patient, n in counts.items() if n < images_per_patient]:
        log.warning(
            "split.images_per_patient=%d: %d of %d training patients have fewer images (%s: %d); all their images are used.",
            *(images_per_patient, len(few), len(counts), min(few, key=counts.__getitem__), min(counts.values())),
        )
    return splits.thin(data.patients, sides, images_per_patient=images_per_patient, seed=seed)


def network(model: DictConfig | dict[str, Any]) -> nn.Module:
    """Build a new network from cfg.model, in the memory format with the fastest convolutions (channels last)."""
    net: nn.Module = instantiate(model).to(memory_format=torch.channels_last)
    return net


def _penalty(cfg: DictConfig) -> Penalty | None:
    """Build the regulariser in cfg.reg, or return None if cfg.reg is empty.

    The code uses the name `weight` for lambda, because `lambda` is a Python keyword.
    """
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
    """Build the optimiser in cfg.optimizer.

    It is a fused optimiser unless Lightning must unscale half-precision gradients to clip them.
    """
    optimizer = _function(cfg.optimizer, "optimizer")
    unscales = str(cfg.trainer.precision).startswith("16") and cfg.trainer.get("gradient_clip_val")
    return optimizer if unscales else fused(optimizer)


def _scheduler(cfg: DictConfig) -> tuple[Callable[..., LRScheduler] | None, str]:
    """Build the scheduler in cfg.scheduler.

    Also returns when the scheduler is stepped: after each "epoch" or after each optimiser "step".

    The schedules of segtune are stepped after each optimiser step. The schedules of torch and of users are stepped
    after each epoch. If the length of the run is given in steps or there is a warm-up, segtune's cosine schedule is
    used instead of torch's.
    """
    if not cfg.scheduler:
        return None, "epoch"
    target, warmup_steps = str(cfg.scheduler.get("_target_")), cfg.scheduler.get("warmup_steps")
    if target == COSINE and (cfg.trainer.max_steps is not None or warmup_steps is not None):
        return functools.partial(schedules.cosine, warmup_steps=warmup_steps or 0), "step"
    given = {key: value for key, value in cfg.scheduler.items() if key != "warmup_steps" or value is not None}
    function = _function(OmegaConf.create(given), "scheduler")
    if target.startswith("segtune.schedules."):
        return function, "step"
    return lambda optimizer, n_steps: function(optimizer), "epoch"


def _augmentation(cfg: DictConfig) -> Callable[..., Batch] | None:
    """Build the augmentation in cfg.augment, or return None if cfg.augment is empty.

    The patch size is computed from the image size.
    """
    if not cfg.augment:
        return None
    size = cfg.data.size // (cfg.data.get("downsample") or 1)
    function = _function(cfg.augment, "augment")
    patch = {"patch": patch_side(cfg.augment.patch, size)} if "patch" in cfg.augment else {}
    return functools.partial(function, **patch)


def _function(cfg: DictConfig, key: str) -> Callable[..., Any]:
    """Instantiate the function or object of a `_target_`.

    Args: key: the key of cfg in the configuration, for error messages.
    Raises: InputError if a `_partial_` function does not accept the given arguments. The error is raised here, before
        the function is called.
    """
    function: Callable[..., Any] = instantiate(cfg)
    try:
        inspect.signature(function)
    except ValueError as error:
        given = ", ".join(str(name) for name in cfg if not str(name).startswith("_"))
        raise InputError(f"{key}: {cfg['_target_']} does not accept all of these arguments: {given}.") from error
    return function


def fused(optimizer: Callable[..., Any]) -> Callable[..., Any]:
    """Return the optimiser with fused=True, which is faster, if this is supported and the user has not set it."""
    parameters = inspect.signature(optimizer).parameters
    chosen = {parameters[name].default for name in ("fused", "foreach") if name in parameters}
    return functools.partial(optimizer, fused=True) if "fused" in parameters and chosen == {None} else optimizer


def _trainer_settings(cfg: DictConfig) -> TrainerSettings:
    arguments = {str(key): value for key, value in cfg.items() if key not in OWN_TRAINER_KEYS}
    for key in sorted(arguments.keys() - LIGHTNING_KEYS):
        supported = ", ".join(sorted(LIGHTNING_KEYS))
        raise InputError(f"trainer.{key}: unsupported argument of Lightning's Trainer. Supported: {supported}.")
    epochs, steps = budget.n_epochs(cfg), budget.steps_per_epoch(cfg)
    return TrainerSettings(arguments | {"max_epochs": epochs}, epochs, steps, cfg.patience, cfg.threads, cfg.compile)
