"""Show the progress of a sweep: counts, estimated time and a progress bar."""

import contextlib
import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from segtune.errors import InputError
from segtune.runs import budget, layout
from segtune.runs.result import read_result
from segtune.runs.state import epochs_done
from segtune.runs.tables import read_history
from segtune.runs.words import duration
from segtune.sweeps.plan import Run


def tally(runs: Sequence[Run]) -> str:
    """Count the runs by what remains to be done, like: 12 done, 3 to resume, 1 failed, 8 to run."""
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
    """Estimate the time that the unfinished runs will take [s]; None if no epoch has been finished yet.

    The estimate uses the median time per epoch, or per step of runs whose length is given in steps. It is the median over the
    finished runs in the same folder that have the same data, network, batch and trainer settings. If there are no such
    runs, it uses all finished runs whose length has the same unit, and otherwise the median time of all finished runs.
    If no run has finished yet, it uses the epochs that have been finished so far.

    Args: at_once: the number of runs that are executed in parallel.
    """
    costs = _costs_of_finished({run.folder.parent for run in runs}) or _costs_so_far(runs)
    if not costs:
        return None
    total = 0.0
    for run in runs:
        if run.state != "completed":
            epochs, (unit, per_epoch) = budget.n_epochs(run.config["trainer"]), _unit(run.config)
            left = epochs - (epochs_done(run.folder) if run.state in ("interrupted", "stale", "running") else 0)
            of_unit = costs.get(_kind(run.config)) or costs.get(unit)
            total += left * (per_epoch * statistics.median(of_unit) if of_unit else statistics.median(costs["run"]) / epochs)
    return total / at_once


def _costs_of_finished(folders: Iterable[Path]) -> dict[str, list[float]]:
    """Return the times per epoch or step of all finished runs [s]: for each kind of run, for each unit, and of whole runs."""
    costs: dict[str, list[float]] = {}
    for folder in folders:
        for path in folder.glob(f"*/{layout.RESULT}"):
            with contextlib.suppress(
                InputError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError
            ):
                result = read_result(path.parent)
                _add(costs, result["config"], [result["seconds"] / budget.n_epochs(result["config"]["trainer"])])
    return costs


def _costs_so_far(runs: Sequence[Run]) -> dict[str, list[float]]:
    """Return the same as `_costs_of_finished` for the finished epochs of unfinished runs."""
    costs: dict[str, list[float]] = {}
    for run in runs:
        if epochs_done(run.folder):
            with contextlib.suppress(InputError, KeyError):
                _add(costs, run.config, read_history(run.folder)["seconds"])
    return costs


def _add(costs: dict[str, list[float]], config: Mapping[str, Any], seconds: Sequence[float]) -> None:
    """Add the times of epochs of a run [s]."""
    kind, epochs, (unit, per_epoch) = _kind(config), budget.n_epochs(config["trainer"]), _unit(config)
    for cost in seconds:
        if 0 <= cost < math.inf:
            for key, value in ((kind, cost / per_epoch), (unit, cost / per_epoch), ("run", cost * epochs)):
                costs.setdefault(key, []).append(float(value))


def _unit(config: Mapping[str, Any]) -> tuple[str, int]:
    """Return the unit of a run's length, epoch or step, and the number of units in an epoch."""
    steps = budget.steps_per_epoch(config["trainer"])
    return ("epoch", 1) if steps is None else ("step", steps)


def _kind(config: Mapping[str, Any]) -> str:
    lengths = ("max_epochs", "max_steps", "val_every_steps")
    trainer = {key: value for key, value in config["trainer"].items() if key not in lengths}
    kind = [config["data"], config["model"], config["batch"], config.get("augment"), trainer, _unit(config)[0]]
    return json.dumps(kind, sort_keys=True, default=str)


def listing(runs: Sequence[Run]) -> str:
    """Format the output of dry_run=true: a line for each run, the counts and the estimated time."""
    lines = [f"{run.run_id}  {run.state:<11}  {run.label}" for run in runs]
    seconds = estimate(runs)
    time_left = "no finished run to estimate the time from" if seconds is None else f"about {duration(seconds)}, one at a time"
    return "\n".join([*lines, f"{len(runs)} runs: {tally(runs)}; {time_left}"])


class Progress:
    """The progress bar of a sweep, which is shown only on a terminal.

    It shows the numbers of done, running and failed runs, and the remaining time.
    """

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
