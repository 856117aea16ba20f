"""python -m segtune.status sweep=outputs/grid: how far a sweep is, what failed, how long the rest takes.

Reads the runs' folders, asks Slurm if runs wait there, imports no torch. Exit code 1 if a run has failed.
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
    """Print the sweep's state, as a table or as JSON."""
    rules.check({"json": cfg.json})
    if not cfg.sweep:
        raise InputError("say which sweep: sweep=outputs/grid.")
    found = overview.read_overview(Path(str(cfg.sweep)))
    print(json.dumps(found, indent=2) if cfg.json else overview.overview_table(found), end="\n" if cfg.json else "")
    sys.stdout.flush()
    if found["states"]["failed"]:
        sys.exit(1)


if __name__ == "__main__":
    config_entry.entry("status", status)
