"""The one way into Hydra for all verbs: overrides as a person types them, a run's id, checks, errors in one sentence."""

import errno
import functools
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, QuotedString, RangeSweep
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segtune import results
from segtune.errors import InputError, Interrupted, printable

PACKAGED = Path(__file__).resolve().parent / "conf"  # in a wheel
CONF = PACKAGED if PACKAGED.is_dir() else Path(__file__).resolve().parents[2] / "conf"  # in a checkout


def entry(config_name: str, task: Callable[[DictConfig], None]) -> None:
    """Run a verb under Hydra. What a user can put right ends as one message and exit code 1; a bug keeps its traceback."""
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises what it would print; it is explained here
    failures: list[Exception] = []

    @functools.wraps(task)
    def guarded(cfg: DictConfig) -> None:
        try:
            task(cfg)
        except Exception as error:
            if HydraConfig.get().mode is RunMode.MULTIRUN:
                raise  # the sweep goes on and its sweeper explains
            failures.append(error)  # past Hydra, which would announce it in a line of its own

    if config_name != "config":  # runs see to their signals themselves (workers)
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        typed = [arg if arg.startswith("-") else quote_numbers(arg) for arg in sys.argv[1:]]
        if {"-m", "--multirun"} & {*typed}:
            typed = as_axes(typed)
        # argparse takes overrides in one piece only; a person types them on both sides of -m
        sys.argv[1:] = sorted(typed, key=lambda arg: arg not in ("-m", "--multirun"))
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(guarded)()
        if failures:
            raise failures[0]
    except (KeyboardInterrupt, Interrupted) as stop:
        number = stop.signal if isinstance(stop, Interrupted) else signal.SIGINT
        again = " The same command goes on from each run's last epoch." if config_name == "config" else ""
        print(f"segtune: stopped by {signal.Signals(number).name}.{again}", file=sys.stderr)
        sys.exit(128 + number)
    except Exception as error:
        message = explain(error, config_name)
        if message is None or wants_traceback:
            raise
        sys.exit(f"segtune: {printable(message)}")


def _interrupt(number: int, frame: object) -> None:
    raise Interrupted(number)


def compose(overrides: Sequence[str] = (), config_name: str = "config") -> DictConfig:
    """The configuration that these overrides give on the command line; for tests and notebooks."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(config_name, [quote_numbers(override) for override in overrides])


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The configuration without Hydra's own node, resolved, as plain dicts."""
    keys = [str(key) for key in cfg if key != "hydra"]
    container = OmegaConf.to_container(OmegaConf.masked_copy(cfg, keys), resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _run_id(*, _root_: DictConfig) -> str:
    config = plain(_root_)
    check(config)
    return results.run_id(config)


OmegaConf.register_new_resolver("run_id", _run_id, replace=True)


# Options that look like numbers


def groups() -> dict[str, list[str]]:
    """Config groups and the names of their options."""
    found = {folder: sorted(path.stem for path in folder.glob("*.yaml")) for folder in CONF.rglob("*") if folder.is_dir()}
    return {folder.relative_to(CONF).as_posix(): names for folder, names in sorted(found.items()) if names}


BARE = {ord(bracket): None for bracket in "[]"}


def quote_numbers(override: str) -> str:
    """The override with options that look like numbers in quotes: Hydra takes split=0.6 for a number and refuses it.

    Hydra's own parser decides what is a list; other overrides come back as they are.

    Raises: InputError for what does not parse, and for a list in brackets.
    """
    try:
        parsed = OverridesParser.create().parse_override(override)
        if not parsed.key_or_group:
            raise ValueError("no key")
    except (HydraException, ValueError) as error:
        raise InputError(
            f"{override!r} is not of the form key=value or key=value,value. Put a value with brackets, commas or "
            f"spaces in quotes of its own, inside those of the shell: 'key=\"value\"'."
        ) from error
    options = groups().get(parsed.key_or_group)
    if parsed.is_delete() and options is not None:
        others = ", ".join(f"{parsed.key_or_group}={option}" for option in options)
        raise InputError(f"{override}: a run needs one of {others}.")
    if options is None or parsed.is_delete():
        return override
    value: Any = parsed._value
    if isinstance(value, ChoiceSweep) and not value.shuffle:
        values: list[Any] = value.list
    elif isinstance(value, RangeSweep) and not value.shuffle:
        values = list(value.range())
    elif isinstance(value, list):
        raise InputError(f"{override}: a list would mix the options; for one run each write {override.translate(BARE)} -m.")
    else:
        values = [value]
    if not any(value is None or _is_number(value) for value in values):
        return override
    return f"{parsed.get_key_element()}={','.join(quoted(value, options) for value in values)}"


def as_axes(arguments: Sequence[str]) -> list[str]:
    """The arguments of a sweep, in which a key that only some options of its group have is an axis of one value.

    Hydra composes its base from all that is no axis, and there reg.lambda=auto fails where the grid is to choose reg=l2.
    """
    chosen = {group: name.strip("'\"") for group, _, name in (arg.partition("=") for arg in arguments)}

    def as_axis(argument: str) -> str:
        key, _, value = argument.partition("=")
        group, _, name = key.partition(".")
        owners = [option for option in groups().get(group, []) if has_key(group, option, name)]
        if not owners or chosen.get(group) in owners or len(owners) == len(groups()[group]) or value in ("", "null"):
            return argument
        is_sweep = OverridesParser.create().parse_override(argument).is_sweep_override()
        return argument if is_sweep or "${" in value else f"{key}=choice({value})"

    return [as_axis(argument) for argument in arguments]


def quoted(value: Any, options: Sequence[str]) -> str:
    """One option's name in Hydra's quotes: a number by the option of that value (0.60 is '0.6'), null as none."""
    text = "none" if value is None else value.text if isinstance(value, QuotedString) else str(value)
    number = _number(text)
    if number is not None:
        text = next((name for name in options if _number(name) is not None and math.isclose(_number(name) or 0, number)), text)
    return f"'{text}'"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


# What a configuration must fulfil


def _whole(low: int, high: float = math.inf) -> tuple[Callable[[Any], bool], str]:
    span = f"from {low} to {high}" if high < math.inf else f"of at least {low}"
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v <= high, f"a whole number {span}"


def _real(low: float, high: float = math.inf, *, open_low: bool = False) -> tuple[Callable[[Any], bool], str]:
    words = f"{'above' if open_low else 'of at least'} {low:g}" + (f" and up to {high:g}" if high < math.inf else "")
    return (
        lambda v: _is_number(v) and math.isfinite(v) and (low < v if open_low else low <= v) and v <= high,
        f"a number {words}",
    )


def _wholes(n: int, low: int, high: float = math.inf) -> tuple[Callable[[Any], bool], str]:
    fulfils, requirement = _whole(low, high)
    words = requirement.removeprefix("a whole number ")
    return lambda v: isinstance(v, list) and len(v) == n and all(map(fulfils, v)), f"a list of {n} whole numbers {words}"


def _one_of(*names: str) -> tuple[Callable[[Any], bool], str]:
    return lambda v: v in names, f"one of {', '.join(names)}"


RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "outputs": (lambda v: isinstance(v, str) and bool(v.strip()), "a folder"),
    "figures": (lambda v: isinstance(v, bool), "true or false"),
    "on_failure": _one_of("continue", "stop"),
    "dry_run": (lambda v: isinstance(v, bool), "true or false"),
    "json": (lambda v: isinstance(v, bool), "true or false"),
    "seed": _whole(0, 2**32 - 1),
    "data.root": (
        lambda v: isinstance(v, str) and bool(v.strip()),
        "a folder; one that is named like a number in quotes: data.root='\"5\"'",
    ),
    "data.seed": _whole(0, 2**32 - 1),
    "data.n_patients": _whole(2, 99),
    "data.target": (  # see TARGETS
        lambda v: isinstance(v, str | int) and not isinstance(v, bool) and bool(str(v).strip()),
        "the name of a structure, or its value",
    ),
    "data.allow": (
        lambda v: isinstance(v, list) and all(isinstance(k, str) for k in v),
        "a list of kinds, like [duplicate_image]",
    ),
    "tolerance_mm": _real(0, open_low=True),
    "data.empty": _one_of("keep", "drop"),
    "data.larger": _one_of("crop"),
    "data.spacing_mm": _real(0, open_low=True),
    "data.gap_mm": _real(0, open_low=True),
    "data.size": (
        lambda v: isinstance(v, int) and v >= 16 and v % 16 == 0,
        "a multiple of 16 (the network halves it four times)",
    ),
    "data.masks": _one_of("pil"),
    "data.normalize": _one_of("zscore", "divide255"),
    "split.val_fraction": (lambda v: _is_number(v) and 0 < v < 1, "a share above 0 and below 1"),
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
        lambda v: v == "auto" or (_is_number(v) and math.isfinite(v) and v >= 0),
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
    "model.dropout": (lambda v: _is_number(v) and 0 <= v < 1, "a number of at least 0 and below 1"),
    "model.bn_momentum": _real(0, 1, open_low=True),
    "optimizer.lr": _real(0, open_low=True),
    "optimizer.eps": _real(0, open_low=True),
    "scheduler.step_size": _whole(1),
    "scheduler.gamma": _real(0, open_low=True),
    "scheduler.T_max": _whole(1),
    "trainer.max_epochs": _whole(1),
    "trainer.devices": (
        lambda v: v in (1, "1", "auto") or (isinstance(v, list) and len(v) == 1),
        "1 or a list of one, like [0]: a run uses one device, and several devices are for several runs",
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
        'a list of shell lines, like ["module load cuda"]',
    ),
    "hydra.launcher.extra": (lambda v: isinstance(v, Mapping), "options of sbatch, like {account: lab}"),
}
NULLABLE = {
    *("data.allow", "data.masks", "data.larger", "data.spacing_mm", "data.gap_mm", "loss.alpha", "reg.ratio", "batch.shuffle"),
    *("tolerance_mm", "trainer.threads", "trainer.patience", "trainer.compile", "hydra.launcher.workers"),
    *("trainer.gradient_clip_val", "trainer.deterministic", "trainer.benchmark"),
}


TARGETS = dict.fromkeys(("phantom", "rvsc", "sunnybrook"), ("endocardium", "epicardium")) | {
    "acdc": ("rv", "myocardium", "lv")
}  # the structures of a reader's data; those of nnunet and folder are in the data
NESTED_FROM = 0.2  # the least split.val_fraction of split.by=nested: splits.TEST_FRACTION, without its imports


def check(config: Mapping[str, Any]) -> None:
    """Raises: InputError naming the first key whose value cannot be, by itself or beside the others, and what it must be."""
    for key, (fulfils, requirement) in RULES.items():
        group, _, name = key.rpartition(".")
        values = (config.get(group) or {}) if group else config
        if name in values and not (values[name] is None and key in NULLABLE) and not fulfils(values[name]):
            raise InputError(f"{key}={values[name]}: must be {requirement}.")
    for contradiction in _contradictions(config):
        raise InputError(contradiction)


def _contradictions(config: Mapping[str, Any]) -> Iterator[str]:
    """Values that cannot be beside each other."""
    data, split, loss, reg, model = (config.get(group) or {} for group in ("data", "split", "loss", "reg", "model"))
    names = TARGETS.get(str((data.get("reader") or {}).get("_target_")).split(".")[-2:][0], ())
    if names and data["target"] not in names:
        yield f"data.target={data['target']}: must be one of {', '.join(names)}."
    by, given = split.get("by"), sorted({*split} - {"by", "seed"})
    wanted, choice = (["fold", "n_folds"], "split=kfold") if by == "kfold" else (["val_fraction"], "a share, like split=0.2")
    if split and given != wanted:
        these, those = (", ".join(f"split.{name}" for name in names) for names in (wanted, given))
        yield f"split.by={by} goes with {these}, not with {those}: choose {choice}."
    if by == "kfold" and (fold := split["fold"]) >= (n := split["n_folds"]):
        yield f"split.fold={fold}: split.n_folds={n} has folds 0 to {n - 1}; name those, like split.fold=0,1 -m."
    if by == "nested" and (share := split["val_fraction"]) < NESTED_FROM:
        yield f"split.val_fraction={share:g}: must be at least {NESTED_FROM:g} with split.by=nested, which tests on that share."
    if loss.get("alpha") == 0 == loss.get("beta"):
        yield "loss.alpha=0 with loss.beta=0: the loss is 0 whatever the network does; one of them must be above 0."
    if loss.get("gamma") == 0 and loss["_target_"] == "segtune.losses.focal_tversky":
        yield "loss.gamma=0: must be above 0 with loss=focal_tversky, which is 0 whatever the network does otherwise."
    if reg.get("ratio") is not None and "lambda" in reg and reg["lambda"] != "auto":
        yield f"reg.ratio={reg['ratio']:g} goes with reg.lambda=auto, not with reg.lambda={reg['lambda']:g}."
    if "bn_momentum" in model and model["_target_"] != "segtune.nets.UNet":
        yield f"model.bn_momentum={model['bn_momentum']:g} (study=as_run has it) goes with model=unet or unet_double only."


# Errors in one sentence

DISK = (  # what a disk may answer
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EISDIR),
    *(errno.ENOENT, errno.EIO, errno.ESTALE),
)


def explain(error: BaseException, config_name: str = "config") -> str | None:
    """What went wrong and how to cure it, if that is for the user to do; None for a bug."""
    chain = list(_causes(error))
    for cause in chain:
        if isinstance(cause, InputError):
            return str(cause)
        if isinstance(cause, MissingConfigException):
            return _unknown_option(cause)
        if isinstance(cause, MissingMandatoryValue):
            key = str(cause).rpartition(":")[2].strip()
            return f"{cause.full_key or key} has no value: add {cause.full_key or key}=... to the command."
    for cause in chain:
        if str(cause).startswith("Could not override '"):
            return _unknown_key(str(cause).split("'")[1], config_name)
        if isinstance(cause, OSError) and cause.errno in DISK:
            where = cause.filename2 or cause.filename or "the disk"
            kept = "What was done is kept; cure this" if config_name == "config" else "Cure this"
            return f"{where}: {cause.strerror}. {kept} and start the same again."
    if memory := out_of_memory(error):
        return memory
    if any(type(cause).__name__ == "InvalidCxxCompiler" or "Failed to find C compiler" in str(cause) for cause in chain):
        return (
            "trainer.compile: torch.compile needs a C++ compiler, and there is none. Install g++ or leave trainer.compile out."
        )
    if str(error).startswith("Ambiguous value for argument '"):
        return f"{str(error).split(chr(39))[1]}: several values make a sweep: add -m."
    if isinstance(error, InstantiationException) and not _is_call(error.__cause__):
        return None  # what was called failed of itself
    if isinstance(error, HydraException | OmegaConfBaseException):
        said = [line.strip() for line in f"{error}\n{error.__cause__ or ''}".split("\n")]
        return "; ".join(
            dict.fromkeys(line for line in said[:6] if line and not line.startswith(("See http", "full_key", "object_")))
        )
    return None


def _is_call(error: BaseException | None) -> bool:
    """Whether this is about the call itself: a target that is not there, an argument too many or too few."""
    return not isinstance(error, Exception) or isinstance(error, ImportError | AttributeError) or "argument" in str(error)


def out_of_memory(error: BaseException) -> str | None:
    """What to do if this is a lack of memory, of the GPU or not; None if it is something else. Does not import torch."""
    text = str(error).strip()
    told = isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
    if not (told or isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__):
        return None
    first = text.split("\n")[0] or type(error).__name__
    return (
        f"out of memory ({first}). Choose a smaller batch.size, data.size or model.width, fewer runs at a time "
        "(hydra.launcher.workers, hydra.launcher.per_gpu), or ask the cluster for more (hydra.launcher.mem)."
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _unknown_option(error: MissingConfigException) -> str:
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    options = list(error.options or groups().get(group, []))
    if not group or not options:
        return str(error).split("\n")[0]
    ordered = nearest(name, options)
    exact = f" For any other share: {group}.val_fraction=..." if group == "split" else ""
    exact = f" For any other size: {group}.size=..." if group == "batch" else exact
    return f"{group}={name}: no such option. Nearest: {ordered[0]}. Known: {', '.join(ordered)}.{exact}"


def _unknown_key(key: str, config_name: str) -> str:
    group, _, name = key.partition(".")
    owners = [option for option in groups().get(group, []) if has_key(group, option, name)]
    if owners:
        return f"{key}: the chosen {group} has no {name}; only {group}={', '.join(owners)}. Choose one or leave it out."
    beginning = {"config": "", "calibrate": "", "check": "", "evaluate": "data."}.get(config_name)  # of the run's keys it has
    of_a_run = [name for name in _run_keys() if name.startswith(beginning)] if beginning is not None else []
    known = sorted({*_own_keys(config_name), *of_a_run})
    module = "segtune" if config_name == "config" else f"segtune.{config_name}"
    return f"{key}: no such key. Nearest: {', '.join(nearest(key, known)[:3])}. See python -m {module} --help for all."


def nearest(name: str, known: Sequence[str]) -> list[str]:
    """All that is known, the most similar first: a number's neighbours by value, all else by spelling."""
    number = _number(name)
    numbers = [option for option in known if _number(option) is not None]
    if number is not None and numbers:
        return [*sorted(numbers, key=lambda option: abs((_number(option) or 0) - number)), *sorted(set(known) - set(numbers))]
    ranked = get_close_matches(name, known, n=len(known), cutoff=0)
    return [*ranked, *(option for option in known if option not in ranked)]


def has_key(group: str, option: str, key: str) -> bool:
    """Whether an option's own file has this key (dotted below the group)."""
    path = CONF / group / f"{option}.yaml"
    return path.is_file() and key in _dotted(OmegaConf.load(path))


def _own_keys(config_name: str) -> list[str]:
    return [key for key in _dotted(OmegaConf.load(CONF / f"{config_name}.yaml")) if not key.startswith(("defaults", "hydra"))]


def _run_keys() -> list[str]:
    keys = set(_own_keys("run"))
    for group, options in groups().items():
        if "/" not in group and group != "study":
            keys |= {f"{group}.{key}" for option in options for key in _dotted(OmegaConf.load(CONF / group / f"{option}.yaml"))}
    return sorted(key for key in keys if "_target_" not in key and "_partial_" not in key)


def _dotted(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, DictConfig):
        return []
    keys = [str(key) for key in node]
    return [f"{prefix}{k}" for k in keys] + [d for k in keys for d in _dotted(node._get_node(k), f"{prefix}{k}.")]
