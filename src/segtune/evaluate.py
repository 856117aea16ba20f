"""python -m segtune.evaluate run=outputs/runs/<id> data=rvsc data.root=...: a finished run, or several as one, on other data.

Masks are brought back to each slice's own grid and compared there with the expert's. Printed: Dice and Hausdorff distance per
patient, end-diastole and end-systole apart, and how well volumes agree. Written to outputs/evaluate/<id>/, where the same
evaluation gives the same bytes: slices.csv, cases.csv, patients.csv as a run has them, and, last of all, evaluation.json.

The RVSC challenge's own code takes Dice and Hausdorff distance of each image, in its plane; a patient's figure is their mean
over the images of a phase, a method's is the mean over all images of all patients. Both are given beside the figures in 3-D. It
averages over the contours that it is handed; here an image without one counts, by the rule for empty masks (metrics.py).
Source: Petitjean et al. 2015, doi:10.1016/j.media.2014.10.004, and the challenge's evaluation code (2012).
"""

import logging
from pathlib import Path

from omegaconf import DictConfig

from segtune.config import entry, overrides, rules
from segtune.data import contour_files, findings, slice_checks
from segtune.data.slices import SliceSet
from segtune.errors import InputError, printable
from segtune.inference.origin import OF_THE_RUN, origin, reader_of, trained_on, with_target
from segtune.inference.score import evaluation_table, score_slices, write_evaluation
from segtune.runs import identity as runs_identity

log = logging.getLogger(__name__)


def evaluate(cfg: DictConfig) -> None:
    """Score the run on the data, write what was found, print it."""
    config = entry.plain(cfg)
    if "reader" not in config["data"]:
        options = ", ".join(f"data={name}" for name in overrides.groups()["data"])
        raise InputError(f"data: say which data the run is to be scored on, one of {options}.")
    for key in OF_THE_RUN:
        if (value := config["data"][key]) is not None:
            raise InputError(f"data.{key}={value}: how the network wants its images is the run's to say. Leave data.{key} out.")

    from segtune.training.process import settle_process

    settle_process()
    from segtune.inference.models import load_all, warn_of_other_scale
    from segtune.metrics.score import TOLERANCE_MM
    from segtune.training import build

    how = {key: config[key] for key in ("which", "accelerator", "trust")}
    models = load_all(config["run"], **how)
    models = sorted(models, key=lambda model: str(model.result["run_id"]))  # the last digit of a mean depends on the order
    origins = [origin(model) for model in models]
    cfg = with_target(cfg, origins)
    data = entry.plain(cfg)["data"]
    rules.check(config | {"data": {key: value for key, value in data.items() if key not in OF_THE_RUN}})

    slices = build.slices(cfg)
    fingerprint = slices.fingerprint()
    found = slice_checks.for_run(slices, allow=data["allow"], of_contours=contour_files.for_run(data, slices))
    for kind, (n, first) in findings.warnings(found).items():
        log.warning("%s (%d); the first: %s", findings.KINDS[kind], n, printable(first))
    left_out = trained_on(slices, fingerprint, data, origins, which=config["which"])
    slices = SliceSet(item for item in slices if item.patient not in left_out)
    warn_of_other_scale(models, slices)
    tolerance_mm = float(config["tolerance_mm"] or TOLERANCE_MM)
    scores = score_slices(models, slices, tolerance_mm=tolerance_mm)

    about = {
        "runs": [{"run_id": one.run_id, "cell_id": one.cell_id, "label": one.label} for one in origins],
        "which": config["which"],
        "trained_on": {"reader": origins[0].reader, "target": origins[0].data["target"]},
        "data": {
            "reader": reader_of(data),
            "target": data["target"],
            "settings": {key: value for key, value in data.items() if key not in ("reader", "root", "target", *OF_THE_RUN)},
            "fingerprint": fingerprint,
            **{f"n_{level}": len(rows) for level, rows in scores._asdict().items()},
            "left_out": sorted(left_out),
            "findings": found,
        },
        "tolerance_mm": tolerance_mm,
    }
    identity = {"runs": [f"{one.run_id} {one.fingerprint}" for one in origins], "data": fingerprint}
    name = runs_identity.run_id(identity | {key: about[key] for key in ("which", "tolerance_mm")})
    folder = Path(config["outputs"]) / "evaluate" / name
    write_evaluation(folder, about, scores)
    print("\n".join(map(printable, [*evaluation_table(about, scores), str(folder)])))


if __name__ == "__main__":
    entry.entry("evaluate", evaluate)
