"""A sweep's report: one self-contained HTML file, its tables as CSV, its figures as SVG and PNG."""

import base64
import csv
import math
import os
import statistics
import time
import urllib.parse
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from tqdm import tqdm

import segtune
from segtune.errors import InputError
from segtune.plots import figures
from segtune.report import clinical, stats
from segtune.report.records import FAMILY, Cell, Record, Sweep
from segtune.report.tables import CANNOT_TELL, DECLARED, Analysis, Judged, Row, finding_rows
from segtune.runs import identity
from segtune.runs.files import write_atomically, write_files
from segtune.runs.tables import csv_text, read_pictures
from segtune.studies import right_ventricle

MOST_PANELS = 60  # cells; more are drawn on demand
MOST_ROWS = 60  # of the forest of cells
MOST_SPLITS = 24  # of the figure of sides
MOST_AGREEMENTS = 3  # cells of the figure of agreement; where more cannot be told from the best, it is the best alone
CURVES = ("train_loss", "val_loss", "train_dice", "val_dice")
MARKS = {right_ventricle.SUPPORTED: "✓", right_ventricle.CONTRADICTED: "✗", right_ventricle.UNDECIDED: "?"}
QUANTITIES = {  # as the page shows them: name, unit, how many of it are one of the table's
    "ejection_fraction": ("Ejection fraction", "percentage points", 100),
    "volume_ED_ml": ("End-diastolic volume", "ml", 1),
    "volume_ES_ml": ("End-systolic volume", "ml", 1),
    "stroke_volume_ml": ("Stroke volume", "ml", 1),
}
DRAWN = ("ejection_fraction", "volume_ED_ml", "volume_ES_ml")  # of QUANTITIES, in the figure of agreement
AXIS_NAMES = {"loss": "Loss", "split": "Split (share that validates)", "reg": "Regulariser and lambda", "batch": "Batch size"}
DEFINITIONS = (
    "Dice: per slice 2 |A and B| / (|A| + |B|) at a threshold of 0.5; undefined where neither mask has a pixel, 0 where one "
    "has none. A patient's Dice is the mean over its slices, a run's the mean over its patients, after the last epoch.",
    "A cell's Dice: each patient's mean over the runs that scored it, then the mean over patients. Its t interval has a "
    "variance of s² / P over the P patients plus, because a run moves all its patients together, the run variance over the "
    "number of runs, where an F test gives a hint of it (p < 0.4, of a difference 0.3; method of moments, degrees of freedom "
    "by Satterthwaite).",
    "The test over runs takes one variance between runs for all cells where Bartlett's test gives no hint that theirs differ "
    "(p > 0.5), and each cell's own otherwise: three seeds alone tell little of it.",
    "A difference is over the patients that both sides have scored, paired, over cells that are alike in all else.",
    "Gap, roughness, epochs to 90 % and the curves are of history.csv, whose Dice is the mean over slices.",
    "Roughness: mean |second difference| of a curve over its range. Epochs to 90 %: the first at 90 % of the run's own best "
    "validation Dice.",
    "Penalty / loss: (train_loss - train_data_loss) / train_data_loss of the first epoch. Norm of weights: of the kernels, "
    "after the last.",
    "In mm and ml: a case is one volume of a patient (ED, ES, or another frame, visit or sequence), scored in 3-D over its "
    "slices, on the network's grid, after the last epoch. A patient's value is the mean over its cases, then over the runs "
    "that scored it; a cell's is the mean over its patients. Counts are of the cases of all runs. This Dice is of whole "
    "cases, so that a slice counts by its pixels; in the Dice that ranks cells each slice counts alike.",
    "HD, HD95: the larger of both directions' maximum, or 95th percentile, of the distances between the boundaries. ASSD: mean "
    "of all these distances. Surface Dice: share of both boundaries that is no farther than the tolerance from the other. "
    "Volume: pixels times their area times the distance of slices. Stroke volume: EDV - ESV. Ejection fraction (EF): stroke "
    "volume / EDV, 0 where nothing is predicted at ED.",
    "Agreement: error = predicted - expert's, one value per patient: the mean over the runs that scored it, as these are not "
    "independent. Bias: mean error over patients. Limits: bias ± 1.96 sd over patients (Bland and Altman 1986), with exact "
    "95 % intervals for normal errors (Carkeet 2015). A single run's errors vary by the sd of runs besides.",
    "Rank stability: patients, and the runs of each fold, drawn again with replacement 1,000 times (seed 0).",
    "The best epoch is chosen on the patients that score it, so it flatters; it is marked in figures and enters no test.",
)
SECTIONS = (
    *(
        ("summary", "Summary"),
        ("cells", "Cells"),
        ("curves", "Curves"),
        ("levels", "Axis by axis"),
        ("comparisons", "Differences"),
        ("clinical", "In mm and ml"),
    ),
    *(("claims", "Claims"), ("regularisers", "Regularisers"), ("pictures", "Pictures"), ("explore", "Exploring")),
    ("provenance", "Where it comes from"),
)


def write(analysis: Analysis, out: Path, *, name: str) -> Path:
    """report.html, tables/*.csv and figures/*.{svg,png} in `out`; each file appears whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    tables = analysis.tables()
    for table, rows in tables.items():
        (out / "tables").mkdir(exist_ok=True)
        write_atomically(out / "tables" / f"{table}.csv", table_text(rows).encode())
    drawn = draw(analysis, name)
    images, alts = {}, {}
    for stem, (make, alt) in tqdm(drawn.items(), desc="figures", disable=None):
        drawing = figures.rendered(make())
        write_files(out / "figures" / stem, drawing)
        images[stem] = "data:image/svg+xml;base64," + base64.b64encode(drawing[".svg"]).decode()
        alts[stem] = alt
    page = render(analysis, tables, images, alts, out, name)
    write_atomically(out / "report.html", page.encode())
    return out / "report.html"


# Figures

Drawing = tuple[Callable[[], Figure], str]  # what makes it, its alt text


def draw(analysis: Analysis, name: str) -> dict[str, Drawing]:
    """The report's figures by name, each made when it is wanted."""
    sweep, found = analysis.sweep, dict[str, Drawing]()
    n = f"{len(sweep.records)} of {sweep.n_listed} runs"
    kept = {id(cell) for cell in analysis.not_worse}
    top = [(cell.name, e.value, e.low, e.high, id(cell) in kept) for cell, e in analysis.cells[:MOST_ROWS]]
    if top:
        more = f", the best {MOST_ROWS} of {len(analysis.cells)}" if len(analysis.cells) > MOST_ROWS else ""
        found["cells"] = (
            lambda: figures.forest(top, title=f"{name}: cells{more}", label="Dice, last epoch, mean over patients"),
            f"Dice of {len(top)} cells with intervals; the best is {top[0][0]} with {top[0][1]:.3f}.",
        )
    if len(sweep.cells) <= MOST_PANELS:
        panels = {}
        for cell in sweep.cells:
            panels[_place(sweep, cell)] = figures.Panel([record.history for record in cell.records], published(cell.facts))
        alt = f"Losses and Dice by epoch, a panel for each of {len(panels)} cells; numbers are in tables/cells.csv."
        found["curves"] = (lambda: figures.overview(panels, title=f"{name}: {n}, each loss over its panel's maximum"), alt)
        found["curves_unscaled"] = (
            lambda: figures.overview(panels, title=f"{name}: {n}, losses as they are", scaled=False),
            alt,
        )
    for verdict in analysis.verdicts:
        if any(math.isfinite(value) for test in verdict.found.tests[:1] for _, values in test.groups for value in values):
            groups: dict[str, tuple[str, Sequence[float]]] = {
                label: (label, values) for test in verdict.found.tests[:1] for label, values in test.groups
            }
            unit = verdict.found.tests[0].unit
            for test in verdict.found.tests[1:]:
                if test.unit == unit:
                    groups |= {label: (label, values) for label, values in test.groups}
            shown = [group for group in groups.values() if np.isfinite(group[1]).any()]
            found[f"claim_{verdict.claim.number:02}"] = (
                lambda shown=shown, unit=unit: figures.strip(shown, unit=unit),  # type: ignore[misc]
                f"Claim {verdict.claim.number}, {unit} of every run: "
                + "; ".join(f"{label} mean {np.mean(values):.3g}" for label, values in shown)
                + ".",
            )
    for stem, (drawing, alt) in _responses(analysis).items():
        found[stem] = (drawing, alt)
    pictures = chosen_pictures(analysis)
    if pictures:
        labels = ", ".join(label.replace("\n", " ") for label, _ in pictures)
        found["patients"] = (
            lambda: figures.patients(pictures, title=f"{name}: best, median and worst patient of the best cell"),
            f"Image, expert's contour, prediction and error for {labels}.",
        )
    if agreements := _agreements(analysis):
        alt = "; ".join(
            f"{what} of {cell}: bias {fixed(one.bias, 1)}, limits {fixed(one.lower, 1)} to {fixed(one.upper, 1)}"
            for cell, row in agreements
            for what, one in row.items()
        )
        found["agreement"] = (
            lambda: figures.agreement(agreements, title=f"{name}: predicted and expert's volumes"),
            f"Error against the mean of predicted and expert's value, a point per patient. {alt}.",
        )
    splits: dict[str, Mapping[str, Any]] = {}
    several = len({record.result["data"].get("fingerprint") for record in sweep.records}) > 1
    for record in sweep.records:
        data = record.result["data"]
        of = f" of {str(data.get('fingerprint'))[:6]}" if several else ""
        splits.setdefault(_split(record.config["split"]) + of, data["patients"])
    shown_splits = dict(sorted(splits.items())[:MOST_SPLITS])
    leaks = sorted({str(leak) for record in sweep.records for leak in record.result["data"].get("leaks") or ()})
    found["sides"] = (
        lambda: figures.sides(shown_splits, title=f"{name}: who is where"),
        f"The sides of each patient in {len(shown_splits)} splits; "
        + (f"{len(leaks)} patients leak." if leaks else "no patient leaks."),
    )
    return found


def _place(sweep: Sweep, cell: Cell) -> tuple[str, str]:
    """Row and column of a cell's panel, as in the study: losses and penalties down, splits (and batches) across."""
    axes = identity.axes(cell.first.config)
    levels = {**axes, **cell.levels}
    rest = [f"{axis}={level}" for axis, level in cell.levels.items() if axis not in ("loss", "split", "reg", "batch")]
    row = ", ".join(
        filter(None, [levels["loss"], levels["reg"] if "reg" in sweep.axes or levels["reg"] != "none" else "", *rest])
    )
    return row, f"validation {levels['split']}, batch {levels['batch']}"


@cache
def _published() -> list[dict[str, str]]:
    text = resources.files("segtune.report").joinpath("published.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


def published(facts: Any) -> dict[str, list[float]] | None:
    """The study's own printed curves for these facts (loss, share, lambdas), if its notebook holds them."""
    runs: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in _published():
        same_loss = FAMILY.get(row["loss"], row["loss"]) == FAMILY.get(facts.loss, facts.loss)
        numbers = ((row["val_fraction"], facts.share), (row["lambda_l1"], facts.l1), (row["lambda_l2"], facts.l2))
        if same_loss and all(value is not None and math.isclose(float(text), value, rel_tol=1e-6) for text, value in numbers):
            runs[row["run"]].append(row)
    if runs:
        rows = next(iter(runs.values()))
        names = {
            "epoch": "epoch",
            "train_loss": "loss_value",
            "train_dice": "dice",
            "val_loss": "val_loss",
            "val_dice": "val_dice",
        }
        return {name: [float(row[column]) for row in rows] for name, column in names.items()}
    return None


def _split(config: Mapping[str, Any]) -> str:
    """A name for a split: patient 0.2 seed 0."""
    number = f"fold {config['fold']} of {config.get('n_folds')}" if "fold" in config else config.get("val_fraction")
    return f"{config['by']} {number} seed {config.get('seed')}"


def _responses(analysis: Analysis) -> dict[str, Drawing]:
    """A response curve for each set of cells that differ in lambda alone, of two lambdas or more."""
    contexts: dict[str, list[Cell]] = defaultdict(list)
    estimates = {id(cell): e for cell, e in analysis.cells}
    for cell in analysis.sweep.cells:
        if id(cell) in estimates:
            contexts[cell.facts.context].append(cell)

    def point(cell: Cell, strength: float) -> figures.Strength:
        e = estimates[id(cell)]
        return figures.Strength(
            strength, (e.value, e.low, e.high), cell.mean_of(lambda r: r.ratio), cell.mean_of(lambda r: r.weight_norm)
        )

    found: dict[str, Drawing] = {}
    for of in contexts.values():
        for none, l1, l2 in right_ventricle.penalised(of):
            for symbol, cells in (("lambda_l1", l1), ("lambda_l2", l2)):
                if len(cells) < 2:
                    continue
                points = [point(cell, strength) for strength, cell in cells.items()]
                without = point(none, 0.0) if none else None
                measured = [p.strength / p.ratio for p in points if p.ratio > 0]
                one = statistics.median(measured) if measured else None
                facts = next(iter(cells.values())).facts
                share = "" if facts.share is None else f", {100 * facts.share:g} % validate"
                title = f"{facts.loss}, {facts.by} split{share}, batch {facts.batch}, {facts.epochs} epochs"
                best = max(points, key=lambda p: p.dice[0])
                found[f"response_{len(found) + 1}"] = (
                    lambda points=points, without=without, one=one, title=title, symbol=symbol: figures.response(  # type: ignore[misc]
                        points, without, one, title=title, symbol=symbol
                    ),
                    f"Dice against {symbol} for {title}: highest {best.dice[0]:.3f} at {best.strength:g}"
                    + (f", {without.dice[0]:.3f} without penalty" if without else "")
                    + ".",
                )
    return found


def _agreements(analysis: Analysis) -> list[tuple[str, dict[str, figures.Agreement]]]:
    """Of the best cell, and of those that are not declared worse if they are few: what of their volumes is drawn."""
    kept = [id(cell) for cell in analysis.not_worse]
    kept = kept if len(kept) <= MOST_AGREEMENTS else kept[:1]
    found = []
    for cell, patients in analysis.scored:
        of = {row["quantity"]: row for row in clinical.agreement_rows(patients)} if id(cell) in kept else {}
        if any(row["n_patients"] for quantity, row in of.items() if quantity in DRAWN):
            panels = {}
            for quantity in DRAWN:
                name, unit, scale = QUANTITIES[quantity]
                true, predicted, sd = (
                    [scale * patient[clinical.column(quantity, what)] for patient in patients]
                    for what in ("true", "pred", "pred_sd")
                )
                bias, lower, upper, *ends = (
                    scale * of[quantity][key]
                    for key in ("bias", "lower", "upper", "lower_low", "lower_high", "upper_low", "upper_high")
                )
                panels[f"{name} [{unit}]"] = figures.Agreement(
                    true, predicted, sd, bias, lower, upper, (ends[0], ends[1]), (ends[2], ends[3])
                )
            found.append((cell.name, panels))
    return found


def chosen_pictures(analysis: Analysis) -> list[tuple[str, list[tuple[str, Any, Any, Any]]]]:
    """The best, the median and the worst patient of the best cell, of those that its runs have kept pictures of.

    By the patient's Dice in the run that the picture is of; of each two slices, the middle one and the one of lowest Dice.
    """
    if not analysis.best:
        return []
    kept: list[tuple[float, str, str, dict[str, Any]]] = []
    for record in analysis.best.records:
        try:
            pictures = read_pictures(record.folder)
            for which in ("best", "median", "worst"):
                patient = str(pictures[f"{which}_patient"])
                if patient in record.patients and all(
                    f"{which}_{part}" in pictures for part in ("image", "true", "pred", "frame")
                ):
                    kept.append((record.patients[patient], patient, which, pictures))
        except (OSError, ValueError, KeyError, InputError, EOFError):
            continue  # a run's pictures may be damaged or gone; its numbers are not
    if not kept:
        return []
    kept.sort(key=lambda one: one[0])
    middle = statistics.median(analysis.best.scores.means.values())
    wanted = (("best", kept[-1]), ("median", min(kept, key=lambda one: abs(one[0] - middle))), ("worst", kept[0]))
    found = []
    for word, (dice, patient, which, pictures) in wanted:
        image, true, predicted, frames = (pictures[f"{which}_{part}"] for part in ("image", "true", "pred", "frame"))
        both = np.array([int(t.sum()) + int(p.sum()) for t, p in zip(true, predicted, strict=True)])
        overlap = np.array([2 * int((t & p).sum()) for t, p in zip(true, predicted, strict=True)])
        by_slice = np.divide(overlap, both, out=np.full(len(both), np.inf), where=both > 0)
        indices = list(dict.fromkeys([len(image) // 2, int(np.argmin(by_slice))]))
        slices = [
            (f"frame {frames[i]}, Dice {by_slice[i]:.2f}" if both[i] else f"frame {frames[i]}", image[i], true[i], predicted[i])
            for i in indices
        ]
        found.append((f"{word}: {patient}\nDice {dice:.3f}", slices))
    return found


# Words


def sentences(analysis: Analysis) -> list[str]:
    """Three sentences from the numbers: the best, what cannot be told from it, what moves Dice."""
    if not analysis.best:
        return ["No run has a patient with a defined Dice."]
    cell, e = analysis.cells[0]
    interval = f"95 % interval {e.low:.3f} to {e.high:.3f}" if math.isfinite(e.low) else "no interval from a single patient"
    seeds = f"{e.n_patients} validation patient{'s' * (e.n_patients != 1)}, {e.n_seeds} seed{'s' * (e.n_seeds != 1)}"
    n = len(analysis.cells)
    if n == 1:
        return [
            f"The only cell, {cell.name}, reaches a mean Dice of {e.value:.3f} after the last epoch ({interval}; {seeds}).",
            "There is nothing to compare it with.",
            _limits(analysis),
        ]
    first = f"{cell.name} has the highest mean Dice after the last epoch, {e.value:.3f} ({interval}; {seeds})."
    same = len(analysis.not_worse) - 1
    if same == n - 1:
        second = f"None of the other {n - 1} cells is declared worse. {_limits(analysis)}"
    else:
        second = f"{n - 1 - same} of the other {n - 1} cells are declared worse; {same} cannot be told apart from it."
    declared = [one for one in analysis.judged if one.comparison.kind == "axis" and one.verdict == DECLARED]
    if analysis.variance:
        source, _, _, share = analysis.variance[0]
        residual = analysis.variance[-1][3]
        replicates = f"replicates differ by {100 * residual:.0f} %" if analysis.variance[-1][1] else "there are no replicates"
        third = f"Of the variance between runs {100 * share:.0f} % goes with {source}; {replicates}."
        if declared:
            third += f" {len(declared)} differences between levels are declared."
    elif declared:
        largest = max(declared, key=lambda one: abs(one.comparison.estimate.value))
        c = largest.comparison
        third = (
            f"The largest declared difference between levels of an axis is {c.of}: {c.name}, {c.estimate.value:+.3f} "
            f"(95 % interval {c.estimate.low:+.3f} to {c.estimate.high:+.3f})."
        )
    else:
        third = "No difference between the levels of an axis could be declared."
    return [first, second, third]


def _limits(analysis: Analysis) -> str:
    why = [one for one in analysis.judged if one.comparison.kind != "claim" and one.verdict == CANNOT_TELL]
    if why:  # the one that comes nearest to a difference
        return f"Cannot tell: {max(why, key=lambda one: _nearness(one)).why}."
    limit = stats.mean(analysis.best.scores).limit() if analysis.best else ""
    return f"Cannot tell how it would compare: {limit}." if limit else ""


def _nearness(one: Judged) -> float:
    e = one.comparison.estimate
    return abs(e.value) if math.isfinite(e.value) else -1.0


def power_sentence(analysis: Analysis) -> str:
    power, sd, run = analysis.power
    if not math.isfinite(power):
        return ""
    if power == 0 and analysis.family == 0:
        return "With so few seeds or patients no true difference, however large, would be declared."
    if not math.isfinite(run):
        return ""  # folds of one patient do not tell runs from patients
    pooled = analysis.cells[0][0].pooled
    shared = f"shared by all cells, {pooled.df} degrees of freedom" if pooled.df else "each cell's own"
    return (
        f"The variance between runs is {shared}. "
        f"Power: with the variation measured here (patients' differences: sd {sd:.3f}; runs: sd {run:.3f}) and this many seeds "
        f"and patients, a true difference of 0.05 between two cells would be declared in {100 * power:.0f} % of such sweeps."
    )


def alarms(analysis: Analysis) -> list[str]:
    """What nobody may overlook: errors in the data that its runs were told to go on with, files that cannot be verified."""
    unverified = sum(not record.result.get("files") for record in analysis.sweep.records)
    told = f"{unverified} runs are of an earlier segtune, which recorded no hashes: a change of their files would not be seen."
    return [
        *([told] if unverified else []),
        *unlike_code(analysis.sweep.records),
    ] + [
        f"Errors in the data were allowed (data.allow): {row['kind']}, up to {row['n_most']} in each of {row['n_runs']} of the "
        f"{row['n_recorded']} runs on data {row['data'][:6]}. The first: {row['first']}"
        for row in finding_rows(analysis.sweep.records)
        if row["severity"] == "error"
    ]


def unlike_code(records: Sequence[Record]) -> list[str]:
    """Where runs that are compared, or the attempts of one run, were computed by unlike code."""
    made: dict[tuple[str, str], set[str]] = {}
    dirty = set()
    for record in records:
        attempts = record.result.get("attempts")
        for one in attempts if isinstance(attempts, list) and attempts else [record.result]:
            versions, git = (one.get(key) or {} for key in ("versions", "git"))
            for name in ("segtune", "torch"):
                if name in versions:
                    made.setdefault((name, str(versions[name])), set()).add(record.run_id)
            if git.get("commit"):
                made.setdefault(("commit", str(git["commit"])[:10]), set()).add(record.run_id)
            if git.get("dirty"):
                dirty.add(record.run_id)
    found = []
    for name in ("segtune", "torch", "commit"):
        of = {version: len(runs) for (what, version), runs in made.items() if what == name}
        if len(of) > 1:
            told = ", ".join(f"{version} ({n} runs)" for version, n in sorted(of.items()))
            found.append(f"Runs of more than one {name} are compared: {told}. A difference may be the code's.")
    if dirty:
        found.append(
            f"{len(dirty)} of {len(records)} runs come from a checkout with uncommitted changes: by what code, nobody can tell."
        )
    return found


def clinical_cells(tables: Mapping[str, list[Row]]) -> list[Row]:
    """A row per cell, of the table that has one per cell and metric: metric -> its row."""
    found: dict[str, Row] = {}
    for row in tables["clinical"]:
        found.setdefault(row["cell"], {})[row["metric"]] = row
    return [{"cell": cell, **metrics} for cell, metrics in found.items()]


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def provenance(sweep: Sweep) -> list[tuple[str, list[str]]]:
    """What is to know of where the numbers come from: each fact with the values it takes over the runs."""

    def distinct(value: Callable[[Record], str]) -> list[str]:
        found = Counter(value(record) for record in sweep.records)
        return [text if n == len(sweep.records) else f"{text} ({n} runs)" for text, n in found.most_common(12)]

    def data(record: Record) -> str:
        reader = record.config["data"].get("reader") or {}
        about = record.result["data"]
        name = str(reader.get("_target_", "")).removesuffix(".read").rpartition(".")[2]
        patients = {p for side in about["patients"].values() for p in side}
        return f"{name}, {len(patients)} patients, fingerprint {about.get('fingerprint')}"

    def code(record: Record) -> str:
        git = record.result.get("git") or {}
        commit = (
            f"commit {git['commit']}{' with uncommitted changes' if git.get('dirty') else ''}"
            if git.get("commit")
            else "no checkout"
        )
        return commit

    def machine(record: Record) -> str:
        about = record.result.get("machine") or {}
        return ", ".join(f"{key} {value}" for key, value in about.items() if value is not None) or "not recorded"

    rows = [
        ("data", distinct(data)),
        ("leaks", distinct(lambda record: f"{len(record.result['data'].get('leaks') or ())} patients on both sides")),
        (
            "images",
            distinct(
                lambda record: ", ".join(f"{n} {side}" for side, n in (record.result["data"].get("n_images") or {}).items())
            ),
        ),
        ("code", distinct(code)),
        (
            "versions",
            distinct(lambda record: ", ".join(f"{name} {of}" for name, of in (record.result.get("versions") or {}).items())),
        ),
        ("machine", distinct(machine)),
        ("peak memory", [f"{max(_memory(record) for record in sweep.records):.0f} MB at most"]),
        ("commands", list(sweep.commands)),
    ]
    return rows


def _memory(record: Record) -> float:
    found = record.result.get("peak_memory_mb")
    return float(found.get("process", math.nan)) if isinstance(found, Mapping) else math.nan


# The page


def render(
    analysis: Analysis,
    tables: Mapping[str, list[Row]],
    images: Mapping[str, str],
    alts: Mapping[str, str],
    out: Path,
    name: str,
) -> str:
    """The page, every value escaped."""
    sweep = analysis.sweep
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("segtune.report", "."), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"num": number, "fixed": fixed, "percent": percent, "p": p_value}
    records = {record.run_id: record for record in sweep.records}
    links = {run: urllib.parse.quote(os.path.relpath(record.folder, out.resolve()) + "/") for run, record in records.items()}
    levels = {axis: [row for row in tables["levels"] if row["axis"] == axis] for axis in sweep.axes}
    folds = any(record.fold is not None for record in sweep.records)
    rows = [
        {
            **row,
            "levels": [records[row["run_id"]].levels[axis] for axis in sweep.axes],
            "link": links[row["run_id"]],
            "text": f"{row['run_id']} {row['cell']} seed={row['seed']} fold={row['fold']}",
        }
        for row in tables["runs"]
    ]
    by_claim = defaultdict(list)
    for row in tables["claims"]:
        by_claim[row["claim"]].append(row)
    claim_rows = []
    for v in analysis.verdicts:
        stem = f"claim_{v.claim.number:02}"
        tests = [row for row in by_claim[v.claim.number] if row["test"] is not None]
        why = v.why + (f". Try {v.claim.study}." if not tests else "")
        claim_rows.append(
            {
                "number": v.claim.number,
                "text": v.claim.text,
                "verdict": v.verdict,
                "mark": MARKS[v.verdict],
                "why": why,
                "tests": tests,
                "image": images.get(stem),
                "alt": alts.get(stem, ""),
            }
        )
    run_columns = [
        ("run", 1, "its folder; the title is its command"),
        *((axis, 1, "") for axis in sweep.axes),
        ("seed", 0, ""),
        *([("fold", 0, "")] if folds else []),
        ("dice", 0, "mean over patients, last epoch"),
        ("best", 0, "best epoch"),
        ("gap", 0, "training - validation Dice"),
        ("to 90 %", 0, "epochs"),
        ("s", 0, "seconds"),
    ]
    n_kept = len(analysis.not_worse)
    overlaid = any(published(cell.facts) for cell in sweep.cells) and len(sweep.cells) <= MOST_PANELS
    return environment.get_template("page.html").render(
        title=f"Sweep {name}",
        version=segtune.__version__,
        now=time.strftime("%Y-%m-%d %H:%M"),
        commands=sweep.commands,
        sections=SECTIONS,
        sentences=[sentence for sentence in sentences(analysis) if sentence],
        alarms=alarms(analysis),
        n_done=len(sweep.records),
        n_listed=sweep.n_listed,
        states=sorted(sweep.states.items()),
        smallest=min(len(cell.records) for cell in sweep.cells),
        cost=duration(sum(record.seconds for record in sweep.records)),
        best=tables["cells"][0] if tables["cells"] else None,
        left_out=sweep.left_out,
        failures=sweep.failures,
        cells=tables["cells"],
        starred=any(not row["run_variance"] for row in tables["cells"]),
        not_worse_sentence=f"{n_kept} of {len(tables['cells'])} are not declared worse than the best: the choice is open.",
        most_panels=MOST_PANELS,
        published_note=" Dotted: the study's own curves, as its notebook printed them (in truth batch 1), where a cell matches."
        if overlaid
        else "",
        levels=list(levels.items()),
        axis_names=AXIS_NAMES,
        variance=tables["variance"],
        comparisons=tables["comparisons"],
        family=analysis.family,
        least_seeds=stats.LEAST_SEEDS,
        least_patients=stats.LEAST_PATIENTS,
        equivalence=stats.EQUIVALENCE,
        power_sentence=power_sentence(analysis),
        clinical=clinical_cells(tables),
        n_unrecorded=sum(record.scored is None for record in sweep.records),
        tolerances=sorted({record.scored.tolerance_mm for record in sweep.records if record.scored}),
        quantities=QUANTITIES,
        agreement={quantity: [row for row in tables["agreement"] if row["quantity"] == quantity] for quantity in QUANTITIES},
        best_patients=analysis.scored[0][1] if analysis.scored else [],
        claims=claim_rows,
        responses=[
            (
                stem,
                "Dice against lambda, the measured ratio of penalty to loss, and what is left of the weights. The line is "
                "the calibrated lambda: penalty and loss alike in the first epoch.",
            )
            for stem in images
            if stem.startswith("response_")
        ],
        pictures_note="Of the best cell, by Dice after the last epoch: the best, median and worst patient its runs kept."
        if "patients" in images
        else "The runs of the best cell have kept no pictures.",
        run_columns=run_columns,
        runs=rows,
        folds=folds,
        links=links,
        provenance=provenance(sweep),
        findings=tables["findings"],
        n_unchecked=sum(record.result["data"].get("findings") is None for record in sweep.records),
        definitions=DEFINITIONS,
        tables=list(tables),
        images=images,
        alts=alts,
        data=inline(analysis),
        plotly=Markup(_plotly()),
        script=Markup(resources.files("segtune.report").joinpath("page.js").read_text(encoding="utf-8")),
    )


def inline(analysis: Analysis) -> dict[str, Any]:
    """What the page's script draws from: each run's curves (4 digits) and its levels, as numbers and text."""
    sweep = analysis.sweep
    levels = {axis: list(dict.fromkeys(record.levels[axis] for record in sweep.records)) for axis in sweep.axes}
    return {
        "axes": [{"name": axis, "levels": of} for axis, of in levels.items()],
        "runs": [
            {
                "id": record.run_id,
                "name": cell.name,
                "seed": record.seed,
                "dice": finite(record.dice),
                "levels": [levels[axis].index(record.levels[axis]) for axis in sweep.axes],
                "curves": {name: [finite(value) for value in record.history[name]] for name in CURVES},
            }
            for cell in sweep.cells
            for record in cell.records
        ],
    }


def finite(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _plotly() -> str:
    """Plotly's script, without importing the package (half a second)."""
    spec = find_spec("plotly")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("the report needs plotly: pip install --constraint constraints.txt --editable .")
    return (Path(spec.submodule_search_locations[0]) / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def number(value: Any, digits: int = 3) -> str:
    """A dash for what is undefined."""
    if value is None or not math.isfinite(float(value)):
        return "—"
    return f"{value:.{digits}f}" if abs(value) >= 10**-digits or value == 0 else f"{value:.2g}"


def fixed(value: float, digits: int) -> str:
    """A measurement, to this many digits however small; a dash for what is undefined."""
    return f"{value:z.{digits}f}" if math.isfinite(value) else "—"  # z: no -0.0


def percent(value: float, digits: int = 0) -> str:
    return "—" if not math.isfinite(value) else f"{100 * value:.{digits}f} %"


def p_value(value: float) -> str:
    if value is None or not math.isfinite(value):
        return "—"
    return "<0.0001" if value < 1e-4 else f"{value:.4f}" if value < 0.01 else f"{value:.3f}"


def table_text(rows: Sequence[Row]) -> str:
    """CSV with the union of the rows' columns; floats as they are, what is undefined empty."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    without = (
        {key: "" if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
        for row in rows
    )
    return csv_text(columns, without)
