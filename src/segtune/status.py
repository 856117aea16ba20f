"""python -m segtune.status sweep=outputs/grid: show the progress of a sweep, its failed runs and the time left.

The command reads the folders of the runs and asks Slurm about queued jobs. It does not import torch. The exit code is 1 if a
run has failed.
"""

import json
import sys
from pathlib import Path

from omegaconf import DictConfig

from segtune.config import entry as config_entry
from segtune.config import rules
from segtune.errors import InputError
from segtune.sweeps import overview


def status(cfg: DictConfig) -> None:
    """Print the state of the sweep as a table or as JSON. Exit with code 1 if a run has failed."""
    rules.check({"json": cfg.json})
    if not cfg.sweep:
        raise InputError("sweep=: give the folder of a sweep, like sweep=outputs/grid.")
    found = overview.read_overview(Path(str(cfg.sweep)))
    print(json.dumps(found, indent=2) if cfg.json else overview.overview_table(found), end="\n" if cfg.json else "")
    sys.stdout.flush()
    if found["states"]["failed"]:
        sys.exit(1)


if __name__ == "__main__":
    config_entry.entry("status", status)
