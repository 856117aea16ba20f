"""Simulated sweeps on disk with a known truth, in the format of real runs, without any training."""

import copy
import functools
import math
from pathlib import Path

import numpy as np

from segtune.config import entry
from segtune.report import clinical, reading, records
from segtune.runs import identity, layout
from segtune.runs import sweep as runs_sweep
from segtune.runs.result import write_result

PATIENTS = tuple(f"P{number:02}" for number in range(1, 17))
SLICES = 2  # per patient and phase
TOLERANCE_MM = 2.0


@functools.cache
def base_config():
    return entry.plain(entry.compose(["reg=none"]))


def config(
    *, loss="bce_dice", share=0.2, by="patient", l1=0.0, l2=0.0, batch=15, epochs=15, seed=0, fold=None, n_folds=4, **others
):
    """The configuration of a run. others: further keys, with __ in place of dots."""
    found = copy.deepcopy(base_config())
    found["loss"] = {"_target_": f"segtune.losses.{loss}", "_partial_": True}
    found["split"] = {"by": by, "seed": 0, "val_fraction": share} | ({} if fold is None else {"n_folds": n_folds, "fold": fold})
    found["batch"] = {"size": batch, "shuffle": None}
    if l1 and l2:
        found["reg"] = {
            "penalty": {"_target_": "segtune.regularizers.l1l2", "_partial_": True},
            "lambda_l1": l1,
            "lambda_l2": l2,
            "on": "kernels",
        }
    elif l1 or l2:
        name = "l1" if l1 else "l2"
        found["reg"] = {
            "penalty": {"_target_": f"segtune.regularizers.{name}", "_partial_": True},
            "lambda": l1 or l2,
            "on": "kernels",
        }
    else:
        found["reg"] = {}
    found["trainer"]["max_epochs"] = epochs
    found["seed"] = seed
    for key, value in others.items():
        *groups, name = key.split("__")
        functools.reduce(dict.__getitem__, groups, found)[name] = value
    return found


def curves(
    epochs,
    *,
    last=0.7,
    gap=0.1,
    rough=0.0,
    rough_dice=0.0,
    reach=None,
    loss_settles=None,
    dice_settles=None,
    spread=0.0,
    ratio=0.0,
    first_loss=1.5,
):
    """The columns of history.csv: Dice rises to `last` and the loss falls; roughness alternates around the smooth curve.

    reach: the epoch at which Dice reaches its end in one step. *_settles: the epoch from which a curve is flat. spread: how
    far the validation loss ends from the training loss. ratio: weighted penalty / data loss.
    """
    t = np.arange(1, epochs + 1)
    rise = 1 - np.exp(-t / (0.2 * epochs))
    dice = last * rise / rise[-1]
    if reach is not None:
        dice = np.where(t >= reach, last, 0.3 * last)
    if dice_settles is not None:
        dice = last * np.minimum(1, t / dice_settles)
    loss = 0.3 + (first_loss - 0.3) * np.exp(-(t - 1) / (0.2 * epochs))
    if loss_settles is not None:
        loss = first_loss - (first_loss - 0.3) * np.minimum(1, (t - 1) / (loss_settles - 1))
    wave = np.where(t % 2 == 0, 1.0, -1.0) * (t < epochs) * (t > 1)
    val_loss = loss * (1 + spread * (t - 1) / epochs) + rough * wave
    columns = {name: np.zeros(epochs) for name in layout.HISTORY_COLUMNS}
    columns |= {
        "epoch": t,
        "lr": np.full(epochs, 1e-3),
        "train_data_loss": loss,
        "train_loss": loss * (1 + ratio),
        "val_data_loss": val_loss,
        "val_loss": val_loss,
        "val_dice": dice + rough_dice * wave,
        "train_dice": dice + gap,
        "seconds": np.full(epochs, 1.0),
    }
    return columns


def scored(dice):
    """The tables of a run with these mean Dice by patient (NaN: both masks empty); volume errors grow as Dice falls."""
    tables = {name: [] for name in layout.TABLES}
    for number, (patient, value) in enumerate(dice.items()):
        value, off = float(value), math.sin(3 * number) * (1 - float(value)) / 3
        empty = {"n_one_empty": 0, "n_both_empty": int(math.isnan(value))}
        overlaps = {"iou": value / (2 - value), "sensitivity": value, "precision": value}
        lengths = {"hd_mm": 40 * (1 - value), "hd95_mm": 20 * (1 - value), "assd_mm": 5 * (1 - value), "surface_dice": value}
        metrics = {"dice": value, **overlaps, **lengths, **empty}
        ml = {}
        for phase, size, change in (("ED", 100 + number, off), ("ES", 45 - number, -off / 2)):
            true, pred = (0, 0) if math.isnan(value) else (size, size * (1 + change))
            ml[phase] = true, pred
            about = {"patient": patient, "phase": phase}
            counts = {"n_true": 100 * true, "n_pred": round(100 * pred), "n_overlap": 50 * true}
            volume = {"volume_true_ml": true, "volume_pred_ml": pred, "volume_error_ml": pred - true}
            tables[layout.CASES].append({**about, "n_slices": SLICES, **metrics, **counts, **volume})
            for i in range(SLICES):
                offset = 0.01 * (2 * i - 1)  # so that the mean over slices is the patient's Dice
                place = {"slice_index": i, "frame": 20 * i, "soft_dice": value}
                tables[layout.SLICES].append({**about, **counts, **metrics, **place, "dice": repr(value + offset)})
        strokes = [ed - es for ed, es in zip(ml["ED"], ml["ES"], strict=True)]
        fractions = [stroke / ed if ed else math.nan for stroke, ed in zip(strokes, ml["ED"], strict=True)]
        row = {"patient": patient, "n_cases": 2, **metrics, "n_both_empty": 2 * empty["n_both_empty"]}
        for name, (true, pred) in (("stroke_volume{}_ml", strokes), ("ejection_fraction{}", fractions)):
            row |= {name.format("_true"): true, name.format("_pred"): pred, name.format("_error"): pred - true}
        tables[layout.PATIENTS].append(row)
    return tables


def record(settings, dice, columns, *, facts=None, train=(), n_train=0, norm=None):
    """A finished run in memory, as the report reads it.

    Args: facts: those of another run of its configuration, which takes less time. train, n_train: training patients and images.
    """
    result = {
        "config": settings,
        "weights": None if norm is None else {"n": 10, "l1": 1.0, "l2": norm**2},
        "seconds": 1.0,
        "data": {
            "fingerprint": "simulated",
            "patients": {"train": sorted(train), "val": sorted(dice), "unused": []},
            "n_images": {"train": n_train, "val": SLICES * len(dice)},
        },
    }
    return records.Record(
        run_id=f"{settings['seed']}-{settings['split'].get('fold')}",
        folder=Path(),
        overrides=(),
        result=result,
        history={name: [float(value) for value in of] for name, of in columns.items()},
        patients=dict(dice),
        n_slices=SLICES * len(dice),
        n_undefined=0,
        cases={clinical.Case(patient, "ED", ""): SLICES for patient in dice},
        levels={},
        facts=facts or reading.facts_of(result),
        scored=None,
    )


def write_run(root: Path, settings, dice, columns, *, norm=None, pictures=True, tables=None):
    """Write a finished run. dice: patient -> mean Dice after the last epoch. tables: rows by file, instead of scored(dice)."""
    run = identity.run_id(settings)
    folder = root / "runs" / run
    folder.mkdir(parents=True, exist_ok=True)
    text = [",".join(layout.HISTORY_COLUMNS)]
    for row in zip(*(columns[name] for name in layout.HISTORY_COLUMNS), strict=True):
        text.append(",".join(repr(float(value)) for value in row))
    (folder / layout.HISTORY).write_text("\n".join(text) + "\n")
    tables = tables or scored(dice)
    history = {name: [float(value) for value in of] for name, of in columns.items()}
    best = int(np.argmax(history["val_dice"])) + 1
    at = {
        which: {"epoch": epoch, "val_dice": history["val_dice"][epoch - 1]}
        for which, epoch in (("best", best), ("last", len(history["epoch"])))
    }
    names = sorted(dice)
    result = {
        "run_id": run,
        "cell_id": identity.cell_id(settings),
        "config": settings,
        **at,
        "epochs_to_90": 1,
        "calibration": None,
        "weights": None if norm is None else {"n": 10, "l1": 1.0, "l2": norm**2},
        "seconds": 12.0,
        "data": {
            "fingerprint": "simulated",
            "patients": {"train": [], "val": names, "unused": []},
            "n_images": {"train": 0, "val": len(tables[layout.SLICES])},
            "leaks": [],
            "n_leaks": 0,
            "findings": [],
        },
        "tolerance_mm": TOLERANCE_MM,
        "peak_memory_mb": {"process": 100.0},
        "versions": {"segtune": "0"},
        "git": None,
    }
    shape = (SLICES, 32, 32)
    masks = {"true": np.zeros(shape, bool), "pred": np.zeros(shape, bool)}
    masks["true"][:, 8:20, 8:20] = masks["pred"][:, 10:22, 8:20] = True
    found = {}
    for which, patient in zip(("best", "median", "worst"), (names[0], names[len(names) // 2], names[-1]), strict=True):
        found |= {
            f"{which}_patient": np.array(patient),
            f"{which}_frame": np.arange(SLICES),
            f"{which}_image": np.zeros(shape, np.uint8),
        }
        found |= {f"{which}_{name}": mask for name, mask in masks.items()}
    write_result(
        folder,
        result=result,
        tables={name: [{"which": which, **row} for which in ("best", "last") for row in of] for name, of in tables.items()},
        pictures=found if pictures else {},
    )
    return run


def scores(mean, random, *, patients=PATIENTS, effects=None, run_sd=0.01, residual_sd=0.05):
    """patient -> Dice of one run: the configuration's mean + the patient's effect + the run's effect + a residual."""
    levels = np.zeros(len(patients)) if effects is None else effects
    values = mean + levels + random.normal(0, run_sd) + random.normal(0, residual_sd, len(patients))
    return dict(zip(patients, np.clip(values, 0.02, 0.98), strict=True))


def write_sweep(root: Path, name: str, runs):
    """Write sweep.json. Args: name: of the folder, and of study= in the command. runs: (run id, overrides)."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    listed = [{"run_id": run, "overrides": overrides, "axes": {}} for run, overrides in runs]
    runs_sweep.write_sweep(folder, command=["python", "-m", "segtune", f"study={name}", "-m"], runs=listed)
    return folder
