"""Validation rules for configuration values: rules for single keys, and combinations of keys that contradict each other."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from segtune.errors import InputError


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(low: int, high: float = math.inf) -> tuple[Callable[[Any], bool], str]:
    span = f"from {low} to {high}" if high < math.inf else f"of at least {low}"
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v <= high, f"a whole number {span}"


def _real(low: float, high: float = math.inf, *, open_low: bool = False) -> tuple[Callable[[Any], bool], str]:
    words = f"{'above' if open_low else 'of at least'} {low:g}" + (f" and at most {high:g}" if high < math.inf else "")
    return (
        lambda v: is_number(v) and math.isfinite(v) and (low < v if open_low else low <= v) and v <= high,
        f"a number {words}",
    )


def _wholes(n: int, low: int, high: float = math.inf) -> tuple[Callable[[Any], bool], str]:
    fulfils, requirement = _whole(low, high)
    words = requirement.removeprefix("a whole number ")
    return lambda v: isinstance(v, list) and len(v) == n and all(map(fulfils, v)), f"a list of {n} whole numbers {words}"


def _one_of(*names: str) -> tuple[Callable[[Any], bool], str]:
    return lambda v: v in names, f"one of {', '.join(names)}"


def _which_volume() -> tuple[Callable[[Any], bool], str]:
    def is_one(v: Any) -> bool:
        return (isinstance(v, int) and not isinstance(v, bool) and v >= 0) or (isinstance(v, str) and bool(v.strip()))

    return (
        lambda v: is_one(v) or (isinstance(v, list) and bool(v) and all(map(is_one, v))),
        "a frame's number, the text that names a volume, a list of these, largest, or smallest",
    )


# Other commands write to these folders in outputs/, so a sweep cannot have these names.
VERBS = ("runs", "calibrate", "check", "evaluate", "export")


RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "outputs": (lambda v: isinstance(v, str) and bool(v.strip()), "a folder"),
    "figures": (lambda v: isinstance(v, bool), "true or false"),
    "on_failure": _one_of("continue", "stop"),
    "name": (
        lambda v: bool(re.fullmatch(r"[A-Za-z0-9][\w.-]{0,99}", str(v))) and not isinstance(v, bool) and v not in VERBS,
        "a folder name of at most 100 letters, digits, '.', '-' and '_' that begins with a letter or digit and is none of the "
        f"reserved names {', '.join(VERBS)}",
    ),
    "dry_run": (lambda v: isinstance(v, bool), "true or false"),
    "json": (lambda v: isinstance(v, bool), "true or false"),
    "seed": _whole(0, 2**32 - 1),
    "data.root": (
        lambda v: isinstance(v, str) and bool(v.strip()),
        "a folder. If the name of the folder is a number, put the name in quotes: data.root='\"5\"'",
    ),
    "data.seed": _whole(0, 2**32 - 1),
    "data.n_patients": _whole(2, 99),
    "data.target": (  # the structures that a reader knows are checked by data.readers.check_target
        lambda v: isinstance(v, str | int) and not isinstance(v, bool) and bool(str(v).strip()),
        "the name of a structure, or its value in the masks",
    ),
    "data.ed": _which_volume(),
    "data.es": _which_volume(),
    "data.allow": (
        lambda v: isinstance(v, list) and all(isinstance(k, str) for k in v),
        "a list of kinds of errors, like [duplicate_image]",
    ),
    "tolerance_mm": _real(0, open_low=True),
    "data.empty": _one_of("keep", "drop"),
    "data.larger": _one_of("crop"),
    "data.spacing_mm": _real(0, open_low=True),
    "data.gap_mm": _real(0, open_low=True),
    "data.slice_axis": _whole(0, 2),
    "data.size": (
        lambda v: isinstance(v, int) and v >= 16 and v % 16 == 0,
        "a multiple of 16, because the network halves the size of the image four times",
    ),
    "data.masks": _one_of("pil"),
    "data.normalize": _one_of("zscore", "divide255"),
    "split.val_fraction": (lambda v: is_number(v) and 0 < v < 1, "a fraction above 0 and below 1"),
    "split.by": _one_of("patient", "kfold", "nested", "contiguous", "image"),
    "split.n_folds": _whole(2),
    "split.fold": _whole(0),
    "split.seed": _whole(0, 2**32 - 1),
    "loss.gamma": _real(0),
    "loss.alpha": _real(0, 1),
    "loss.beta": _real(0, 1),
    "loss.weight": _real(0),
    "loss.fraction": _real(0, 1, open_low=True),
    "reg.lambda": (
        lambda v: v == "auto" or (is_number(v) and math.isfinite(v) and v >= 0),
        "a number of at least 0, or auto",
    ),
    "reg.ratio": _real(0, open_low=True),
    "reg.lambda_l1": _real(0),
    "reg.lambda_l2": _real(0),
    "reg.on": _one_of("kernels", "all"),
    "batch.size": (
        lambda v: v == "patient" or (isinstance(v, int) and not isinstance(v, bool) and v >= 1),
        "a whole number of at least 1, or patient",
    ),
    "batch.shuffle": (lambda v: isinstance(v, bool), "true or false"),
    "model.width": _whole(1),
    "model.convolutions": _whole(1),
    "model.features": _wholes(6, 1),
    "model.channels": _wholes(5, 2),
    "model.strides": _wholes(4, 1, 2),
    "model.norm": _one_of("batch", "instance"),
    "model.dropout": (lambda v: is_number(v) and 0 <= v < 1, "a number of at least 0 and below 1"),
    "model.bn_momentum": _real(0, 1, open_low=True),
    "optimizer.lr": _real(0, open_low=True),
    "optimizer.eps": _real(0, open_low=True),
    "scheduler.step_size": _whole(1),
    "scheduler.gamma": _real(0, open_low=True),
    "scheduler.T_max": _whole(1),
    "trainer.max_epochs": _whole(1),
    "trainer.devices": (
        lambda v: v in (1, "1", "auto") or (isinstance(v, list) and len(v) == 1),
        "1, auto or a list of one device, like [0]. A run uses one device; to use several devices, start several runs",
    ),
    "trainer.threads": _whole(1, 1024),
    "trainer.patience": _whole(1),
    "trainer.compile": _one_of("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
    "trainer.accumulate_grad_batches": _whole(1),
    "trainer.gradient_clip_val": _real(0),
    "trainer.deterministic": (lambda v: isinstance(v, bool) or v == "warn", "true, false or warn"),
    "trainer.benchmark": (lambda v: isinstance(v, bool), "true or false"),
    "trainer.detect_anomaly": (lambda v: isinstance(v, bool), "true or false"),
    "hydra.launcher.workers": _whole(1),
    "hydra.launcher.per_gpu": _whole(1),
    "hydra.launcher.pack": _whole(1),
    "hydra.launcher.gpus": _whole(0),
    "hydra.launcher.cpus": _whole(1),
    "hydra.launcher.time": (lambda v: isinstance(v, int) and not isinstance(v, bool) and v > 0, "a whole number of minutes"),
    "hydra.launcher.signal_delay_s": _whole(1),
    "hydra.launcher.array_parallelism": _whole(1),
    "hydra.launcher.wait": (lambda v: isinstance(v, bool), "true or false"),
    "hydra.launcher.setup": (
        lambda v: isinstance(v, Sequence) and all(isinstance(line, str) for line in v) and not isinstance(v, str),
        'a list of shell commands, like ["module load cuda"]',
    ),
    "hydra.launcher.extra": (lambda v: isinstance(v, Mapping), "options of sbatch, like {account: lab}"),
}
NULLABLE = {
    *("data.allow", "data.masks", "data.larger", "data.spacing_mm", "data.gap_mm", "data.ed", "data.es", "name"),
    *("data.slice_axis", "loss.alpha", "reg.ratio", "batch.shuffle"),
    *("tolerance_mm", "trainer.threads", "trainer.patience", "trainer.compile", "hydra.launcher.workers"),
    *("trainer.gradient_clip_val", "trainer.deterministic", "trainer.benchmark"),
}


NESTED_FROM = 0.2  # smallest split.val_fraction of split.by=nested; equals splits.TEST_FRACTION, which is slow to import


def check(config: Mapping[str, Any]) -> None:
    """Check all values of a configuration.

    Raises: InputError for the first invalid value or contradiction. The message names the key and the valid values.
    """
    for key, (fulfils, requirement) in RULES.items():
        group, _, name = key.rpartition(".")
        values = (config.get(group) or {}) if group else config
        if name in values and not (values[name] is None and key in NULLABLE) and not fulfils(values[name]):
            raise InputError(f"{key}={values[name]}: must be {requirement}.")
    for contradiction in _contradictions(config):
        raise InputError(contradiction)


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
    if (ed := data.get("ed")) is not None and ed == data.get("es"):
        yield f"data.ed={ed} and data.es={ed}: ED and ES are different phases of the heartbeat. Choose a volume for each."
    by, given = split.get("by"), sorted({*split} - {"by", "seed"})
    wanted, choice = (["fold", "n_folds"], "split=kfold") if by == "kfold" else (["val_fraction"], "a fraction, like split=0.2")
    if split and given != wanted:
        these, those = (", ".join(f"split.{name}" for name in names) for names in (wanted, given))
        yield f"split.by={by} needs {these} and cannot be combined with {those}: choose {choice}."
    if by == "kfold" and (fold := split["fold"]) >= (n := split["n_folds"]):
        yield f"split.fold={fold}: split.n_folds={n} gives folds 0 to {n - 1}. Choose among these, like split.fold=0,1 -m."
    if by == "nested" and (share := split["val_fraction"]) < NESTED_FROM:
        yield (
            f"split.val_fraction={share:g}: must be at least {NESTED_FROM:g} with split.by=nested, because its validation "
            "patients always have about this fraction of the images."
        )
    if loss.get("alpha") == 0 == loss.get("beta"):
        yield "loss.alpha=0 with loss.beta=0: the loss would be 0 for every prediction. One of the two must be above 0."
    if loss.get("gamma") == 0 and loss["_target_"] == "segtune.losses.focal_tversky":
        yield "loss.gamma=0: must be above 0 with loss=focal_tversky. With 0 the loss would be 0 for every prediction."
    if reg.get("ratio") is not None and "lambda" in reg and reg["lambda"] != "auto":
        yield (
            f"reg.ratio={reg['ratio']:g} needs reg.lambda=auto and cannot be combined with reg.lambda={reg['lambda']:g}. "
            "Set reg.lambda=auto or leave reg.ratio out."
        )
    if "bn_momentum" in model and model["_target_"] != "segtune.nets.UNet":
        yield (
            f"model.bn_momentum={model['bn_momentum']:g} (study=as_run sets this key) works only with model=unet or "
            "model=unet_double. Choose one of these networks."
        )
