import json
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


@pytest.mark.slow
def test_the_published_study_in_one_process_is_timed_and_its_arithmetic_counted(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import study

    small = ["data.n_patients=10", "data.size=32", "model.width=2", "trainer.max_epochs=2", "trainer.accelerator=cpu"]
    monkeypatch.setattr(sys, "argv", ["study.py", "--study", "batch_size", "--out", str(tmp_path), *small])
    study.main()
    (file,) = tmp_path.glob("study-*.json")
    report = json.loads(file.read_text())
    assert report["runs"] == 2
    assert 0 < report["epochs_s"] < report["wall_s"]
    images = 2 * 2 * (3 * 135 + 15)  # runs x epochs x (3 x training + validation)
    assert report["tflop"] == pytest.approx(images * study.flop_per_image(small) / 1e12, abs=0.01)


def test_a_forward_pass_of_the_study_s_network_takes_3_6_gflop(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import study

    convolutions = [(1, 16, 256), (16, 32, 128), (32, 64, 64), (64, 128, 32), (128, 256, 16)]
    convolutions += [(2 * c, c, 16 * side) for c, side in ((128, 2), (64, 4), (32, 8), (16, 16))]
    by_hand = sum(2 * 9 * i * o * side**2 for i, o, side in convolutions) + 2 * 16 * 256**2
    by_hand += sum(2 * 9 * 2 * c * c * (16 * side) ** 2 // 4 for c, side in ((128, 2), (64, 4), (32, 8), (16, 16)))
    assert study.flop_per_image([]) == pytest.approx(by_hand, rel=1e-3)


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
