"""The entry point of all commands. It reads overrides, runs the command under Hydra and reports errors in one sentence."""

import functools
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf

from segtune.config import CONF, usage
from segtune.config.error_messages import causes, explain
from segtune.config.overrides import arguments, at_home, expanded, quote_numbers, with_study_of_recipe
from segtune.config.rules import check
from segtune.errors import Interrupted, SummaryError, printable
from segtune.runs import identity


def entry(config_name: str, task: Callable[[DictConfig], None]) -> None:
    """Run a command under Hydra.

    An error that a user can fix is reported in one message, and the exit code is 1. Bugs keep their traceback.

    Args: config_name: file in conf/ without .yaml. task: the function that the command runs.
    """
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"  # the same rule as Hydra's
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise errors, which are explained below, instead of printing them
    failures: list[Exception] = []

    @functools.wraps(task)
    def guarded(cfg: DictConfig) -> None:
        try:
            task(with_home(cfg))
        except Exception as error:
            if HydraConfig.get().mode is RunMode.MULTIRUN:
                raise  # the sweeper reports the error, and the sweep continues
            failures.append(error)  # raised below, because Hydra would print its own message

    if config_name != "config":  # runs handle signals themselves
        signal.signal(signal.SIGTERM, _interrupt)
    logging.raiseExceptions = False  # no traceback for log lines that cannot be written
    try:
        sys.argv[1:] = arguments(sys.argv[1:])
        if config_name == "config":
            sys.argv[1:] = with_study_of_recipe(sys.argv[1:])
        if "--help" in sys.argv[1:]:
            print(usage.screen(config_name), flush=True)
            return
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(guarded)()
        if failures:
            raise failures[0]
        sys.stdout.flush()
    except BrokenPipeError:  # the process that reads the output has closed it, for example `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes stdout again on exit
        sys.exit(128 + signal.SIGPIPE)
    except (KeyboardInterrupt, Interrupted) as stop:
        number = stop.signal if isinstance(stop, Interrupted) else signal.SIGINT
        again = " Run the same command again to continue each run from its last epoch." if config_name == "config" else ""
        print(f"segtune: stopped by {signal.Signals(number).name}.{again}", file=sys.stderr)
        sys.exit(128 + number)
    except Exception as error:
        message = explain(error, config_name)
        if message is None or wants_traceback:
            raise
        lines = next((cause.lines for cause in causes(error) if isinstance(cause, SummaryError)), [message])
        sys.exit("segtune: " + "\n".join(map(printable, lines)))


def _interrupt(number: int, frame: object) -> None:
    raise Interrupted(number)


def compose(overrides: Sequence[str] = (), config_name: str = "config") -> DictConfig:
    """Compose a configuration as the command line does. Used by tests and notebooks."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(config_name, [quote_numbers(at_home(override)) for override in overrides])


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Convert a configuration to plain dicts. Interpolations are resolved, and the node `hydra` is left out."""
    found: dict[str, Any] = {}
    for key in map(str, cfg):
        if key != "hydra":
            value = cfg[key]
            is_node = isinstance(value, DictConfig | ListConfig)
            found[key] = _at_home(OmegaConf.to_container(value, resolve=True, throw_on_missing=True) if is_node else value)
    return found


def with_home(cfg: DictConfig) -> DictConfig:
    """Return a copy of the configuration in which the home folder replaces a leading ~ or ~user in each value."""
    found = OmegaConf.create(_at_home(OmegaConf.to_container(cfg)))
    assert isinstance(found, DictConfig)
    OmegaConf.set_struct(found, True)
    return found


def _at_home(value: Any) -> Any:
    """Replace a leading ~ or ~user by the home folder in a string, or in all strings of a nested dict or list."""
    if isinstance(value, dict):
        return {key: _at_home(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_at_home(item) for item in value]
    return expanded(value) if isinstance(value, str) else value


def _run_id(*, _root_: DictConfig) -> str:
    config = plain(_root_)
    check(config)
    return identity.run_id(config)


def _unless(given: Any, default: Any) -> Any:
    """Return the default value of a key, or None if the user has set another key that replaces this key.

    Args: given: the value of the other key; None if it is not set.
    """
    return default if given is None else None


OmegaConf.register_new_resolver("unless", _unless, replace=True)
OmegaConf.register_new_resolver("run_id", _run_id, replace=True)
OmegaConf.register_new_resolver("home", expanded, replace=True)  # for a user's own YAML with, for example, outputs: ~/out
