import numpy as np
import pytest

from segtune.data import slices
from segtune.data.slices import Slice
from segtune.errors import InputError


def slice_of(patient, shown, index=0):
    mask = np.zeros((8, 8), bool)
    mask[2, 2] = shown
    return Slice(np.ones((8, 8), np.float32), mask, patient, 1, index, "ED", (0.7, 0.7), 8.4)


ITEMS = [slice_of("a", False), slice_of("a", True, 1), slice_of("b", True), slice_of("b", False, 1)]


def test_keep_takes_all_slices_and_drop_those_that_show_the_structure():
    assert [*slices.collected(ITEMS, empty="keep")] == ITEMS
    assert [*slices.collected(iter(ITEMS), empty="drop")] == [ITEMS[1], ITEMS[2]]


@pytest.mark.parametrize("empty", ["keep", "drop"])
def test_a_set_without_the_structure_is_refused(empty):
    with pytest.raises(InputError, match=r"data.target: .*\b2 slices\b"):
        slices.collected([ITEMS[0], ITEMS[3]], empty=empty)


def test_a_patient_of_whom_nothing_is_left_is_named():
    with pytest.raises(InputError, match=r"data.empty=drop .*\bpatient b\b"):
        slices.collected([ITEMS[1], ITEMS[3]], empty="drop")


def test_reading_stops_before_the_memory_is_full(monkeypatch):
    monkeypatch.setattr(slices, "_memory_bytes", lambda: 2 * 3 * 8 * 8 * 5)

    with pytest.raises(InputError, match=r"\bpatient a\b.* GB\b.*\b50%.*\bdata.empty=drop\b"):
        slices.collected([ITEMS[1]] * 99, empty="keep")
    assert len(slices.collected(ITEMS[:3], empty="keep")) == 3
