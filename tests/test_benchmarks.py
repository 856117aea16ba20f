import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch

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
    rows = speed.medians(speed.in_turn(sides, 1, tmp_path))
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
    assert report["tflops"] == pytest.approx(report["tflop"] / report["wall_s"], abs=1e-3)
    assert {"processor", "cores", "gpu", "git", "python", "torch"} == set(report["machine"])
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


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--part", "foo"], "--part: foo: .*run, sweep, growth"),
        (["--part", "run,"], "--part: .*run, sweep, growth"),
        (["--repeats", "0"], r"--repeats: 0: .*\b1\b"),
        (["--keras", "no/such/python"], "--keras: no/such/python: .*tensorflow-cpu"),
        (["--keras", sys.executable], f"--keras: {sys.executable}: .*tensorflow-cpu"),
    ],
)
def test_options_of_the_speed_benchmark_that_cannot_be_are_refused_before_it_starts(options, words, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import speed

    monkeypatch.setattr(sys, "argv", ["speed.py", *options])
    with pytest.raises(SystemExit) as ended:
        speed.main()
    assert ended.value.code == 2
    assert re.search(words, capsys.readouterr().err)


def test_every_repeat_s_values_stay_beside_their_median(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import speed

    values = iter([1.0, 5.0, 3.0])
    measures = ("epoch_s", "wall_s", "cpu_s", "peak_mb", "load_before")
    monkeypatch.setattr(speed, "measure", lambda command, folder: dict.fromkeys(measures, next(values)))
    found = speed.in_turn({"segtune": [["x"]]}, 3, tmp_path)
    assert [one["wall_s"] for one in found["segtune"]] == [1, 5, 3]
    assert speed.medians(found)["segtune"]["wall_s"] == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--peak-tflops", "0"], "--peak-tflops: 0: "),
        (["loss=foo"], "^study.py: loss=foo: "),
        (["--study", "foo"], "^study.py: study=foo: "),
        (["data.size=100"], r"^study.py: data.size=100: .*\b16\b"),
    ],
)
def test_what_the_study_benchmark_cannot_do_is_said_before_the_sweep(options, words, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import study

    monkeypatch.setattr(study.subprocess, "run", lambda *_, **__: pytest.fail("the sweep started"))
    monkeypatch.setattr(sys, "argv", ["study.py", *options])
    with pytest.raises(SystemExit) as ended:
        study.main()
    assert re.search(words, f"{ended.value.code} {capsys.readouterr().err}")


def test_a_sweep_of_the_study_benchmark_that_fails_ends_it_with_one_sentence(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import study

    monkeypatch.setattr(study.subprocess, "run", lambda command, **_: study.subprocess.CompletedProcess(command, 1))
    monkeypatch.setattr(sys, "argv", ["study.py", "data.size=32", "model.width=2"])
    with pytest.raises(SystemExit, match=r"^study.py: .*\bcode 1\b"):
        study.main()


def test_a_digest_knows_every_result_of_a_run_and_nothing_of_its_speed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import digests
    import torch

    run = tmp_path / "0123456789"
    (run / "checkpoints").mkdir(parents=True)
    for name in ("last.ckpt", "best.ckpt"):
        torch.save({"state_dict": {"weight": torch.arange(3.0)}}, run / "checkpoints" / name)
    for name in digests.TABLES:
        (run / name).write_text("epoch,seconds,dice\n1,0.5,0.25\n")
    before = digests.digest(run)

    (run / "history.csv").write_text("epoch,seconds,dice\n1,7.5,0.25\n")
    assert digests.digest(run) == before
    for name in digests.TABLES:
        kept = (run / name).read_text()
        (run / name).write_text("epoch,seconds,dice\n1,0.5,0.26\n")
        assert digests.digest(run) != before
        (run / name).write_text(kept)
    torch.save({"state_dict": {"weight": torch.tensor([0.0, 1.0, 2.0000002])}}, run / "checkpoints" / "best.ckpt")
    assert digests.digest(run) != before


@pytest.mark.slow
def test_what_the_recipes_cost_is_measured_side_by_side(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import recipes

    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["recipes.py", "--steps", "2", "data.n_patients=4", "data.size=64", "model.width=2"])
    recipes.main()
    torch.set_num_threads(threads)
    rows = re.findall(
        r"^\| (study|strong.*?) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \| ([\d.]+) \|$", capsys.readouterr().out, re.M
    )
    assert [row[0] for row in rows] == ["study", "strong", "strong, half resolution"]
    assert [int(row[2]) for row in rows][1:] == [1000, 800]
    assert float(rows[0][5]) == 1
