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
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import DictConfig
from tqdm import tqdm

from segtune import app, results, rules, volumes
from segtune.data import findings, outlines, recognition
from segtune.data.slices import Slice, SliceSet
from segtune.errors import InputError, printable

if TYPE_CHECKING:  # torch takes seconds to import
    from segtune.metrics import Row, Scores
    from segtune.trained import Trained

log = logging.getLogger(__name__)

EVALUATION = "evaluation.json"
OF_THE_RUN = ("size", "spacing_mm", "larger", "normalize")  # of cfg.data: how its network wants its images
PHANTOM_PX = (32, 512)  # the sizes that the phantom can be had in
MOST_PATIENTS = 20  # up to which each has its line on the terminal
SAME = {  # kind of data, structure -> other kind -> what the same structure is called there
    ("rvsc", "endocardium"): {"acdc": "rv"},
    ("acdc", "rv"): {"rvsc": "endocardium"},
    ("sunnybrook", "endocardium"): {"acdc": "lv"},
    ("acdc", "lv"): {"sunnybrook": "endocardium"},
}
PHASES = {"ED": "end-diastole (ED)", "ES": "end-systole (ES)", "unknown": "phase not known"}


def evaluate(cfg: DictConfig) -> None:
    """Score the run on the data, write what was found, print it."""
    config = app.plain(cfg)
    if "reader" not in config["data"]:
        options = ", ".join(f"data={name}" for name in app.groups()["data"])
        raise InputError(f"data: say which data the run is to be scored on, one of {options}.")
    for key in OF_THE_RUN:
        if (value := config["data"][key]) is not None:
            raise InputError(f"data.{key}={value}: how the network wants its images is the run's to say. Leave data.{key} out.")

    from segtune import workers

    workers.settle_process()
    from segtune import build, metrics, trained

    how = {key: config[key] for key in ("which", "accelerator", "trust")}
    models = trained.load_all(config["run"], **how)
    models = sorted(models, key=lambda model: str(model.result["run_id"]))  # the last digit of a mean depends on the order
    origins = [origin(model) for model in models]
    cfg = with_target(cfg, origins)
    data = app.plain(cfg)["data"]
    rules.check(config | {"data": {key: value for key, value in data.items() if key not in OF_THE_RUN}})

    slices = build.slices(cfg)
    fingerprint = slices.fingerprint()
    found = findings.for_run(slices, allow=data["allow"], of_contours=outlines.for_run(data, slices))
    for kind, (n, first) in findings.warnings(found).items():
        log.warning("%s (%d); the first: %s", findings.KINDS[kind], n, printable(first))
    left_out = trained_on(slices, fingerprint, data, origins, which=config["which"])
    slices = SliceSet(item for item in slices if item.patient not in left_out)
    trained.warn_of_other_scale(models, slices)
    tolerance_mm = float(config["tolerance_mm"] or metrics.TOLERANCE_MM)
    scores = score(models, slices, tolerance_mm=tolerance_mm)

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
    name = results.run_id(identity | {key: about[key] for key in ("which", "tolerance_mm")})
    folder = Path(config["outputs"]) / "evaluate" / name
    write(folder, about, scores)
    print("\n".join(map(printable, [*table(about, scores), str(folder)])))


# What goes with what


class Origin(NamedTuple):
    """What a run says of itself. data: its configuration's; fingerprint: of its data; trained: the patients it trained on.

    codes: of the images that it trained on, with the patient of each; None for a run that recorded none.
    """

    run_id: str
    cell_id: str
    label: str
    reader: str
    data: Mapping[str, Any]
    fingerprint: str
    trained: frozenset[str]
    codes: Sequence[tuple[str, str]] | None


def origin(model: "Trained") -> Origin:
    """Raises: InputError if its result.json lacks something that every run's has."""
    result = model.result
    try:
        return Origin(
            run_id=str(result["run_id"]),
            cell_id=results.cell_id(result["config"], str(result["data"]["fingerprint"])),
            label=results.label(result["config"]),
            reader=reader_of(result["config"]["data"]),
            data=result["config"]["data"],
            fingerprint=str(result["data"]["fingerprint"]),
            trained=frozenset(map(str, result["data"]["patients"]["train"])),
            codes=_codes(model.folder, result),
        )
    except (LookupError, TypeError, AttributeError, ValueError):
        raise InputError(f"{model.folder / results.RESULT}: damaged. Copy the run's folder again.") from None


def _codes(folder: Path, result: Mapping[str, Any]) -> list[tuple[str, str]] | None:
    """Code and patient of each image that the run trained on. Raises: InputError for a damaged table."""
    if results.IMAGES not in (result.get("files") or {}):
        return None
    results.verify(folder, result, [results.IMAGES])
    rows = results.read_table(folder, results.IMAGES)
    return [(row["code"], row["patient"]) for row in rows if row["side"] == "train"]


def reader_of(data: Mapping[str, Any]) -> str:
    """The name of the reader, which is that of its option: rvsc."""
    return str(data["reader"]["_target_"]).split(".")[-2]


def with_target(cfg: DictConfig, origins: Sequence[Origin]) -> DictConfig:
    """cfg with the structure to be compared, and the phantom in the size that the run had it in.

    If none was said: the runs' own, the one that is the SAME in other data, or one of the same name, which is told.

    Raises: InputError if there is none of these, or for another structure of the same kind of data.
    """
    cfg = cfg.copy()
    here, there, own, asked = reader_of(cfg.data), origins[0].reader, origins[0].data["target"], cfg.data.target
    names, run = rules.TARGETS.get(here, ()), f"run {origins[0].run_id} looks for the {own}"
    if _kind(here) == _kind(there):
        if names and asked not in (None, own):
            raise InputError(f"data.target={asked}: {run} of such data. Leave data.target out.")
        cfg.data.target = own if asked is None else asked
    elif asked is None and (same := SAME.get((_kind(there), own), {}).get(_kind(here))):
        cfg.data.target = same
    elif asked is None and own in names:
        log.warning(
            "%s (%s), which may be another heart chamber in data=%s: compared all the same.",
            *map(printable, (run, there, here)),
        )
        cfg.data.target = own
    elif asked is None:
        known = f"one of {', '.join(names)}" if names else "its name or value"
        raise InputError(
            f"data.target: {run} ({there}); say which structure of data={here} that is, data.target=... ({known})."
        )
    if here == "phantom":
        low, high = PHANTOM_PX
        cfg.data.size = min(max([low, *(int(one.data["size"]) for one in origins)]), high)
    return cfg


def _kind(reader: str) -> str:
    return "rvsc" if reader == "phantom" else reader


def trained_on(
    slices: SliceSet, fingerprint: str, data: Mapping[str, Any], origins: Sequence[Origin], *, which: str
) -> frozenset[str]:
    """The patients that a run has trained on, who tell nothing of it; a warning says who is left out, or may have to be.

    Raises: InputError if that is everybody.
    """
    patients = set(slices.patients)
    own = [one for one in origins if one.fingerprint == fingerprint or _is_same_folder(one, data)]
    seen = frozenset().union(*(one.trained for one in own)) & patients
    if own:
        told = ", ".join(one.run_id for one in own)
        if seen == patients:
            raise InputError(
                f"these are the data of run {told}, and all {len(patients)} patients were in its training: nobody is left to "
                "score on. Give other data, or fewer runs."
            )
        chosen = " Its best epoch was chosen on those that remain, which flatters it: which=last." if which == "best" else ""
        log.warning(
            "these are the data of run %s: %d of %d patients are left out, for they were on its training side.%s",
            *(told, len(seen), len(patients), chosen),
        )
    seen |= by_images(slices, seen, origins)
    others = [one for one in origins if one not in own and _may_be_alike(one, data)]
    if alike := sorted((patients - seen) & frozenset().union(*(one.trained for one in others))):
        log.warning(
            "%d of %d patients are called like patients that run %s was trained on (%s). If they are the same, the figures "
            "flatter it: move their files elsewhere.",
            *(len(alike), len(patients), ", ".join(one.run_id for one in others if one.trained & patients)),
            printable(", ".join(alike[:5]) + (", ..." if len(alike) > 5 else "")),
        )
    return seen


def by_images(slices: SliceSet, seen: frozenset[str], origins: Sequence[Origin]) -> frozenset[str]:
    """The patients, beside those of `seen`, of whom an image was in a run's training, whatever they and it are called here.

    Raises: InputError if that leaves nobody.
    """
    for one in origins:
        if one.codes is None:
            log.warning(
                "run %s is of an earlier segtune, which recorded no codes of its images: its patients are known by name alone.",
                one.run_id,
            )
    known = dict(pair for one in origins for pair in one.codes or ())
    others = [item for item in slices if item.patient not in seen]
    nearest = recognition.known_again(recognition.codes(others), list(known))
    names = list(known.values())
    found = {item.patient: names[index] for item, index in zip(others, nearest, strict=True) if index >= 0}
    if not found:
        return frozenset()
    told = ", ".join(f"{patient} (there {there})" for patient, there in sorted(found.items())[:5])
    told = printable(told + (", ..." if len(found) > 5 else ""))
    runs = ", ".join(one.run_id for one in origins)
    if {*found} | seen == {*slices.patients}:
        raise InputError(
            f"the images of all {len(found)} patients that are left were in the training of run {runs}, whatever they are "
            f"called here: {told}. Nobody is left to score on. Give other data, or fewer runs."
        )
    log.warning(
        "%d of %d patients are left out, for their images were in the training of run %s, whatever they are called here: %s.",
        *(len(found), len({*slices.patients}), runs, told),
    )
    return frozenset(found)


def _is_same_folder(one: Origin, data: Mapping[str, Any]) -> bool:
    """Whether a run had its data from this very folder, be it with other settings of the reader."""
    roots = [where.get("root") for where in (one.data, data)]
    return one.reader == reader_of(data) and None not in roots and len({os.path.realpath(str(root)) for root in roots}) == 1


def _may_be_alike(one: Origin, data: Mapping[str, Any]) -> bool:
    """Whether two data sets may hold the same patients: of one kind, and not phantoms of different seeds."""
    seeds = {one.data.get("seed"), data.get("seed")}
    return _kind(one.reader) == _kind(reader_of(data)) and (None in seeds or len(seeds) == 1)


# Scoring


def score(models: Sequence["Trained"], slices: SliceSet, *, tolerance_mm: float) -> "Scores":
    """All slices, cases and patients; a structure is where its probability, the mean over the models, is above 0.5."""
    from segtune import metrics

    with tqdm(slices.by_patient(), unit="patient", leave=False, disable=None) as bar:
        scored = [_score_patient(models, mine, tolerance_mm) for mine in bar]
    return metrics.Scores(*([row for scores in scored for row in scores[level]] for level in range(3)))


def _score_patient(models: Sequence["Trained"], slices: Sequence[Slice], tolerance_mm: float) -> "Scores":
    import torch

    from segtune import losses, metrics, trained

    probabilities = trained.ensemble(models, slices)
    pairs = [metrics.Pair.of(item, p > 0.5, item.mask) for item, p in zip(slices, probabilities, strict=True)]
    scores = metrics.score(pairs, tolerance_mm=tolerance_mm)
    rows = []
    for item, p, row in zip(slices, probabilities, scores.slices, strict=True):
        soft_dice = losses.soft_dice(torch.from_numpy(p).logit()[None], torch.from_numpy(item.mask).double()[None])
        rows.append({**row, "frame": item.frame, "soft_dice": soft_dice.item()})
    return scores._replace(slices=rows)


class Phase(NamedTuple):
    """The rows of one phase. cases: in 3-D. means: of each case, the mean over its images, in their plane. images: these."""

    cases: list["Row"]
    means: list["Row"]
    images: list["Row"]


def by_phase(scores: "Scores") -> dict[str, Phase]:
    """The phases that there are, of PHASES."""
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
    """Whether there is a row with one empty mask, and whether in all of them both are."""
    return {
        "n_one_empty": int(any(row["n_one_empty"] for row in rows)),
        "n_both_empty": int(all(row["n_both_empty"] for row in rows)),
    }


class Figure(NamedTuple):
    """Mean and standard deviation over the n defined rows. n_one_empty: of these; n_undefined: left out."""

    mean: float
    sd: float
    n: int
    n_one_empty: int
    n_undefined: int


def figure(rows: Sequence["Row"], column: str) -> Figure:
    mean, defined = volumes.mean(rows, column), [row[column] for row in rows if not math.isnan(row[column])]
    sd = statistics.stdev(defined) if len(defined) > 1 else math.nan
    return Figure(mean.value, sd, mean.n, mean.n_one_empty, mean.n_undefined)


# Telling


def write(folder: Path, about: Mapping[str, Any], scores: "Scores") -> None:
    """The tables, then evaluation.json: where that is, all is."""
    from segtune import metrics, train

    phases = by_phase(scores)
    overview = {"all": metrics.overview(scores)}
    for phase, rows in phases.items():
        of_phase = metrics.overview(scores._replace(slices=rows.images, cases=rows.cases))
        overview[phase] = {level: of_phase[level] for level in ("slices", "cases")}
    challenge = {
        phase: {
            kind: {name: figure(of_kind, name)._asdict() for name in ("dice", "hd_mm")}
            for kind, of_kind in rows._asdict().items()
        }
        for phase, rows in phases.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / EVALUATION).unlink(missing_ok=True)
    for name, columns in results.TABLES.items():
        text = results.csv_text(columns, ({"which": about["which"], **row} for row in getattr(scores, Path(name).stem)))
        results.write_atomically(folder / name, text.encode(errors="replace"))
    record = {**about, "metrics": overview, "challenge": challenge, "versions": train.versions(), "git": train.git()}
    results.write_atomically(folder / EVALUATION, results.json_text(record))


def table(about: Mapping[str, Any], scores: "Scores") -> list[str]:
    """For a person: who was scored, each phase's figures, how well the volumes agree."""
    from segtune import metrics

    data, source = about["data"], about["trained_on"]
    lines = [f"run {one['run_id']}, {about['which']} epoch: {one['label']}" for one in about["runs"]]
    lines += [
        f"trained to find the {source['target']} ({source['reader']}), compared with the {data['target']} ({data['reader']})",
        f"patients: {data['n_patients']}, cases (volumes): {data['n_cases']}, slices: {data['n_slices']}"
        + (f"; left out, for they were in the training: {len(data['left_out'])} patients" if data["left_out"] else ""),
    ]
    for phase, rows in by_phase(scores).items():
        lines += ["", PHASES[phase], *_of_phase(rows)]
    if data["n_patients"] > MOST_PATIENTS:
        lines += ["", "Patient by patient: cases.csv (3-D) and slices.csv (2-D)."]
    lines += ["", *_agreement(metrics.overview(scores)["agreement"]), "", *MEANING]
    why = [f"{_called(row)} {row['phase'] or ''}: {row['undefined']}" for row in scores.cases if row["undefined"]]
    if why:
        lines.append(f"no volume: {'; '.join(why[:5])}{f'; and {len(why) - 5} more in cases.csv' if len(why) > 5 else ''}")
    return lines


MEANING = (
    "Dice: overlap, from 0 to 1 (best). HD: Hausdorff distance, the largest error of the boundary; 0 is best. 3-D: over all",
    "slices of a patient; 2-D: of each slice in its plane, of a patient the mean over the slices, as in the RVSC challenge.",
    "one empty: only one of expert and run has drawn something; this counts, as Dice 0 and HD the image's diagonal.",
    "undefined: left out of the mean, for neither has drawn anything, or for HD and volumes the slices' places are not known.",
)


def _of_phase(rows: Phase) -> list[str]:
    digits = (3, 1, 3, 1, 1, 1)
    cells = [["patient", "slices", "Dice 3-D", "HD 3-D [mm]", "Dice 2-D", "HD 2-D [mm]", "expert [ml]", "predicted [ml]"]]
    for case, mean in zip(rows.cases, rows.means, strict=True) if len(rows.cases) <= MOST_PATIENTS else ():
        values = (case["dice"], case["hd_mm"], mean["dice"], mean["hd_mm"], case["volume_true_ml"], case["volume_pred_ml"])
        cells.append([_called(case), str(case["n_slices"]), *map(_number, values, digits)])
    in_3d, in_2d, of_slices = ([figure(some, name) for name in ("dice", "hd_mm")] for some in rows)
    in_ml = [figure(rows.cases, f"volume_{side}_ml") for side in ("true", "pred")]
    of_cases = "patients" if len({case["patient"] for case in rows.cases}) == len(rows.cases) else "volumes"
    for unit, figures in ((of_cases, [*in_3d, *in_2d, *in_ml]), ("slices", [None, None, *of_slices, None, None])):
        cells.append([])
        for head, part in ((f"mean of {unit}", "mean"), ("+- sd", "sd")):
            cells.append([head, "", *(_number(getattr(f, part), n) if f else "" for f, n in zip(figures, digits, strict=True))])
        for head, part in ((unit, "n"), ("one empty", "n_one_empty"), ("undefined", "n_undefined")):
            cells.append([head, "", *(str(getattr(f, part)) if f else "" for f in figures)])
    return _aligned(cells)


def _called(case: "Row") -> str:
    """The patient, and the volume where it has several of a phase."""
    return " ".join(filter(None, (case["patient"], case["volume"])))


def _agreement(agreement: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Bland-Altman, in ml and in % of the ejection fraction."""
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
    return _aligned(cells)


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, the others, which are numbers, to the right."""
    widths = [max(map(len, column)) for column in zip(*filter(None, rows), strict=True)]
    padded = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] if row else [] for row in rows]
    return ["  ".join(row).rstrip() for row in padded]


if __name__ == "__main__":
    app.entry("evaluate", evaluate)
