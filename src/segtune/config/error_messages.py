"""Turn exceptions into messages that say what went wrong and how the user can fix it."""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf import MissingMandatoryValue, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segtune.config import CONF
from segtune.config.overrides import as_number, dotted_keys, groups, has_key, option_file
from segtune.errors import InputError, as_typed

NOT_OF_A_DISK = (BlockingIOError, ChildProcessError, ConnectionError, InterruptedError, ProcessLookupError, TimeoutError)


def explain(error: BaseException, config_name: str = "config") -> str | None:
    """Return a message that says what went wrong and how the user can fix it, or None if the error is a bug in segtune."""
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
            "trainer.compile: torch.compile needs a C++ compiler, but none was found. Install g++ or leave trainer.compile out."
        )
    if str(error).startswith("Ambiguous value for argument '"):
        return f"{str(error).split(chr(39))[1]}: several values need a sweep. Add -m to the command."
    if isinstance(error, InstantiationException) and not _is_call(error.__cause__):
        return None  # the called function failed, not the call
    if isinstance(error, HydraException | OmegaConfBaseException):
        said = [line.strip() for line in f"{error}\n{error.__cause__ or ''}".split("\n")]
        return "; ".join(
            dict.fromkeys(line for line in said[:6] if line and not line.startswith(("See http", "full_key", "object_")))
        )
    return None


def _of_the_input(error: BaseException) -> str:
    """Return a message for an error in the user's input or configuration, or "" for other errors."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, MissingConfigException):
        return _unknown_option(error)
    if isinstance(error, MissingMandatoryValue):
        key = error.full_key or str(error).rpartition(":")[2].strip()
        return f"{key} has no value: add {key}=... to the command."
    return ""


def _of_a_disk(error: BaseException, config_name: str) -> str:
    """Return a message for a file system error, such as a full disk, or "" for other errors."""
    if not isinstance(error, OSError) or not error.strerror or isinstance(error, NOT_OF_A_DISK):
        return ""
    where = error.filename2 or error.filename or "the disk"
    kept = "Finished work is kept. " if config_name == "config" else ""
    return f"{where}: {error.strerror}. {kept}Fix this problem and run the same command again."


def _is_call(error: BaseException | None) -> bool:
    """Return whether the call itself failed, because of an unknown target or a wrong argument."""
    return not isinstance(error, Exception) or isinstance(error, ImportError | AttributeError) or "argument" in str(error)


def out_of_memory(error: BaseException) -> str | None:
    """Return a message with advice if the GPU or the machine ran out of memory, or None for other errors.

    This function does not import torch, so that commands without torch start quickly.
    """
    text = str(error).strip()
    by_text = isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
    if not (by_text or isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__):
        return None
    first = text.split("\n")[0] or type(error).__name__
    return (
        f"out of memory ({first}). Choose a smaller batch.size, data.size or model.width, fewer runs at a time "
        "(hydra.launcher.workers, hydra.launcher.per_gpu), or request more memory from the cluster (hydra.launcher.mem)."
    )


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and its chain of causes, each only once. (An error that is raised again may be its own cause.)"""
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
    exact = f" For any other fraction, use {group}.val_fraction=..." if group == "split" else ""
    exact = f" For any other size, use {group}.size=..." if group == "batch" else exact
    return f"{group}={name}: no such option. Nearest: {ordered[0]}. Known: {', '.join(ordered)}.{exact}"


def _unknown_key(key: str, config_name: str) -> str:
    group, _, name = key.partition(".")
    owners = [option for option in groups().get(group, []) if has_key(group, option, name)]
    if owners:
        return (
            f"{key}: the chosen {group} has no key {name}. Options with this key: {group}={', '.join(owners)}. Choose one or "
            f"leave {key} out."
        )
    # The command accepts the keys of a run that start with this text; None: it accepts none.
    beginning = {"config": "", "calibrate": "", "check": "", "evaluate": "data."}.get(config_name)
    of_a_run = [name for name in _run_keys() if name.startswith(beginning)] if beginning is not None else []
    chosen = [group for group in groups() if "/" not in group] if beginning == "" else []
    known = sorted({*_own_keys(config_name), *of_a_run, *chosen})
    verb = as_typed("python -m segtune" if config_name == "config" else f"python -m segtune.{config_name}")
    shown = "--help" if beginning is None else "--cfg job"
    return f"{key}: no such key. Nearest: {', '.join(nearest(key, known)[:3])}. See {verb} {shown} for all."


def nearest(name: str, known: Sequence[str]) -> list[str]:
    """Sort the known names by similarity to `name`, the most similar first. Numbers are compared by value."""
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
