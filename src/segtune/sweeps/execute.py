"""Execute one run: lock its folder, train it, and write its final status."""

import contextlib
import io
import logging
import os
import signal
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from segtune.config.error_messages import explain, out_of_memory
from segtune.errors import Interrupted, NotFiniteError
from segtune.runs import inputs, layout
from segtune.runs.files import open_regular
from segtune.runs.result import damaged_files, is_done, read_result, set_aside, set_aside_damaged
from segtune.runs.state import BusyError, LostError, end_attempt, lock, refuse_another, working, write_status
from segtune.sweeps.plan import Changed, Run
from segtune.training.process import settle_process, stopped_by_signals

log = logging.getLogger(__name__)


def execute(run: Run, *, wait: bool = True, bar: bool = True) -> None:
    """Train a run unless it is already done, and write its final state to status.json.

    Args:
        wait: whether to wait if another process is working on the run. If false, BusyError is raised instead.
        bar: whether to show a progress bar.

    Raises: the error that made the run fail; Interrupted if a signal stopped it; BusyError.
    """

    def waiting(busy: BusyError) -> None:
        log.info("%s Waiting for this process to end.", busy)

    with lock(run.folder, waiting=waiting if wait else None):
        refuse_another(run.folder, run.run_id)
        if is_done(run.folder, run.run_id) and not damaged_files(run.folder, read_result(run.folder), contents=True):
            changed = Changed()(run.folder, run.config)
            if not changed:
                log.info("run %s is already done: %s", run.run_id, run.folder / layout.RESULT)
                return
            aside = set_aside(run.folder, "other-data" if "data" in changed else "other-code")
            log.info(
                "run %s: %s since it was done; the old result is in %s",
                run.run_id,
                inputs.describe_changes(changed),
                aside,
            )
        if damage := set_aside_damaged(run.folder):
            log.warning("run %s: %s. The old result was moved to %s and is computed again.", run.run_id, damage[1], damage[0])
        about = run.about() | ({"job": slurm_job()} if slurm_job() else {})
        with log_file(run.folder), stopped_by_signals(), working(run.folder, **about) as attempt:

            def end(state: str, **more: Any) -> None:
                write_final_status(run.folder, state, attempt=attempt, **about, **more)

            try:
                settle_process()
                # imported here, because importing torch takes seconds and only training needs it
                from segtune.training import build
                from segtune.training.run import train

                log.info("run %s: %s", run.run_id, run.label)
                experiment = build.experiment(OmegaConf.create(run.config), options=run.options, label=run.label)
                train(experiment, run.folder, bar=bar)
            except Exception as error:
                end("failed", error=describe_failure(error))
                raise
            except BaseException as error:
                name = signal.Signals(error.signal).name if isinstance(error, Interrupted) else type(error).__name__
                end("interrupted", signal=name)
                raise
            end("completed")


def write_final_status(folder: Path, state: str, *, attempt: str | None = None, **about: Any) -> None:
    """Write the final state of a run to status.json.

    If writing fails, a warning is logged, and the run then counts as stale, because its lock is released.

    Args: attempt: the id of an attempt. The state is written only if status.json still contains this id. If it is
        None, the state is always written, and the caller must hold the run's lock.
    """
    try:
        if attempt is None:
            write_status(folder, state, **about)
        else:
            end_attempt(folder, attempt, state, **about)
    except OSError as error:
        log.warning("%s: cannot be written (%s)", folder / layout.STATUS, error.strerror)


def describe_failure(error: BaseException) -> dict[str, str]:
    """Return the entry of status.json for an error: kind, message and traceback.

    The kind is "input", "not finite", "out of memory", "taken over" or "error". The traceback is empty unless the kind
    is "error".
    """
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
    """Within the block, append segtune's log messages to the run's log file. An error that ends the block is logged, too."""
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
            raise  # the log file now belongs to another attempt
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
    """Log that a run failed. If `halt` is given, create this file, so that other processes start no further runs.

    Args: failed: kind, message and traceback (describe_failure).
    Returns: the argument `failed`.
    """
    log.error("run %s (%s) failed: %s", run.run_id, run.label, failed["traceback"] or failed["message"])
    if halt:
        halt.touch()
    return failed


def slurm_job() -> str:
    """Return the name of this process's Slurm job, as squeue shows it; empty outside Slurm."""
    array, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{index}" if array else os.environ.get("SLURM_JOB_ID", "")
