"""Those who run a sweep's runs: this process, processes beside it, tasks of a Slurm cluster. Imports no torch by itself.

Each takes runs and gives back the failures it saw. What is true of a run is in its folder, whoever ran it.
"""

import contextlib
import ctypes
import functools
import itertools
import logging
import multiprocessing
import multiprocessing.connection
import os
import platform
import shutil
import signal
import subprocess
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from segtune import app, results, sources
from segtune.errors import InputError, Interrupted, NotFiniteError
from segtune.sweep import Changed, Failures, Run, Sweep

log = logging.getLogger(__name__)

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
MOST_TIMEOUTS = 1000  # how often Slurm may cut a task off at its time limit before it is not queued again
MOST_IDLE = 5  # the same, without an epoch in between


# One run


def execute(run: Run, *, wait: bool = True, bar: bool = True) -> None:
    """Train this run, unless it is done, and keep its status.json true, whatever happens.

    Args: wait: for a process that works on it already; else results.BusyError is raised. bar: show a progress bar.

    Raises: what made it fail; Interrupted when a signal came.
    """

    def waiting(busy: results.BusyError) -> None:
        log.info("%s Waiting for it.", busy)

    with results.lock(run.folder, waiting=waiting if wait else None):
        results.refuse_another(run.folder, run.run_id)
        if results.is_done(run.folder, run.run_id) and not results.damaged_files(
            run.folder, results.read_result(run.folder), contents=True
        ):
            changed = Changed()(run.folder, run.config)
            if not changed:
                log.info("run %s is done already: %s", run.run_id, run.folder / results.RESULT)
                return
            aside = results.set_aside(run.folder, "other-data" if "data" in changed else "other-code")
            log.info("run %s: %s since it was done; the old result is in %s", run.run_id, sources.told(changed), aside)
        if damage := results.set_aside_damaged(run.folder):
            log.warning("run %s: %s; the result is in %s, and is made anew", run.run_id, damage[1], damage[0])
        about = run.about() | ({"job": slurm_job()} if slurm_job() else {})
        with log_file(run.folder), stopped_by_signals(), results.working(run.folder, **about) as attempt:
            end = functools.partial(end_attempt, run.folder, attempt, about)
            try:
                settle_process()
                from segtune.train import train  # torch and Lightning take seconds to import: only for a run that trains

                train(OmegaConf.create(run.config), run.folder, bar=bar)
            except Exception as error:
                end("failed", error=failure(error))
                raise
            except BaseException as error:
                name = signal.Signals(error.signal).name if isinstance(error, Interrupted) else type(error).__name__
                end("interrupted", signal=name)
                raise
            end("completed")


def end_attempt(folder: Path, attempt: str, about: Mapping[str, Any], state: str, **more: Any) -> None:
    """Write an attempt's final status. Where not even that can be written, the lock is gone and it reads as stale."""
    try:
        results.end_attempt(folder, attempt, state, **about, **more)
    except OSError as error:
        log.warning("%s: cannot be written (%s)", folder / results.STATUS, error.strerror)


def settle_process() -> None:
    """What has to be set before torch is imported and allocates; LOG.md has the measurements. Changes no number.

    Threads that spin long while they wait make processes on the same cores slow each other down threefold:
    GOMP_SPINCOUNT, unless the user has set it. glibc gives each freed tensor back to the kernel, which then has to zero
    the pages of the next one: it is told to keep them, unless SEGTUNE_MALLOC=default.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    if platform.libc_ver()[0] == "glibc" and os.environ.get("SEGTUNE_MALLOC") != "default":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


def say(folder: Path, state: str, **about: Any) -> None:
    """The last word of an attempt. Where not even that can be written, the lock is gone and it reads as stale."""
    try:
        results.write_status(folder, state, **about)
    except OSError as error:
        log.warning("%s: cannot be written (%s)", folder / results.STATUS, error.strerror)


def failure(error: BaseException) -> dict[str, str]:
    """What status.json says of an error: its kind (input, not finite, out of memory, error), its message, its traceback."""
    if memory := app.out_of_memory(error):
        kind, message = "out of memory", memory
    elif isinstance(error, results.LostError):
        kind, message = "taken over", str(error)
    elif isinstance(error, NotFiniteError):
        kind, message = "not finite", str(error)
    else:
        explained = app.explain(error)
        kind, message = ("error", f"{type(error).__name__}: {error}") if explained is None else ("input", explained)
    trace = "".join(traceback.format_exception(error)) if kind == "error" else ""
    return {"kind": kind, "message": message, "traceback": trace}


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGUSR2 (a cluster's word that time is nearly up) end the block as Interrupted."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals go to the main thread alone
        return

    def stop(number: int, frame: Any) -> None:
        for one in before:
            signal.signal(one, lambda number, frame: None)  # a second signal does not cut the last words short
        raise Interrupted(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def log_file(folder: Path) -> Iterator[None]:
    """What segtune logs goes to the run's own file too, all attempts one after another; so does why the block failed."""
    handler = logging.FileHandler(folder / results.LOG, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("segtune")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    except BaseException as error:
        if isinstance(error, results.LostError):
            raise  # the file is another attempt's
        said = failure(error)
        text = said["traceback"] or said["message"]
        handler.handle(logging.makeLogRecord({"levelname": "ERROR", "levelno": logging.ERROR, "msg": text}))
        raise
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()


# This process


def here(runs: Sequence[Run], sweep: Sweep | None, *, halt: Path | None = None, bar: bool = True) -> Failures:
    """One run after another in this process, which pays its imports once. Runs that others work on come last."""
    failures: Failures = {}
    queue = deque((run, False) for run in runs)
    while queue and not (halt and halt.exists()):
        run, wait = queue.popleft()
        if sweep:
            sweep.progress.running(1)
        try:
            execute(run, wait=wait, bar=bar)
        except results.BusyError:
            queue.append((run, True))
            continue
        except Exception as error:
            failures[run.run_id] = told(run, failure(error), halt)
        if sweep:
            sweep.progress.ended(failed=run.run_id in failures)
    return failures


def told(run: Run, failed: dict[str, str], halt: Path | None) -> dict[str, str]:
    """Say that a run failed, at once and where others look."""
    log.error("run %s (%s) failed: %s", run.run_id, run.label, failed["traceback"] or failed["message"])
    if halt:
        halt.touch()
    return failed


# Processes on this machine


def local(runs: Sequence[Run], sweep: Sweep, *, workers: int | None, per_gpu: int) -> Failures:
    """Several runs at a time, each worker process with its share of the cores and a GPU.

    Args:
        workers: processes; None: per_gpu for each GPU, two without GPUs.
        per_gpu: processes that share one GPU.
    """
    gpus = visible_gpus() if any(run.config["trainer"]["accelerator"] != "cpu" for run in runs) else []
    n = min(len(runs), workers or len(gpus) * per_gpu or 2)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    places = [{"OMP_NUM_THREADS": str(max(1, cores // n))} for _ in range(n)]
    for place, gpu in zip(places, itertools.cycle(gpus), strict=False):
        place["CUDA_VISIBLE_DEVICES"] = gpu
    crew = {index: _Worker(place) for index, place in enumerate(places)}
    queue = deque((run, False) for run in runs)
    failures: Failures = {}
    try:
        with stopped_by_signals():
            while queue or any(worker.run for worker in crew.values()):
                for worker in crew.values():
                    if queue and not worker.run:
                        worker.give(*queue.popleft())
                busy = [worker for worker in crew.values() if worker.run]
                sweep.progress.running(len(busy))
                ready = multiprocessing.connection.wait([worker.pipe for worker in busy])
                for index, worker in list(crew.items()):
                    if worker.pipe not in ready:
                        continue
                    assert worker.run is not None
                    run, said = worker.run, worker.take()
                    if said == "busy":
                        queue.append((run, True))
                        continue
                    if said is None:
                        said = _died(run, worker)
                        crew[index] = _Worker(worker.place)
                    if said:
                        failures[run.run_id] = told(run, said, sweep.halt)
                    else:
                        log.info("run %s (%s) is done: %s", run.run_id, run.label, run.folder)
                    sweep.progress.ended(failed=bool(said))
                if sweep.halt and sweep.halt.exists():
                    queue.clear()
    finally:
        for worker in crew.values():
            worker.dismiss()
        for worker in crew.values():
            worker.process.join()
    return failures


class _Worker:
    """A process of its own that runs what it is given."""

    def __init__(self, place: dict[str, str]) -> None:
        context = multiprocessing.get_context("spawn")
        self.place = place
        self.run: Run | None = None
        self.pipe, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_serve, args=(theirs, place), daemon=True)
        self.process.start()
        theirs.close()  # so that its death is the end of the pipe

    def give(self, run: Run, wait: bool) -> None:
        self.run = run
        with contextlib.suppress(BrokenPipeError):  # it died; take() finds out
            self.pipe.send((run, wait))

    def take(self) -> Any:
        """What it has to say of its run: {} (fine), a failure, "busy"; None if it died."""
        self.run = None
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            return None

    def dismiss(self) -> None:
        self.pipe.close()
        if self.run:
            self.process.terminate()


def _serve(pipe: Connection, place: dict[str, str]) -> None:
    """A worker's life: runs from the pipe, one by one, until it closes."""
    os.environ.update(place)
    logging.getLogger("segtune").addHandler(logging.NullHandler())  # the terminal is the parent's; a run has its log file
    with contextlib.suppress(EOFError, Interrupted, BrokenPipeError, ConnectionResetError), stopped_by_signals():
        while True:
            run, wait = pipe.recv()
            try:
                execute(run, wait=wait, bar=False)
                pipe.send({})
            except results.BusyError:
                pipe.send("busy")
            except Exception as error:
                pipe.send(failure(error))


def _died(run: Run, worker: _Worker) -> dict[str, str]:
    """The failure of a run whose process is gone."""
    state, status = results.state(run.folder, run.run_id)
    if state == "interrupted":
        return {"kind": state, "message": f"its process was stopped by {status.get('signal')}.", "traceback": ""}
    code = worker.process.exitcode or 0
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    advice = " If nobody did that, the machine ran out of memory: choose fewer hydra.launcher.workers." if code == -9 else ""
    failed = {"kind": "killed", "message": f"its process {how}.{advice}", "traceback": ""}
    if not run.folder.is_dir():  # it was removed, and stays so
        return failed
    with contextlib.suppress(results.BusyError), results.lock(run.folder):
        say(run.folder, "failed", **run.about(), error=failed)
    return failed


def visible_gpus() -> list[str]:
    """The GPUs that a process started here would see, as CUDA_VISIBLE_DEVICES names them. Asks the driver, not torch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [gpu for gpu in chosen.split(",") if gpu.strip() not in ("", "-1")]
    if not shutil.which("nvidia-smi"):
        return []
    said = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    gpus = [line for line in said.stdout.splitlines() if line.startswith("GPU ")] if said.returncode == 0 else []
    return [str(index) for index in range(len(gpus))]


# A Slurm cluster


@dataclass
class SlurmTask:
    """One task of a job array: a few runs, one after another. submitit pickles it and calls it on the node.

    SIGUSR2 (time is nearly up, or a job of higher rank comes) ends the run at once, which loses at most an epoch, and
    puts the task back in the queue, where it goes on from that run's last checkpoint.
    """

    runs: list[Run]
    halt: Path | None
    idle: int = 0  # how often in a row it was taken off its node before an epoch had ended

    def __call__(self) -> None:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
        requeue = signal.getsignal(signal.SIGUSR2)  # submitit's: pickles checkpoint() and asks Slurm
        before = self._epochs()
        try:
            with stopped_by_signals():
                here(self.runs, None, halt=self.halt, bar=False)
        except Interrupted as stop:
            if callable(requeue) and (stop.signal == signal.SIGUSR2 or _preempted()):
                self.idle = 0 if self._epochs() > before else self.idle + 1
                if self.idle < MOST_IDLE:
                    requeue(signal.SIGUSR2, None)
                self._give_up()
            raise SystemExit(128 + stop.signal) from stop

    def checkpoint(self) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _epochs(self) -> int:
        return sum(results.epochs_done(run.folder) for run in self.runs)

    def _give_up(self) -> None:
        message = (
            f"Slurm took its task off the node {self.idle} times before an epoch had ended. Choose more hydra.launcher.time "
            "(minutes), or less hydra.launcher.signal_delay_s."
        )
        failed = {"kind": "out of time", "message": message, "traceback": ""}
        for run in self.runs:
            if results.state(run.folder, run.run_id)[0] == "interrupted":
                say(run.folder, "failed", **run.about(), error=failed)


def _preempted() -> bool:
    """Whether Slurm itself takes this job off its node, to make room: `scancel` sends the same SIGTERM."""
    job = slurm_job()
    return bool(job) and "PreemptTime=2" in _ask("scontrol", "show", "job", job)


def slurm_job() -> str:
    """This process's Slurm job, as squeue names it; empty outside of one."""
    array, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{index}" if array else os.environ.get("SLURM_JOB_ID", "")


def slurm(runs: Sequence[Run], sweep: Sweep, *, pack: int, wait: bool, sbatch: Mapping[str, Any]) -> Failures:
    """Job arrays through submitit: `pack` runs a task. Runs that are in Slurm's queue already are not submitted again.

    Args:
        wait: until no task is left; else return at once, and `segtune.status` tells the rest.
        sbatch: submitit's parameters (partition, time, cpus_per_task, ...).
    """
    jobs, in_queue = results.read_jobs(sweep.folder), queued_jobs()
    new = [run for run in runs if jobs.get(run.run_id) not in in_queue]
    if len(new) < len(runs):
        log.info("%d of them are in Slurm's queue already", len(runs) - len(new))
    if new:
        jobs |= submit(new, sweep, pack=pack, sbatch=sbatch)
    ids = sorted({jobs[run.run_id].partition("_")[0] for run in runs})
    log.info("Slurm job %s: %d runs. Its output: %s. To cancel: scancel %s",
             ", ".join(ids), len(runs), sweep.folder / "slurm", " ".join(ids))  # fmt: skip
    if not wait:
        return {}
    try:
        follow(runs, sweep, jobs)
    except KeyboardInterrupt:
        log.warning("The jobs go on; segtune.status tells of them. To cancel them: scancel %s", " ".join(ids))
        raise
    unbegun = {"kind": "cancelled", "message": "its Slurm task ended before this run began.", "traceback": ""}
    halted = sweep.halt and sweep.halt.exists()
    return {run.run_id: unbegun for run in runs if not halted and results.state(run.folder, run.run_id)[0] == "queued"}


def submit(runs: Sequence[Run], sweep: Sweep, *, pack: int, sbatch: Mapping[str, Any]) -> dict[str, str]:
    """Send job arrays to Slurm; returns run id -> job id, which jobs.json keeps."""
    try:
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError
    except ImportError as error:
        raise InputError("hydra/launcher=slurm needs submitit: pip install 'segtune[slurm]'.") from error
    packs = [list(runs[i : i + pack]) for i in range(0, len(runs), pack)]
    try:
        executor = SlurmExecutor(sweep.folder / "slurm", max_num_timeout=MOST_TIMEOUTS)
        executor.update_parameters(**sbatch)
        with executor.batch():
            tasks = [executor.submit(SlurmTask(one, sweep.halt)) for one in packs]
    except (RuntimeError, TypeError, ValueError, FailedJobError) as error:
        said = "; ".join(dict.fromkeys(line.removeprefix("sbatch: error: ") for line in str(error).split("\n")))
        raise InputError(f"hydra.launcher: Slurm took no job: {said}.") from error
    jobs = {run.run_id: task.job_id for one, task in zip(packs, tasks, strict=True) for run in one}
    results.write_jobs(sweep.folder, jobs)
    for run in runs:  # the launching process may end; these are queued all the same
        results.queue(run.folder, if_queued=True, job=jobs[run.run_id], **run.about())
    return jobs


def follow(runs: Sequence[Run], sweep: Sweep, jobs: Mapping[str, str]) -> None:
    """Wait until none of these runs is in Slurm's queue, and show how far they are by their own files."""
    pending, pause = {run.run_id: run for run in runs}, 1.0
    while pending:
        time.sleep(pause)
        pause = min(pause * 1.2, 15.0)
        in_queue = queued_jobs(patient=True)
        states = {name: results.state(run.folder, name)[0] for name, run in pending.items()}
        sweep.progress.running(sum(state == "running" for state in states.values()))
        for name, state in states.items():
            if state == "completed" or (jobs[name] not in in_queue and state != "running"):
                sweep.progress.ended(failed=state == "failed")
                del pending[name]


def queued_jobs(*, patient: bool = False) -> set[str]:
    """The user's jobs that Slurm has queued or running, as 12 or 12_3.

    Args: patient: wait for a controller that does not answer.
    """
    while True:
        try:
            lines = _ask("squeue", "--me", "--noheader", "--array", "--format=%F %K").split("\n")
            return {job if index == "N/A" else f"{job}_{index}" for job, _, index in (line.partition(" ") for line in lines)}
        except InputError as error:
            if not patient:
                raise
            log.warning("%s Asking again in 15 s.", error)
            time.sleep(15)


def _ask(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError as error:
        raise InputError(f"hydra/launcher=slurm: there is no {command[0]} here. Start it where you use sbatch.") from error
    except subprocess.CalledProcessError as error:
        raise InputError(f"{command[0]} failed: {error.stderr.strip()}.") from error
