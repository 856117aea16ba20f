"""Execution backend that executes runs as tasks on a Slurm cluster."""

import logging
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segtune.errors import InputError, Interrupted
from segtune.runs.state import epochs_done, state_of, write_queued
from segtune.runs.sweep import read_jobs, write_jobs
from segtune.sweeps.execute import slurm_job, write_final_status
from segtune.sweeps.launch import Failures, Sweep
from segtune.sweeps.plan import Run
from segtune.sweeps.serial import run_serially
from segtune.training.process import stopped_by_signals

log = logging.getLogger(__name__)
MOST_TIMEOUTS = 1000  # a task is requeued at most this often after reaching its time limit
MOST_IDLE = 5  # a task is given up after this many interruptions in a row without a finished epoch


# A Slurm cluster


@dataclass
class SlurmTask:
    """One task of a job array. It executes a few runs one after another. submitit pickles it and calls it on the node.

    When SIGUSR2 announces the time limit or a preemption, the current run is interrupted at once, which loses at most one
    epoch. The task is put back into the queue and later resumes this run from its last checkpoint.
    """

    runs: list[Run]
    halt: Path | None
    idle: int = 0  # number of interruptions in a row without a finished epoch

    def __call__(self) -> None:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
        requeue = signal.getsignal(signal.SIGUSR2)  # submitit's handler, which pickles checkpoint() and requeues the job
        before = self._epochs()
        try:
            with stopped_by_signals():
                run_serially(self.runs, None, halt=self.halt, bar=False)
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
        return sum(epochs_done(run.folder) for run in self.runs)

    def _give_up(self) -> None:
        message = (
            f"Slurm stopped its task {self.idle} times before an epoch had finished. Increase hydra.launcher.time (minutes) or "
            "decrease hydra.launcher.signal_delay_s."
        )
        failed = {"kind": "out of time", "message": message, "traceback": ""}
        for run in self.runs:
            if state_of(run.folder, run.run_id)[0] == "interrupted":
                write_final_status(run.folder, "failed", **run.about(), error=failed)


def _preempted() -> bool:
    """Return whether Slurm is preempting this job. The signal alone does not show it, as `scancel` sends SIGTERM too."""
    job = slurm_job()
    return bool(job) and "PreemptTime=2" in _ask_slurm("scontrol", "show", "job", job)


def run_on_slurm(runs: Sequence[Run], sweep: Sweep, *, pack: int, wait: bool, sbatch: Mapping[str, Any]) -> Failures:
    """Execute runs as Slurm job arrays through submitit. Runs that are already in Slurm's queue are not submitted again.

    Args:
        pack: number of runs per task.
        wait: wait until all tasks have ended; otherwise return at once (`segtune.status` then shows the progress).
        sbatch: submitit's parameters (partition, time, cpus_per_task, ...).
    Returns: run id -> failure, for runs that were never started.
    """
    jobs, in_queue = read_jobs(sweep.folder), queued_jobs()
    new = [run for run in runs if jobs.get(run.run_id) not in in_queue]
    if len(new) < len(runs):
        log.info("%d of these runs are already in Slurm's queue", len(runs) - len(new))
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
        log.warning("The jobs continue; segtune.status shows their progress. To cancel them: scancel %s", " ".join(ids))
        raise
    unbegun = {"kind": "cancelled", "message": "its Slurm task ended before this run was started.", "traceback": ""}
    halted = sweep.halt and sweep.halt.exists()
    return {run.run_id: unbegun for run in runs if not halted and state_of(run.folder, run.run_id)[0] == "queued"}


def submit(runs: Sequence[Run], sweep: Sweep, *, pack: int, sbatch: Mapping[str, Any]) -> dict[str, str]:
    """Submit job arrays to Slurm and record their ids in jobs.json. Returns: run id -> job id."""
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
        raise InputError(f"hydra.launcher: Slurm did not accept the job: {said}.") from error
    jobs = {run.run_id: task.job_id for one, task in zip(packs, tasks, strict=True) for run in one}
    write_jobs(sweep.folder, jobs)
    for run in runs:  # queued runs stay queued even if this process ends
        write_queued(run.folder, if_queued=True, job=jobs[run.run_id], **run.about())
    return jobs


def follow(runs: Sequence[Run], sweep: Sweep, jobs: Mapping[str, str]) -> None:
    """Wait until none of these runs is in Slurm's queue, and show their progress, as read from their files."""
    pending, pause = {run.run_id: run for run in runs}, 1.0
    while pending:
        time.sleep(pause)
        pause = min(pause * 1.2, 15.0)
        in_queue = queued_jobs(patient=True)
        states = {name: state_of(run.folder, name)[0] for name, run in pending.items()}
        sweep.progress.running(sum(state == "running" for state in states.values()))
        for name, state in states.items():
            if state == "completed" or (jobs[name] not in in_queue and state != "running"):
                sweep.progress.ended(failed=state == "failed")
                del pending[name]


def queued_jobs(*, patient: bool = False) -> set[str]:
    """Return the ids of the user's queued and running Slurm jobs, like 12 or 12_3.

    Args: patient: if Slurm does not answer, ask again until it does.
    """
    while True:
        try:
            lines = _ask_slurm("squeue", "--me", "--noheader", "--array", "--format=%F %K").split("\n")
            return {job if index == "N/A" else f"{job}_{index}" for job, _, index in (line.partition(" ") for line in lines)}
        except InputError as error:
            if not patient:
                raise
            log.warning("%s Asking again in 15 s.", error)
            time.sleep(15)


def _ask_slurm(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError as error:
        raise InputError(f"hydra/launcher=slurm: there is no {command[0]} here. Use a machine with sbatch.") from error
    except subprocess.CalledProcessError as error:
        raise InputError(f"{command[0]} failed: {error.stderr.strip()}.") from error
