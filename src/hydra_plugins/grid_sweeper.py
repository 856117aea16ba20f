"""Hydra's door to segtune.sweep. A namespace package: Hydra looks for plugins only here."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class GridSweeper(Sweeper):
    """Sweeps a union of grids: conf/hydra/sweeper/grid.yaml."""

    def __init__(self, grids: Sequence[Mapping[str, Any]]) -> None:
        self.grids = grids

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self._compose = lambda overrides: hydra_context.config_loader.load_sweep_config(config, overrides)
        self._start = lambda jobs: launcher.launch(jobs, initial_job_idx=0)
        self._folder = Path(config.hydra.sweep.dir) / (config.hydra.runtime.choices.get("study") or "grid")

    def sweep(self, arguments: list[str]) -> Any:
        from segtune import sweep  # Hydra imports every plugin at every start, this one's logic only when it is used

        runs = sweep.plan(sweep.combinations(self.grids, arguments), self._compose)
        return sweep.launch(runs, self._folder, ["python", *sys.orig_argv[1:]], self._start)
