"""Evaluate finished runs on other data: check the data, leave out patients the runs have trained on, score the rest."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from segtune.data import contour_files, findings, readers, slice_checks
from segtune.data.slices import SliceSet
from segtune.errors import InputError, printable
from segtune.inference.models import Trained, warn_of_other_scale
from segtune.inference.origin import Origin, trained_on
from segtune.inference.score import score_slices
from segtune.metrics.score import TOLERANCE_MM, Scores
from segtune.runs import identity

log = logging.getLogger(__name__)
# The keys of cfg.data that the runs decide, because they say how their network sees an image.
OF_THE_RUN = ("size", "spacing_mm", "larger", "normalize")


class Evaluation(NamedTuple):
    """The scores of an evaluation. about: the entries of evaluation.json besides them; name: the hash that names its folder."""

    name: str
    about: dict[str, Any]
    scores: Scores


def check_settings(config: Mapping[str, Any]) -> None:
    """Raises: InputError if no data are named, or if a setting is given that the runs decide."""
    if "reader" not in config["data"]:
        options = ", ".join(f"data={name}" for name in readers.NAMES)
        raise InputError(f"data: name the data on which the run is to be scored, one of {options}.")
    for key in OF_THE_RUN:
        if (value := config["data"][key]) is not None:
            raise InputError(f"data.{key}={value}: the run decides how its network sees an image. Leave data.{key} out.")


def of_the_user(data: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of cfg.data that the user decides."""
    return {key: value for key, value in data.items() if key not in OF_THE_RUN}


def evaluate(models: Sequence[Trained], origins: Sequence[Origin], slices: SliceSet, config: Mapping[str, Any]) -> Evaluation:
    """Score the mean prediction of some runs on data.

    Args:
        origins: what each of the models was trained on, in the same order.
        slices: the data as they are stored.
        config: the composed configuration of segtune.evaluate.

    Raises: InputError for errors in the data, or if all patients were in the training of a run.
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
    scores = score_slices(models, slices, tolerance_mm=tolerance_mm)
    settings = {key: value for key, value in of_the_user(data).items() if key not in ("reader", "root", "target")}
    about = {
        "runs": [{"run_id": one.run_id, "cell_id": one.cell_id, "label": one.label} for one in origins],
        "which": which,
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
    name = identity.run_id({"runs": runs, "data": fingerprint, "which": which, "tolerance_mm": tolerance_mm})
    return Evaluation(name, about, scores)
