"""Load the results of sweeps as pandas tables, for notebooks (segtune.load)."""

import json
import math
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segtune.errors import InputError, printable
from segtune.report import clinical, reading
from segtune.report.records import Record, Sweep
from segtune.runs import identity, layout
from segtune.runs.words import count

if TYPE_CHECKING:
    import pandas as pd  # its import takes half a second

MOST_NAMED = 5  # runs that a warning names
QUANTITIES = tuple(clinical.column(quantity, what) for quantity in clinical.QUANTITIES for what in ("true", "pred"))
SCORES = ("dice", "val_dice", "train_dice", "best_dice", "best_epoch", "lambda_l1", "lambda_l2", "penalty_ratio", "seconds")


@dataclass(frozen=True, eq=False)
class Results:
    """The finished runs of one or several sweeps. Missing and undefined values are NaN.

    Dice values are between 0 and 1; higher is better. They are from the last epoch unless the column name says
    otherwise.

    Attributes:
        runs: one row for each run, with these columns:
            run_id, folder: the id and the folder of the run.
            label: the arguments with which `segtune train` repeats the run.
            cell_id: the configuration. It is the same for runs that differ only in seed and fold.
            loss, split, reg, batch, model, optimizer, ...: the chosen option of each config group.
            lr, seed, fold, epochs: the settings with these names.
            One column for each other key in which the runs differ, such as loss.gamma.
            dice: the mean over the slices of each patient, averaged over patients. Reports compare this value.
            val_dice, train_dice: the mean over slices.
            best_epoch: the epoch with the highest val_dice. best_dice: the val_dice in this epoch, which is optimistic.
            lambda_l1, lambda_l2: the lambda of each penalty; 0 if the run does not have this penalty.
            penalty_ratio: weighted penalty / loss in the first epoch.
            seconds: training time [s].
        patients: one row for each run and validation patient after the last epoch, with these columns:
            run_id, patient: the run and the patient.
            dice: the mean over slices.
            dice_3d, iou, sensitivity, precision, surface_dice: the mean over the patient's volumes.
            hd_mm, hd95_mm, assd_mm: distances [mm]; lower is better.
            volume_ED_true_ml, volume_ED_pred_ml, and the same columns for ES: volumes [ml].
            stroke_volume_true_ml, stroke_volume_pred_ml: stroke volumes [ml].
            ejection_fraction_true, ejection_fraction_pred: ejection fractions [0 to 1].
        history: one row for each run and epoch, with run_id and the columns of history.csv:
            epoch, lr, seconds [s].
            train_loss, train_data_loss (without the penalty), train_penalty, train_soft_dice, train_dice, ...
            The same columns for val.
        left_out: (run_id, reason) of each run that is unfinished or damaged, or that repeats another run.
    """

    runs: "pd.DataFrame"
    patients: "pd.DataFrame"
    history: "pd.DataFrame"
    left_out: list[tuple[str, str]]

    def __repr__(self) -> str:
        sizes = count(len(self.runs), "run"), count(len(self.patients), "patient row"), count(len(self.history), "epoch row")
        return f"Results({', '.join(sizes)}, {len(self.left_out)} left out)"


def load(folders: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> Results:
    """Read the folders of one or several sweeps, and warn if runs are left out.

    Raises: InputError if a folder is not the folder of a sweep.
    """
    given = [folders] if isinstance(folders, str | os.PathLike) else list(folders)
    places = [Path(folder).expanduser() for folder in dict.fromkeys(os.fspath(one) for one in given)]
    if not places:
        raise InputError('segtune.load: name the folder of a sweep, like segtune.load("outputs/grid").')
    for place in places:
        if not (place / layout.SWEEP).is_file():
            what = "there is no such folder" if not place.is_dir() else f"it is not a sweep's folder: no {layout.SWEEP}"
            raise InputError(f'{place}: {what}. Give the folder of a sweep, like segtune.load("outputs/grid").')
    sweep = reading.read(places)
    left_out = _left_out(sweep)
    if left_out:
        named = ", ".join(run for run, _ in left_out[:MOST_NAMED]) + (", ..." if len(left_out) > MOST_NAMED else "")
        message = f"{len(left_out)} of {count(sweep.n_listed, 'run')} left out, see .left_out for the reasons: {named}."
        warnings.warn(printable(message), stacklevel=3)
    return Results(_runs(sweep.records), _patients(sweep.records), _history(sweep.records), left_out)


def _left_out(sweep: Sweep) -> list[tuple[str, str]]:
    """Return each run that has no row in the tables, and the reason."""
    failed = dict(sweep.failures)
    reasons = {run: f"{state}: {failed[run]}" if run in failed else state for run, state in sweep.unfinished.items()}
    return list({**reasons, **dict(sweep.left_out)}.items())


def _runs(records: Sequence[Record]) -> "pd.DataFrame":
    options = [record.options or identity.axes(record.config) for record in records]
    groups = list(dict.fromkeys(["loss", "split", "reg", "batch", *(group for one in options for group in one)]))
    keys = _varying(records, options)
    rows = []
    for record, chosen in zip(records, options, strict=True):
        flat = identity.flat(record.config)
        about = {"label": record.label, "cell_id": identity.cell_id(record.config, record.fingerprint)}
        settings = {"lr": flat.get("optimizer.lr"), "seed": record.seed, "fold": record.fold}
        rows.append(
            {key: flat.get(key) for key in keys}
            | {group: chosen.get(group) for group in groups}
            | {"run_id": record.run_id, **about, **settings, "epochs": len(record.history["epoch"])}
            | {**_scores(record), "folder": str(record.folder)}
        )
    columns = ["run_id", "label", "cell_id", *groups, "lr", "seed", "fold", "epochs", *keys, *SCORES, "folder"]
    return _frame(rows, columns)


def _scores(record: Record) -> dict[str, Any]:
    best = record.result["best"]
    return {
        "dice": record.dice,
        "val_dice": record.history["val_dice"][-1],
        "train_dice": record.history["train_dice"][-1],
        "best_dice": best["val_dice"],
        "best_epoch": best["epoch"],
        "lambda_l1": record.facts.l1,
        "lambda_l2": record.facts.l2,
        "penalty_ratio": record.ratio,
        "seconds": record.seconds,
    }


def _varying(records: Sequence[Record], options: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the configuration keys that differ between the runs and have no other column in `runs`.

    The key of an option's function (loss._target_) is returned only if it differs between runs with the same option.
    """
    flat = [identity.flat(record.config) for record in records]
    found = []
    for key in sorted({key for one in flat for key in one}):
        group = key.partition(".")[0]
        is_function = key.endswith(("._target_", "._partial_"))
        if key in (*identity.REPLICATE, *SCORES, "lr", "epochs") or key.startswith("data.reader."):
            continue
        seen = {
            (chosen.get(group) if is_function else "", _text(one.get(key))) for one, chosen in zip(flat, options, strict=True)
        }
        if len(seen) > (len({chosen.get(group) for chosen in options}) if is_function else 1):
            found.append(key)
    return found


def _patients(records: Sequence[Record]) -> "pd.DataFrame":
    rows = []
    for record in records:
        scored = clinical.patient_rows([record.scored]) if record.scored else []
        of = {row["patient"]: row | {"dice_3d": row["dice"]} for row in scored}
        for patient in sorted({*of, *record.patients}):
            about = {"run_id": record.run_id, "patient": patient, "dice": record.patients.get(patient)}
            rows.append({**of.get(patient, {}), **about})
    metrics = [name for name in clinical.METRICS if name != "dice"]
    return _frame(rows, ["run_id", "patient", "dice", "dice_3d", *metrics, *QUANTITIES])


def _history(records: Sequence[Record]) -> "pd.DataFrame":
    rows = [
        {"run_id": record.run_id, **dict(zip(layout.HISTORY_COLUMNS, epoch, strict=True)), "epoch": number}
        for record in records
        for number, epoch in enumerate(zip(*(record.history[key] for key in layout.HISTORY_COLUMNS), strict=True), 1)
    ]
    return _frame(rows, ["run_id", *layout.HISTORY_COLUMNS])


def _frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> "pd.DataFrame":
    """Build a table. Missing values become NaN. Lists become text, because pandas cannot group by lists."""
    import pandas as pd

    def value(found: Any) -> Any:
        return math.nan if found is None else _text(found) if isinstance(found, list) else found

    return pd.DataFrame({column: [value(row.get(column)) for row in rows] for column in columns})


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
