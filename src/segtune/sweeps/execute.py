"""Execute one run: take its folder, train it, and write how it ended."""

import contextlib
import functools
import io
import logging
import os
import signal
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from segtune.config.explain import explain, out_of_memory
from segtune.errors import Interrupted, NotFiniteError
from segtune.runs import inputs, layout
from segtune.runs import state as runs_state
from segtune.runs.files import open_regular
from segtune.runs.result import damaged_files, is_done, read_result, set_aside, set_aside_damaged
from segtune.runs.state import BusyError, LostError, lock, refuse_another, working, write_status
from segtune.sweeps.plan import Changed, Run
from segtune.training.process import settle_process, stopped_by_signals

log = logging.getLogger(__name__)


# One run


def execute(run: Run, *, wait: bool = True, bar: bool = True) -> None:
    """Train this run, unless it is done, and keep its status.json true, whatever happens.

    Args: wait: for a process that works on it already; else results.BusyError is raised. bar: show a progress bar.

    Raises: what made it fail; Interrupted when a signal came.
    """

    def waiting(busy: BusyError) -> None:
        log.info("%s Waiting for it.", busy)

    with lock(run.folder, waiting=waiting if wait else None):
        refuse_another(run.folder, run.run_id)
        if is_done(run.folder, run.run_id) and not damaged_files(run.folder, read_result(run.folder), contents=True):
            changed = Changed()(run.folder, run.config)
            if not changed:
                log.info("run %s is done already: %s", run.run_id, run.folder / layout.RESULT)
                return
            aside = set_aside(run.folder, "other-data" if "data" in changed else "other-code")
            log.info(
                "run %s: %s since it was done; the old result is in %s", run.run_id, inputs.describe_changes(changed), aside
            )
        if damage := set_aside_damaged(run.folder):
            log.warning("run %s: %s; the result is in %s, and is made anew", run.run_id, damage[1], damage[0])
        about = run.about() | ({"job": slurm_job()} if slurm_job() else {})
        with log_file(run.folder), stopped_by_signals(), working(run.folder, **about) as attempt:
            end = functools.partial(finish_attempt, run.folder, attempt, about)
            try:
                settle_process()
                from segtune.training import (
                    build,  # these import torch, which takes seconds: only when there is something to train
                )
                from segtune.training.run import train

                log.info("run %s: %s", run.run_id, run.label)
                train(build.experiment(OmegaConf.create(run.config)), run.folder, bar=bar)
            except Exception as error:
                end("failed", error=describe_failure(error))
                raise
            except BaseException as error:
                name = signal.Signals(error.signal).name if isinstance(error, Interrupted) else type(error).__name__
                end("interrupted", signal=name)
                raise
            end("completed")


def finish_attempt(folder: Path, attempt: str, about: Mapping[str, Any], state: str, **more: Any) -> None:
    """Write an attempt's final status. Where not even that can be written, the lock is gone and it reads as stale."""
    try:
        runs_state.end_attempt(folder, attempt, state, **about, **more)
    except OSError as error:
        log.warning("%s: cannot be written (%s)", folder / layout.STATUS, error.strerror)


def write_final_status(folder: Path, state: str, **about: Any) -> None:
    """The last word of an attempt. Where not even that can be written, the lock is gone and it reads as stale."""
    try:
        write_status(folder, state, **about)
    except OSError as error:
        log.warning("%s: cannot be written (%s)", folder / layout.STATUS, error.strerror)


def describe_failure(error: BaseException) -> dict[str, str]:
    """What status.json says of an error: its kind (input, not finite, out of memory, error), its message, its traceback."""
    if memory := out_of_memory(error):
        kind, message = "out of memory", memory
    elif isinstance(error, LostError):
        kind, message = "taken over", str(error)
    elif isinstance(error, NotFiniteError):
        kind, message = "not finite", str(error)
    else:
        explained = explain(error)
        kind, message = ("error", f"{type(error).__name__}: {error}") if explained is None else ("input", explained)
    trace = "".join(traceback.format_exception(error)) if kind == "error" else ""
    return {"kind": kind, "message": message, "traceback": trace}


@contextlib.contextmanager
def log_file(folder: Path) -> Iterator[None]:
    """What segtune logs goes to the run's own file too, all attempts one after another; so does why the block failed."""
    stream = io.TextIOWrapper(open_regular(folder / layout.LOG, "ab"), encoding="utf-8", line_buffering=True)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("segtune")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    except BaseException as error:
        if isinstance(error, LostError):
            raise  # the file is another attempt's
        said = describe_failure(error)
        text = said["traceback"] or said["message"]
        handler.handle(logging.makeLogRecord({"levelname": "ERROR", "levelno": logging.ERROR, "msg": text}))
        raise
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()
        stream.close()


def report_failure(run: Run, failed: dict[str, str], halt: Path | None) -> dict[str, str]:
    """Say that a run failed, at once and where others look."""
    log.error("run %s (%s) failed: %s", run.run_id, run.label, failed["traceback"] or failed["message"])
    if halt:
        halt.touch()
    return failed


def slurm_job() -> str:
    """This process's Slurm job, as squeue names it; empty outside of one."""
    array, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{index}" if array else os.environ.get("SLURM_JOB_ID", "")
