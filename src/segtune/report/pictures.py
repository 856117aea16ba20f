"""Choose the patients and slices whose pictures a report shows."""

import statistics
from typing import Any

import numpy as np

from segtune.errors import InputError
from segtune.report.analysis import Analysis
from segtune.report.records import Cell
from segtune.runs.tables import read_pictures

Slice = tuple[str, Any, Any, Any]  # name, image, expert's mask, predicted mask, each (S, S)
Kept = tuple[float, str, str, dict[str, Any]]  # Dice in this run, patient, "best", "median" or "worst", pictures.npz


def chosen_pictures(analysis: Analysis) -> list[tuple[str, list[Slice]]]:
    """Choose the best, the median and the worst patient of the best configuration, among the patients with pictures.

    A patient's Dice is taken from the run that stored the picture. Each patient has up to two slices: the middle slice, and the
    slice with the lowest Dice.
    """
    kept = sorted(_kept(analysis.best), key=lambda one: one[0]) if analysis.best else []
    if not analysis.best or not kept:
        return []
    middle = statistics.median(analysis.best.scores.means.values())
    chosen = {"best": kept[-1], "median": min(kept, key=lambda one: abs(one[0] - middle)), "worst": kept[0]}
    return [
        (f"{word}: {patient}\nDice {dice:.3f}", _slices(pictures, which))
        for word, (dice, patient, which, pictures) in chosen.items()
    ]


def _kept(cell: Cell) -> list[Kept]:
    """Read the pictures of all runs. Damaged or missing pictures are skipped, because no number depends on them."""
    found: list[Kept] = []
    for record in cell.records:
        try:
            pictures = read_pictures(record.folder)
            for which in ("best", "median", "worst"):
                patient = str(pictures[f"{which}_patient"])
                whole = all(f"{which}_{part}" in pictures for part in ("image", "true", "pred", "frame"))
                if patient in record.patients and whole:
                    found.append((record.patients[patient], patient, which, pictures))
        except (OSError, ValueError, KeyError, InputError, EOFError):
            continue
    return found


def _slices(pictures: dict[str, Any], which: str) -> list[Slice]:
    """The middle slice of a patient, and the slice with the lowest Dice. Args: which: "best", "median" or "worst"."""
    image, true, predicted, frames = (pictures[f"{which}_{part}"] for part in ("image", "true", "pred", "frame"))
    both = np.array([int(t.sum()) + int(p.sum()) for t, p in zip(true, predicted, strict=True)])
    overlap = np.array([2 * int((t & p).sum()) for t, p in zip(true, predicted, strict=True)])
    dice = np.divide(overlap, both, out=np.full(len(both), np.inf), where=both > 0)
    return [
        (f"frame {frames[i]}, Dice {dice[i]:.2f}" if both[i] else f"frame {frames[i]}", image[i], true[i], predicted[i])
        for i in dict.fromkeys([len(image) // 2, int(np.argmin(dice))])
    ]
