"""Explain errors in one sentence: what went wrong and how the user can fix it."""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf import MissingMandatoryValue, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segtune.config.overrides import CONF, as_number, dotted_keys, groups, has_key, option_file
from segtune.errors import InputError, as_typed

NOT_OF_A_DISK = (BlockingIOError, ChildProcessError, ConnectionError, InterruptedError, ProcessLookupError, TimeoutError)


def explain(error: BaseException, config_name: str = "config") -> str | None:
    """What went wrong and how the user can fix it; None for a bug in the program."""
    chain = list(causes(error))
    for cause in chain:
        if message := _of_the_input(cause):
            return message
    for cause in chain:
        if str(cause).startswith("Could not override '"):
            return _unknown_key(str(cause).split("'")[1], config_name)
        if message := _of_a_disk(cause, config_name):
            return message
    if memory := out_of_memory(error):
        return memory
    if any(type(cause).__name__ == "InvalidCxxCompiler" or "Failed to find C compiler" in str(cause) for cause in chain):
        return (
            "trainer.compile: torch.compile needs a C++ compiler, and there is none. Install g++ or leave trainer.compile out."
        )
    if str(error).startswith("Ambiguous value for argument '"):
        return f"{str(error).split(chr(39))[1]}: several values make a sweep: add -m."
    if isinstance(error, InstantiationException) and not _is_call(error.__cause__):
        return None  # the called function failed, not the call
    if isinstance(error, HydraException | OmegaConfBaseException):
        said = [line.strip() for line in f"{error}\n{error.__cause__ or ''}".split("\n")]
        return "; ".join(
            dict.fromkeys(line for line in said[:6] if line and not line.startswith(("See http", "full_key", "object_")))
        )
    return None


def _of_the_input(error: BaseException) -> str:
    """A sentence on an error in the user's input or configuration; empty for other errors."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, MissingConfigException):
        return _unknown_option(error)
    if isinstance(error, MissingMandatoryValue):
        key = error.full_key or str(error).rpartition(":")[2].strip()
        return f"{key} has no value: add {key}=... to the command."
    return ""


def _of_a_disk(error: BaseException, config_name: str) -> str:
    """A sentence on an error of the disk, such as a full one; empty for other errors."""
    if not isinstance(error, OSError) or not error.strerror or isinstance(error, NOT_OF_A_DISK):
        return ""
    where = error.filename2 or error.filename or "the disk"
    kept = "What was done is kept; cure this" if config_name == "config" else "Cure this"
    return f"{where}: {error.strerror}. {kept} and start the same again."


def _is_call(error: BaseException | None) -> bool:
    """Whether the error is about the call itself: an unknown target, or a wrong argument."""
    return not isinstance(error, Exception) or isinstance(error, ImportError | AttributeError) or "argument" in str(error)


def out_of_memory(error: BaseException) -> str | None:
    """Advice if the error is a lack of memory, of the GPU or of the machine; None for other errors. Imports no torch."""
    text = str(error).strip()
    told = isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
    if not (told or isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__):
        return None
    first = text.split("\n")[0] or type(error).__name__
    return (
        f"out of memory ({first}). Choose a smaller batch.size, data.size or model.width, fewer runs at a time "
        "(hydra.launcher.workers, hydra.launcher.per_gpu), or ask the cluster for more (hydra.launcher.mem)."
    )


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its chain of causes, each once: an error that is raised again may be its own cause."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
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
    beginning = {"config": "", "calibrate": "", "check": "", "evaluate": "data."}.get(
        config_name
    )  # the run's keys that this verb accepts
    of_a_run = [name for name in _run_keys() if name.startswith(beginning)] if beginning is not None else []
    known = sorted({*_own_keys(config_name), *of_a_run})
    verb = as_typed("python -m segtune" if config_name == "config" else f"python -m segtune.{config_name}")
    shown = "--help" if beginning is None else "--cfg job"
    return f"{key}: no such key. Nearest: {', '.join(nearest(key, known)[:3])}. See {verb} {shown} for all."


def nearest(name: str, known: Sequence[str]) -> list[str]:
    """The known names, the most similar first: numbers by value, others by spelling."""
    number = as_number(name)
    numbers = [option for option in known if as_number(option) is not None]
    if number is not None and numbers:
        return [*sorted(numbers, key=lambda option: abs((as_number(option) or 0) - number)), *sorted(set(known) - set(numbers))]
    ranked = get_close_matches(name, known, n=len(known), cutoff=0)
    return [*ranked, *(option for option in known if option not in ranked)]


def _own_keys(config_name: str) -> list[str]:
    return [
        key for key in dotted_keys(OmegaConf.load(CONF / f"{config_name}.yaml")) if not key.startswith(("defaults", "hydra"))
    ]


def _run_keys() -> list[str]:
    keys = set(_own_keys("run"))
    for group, options in groups().items():
        if "/" not in group and group != "study":
            paths = filter(None, (option_file(group, option) for option in options))
            keys |= {f"{group}.{key}" for path in paths for key in dotted_keys(OmegaConf.load(path))}
    return sorted(key for key in keys if "_target_" not in key and "_partial_" not in key)
