"""The tables of a report, as lists of rows. The page shows them rounded, and tables/*.csv contain the full values."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from segtune.report import clinical, stats
from segtune.report.analysis import Analysis
from segtune.report.claims import claim_rows
from segtune.report.comparisons import Comparison
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
        "comparisons": [comparison_row(one) for one in analysis.comparisons],
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
    """Format rows as CSV with the union of their columns.

    Values that are not finite become empty cells. Booleans become `true` or `false`.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return csv_text(columns, ({key: _or_empty(value) for key, value in row.items()} for row in rows))


def _or_empty(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if isinstance(value, float) and not math.isfinite(value) else value


def cell_rows(analysis: Analysis) -> list[Row]:
    """Table rows, one per configuration, group by group, best first.

    Columns: group: number of the group. All configurations of a group are scored on the same patients. may_be_best:
    whether the configuration may be the best of its group. left_at_look: the look at which the configuration was ruled
    out. honest: the score that a configuration reaches on other patients and runs if it is chosen because it has the
    highest score (winner.py). Only the configuration with the highest score has this value.
    """
    rows = []
    for group in analysis.groups:
        verdicts = group.verdicts
        winner, honest = int(verdicts.may_be_best.argmax()), analysis.honest.get(group.number)
        for i, (cell, estimate) in enumerate(zip(group.cells, group.estimates, strict=True)):
            rows.append(
                {
                    "cell": cell.name,
                    "structure": cell.first.structure,
                    "group": group.number,
                    "may_be_best": bool(verdicts.may_be_best[i]),
                    "left_at_look": verdicts.left_at[i] or None,
                    **cell.levels,
                    **summary([cell], estimate),
                    "honest": honest.score if honest and i == winner else math.nan,
                    "label": cell.label,
                    "run_ids": " ".join(record.run_id for record in cell.records),
                }
            )
    return rows


def level_rows(analysis: Analysis) -> list[Row]:
    """Table rows, one per axis and value: the mean over all configurations with this value.

    Columns: effect: the mean difference from the value `against`. effect_low, effect_high: the interval of this
    difference. n_pairs: the number of pairs over which the mean is taken. The configurations of a pair differ only in
    this axis.
    """
    rows = []
    for axis in analysis.sweep.axes:
        effects = analysis.effects(axis)
        for level, cells in analysis.by_level(axis).items():
            row = {"axis": axis, "level": level, **summary(cells, stats.contrast([cell.scores for cell in cells], None))}
            effect = effects.get(level)
            e = effect.estimate if effect else Estimate(math.nan)
            row |= {"against": effect.other if effect else "", "n_pairs": effect.n_pairs if effect else 0}
            rows.append({**row, "effect": e.value, "effect_low": e.low, "effect_high": e.high})
    return rows


def variance_rows(analysis: Analysis) -> list[Row]:
    return [
        {"source": one.name, "df": one.df, "sum_of_squares": one.sum_of_squares, "omega_squared": one.omega_squared}
        for one in analysis.variance
    ]


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
        "n_folds": estimate.n_folds,
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


def comparison_row(one: Comparison) -> Row:
    return {
        "group": one.group.number,
        "a": one.a.name,
        "b": one.b.name,
        "difference": one.difference,
        "low": one.low,
        "high": one.high,
        "low90": one.low90,
        "high90": one.high90,
        "df": one.df,
        "run_variance": one.run_variance,
        "worse": one.worse.name if one.worse else "",
        "verdict": one.verdict,
    }


def finding_rows(records: Sequence[Record]) -> list[Row]:
    """Table rows of the data check's findings, one for each data set, severity and kind.

    Errors come first; they are errors that were allowed. Columns: n_least, n_most: smallest and largest number of these
    findings in a run, among the runs that have any. Runs can differ because some findings depend on the split. n_runs:
    number of runs with these findings. n_recorded: number of runs on this data set that recorded a check. first: the
    first finding in words.
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
