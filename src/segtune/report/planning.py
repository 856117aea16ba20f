"""Compute the smallest difference that a sweep can detect, and plan the runs that would make smaller differences detectable."""

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.stats

from segtune.report import quantiles
from segtune.report.decisions import ALPHA, CLEAR_PATIENTS, CLEAR_RUNS, LEAST_FOLDS, LEAST_RUNS
from segtune.report.differences import Differences
from segtune.report.groups import Group
from segtune.report.records import Cell, Sweep
from segtune.runs import identity
from segtune.runs.words import count

POWER = 0.8
GOAL = 0.05  # Dice; the difference for which the next step is planned
MOST_SEEDS, MOST_FOLDS = 50, 10
FUTILE = 0.4  # share of the variance due to runs, below which more seeds cannot help much


@dataclass(frozen=True)
class NextStep:
    """The power of a group's sweep and what would improve it.

    Attributes:
        detectable: the detectable difference of Dice. If the true Dice of a configuration is lower than that of the
            best configuration by this difference, 80 % of sweeps like this one drop the configuration. NaN if no
            configuration can be dropped.
        n_seeds: number of seeds with which `GOAL` would be detectable; None if more seeds cannot help.
        n_folds: number of folds with which `GOAL` would be detectable; None if more folds cannot help.
        command: the command that runs these seeds or folds; empty if there is none.
        seconds: computing time of the additional runs [s].
        of_its_own: whether the command starts a separate sweep with new seeds, because the current sweep has already
            been judged.
        why: the reason why more seeds cannot help; otherwise empty.
    """

    detectable: float
    n_seeds: int | None
    n_folds: int | None
    command: str
    seconds: float
    of_its_own: bool
    why: str


def next_step(group: Group, sweep: Sweep) -> NextStep | None:
    """Plan the next step from all finished runs of a group; None if the group has a single configuration."""
    n = len(group.cells)
    if n < 2:
        return None
    seeds = sorted({record.seed for cell in group.cells for record in cell.records})
    seconds = float(np.mean([record.seconds for cell in group.cells for record in cell.records])) * n
    if group.has_folds:
        return _more_folds(group, sweep, seconds * len(seeds))
    found, n_runs = group.shown, min(e.n_seeds for e in group.estimates)
    judged = group.verdicts.n_reached > 0 and n_runs >= LEAST_RUNS
    wanted, detectable, why = LEAST_RUNS + 3, math.nan, ""
    if found is not None and n_runs >= LEAST_RUNS:
        of_patients, of_run = parts(found)
        detectable = detectable_difference(of_patients, of_run / n_runs, found.n_patients, n_runs, n)
        fitting = (
            s
            for s in range(n_runs + 1, MOST_SEEDS + 1)
            if detectable_difference(of_patients, of_run / s, found.n_patients, s, n) <= GOAL
        )
        wanted = next(fitting, 0)
        share = of_run / n_runs / max(of_patients + of_run / n_runs, 1e-14)
        if share < FUTILE or not wanted:
            why = f"only {100 * share:.0f} % of the variance of a difference is between runs"
            if share >= FUTILE:
                why = f"more than {MOST_SEEDS} would be needed"
    if detectable <= GOAL and n_runs >= CLEAR_RUNS:
        return NextStep(detectable, n_runs, None, "", 0.0, False, "")
    n_patients = min(len(cell.scores.means) for cell in group.cells)
    if not why and n_patients < CLEAR_PATIENTS:
        why = f"{count(n_patients, 'validation patient')} on a single split {'is' if n_patients == 1 else 'are'} too few"
    if why:
        command = _command(sweep, {"split": "kfold", "split.fold": "0,1,2,3,4", "split.val_fraction": None})
        return NextStep(detectable, None, LEAST_FOLDS, command, seconds * LEAST_FOLDS * len(seeds), False, why)
    first, wanted = max(seeds) + 1, max(wanted, CLEAR_RUNS)
    new = range(first, first + wanted) if judged else [*seeds, *range(first, first + wanted - len(seeds))]
    command = _command(sweep, {"seed": ",".join(map(str, new))})
    return NextStep(detectable, wanted, None, command, seconds * max(wanted if judged else wanted - len(seeds), 0), judged, "")


def final_command(cell: Cell, sweep: Sweep) -> str:
    """Return the command that trains a configuration on all patients; empty if several sweeps are reported."""
    if len(sweep.folders) != 1:
        return ""
    words = identity.words(cell.label, without=("split", *identity.REPLICATE))
    words = [word for word in words if not identity.key_of(word).startswith("split.")]
    words = [word for word in words if not (identity.key_of(word).startswith("score.") and word.endswith("=auto"))]
    words += [f"score.{key}={str(value).lower()}" for key, value in _chosen(cell).items()]
    folder = sweep.folders[0]
    outputs = [f"outputs={folder.parent}"] if folder.parent != Path("outputs") else []
    return identity.command([*words, "split=all", f"split.chosen_from={folder}", *outputs])


def _chosen(cell: Cell) -> dict[str, bool]:
    """Return the values that validation chose in most runs, for the keys of score that are auto."""
    results = [record.result.get("score") or {} for record in cell.records]
    auto = [key for key, value in (cell.first.config.get("score") or {}).items() if value == "auto"]
    return {key: 2 * sum(bool(one.get(key)) for one in results) > len(results) for key in auto}


def _more_folds(group: Group, sweep: Sweep, seconds: float) -> NextStep | None:
    """Plan more folds. Args: seconds: computing time of one fold."""
    found, n_folds = group.shown, len({record.fold for cell in group.cells for record in cell.records})
    detectable = math.nan
    if found is not None and found.n_folds >= LEAST_FOLDS:
        detectable = _with_df(float(np.median(_pairs(found.variance))), float(np.median(_pairs(found.df))), len(group.cells))
    if group.verdicts.unjudged:  # a missing fold is the first thing to add, and a sentence names it
        return NextStep(detectable, None, n_folds, "", 0.0, False, "")
    planned = max(int(record.config["split"].get("n_folds") or 0) for cell in group.cells for record in cell.records)
    if n_folds < min(planned, LEAST_FOLDS):
        wanted = planned
    elif detectable <= GOAL or planned >= MOST_FOLDS:
        return NextStep(detectable, None, n_folds, "", 0.0, False, "")
    else:
        wanted = MOST_FOLDS if planned >= LEAST_FOLDS else LEAST_FOLDS
    patients = sum(len(cell.scores.means) for cell in group.cells[:1])
    if wanted > patients:
        return NextStep(detectable, None, n_folds, "", 0.0, False, "")
    words = {"split.n_folds": str(wanted), "split.fold": ",".join(map(str, range(wanted)))}
    return NextStep(detectable, None, wanted, _command(sweep, words), seconds * wanted, False, "")


def parts(found: Differences) -> tuple[float, float]:
    """Split the variance of a typical difference into the part due to patients and the part due to runs.

    The part due to runs is given for a single run of each configuration.
    """
    runs = float(np.median(_pairs(found.run_part)))
    return max(float(np.median(_pairs(found.variance))) - runs, 0.0), runs * found.n_runs


def _pairs(of: np.ndarray) -> np.ndarray:
    found: np.ndarray = of[np.triu_indices(len(of), 1)]
    return found


def detectable_difference(of_patients: float, of_runs: float, n_patients: int, n_runs: int, n: int) -> float:
    """Return the detectable difference among n configurations. Args: of_patients, of_runs: parts of a difference's variance."""
    variance = of_patients + of_runs
    below = of_runs**2 / max(2 * (n_runs - 1), 1) + of_patients**2 / max(n_patients - 1, 1)
    return _with_df(variance, variance**2 / below if below > 0 else math.inf, n)


def _with_df(variance: float, df: float, n: int) -> float:
    df = max(df, 1.0)
    point = float(quantiles.dunnett(n - 1, np.array(df), ALPHA)) + float(scipy.stats.t.ppf(POWER, df))
    return point * math.sqrt(variance)


def _command(sweep: Sweep, changes: Mapping[str, str | None]) -> str:
    """Return the sweep's command with some keys changed. Args: changes: key -> new value; None removes the key."""
    if len(sweep.commands) != 1:
        return ""
    words = shlex.split(sweep.commands[0])
    kept = [word for word in words if word.partition("=")[0] not in {*changes, "looks"}]
    flag = [kept.pop()] if kept and kept[-1] in ("-m", "--multirun") else []
    return shlex.join([*kept, *(f"{key}={value}" for key, value in changes.items() if value is not None), *flag])
