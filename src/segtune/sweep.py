"""Which runs a sweep has and which of them are done. Imports no torch; the Hydra plugins are thin wrappers around this."""

import itertools
import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from omegaconf import DictConfig

from segtune import app, results
from segtune.errors import InputError

log = logging.getLogger(__name__)

MOST_FIGURES = 60  # a larger sweep draws its runs' figures on demand (python -m segtune.report)
Compose = Callable[[list[str]], DictConfig]


@dataclass(frozen=True)
class Run:
    """One run of a sweep: its id, the overrides that give it, its folder, and whether it is done."""

    run_id: str
    overrides: list[str]
    folder: Path
    label: str
    done: bool


def combinations(grids: Sequence[Mapping[str, Any]], arguments: Sequence[str]) -> list[list[str]]:
    """Every run's overrides: a union of products. An axis that the command line names is pinned in every grid.

    Args:
        grids: each a mapping of key to its values; none at all: the command line alone.
        arguments: overrides of the command line, sweeps among them.
    """
    parser = OverridesParser.create()
    typed: dict[str, list[str]] = {}
    for override in parser.parse_overrides(list(arguments)):
        key = override.get_key_element()
        if not override.is_sweep_override():
            typed[key] = [override.input_line or ""]
        elif override.is_discrete_sweep():
            typed[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise InputError(f"{override.input_line}: a grid needs a list of values, like {key}=1,2,3.")
    found = []
    for grid in grids or [{}]:
        axes = {key: [app.quote_numbers(f"{key}={value}") for value in _values(key, values)] for key, values in grid.items()}
        found += [list(combination) for combination in itertools.product(*(axes | typed).values())]
    return found


def plan(jobs: Sequence[list[str]], compose: Compose) -> list[Run]:
    """The runs of a sweep: each composed and checked before the first one starts, and each only once."""
    runs: dict[str, Run] = {}
    ignored: set[str] = set()
    for job in jobs:
        cfg, overrides = _compose(job, compose, ignored)
        config = app.plain(cfg)
        app.check(config)
        run_id = results.run_id(config)
        folder = Path(cfg.hydra.sweep.dir) / "runs" / run_id
        runs.setdefault(run_id, Run(run_id, overrides, folder, results.label(config), results.is_done(folder, run_id)))
    for line in sorted(ignored):
        log.info(line)
    return list(runs.values())


def launch(
    runs: Sequence[Run], folder: Path, command: list[str], start: Callable[[list[list[str]]], Sequence[JobReturn]]
) -> Sequence[JobReturn]:
    """Write sweep.json, start what is not done, and say what became of it.

    Raises: InputError that lists the failed runs, after all have had their turn.
    """
    results.write_sweep(folder, command=command, runs=[{"run_id": run.run_id, "overrides": run.overrides} for run in runs])
    todo = [run for run in runs if not run.done]
    log.info("sweep %s: %d runs, %d done, %d to run", folder, len(runs), len(runs) - len(todo), len(todo))
    on_demand = ["figures=false"] if len(runs) > MOST_FIGURES else []
    returned = start([run.overrides + on_demand for run in todo]) if todo else []
    failed = [(run, ret) for run, ret in zip(todo, returned, strict=True) if ret.status is not JobStatus.COMPLETED]
    if failed:
        lines = [f"  {run.run_id} {run.label}: {_failure(ret)}" for run, ret in failed]
        raise InputError(f"{len(failed)} of {len(runs)} runs failed, the others are done:\n" + "\n".join(lines))
    log.info("sweep %s: all %d runs done. Draw them: python -m segtune.report sweep=%s", folder, len(runs), folder)
    return returned


def _values(key: str, values: Any) -> list[Any]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise InputError(f"hydra.sweeper.grids: {key}: {values} must be a list, like {key}: [{values}].")
    return list(values)


def _compose(job: list[str], compose: Compose, ignored: set[str]) -> tuple[DictConfig, list[str]]:
    """The job's configuration. A key of an option that this job did not choose (reg.lambda with reg=none) is left out.

    Else `reg=none,l2 reg.lambda=1e-4,1e-3` could not run, or would count reg=none twice.
    """
    overrides = list(job)
    while True:
        try:
            return compose(overrides), overrides
        except HydraException as error:
            message = str(error)
            key = message.split("'")[1] if message.startswith("Could not override '") else ""
            group, _, name = key.partition(".")
            kept = [override for override in overrides if not override.startswith(f"{key}=")]
            owners = [option for option in app.groups().get(group, []) if app.has_key(group, option, name)]
            if not owners or len(kept) == len(overrides):
                raise
            ignored.add(f"{key} belongs to {group}={','.join(owners)} and is left out of runs with another {group}")
            overrides = kept


def _failure(ret: JobReturn) -> str:
    """The failed job's message; the traceback of a bug goes to the terminal first."""
    error = ret._return_value
    message = app.explain(error)
    if message is None:
        traceback.print_exception(error)
        message = f"{type(error).__name__}: {error}"
    return message
