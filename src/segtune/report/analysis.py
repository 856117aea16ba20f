"""What a sweep says in numbers: cells, levels of each axis, comparisons, claims, variance, as rows for CSV and page.

Every value is after the last epoch; the best epoch is shown beside it, never tested.
"""

import itertools
import math
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from segtune.report import clinical, stats
from segtune.report.records import Cell, Record, Sweep
from segtune.report.stats import ALPHA, EQUIVALENCE, Estimate
from segtune.studies import right_ventricle

Row = dict[str, Any]
SEED = 0  # of the resampling
DECLARED, EQUIVALENT, CANNOT_TELL = "declared", "equivalent", "cannot tell"


@dataclass(frozen=True, eq=False)
class Comparison:
    """A difference that the page may declare. selection: by which its p is multiplied, for the best was chosen from the data.

    kind: axis, best, or claim; of: the axis or the claim's number.
    """

    kind: str
    of: str
    name: str
    estimate: Estimate
    selection: float = 1.0

    @property
    def p(self) -> float:
        """NaN if it could not be declared whatever the data, or is undefined: it is then not of the family."""
        if self.estimate.limit() or not math.isfinite(self.estimate.p):
            return math.nan
        return min(1.0, self.selection * self.estimate.p)


@dataclass(frozen=True, eq=False)
class Judged:
    """A comparison in its family: p after Holm, the verdict, and for `cannot tell` the limit."""

    comparison: Comparison
    p_holm: float
    verdict: str
    why: str


@dataclass(frozen=True, eq=False)
class Verdict:
    claim: right_ventricle.Claim
    found: right_ventricle.Found
    verdict: str
    why: str


@dataclass(frozen=True, eq=False)
class Analysis:
    """All that the report says of a sweep."""

    sweep: Sweep

    @cached_property
    def cells(self) -> list[tuple[Cell, Estimate]]:
        """The cells with a Dice, and its mean over patients, best first."""
        found = [(cell, stats.mean(cell.scores)) for cell in self.sweep.cells if cell.scores.blocks]
        return sorted(found, key=lambda one: -one[1].value)

    @cached_property
    def best(self) -> Cell | None:
        return self.cells[0][0] if self.cells else None

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """The family, in order: pairs of an axis's levels, the best cell and each other, the claims' tests."""
        found = [comparison for axis in self.sweep.axes for comparison in self._of_axis(axis)]
        if self.best and not self._one_axis:
            n = len(self.cells)
            found += [
                Comparison(
                    "best",
                    cell.name,
                    f"{self.best.name}  -  {cell.name}",
                    stats.contrast([self.best.scores], [cell.scores]),
                    selection=n / 2,
                )
                for cell, _ in self.cells[1:]
            ]
        for claim, of in self.gathered:
            found += [Comparison("claim", str(claim.number), test.name, test.estimate) for test in of.tests]
        return found

    def _levels(self, axis: str) -> dict[str, list[Cell]]:
        found: dict[str, list[Cell]] = defaultdict(list)
        for cell in self.sweep.cells:
            if cell.scores.blocks:
                found[cell.levels[axis]].append(cell)
        return found

    def _all_pairs(self, axis: str) -> bool:
        """Penalties are compared with none, where there is none; all else each with each."""
        return axis != "reg" or "none" not in self._levels(axis)

    @property
    def _one_axis(self) -> bool:
        """Whether the pairs of the only axis's levels are all pairs of cells, the best cell's among them."""
        return (
            len(self.sweep.axes) == 1
            and self._all_pairs(axis := self.sweep.axes[0])
            and len(self._levels(axis)) == len(self.cells)
        )

    def _of_axis(self, axis: str) -> list[Comparison]:
        levels, found = self._levels(axis), []
        pairs = (
            itertools.combinations(levels, 2) if self._all_pairs(axis) else ((one, "none") for one in levels if one != "none")
        )
        for one, other in pairs:
            rest = [
                {
                    (axis == "data" or c.first.fingerprint, *(v for k, v in c.levels.items() if k != axis)): c
                    for c in levels[level]
                }
                for level in (one, other)
            ]
            common = [key for key in rest[0] if key in rest[1]]
            if common:
                sides = [[of[key].scores for key in common] for of in rest]
                estimate = stats.contrast(sides[0], sides[1])
                found.append(Comparison("axis", axis, f"{one} - {other}", estimate))
        return found

    @cached_property
    def gathered(self) -> list[tuple[right_ventricle.Claim, right_ventricle.Found]]:
        return [(claim, claim.gather(self.sweep.cells)) for claim in right_ventricle.CLAIMS]

    @cached_property
    def judged(self) -> list[Judged]:
        corrected = stats.holm([comparison.p for comparison in self.comparisons])
        return [judge(comparison, p, self.family) for comparison, p in zip(self.comparisons, corrected, strict=True)]

    @cached_property
    def family(self) -> int:
        """How many comparisons could be declared: what Holm corrects for."""
        return sum(math.isfinite(comparison.p) for comparison in self.comparisons)

    @cached_property
    def verdicts(self) -> list[Verdict]:
        p = {id(one.comparison.estimate): one.p_holm for one in self.judged if one.comparison.kind == "claim"}
        return [
            Verdict(claim, found, *right_ventricle.decide(found, [p[id(test.estimate)] for test in found.tests]))
            for claim, found in self.gathered
        ]

    @cached_property
    def not_worse(self) -> list[Cell]:
        """The best cell, and those that are not declared lower."""
        if not self.best:
            return []
        declared = {(one.comparison.kind, one.comparison.name, one.why) for one in self.judged if one.verdict == DECLARED}
        if self._one_axis:
            level, axis = self.best.levels[self.sweep.axes[0]], self.sweep.axes[0]
            lower = {
                cell.name
                for cell, _ in self.cells
                if ("axis", f"{level} - {cell.levels[axis]}", "higher") in declared
                or ("axis", f"{cell.levels[axis]} - {level}", "lower") in declared
            }
        else:  # where patients differ, the best of all may be the lower one on those that both have scored
            lower = {cell.name for cell, _ in self.cells if ("best", f"{self.best.name}  -  {cell.name}", "higher") in declared}
        return [cell for cell, _ in self.cells if cell.name not in lower]

    @cached_property
    def power(self) -> tuple[float, float, float]:
        """Power for a true difference of 0.05 between two cells; sd of patients' differences, sd of runs, as measured here."""
        pairs = [c.estimate for c in self.comparisons if c.kind != "claim" and math.isfinite(c.estimate.sd_patients)]
        if not pairs:
            return math.nan, math.nan, math.nan
        sds = sorted(e.sd_patients for e in pairs)
        sd, run = sds[len(sds) // 2], stats.run_sd([cell.scores for cell, _ in self.cells])
        least = min(pairs, key=lambda e: (e.n_seeds, e.n_patients))
        tests = math.ceil(self.family * max(c.selection for c in self.comparisons))
        pooled = self.cells[0][0].pooled
        found = stats.power(sd, run, least.n_patients, least.n_seeds, tests, effect=0.05, pooled=pooled, seed=SEED)
        return found, sd, run

    @cached_property
    def variance(self) -> list[tuple[str, int, float, float]] | None:
        records = [record for record in self.sweep.records if record.patients]
        levels = {axis: [record.levels[axis] for record in records] for axis in self.sweep.axes}
        return stats.decompose(levels, [record.dice for record in records]) if records else None

    @cached_property
    def ranks(self) -> dict[str, tuple[float, int, int]]:
        """Cell -> how often it is first when patients and runs are drawn again, and the 95 % interval of its rank."""
        if not self.cells:
            return {}
        first, limits = stats.rank_stability([cell.scores for cell, _ in self.cells], seed=SEED)
        return {
            cell.name: (float(p), int(low), int(high))
            for (cell, _), p, (low, high) in zip(self.cells, first, limits, strict=True)
        }

    @cached_property
    def scored(self) -> list[tuple[Cell, list[Row]]]:
        """The cells, best first, each with clinical.patient_rows: none where its runs have recorded none."""
        return [(cell, clinical.patient_rows(cell.scored)) for cell, _ in self.cells]

    # As rows

    def tables(self) -> dict[str, list[Row]]:
        """Every table by name."""
        return {
            "runs": [run_row(record, cell) for cell in self.sweep.cells for record in cell.records],
            "cells": self.cell_rows(),
            "levels": self.level_rows(),
            "comparisons": [comparison_row(one) for one in self.judged],
            "claims": [row for verdict in self.verdicts for row in claim_rows(verdict)],
            "variance": [
                dict(zip(("source", "df", "sum_of_squares", "eta_squared"), row, strict=True)) for row in self.variance or []
            ],
            "patients": [
                {"cell": cell.name, "patient": patient, "dice": value}
                for cell in self.sweep.cells
                for patient, value in sorted(cell.scores.means.items())
            ],
            "clinical": [
                {"cell": cell.name, **row}
                for cell, patients in self.scored
                for row in clinical.metric_rows(patients, cell.scored)
            ],
            "agreement": [
                {"cell": cell.name, **row} for cell, patients in self.scored for row in clinical.agreement_rows(patients)
            ],
            "clinical_patients": [{"cell": cell.name, **row} for cell, patients in self.scored for row in patients],
            "findings": finding_rows(self.sweep.records),
        }

    def cell_rows(self) -> list[Row]:
        kept = {id(cell) for cell in self.not_worse}
        rows = []
        for cell, estimate in self.cells:
            first, low, high = self.ranks[cell.name]
            rows.append(
                {
                    "cell": cell.name,
                    **cell.levels,
                    **summary([cell], estimate),
                    "not_declared_worse_than_best": id(cell) in kept,
                    "first_fraction": first,
                    "rank_low": low,
                    "rank_high": high,
                    "run_ids": " ".join(record.run_id for record in cell.records),
                }
            )
        return rows

    def level_rows(self) -> list[Row]:
        return [
            {"axis": axis, "level": level, **summary(cells, stats.contrast([cell.scores for cell in cells], None))}
            for axis in self.sweep.axes
            for level, cells in self._levels(axis).items()
        ]


def judge(comparison: Comparison, p_holm: float, family: int) -> Judged:
    """Declared, equivalent, or cannot tell and why."""
    e = comparison.estimate
    limit = e.limit()
    if not e.n_runs or not math.isfinite(e.value):
        return Judged(
            comparison, p_holm, CANNOT_TELL, "no patient that both have scored" if not e.n_runs else "undefined in a run"
        )
    if limit:
        return Judged(comparison, p_holm, CANNOT_TELL, limit)
    if p_holm < ALPHA:
        return Judged(comparison, p_holm, DECLARED, "higher" if e.value > e.null else "lower")
    if e.n_patients and e.within(EQUIVALENCE):
        return Judged(comparison, p_holm, EQUIVALENT, f"within +/- {EQUIVALENCE:g}")
    smallest = comparison.selection * 2 / 2**e.n_patients if e.n_patients else 0.0
    if smallest * family > ALPHA and e.p_run < ALPHA / family:
        needed = math.ceil(math.log2(2 * comparison.selection * family / ALPHA))
        return Judged(
            comparison, p_holm, CANNOT_TELL, f"{e.n_patients} patients are too few for {family} comparisons ({needed} needed)"
        )
    if comparison.p < ALPHA:
        return Judged(comparison, p_holm, CANNOT_TELL, f"p = {comparison.p:.2g} is not enough among {family} comparisons")
    return Judged(comparison, p_holm, CANNOT_TELL, "within what patients and runs vary by")


def summary(cells: Sequence[Cell], estimate: Estimate) -> Row:
    """What tables say of a cell, or of all cells of a level: means over their runs, and Dice over patients."""
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
        "command": command(record.overrides),
    }


def command(overrides: Sequence[str]) -> str:
    """What gives one run again; quotes around a number are the program's own, not a person's."""
    return shlex.join(["python", "-m", "segtune", *(re.sub(r"^(\w+)='([\d.]+)'$", r"\1=\2", one) for one in overrides)])


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


def claim_rows(verdict: Verdict) -> list[Row]:
    """A row for each test of a claim; one for a claim without."""
    about = {"claim": verdict.claim.number, "text": verdict.claim.text, "verdict": verdict.verdict, "why": verdict.why}
    empty: Mapping[str, Any] = dict.fromkeys(
        ("test", "expected", "effect", "null", "low", "high", "margin", "n_patients", "n_seeds", "n_runs")
    )
    rows = []
    for test in verdict.found.tests:
        e = test.estimate
        rows.append(
            {
                **about,
                "test": test.name,
                "expected": test.expect,
                "effect": e.value,
                "null": e.null,
                "low": e.low,
                "high": e.high,
                "margin": test.margin,
                "n_patients": e.n_patients,
                "n_seeds": e.n_seeds,
                "n_runs": e.n_runs,
            }
        )
    return rows or [{**about, **empty}]


def finding_rows(records: Sequence[Record]) -> list[Row]:
    """What the data check found: a row for each severity and kind in each data set, errors (which were allowed) first.

    n_least, n_most: findings in a run that has any, for some depend on its split. n_runs: those runs, of n_recorded of this
    data set. first: one of them, in words.
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
