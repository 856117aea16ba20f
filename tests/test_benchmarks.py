import math
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.slow
def test_both_sides_of_the_speed_benchmark_run_and_are_measured(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import speed

    case = speed.Case.of(tmp_path, 4, 32)
    sides = {
        "segtune": [speed.segtune(case, 2, "model.width=2", "outputs={}")],
        "usual stack": [speed.usual(case, 2, "--folder", "{}", "--memory")],
    }
    rows = speed.in_turn(sides, 1, tmp_path)
    assert all(math.isfinite(value) and value >= 0 for row in rows.values() for value in row.values())
    assert rows["segtune"]["peak_mb"] > 100
    assert "(1.00x)" in speed.table("One run", rows, "segtune")
    assert len(next(tmp_path.rglob("slices.csv")).read_text().splitlines()) > 2


def test_a_side_that_fails_ends_the_benchmark_with_what_it_said(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import speed

    with pytest.raises(SystemExit, match="no such data"):
        speed.measure([sys.executable, "-c", "raise SystemExit('no such data')"], tmp_path)


def test_each_measurement_writes_into_a_folder_of_its_own(tmp_path, monkeypatch):
    """Else a second part would find the runs of the first done and take no time."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import speed

    code = "import pathlib, sys; (pathlib.Path(sys.argv[1]) / 'seconds.json').open('x').write('[1, 2]')"
    for _ in range(2):
        assert speed.measure([sys.executable, "-c", code, "{}"], tmp_path)["epoch_s"] == 2
