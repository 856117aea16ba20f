"""Hydra plugin that runs segtune's sweeps. Hydra finds plugins only in the namespace package hydra_plugins."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, ListConfig


class GridSweeper(Sweeper):
    """Hydra sweeper for a union of grids, configured by conf/hydra/sweeper/grid.yaml. The logic is in segtune.sweeps."""

    def __init__(self, grids: Sequence[Mapping[str, Any]]) -> None:
        self.grids = grids

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self._config = config
        self._compose = lambda overrides: hydra_context.config_loader.load_sweep_config(config, overrides)
        name = config.get("name") or config.hydra.runtime.choices.get("study") or "grid"
        self._folder = Path(config.hydra.sweep.dir) / str(name)

    def sweep(self, arguments: list[str]) -> Any:
        from segtune.config import rules  # imported here, because Hydra imports every plugin at every start
        from segtune.errors import command_line
        from segtune.sweeps import plan
        from segtune.sweeps.launch import launch
        from segtune.sweeps.progress import listing

        chosen = {key: self._config.get(key) for key in ("on_failure", "dry_run", "name", "looks")}
        looks = list(chosen["looks"]) if isinstance(chosen["looks"], ListConfig) else chosen["looks"]
        rules.check(chosen | {"looks": looks, "hydra.launcher": self._config.hydra.launcher})
        runs = plan.plan(plan.combinations(self.grids, arguments), self._compose)
        if self._config.dry_run:
            print(listing(runs))
            return
        start = getattr(self._launcher, "start", self._start_elsewhere)
        is_named = self._config.get("name") is not None
        launch(
            runs,
            self._folder,
            command_line(),
            start,
            on_failure=self._config.on_failure,
            is_named=is_named,
            looks=looks or (),
        )

    def _start_elsewhere(self, runs: Any, about: Any) -> dict[str, dict[str, str]]:
        """Start the runs with one of Hydra's own launchers (basic, joblib), which accept only overrides."""
        from segtune.errors import InputError
        from segtune.sweeps.execute import describe_failure

        if about.halt:
            raise InputError("on_failure=stop: this hydra/launcher always starts all runs. Choose serial, local or slurm.")
        figures = [] if all(run.config["figures"] for run in runs) else ["figures=false"]
        returned = self._launcher.launch([run.overrides + figures for run in runs], initial_job_idx=0)
        pairs = zip(runs, returned, strict=True)
        return {run.run_id: describe_failure(ret._return_value) for run, ret in pairs if ret.status is not JobStatus.COMPLETED}
