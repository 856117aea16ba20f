"""Write the model card of a finished run in Markdown: intended use, data, scores and limitations.

card.md.j2 contains the text. This module reads the values from the run's folder, without importing torch. All text from the
folder is escaped, because a patient's label may contain any characters. Undefined values are shown as "undefined", never as 0,
and values that an earlier version did not record are shown as "not recorded".
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from segtune.data import readers
from segtune.inference.card_code import NORMALIZED, code
from segtune.inference.markdown import Markdown, escaped, fenced, grid, number, rendered, whole
from segtune.runs import identity, layout
from segtune.runs.state import read_status
from segtune.runs.tables import read_table

Result = Mapping[str, Any]
Rows = Sequence[Mapping[str, str]]

METRICS = {  # name -> name on the card, number format
    "dice": ("Dice", ".3f"),
    "iou": ("IoU", ".3f"),
    "sensitivity": ("sensitivity", ".3f"),
    "precision": ("precision", ".3f"),
    "hd_mm": ("HD [mm]", ".1f"),
    "hd95_mm": ("HD95 [mm]", ".1f"),
    "assd_mm": ("ASSD [mm]", ".2f"),
    "surface_dice": ("surface Dice", ".3f"),
}
LEVELS = {"slices": "per slice", "cases": "per case (3-D)", "patients": "per patient"}
COUNTS = ("n", "n_one_empty", "n_both_empty", "n_undefined")
AGREEMENT = {  # name -> name on the card, factor for its unit
    "volume_ED_ml": ("end-diastolic volume [ml]", 1),
    "volume_ES_ml": ("end-systolic volume [ml]", 1),
    "stroke_volume_ml": ("stroke volume [ml]", 1),
    "ejection_fraction": ("ejection fraction [percentage points]", 100),
}
LIMITS = ("bias", "lower", "upper")
MISSING = "not recorded"
EARLIER = "the run was trained with an earlier version of segtune"
FEW = 10  # with fewer validation patients, the card says how little the scores tell
RARE = 0.05  # with a smaller share of slices without the structure, the card says that false positives were hardly tested


def page(folder: Path, result: Result, *, which: str, checked: str) -> str:
    """Return the model card as Markdown.

    Args:
        result: the content of result.json.
        which: the epoch whose weights were exported, last or best.
        checked: a phrase that says how well model.onnx agrees with PyTorch.

    Raises: InputError for a damaged table; LookupError, TypeError, ValueError or AttributeError for values of a wrong type.
    """
    tables = {name: table(folder, name, which) for name in layout.TABLES}
    patients, config = tables[layout.PATIENTS], result["config"]["data"]
    epochs = (which, "best" if which == "last" else "last")
    values = {
        "result": result,
        "which": which,
        "epochs": epochs,
        "missing": MISSING,
        "earlier": EARLIER,
        "config": {"spacing_mm": None, "larger": None, "empty": None, **config},
        "is_scored": is_scored(result),
        "expectation": Markdown(expectation(result)),
        "is_processed": any((result.get("score") or {}).values()),
        "stops": result["config"]["trainer"].get("patience") is not None,
        "structure": str(config["target"]),
        "alarms": [Markdown(alarm) for alarm in alarms(result, which)],
        "running": running(result, checked),
        "code": fenced(code(result), "python"),
        "facts": facts(result),
        "sides": sides(result),
        "findings": checks(result),
        "training": training(result),
        "command": again(folder, result),
        "means": {one: means(result, one) for one in epochs},
        "patients": None if patients is None else by_patient(patients),
        "few": Markdown(few(result, patients)),
        "pixels": pixels(result),
        "slices": [Markdown(sentence) for sentence in of_slices(tables[layout.SLICES])],
    }
    return rendered("card.md.j2", values)


def table(folder: Path, name: str, which: str) -> Rows | None:
    """Read the rows for one epoch (`which`: last or best) from a table of the run; None if the table does not exist."""
    if not (folder / name).exists():
        return None
    return [row for row in read_table(folder, name) if row["which"] == which]


# The values that the template inserts


def alarms(result: Result, which: str) -> Iterator[str]:
    """Yield the warnings, which the card shows at its top and again in the section Limits."""
    n_leaks, n_errors = result["data"].get("n_leaks") or 0, sum(one["severity"] == "error" for one in findings(result))
    if n_leaks:
        yield (
            f"{counted(n_leaks, 'patient')} on both sides: images of the same person are in training and in validation. All "
            "scores are therefore too high and do not show what to expect for new patients."
        )
    if n_errors:
        yield (
            f"{counted(n_errors, 'error')} in the data, which the user allowed with data.allow (see Data). They affect the "
            "training, the scores, or both."
        )
    if readers.of(result["config"]["data"]).is_synthetic:
        yield "This model was trained on synthetic images of a phantom, not on patients. Use it only to try out the software."
    if which == "best" and is_scored(result):
        yield (
            "These weights were chosen among all epochs by their score on the validation patients. Expect lower scores on "
            "other patients."
        )


def running(result: Result, checked: str) -> Markdown:
    config = result["config"]["data"]
    size, spacing_mm, crops = int(config["size"]), config.get("spacing_mm"), config.get("larger")
    factor = int(config.get("downsample") or 1)
    multiple = 16 * factor
    larger = "" if crops else "; larger images, which did not occur in training, to the next multiple of 16"
    before = [
        "" if spacing_mm is None or not config.get("antialias") else "smoothed where it is shrunk",
        "" if spacing_mm is None else f"resampled linearly to pixels of {float(spacing_mm):g} mm, keeping the image's centre",
        f"cropped around the centre to at most {size} x {size}" if crops else "",
        f"intensities normalised ({escaped(config['normalize'])}): {NORMALIZED[config['normalize']][0]}",
        f"padded with zeros at the bottom and right to {size} x {size}{larger}",
        "" if factor == 1 else f"(inside model.onnx) averaged over {factor} x {factor} pixels, its logits interpolated back",
    ]
    steps = "; then ".join(filter(None, before))
    processing = result.get("score") or {}
    after = ["undo padding, crop and resampling", "pixels with a probability above 0.5 belong to the structure"]
    if processing.get("tta"):
        after.insert(
            1,
            "average the probability over four views: the image, rotated by 10 and -10 degrees, and enlarged by 1.1 (neither "
            "model.onnx nor the code below does this)",
        )
    if processing.get("largest_component"):
        after.append(
            "stack the masks of each volume, and keep only the largest 3-D connected component (26 neighbours; the code below "
            "does not do this)"
        )
    rows = [
        ("input", f"`image`, float32, (batch, 1, height, width); height and width are multiples of {multiple}"),
        ("output", "`probability` of the structure and `logits`, both of the input's shape; probability = sigmoid(logits)"),
        ("preprocessing", f"the image {'as stored' if spacing_mm is None else 'with known pixel size'}, {steps}"),
        ("postprocessing", "; ".join(after)),
        ("checked", escaped(checked)),
    ]
    return grid(("", ""), rows)


def facts(result: Result) -> Markdown:
    rows = [
        ("reader", escaped(reader(result))),
        ("structure", escaped(result["config"]["data"]["target"])),
        ("size of a pixel in training", pixels(result)),
        ("fingerprint", escaped(result["data"].get("fingerprint", MISSING))),
        ("patients on both sides", leaks(result)),
    ]
    return grid(("", ""), rows)


def sides(result: Result) -> Markdown:
    patients, images = result["data"]["patients"], result["data"].get("n_images") or {}
    rows = [
        (name, len(labels), whole(images[side]) if side in images else "", ", ".join(map(escaped, labels)))
        for side, name in (("train", "training"), ("val", "validation"), ("unused", "unused"))
        for labels in [patients.get(side) or []]
    ]
    return grid(("side", "patients", "images", "labels"), rows)


def checks(result: Result) -> Markdown | None:
    """Return a table that lists the kinds of findings of the data check.

    Returns: an empty text if there are no findings; None if the findings were not recorded.
    """
    if result["data"].get("findings") is None:
        return None
    kinds: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for one in findings(result):
        kinds.setdefault((one["severity"], one["kind"]), []).append(one)
    rows = [
        (
            "**error, allowed by data.allow**" if severity == "error" else escaped(severity),
            escaped(kind),
            len(of),
            f"{'' if of[0]['patient'] is None else escaped(of[0]['patient']) + ': '}{escaped(of[0]['message'])}",
        )
        for (severity, kind), of in kinds.items()
    ]
    return grid(("severity", "kind", "number", "the first"), rows) if rows else Markdown()


def training(result: Result) -> Markdown:
    config, git = result["config"], result.get("git")
    axes, calibration = identity.axes(config), result.get("calibration")
    measured = f"; calibrated lambda = {number(calibration['lambda'], '.3g')}" if calibration else ""
    commit = (str(git["commit"]) + (", with uncommitted changes" if git["dirty"] else "")) if git else MISSING
    rows = [
        ("network", described(config["model"])),
        ("loss", described(config["loss"])),
        ("penalty and its lambda", escaped(axes["reg"] + measured)),
        ("split", described({key: value for key, value in config["split"].items() if key != "chosen_from"})),
        ("batch", described(config["batch"])),
        ("epochs", f"{whole(result['last']['epoch'])} ({escaped(_length(config['trainer']))})"),
        ("seed", escaped(config["seed"])),
        ("optimizer", described(config["optimizer"])),
        ("scheduler", described(config.get("scheduler") or {}) or "none"),
        ("trainer", described(config["trainer"])),
        ("time", f"{number(result.get('seconds'), '.0f')} s"),
        ("machine", described(result.get("machine") or {}) or MISSING),
        ("versions", described(result.get("versions") or {}) or MISSING),
        ("git commit", escaped(commit)),
    ]
    return grid(("", ""), rows)


def again(folder: Path, result: Result) -> dict[str, Any] | None:
    """Return the command that repeats the run; None if it was not recorded.

    Absolute paths are left out, because they may contain names of persons.
    """
    status = read_status(folder) or {}
    overrides = status.get("overrides")
    if status.get("run_id") != result["run_id"] or not isinstance(overrides, list):
        return None
    shown = [pathless(str(one)) for one in overrides if not str(one).startswith(("outputs=", "hydra", "-"))]
    return {
        "block": fenced(identity.command(shown)),
        "has_path": any(one.endswith("=...") for one in shown),
        "has_code": any("_target_" in one or "${" in one for one in shown),
    }


def means(result: Result, which: str) -> dict[str, Markdown] | None:
    metrics = result[which].get("metrics")
    if metrics is None:
        return None
    tolerance = f" at {number(result.get('tolerance_mm'), 'g')} mm"
    overall = [
        (
            title + (tolerance if name == "surface_dice" else ""),
            *(
                f"{number(mean['value'], form)} ({' / '.join(whole(mean[count]) for count in COUNTS)})"
                for mean in (metrics[level][name] for level in LEVELS)
            ),
        )
        for name, (title, form) in METRICS.items()
    ]
    agreement = [
        (title, *(number(of[key], ".1f", scale) for key in LIMITS), whole(of["n"]), whole(of["n_undefined"]))
        for name, (title, scale) in AGREEMENT.items()
        for of in [metrics["agreement"][name]]
    ]
    heads = ("agreement", "bias", "lower limit (95 %)", "upper limit (95 %)", "n", "undefined")
    return {"overall": grid(("", *LEVELS.values()), overall), "agreement": grid(heads, agreement)}


def is_scored(result: Result) -> bool:
    """Return whether the run has validation patients, on which it was scored."""
    return bool(result["data"]["patients"].get("val") != [])


def expectation(result: Result) -> str:
    """Describe the expected score of a model that was trained on all patients.

    The model's configuration was chosen by a sweep. The expected score is the score of this configuration in the
    sweep's report (see runs/expected.py).
    """
    n = len(result["data"]["patients"].get("train") or [])
    told = f"This model was trained on all {counted(n, 'patient')}, so none is left to score it."
    expected = result.get("expected")
    if not expected:
        return (
            f"{told} What it reaches on new patients is not known. If a sweep chose its configuration, export it with "
            "chosen_from=<the sweep's folder>, and this card will quote the score of that sweep."
        )
    low, high = (number(expected[key], ".3f") for key in ("dice_low", "dice_high"))
    where = f"sweep {escaped(expected['sweep'])}, {counted(expected['n_patients'], 'patient')}"
    where += f", {counted(expected['n_folds'], 'fold')}" if expected["n_folds"] else ""
    told += (
        f" Models of the same configuration that were trained on a part of the patients reached a mean Dice of "
        f"**{number(expected['dice'], '.3f')}** on the others (95 % interval {low} to {high}; {where}, "
        f"{counted(expected['n_runs'], 'run')})."
    )
    if not expected["may_be_best"]:
        told += " **In that sweep, this configuration was worse than others.**"
    if expected["score"] != {"tta": False, "largest_component": False} | (result.get("score") or {}):
        told += (
            " **Their predictions were processed in another way than this model's** (score.tta, score.largest_component), so "
            "expect another score."
        )
    if expected["honest"] is not None:
        told += (
            " It was chosen for this score, which is therefore optimistic: winners that are chosen on other patients and runs "
            f"reached **{number(expected['honest'], '.3f')}**. Expect about this on new patients of the same kind."
        )
    return told + " Dice is the mean over the slices of each patient, and its mean over patients."


def by_patient(rows: Rows) -> Markdown:
    named = ("dice", "hd_mm", "hd95_mm", "assd_mm", "surface_dice")
    heads = ["patient", "cases", *(METRICS[name][0] for name in named), "one / both empty"]
    heads += ["stroke volume [ml] (the expert's)", "ejection fraction [%] (the expert's)", "undefined because"]
    cells = [
        (
            escaped(row["patient"]),
            whole(row["n_cases"]),
            *(number(row[name], METRICS[name][1]) for name in named),
            f"{whole(row['n_one_empty'])} / {whole(row['n_both_empty'])}",
            "{} ({})".format(*(number(row[f"stroke_volume_{side}_ml"], ".1f") for side in ("pred", "true"))),
            "{} ({})".format(*(number(row[f"ejection_fraction_{side}"], ".1f", 100) for side in ("pred", "true"))),
            escaped(row["undefined"]),
        )
        for row in rows
    ]
    return grid(heads, cells)


def _length(trainer: Mapping[str, Any]) -> str:
    """Return the settings that determine the length of a run."""
    keys = [key for key in ("max_epochs", "max_steps", "val_every_steps") if trainer.get(key) is not None]
    return " ".join(f"trainer.{key}={trainer[key]}" for key in keys or ["max_epochs"])


def few(result: Result, rows: Rows | None) -> str:
    """Say how many patients were scored and how far the mean Dice changes if one of them is left out."""
    n = len(result["data"]["patients"].get("val") or [])
    told = f"Scored on {counted(n, 'patient')}."
    dice = [value for row in rows or () if math.isfinite(value := float(row["dice"] or "nan"))]
    if len(dice) > 1:
        without = [(sum(dice) - value) / (len(dice) - 1) for value in dice]
        told += f" Without any one of them, their mean Dice is between {min(without):.3f} and {max(without):.3f}."
    few_tell = " So few patients show neither what to expect for a new patient nor how often the model fails."
    return told + (few_tell if n < FEW else "")


def of_slices(rows: Rows | None) -> list[str]:
    """Say which phases were scored and how many slices do not show the structure."""
    if not rows:
        return [f"Phases and the number of slices without the structure are {MISSING}."]
    phases = Counter(row["phase"] or "not known" for row in rows)
    told = ", ".join(f"{escaped(phase)} ({counted(n, 'slice')})" for phase, n in sorted(phases.items()))
    n_empty = sum(float(row["n_true"]) == 0 for row in rows)
    rare = " False positives on such slices were therefore hardly tested." if n_empty < RARE * len(rows) else ""
    return [
        f"Phases of the scored slices: {told}. No other phases were scored.",
        f"{n_empty} of {len(rows)} scored slices ({n_empty / len(rows):.0%}) do not show the structure.{rare}",
    ]


# Values as text


def reader(result: Result) -> str:
    return readers.of(result["config"]["data"]).name


def findings(result: Result) -> list[Mapping[str, Any]]:
    return result["data"].get("findings") or []


def pixels(result: Result) -> str:
    if not result["data"].get("pixel_mm"):
        return f"a size that is {MISSING}"
    low, high = (number(mm, ".3g") for mm in result["data"]["pixel_mm"])
    return f"{low} mm" if low == high else f"{low} to {high} mm"


def leaks(result: Result) -> str:
    n = result["data"].get("n_leaks")
    if n is None:
        return MISSING
    return f"**{whole(n)}: {', '.join(map(escaped, result['data'].get('leaks') or []))}**" if n else "none"


def described(option: Mapping[str, Any]) -> str:
    """Return one line that describes a part of the configuration: the name of its class or function, and its values."""
    name = str(option.get("_target_", "")).removeprefix("segtune.")
    values = [f"{key}={value}" for key, value in option.items() if not str(key).startswith("_") and value is not None]
    return escaped(" ".join(filter(None, [name, ", ".join(values)])))


def pathless(override: str) -> str:
    """Return the override. If its value contains an absolute path, the value is replaced by "..."."""
    key, _, value = override.partition("=")
    return f"{key}=..." if re.search(r"(^|[\s'\"\[{,:=])(~\w*/|/|[A-Za-z]:[\\/]|\\\\)", value) else override


def counted(n: int, noun: str) -> str:
    return f"{whole(n)} {noun}{'' if n == 1 else 's'}"
