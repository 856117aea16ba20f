"""Which runs a sweep has, which are done, how long the rest takes, what became of it. Imports no torch."""

import contextlib
import itertools
import json
import logging
import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from segtune import app, results, rules, sources
from segtune.errors import InputError, SummaryError

log = logging.getLogger(__name__)

MOST_FIGURES = 60  # a larger sweep draws a run's figure on demand (python -m segtune.report run=...)
Compose = Callable[[list[str]], DictConfig]


@dataclass(frozen=True)
class Run:
    """One run of a sweep: its id, the overrides that give its configuration, its folder, and its state (results.state)."""

    run_id: str
    overrides: list[str]
    config: dict[str, Any]
    folder: Path
    state: str

    @property
    def label(self) -> str:
        return results.label(self.config)

    def done_in(self, folder: Path) -> "Run":
        """This run as one that was finished in another folder, whose name is its id."""
        return replace(self, run_id=folder.name, folder=folder, state="completed")

    def about(self) -> dict[str, Any]:
        """What status.json says of it, whatever its state."""
        return {"run_id": self.run_id, "overrides": self.overrides, "config": self.config}


# Which runs


def combinations(grids: Sequence[Mapping[str, Any]], arguments: Sequence[str]) -> list[list[str]]:
    """Every run's overrides: a union of products. An axis that the command line names is pinned in every grid.

    Args:
        grids: each a mapping of key to its values; none at all: the command line alone.
        arguments: overrides of the command line, sweeps among them.
    """
    if isinstance(grids, str) or not all(isinstance(grid, Mapping) for grid in grids):
        raise InputError(f"hydra.sweeper.grids={grids}: must be a list of grids, like [{{loss: [bce, focal], seed: [0, 1]}}].")
    parser = OverridesParser.create()
    typed: dict[str, list[str]] = {}
    for override in parser.parse_overrides(list(arguments)):
        key = override.get_key_element()
        if key == "study" and override.is_sweep_override():
            raise InputError(
                f"{override.input_line}: a sweep has the grids of one study. Start each with a command of its own."
            )
        if key == "name" and override.is_sweep_override():
            raise InputError(f"{override.input_line}: it names the folder of this sweep, so it has one value.")
        if not override.is_sweep_override():
            typed[key] = [override.input_line or ""]
        elif isinstance(override._value, Glob):
            raise InputError(f"{override.input_line}: name the options, like {key}=one,another.")
        elif override.is_discrete_sweep():
            typed[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise InputError(f"{override.input_line}: a grid needs a list of values, like {key}=1,2,3.")
    found = []
    for grid in grids or [{}]:
        axes = {key: [app.quote_numbers(f"{key}={value}") for value in _values(key, values)] for key, values in grid.items()}
        found += [list(combination) for combination in itertools.product(*(axes | typed).values())]
    return found


def _values(key: str, values: Any) -> list[Any]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise InputError(f"hydra.sweeper.grids: {key}: {values} must be a list, like {key}: [{values}].")
    if not values:
        raise InputError(f"hydra.sweeper.grids: {key}: [] has no value, so there would be no run. Leave the axis out.")
    return list(values)


class Changed:
    """Finds the inputs of a finished run (its data, modules and files) that have changed since it ran.

    An instance is called with the run's folder and configuration and returns the names of the changed inputs. It reads each
    data set once. For a result that recorded no inputs only the data are compared. Raises what the reader raises for data
    that cannot be read now.
    """

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def __call__(self, folder: Path, config: Mapping[str, Any]) -> list[str]:
        result = results.read_result(folder)
        for target in sources.missing(config):
            raise InputError(
                f"{target}: there is no such module on Python's path now, so whether it is what run {folder.name} was made "
                "with cannot be told. Start the command where it can be imported."
            )
        now = {"data": self.fingerprint(config), **sources.of(config)}
        data = result.get("data")
        before = result.get("inputs")
        if not isinstance(before, dict):
            before = {**now, "data": data.get("fingerprint") if isinstance(data, dict) else None}
            if len(now) > 1:
                log.info("%s: it recorded nothing of its own code (%s), which is taken to be the same", folder, ", ".join(now))
        return sources.changed(before, now)

    def fingerprint(self, config: Mapping[str, Any]) -> str:
        """Of the data that the configuration's reader reads."""
        reader = json.dumps(config["data"]["reader"], sort_keys=True)
        if reader not in self._known:
            self._known[reader] = instantiate(OmegaConf.create(reader)).fingerprint()
        return self._known[reader]


def plan(jobs: Sequence[list[str]], compose: Compose) -> list[Run]:
    """The runs of a sweep: each composed and checked before the first one starts, and each only once.

    A finished run whose data or code differ now is `changed`: it is not done. One that was made from the same data in another
    folder is done.
    """
    runs: dict[str, Run] = {}
    ignored: set[str] = set()
    changed = Changed()
    for job in tqdm(jobs, desc="composing", leave=False, disable=None if len(jobs) > MOST_FIGURES else True):
        cfg, overrides = _compose(job, compose, ignored)
        config = app.plain(cfg)
        rules.check(config)
        run_id = results.run_id(config)
        if run_id in runs:
            continue
        folder = Path(cfg.hydra.sweep.dir) / "runs" / run_id
        state, _ = results.state(folder, run_id)
        if state == "completed":
            try:
                state = "changed" if changed(folder, config) else "completed"
            except (InputError, HydraException):  # cannot be read now: the run says why, in its turn
                state = "changed"
        elif (folder / results.RESULT).exists() and (why := results.why_not_done(folder, run_id)):
            log.warning("run %s: %s", run_id, why)
        runs[run_id] = Run(run_id, overrides, config, folder, state)
    for line in sorted(ignored):
        log.info(line)
    return once(list(runs.values()), changed)


def once(runs: Sequence[Run], changed: Changed) -> list[Run]:
    """The runs without those that differ from another one, finished or of this sweep, in the folder of their data alone.

    A run that was finished with the same data from elsewhere takes the place of one that would repeat it, unless the data
    that it came from have changed since: then its own command will set that result aside.
    """
    finished: dict[Path, dict[str, list[Path]]] = {}
    found: dict[str, Run] = {}
    known: dict[tuple[str, str], Run] = {}
    alike = Counter(results.placeless_id(run.config) for run in runs)
    for run in runs:
        if run.state != "completed" and run.config["data"].get("root") is not None:
            home, name = run.folder.parent, results.placeless_id(run.config)
            finished.setdefault(home, _finished(home))
            others = (run.done_in(one) for one in finished[home].get(name, []) if one != run.folder)
            if other := next((one for one in others if not _differs(changed, one) and _stays(changed, one)), None):
                run = other
            elif alike[name] > 1 and (data := _fingerprint(changed, run)):
                run = known.setdefault((name, data), run)
        found.setdefault(run.run_id, run)
    return list(found.values())


def _stays(changed: Changed, run: Run) -> bool:
    """Whether a finished run's own folder of data still holds what it was made from, or is not there any more."""
    root = results.read_result(run.folder)["config"]["data"]["root"]
    if not isinstance(root, str) or "${" in root:
        return False
    data = {**run.config["data"], "root": root, "reader": {**run.config["data"]["reader"], "root": root}}
    try:
        return not changed(run.folder, {**run.config, "data": data})
    except (InputError, HydraException):
        return not Path(root).exists()


def _finished(home: Path) -> dict[str, list[Path]]:
    """The folders of the finished runs in `home`, by their configurations without where the data lie."""
    found: dict[str, list[Path]] = {}
    for path in sorted(home.glob(f"*/{results.RESULT}")):
        with contextlib.suppress(InputError, LookupError, TypeError, AttributeError):
            config = results.read_result(path.parent)["config"]
            if config["data"].get("root") is not None and results.is_done(path.parent, path.parent.name):
                found.setdefault(results.placeless_id(config), []).append(path.parent)
    return found


def _differs(changed: Changed, run: Run) -> bool:
    try:
        return bool(changed(run.folder, run.config))
    except (InputError, HydraException):  # data that cannot be read now: the run says why, in its turn
        return True


def _fingerprint(changed: Changed, run: Run) -> str | None:
    try:
        return changed.fingerprint(run.config)
    except (InputError, HydraException):
        return None


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


def tally(runs: Sequence[Run]) -> str:
    """`12 done, 3 to resume, 1 failed, 8 to run`; they add up to all runs."""
    count = Counter(run.state for run in runs)
    resume, new = ("interrupted", "stale"), ("missing", "queued", "changed")
    words = [
        f"{count['completed']} done",
        f"{sum(count[state] for state in resume)} to resume",
        f"{count['failed']} failed",
        f"{sum(count[state] for state in new)} to run",
    ]
    return ", ".join(words + ([f"{count['running']} running elsewhere"] if count["running"] else []))


def estimate(runs: Sequence[Run], at_once: int = 1) -> float | None:
    """Seconds that the runs which are not done will take, by the finished runs beside them; None with nothing to judge by.

    A run costs what the finished runs of the same data, network and batch took per epoch (the median), else what any did;
    before any has finished, what its own or its neighbours' epochs took so far.
    """
    by_kind: dict[str, list[float]] = {}
    for folder in {run.folder.parent for run in runs}:
        for path in folder.glob(f"*/{results.RESULT}"):
            with contextlib.suppress(
                InputError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError
            ):
                result = results.read_result(path.parent)
                cost = float(result["seconds"] / result["config"]["trainer"]["max_epochs"])
                if not 0 <= cost < math.inf:
                    continue
                for kind in (_kind(result["config"]), "any"):
                    by_kind.setdefault(kind, []).append(cost)
    if not by_kind:
        for run in runs:
            if results.epochs_done(run.folder):
                with contextlib.suppress(InputError, KeyError):
                    costs = [cost for cost in results.read_history(run.folder)["seconds"] if 0 <= cost < math.inf]
                    for kind in (_kind(run.config), "any") if costs else ():
                        by_kind.setdefault(kind, []).extend(costs)
    if not by_kind:
        return None
    total = 0.0
    for run in runs:
        if run.state != "completed":
            epochs = run.config["trainer"]["max_epochs"]
            left = epochs - (results.epochs_done(run.folder) if run.state in ("interrupted", "stale", "running") else 0)
            total += left * statistics.median(by_kind.get(_kind(run.config)) or by_kind["any"])
    return total / at_once


def _kind(config: Mapping[str, Any]) -> str:
    trainer = {key: value for key, value in config["trainer"].items() if key != "max_epochs"}
    return json.dumps([config["data"], config["model"], config["batch"], trainer], sort_keys=True, default=str)


def duration(seconds: float) -> str:
    """90 -> 2 min; 7,000 -> 1 h 57 min."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def listing(runs: Sequence[Run]) -> str:
    """A line per run, and the estimated time: what dry_run=true prints."""
    others = results.differences([run.config for run in runs])
    lines = [f"{run.run_id}  {run.state:<11}  {run.label} {other}".rstrip() for run, other in zip(runs, others, strict=True)]
    seconds = estimate(runs)
    time_left = "no finished run to estimate the time from" if seconds is None else f"about {duration(seconds)}, one at a time"
    return "\n".join([*lines, f"{len(runs)} runs: {tally(runs)}; {time_left}"])


# What becomes of them


Failures = dict[str, dict[str, str]]  # run id -> kind, message, traceback (workers.failure)
Start = Callable[[list[Run], "Sweep"], Failures]


@dataclass(frozen=True)
class Sweep:
    """What those who run a sweep's runs need to know of it."""

    folder: Path
    halt: Path | None  # a file that whoever sees a run fail puts there, and before which nobody starts another one
    progress: "Progress"


class Progress:
    """One line for the sweep: runs done, running, failed, time left. Silent without a terminal."""

    def __init__(self, runs: Sequence[Run]) -> None:
        done = sum(run.state == "completed" for run in runs)
        self._bar = tqdm(total=len(runs), initial=done, desc="sweep", unit="run", disable=None)
        self._failed = 0

    def running(self, n: int) -> None:
        self._bar.set_postfix_str(f"{n} running, {self._failed} failed")

    def ended(self, *, failed: bool) -> None:
        self._failed += failed
        self._bar.update()

    def close(self) -> None:
        self._bar.close()


def launch(
    runs: Sequence[Run], folder: Path, command: list[str], start: Start, *, on_failure: str, is_named: bool = True
) -> None:
    """Write sweep.json, start what is not done, and say what became of it: the runs' own files decide, not exit codes.

    Args:
        on_failure: continue, or stop: after a failed run no other one starts.
        is_named: False: where the folder is that of a sweep of other runs, take another one beside it.

    Raises: InputError that lists the runs which failed or were cut off, after all have had their turn.
    """
    listed = [
        {
            "run_id": run.run_id,
            "folder": f"{run.folder.parent.name}/{run.folder.name}",  # below the folder that holds this sweep's
            "overrides": run.overrides,
            "axes": results.axes(run.config),
        }
        for run in runs
    ]
    log.info("%s", tally(runs))
    asked, folder = folder, results.write_sweep(folder, command=command, runs=listed, elsewhere=not is_named)
    if folder != asked:
        log.info("%s is of a sweep of other runs; this one is %s (name=... names a sweep's folder)", asked, folder)
    todo = [run for run in runs if run.state != "completed"]
    if len(runs) > MOST_FIGURES:
        todo = [replace(run, config={**run.config, "figures": False}) for run in todo]
    for run in todo:
        results.queue(run.folder, **run.about())
    halt = folder / "halt" if on_failure == "stop" else None
    (folder / "halt").unlink(missing_ok=True)
    progress = Progress(runs)
    try:
        with logging_redirect_tqdm():
            failures = start(todo, Sweep(folder, halt, progress)) if todo else {}
    finally:
        progress.close()
        (folder / "halt").unlink(missing_ok=True)
    _conclude(runs, failures, folder)


def _conclude(runs: Sequence[Run], failures: Failures, folder: Path) -> None:
    lines, count = [], Counter[str]()
    for run in runs:
        state, status = results.state(run.folder, run.run_id)
        error = failures.get(run.run_id) or (status.get("error") if state == "failed" else None)
        if error and error["kind"] == "taken over" and state == "completed":
            error = None  # by the process that took it over
        if error:
            state = "failed"
            lines.append(f"  {run.run_id} {run.label}: {error['message']}")
        elif state in ("interrupted", "stale"):
            lines.append(f"  {run.run_id} {run.label}: cut off ({status.get('signal', 'killed')}); the same command resumes it")
        count[state] += 1
    if lines:
        count["not begun"] = count.pop("queued", 0) + count.pop("missing", 0)
    said = ", ".join(f"{n} {state}" for state, n in sorted(count.items()) if n)
    again = f"python -m segtune.status sweep={folder} says more; the same command runs again what is not done."
    if lines:
        raise SummaryError([f"sweep {folder}: {said}.", *lines, again])
    if count["completed"] < len(runs):
        log.info("sweep %s: %s. %s", folder, said, again)
    else:
        log.info("sweep %s: all %d runs done. What they prove: python -m segtune.report sweep=%s", folder, len(runs), folder)
