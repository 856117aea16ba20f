"""python -m segtune: train one run or, with the flag -m, a sweep of runs."""

from contextlib import suppress
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from segtune.config import composing, entry, labels
from segtune.errors import InputError
from segtune.runs import identity
from segtune.runs.state import state_of


def run(cfg: DictConfig) -> None:
    """Train one run. A run that is already done is not trained again."""
    from segtune.sweeps import plan
    from segtune.sweeps.execute import execute
    from segtune.sweeps.progress import listing

    config, about = entry.plain(cfg), HydraConfig.get()
    if config["name"] is not None and about.mode is RunMode.RUN:
        raise InputError(
            f"name={config['name']}: only a sweep can have a name. The folder of a single run is named after its run id. "
            "Add -m to start a sweep, or leave name out."
        )
    folder, run_id = Path(about.runtime.output_dir), identity.run_id(config)
    options = composing.options_of(about.runtime.choices)
    label = labels.Labels(_compose).of(cfg, options)
    one = plan.Run(run_id, list(about.overrides.task), config, folder, state_of(folder, run_id)[0], options, label)
    [one] = plan.once([one], plan.Changed())
    if one.folder != folder:  # the run was found done in another folder, so the empty one that Hydra created is removed
        with suppress(OSError):
            folder.rmdir()
    if cfg.dry_run:
        print(listing([one]))
    else:
        execute(one)


def _compose(overrides: list[str]) -> composing.Composed:
    """Compose another configuration than that of this run. The same config folders are used."""
    return composing.Composed.of(hydra.compose("config", overrides, return_hydra_config=True))


if __name__ == "__main__":
    entry.entry("config", run)
