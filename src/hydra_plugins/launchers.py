"""Hydra launchers that start the runs of a sweep, configured by conf/hydra/launcher. The logic is in segtune.sweeps.

They work only with segtune's own sweeper, hydra/sweeper=grid.
"""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class SerialLauncher(Launcher):
    """Starts the runs one after another in this process."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        pass  # nothing to set up, because each run already contains its whole configuration

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from segtune.errors import InputError

        raise InputError(
            "hydra/launcher: serial, local and slurm work only with hydra/sweeper=grid. With another sweeper, choose "
            "hydra/launcher=basic."
        )

    def start(self, runs: Any, sweep: Any) -> Any:
        from segtune.sweeps.serial import run_serially

        return run_serially(runs, sweep, halt=sweep.halt)


class LocalLauncher(SerialLauncher):
    """Runs several processes at a time on this machine."""

    def __init__(self, workers: int | None, per_gpu: int) -> None:
        self._n, self._per_gpu = workers, per_gpu

    def start(self, runs: Any, sweep: Any) -> Any:
        from segtune.sweeps.local import run_in_processes

        return run_in_processes(runs, sweep, workers=self._n, per_gpu=self._per_gpu)


class SlurmLauncher(SerialLauncher):
    """Submits the runs as job arrays to a Slurm cluster."""

    def __init__(self, pack: int, wait: bool, gpus: int, cpus: int, setup: Sequence[str], extra: Any, **sbatch: Any) -> None:
        self._pack, self._wait = pack, wait
        self._sbatch = {"gpus_per_node": gpus or None, "cpus_per_task": cpus, "setup": list(setup), **sbatch}
        self._sbatch["additional_parameters"] = dict(extra)

    def start(self, runs: Any, sweep: Any) -> Any:
        from segtune.sweeps.slurm import run_on_slurm

        return run_on_slurm(runs, sweep, pack=self._pack, wait=self._wait, sbatch=self._sbatch)
