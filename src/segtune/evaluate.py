"""python -m segtune.evaluate run=outputs/runs/<id> data=rvsc data.root=...: score finished runs on another data set.

Several runs are evaluated as an ensemble. Predicted masks are resampled to the original grid of each slice and compared there
with the expert's masks. The command prints Dice and Hausdorff distance per patient, separately for end-diastole and
end-systole, and the agreement of volumes. It writes four files to outputs/evaluate/<id>/. First, it writes slices.csv,
cases.csv and patients.csv, which have the same format as a run's tables. evaluation.json is written last. Repeating an
evaluation gives identical files.

The evaluation code of the RVSC challenge computes Dice and Hausdorff distance in 2-D for each image. A patient's score is the
mean over the images of a phase, and a method's score is the mean over all images of all patients. The command reports
these 2-D scores next to the 3-D scores. There is one difference: the challenge averages only over images with a
submitted contour, while segtune also counts images without a contour, by the rule for empty masks in metrics/score.py.
Source: Petitjean et al. 2015, doi:10.1016/j.media.2014.10.004, and the challenge's evaluation code (2012).
"""

from pathlib import Path

from omegaconf import DictConfig

from segtune.config import entry, rules
from segtune.errors import printable


def evaluate(cfg: DictConfig) -> None:
    """Score the runs on the data set, write the result files and print a table."""
    from segtune.training.process import settle_process

    settle_process()
    from segtune.inference import ensembles, evaluation, origin, score
    from segtune.training import build

    config = entry.plain(cfg)
    evaluation.check_settings(config)
    how = {key: config[key] for key in ("which", "accelerator", "trust")}
    loaded = ensembles.load_all(config["run"], **how, tta=ensembles.checked_score(config["score"])["tta"])
    loaded = sorted(loaded, key=lambda one: str(one.result["run_id"]))  # rounding makes a mean depend on the order
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
