"""python -m segtune.calibrate reg=l2 loss=bce_dice: measure the lambda at which weighted penalty and loss are equally large.

The published study chose lambda from a guess of the penalty's size, and proposed a simulation like this one as a better
method. The command measures
- the penalty of newly initialised networks over many seeds, for comparison with the penalty's closed form,
- the data loss and the gradients of loss and penalty at the first step of a run,
- the loss and the weights after a short training with each of several lambdas.

Results are written to outputs/calibrate/<id>/.

The lambda is chosen for the average over seeds, so the ratio of penalty to loss at the start of a single run differs from the
requested ratio. In tests with 30 seeds at 64 x 64 pixels, the ratio was within 20 % of the requested ratio
for 27 seeds with reg=l2 loss=bce_dice, for 19 seeds with reg=l1 loss=bce, and for 10 seeds with reg=l2 loss=focal.
"""

import json
from pathlib import Path

from omegaconf import DictConfig

from segtune.config import entry, rules
from segtune.runs import identity
from segtune.runs.files import write_atomically, write_files

FILE = "calibration.json"


def calibrate(cfg: DictConfig) -> None:
    """Measure lambda, print the table, and write calibration.json and its figure."""
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
