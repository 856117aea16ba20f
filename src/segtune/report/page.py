"""Write a report: one self-contained HTML page, its tables as CSV, and its figures as SVG and PNG."""

import base64
import math
import os
import time
import urllib.parse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from tqdm import tqdm

import segtune
from segtune.errors import InputError, printable_lines
from segtune.plots import style
from segtune.report import clinical, decisions, formats, stats, tables
from segtune.report.analysis import Analysis
from segtune.report.claims import CONTRADICTED, SUPPORTED, UNDECIDED
from segtune.report.definitions import DEFINITIONS
from segtune.report.drawings import MOST_PANELS, QUANTITIES, draw
from segtune.report.provenance import provenance
from segtune.report.sentences import alarms, sentences
from segtune.report.tables import Row
from segtune.runs import words
from segtune.runs.files import make_folder, write_atomically, write_files

MOST_COMPARISONS = 300  # rows on the page; tables/comparisons.csv has all
CURVES = ("train_loss", "val_loss", "train_dice", "val_dice")
MARKS = {SUPPORTED: "✓", CONTRADICTED: "✗", UNDECIDED: "?"}
AXIS_NAMES = {"loss": "Loss", "split": "Split (share held out)", "reg": "Regulariser and lambda", "batch": "Batch size"}
SECTIONS = {
    "summary": "Answer",
    "cells": "Configurations",
    "pictures": "Pictures",
    "curves": "Curves",
    "comparisons": "Differences",
    "levels": "What matters",
    "cost": "Cost",
    "clinical": "In mm and ml",
    "claims": "Claims",
    "regularisers": "Regularisers",
    "explore": "Explore",
    "provenance": "Provenance",
}
RESPONSE = (
    "Dice against lambda, the measured ratio of penalty to loss, and the norm of the weights at the end. The vertical line is "
    "the calibrated lambda, at which penalty and loss are equal in the first epoch."
)


@dataclass(frozen=True)
class Images:
    """The figures of a page: for each name, the figure as a data URL, and its alt text."""

    urls: Mapping[str, str]
    alts: Mapping[str, str]


def _without_controls(value: Any) -> Any:
    """Remove control characters from a text, because they could affect the terminal of a person who views the page's source.

    Markup and values that are not text are returned unchanged.
    """
    return printable_lines(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _code(text: str) -> Markup:
    """Show the parts of a text between backticks as code. Everything is escaped."""
    parts = (Markup("<code>{}</code>" if i % 2 else "{}").format(part) for i, part in enumerate(text.split("`")))
    return Markup("").join(parts)


def write(analysis: Analysis, out: Path, *, name: str) -> Path:
    """Write report.html, tables/*.csv and figures/*.{svg,png} into `out`. Returns: the path of report.html."""
    out.mkdir(parents=True, exist_ok=True)
    rows = tables.build(analysis)
    for table, of in rows.items():
        write_atomically(make_folder(out / "tables") / f"{table}.csv", tables.csv_of(of).encode())
    images = _write_figures(analysis, out, name)
    _remove_old_claims(out, rows, images)
    page = render(analysis, rows, images, out, name)
    write_atomically(out / "report.html", page.encode())
    return out / "report.html"


def _write_figures(analysis: Analysis, out: Path, name: str) -> Images:
    urls, alts = {}, {}
    for stem, (make, alt) in tqdm(draw(analysis, name).items(), desc="figures", disable=None):
        drawing = style.rendered(make())
        write_files(make_folder(out / "figures") / stem, drawing)
        urls[stem] = "data:image/svg+xml;base64," + base64.b64encode(drawing[".svg"]).decode()
        alts[stem] = alt
    return Images(urls, alts)


def _remove_old_claims(out: Path, rows: Mapping[str, list[Row]], images: Images) -> None:
    """Remove the tables and figures of claims that an earlier report wrote into this folder.

    Files that the current report has written are kept.
    """
    if "claims" not in rows:
        (out / "tables" / "claims.csv").unlink(missing_ok=True)
    for path in (out / "figures").glob("claim_[0-9][0-9].*"):
        if path.stem not in images.urls:
            path.unlink()


def render(analysis: Analysis, rows: Mapping[str, list[Row]], images: Images, out: Path, name: str) -> str:
    """Render the page as HTML, with all values escaped. Args: out: the folder of the page; links are relative to it."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("segtune.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        finalize=_without_controls,
    )
    environment.filters |= {
        "num": formats.number,
        "fixed": formats.fixed,
        "percent": formats.percent,
        "p": formats.p_value,
        "plural": words.count,
        "code": _code,
    }
    responses = [stem for stem in images.urls if stem.startswith("response_")]
    absent = {
        "claims": not analysis.study,
        "regularisers": not responses,
        "pictures": "patients" not in images.urls,
        "cost": "cost" not in images.urls,
        "comparisons": not rows["comparisons"],
        "levels": not analysis.sweep.axes,
    }
    return environment.get_template("page.html").render(
        title=f"Sweep {name}",
        version=segtune.__version__,
        now=time.strftime("%Y-%m-%d %H:%M"),
        sections=[(key, text) for key, text in SECTIONS.items() if not absent.get(key)],
        images=images.urls,
        alts=images.alts,
        responses=[(stem, RESPONSE) for stem in responses],
        claims=_claims(analysis, rows, images) if analysis.study else [],
        tables=list(rows),
        definitions=DEFINITIONS,
        data=inline(analysis),
        plotly=Markup(_plotly()),
        script=Markup(resources.files("segtune.report").joinpath("page.js").read_text(encoding="utf-8")),
        **_summary(analysis, rows),
        **_results(analysis, rows),
        **_clinical(analysis, rows),
        **_runs(analysis, rows, out),
        provenance=provenance(analysis.sweep),
        findings=rows["findings"],
        n_unchecked=sum(record.result["data"].get("findings") is None for record in analysis.sweep.records),
    )


def _summary(analysis: Analysis, rows: Mapping[str, list[Row]]) -> dict[str, Any]:
    """The values for the section "Summary"."""
    sweep = analysis.sweep
    return {
        "commands": sweep.commands,
        "sentences": [sentence for sentence in sentences(analysis) if sentence],
        "alarms": alarms(analysis),
        "n_done": len(sweep.records),
        "n_listed": sweep.n_listed,
        "states": sorted(sweep.states.items()),
        "smallest": min(len(cell.records) for cell in sweep.cells),
        "cost": words.duration(sum(record.seconds for record in sweep.records)),
        "best": rows["cells"][0] if rows["cells"] else None,
        "left_out": sweep.left_out,
        "failures": sweep.failures,
    }


def _results(analysis: Analysis, rows: Mapping[str, list[Row]]) -> dict[str, Any]:
    """The values for the sections "Configurations", "Curves", "Axis by axis" and "Differences"."""
    sweep, study = analysis.sweep, analysis.study
    levels = {axis: [row for row in rows["levels"] if row["axis"] == axis] for axis in sweep.axes}
    return {
        "cells": rows["cells"],
        "starred": any(not row["run_variance"] for row in rows["cells"]),
        "n_groups": len(analysis.groups),
        "most_panels": MOST_PANELS,
        "has_published": study is not None and any(study.published(cell.facts) for cell in sweep.cells),
        "levels": list(levels.items()),
        "axis_names": AXIS_NAMES,
        "variance": rows["variance"],
        "replicated": any(math.isfinite(row["omega_squared"]) for row in rows["variance"]),
        "comparisons": _shown(analysis, rows["comparisons"]),
        "n_comparisons": len(rows["comparisons"]),
        "clear_runs": decisions.CLEAR_RUNS,
        "clear_patients": decisions.CLEAR_PATIENTS,
        "least_folds": decisions.LEAST_FOLDS,
        "equivalence": stats.EQUIVALENCE,
    }


def _shown(analysis: Analysis, rows: Sequence[Row]) -> list[Row]:
    """Select the comparisons for the page: those with the best configuration of a group, and all clear differences."""
    best = {group.number: group.cells[0].name for group in analysis.groups}
    first = [row for row in rows if best[row["group"]] in (row["a"], row["b"])]
    clear = [row for row in rows if row["worse"] and best[row["group"]] not in (row["a"], row["b"])]
    return [*first, *clear][:MOST_COMPARISONS]


def _clinical(analysis: Analysis, rows: Mapping[str, list[Row]]) -> dict[str, Any]:
    """The values for the section "In mm and ml"."""
    records = analysis.sweep.records
    by_cell: dict[str, Row] = defaultdict(dict)
    for row in rows["clinical"]:
        by_cell[row["cell"]][row["metric"]] = row
    return {
        "clinical": [{"cell": cell, **metrics} for cell, metrics in by_cell.items()],
        "n_unrecorded": sum(record.scored is None for record in records),
        "tolerances": sorted({record.scored.tolerance_mm for record in records if record.scored}),
        "quantities": QUANTITIES,
        "least_for_limits": clinical.LEAST_FOR_LIMITS,
        "agreement": {name: [row for row in rows["agreement"] if row["quantity"] == name] for name in QUANTITIES},
        "best_patients": analysis.scored[0][1] if analysis.scored else [],
    }


def _claims(analysis: Analysis, rows: Mapping[str, list[Row]], images: Images) -> list[dict[str, Any]]:
    """The values for the section "Claims", with one item per claim."""
    tests: dict[int, list[Row]] = defaultdict(list)
    for row in rows["claims"]:
        if row["test"] is not None:
            tests[row["claim"]].append(row)
    found = []
    for verdict in analysis.verdicts:
        number = verdict.claim.number
        stem = f"claim_{number:02}"
        found.append(
            {
                "number": number,
                "text": verdict.claim.text,
                "verdict": verdict.verdict,
                "mark": MARKS[verdict.verdict],
                "why": verdict.why if tests[number] else f"{verdict.why}. Run the sweep with {verdict.claim.study}.",
                "tests": tests[number],
                "image": images.urls.get(stem),
                "alt": images.alts.get(stem, ""),
            }
        )
    return found


def _runs(analysis: Analysis, rows: Mapping[str, list[Row]], out: Path) -> dict[str, Any]:
    """The values for the table of runs in the section "Explore"."""
    axes, records = analysis.sweep.axes, {record.run_id: record for record in analysis.sweep.records}
    links = {run: urllib.parse.quote(os.path.relpath(record.folder, out.resolve()) + "/") for run, record in records.items()}
    folds = any(record.fold is not None for record in records.values())
    runs = [
        {
            **row,
            "levels": [records[row["run_id"]].levels[axis] for axis in axes],
            "link": links[row["run_id"]],
            "text": f"{row['run_id']} {row['cell']} seed={row['seed']} fold={row['fold']}",
        }
        for row in rows["runs"]
    ]
    columns = [
        ("run", 1, "the id links to the run's folder; its tooltip shows the command"),
        *((axis, 1, "") for axis in axes),
        ("seed", 0, ""),
        *([("fold", 0, "")] if folds else []),
        ("dice", 0, "mean over patients, last epoch"),
        ("best", 0, "best epoch"),
        ("gap", 0, "training - validation Dice"),
        ("to 90 %", 0, "epochs"),
        ("s", 0, "seconds"),
    ]
    return {"run_columns": columns, "runs": runs, "folds": folds, "links": links}


def inline(analysis: Analysis) -> dict[str, Any]:
    """The data for the page's script: the curves of each run (rounded to 4 digits) and its values on the axes."""
    sweep = analysis.sweep
    levels = {axis: list(dict.fromkeys(record.levels[axis] for record in sweep.records)) for axis in sweep.axes}
    return {
        "axes": [{"name": axis, "levels": of} for axis, of in levels.items()],
        "runs": [
            {
                "id": record.run_id,
                "name": cell.name,
                "seed": record.seed,
                "dice": _finite(record.dice),
                "levels": [levels[axis].index(record.levels[axis]) for axis in sweep.axes],
                "curves": {name: _finite_all(record.history[name]) for name in CURVES},
            }
            for cell in sweep.cells
            for record in cell.records
        ],
    }


def _finite_all(values: Sequence[float]) -> list[float | None]:
    return [_finite(value) for value in values]


def _finite(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _plotly() -> str:
    """Read Plotly's script. The package is not imported, because the import takes half a second."""
    spec = find_spec("plotly")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("The report needs plotly: pip install --constraint constraints.txt --editable .")
    return (Path(spec.submodule_search_locations[0]) / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
