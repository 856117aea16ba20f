"""The entry point of all commands: overrides as people type them, the run_id resolver, errors in one sentence."""

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
from omegaconf import DictConfig, OmegaConf

from segtune.config import usage
from segtune.config.explain import causes, explain
from segtune.config.overrides import CONF, arguments, at_home, expanded, quote_numbers
from segtune.config.rules import check
from segtune.errors import Interrupted, SummaryError, printable
from segtune.runs import identity


def entry(config_name: str, task: Callable[[DictConfig], None]) -> None:
    """Run a command under Hydra. Errors that a user can fix end in one message and exit code 1; bugs keep their traceback."""
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"  # the same rule as Hydra's
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise errors, which are explained here, instead of printing them
    failures: list[Exception] = []

    @functools.wraps(task)
    def guarded(cfg: DictConfig) -> None:
        try:
            task(with_home(cfg))
        except Exception as error:
            if HydraConfig.get().mode is RunMode.MULTIRUN:
                raise  # the sweeper explains it, and the sweep continues
            failures.append(error)  # raised later, because Hydra would print a line of its own

    if config_name != "config":  # runs handle signals themselves
        signal.signal(signal.SIGTERM, _interrupt)
    logging.raiseExceptions = False  # log lines that cannot be written are dropped without a traceback
    try:
        sys.argv[1:] = arguments(sys.argv[1:])
        if "--help" in sys.argv[1:]:
            print(usage.screen(config_name), flush=True)
            return
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(guarded)()
        if failures:
            raise failures[0]
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output has closed it, as `| head` does
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
        lines = next((cause.lines for cause in causes(error) if isinstance(cause, SummaryError)), [message])
        sys.exit("segtune: " + "\n".join(map(printable, lines)))


def _interrupt(number: int, frame: object) -> None:
    raise Interrupted(number)


def compose(overrides: Sequence[str] = (), config_name: str = "config") -> DictConfig:
    """Compose a configuration as the command line would; for tests and notebooks."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(config_name, [quote_numbers(at_home(override)) for override in overrides])


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The resolved configuration as plain dicts, without Hydra's own node."""
    keys = [str(key) for key in cfg if key != "hydra"]
    container = OmegaConf.to_container(OmegaConf.masked_copy(cfg, keys), resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)
    return {str(key): _at_home(value) for key, value in container.items()}


def with_home(cfg: DictConfig) -> DictConfig:
    """The configuration with a leading ~ of its values expanded."""
    found = OmegaConf.create(_at_home(OmegaConf.to_container(cfg)))
    assert isinstance(found, DictConfig)
    OmegaConf.set_struct(found, True)
    return found


def _at_home(value: Any) -> Any:
    """The value, or every value in it, with a leading ~ or ~user expanded."""
    if isinstance(value, dict):
        return {key: _at_home(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_at_home(item) for item in value]
    return expanded(value) if isinstance(value, str) else value


def _run_id(*, _root_: DictConfig) -> str:
    config = plain(_root_)
    check(config)
    return identity.run_id(config)


OmegaConf.register_new_resolver("run_id", _run_id, replace=True)
OmegaConf.register_new_resolver("home", expanded, replace=True)  # for outputs: ~/out of a user's own YAML
