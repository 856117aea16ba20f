"""Read the state of a sweep and its runs, and show it as a table."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from segtune.config import option_rules
from segtune.errors import InputError, printable, printable_lines
from segtune.runs.schema import Status
from segtune.runs.state import epochs_done, state_of
from segtune.runs.sweep import read_sweep
from segtune.runs.words import duration
from segtune.sweeps import plan
from segtune.sweeps.progress import estimate
from segtune.sweeps.slurm import queued_jobs

STATES = ("completed", "running", "queued", "interrupted", "stale", "failed", "missing")
MEANING = (
    "stale: the run's process has died; missing: the run was never started. To run these and failed runs, start the sweep's "
    "command again."
)


def read_overview(folder: Path) -> dict[str, Any]:
    """Read the state of a sweep and its runs.

    Returns: a dict with these entries.
        sweep, command, n_runs: the sweep's folder, its command and its number of runs.
        runs: one dict for each run, with run_id, state, folder, axes, epochs_done, host and job.
        states, axes: the number of runs in each state, for the whole sweep and for each value of each axis.
        failures: one dict for each error message, with kind, message and runs.
        seconds_left: the estimated remaining time, or None if no epoch has been finished.
    """
    sweep = read_sweep(folder)
    listed, home = sweep["runs"], folder.parent / "runs"
    if folder.parent == folder:  # sweep=. was typed inside the folder
        home = folder.resolve().parent / "runs"
    runs, known = [], []
    failures: dict[str, dict[str, Any]] = {}
    states_said = {one["run_id"]: state_of(home / one["run_id"], one["run_id"]) for one in listed}
    in_queue = _slurm_queue() if any(state == "queued" and "job" in said for state, said in states_said.values()) else None
    for one in listed:
        place = home / one["run_id"]
        state, said = states_said[one["run_id"]]
        if state == "queued" and in_queue is not None and said.get("job", "") not in {"", *in_queue}:
            state = "missing"  # its job was cancelled before it began
        entry: dict[str, Any] = {"run_id": one["run_id"], "state": state, "folder": str(place), "axes": one["axes"]}
        entry |= {"label": one["label"]} if "label" in one else {}
        entry |= {key: value for key, value in said.items() if key in ("since", "host", "job", "signal")}
        if state in ("running", "stale", "interrupted", "failed"):
            entry["epochs_done"] = epochs_done(place)
        runs.append(entry)
        known.append(plan.Run(one["run_id"], one["overrides"], _config(said), place, state))
        if state == "failed":
            error = said.get("error") or {"kind": "error", "message": "no message"}
            group = failures.setdefault(error["message"], {"kind": error["kind"], "message": error["message"], "runs": []})
            group["runs"].append(one["run_id"])
    typical = next((run.config for run in known if run.config), None)  # used for runs that have no status yet
    states = {state: sum(run["state"] == state for run in runs) for state in STATES}
    seconds_left = None
    if typical:
        known = [replace(run, config=run.config or typical) for run in known]
        seconds_left = estimate(known, at_once=max(1, states["running"]))
    return {
        "sweep": str(folder),
        "command": sweep["command"],
        "n_runs": len(runs),
        "states": states,
        "axes": _axes(runs),
        "failures": sorted(failures.values(), key=lambda failure: -len(failure["runs"])),
        "seconds_left": seconds_left,
        "runs": runs,
    }


def _config(said: Status) -> dict[str, Any]:
    """Return the configuration in a status if it has all keys needed to estimate the run's time, otherwise an empty dict."""
    config: dict[str, Any] = {**said.get("config", {})}
    trainer: Any = config.get("trainer") or {}
    lengths = [trainer.get(key) for key in ("max_epochs", "max_steps", "val_every_steps") if trainer.get(key) is not None]
    are_numbers = bool(lengths) and all(option_rules.is_number(n) and 1 <= n < 1e9 for n in lengths)
    return (
        config
        if {"data", "model", "batch"} <= config.keys() and are_numbers and lengths != [trainer.get("val_every_steps")]
        else {}
    )


def _slurm_queue() -> set[str] | None:
    """Return the jobs in Slurm's queue; None if Slurm is not available."""
    try:
        return queued_jobs()
    except InputError:
        return None


def _axes(runs: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, int]]]:
    """Count the runs for each axis, value and state: axis -> value -> state -> number of runs."""
    names = dict.fromkeys(name for run in runs for name in run["axes"])
    counts: dict[str, dict[str, dict[str, int]]] = {name: {} for name in names}
    for run in runs:
        for name, value in run["axes"].items():
            states = counts[name].setdefault(value, {})
            states[run["state"]] = states.get(run["state"], 0) + 1
    return counts


def overview_table(found: dict[str, Any]) -> str:
    """Format the state of a sweep as a table for the terminal, followed by its failures.

    Args: found: from read_overview.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = [state for state in STATES if found["states"][state]]
    grid = Table(title=Text(printable(f"{found['sweep']}: {found['n_runs']} runs"), "table.title"), title_justify="left")
    grid.add_column("axis")
    grid.add_column("value", overflow="fold")
    for state in shown:
        grid.add_column(state, justify="right", style={"failed": "red", "stale": "yellow", "completed": "green"}.get(state))
    grid.add_row("all", "", *(str(found["states"][state]) for state in shown), end_section=True)
    for axis, values in found["axes"].items():
        if len(values) > 1:
            for value, states in values.items():
                grid.add_row(Text(printable(axis)), Text(printable(value)), *(str(states.get(state, "")) for state in shown))
            grid.add_section()
    console = Console(highlight=False)
    with console.capture() as captured:
        console.print(grid)
        left = found["seconds_left"]
        if found["states"]["completed"] < found["n_runs"]:
            running = max(1, found["states"]["running"])
            told = "unknown until a run has finished" if left is None else f"about {duration(left)} ({running} at a time)"
            console.print(f"time left: {told}", soft_wrap=True)
        for failure in found["failures"]:
            names = ", ".join(failure["runs"][:3]) + (" ..." if len(failure["runs"]) > 3 else "")
            console.print(
                printable_lines(f"failed, {len(failure['runs'])} ({failure['kind']}): {failure['message']}  [{names}]"),
                markup=False,
                soft_wrap=True,
            )
        for state in ("stale", "interrupted"):
            for run in (run for run in found["runs"] if run["state"] == state):
                by = f"on {run.get('host', '?')}" + (f", job {run['job']}" if "job" in run else "")
                why = f", {run['signal']}" if "signal" in run else ""
                console.print(
                    printable(f"{state}: {run['run_id']} after {run['epochs_done']} epochs ({by}{why})"),
                    markup=False,
                    soft_wrap=True,
                )
        if found["states"]["stale"] or found["states"]["missing"]:
            console.print(MEANING, soft_wrap=True)
    return captured.get()
