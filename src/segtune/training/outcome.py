"""Compute and write the outcome of a run: scores, summaries and pictures of its best and its last epoch."""

import math
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtune import nets, regularizers
from segtune.data import splits
from segtune.data.display import grey
from segtune.data.slices import Slice, SliceSet
from segtune.data.splits import Split
from segtune.data.tensors import Batch
from segtune.metrics.score import Pair, Row, Scores, score_pairs, summarize
from segtune.plots import augmented, curves, style
from segtune.runs import identity, layout
from segtune.runs.files import write_atomically, write_files
from segtune.runs.result import write_result
from segtune.runs.tables import csv_text
from segtune.training.experiment import Experiment
from segtune.training.module import Segmenter
from segtune.training.predictions import Predictions, validation_slices


def score_predictions(experiment: Experiment, predictions: Predictions) -> Scores:
    """Compute the scores of the validation slices, cases and patients."""
    slices = validation_slices(experiment)
    masks = zip(slices, predictions.predicted[:, 0].numpy(), predictions.true[:, 0].numpy(), strict=True)
    scores = score_pairs([Pair.of(item, pred, mask) for item, pred, mask in masks], tolerance_mm=experiment.tolerance_mm)
    about = zip(slices, predictions.soft_dice.tolist(), scores.slices, strict=True)
    return scores._replace(slices=[{**row, "frame": item.frame, "soft_dice": value} for item, value, row in about])


def summary(history: dict[str, list[float]], epoch: int, scores: Scores) -> dict[str, Any]:
    """Summarise one epoch: its row of history.csv, weighted penalties, number of slices with undefined Dice, all metrics."""
    at_epoch = {name: values[epoch - 1] for name, values in history.items()}
    return {
        **at_epoch,
        "epoch": epoch,
        "train_weighted_penalty": at_epoch["train_loss"] - at_epoch["train_data_loss"],
        "val_weighted_penalty": at_epoch["val_loss"] - at_epoch["val_data_loss"],
        "n_undefined": sum(math.isnan(row["dice"]) for row in scores.slices),
        "patient_dice": patient_dice(scores.slices),
        "metrics": summarize(scores),
    }


def in_words(result: Mapping[str, Any]) -> str:
    """Return the main result of a run as a phrase."""
    patients, last, best = result["data"]["patients"], result["last"], result["best"]
    if not (n := len(patients["val"])):
        return f"trained on all {len(patients['train'])} patients, none for validation"
    return (
        f"Dice {last['patient_dice']:.3f}, mean over {n} validation patient{'s' * (n > 1)}, after the last epoch "
        f"({best['patient_dice']:.3f} after epoch {best['epoch']:.0f}, the best)"
    )


def patient_dice(rows: Iterable[Row]) -> float:
    """Average Dice over the slices of each patient, and then over patients, as the report does.

    Returns: the mean; NaN if it is undefined.
    """
    of: dict[str, list[float]] = {}
    for row in rows:
        if not math.isnan(row["dice"]):
            of.setdefault(row["patient"], []).append(row["dice"])
    return statistics.fmean(statistics.fmean(of[patient]) for patient in sorted(of)) if of else math.nan


def epochs_to_90(val_dice: list[float]) -> int | None:
    """Return the first epoch (from 1) with 90 % of the best validation Dice; None if this best is 0 or undefined."""
    best = np.nanmax([0.0, *val_dice])
    return next((epoch for epoch, value in enumerate(val_dice, start=1) if value >= 0.9 * best), None) if best else None


def describe_experiment(experiment: Experiment) -> dict[str, Any]:
    """Return the entries of result.json that are known before training."""
    config, fingerprint = experiment.config, experiment.fingerprint
    return {
        "run_id": experiment.run_id,
        "cell_id": identity.cell_id(config, fingerprint),
        "config": config,
        "options": dict(experiment.options),
        "label": experiment.label,
        "inputs": experiment.inputs,
        "data": describe_data(experiment.slices, experiment.split, fingerprint) | {"findings": experiment.findings},
        "tolerance_mm": experiment.tolerance_mm,
        **({"expected": experiment.expected} if experiment.expected else {}),
    }


def describe_data(slices: SliceSet, sides: Split, fingerprint: str) -> dict[str, Any]:
    """Describe the data for result.json.

    The description contains the fingerprint, the training patients, the validation patients, the patients that are in
    both sets, and the pixel sizes of the training images [mm].
    """
    names = np.asarray(slices.patients)
    leaks = splits.leaks(slices.patients, sides)
    on = {"train": set(names[sides.train].tolist()), "val": set(names[sides.val].tolist())}
    pixel_mm = [mm for index in sides.train for mm in slices[int(index)].spacing_mm]
    return {
        "fingerprint": fingerprint,
        "pixel_mm": [min(pixel_mm), max(pixel_mm)],
        "patients": {
            "train": sorted(on["train"]),
            "val": sorted(on["val"]),
            "unused": sorted(set(names.tolist()) - on["train"] - on["val"]),
        },
        "n_images": {"train": len(sides.train), "val": len(sides.val)},
        "leaks": leaks,
        "n_leaks": len(leaks),
    }


def write(
    folder: Path,
    experiment: Experiment,
    result: dict[str, Any],
    history: dict[str, list[float]],
    scored: Mapping[str, Scores],
    last: Predictions,
) -> None:
    """Write the figure, the tables, the pictures and finally result.json.

    Args: scored: the scores of the checkpoints `best` and `last`. last: the predictions of the checkpoint `last`.
    """
    if experiment.figures:
        drawing = curves.curves(
            history, result["best"]["epoch"], title=experiment.label, augmented=experiment.augment is not None
        )
        write_files(folder / layout.CURVES, style.rendered(drawing))
    write_atomically(folder / layout.IMAGES, csv_text(layout.IMAGE_COLUMNS, image_rows(experiment)).encode())
    tables: dict[str, list[Row]] = {name: [] for name in layout.TABLES}
    structure = str(experiment.config["data"]["target"])
    for which, scores in scored.items():
        for name, rows in zip(layout.TABLES, scores, strict=True):  # both are in the order slices, cases, patients
            tables[name] += [{"which": which, "structure": structure, **row} for row in rows]
    chosen = pictures(validation_slices(experiment), scored["last"].slices, last)
    write_result(folder, result=result, tables=tables, pictures=chosen)


def draw_augmented(folder: Path, experiment: Experiment, module: Segmenter, batch: Batch) -> None:
    """If images are augmented, draw the first training batch as the network saw it.

    Args: batch: the batch before augmentation.
    """
    if experiment.augment is not None and experiment.figures:
        images, masks = (part[:, 0].cpu().numpy() for part in module.augmented(batch, 0, 0))
        drawing = augmented.augmented(images, masks, title="Training images after augmentation, with the expert's contours")
        write_files(folder / layout.AUGMENTED, {".png": style.rendered(drawing)[".png"]})


def image_rows(experiment: Experiment) -> list[Row]:
    """Return the rows of images.csv: patient, side (train, val or unused) and recognition code of each slice."""
    on_side = {int(index): "train" for index in experiment.split.train}
    on_side |= {int(index): "val" for index in experiment.split.val}
    return [
        {"patient": item.patient, "side": on_side.get(index, "unused"), "code": code}
        for index, (item, code) in enumerate(zip(experiment.slices, experiment.codes, strict=True))
    ]


def pictures(slices: list[Slice], rows: list[Row], last: Predictions) -> dict[str, NDArray[Any]]:
    """Return the arrays of pictures.npz: all slices of the best, median and worst validation patient.

    Patients are ranked by their mean Dice after the last epoch. The arrays of each patient are image (n, S, S) uint8,
    true and pred (n, S, S) bool, frame (n,), and patient (the label).

    Without validation patients there are no arrays.

    Args: slices: the validation slices. rows: their scores. last: their predictions.
    """
    if not slices:
        return {}
    dice: dict[str, list[float]] = {}
    for row in rows:
        if not math.isnan(row["dice"]):
            dice.setdefault(row["patient"], []).append(row["dice"])
    ranked = sorted(dice or {item.patient: [0.0] for item in slices}, key=lambda name: (-np.mean(dice.get(name, 0)), name))
    chosen = {"best": ranked[0], "median": ranked[(len(ranked) - 1) // 2], "worst": ranked[-1]}
    found: dict[str, NDArray[Any]] = {}
    for name, patient in chosen.items():
        where = [index for index, item in enumerate(slices) if item.patient == patient]
        found[f"{name}_patient"] = np.array(patient)
        found[f"{name}_frame"] = np.array([slices[index].frame for index in where])
        found[f"{name}_image"] = np.stack([padded_grey(slices[index].image, last.predicted.shape[-1]) for index in where])
        found[f"{name}_true"] = last.true[where, 0].numpy()
        found[f"{name}_pred"] = last.predicted[where, 0].numpy()
    return found


def padded_grey(image: NDArray[np.float32], size: int) -> NDArray[np.uint8]:
    """Convert an image to grey levels and pad it at the bottom and right to size x size."""
    return np.pad(grey(image), [(0, size - side) for side in image.shape])


def weight_sums(module: Segmenter) -> dict[str, float]:
    """Summarise the kernel weights after the last epoch: their number n, sum |w| (l1) and sum w^2 (l2)."""
    values = regularizers.vector(nets.REGULARIZED["kernels"](module.net)).detach().double()
    return {"n": len(values), "l1": values.abs().sum().item(), "l2": values.square().sum().item()}
