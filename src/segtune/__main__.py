"""python -m segtune: one run; with -m a sweep."""

import logging
import os
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from segtune import app, results


def run(cfg: DictConfig) -> None:
    """Train one run, unless it is done."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    if results.is_done(folder, results.run_id(app.plain(cfg))):
        logging.getLogger("segtune").info("run %s is done already: %s", folder.name, folder / results.RESULT)
        return
    # Threads that spin long while they wait make processes on the same cores slow each other down threefold (LOG.md).
    # libgomp reads this as torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    from segtune.train import train  # torch and Lightning take seconds to import: only for a run that trains

    train(cfg, folder)


if __name__ == "__main__":
    app.entry("config", run)
