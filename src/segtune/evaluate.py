"""python -m segtune.evaluate run=outputs/runs/<id> data=rvsc data.root=...: a finished run, or several as one, on other data.

Masks are brought back to each slice's own grid and compared there with the expert's. Printed: Dice and Hausdorff distance per
patient, end-diastole and end-systole apart, and how well volumes agree. Written to outputs/evaluate/<id>/, where the same
evaluation gives the same bytes: slices.csv, cases.csv, patients.csv as a run has them, and, last of all, evaluation.json.

The RVSC challenge's own code takes Dice and Hausdorff distance of each image, in its plane; a patient's figure is their mean
over the images of a phase, a method's is the mean over all images of all patients. Both are given beside the figures in 3-D. It
averages over the contours that it is handed; here an image without one counts, by the rule for empty masks (metrics.py).
Source: Petitjean et al. 2015, doi:10.1016/j.media.2014.10.004, and the challenge's evaluation code (2012).
"""

from pathlib import Path

from omegaconf import DictConfig

from segtune.config import entry, rules
from segtune.errors import printable


def evaluate(cfg: DictConfig) -> None:
    """Score the runs on the data, write the evaluation and print its table."""
    from segtune.training.process import settle_process

    settle_process()
    from segtune.inference import evaluation, models, origin, score
    from segtune.training import build

    config = entry.plain(cfg)
    evaluation.check_settings(config)
    loaded = models.load_all(config["run"], **{key: config[key] for key in ("which", "accelerator", "trust")})
    loaded = sorted(loaded, key=lambda one: str(one.result["run_id"]))  # the last digit of a mean depends on the order
    origins = [origin.origin(one) for one in loaded]
    cfg = cfg.copy()
    cfg.data.update(origin.comparable_data(config["data"], origins))
    config = entry.plain(cfg)
    rules.check(config | {"data": evaluation.of_the_user(config["data"])})
    found = evaluation.evaluate(loaded, origins, build.slices(cfg), config)
    folder = Path(config["outputs"]) / "evaluate" / found.name
    score.write_evaluation(folder, found.about, found.scores)
    print("\n".join(map(printable, [*score.evaluation_table(found.about, found.scores), str(folder)])))


if __name__ == "__main__":
    entry.entry("evaluate", evaluate)
