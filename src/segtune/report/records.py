"""The results of a sweep in memory: finished runs (Record), configurations (Cell) and sweeps (Sweep)."""

import math
import shlex
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from segtune.report import clinical
from segtune.report.curves import epochs_to, roughness
from segtune.report.scores import Block, Scores
from segtune.runs import identity

FAMILY = {"bce_logdice": "bce_dice"}  # variant of a loss -> that loss


@dataclass(frozen=True)
class Facts:
    """The scientific settings of a run.

    Attributes:
        by: the rule that splits the data (split.by).
        share: the fraction of images held out for validation; None for k-fold splits.
        l1, l2: the lambda of each penalty; 0 without a penalty, NaN for another kind of penalty.
        context: all other settings except seed and fold, as text. Claims compare only runs with the same context.
    """

    loss: str
    by: str
    share: float | None
    l1: float
    l2: float
    batch: str
    epochs: int
    context: str


@dataclass(frozen=True, eq=False)
class Record:
    """One finished run.

    Attributes:
        patients: validation patient -> mean Dice over its slices after the last epoch.
        n_undefined: number of slices without a defined Dice (both masks empty), which are left out of all means.
        cases: number of slices of each validation case.
        levels: axis -> value of the run, for each axis in which the runs of the sweep differ.
        scored: scores of the run's cases and patients in mm and ml; None if the run was made with an early version of
            segtune.
        position: index of the run's seed among the seeds of the configuration, in the order of the sweep. In
            cross-validation, it is the index of the run's fold among the folds. A look after n seeds (or folds) uses
            the runs at positions below n.
    """

    run_id: str
    folder: Path
    overrides: tuple[str, ...]
    result: Mapping[str, Any]
    history: Mapping[str, list[float]]
    patients: Mapping[str, float]
    n_slices: int
    n_undefined: int
    cases: Mapping[clinical.Case, int]
    levels: Mapping[str, str]
    facts: Facts
    scored: clinical.Scored | None
    position: int = 0

    @property
    def config(self) -> Mapping[str, Any]:
        config: Mapping[str, Any] = self.result["config"]
        return config

    @property
    def label(self) -> str:
        """The command-line arguments with which `python -m segtune` repeats this run."""
        return identity.label_of(self.result)

    @property
    def options(self) -> Mapping[str, str]:
        """Config group -> chosen option; empty for runs of early versions, which did not record options."""
        said = self.result.get("options")
        return {str(group): str(option) for group, option in said.items()} if isinstance(said, Mapping) else {}

    @property
    def structure(self) -> str:
        """What was segmented: data.target."""
        return str(self.config["data"].get("target"))

    @property
    def fingerprint(self) -> str:
        return str(self.result["data"].get("fingerprint"))

    @property
    def seed(self) -> int:
        seed: int = self.config["seed"]
        return seed

    @property
    def fold(self) -> int | None:
        fold: int | None = self.config["split"].get("fold")
        return fold

    @property
    def dice(self) -> float:
        """Mean Dice over validation patients after the last epoch; NaN if no patient has a defined Dice."""
        return statistics.fmean(self.patients.values()) if self.patients else math.nan

    @property
    def gap(self) -> float:
        """Training Dice - validation Dice after the last epoch; NaN if the training images were augmented."""
        return math.nan if self.config.get("augment") else self.history["train_dice"][-1] - self.history["val_dice"][-1]

    @property
    def epochs_to_90(self) -> float:
        """The first epoch with 90 % of the run's best validation Dice; NaN if the best Dice is 0 or undefined."""
        curve = np.nan_to_num(np.asarray(self.history["val_dice"]))
        return epochs_to(curve, 0.9 * curve.max()) if curve.max() > 0 else math.nan

    @property
    def seconds(self) -> float:
        return float(self.result["seconds"])

    @property
    def ratio(self) -> float:
        """Weighted penalty / data loss, both averaged over the first epoch; NaN without a penalty."""
        total, data = self.history["train_loss"][0], self.history["train_data_loss"][0]
        return (total - data) / data if data > 0 and total != data else math.nan

    @property
    def weight_norm(self) -> float:
        """L2 norm of the kernels, sqrt(sum w^2), after the last epoch; NaN if the run did not record it."""
        squares = (self.result.get("weights") or {}).get("l2")
        return math.sqrt(squares) if isinstance(squares, int | float) and squares >= 0 else math.nan

    def roughness(self, column: str) -> float:
        return roughness(self.history[column])


def scores_of(records: Sequence[Record]) -> Scores:
    """The scores of the given runs of one configuration.

    A patient is left out if the patient's Dice is undefined in any run of the fold.
    """
    folds: dict[int | None, list[Record]] = defaultdict(list)
    for record in records:
        if record.patients:
            folds[record.fold].append(record)
    blocks, known = [], set[str]()
    for fold, of in folds.items():
        patients = tuple(p for p in of[0].patients if p not in known and all(p in record.patients for record in of))
        known |= {*patients}
        if patients:
            values = np.array([[record.patients[p] for p in patients] for record in of])
            blocks.append(Block(patients, values, fold))
    return Scores(tuple(blocks))


@dataclass(frozen=True, eq=False)
class Cell:
    """A configuration and its runs, which differ only in seed and fold. Result files call a configuration a cell."""

    name: str
    records: tuple[Record, ...]

    @property
    def first(self) -> Record:
        return self.records[0]

    @property
    def facts(self) -> Facts:
        return self.first.facts

    @property
    def label(self) -> str:
        """The command-line arguments of a run of this configuration, without seed and fold."""
        return shlex.join(identity.words(self.first.label, without=identity.REPLICATE))

    @property
    def levels(self) -> Mapping[str, str]:
        return self.first.levels

    @cached_property
    def scores(self) -> Scores:
        """The Dice of each patient in each run, for every fold.

        A patient is left out if the patient's Dice is undefined in any run of the fold.
        """
        return scores_of(self.records)

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({record.seed for record in self.records}))

    @property
    def scored(self) -> list[clinical.Scored]:
        """The scores in mm and ml of the runs that recorded such scores."""
        return [record.scored for record in self.records if record.scored]

    def mean_of(self, value: Callable[[Record], float]) -> float:
        """The mean of a quantity over the runs with a finite value; NaN if there is no such run.

        Args: value: function that computes the quantity for a run.
        """
        values = [v for record in self.records if math.isfinite(v := value(record))]
        return statistics.fmean(values) if values else math.nan


@dataclass(frozen=True, eq=False)
class Plan:
    """The plan of a sweep, which states when its configurations are judged.

    Attributes:
        looks: the numbers of runs at which verdicts are made (in cross-validation, the numbers of folds). If it is
            empty, verdicts are made only once, when all runs are done.
        waiting: the positions (SweepRun.replicate) of the runs that are neither finished nor failed.
        added: ids of runs that were added to a sweep after its last look. They do not affect verdicts.
        n_listed: the number of seeds of a configuration in the sweep, finished or not. In cross-validation, it is the
            number of folds.
    """

    looks: tuple[int, ...] = ()
    waiting: tuple[int, ...] = ()
    added: frozenset[str] = frozenset()
    n_listed: int = 0

    def reached(self, look: int | None) -> bool:
        """Whether all runs of a look are done. Args: look: number of runs or folds; None: all."""
        if look is not None and self.n_listed < look:
            return False
        return not any(look is None or position < look for position in self.waiting)


@dataclass(frozen=True, eq=False)
class Sweep:
    """One or several sweeps, as read from disk.

    Attributes:
        commands: the command of each sweep.
        studies: the value of study= in each command; empty if the command has none.
        n_listed: the number of runs that the sweeps list, finished or not.
        records: the finished runs.
        cells: the configurations.
        axes: the groups of the configuration in which runs differ.
        unfinished: run -> state, for runs that are not finished.
        failures: (run, message) for each failed run.
        left_out: (run, reason) for each damaged or repeated run.
        plan: when verdicts may be made.
    """

    folders: tuple[Path, ...]
    commands: tuple[str, ...]
    studies: tuple[str, ...]
    n_listed: int
    records: tuple[Record, ...]
    cells: tuple[Cell, ...]
    axes: tuple[str, ...]
    unfinished: Mapping[str, str]
    failures: tuple[tuple[str, str], ...]
    left_out: tuple[tuple[str, str], ...]
    plan: Plan

    @property
    def states(self) -> Mapping[str, int]:
        """State -> number of runs, for runs that are not finished."""
        return Counter(self.unfinished.values())
