"""Run a sweep's runs in several processes on this machine."""

import contextlib
import itertools
import logging
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from segtune.errors import Interrupted
from segtune.runs.state import BusyError, lock, state_of
from segtune.sweeps.execute import describe_failure, execute, report_failure, write_final_status
from segtune.sweeps.launch import Failures, Sweep
from segtune.sweeps.plan import Run
from segtune.training.process import stopped_by_signals

log = logging.getLogger(__name__)
BUSY = "busy"  # another process is working on the run


def run_in_processes(runs: Sequence[Run], sweep: Sweep, *, workers: int | None, per_gpu: int) -> Failures:
    """Execute several runs at a time, each in a worker process with its share of the cores and a GPU.

    Args:
        workers: the number of processes. None means per_gpu processes for each GPU, or two processes if there is no
            GPU.
        per_gpu: number of processes that share one GPU.
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
                for index in [index for index, worker in crew.items() if worker.pipe in ready]:
                    worker = crew[index]
                    run, outcome = worker.result()
                    if outcome == BUSY:
                        queue.append((run, True))
                        continue
                    if not worker.process.is_alive():
                        crew[index] = _Worker(worker.place)
                    if outcome:
                        failures[run.run_id] = report_failure(run, outcome, sweep.halt)
                    else:
                        log.info("run %s (%s) is done: %s", run.run_id, run.label, run.folder)
                    sweep.progress.ended(failed=bool(outcome))
                if sweep.halt and sweep.halt.exists():
                    queue.clear()
    finally:
        for worker in crew.values():
            worker.dismiss()
        for worker in crew.values():
            worker.process.join()
    return failures


class _Worker:
    """A worker process that executes the runs it is given."""

    def __init__(self, place: dict[str, str]) -> None:
        context = multiprocessing.get_context("spawn")
        self.place = place
        self.run: Run | None = None
        self.pipe, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_serve, args=(theirs, place), daemon=True)
        self.process.start()
        theirs.close()  # so that the pipe ends if the process dies

    def give(self, run: Run, wait: bool) -> None:
        self.run = run
        with contextlib.suppress(BrokenPipeError):  # the process has died, which result() will notice
            self.pipe.send((run, wait))

    def result(self) -> tuple[Run, Any]:
        """Return the run and its outcome. The outcome is {} if the run is done, otherwise a failure or BUSY."""
        assert self.run is not None
        run, self.run = self.run, None
        try:
            return run, self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            return run, _died(run, self)

    def dismiss(self) -> None:
        self.pipe.close()
        if self.run:
            self.process.terminate()


def _serve(pipe: Connection, place: dict[str, str]) -> None:
    """The main function of a worker process: execute runs from the pipe until it is closed."""
    os.environ.update(place)
    logging.getLogger("segtune").addHandler(logging.NullHandler())  # only the parent writes to the terminal
    with contextlib.suppress(EOFError, Interrupted, BrokenPipeError, ConnectionResetError), stopped_by_signals():
        while True:
            run, wait = pipe.recv()
            try:
                execute(run, wait=wait, bar=False)
                pipe.send({})
            except BusyError:
                pipe.send(BUSY)
            except Exception as error:
                pipe.send(describe_failure(error))


def _died(run: Run, worker: _Worker) -> dict[str, str]:
    """The failure of a run whose process has died."""
    state, status = state_of(run.folder, run.run_id)
    if state == "interrupted":
        return {"kind": state, "message": f"its process was stopped by {status.get('signal')}.", "traceback": ""}
    code = worker.process.exitcode or 0
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    advice = " If nobody did that, the machine ran out of memory: choose fewer hydra.launcher.workers." if code == -9 else ""
    failed = {"kind": "killed", "message": f"its process {how}.{advice}", "traceback": ""}
    if not run.folder.is_dir():  # the folder was removed, and must not be created again
        return failed
    with contextlib.suppress(BusyError), lock(run.folder):
        write_final_status(run.folder, "failed", **run.about(), error=failed)
    return failed


def visible_gpus() -> list[str]:
    """Return the GPUs that a new process would see, in the notation of CUDA_VISIBLE_DEVICES.

    The GPUs are listed by nvidia-smi, not by torch.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [gpu for gpu in chosen.split(",") if gpu.strip() not in ("", "-1")]
    if not shutil.which("nvidia-smi"):
        return []
    said = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    gpus = [line for line in said.stdout.splitlines() if line.startswith("GPU ")] if said.returncode == 0 else []
    return [str(index) for index in range(len(gpus))]
