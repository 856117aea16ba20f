"""The tables of a report, as lists of rows. The page shows them rounded, and tables/*.csv contain the full values."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from segtune.report import clinical, stats
from segtune.report.analysis import Analysis
from segtune.report.claims import claim_rows
from segtune.report.comparisons import Judged
from segtune.report.records import Cell, Record
from segtune.report.stats import Estimate
from segtune.runs import identity
from segtune.runs.tables import csv_text

Row = dict[str, Any]


def build(analysis: Analysis) -> dict[str, list[Row]]:
    """Build all tables by name. The table "claims" exists only if the report judges the claims of a study."""
    claims = {"claims": [row for verdict in analysis.verdicts for row in claim_rows(verdict)]} if analysis.study else {}
    scored = analysis.scored
    return {
        "runs": [run_row(record, cell) for cell in analysis.sweep.cells for record in cell.records],
        "cells": cell_rows(analysis),
        "levels": level_rows(analysis),
        "comparisons": [comparison_row(one) for one in analysis.judged],
        **claims,
        "variance": variance_rows(analysis),
        "patients": [
            {"cell": cell.name, "structure": cell.first.structure, "patient": patient, "dice": value}
            for cell in analysis.sweep.cells
            for patient, value in sorted(cell.scores.means.items())
        ],
        "clinical": [
            {"cell": cell.name, "structure": cell.first.structure, **row}
            for cell, patients in scored
            for row in clinical.metric_rows(patients, cell.scored)
        ],
        "agreement": [
            {"cell": cell.name, "structure": cell.first.structure, **row}
            for cell, patients in scored
            for row in clinical.agreement_rows(patients)
        ],
        "clinical_patients": [
            {"cell": cell.name, "structure": cell.first.structure, **row} for cell, patients in scored for row in patients
        ],
        "findings": finding_rows(analysis.sweep.records),
    }


def csv_of(rows: Sequence[Row]) -> str:
    """Format rows as CSV with the union of their columns. Values that are not finite are empty."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return csv_text(columns, ({key: _or_empty(value) for key, value in row.items()} for row in rows))


def _or_empty(value: Any) -> Any:
    return "" if isinstance(value, float) and not math.isfinite(value) else value


def cell_rows(analysis: Analysis) -> list[Row]:
    """Table rows, one per configuration, best first."""
    kept = {id(cell) for cell in analysis.not_worse}
    rows = []
    for cell, estimate in analysis.cells:
        first, low, high = analysis.ranks[cell.name]
        ranking = {"first_fraction": first, "rank_low": low, "rank_high": high}
        rows.append(
            {
                "cell": cell.name,
                "structure": cell.first.structure,
                **cell.levels,
                **summary([cell], estimate),
                "not_declared_worse_than_best": id(cell) in kept,
                **ranking,
                "label": cell.label,
                "run_ids": " ".join(record.run_id for record in cell.records),
            }
        )
    return rows


def level_rows(analysis: Analysis) -> list[Row]:
    """Table rows, one per axis and value: the mean over all configurations with this value."""
    return [
        {"axis": axis, "level": level, **summary(cells, stats.contrast([cell.scores for cell in cells], None))}
        for axis in analysis.sweep.axes
        for level, cells in analysis.by_level(axis).items()
    ]


def variance_rows(analysis: Analysis) -> list[Row]:
    columns = ("source", "df", "sum_of_squares", "eta_squared")
    return [dict(zip(columns, row, strict=True)) for row in analysis.variance or []]


def summary(cells: Sequence[Cell], estimate: Estimate) -> Row:
    """The columns of one configuration, or of all configurations with one value of an axis.

    Dice is the mean over patients (`estimate`). Other values are means over runs.
    """
    records = [record for cell in cells for record in cell.records]
    every = Cell("", tuple(records))
    return {
        "dice": estimate.value,
        "dice_low": estimate.low,
        "dice_high": estimate.high,
        "run_variance": estimate.run_variance,
        "n_patients": estimate.n_patients,
        "n_cells": len(cells),
        "n_runs": len(records),
        "n_seeds": min(len(cell.seeds) for cell in cells),
        "best_dice": every.mean_of(lambda record: record.result["best"]["val_dice"] or math.nan),
        "gap": every.mean_of(lambda record: record.gap),
        "epochs_to_90": every.mean_of(lambda record: record.epochs_to_90),
        "roughness_val_loss": every.mean_of(lambda record: record.roughness("val_loss")),
        "roughness_val_dice": every.mean_of(lambda record: record.roughness("val_dice")),
        "seconds": every.mean_of(lambda record: record.seconds),
        "n_undefined": sum(record.n_undefined for record in records),
    }


def run_row(record: Record, cell: Cell) -> Row:
    best = record.result["best"]
    return {
        "run_id": record.run_id,
        "cell": cell.name,
        "structure": record.structure,
        **record.levels,
        "seed": record.seed,
        "fold": record.fold,
        "dice": record.dice,
        "val_dice": record.history["val_dice"][-1],
        "best_dice": best["val_dice"],
        "best_epoch": best["epoch"],
        "train_dice": record.history["train_dice"][-1],
        "gap": record.gap,
        "epochs_to_90": record.epochs_to_90,
        "roughness_val_loss": record.roughness("val_loss"),
        "roughness_val_dice": record.roughness("val_dice"),
        "lambda_l1": record.facts.l1,
        "lambda_l2": record.facts.l2,
        "penalty_ratio": record.ratio,
        "weight_norm": record.weight_norm,
        "epochs": len(record.history["epoch"]),
        "seconds": record.seconds,
        "n_patients": len(record.patients),
        "n_slices": record.n_slices,
        "n_undefined": record.n_undefined,
        "label": record.label,
        "command": identity.command(record.overrides),
    }


def comparison_row(one: Judged) -> Row:
    c, e = one.comparison, one.comparison.estimate
    return {
        "kind": c.kind,
        "of": c.of,
        "comparison": c.name,
        "difference": e.value,
        "null": e.null,
        "low": e.low,
        "high": e.high,
        "low90": e.low90,
        "high90": e.high90,
        "n_patients": e.n_patients,
        "n_seeds": e.n_seeds,
        "n_runs": e.n_runs,
        "p_patient": e.p_patient,
        "p_run": e.p_run,
        "selection_factor": c.selection,
        "p": c.p,
        "p_holm": one.p_holm,
        "effect_size": e.effect_size,
        "verdict": one.verdict,
        "why": one.why,
    }


def finding_rows(records: Sequence[Record]) -> list[Row]:
    """Table rows of the data check's findings, one for each data set, severity and kind; (allowed) errors come first.

    Columns: n_least, n_most: smallest and largest number of findings in a run that has any; it can differ between runs because
    some findings depend on the split. n_runs: number of runs with such a finding. n_recorded: number of runs on this data set
    that recorded a check. first: the first finding in words.
    """
    of_data: dict[str, list[Sequence[Mapping[str, Any]]]] = defaultdict(list)
    for record in records:
        if (found := record.result["data"].get("findings")) is not None:
            of_data[record.fingerprint].append(found)
    rows = []
    for fingerprint, runs in of_data.items():
        first = {(one["severity"], one["kind"]): one for found in reversed(runs) for one in reversed(found)}
        counts = [Counter((one["severity"], one["kind"]) for one in found) for found in runs]
        for severity, kind in sorted(first, key=lambda key: (key[0] != "error", key[0] != "warning", key)):
            n = [count[severity, kind] for count in counts if count[severity, kind]]
            one = first[severity, kind]
            patient = f"patient {one['patient']}: " if one.get("patient") else ""
            rows.append(
                {
                    "data": fingerprint,
                    "severity": severity,
                    "kind": kind,
                    "n_least": min(n),
                    "n_most": max(n),
                    "n_runs": len(n),
                    "n_recorded": len(runs),
                    "first": f"{patient}{one.get('message', '')}",
                }
            )
    return rows
