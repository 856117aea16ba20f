"""Score finished runs on other data per slice, case and patient, and write or print the tables."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm import tqdm

from segtune.data.slices import Slice, SliceSet
from segtune.metrics import volumes
from segtune.runs import layout, words
from segtune.runs.files import json_text, write_atomically
from segtune.runs.tables import csv_text

if TYPE_CHECKING:  # torch takes seconds to import
    from segtune.inference.models import Trained
    from segtune.metrics.score import Row, Scores


EVALUATION = "evaluation.json"
MOST_PATIENTS = 20  # with more patients, the printed tables only show means
PROCESSING = {"tta": "averaged over four views", "largest_component": "the largest 3-D component of each volume"}
PHASES = {"ED": "end-diastole (ED)", "ES": "end-systole (ES)", "unknown": "phase not known"}


def score_slices(
    models: Sequence["Trained"], slices: SliceSet, *, tolerance_mm: float, largest_component: bool = False
) -> "Scores":
    """Score all slices, cases and patients. A pixel is predicted if the mean probability of the models is above 0.5.

    Args: largest_component: whether to keep only the largest component of each predicted volume.
    """
    from segtune.metrics.score import Scores

    with tqdm(slices.by_patient(), unit="patient", leave=False, disable=None) as bar:
        scored = [_score_patient(models, mine, tolerance_mm, largest_component) for mine in bar]
    return Scores(*([row for scores in scored for row in scores[level]] for level in range(3)))


def _score_patient(
    models: Sequence["Trained"], slices: Sequence[Slice], tolerance_mm: float, largest_component: bool
) -> "Scores":
    import torch

    from segtune import losses
    from segtune.inference.ensembles import ensemble
    from segtune.metrics.largest_component import largest_of_each
    from segtune.metrics.score import Pair, score_pairs

    probabilities = ensemble(models, slices)
    masks = [p > 0.5 for p in probabilities]
    if largest_component:
        masks = largest_of_each(masks, [item.place for item in slices])
    pairs = [Pair.of(item, mask, item.mask) for item, mask in zip(slices, masks, strict=True)]
    scores = score_pairs(pairs, tolerance_mm=tolerance_mm)
    rows = []
    for item, p, row in zip(slices, probabilities, scores.slices, strict=True):
        soft_dice = losses.soft_dice(torch.from_numpy(p).logit()[None], torch.from_numpy(item.mask).double()[None])
        rows.append({**row, "frame": item.frame, "soft_dice": soft_dice.item()})
    return scores._replace(slices=rows)


class Phase(NamedTuple):
    """The scores of one phase.

    cases: the 3-D scores of each case. means: for each case, the 2-D scores averaged over its images. images: the 2-D
    scores of each image.
    """

    cases: list["Row"]
    means: list["Row"]
    images: list["Row"]


def by_phase(scores: "Scores") -> dict[str, Phase]:
    """Return the scores of each phase. Phases without scores are left out."""
    images: dict[tuple[str, str | None, str], list[Row]] = {}
    for row in scores.slices:
        images.setdefault((row["patient"], row["phase"], row["volume"]), []).append(row)
    phases = {}
    for phase in PHASES:
        cases = [row for row in scores.cases if (row["phase"] or "unknown") == phase]
        of_case = [images[row["patient"], row["phase"], row["volume"]] for row in cases]
        means = [{name: volumes.mean(rows, name).value for name in ("dice", "hd_mm")} | _empty(rows) for rows in of_case]
        if cases:
            phases[phase] = Phase(cases, means, [row for rows in of_case for row in rows])
    return phases


def _empty(rows: Sequence["Row"]) -> dict[str, int]:
    """Return two flags (0 or 1) for the rows of one case.

    n_one_empty is 1 if exactly one mask is empty in at least one row. n_both_empty is 1 if both masks are empty in all
    rows.
    """
    return {
        "n_one_empty": int(any(row["n_one_empty"] for row in rows)),
        "n_both_empty": int(all(row["n_both_empty"] for row in rows)),
    }


class MeanAndSd(NamedTuple):
    """Mean and standard deviation over n values. Undefined values are excluded.

    n_one_empty: how many of the n values are from rows in which exactly one mask is empty. n_undefined: the number of
    excluded values.
    """

    mean: float
    sd: float
    n: int
    n_one_empty: int
    n_undefined: int


def mean_and_sd(rows: Sequence["Row"], column: str) -> MeanAndSd:
    mean, defined = volumes.mean(rows, column), [row[column] for row in rows if not math.isnan(row[column])]
    sd = statistics.stdev(defined) if len(defined) > 1 else math.nan
    return MeanAndSd(mean.value, sd, mean.n, mean.n_one_empty, mean.n_undefined)


def write_evaluation(folder: Path, about: Mapping[str, Any], scores: "Scores") -> None:
    """Write the tables and then evaluation.json. If evaluation.json exists, all files are complete."""
    from segtune.metrics.score import summarize
    from segtune.training import provenance

    phases = by_phase(scores)
    overview = {"all": summarize(scores)}
    for phase, rows in phases.items():
        of_phase = summarize(scores._replace(slices=rows.images, cases=rows.cases))
        overview[phase] = {level: of_phase[level] for level in ("slices", "cases")}
    challenge = {
        phase: {
            kind: {name: mean_and_sd(of_kind, name)._asdict() for name in ("dice", "hd_mm")}
            for kind, of_kind in rows._asdict().items()
        }
        for phase, rows in phases.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / EVALUATION).unlink(missing_ok=True)
    for (name, columns), level in zip(layout.TABLES.items(), scores, strict=True):  # slices, cases, patients
        text = csv_text(columns, ({"which": about["which"], "structure": str(about["data"]["target"]), **row} for row in level))
        write_atomically(folder / name, text.encode(errors="replace"))
    record = {**about, "metrics": overview, "challenge": challenge, "versions": provenance.versions(), "git": provenance.git()}
    write_atomically(folder / EVALUATION, json_text(record))


def evaluation_table(about: Mapping[str, Any], scores: "Scores") -> list[str]:
    """Return the lines to print: what was scored, the scores of each phase, and the agreement of volumes."""
    from segtune.metrics.score import summarize

    data, source = about["data"], about["trained_on"]
    lines = [f"run {one['run_id']}, {about['which']} epoch: {one['label']}" for one in about["runs"]]
    lines += [
        f"trained to find the {source['target']} ({source['reader']}), compared with the {data['target']} ({data['reader']})",
        f"patients: {data['n_patients']}, cases (volumes): {data['n_cases']}, slices: {data['n_slices']}"
        + (f"; left out, because they were in the training: {len(data['left_out'])} patients" if data["left_out"] else ""),
    ]
    applied = [words for key, words in PROCESSING.items() if about.get("score", {}).get(key)]
    lines += [f"predictions: {' and '.join(applied)}"] if applied else []
    for phase, rows in by_phase(scores).items():
        lines += ["", PHASES[phase], *_of_phase(rows)]
    if data["n_patients"] > MOST_PATIENTS:
        lines += ["", "Patient by patient: cases.csv (3-D) and slices.csv (2-D)."]
    lines += ["", *_agreement(summarize(scores)["agreement"]), "", *MEANING]
    why = [f"{_called(row)} {row['phase'] or ''}: {row['undefined']}" for row in scores.cases if row["undefined"]]
    if why:
        lines.append(f"no volume: {'; '.join(why[:5])}{f'; and {len(why) - 5} more in cases.csv' if len(why) > 5 else ''}")
    return lines


MEANING = (
    "Dice: overlap, from 0 to 1 (best). HD: Hausdorff distance, the largest error of the boundary; 0 is best. 3-D: over all",
    "slices of a patient; 2-D: of each slice in its plane, of a patient the mean over the slices, as in the RVSC challenge.",
    "one empty: only one of expert and run has drawn something; it counts with Dice 0 and, as HD, the image's diagonal.",
    "undefined: left out of the mean, as neither has drawn anything or, for HD and volumes, slice positions are not known.",
)


def _of_phase(rows: Phase) -> list[str]:
    digits = (3, 1, 3, 1, 1, 1)
    cells = [["patient", "slices", "Dice 3-D", "HD 3-D [mm]", "Dice 2-D", "HD 2-D [mm]", "expert [ml]", "predicted [ml]"]]
    for case, mean in zip(rows.cases, rows.means, strict=True) if len(rows.cases) <= MOST_PATIENTS else ():
        values = (case["dice"], case["hd_mm"], mean["dice"], mean["hd_mm"], case["volume_true_ml"], case["volume_pred_ml"])
        cells.append([_called(case), str(case["n_slices"]), *map(_number, values, digits)])
    in_3d, in_2d, of_slices = ([mean_and_sd(some, name) for name in ("dice", "hd_mm")] for some in rows)
    in_ml = [mean_and_sd(rows.cases, f"volume_{side}_ml") for side in ("true", "pred")]
    of_cases = "patients" if len({case["patient"] for case in rows.cases}) == len(rows.cases) else "volumes"
    for unit, figures in ((of_cases, [*in_3d, *in_2d, *in_ml]), ("slices", [None, None, *of_slices, None, None])):
        cells.append([])
        for head, part in ((f"mean of {unit}", "mean"), ("+- sd", "sd")):
            cells.append([head, "", *(_number(getattr(f, part), n) if f else "" for f, n in zip(figures, digits, strict=True))])
        for head, part in ((unit, "n"), ("one empty", "n_one_empty"), ("undefined", "n_undefined")):
            cells.append([head, "", *(str(getattr(f, part)) if f else "" for f in figures)])
    return words.table(cells, numbers_from=1)


def _called(case: "Row") -> str:
    """Return the patient's name, followed by the name of the volume if the patient has several volumes of one phase."""
    return " ".join(filter(None, (case["patient"], case["volume"])))


def _agreement(agreement: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the table of Bland-Altman agreement: volumes in ml, ejection fraction in percentage points."""
    cells = [["predicted less expert", "bias", "95 % limits of agreement", "patients", "undefined"]]
    for head, name, unit in (
        ("EDV [ml]", "volume_ED_ml", 1),
        ("ESV [ml]", "volume_ES_ml", 1),
        ("stroke volume [ml]", "stroke_volume_ml", 1),
        ("ejection fraction [%]", "ejection_fraction", 100),
    ):
        one = agreement[name]
        bias, lower, upper = (_number(unit * one[key], 1) for key in ("bias", "lower", "upper"))
        cells.append([head, bias, f"{lower} to {upper}" if one["n"] > 1 else "-", str(one["n"]), str(one["n_undefined"])])
    return words.table(cells, numbers_from=1)


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"
