"""python -m segtune.calibrate reg=l2 loss=bce_dice: the lambda at which penalty and loss are of one size, by measurement.

The study chose its lambdas by a guess at the penalty's size; this is the simulation that it proposed instead. Measured: the
penalty of fresh networks over many seeds, beside its closed form; the data loss and both gradients at the first step of
a run; and what a short training with each lambda makes of loss and weights. Written to outputs/calibrate/<id>/.

A lambda holds for the mean network: the ratio that one fresh run starts at scatters around the one asked for. Of 30 seeds at
64 x 64 pixels it was within 20 % for 27 with l2 and bce_dice, for 19 with l1 and bce, for 10 with l2 and focal.
"""

import json
from pathlib import Path

from omegaconf import DictConfig

from segtune.config import entry, rules
from segtune.runs import identity
from segtune.runs.files import write_atomically, write_files

FILE = "calibration.json"


def calibrate(cfg: DictConfig) -> None:
    """Measure, print, and write calibration.json and its figure."""
    from segtune.training.process import settle_process

    settle_process()
    from segtune.plots import calibration, style
    from segtune.training import build, calibration_table, lambda_search

    rules.check_for_calibration(entry.plain(cfg))
    experiment = build.experiment(cfg)
    about = {"config": experiment.config, "data_fingerprint": experiment.fingerprint}
    with experiment.threads():
        record = about | lambda_search.measure(experiment)
    folder = Path(cfg.outputs) / "calibrate" / identity.run_id(experiment.config)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / FILE, (json.dumps(record, indent=1) + "\n").encode())
    figure = calibration.calibration(record, title=calibration_table.title(experiment.config, experiment.label))
    drawn = write_files(folder / "response", style.rendered(figure))
    lines = calibration_table.table(record, experiment.config, experiment.label)
    print("\n".join([lines, "", *(str(path) for path in (folder / FILE, *drawn))]))


if __name__ == "__main__":
    entry.entry("calibrate", calibrate)
