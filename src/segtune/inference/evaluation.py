"""Evaluate finished runs on other data: check the data, exclude the training patients, score the others."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from segtune.data import contour_files, findings, readers, slice_checks
from segtune.data.slices import SliceSet
from segtune.errors import InputError, printable
from segtune.inference.ensembles import checked_score, keeps_largest_component
from segtune.inference.models import Trained, warn_of_other_scale
from segtune.inference.origin import Origin, trained_on
from segtune.inference.score import score_slices
from segtune.metrics.score import TOLERANCE_MM, Scores
from segtune.runs import identity

log = logging.getLogger(__name__)
# Keys of cfg.data that are taken from the runs, because a network needs the image preprocessing that it was trained with.
OF_THE_RUN = ("size", "spacing_mm", "larger", "normalize", "downsample", "antialias")


class Evaluation(NamedTuple):
    """The scores of an evaluation.

    name: a hash that names the output folder. about: the entries of evaluation.json besides the scores.
    """

    name: str
    about: dict[str, Any]
    scores: Scores


def check_settings(config: Mapping[str, Any]) -> None:
    """Check cfg.data and cfg.score.

    Raises: InputError if no data set is given, if cfg.data contains a setting that must be taken from the runs, or if
        cfg.score is not valid.
    """
    checked_score(config["score"])
    if "reader" not in config["data"]:
        options = ", ".join(f"data={name}" for name in readers.NAMES)
        raise InputError(f"data: choose the data set to evaluate the run on, one of {options}.")
    for key in OF_THE_RUN:
        if (value := config["data"][key]) is not None:
            raise InputError(f"data.{key}={value}: this setting is taken from the run. Leave data.{key} out.")


def of_the_user(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of cfg.data, except the settings that are taken from the runs (OF_THE_RUN)."""
    return {key: value for key, value in data.items() if key not in OF_THE_RUN}


def evaluate(models: Sequence[Trained], origins: Sequence[Origin], slices: SliceSet, config: Mapping[str, Any]) -> Evaluation:
    """Score the prediction of one run, or the mean prediction of several runs, on a data set.

    Args:
        origins: what each model was trained on, in the order of the models.
        slices: the data set as stored, before resampling.
        config: the composed configuration of segtune.evaluate.

    Raises: InputError for errors in the data, or if every patient was used to train one of the runs.
    """
    data, which = config["data"], config["which"]
    fingerprint = slices.fingerprint()
    found = slice_checks.for_run(slices, allow=data["allow"], of_contours=contour_files.for_run(data, slices))
    for kind, (n, first) in findings.warnings(found).items():
        log.warning("%s (%d); the first: %s", findings.KINDS[kind], n, printable(first))
    left_out = trained_on(slices, fingerprint, data, origins, which=which)
    slices = SliceSet(item for item in slices if item.patient not in left_out)
    warn_of_other_scale(models, slices)
    tolerance_mm = float(config["tolerance_mm"] or TOLERANCE_MM)
    largest_component = keeps_largest_component(models, checked_score(config["score"])["largest_component"])
    scores = score_slices(models, slices, tolerance_mm=tolerance_mm, largest_component=largest_component)
    processing = {"tta": [one.tta for one in models] if any(one.tta for one in models) else False}
    processing["largest_component"] = largest_component
    settings = {key: value for key, value in of_the_user(data).items() if key not in ("reader", "root", "target")}
    about = {
        "runs": [{"run_id": one.run_id, "cell_id": one.cell_id, "label": one.label} for one in origins],
        "which": which,
        "score": processing,
        "trained_on": {"reader": origins[0].reader.name, "target": origins[0].data["target"]},
        "data": {
            "reader": readers.of(data).name,
            "target": data["target"],
            "settings": settings,
            "fingerprint": fingerprint,
            **{f"n_{level}": len(rows) for level, rows in scores._asdict().items()},
            "left_out": sorted(left_out),
            "findings": found,
        },
        "tolerance_mm": tolerance_mm,
    }
    runs = [f"{one.run_id} {one.fingerprint}" for one in origins]
    named = {"runs": runs, "data": fingerprint, "which": which, "tolerance_mm": tolerance_mm}
    name = identity.run_id(named | ({"score": processing} if any(processing.values()) else {}))
    return Evaluation(name, about, scores)
