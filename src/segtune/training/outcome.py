"""The outcome of a run: scores, summaries and pictures of its best and last epoch."""

import math
import statistics
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from segtune import nets, regularizers
from segtune.data import splits
from segtune.data.slices import Slice, SliceSet
from segtune.data.splits import Split
from segtune.metrics.score import Pair, Row, Scores, score_pairs, summarize
from segtune.training.module import Segmenter


def score_predictions(
    slices: list[Slice], soft_dice: Tensor, predicted: Tensor, true: Tensor, *, tolerance_mm: float
) -> Scores:
    """One set of predictions, on the network's grid: soft_dice (N,), predicted and true (N, 1, S, S) bool."""
    masks = zip(slices, predicted[:, 0].numpy(), true[:, 0].numpy(), strict=True)
    scores = score_pairs([Pair.of(item, pred, mask) for item, pred, mask in masks], tolerance_mm=tolerance_mm)
    about = zip(slices, soft_dice.tolist(), scores.slices, strict=True)
    return scores._replace(slices=[{**row, "frame": item.frame, "soft_dice": value} for item, value, row in about])


def summary(history: dict[str, list[float]], epoch: int, scores: Scores) -> dict[str, Any]:
    """One epoch's history, its weighted penalties, how many of its validation slices have no defined Dice, and all metrics."""
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


def patient_dice(rows: Iterable[Row]) -> float:
    """The mean over patients of each one's mean Dice over its slices, as the report has it; NaN if none is defined."""
    of: dict[str, list[float]] = {}
    for row in rows:
        if not math.isnan(row["dice"]):
            of.setdefault(row["patient"], []).append(row["dice"])
    return statistics.fmean(statistics.fmean(of[patient]) for patient in sorted(of)) if of else math.nan


def epochs_to_90(val_dice: list[float]) -> int | None:
    """The first epoch (from 1) whose validation Dice reaches 90 % of the run's best; None if the best is 0 or undefined."""
    best = np.nanmax([0.0, *val_dice])
    return next((epoch for epoch, value in enumerate(val_dice, start=1) if value >= 0.9 * best), None) if best else None


def describe(slices: SliceSet, sides: Split, fingerprint: str) -> dict[str, Any]:
    """Which data, who is on which side, how many patients lie on both; smallest and largest pixel of the training side [mm]."""
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


def pictures(slices: list[Slice], rows: list[Row], predicted: Tensor, true: Tensor) -> dict[str, NDArray[Any]]:
    """All slices of the best, the median and the worst validation patient, by mean Dice of the last epoch.

    Per patient: image (n, S, S) uint8, true and pred (n, S, S) bool, frame (n,), and the patient's label.
    """
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
        found[f"{name}_image"] = np.stack([grey(slices[index].image, predicted.shape[-1]) for index in where])
        found[f"{name}_true"] = true[where, 0].numpy()
        found[f"{name}_pred"] = predicted[where, 0].numpy()
    return found


def grey(image: NDArray[np.float32], size: int) -> NDArray[np.uint8]:
    """The image with its 1st to 99th percentile on 0 ... 255, padded at bottom and right to size x size."""
    low, high = np.percentile(image, [1, 99])
    scaled = np.rint(255 * np.clip((image - low) / max(high - low, 1e-6), 0, 1)).astype(np.uint8)
    return np.pad(scaled, [(0, size - side) for side in image.shape])


def weight_sums(module: Segmenter) -> dict[str, float]:
    """How large the kernels are after the last epoch, with a penalty or without: n, sum |w|, and sum w^2."""
    values = regularizers.vector(nets.PENALISED["kernels"](module.net)).detach().double()
    return {"n": len(values), "l1": values.abs().sum().item(), "l2": values.square().sum().item()}
