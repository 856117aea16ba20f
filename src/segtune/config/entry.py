"""The one way into Hydra for all verbs: overrides as a person types them, a run's id, errors in one sentence."""

import argparse
import functools
import importlib.util
import logging
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, QuotedString, RangeSweep
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segtune import results
from segtune.errors import InputError, Interrupted, SummaryError, printable
from segtune.rules import check, is_number

PACKAGED = Path(__file__).resolve().parent / "conf"  # in a wheel
CONF = PACKAGED if PACKAGED.is_dir() else Path(__file__).resolve().parents[2] / "conf"  # in a checkout


def entry(config_name: str, task: Callable[[DictConfig], None]) -> None:
    """Run a verb under Hydra. What a user can put right ends as one message and exit code 1; a bug keeps its traceback."""
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"  # as Hydra reads it
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises what it would print; it is explained here
    failures: list[Exception] = []

    @functools.wraps(task)
    def guarded(cfg: DictConfig) -> None:
        try:
            task(with_home(cfg))
        except Exception as error:
            if HydraConfig.get().mode is RunMode.MULTIRUN:
                raise  # the sweep goes on and its sweeper explains
            failures.append(error)  # past Hydra, which would announce it in a line of its own

    if config_name != "config":  # runs see to their signals themselves (workers)
        signal.signal(signal.SIGTERM, _interrupt)
    logging.raiseExceptions = False  # a line that a closed pipe or a full disk does not take is lost, without a traceback
    try:
        sys.argv[1:] = arguments(sys.argv[1:])
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(guarded)()
        if failures:
            raise failures[0]
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads the output has seen enough, as `| head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still flushes when it ends
        sys.exit(128 + signal.SIGPIPE)
    except (KeyboardInterrupt, Interrupted) as stop:
        number = stop.signal if isinstance(stop, Interrupted) else signal.SIGINT
        again = " The same command goes on from each run's last epoch." if config_name == "config" else ""
        print(f"segtune: stopped by {signal.Signals(number).name}.{again}", file=sys.stderr)
        sys.exit(128 + number)
    except Exception as error:
        message = explain(error, config_name)
        if message is None or wants_traceback:
            raise
        lines = next((cause.lines for cause in _causes(error) if isinstance(cause, SummaryError)), [message])
        sys.exit("segtune: " + "\n".join(map(printable, lines)))


def _interrupt(number: int, frame: object) -> None:
    raise Interrupted(number)


def compose(overrides: Sequence[str] = (), config_name: str = "config") -> DictConfig:
    """The configuration that these overrides give on the command line; for tests and notebooks."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(config_name, [quote_numbers(at_home(override)) for override in overrides])


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The configuration without Hydra's own node, resolved, as plain dicts."""
    keys = [str(key) for key in cfg if key != "hydra"]
    container = OmegaConf.to_container(OmegaConf.masked_copy(cfg, keys), resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)
    return {str(key): _at_home(value) for key, value in container.items()}


def with_home(cfg: DictConfig) -> DictConfig:
    """The configuration with a path's leading ~ written out, wherever a value begins with one."""
    found = OmegaConf.create(_at_home(OmegaConf.to_container(cfg)))
    assert isinstance(found, DictConfig)
    OmegaConf.set_struct(found, True)
    return found


def _at_home(value: Any) -> Any:
    """A value, or every value in it, with a leading ~ or ~user written out as that home folder."""
    if isinstance(value, dict):
        return {key: _at_home(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_at_home(item) for item in value]
    return expanded(value) if isinstance(value, str) else value


def expanded(text: str) -> str:
    """The text with a leading ~ or ~user written out; a Path would change other texts too, and refuse an unknown user."""
    return os.path.expanduser(text)  # noqa: PTH111


def _run_id(*, _root_: DictConfig) -> str:
    config = plain(_root_)
    check(config)
    return results.run_id(config)


OmegaConf.register_new_resolver("run_id", _run_id, replace=True)
OmegaConf.register_new_resolver("home", expanded, replace=True)  # for outputs: ~/out of a user's own YAML


# The command line: Hydra's flags, overrides, and options that look like numbers

_searched: list[Path] = [CONF]  # where config groups are found: of this command


def arguments(typed: Sequence[str]) -> list[str]:
    """The command line as Hydra takes it: its flags first, then the overrides, with options that look like numbers quoted.

    Hydra's own parser decides what is a flag and what is a flag's value, wherever among the overrides they stand.
    """
    parser = get_args_parser()
    said = parser.parse_intermixed_args(typed)
    overrides = [at_home(override) for override in said.overrides]
    _searched[:] = search_path(said, overrides)
    flags = []
    for action in parser._actions:
        value = getattr(said, action.dest, None)
        if action.option_strings and value not in (None, False, action.default):
            flags += [action.option_strings[0]] if value is True else [action.option_strings[0], value]
    overrides = [quote_numbers(override) for override in overrides]
    return [*flags, *(as_axes(overrides) if said.multirun else overrides)]


HOME = re.compile(r"""(^|[,\[(:]\s*)(["']?)(~[\w.-]*)(?=$|[/,"'\])])""")


def at_home(override: str) -> str:
    """The override with a leading ~ or ~user of its values written out: Hydra's grammar has no such character."""
    key, sign, value = override.partition("=")
    return key + sign + HOME.sub(lambda match: match[1] + match[2] + expanded(match[3]), value)


def search_path(said: argparse.Namespace, overrides: Sequence[str]) -> list[Path]:
    """The folders that Hydra looks for options in: its primary one, --config-dir, and hydra.searchpath of the command line."""
    places = [said.config_path or CONF, *([said.config_dir] if said.config_dir else [])]
    for override in overrides:
        key, _, value = override.partition("=")
        if key.lstrip("+") == "hydra.searchpath":
            places += re.split(r"[\[\],'\"\s]+", value)
    found = []
    for place in filter(None, map(str, places)):
        scheme, sign, rest = place.partition("://")
        if scheme == "pkg" and sign:
            spec = importlib.util.find_spec(rest.replace("/", "."))
            found += [Path(folder) for folder in (spec and spec.submodule_search_locations) or []]
        else:
            found.append(Path(rest if sign else place))
    return found


def groups() -> dict[str, list[str]]:
    """Config groups and the names of their options, those of the user's own folders of options among them."""
    known = {path.parent.relative_to(_searched[0]) for path in _searched[0].rglob("*.yaml")} - {Path()}
    own = {path.relative_to(top) for top in _searched[1:] if top.is_dir() for path in top.iterdir() if path.is_dir()}
    found = {group.as_posix(): sorted({path.stem for top in _searched for path in (top / group).glob("*.yaml")})
             for group in sorted(known | own)}  # fmt: skip
    return {group: names for group, names in found.items() if names}


def option_file(group: str, option: str) -> Path | None:
    """The file of an option; the first of the folders that has it counts, as in Hydra."""
    return next((path for top in _searched if (path := top / group / f"{option}.yaml").is_file()), None)


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
    if not any(value is None or is_number(value) for value in values):
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


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


# Errors in one sentence

NOT_OF_A_DISK = (BlockingIOError, ChildProcessError, ConnectionError, InterruptedError, ProcessLookupError, TimeoutError)


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
        if isinstance(cause, OSError) and cause.strerror and not isinstance(cause, NOT_OF_A_DISK):
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
    path = option_file(group, option)
    return path is not None and key in _dotted(OmegaConf.load(path))


def _own_keys(config_name: str) -> list[str]:
    return [key for key in _dotted(OmegaConf.load(CONF / f"{config_name}.yaml")) if not key.startswith(("defaults", "hydra"))]


def _run_keys() -> list[str]:
    keys = set(_own_keys("run"))
    for group, options in groups().items():
        if "/" not in group and group != "study":
            paths = filter(None, (option_file(group, option) for option in options))
            keys |= {f"{group}.{key}" for path in paths for key in _dotted(OmegaConf.load(path))}
    return sorted(key for key in keys if "_target_" not in key and "_partial_" not in key)


def _dotted(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, DictConfig):
        return []
    keys = [str(key) for key in node]
    return [f"{prefix}{k}" for k in keys] + [d for k in keys for d in _dotted(node._get_node(k), f"{prefix}{k}.")]
