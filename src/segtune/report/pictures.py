"""Choose the patients and slices whose pictures a report shows."""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtune.errors import InputError
from segtune.report.analysis import Analysis
from segtune.report.records import Cell
from segtune.runs import layout
from segtune.runs.tables import read_pictures, read_table

Slice = tuple[str, Any, Any, Any]  # name, image, expert's mask, predicted mask, each (S, S)
Mask = NDArray[np.bool_]
# Dice of the patient in a run, patient, "best", "median" or "worst", content of pictures.npz, the run's folder
Kept = tuple[float, str, str, dict[str, Any], Path]


def chosen_pictures(analysis: Analysis) -> list[tuple[str, list[Slice]]]:
    """Choose the best, the median and the worst patient of the best configuration, among the patients with pictures.

    A patient's Dice is taken from the run that stored the picture.
    """
    kept = sorted(_kept(analysis.best), key=lambda one: one[0]) if analysis.best else []
    if not analysis.best or not kept:
        return []
    middle = statistics.median(analysis.best.scores.means.values())
    chosen = {"best": kept[-1], "median": min(kept, key=lambda one: abs(one[0] - middle)), "worst": kept[0]}
    return [
        (f"{word}: {patient}\nDice {dice:.3f}", _slices(folder, pictures, which))
        for word, (dice, patient, which, pictures, folder) in chosen.items()
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
                    found.append((record.patients[patient], patient, which, pictures, record.folder))
        except (OSError, ValueError, KeyError, InputError, EOFError):
            continue
    return found


def _slices(folder: Path, pictures: Mapping[str, Any], which: str) -> list[Slice]:
    """Choose slices of a patient: a middle slice of ED and of ES, and the slice with the largest error.

    A middle slice is taken from the slices that show the structure according to the expert. If phases are unknown, there is one
    middle slice. The error of a slice is the number of pixels that belong to only one of the two masks.

    Args: folder: the folder of the run that stored the pictures. which: "best", "median" or "worst".
    """
    image, true, predicted, frames = (pictures[f"{which}_{part}"] for part in ("image", "true", "pred", "frame"))
    phases = _phases(folder, str(pictures[f"{which}_patient"]), len(image))
    chosen: dict[int, str] = {}
    for phase in ("ED", "ES") if {"ED", "ES"} & {*phases} else ("",):
        holding = [index for index, mask in enumerate(true) if phases[index] == phase and mask.any()]
        if holding:
            chosen[holding[len(holding) // 2]] = f"{phase}, middle" if phase else "middle"
    errors = (true ^ predicted).sum(axis=(1, 2))
    worst = int(np.argmax(errors))
    if errors[worst]:
        chosen[worst] = (
            f"{chosen[worst]} and largest error" if worst in chosen else f"{phases[worst]}, largest error".lstrip(", ")
        )
    return [
        (f"{word}: frame {frames[index]}{_dice(true[index], predicted[index])}", image[index], true[index], predicted[index])
        for index, word in chosen.items()
    ]


def _phases(folder: Path, patient: str, n: int) -> list[str]:
    """Return the phases of a patient's n slices, in the order of the pictures; empty if they are unknown."""
    rows = [row for row in read_table(folder, layout.SLICES) if row["which"] == "last" and row["patient"] == patient]
    return [row.get("phase", "") for row in rows] if len(rows) == n else [""] * n


def _dice(true: Mask, predicted: Mask) -> str:
    both = int(true.sum()) + int(predicted.sum())
    return f", Dice {2 * int((true & predicted).sum()) / both:.2f}" if both else ""
