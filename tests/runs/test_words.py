import pytest

from segtune.runs.words import count, duration


@pytest.mark.parametrize(
    ("seconds", "words"), [(12, "12 s"), (89, "89 s"), (90, "2 min"), (5000, "83 min"), (7000, "1 h 57 min")]
)
def test_durations_read_well(seconds, words):
    assert duration(seconds) == words


def test_a_count_has_its_plural():
    assert [count(n, "run") for n in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]
