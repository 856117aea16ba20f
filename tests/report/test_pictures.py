"""Which slices of a patient a report shows."""

import numpy as np
import pytest

from segtune.report import pictures
from segtune.runs import layout
from segtune.runs.tables import csv_text

N = 8  # slices: four of ED and four of ES; the expert has drawn nothing on the first and the last of each


def drawn(top, side):
    mask = np.zeros((32, 32), bool)
    mask[top : top + side, 8 : 8 + side] = True
    return mask


@pytest.fixture
def stored(tmp_path):
    """The pictures of a patient, and the folder of its run."""

    def stored(*, phases=("ED",) * 4 + ("ES",) * 4, wrong=6):
        rows = [
            {"which": which, "patient": patient, "phase": phase}
            for which in ("best", "last")
            for patient in ("P01", "P02")
            for phase in phases
        ]
        (tmp_path / layout.SLICES).write_text(csv_text(layout.SLICE_COLUMNS, rows))
        true = np.array([drawn(8, 0 if index % 4 in (0, 3) else 10) for index in range(N)])
        predicted = true.copy()
        if wrong is not None:
            predicted[wrong] = drawn(12, 14)
        found = {"true": true, "pred": predicted, "image": np.zeros((N, 32, 32), np.uint8), "frame": np.arange(100, 100 + N)}
        return tmp_path, {f"worst_{name}": array for name, array in found.items()} | {"worst_patient": np.array("P02")}

    return stored


def names(stored):
    return [(name.partition(":")[0], name.split("frame ")[1][:3]) for name, *_ in pictures._slices(*stored, "worst")]


def test_the_middle_slices_hold_the_structure_and_the_largest_error_is_added(stored):
    assert names(stored(wrong=7)) == [("ED, middle", "102"), ("ES, middle", "106"), ("ES, largest error", "107")]


def test_a_slice_is_shown_once(stored):
    assert names(stored(wrong=6)) == [("ED, middle", "102"), ("ES, middle and largest error", "106")]


def test_without_an_error_there_are_two(stored):
    assert names(stored(wrong=None)) == [("ED, middle", "102"), ("ES, middle", "106")]


@pytest.mark.parametrize("phases", [("",) * N, ("ED",) * 3], ids=["unknown", "of another number of slices"])
def test_without_phases_there_is_one_middle_slice(stored, phases):
    assert names(stored(phases=phases, wrong=1)) == [("middle", "105"), ("largest error", "101")]


def test_its_dice_is_that_of_the_slice(stored):
    folder, found = stored(wrong=6)
    (name, _, true, predicted) = pictures._slices(folder, found, "worst")[1]
    dice = 2 * (true & predicted).sum() / (true.sum() + predicted.sum())
    assert name.endswith(f"Dice {dice:.2f}")
