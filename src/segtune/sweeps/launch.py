"""Launch a sweep: write sweep.json, start the runs that are not done, and report how they ended."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm.contrib.logging import logging_redirect_tqdm

from segtune.errors import SummaryError, as_typed
from segtune.runs import identity, layout
from segtune.runs.files import write_atomically
from segtune.runs.state import state_of, write_queued
from segtune.runs.sweep import read_sweeps, write_sweep
from segtune.sweeps import looks as looks_
from segtune.sweeps.plan import MOST_FIGURES, Run
from segtune.sweeps.progress import Progress, tally

log = logging.getLogger(__name__)


OF_THE_STUDY = ("rvsc", "phantom")  # the data for which recipe=study was made
STRONG = (
    "These runs use recipe=study, the training of the published study. On new patients, recipe=strong is usually far better: "
    "on 16 patients of ACDC, a prototype of it reached a 3-D Dice of 0.89 instead of 0.69"
)
Failures = dict[str, dict[str, str]]  # run id -> kind, message, traceback (execute.describe_failure)
Start = Callable[[list[Run], "Sweep"], Failures]


@dataclass(frozen=True)
class Sweep:
    """What an execution backend needs to know about the sweep whose runs it executes."""

    folder: Path
    halt: Path | None  # a file that is created when a run fails; while it exists, no further run is started
    progress: "Progress"


def launch(
    runs: Sequence[Run],
    folder: Path,
    command: list[str],
    start: Start,
    *,
    on_failure: str,
    is_named: bool = True,
    looks: Sequence[int] = (),
) -> None:
    """Write sweep.json, start the runs that are not done, and report how they ended according to their files.

    Args:
        runs: all runs of the sweep.
        folder: the sweep's folder.
        command: the command that the user typed.
        start: the execution backend.
        on_failure: "continue", or "stop" to start no further runs after a run has failed.
        is_named: whether the user chose the name of the folder. If not, another folder is used if this folder contains
            a sweep of other runs.

        looks: the numbers of seeds or folds at which a report may judge the sweep (sweeps/looks.py).

    Raises: InputError if the looks are not possible in this sweep. SummaryError if runs failed or were interrupted. It
        is raised after all runs have been tried, and its message lists these runs.
    """
    axes, positions = varied_values(runs), looks_.positions(runs)
    looks_.check(looks, runs)
    listed = [
        {
            "run_id": run.run_id,
            "folder": f"{run.folder.parent.name}/{run.folder.name}",  # relative to the folder that holds the sweep's folder
            "overrides": run.overrides,
            "options": run.options,
            "label": run.label,
            "axes": of,
            "replicate": positions[run.run_id],
        }
        for run, of in zip(runs, axes, strict=True)
    ]
    added = looks_.added(runs, looks, read_sweeps(folder.parent), positions)
    log.info("%s", tally(runs))
    if runs and all(run.options.get("recipe") == "study" and run.options.get("data") not in OF_THE_STUDY for run in runs):
        log.info("%s", STRONG)
    asked, folder = folder, write_sweep(folder, command=command, runs=listed, looks=looks, added=added, elsewhere=not is_named)
    if folder != asked:
        log.info("%s contains a sweep of other runs, so this sweep is in %s (choose a folder with name=...)", asked, folder)
    if added:
        log.info(
            "%d runs are added to configurations that an earlier sweep has already judged. They are reported, but decide "
            "nothing: see docs/statistics.md on looks",
            len(added),
        )
    todo = [run for run in runs if run.state != "completed"]
    if len(runs) > MOST_FIGURES:
        todo = [replace(run, config={**run.config, "figures": False}) for run in todo]
    for run in todo:
        write_queued(run.folder, **run.about())
    halt = folder / "halt" if on_failure == "stop" else None
    (folder / "halt").unlink(missing_ok=True)
    progress = Progress(runs)
    try:
        with logging_redirect_tqdm():
            failures = start(todo, Sweep(folder, halt, progress)) if todo else {}
    finally:
        progress.close()
        (folder / "halt").unlink(missing_ok=True)
    picture = f"{layout.AUGMENTED}.png"
    if drawn := next((run.folder / picture for run in runs if (run.folder / picture).is_file()), None):
        write_atomically(folder / picture, drawn.read_bytes())
    _conclude(runs, failures, folder)


def varied_values(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Return each run's loss, split, reg and batch, and its values of all other keys in which the labels differ."""
    of = [{identity.key_of(word): word.partition("=")[2] for word in identity.words(run.label)} for run in runs]
    keys = dict.fromkeys(key for values in of for key in values)
    shown = [key for key in keys if key in identity.AXES or len({values.get(key) for values in of}) > 1]
    return [{key: values[key] for key in shown if key in values} for values in of]


def _conclude(runs: Sequence[Run], failures: Failures, folder: Path) -> None:
    lines, count = [], Counter[str]()
    for run in runs:
        state, status = state_of(run.folder, run.run_id)
        error = failures.get(run.run_id) or (status.get("error") if state == "failed" else None)
        if error and error["kind"] == "taken over" and state == "completed":
            error = None  # the process that took the run over has completed it
        if error:
            state = "failed"
            lines.append(f"  {run.run_id} {run.label}: {error['message']}")
        elif state in ("interrupted", "stale"):
            cause = status.get("signal", "killed")
            lines.append(f"  {run.run_id} {run.label}: interrupted ({cause}); the same command resumes it")
        count[state] += 1
    if lines:
        count["not started"] = count.pop("queued", 0) + count.pop("missing", 0)
    said = ", ".join(f"{n} {state}" for state, n in sorted(count.items()) if n)
    details = as_typed("python -m segtune.status")
    again = f"Details: {details} sweep={folder}. To run what is not done, start the same command again."
    if lines:
        raise SummaryError([f"sweep {folder}: {said}.", *lines, again])
    if count["completed"] < len(runs):
        log.info("sweep %s: %s. %s", folder, said, again)
    else:
        report = as_typed("python -m segtune.report")
        log.info("sweep %s: all %d runs are done. Results: %s sweep=%s", folder, len(runs), report, folder)
