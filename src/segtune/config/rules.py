"""Validation rules for configuration values: rules for single keys, and combinations of keys that contradict each other.

The rules here are for the keys that segtune itself reads. The rules for the keys of its options are in option_rules.py.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from segtune.config import option_rules
from segtune.config.option_rules import Rule, is_number, one_of, real, whole
from segtune.errors import InputError
from segtune.runs import budget

# Other commands write to these folders in outputs/, so a sweep cannot have these names.
VERBS = ("runs", "calibrate", "check", "evaluate", "export")


CHOICE = (lambda v: isinstance(v, bool) or v == "auto", "true, false or auto")

RULES: dict[str, Rule] = {
    "outputs": (lambda v: isinstance(v, str) and bool(v.strip()), "a folder"),
    "figures": (lambda v: isinstance(v, bool), "true or false"),
    "on_failure": one_of("continue", "stop"),
    "name": (
        lambda v: bool(re.fullmatch(r"[A-Za-z0-9][\w.-]{0,99}", str(v))) and not isinstance(v, bool) and v not in VERBS,
        "a folder name of at most 100 letters, digits, '.', '-' and '_' that begins with a letter or digit and is none of the "
        f"reserved names {', '.join(VERBS)}",
    ),
    "looks": (
        lambda v: v is None or (isinstance(v, list) and bool(v) and all(type(n) is int for n in v) and v == sorted({*v})),
        "a list of growing numbers of runs, like [3,5,10], or null",
    ),
    "dry_run": (lambda v: isinstance(v, bool), "true or false"),
    "json": (lambda v: isinstance(v, bool), "true or false"),
    "seed": whole(0, 2**32 - 1),
    "data.target": (  # data.readers.check_target checks that the reader has this structure
        lambda v: isinstance(v, str | int) and not isinstance(v, bool) and bool(str(v).strip()),
        "the name of a structure, or its value in the masks",
    ),
    "data.allow": (
        lambda v: isinstance(v, list) and all(isinstance(k, str) for k in v),
        "a list of kinds of errors, like [duplicate_image]",
    ),
    "tolerance_mm": real(0, open_low=True),
    "score.largest_component": CHOICE,
    "score.tta": CHOICE,
    "data.larger": one_of("crop"),
    "data.spacing_mm": real(0, open_low=True),
    "data.size": (
        lambda v: isinstance(v, int) and v >= 16 and v % 16 == 0,
        "a multiple of 16, because the network halves the size of the image four times",
    ),
    "data.downsample": (whole(2, 8)[0], f"null or {whole(2, 8)[1]}"),
    "data.antialias": (lambda v: isinstance(v, bool), "true, false or null"),
    "data.normalize": one_of("zscore", "divide255"),
    "split.val_fraction": (lambda v: is_number(v) and 0 < v < 1, "a fraction above 0 and below 1"),
    "split.by": one_of("patient", "kfold", "nested", "contiguous", "image", "all"),
    "split.n_folds": whole(2),
    "split.fold": whole(0),
    "split.chosen_from": (lambda v: isinstance(v, str) and bool(v.strip()), "the folder of a sweep, like outputs/strong"),
    "split.seed": whole(0, 2**32 - 1),
    "split.images_per_patient": whole(1),
    "reg.lambda": (
        lambda v: v == "auto" or (is_number(v) and math.isfinite(v) and v >= 0),
        "a number of at least 0, or auto",
    ),
    "reg.ratio": real(0, open_low=True),
    "reg.on": one_of("kernels", "all"),
    "batch.size": (
        lambda v: v == "patient" or (isinstance(v, int) and not isinstance(v, bool) and v >= 1),
        "a whole number of at least 1, or patient",
    ),
    "batch.shuffle": (lambda v: isinstance(v, bool), "true or false"),
    "trainer.max_epochs": whole(1),
    "trainer.max_steps": whole(1),
    "trainer.val_every_steps": whole(1),
    "average.decay": (lambda v: is_number(v) and 0 <= v < 1, "a number of at least 0 and below 1"),
    "trainer.devices": (
        lambda v: v in (1, "1", "auto") or (isinstance(v, list) and len(v) == 1),
        "1, auto or a list of one device, like [0]. A run uses one device; to use several devices, start several runs",
    ),
    "trainer.threads": whole(1, 1024),
    "trainer.patience": whole(1),
    "trainer.compile": one_of("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
    "trainer.accumulate_grad_batches": whole(1),
    "trainer.gradient_clip_val": real(0),
    "trainer.deterministic": (lambda v: isinstance(v, bool) or v == "warn", "true, false or warn"),
    "trainer.benchmark": (lambda v: isinstance(v, bool), "true or false"),
    "trainer.detect_anomaly": (lambda v: isinstance(v, bool), "true or false"),
    "hydra.launcher.workers": whole(1),
    "hydra.launcher.per_gpu": whole(1),
    "hydra.launcher.pack": whole(1),
    "hydra.launcher.gpus": whole(0),
    "hydra.launcher.cpus": whole(1),
    "hydra.launcher.time": (lambda v: isinstance(v, int) and not isinstance(v, bool) and v > 0, "a whole number of minutes"),
    "hydra.launcher.signal_delay_s": whole(1),
    "hydra.launcher.array_parallelism": whole(1),
    "hydra.launcher.wait": (lambda v: isinstance(v, bool), "true or false"),
    "hydra.launcher.setup": (
        lambda v: isinstance(v, Sequence) and all(isinstance(line, str) for line in v) and not isinstance(v, str),
        'a list of shell commands, like ["module load cuda"]',
    ),
    "hydra.launcher.extra": (lambda v: isinstance(v, Mapping), "options of sbatch, like {account: lab}"),
}
NULLABLE = {
    *("score.largest_component", "score.tta", "split.chosen_from"),
    *("data.downsample", "data.antialias", "trainer.max_epochs", "trainer.max_steps", "trainer.val_every_steps"),
    *("data.allow", "data.larger", "data.spacing_mm", "name", "reg.ratio", "batch.shuffle", "split.images_per_patient"),
    *("tolerance_mm", "trainer.threads", "trainer.patience", "trainer.compile", "hydra.launcher.workers"),
    *("trainer.gradient_clip_val", "trainer.deterministic", "trainer.benchmark"),
}


NESTED_FROM = 0.2  # smallest split.val_fraction of split.by=nested; equals splits.TEST_FRACTION, which is slow to import


def check(config: Mapping[str, Any]) -> None:
    """Check all values of a configuration.

    Raises: InputError for the first invalid value or contradiction. The message names the key and the valid values.
    """
    for key, rule in RULES.items():
        group, _, name = key.rpartition(".")
        _check_value(key, name, (config.get(group) or {}) if group else config, rule, nullable=key in NULLABLE)
    for group in ("data", "loss", "reg", "model", "optimizer", "scheduler", "augment"):
        values = config.get(group) or {}
        for name, rule in option_rules.of_group(group, values).items():
            _check_value(f"{group}.{name}", name, values, rule, nullable=name in option_rules.NULLABLE)
    for contradiction in _contradictions(config):
        raise InputError(contradiction)


def _check_value(key: str, name: str, values: Mapping[str, Any], rule: Rule, *, nullable: bool) -> None:
    fulfils, requirement = rule
    if name in values and not (values[name] is None and nullable) and not fulfils(values[name]):
        raise InputError(f"{key}={values[name]}: must be {requirement}.")


def check_for_calibration(config: Mapping[str, Any]) -> None:
    """Check all values of a configuration for segtune.calibrate.

    In contrast to `check`, reg.ratio may be combined with any reg.lambda, because segtune.calibrate measures a new lambda.
    """
    reg = config.get("reg") or {}
    check({"reg": {"ratio": reg.get("ratio")}})
    check({**config, "reg": {**reg, "ratio": None}})


def _contradictions(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield a message for each combination of values that contradict each other."""
    data, split, loss, reg, model = (config.get(group) or {} for group in ("data", "split", "loss", "reg", "model"))
    is_own_reader = str((data.get("reader") or {}).get("_target_", "segtune.")).startswith("segtune.")
    if is_own_reader and (ed := data.get("ed")) is not None and ed == data.get("es"):
        yield f"data.ed={ed} and data.es={ed}: ED and ES are different phases of the heartbeat. Choose a volume for each."
    yield from _contradictions_of_split(split)
    patience = (config.get("trainer") or {}).get("patience")
    if split.get("by") == "all" and patience is not None:
        yield f"trainer.patience={patience} needs validation patients, and split=all has none. Leave trainer.patience out."
    yield from _contradictions_of_trainer(config)
    yield from _contradictions_of_size(data, config.get("augment") or {})
    target = str(loss.get("_target_"))
    if target.startswith("segtune.") and loss.get("alpha") == 0 == loss.get("beta"):
        yield "loss.alpha=0 with loss.beta=0: the loss would be 0 for every prediction. One of the two must be above 0."
    if loss.get("gamma") == 0 and target == "segtune.losses.focal_tversky":
        yield "loss.gamma=0: must be above 0 with loss=focal_tversky. With 0 the loss would be 0 for every prediction."
    if reg.get("ratio") is not None and "lambda" in reg and reg["lambda"] != "auto":
        yield (
            f"reg.ratio={reg['ratio']:g} needs reg.lambda=auto and cannot be combined with reg.lambda={reg['lambda']:g}. "
            "Set reg.lambda=auto or leave reg.ratio out."
        )
    if model.get("_target_") == "monai.networks.nets.AttentionUnet" and len(model["strides"]) != len(model["channels"]) - 1:
        yield f"model.strides={model['strides']}: must have one value fewer than model.channels={model['channels']}."
    if "bn_momentum" in model and str(model["_target_"]).startswith("monai."):
        yield (
            f"model.bn_momentum={model['bn_momentum']:g} (study=as_run sets this key) works only with model=unet or "
            "model=unet_double. Choose one of these networks."
        )


def _contradictions_of_trainer(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield a message for each contradiction between the values that set the length of a run."""
    trainer, warmup_steps = config.get("trainer") or {}, (config.get("scheduler") or {}).get("warmup_steps")
    epochs, steps, every = (trainer.get(key) for key in ("max_epochs", "max_steps", "val_every_steps"))
    if trainer and (epochs is None) == (steps is None):
        given = f"trainer.max_epochs={epochs} and trainer.max_steps={steps}" if epochs else "no length of the run"
        yield f"{given}: give one of trainer.max_epochs and trainer.max_steps, and set the other to null."
    elif every is not None and steps is None:
        yield f"trainer.val_every_steps={every} needs trainer.max_steps, the number of steps of the run. Give both or neither."
    elif steps is not None and steps % budget.steps_per_epoch(trainer):
        yield (
            f"trainer.max_steps={steps}: must be a multiple of trainer.val_every_steps={budget.steps_per_epoch(trainer)}, so "
            "that the last step is validated. Change one of the two."
        )
    elif (t_max := (config.get("scheduler") or {}).get("T_max")) not in (None, epochs) and (steps or warmup_steps is not None):
        yield (
            f"scheduler.T_max={t_max}: this key has no effect with trainer.max_steps or scheduler.warmup_steps, because the "
            "schedule then ends with the run. Leave scheduler.T_max out."
        )
    elif steps is not None and warmup_steps is not None and warmup_steps >= steps:
        yield f"scheduler.warmup_steps={warmup_steps}: must be below trainer.max_steps={steps}. Change one of the two."


def _contradictions_of_size(data: Mapping[str, Any], augment: Mapping[str, Any]) -> Iterator[str]:
    """Yield a message for each contradiction between the values that set the size of images."""
    size, factor, patch = data.get("size"), data.get("downsample") or 1, augment.get("patch")
    if size is None:
        return
    if size % (16 * factor):
        yield (
            f"data.size={size} with data.downsample={factor}: must be a multiple of {16 * factor}, because the network halves "
            "the size of the downsampled image four times."
        )
    elif isinstance(patch, int) and patch > size // factor:
        yield f"augment.patch={patch}: must be at most {size // factor}, the side of the network's images. Choose auto or less."


def _contradictions_of_split(split: Mapping[str, Any]) -> Iterator[str]:
    """Yield a message for each combination of values of cfg.split that contradict each other."""
    if not split:
        return
    by, given = split.get("by"), sorted({*split} - {"by", "seed", "images_per_patient"})
    folds = ["fold", "n_folds"]
    wanted, choice = (folds, "split=kfold") if by == "kfold" else (["val_fraction"], "a fraction, like split=0.2")
    if by == "nested" and {*folds} & {*given}:
        wanted, choice = [*folds, "val_fraction"], "split=nested, or a fraction, like split=0.2"
    if by == "all":
        wanted, choice = ["chosen_from"] if "chosen_from" in split else [], "split=all"
    if given != wanted:
        these, those = (", ".join(f"split.{name}" for name in names) for names in (wanted, given))
        needs = "trains on all patients and" if by == "all" else f"needs {these} and"
        yield f"split.by={by} {needs} cannot be combined with {those}: choose {choice}."
        return
    n_folds = split.get("n_folds")
    if n_folds is not None and (fold := split["fold"]) >= n_folds:
        these = f"folds 0 to {n_folds - 1}"
        yield f"split.fold={fold}: split.n_folds={n_folds} gives {these}. Choose among these, like split.fold=0,1 -m."
    least, of_folds = (NESTED_FROM, "") if n_folds is None else (1 / n_folds, f" and split.n_folds={n_folds}")
    if by == "nested" and (share := split["val_fraction"]) < least - 1e-9:
        yield (
            f"split.val_fraction={share:g}: must be at least {least:.3g} with split.by=nested{of_folds}, because its "
            f"validation patients always have about this fraction of the images: at most {1 - least:.3g} can be used for "
            "training."
        )
