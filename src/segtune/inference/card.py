"""The model card of a finished run, in Markdown: what it is for, on whom it was trained and scored, what is not known.

All of it from the run's folder; imports no torch. Text from there is escaped, for a patient's label may hold anything. What
is undefined is called so, never 0, and what a run of an earlier version has not written down is said to be missing.
"""

import html
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from segtune.data import readers
from segtune.errors import printable
from segtune.runs import identity, layout
from segtune.runs.state import read_status
from segtune.runs.tables import read_table

Result = Mapping[str, Any]
Rows = Sequence[Mapping[str, str]]

METRICS = {  # name -> what it is called, how it is written
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
AGREEMENT = {  # name -> what it is called, and what it is multiplied by
    "volume_ED_ml": ("end-diastolic volume [ml]", 1),
    "volume_ES_ml": ("end-systolic volume [ml]", 1),
    "stroke_volume_ml": ("stroke volume [ml]", 1),
    "ejection_fraction": ("ejection fraction [percentage points]", 100),
}
LIMITS = ("bias", "lower", "upper")
NORMALIZED = {  # data.normalize -> in words, and as code
    "zscore": (
        "(intensity - mean) / standard deviation over the image's own pixels",
        "(seen - seen.mean(dtype=np.float64)) / (seen.std(dtype=np.float64) or 1)",
    ),
    "divide255": ("intensity / 255", "seen / 255"),
}
MISSING = "not recorded"
EARLIER = "the run is of an earlier version of segtune"
FEW = 10  # validation patients, below which the card says what that means
RARE = 0.05  # share of slices without the structure below which silence has hardly been tested


def page(folder: Path, result: Result, *, which: str, checked: str) -> str:
    """The card. Args: which: last or best, the weights it is of. checked: how model.onnx was checked, in words.

    Raises: InputError for a damaged table; LookupError, TypeError, ValueError or AttributeError for values of a wrong kind.
    """
    tables = {name: table(folder, name, which) for name in layout.TABLES}
    parts = [
        head(result, which),
        running(result, checked),
        data(result),
        training(folder, result),
        scores(result, tables[layout.PATIENTS], which),
        limits(result, tables, which),
    ]
    return "\n\n".join(paragraph for part in parts for paragraph in part) + "\n"


def table(folder: Path, name: str, which: str) -> Rows | None:
    """The rows of one of the run's tables that are of this epoch; None if there is no such table."""
    if not (folder / name).exists():
        return None
    return [row for row in read_table(folder, name) if row["which"] == which]


def code(result: Result) -> str:
    """Code that gives one image's mask with numpy and onnxruntime alone, by the run's own steps. A test runs it.

    No text of the run enters it: what is inserted is a number, or stands in this program.
    """
    import jinja2

    config = result["config"]["data"]
    spacing_mm = config.get("spacing_mm")
    low, _ = result["data"].get("pixel_mm") or (1, 1)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("segtune.inference", "."), undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.get_template("card_code.py.j2").render(
        source=readers.of(config).image_code or "grey values",
        size=int(config["size"]),
        pixel_mm=f"{float(low):.4g}",
        spacing_mm=None if spacing_mm is None else float(spacing_mm),
        crops=bool(config.get("larger")),
        normalized=NORMALIZED[config["normalize"]][1],
    )


# The card's parts, each a list of paragraphs


def head(result: Result, which: str) -> list[str]:
    why = {"last": "the last, which decides", "best": "the one with the best validation Dice, which flatters"}[which]
    return [
        f"# Model card: run {escaped(result['run_id'])}",
        "**For research use only. Not a medical device: nothing that it says may guide the care of a patient.**",
        *(f"> **Warning.** {alarm}" for alarm in alarms(result, which)),
        f"A network that marks one structure, {structure(result)}, on single 2-D images. Its weights are those of epoch "
        f"{whole(result[which]['epoch'])}: {why}.",
        "## Intended use",
        f"For research on this structure ({structure(result)}) in images like those of its training (see Data), by people who "
        "look at every result. Not for diagnosis, treatment, triage or any other decision about a person; not for other "
        "structures, views or kinds of images; not where nobody looks.",
    ]


def alarms(result: Result, which: str) -> Iterator[str]:
    """What nobody may overlook."""
    n_leaks, n_errors = result["data"].get("n_leaks") or 0, sum(one["severity"] == "error" for one in findings(result))
    if n_leaks:
        yield (
            f"{counted(n_leaks, 'patient')} on both sides: images of one person both train and validate. Every score here "
            "flatters, and none tells what new patients will get."
        )
    if n_errors:
        yield (
            f"{counted(n_errors, 'error')} in the data, with which the run was told to go on (see Data). Training, scores or "
            "both rest on them."
        )
    if readers.of(result["config"]["data"]).is_synthetic:
        yield "Trained on synthetic images, a phantom: it has never seen a patient. For trying out only."
    if which == "best":
        yield (
            "These weights were chosen among all epochs by their score on the validation patients: that score is too good to "
            "be had elsewhere."
        )


def running(result: Result, checked: str) -> list[str]:
    config = result["config"]["data"]
    size, spacing_mm, crops = int(config["size"]), config.get("spacing_mm"), config.get("larger")
    larger = "" if crops else "; an image that is larger, to the next multiple of 16 (in training there was none)"
    before = [
        "" if spacing_mm is None else f"resampled to pixels of {float(spacing_mm):g} mm, linearly, about the image's centre",
        f"cropped to {size} x {size} about the centre where it is larger" if crops else "",
        f"intensities normalised ({escaped(config['normalize'])}): {NORMALIZED[config['normalize']][0]}",
        f"zero padded at bottom and right to {size} x {size}{larger}",
    ]
    steps = "; then ".join(filter(None, before))
    rows = [
        ("input", "`image`, float32, (batch, 1, height, width); height and width are multiples of 16"),
        ("output", "`probability` of the structure, of the same shape; and `logits`, of which it is the sigmoid"),
        ("before", f"pixels {'as stored' if spacing_mm is None else 'of a known size'}, {steps}"),
        ("after", "the same steps back; what is above 0.5 is inside"),
        ("checked", escaped(checked)),
    ]
    return ["## Running model.onnx", grid(("", ""), rows), fenced(code(result), "python")]


def data(result: Result) -> list[str]:
    about = result["data"]
    patients, images = about["patients"], about.get("n_images") or {}
    facts = [
        ("reader", escaped(reader(result))),
        ("structure", structure(result)),
        ("size of a pixel in training", pixels(result)),
        ("fingerprint", escaped(about.get("fingerprint", MISSING))),
        ("patients on both sides", leaks(result)),
    ]
    sides = [
        (name, len(labels), whole(images[side]) if side in images else "", ", ".join(map(escaped, labels)))
        for side, name in (("train", "training"), ("val", "validation"), ("unused", "unused"))
        for labels in [patients.get(side) or []]
    ]
    return [
        "## Data",
        grid(("", ""), facts),
        grid(("side", "patients", "images", "labels"), sides),
        "The labels are the data set's own. Make sure that they are pseudonyms before you hand this card on.",
        *checks(result),
    ]


def checks(result: Result) -> list[str]:
    """What the check of the data found, by kind."""
    if result["data"].get("findings") is None:
        return [f"What a check of the data would have found is {MISSING}: {EARLIER}."]
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
    if not rows:
        return ["The check of the data found neither errors nor warnings."]
    return ["What the check of the data found:", grid(("severity", "kind", "number", "the first"), rows)]


def training(folder: Path, result: Result) -> list[str]:
    config, git = result["config"], result.get("git")
    axes, calibration = identity.axes(config), result.get("calibration")
    measured = f"; lambda = {number(calibration['lambda'], '.3g')}, measured" if calibration else ""
    commit = (str(git["commit"]) + (", with uncommitted changes" if git["dirty"] else "")) if git else MISSING
    rows = [
        ("network", described(config["model"])),
        ("loss", described(config["loss"])),
        ("penalty and its lambda", escaped(axes["reg"] + measured)),
        ("split", described(config["split"])),
        ("batch", described(config["batch"])),
        ("epochs", f"{whole(result['last']['epoch'])} (trainer.max_epochs={escaped(config['trainer'].get('max_epochs'))})"),
        ("seed", escaped(config["seed"])),
        ("optimizer", described(config["optimizer"])),
        ("scheduler", described(config.get("scheduler") or {}) or "none"),
        ("trainer", described(config["trainer"])),
        ("time", f"{number(result.get('seconds'), '.0f')} s"),
        ("machine", described(result.get("machine") or {}) or MISSING),
        ("versions", described(result.get("versions") or {}) or MISSING),
        ("git commit", escaped(commit)),
    ]
    return ["## Training", grid(("", ""), rows), *again(folder, result)]


def again(folder: Path, result: Result) -> list[str]:
    """The command that gives the run again; without absolute paths, which are of no use elsewhere and may hold names."""

    status = read_status(folder) or {}
    overrides = status.get("overrides")
    if status.get("run_id") != result["run_id"] or not isinstance(overrides, list):
        return [f"The command that gives the run again is {MISSING} (status.json); result.json has its whole configuration."]
    shown = [pathless(str(one)) for one in overrides if not str(one).startswith(("outputs=", "hydra", "-"))]
    hint = ["`...` is a path on the machine of the run: give your own."] if any(one.endswith("=...") for one in shown) else []
    if any("_target_" in one or "${" in one for one in shown):
        hint.append("**It runs code that it names:** start it only where you know whose that is.")
    return ["The command that gives the run again:", fenced(identity.command(shown)), *hint]


def scores(result: Result, patients: Rows | None, which: str) -> list[str]:
    stopped = result["config"]["trainer"].get("patience") is not None
    meaning = {
        "last": "The loss on these very patients said when to stop." if stopped else "No score chose this epoch.",
        "best": "**Optimistic:** the epoch with the best Dice on these very patients.",
    }
    paragraphs = [
        "## Scores on the validation patients",
        "Each cell: mean (defined / one mask empty / both masks empty / undefined). Where one mask is empty, an overlap is 0 "
        "and a distance is the image's diagonal, and the mean counts it; what is undefined is left out. Low is better for HD, "
        "HD95 and ASSD, high for all else. Agreement: predicted less the expert's, over patients (Bland-Altman).",
    ]
    for one in (which, "best" if which == "last" else "last"):
        elsewhere = "" if result[one]["epoch"] == result[which]["epoch"] else ", not in model.onnx"
        title = f"### {one.capitalize()} epoch ({whole(result[one]['epoch'])}){elsewhere}"
        paragraphs += [title, meaning[one], *means(result, one)]
    if patients is None:
        return [*paragraphs, f"Scores of each patient (patients.csv) are {MISSING}: {EARLIER}."]
    return [*paragraphs, f"### Patient by patient ({which} epoch)", by_patient(patients)]


def means(result: Result, which: str) -> list[str]:
    metrics = result[which].get("metrics")
    if metrics is None:
        return [
            f"Dice per slice: {number(result[which].get('val_dice'), '.3f')}, undefined slices: "
            f"{whole(result[which].get('n_undefined'))}. Distances, volumes, and scores per case and patient are {MISSING}: "
            f"{EARLIER}. The run's command in a new folder gives them."
        ]
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
    return [grid(("", *LEVELS.values()), overall), grid(heads, agreement)]


def by_patient(rows: Rows) -> str:
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


def limits(result: Result, tables: Mapping[str, Rows | None], which: str) -> list[str]:
    config, pixel = result["config"]["data"], f"Pixels of {pixels(result)} in training"
    known = [
        *(f"**{alarm}**" for alarm in alarms(result, which)),
        few(result, tables[layout.PATIENTS]),
        "One run, one seed: this is what one network does, and says nothing on its loss, split, penalty or batch size against "
        "others. That takes several seeds, and `python -m segtune.report`.",
        "No test patients: the validation patients picked the best epoch, and whoever chose this run may have seen their "
        "scores. Score it on patients that nobody has looked at (`python -m segtune.evaluate`).",
        f"{pixel}, to which all images are resampled: scores are on that grid, not on the images' own."
        if config.get("spacing_mm") is not None
        else f"{pixel}: on others, structures are of another size to it.",
        "What the crop cuts off is never found, and is not in the scores." if config.get("larger") else "",
        *of_slices(tables[layout.SLICES]),
        "Slices without the structure were left out (data.empty=drop): what it does on them was neither trained nor scored."
        if config.get("empty") == "drop"
        else "",
        "Sites, scanners and sequences are not recorded. Unless whoever made the data says otherwise, take it that there was "
        "one of each.",
    ]
    untested = (
        "other sites, scanners, field strengths, sequences and views",
        "age, sex, disease and anatomy, each by itself: nothing of them is recorded",
        "artefacts, noise, and images of a wrong kind, which it segments without a word",
        "other experts: a score is the agreement with those who drew these contours",
        "whether it helps anybody, or saves any time",
    )
    return [
        "## Limits",
        "\n".join(f"- {sentence}" for sentence in known if sentence),
        "Not tested:",
        "\n".join(f"- {one}" for one in untested),
    ]


def few(result: Result, rows: Rows | None) -> str:
    """How many patients it was scored on, and what one of them weighs."""
    n = len(result["data"]["patients"].get("val") or [])
    told = f"Scored on {counted(n, 'patient')}."
    dice = [value for row in rows or () if math.isfinite(value := float(row["dice"] or "nan"))]
    if len(dice) > 1:
        without = [(sum(dice) - value) / (len(dice) - 1) for value in dice]
        told += f" Without one of them, the mean Dice per patient would be from {min(without):.3f} to {max(without):.3f}."
    return told + (" So few tell neither what the next one will get nor how often it fails." if n < FEW else "")


def of_slices(rows: Rows | None) -> list[str]:
    """Which phases were scored, and how many slices without the structure."""
    if not rows:
        return [f"Phases, and slices without the structure, are {MISSING}."]
    phases = Counter(row["phase"] or "not known" for row in rows)
    told = ", ".join(f"{escaped(phase)} ({counted(n, 'slice')})" for phase, n in sorted(phases.items()))
    n_empty = sum(float(row["n_true"]) == 0 for row in rows)
    rare = " That it stays silent there has hardly been tested." if n_empty < RARE * len(rows) else ""
    return [
        f"Phases of the scored slices: {told}. Others were not scored.",
        f"{n_empty} of {len(rows)} scored slices ({n_empty / len(rows):.0%}) do not show the structure.{rare}",
    ]


# Facts, as they are said


def reader(result: Result) -> str:
    return readers.of(result["config"]["data"]).name


def structure(result: Result) -> str:
    return escaped(result["config"]["data"]["target"])


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
    """A part of the configuration: what it names, and with which values."""
    name = str(option.get("_target_", "")).removeprefix("segtune.")
    values = [f"{key}={value}" for key, value in option.items() if not str(key).startswith("_") and value is not None]
    return escaped(" ".join(filter(None, [name, ", ".join(values)])))


def pathless(override: str) -> str:
    """The override, its value as ... if that has an absolute path in it."""
    key, _, value = override.partition("=")
    return f"{key}=..." if re.search(r"(^|[\s'\"\[{,:=])(~\w*/|/|[A-Za-z]:[\\/]|\\\\)", value) else override


def counted(n: int, noun: str) -> str:
    return f"{whole(n)} {noun}{'' if n == 1 else 's'}"


# Markdown


def number(value: Any, form: str, scale: float = 1) -> str:
    """As a person reads it; None, empty, and what is not finite as undefined."""
    found = math.nan if value is None or value == "" else scale * float(value)
    return format(found, form) if math.isfinite(found) else "undefined"


def whole(value: Any) -> str:
    return number(value, ".0f")


def grid(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table. Cells are Markdown already."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)


def fenced(text: str, language: str = "") -> str:
    """A block of code, behind a fence that the text cannot close."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    lines = "\n".join(map(printable, text.rstrip().split("\n")))
    return f"{fence}{language}\n{lines}\n{fence}"


def escaped(value: Any) -> str:
    """Text as it is, neither Markdown nor HTML, on one line."""
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", html.escape(printable(str(value).replace("\n", " ")), quote=False))
