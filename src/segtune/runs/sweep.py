"""Read and write sweep.json (the command and the runs of a sweep) and jobs.json (the Slurm job of each run)."""

import contextlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from segtune.errors import InputError
from segtune.runs import layout, schema
from segtune.runs.files import as_list, first_free, read_json, to_json, write_atomically
from segtune.runs.schema import Sweep, SweepRun
from segtune.runs.state import lock


def write_sweep(
    folder: Path,
    *,
    command: list[str],
    runs: list[dict[str, Any]],
    looks: Sequence[int] = (),
    added: Sequence[str] = (),
    elsewhere: bool = False,
) -> Path:
    """Write sweep.json with the command, its runs and its plan (see schema.Sweep).

    Args: elsewhere: what to do if the folder contains the sweep.json of other runs. If true, use the first of
        <folder>-2, <folder>-3, ... that does not contain other runs. If false, rename the earlier sweep.json.
    Returns: the folder that contains the new sweep.json.
    """
    asked, number = {run["run_id"] for run in runs}, 1
    while True:
        place = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        with lock(place, waiting=lambda busy: None):
            others = (place / layout.SWEEP).exists() and _runs_of(place) != asked
            if others and elsewhere and _runs_of(place) is not None:
                number += 1
                continue
            if others:
                (place / layout.SWEEP).rename(first_free(place, Path(layout.SWEEP).stem, Path(layout.SWEEP).suffix))
            about = {
                "schema": schema.VERSION,
                "command": command,
                "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "looks": list(looks),
                "added": list(added),
                "runs": runs,
            }
            write_atomically(place / layout.SWEEP, to_json(about))
            return place


def _runs_of(folder: Path) -> set[str] | None:
    """Return the ids of the runs in sweep.json; None if the file is damaged."""
    try:
        return {run["run_id"] for run in read_sweep(folder)["runs"]}
    except InputError:
        return None


def read_sweep(folder: Path) -> Sweep:
    """Read sweep.json. Damaged entries that only describe a run (overrides, options, label) are left out.

    Raises: InputError if the file cannot be read, or if its list of runs or their ids are damaged.
    """
    return _read(folder / layout.SWEEP)


def _read(path: Path) -> Sweep:
    cure = "Give the folder of a sweep, like sweep=outputs/grid. Starting the sweep's command again writes this file again."
    about = read_json(path, cure)
    runs = about.get("runs")
    if not isinstance(runs, list) or not all(isinstance(run, dict) and _is_name(run.get("run_id")) for run in runs):
        raise InputError(f"{path}: damaged (it has no valid list of runs). {cure}")
    about["command"] = [str(word) for word in as_list(about.get("command"))]
    for run in runs:
        run["overrides"] = [str(one) for one in as_list(run.get("overrides")) if not str(one).startswith("-")]
        axes = run.get("axes")
        run["axes"] = {key: str(value) for key, value in axes.items()} if isinstance(axes, dict) else {}
    about["runs"] = [schema.of_known_types(run, SweepRun) for run in runs]
    try:
        schema.check(about, Sweep)
    except schema.DamagedError as error:
        raise schema.describe(path, error, cure) from None
    return cast(Sweep, about)


def read_sweeps(home: Path) -> Iterator[Sweep]:
    """Read all sweeps in a folder of sweeps, including earlier sweeps that were replaced by later ones."""
    for path in sorted(home.glob(f"*/{Path(layout.SWEEP).stem}*{Path(layout.SWEEP).suffix}")):
        with contextlib.suppress(InputError):
            yield _read(path)


def _is_name(value: Any) -> bool:
    """Return whether a value is a plain folder name, which cannot lead out of the parent folder."""
    return isinstance(value, str) and value.isprintable() and 0 < len(value) < 256 and Path(value).name == value != ".."


def write_jobs(folder: Path, jobs: Mapping[str, str]) -> None:
    """Add the jobs, a mapping of run id to Slurm job, to jobs.json."""
    with lock(folder, waiting=lambda busy: None):
        write_atomically(folder / layout.JOBS, to_json(read_jobs(folder) | dict(jobs)))


def read_jobs(folder: Path) -> dict[str, str]:
    """Read jobs.json, a mapping of run id to Slurm job; empty if the file does not exist."""
    if not (folder / layout.JOBS).exists():
        return {}
    cure = "Remove it. Runs that are already queued are then submitted again, which does no harm."
    found = {run: str(job) for run, job in read_json(folder / layout.JOBS, cure).items()}
    return {run: job for run, job in found.items() if re.fullmatch(r"[\w.+-]{1,64}", job, re.ASCII)}  # like 12_3
