"""python -m segtune: one run; with -m a sweep."""

from contextlib import suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from segtune import app, results
from segtune.errors import InputError


def run(cfg: DictConfig) -> None:
    """Train one run, unless it is done."""
    from segtune import sweep, workers

    config, about = app.plain(cfg), HydraConfig.get()
    if config["name"] is not None and about.mode is RunMode.RUN:
        raise InputError(f"name={config['name']}: it names a sweep's folder; a run's is its id. Add -m, or leave it out.")
    folder, run_id = Path(about.runtime.output_dir), results.run_id(config)
    one = sweep.Run(run_id, list(about.overrides.task), config, folder, results.state(folder, run_id)[0])
    [one] = sweep.once([one], sweep.Changed())
    if one.folder != folder:  # done with these data from elsewhere; Hydra has made the folder that this run would have had
        with suppress(OSError):
            folder.rmdir()
    if cfg.dry_run:
        print(sweep.listing([one]))
    else:
        workers.execute(one)


if __name__ == "__main__":
    app.entry("config", run)
