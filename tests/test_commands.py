"""Whole commands in processes of their own: exit codes, messages, what is left on disk."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from conftest import write_patient

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["trainer.max_epochs=1", "data.n_patients=4", "data.size=64"]
TINY = ["trainer.max_epochs=1", "data.n_patients=4", "data.size=32", "model.width=2", "trainer.threads=1"]
pytestmark = pytest.mark.slow


def segtune(*arguments, module="segtune", **env):
    """Run python -m segtune ...; warnings are errors there too."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", module, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | env,
        check=False,
    )


def tallied(text):
    """The runs that are done, to resume, failed and to run, in the first line that counts them."""
    return [*map(int, re.search(r"(\d+) done\D+(\d+)\D+resume\D+(\d+) failed\D+(\d+)", text).groups())]


def done_runs(folder="outputs"):
    return sorted(path.parent.name for path in Path(folder).glob("runs/*/result.json"))


def test_the_two_commands_as_typed_with_small_settings_appended():
    sweep = segtune("loss=focal", "split=0.6", "-m", *SMALL)
    assert sweep.returncode == 0, sweep.stderr
    assert len(done_runs()) == 6
    single = segtune("reg=l1", "reg.lambda=5e-7", *SMALL)
    assert single.returncode == 0, single.stderr
    assert len(done_runs()) == 7
    assert "━" not in single.stdout + single.stderr  # no progress bar without a terminal


def test_a_finished_run_is_skipped_with_one_line_that_says_so():
    first = segtune(*TINY)
    before = {path: path.stat().st_mtime_ns for path in Path("outputs").rglob("result.json")}
    second = segtune(*TINY)
    assert (first.returncode, second.returncode) == (0, 0)
    assert second.stdout.count("\n") == 1
    (run,) = done_runs()
    assert re.search(rf"\b{run}\b.*outputs/runs/{run}/result\.json", second.stdout)
    assert {path: path.stat().st_mtime_ns for path in Path("outputs").rglob("result.json")} == before


def test_a_sweep_runs_only_what_is_missing_and_the_report_draws_it():
    assert segtune("loss=bce", "split=0.4", "reg=none", "batch=10", *TINY).returncode == 0
    command = ["loss=bce", "split=0.4", "reg=none,l2", "batch=10", "reg.lambda=1e-4,1e-3", "-m", *TINY]
    sweep = segtune(*command)
    assert sweep.returncode == 0, sweep.stderr
    assert tallied(sweep.stdout) == [1, 0, 0, 2]
    assert re.search(r"\breg\.lambda\b.*\breg=l1,l2\b", sweep.stdout)
    report = segtune("sweep=outputs/grid", module="segtune.report")
    assert report.returncode == 0, report.stderr
    assert "outputs/grid/report.html" in report.stdout
    assert Path("outputs/grid/tables/runs.csv").read_text().count("\n") == 4
    about = json.loads(Path("outputs/grid/sweep.json").read_text())
    assert sorted(run["run_id"] for run in about["runs"]) == done_runs()
    again = segtune(*command)
    assert tallied(again.stdout) == [3, 0, 0, 0]
    assert not list(Path().rglob("sweep-1.json"))


def test_a_failed_run_does_not_stop_the_others_and_the_sweep_says_so():
    sweep = segtune("split.val_fraction=0.01,0.5", "loss=bce", "split=0.2", "reg=none", "batch=10", "-m", *TINY)
    assert sweep.returncode == 1
    assert len(done_runs()) == 1
    assert "1 completed, 1 failed" in sweep.stderr
    assert re.search(r"\bsplit\.val_fraction=0\.01\b.*\bvalidation\b", sweep.stderr)
    assert "Traceback" not in sweep.stderr


def test_hydra_s_own_launcher_gives_the_same_states():
    both = [*TINY, "loss=bce", "split=0.4", "reg=none,l2", "batch=10", "hydra/launcher=basic", "-m"]
    assert segtune(*both, "loss._target_=no.such.loss,segtune.losses.bce").returncode == 1
    assert len(done_runs()) == 2
    states = json.loads(segtune("sweep=outputs/grid", "json=true", module="segtune.status").stdout)["states"]
    assert (states["completed"], states["failed"]) == (2, 2)
    refused = segtune(*both, "seed=1", "on_failure=stop")
    assert refused.returncode == 1
    assert re.search(r"\bserial, local\b.*\bslurm\b", refused.stderr)


def test_a_report_tells_runs_of_other_hyperparameters_apart_and_leaves_damaged_ones_out():
    both = [*TINY, "loss=focal", "loss.gamma=1,2", "split=0.4", "reg=none", "batch=10", "-m"]
    assert segtune(*both).returncode == 0
    report = segtune("sweep=outputs/grid", module="segtune.report")
    assert report.returncode == 0, report.stderr
    cells = Path("outputs/grid/tables/cells.csv").read_text()
    assert "loss=focal loss.gamma=1" in cells
    assert "loss=focal loss.gamma=2" in cells
    one, other = done_runs()
    (Path("outputs/runs") / one / "history.csv").write_text("abc")
    report = segtune("sweep=outputs/grid", module="segtune.report")
    assert report.returncode == 0, report.stderr
    assert re.search(rf"^{one}\b.*history\.csv", report.stdout, flags=re.MULTILINE)
    (Path("outputs/runs") / other / "result.json").write_text("{}")
    report = segtune("sweep=outputs/grid", module="segtune.report")
    assert report.returncode == 1
    assert re.search(r"outputs/grid: .*\b2 runs\b", report.stderr)
    assert "Traceback" not in report.stderr
    again = segtune(*both)
    assert tallied(again.stdout)[:2] == [0, 2]  # both are made anew


def test_a_dry_run_writes_nothing():
    for mode in ([], ["-m"]):
        ended = segtune(*TINY, "loss=bce", "split=0.4", "reg=none", "batch=10", "dry_run=true", *mode)
        assert ended.returncode == 0, ended.stderr
        assert tallied(ended.stdout) == [0, 0, 0, 1]
    assert not list(Path().rglob("*.*"))


def rvsc(**settings):
    return ["data=rvsc", "data.root=real", "data.size=96", "model.width=2", "trainer.max_epochs=1", "trainer.threads=1"]


def damage_contour(name="P02-0022-icontour-manual.txt", text=None):
    path = next(Path("real").rglob(name))
    path.unlink() if text is None else path.write_text(text)


def damage_image(content):
    next(Path("real").rglob("P02-0022.dcm")).write_bytes(content)


BAD_INPUT = {
    "missing contour file": (damage_contour, rvsc(), r"P02list\.txt, line \d+: .*P02-0022-icontour-manual\.txt"),
    "contour of 2 points": (lambda: damage_contour(text="1 1\n2 2\n"), rvsc(), r"P02-0022-icontour-manual\.txt: .*\b3\b"),
    "NaN in a contour": (
        lambda: damage_contour(text="1 1\nnan 2\n3 3"),
        rvsc(),
        r"P02-0022-icontour-manual\.txt, line 2: 'nan 2'",
    ),
    "letters in a contour": (
        lambda: damage_contour(text="1 1\na b\n3 3"),
        rvsc(),
        r"P02-0022-icontour-manual\.txt, line 2: 'a b'",
    ),
    "contour outside": (
        lambda: damage_contour(text="900 1\n950 1\n900 50"),
        rvsc(),
        r"P02-0022-icontour-manual\.txt: .*\boutside\b",
    ),
    "somebody else's contour": (
        lambda: damage_contour(text=next(Path("real").rglob("P01-0022-icontour-manual.txt")).read_text()),
        rvsc(),
        r"\bP02\b.*\bP01\b.*data\.allow=\[duplicate_contour\]",
    ),
    "truncated DICOM": (
        lambda: damage_image(next(Path("real").rglob("P02-0022.dcm")).read_bytes()[:2000]),
        rvsc(),
        r"P02-0022\.dcm: damaged",
    ),
    "a PNG named .dcm": (
        lambda: damage_image(b"\x89PNG\r\n\x1a\n" + bytes(999)),
        rvsc(),
        r"P02-0022\.dcm: (?!damaged).*\bDICOM\b",
    ),
    "list names an absent frame": (
        lambda: next(Path("real").rglob("P02list.txt")).write_text("P02-0999-icontour-manual.txt"),
        rvsc(),
        r"P02list\.txt, line 1: .*\b0999\b",
    ),
    "empty folder": (lambda: Path("empty").mkdir(), [*rvsc(), "data.root=empty"], r"data\.root=empty: .*\bRVSC\b"),
    "no folder": (lambda: None, [*rvsc(), "data.root=nowhere"], r"data\.root=nowhere: (?!.*\bRVSC\b)"),
    "no root": (lambda: None, ["data=rvsc"], r"data\.root\b.*\bdata\.root=\.\.\."),
    "image larger than data.size": (lambda: None, [*rvsc(), "data.size=64"], r"\bdata\.size=96\b"),
    "a share that leaves a side empty": (
        lambda: None,
        [*rvsc(), "split.val_fraction=0.01"],
        r"\bsplit\.val_fraction=0\.01\b.*\bvalidation\b",
    ),
    "reg.lambda=-1": (lambda: None, ["reg=l1", "reg.lambda=-1"], r"reg\.lambda=-1: .*\b0\b"),
    "batch.size=0": (lambda: None, ["batch.size=0"], r"batch\.size=0: .*\bwhole\b"),
    "loss=foo": (lambda: None, ["loss=foo"], r"loss=foo: .*\bfocal\b"),
    "unknown key": (lambda: None, ["trainer.epochs=3"], r"trainer\.epochs: .*\btrainer\.max_epochs\b"),
    "unknown key in a sweep": (lambda: None, ["trainer.epochs=3", "-m"], r"trainer\.epochs: .*\btrainer\.max_epochs\b"),
    "unknown option in a sweep": (lambda: None, ["loss=bce,foo", "-m"], r"loss=foo: .*\bfocal\b"),
    "lambda without regulariser": (lambda: None, ["reg=none", "reg.lambda=1e-3"], r"reg\.lambda: .*\breg=l1, l2\b"),
    "value of the wrong kind": (lambda: None, ["trainer.max_epochs=many"], r"trainer\.max_epochs=many: .*\bwhole\b"),
    "text that is no override": (lambda: None, ["loss"], r"'loss'.*\bkey=value\b"),
    "a list in brackets": (lambda: None, ["loss=[bce,focal]"], r"\bloss=bce,focal -m"),
    "half a list": (lambda: None, ["loss=bce,"], r"'loss=bce,'.*\bkey=value,value\b"),
    "unknown argument of Lightning": (
        lambda: None,
        [*TINY, "+trainer.foo=1"],
        r"trainer\.foo: .*\bLightning\b",
    ),
    "unknown argument of a loss": (lambda: None, [*TINY, "+loss.foo=1"], r"loss: .*\bfoo\b"),
    "unknown argument of the network": (lambda: None, [*TINY, "+model.foo=1"], r"\bsegtune\.nets\.UNet\b.*'foo'"),
    "no such accelerator": (lambda: None, [*TINY, "trainer.accelerator=tpuu"], r"trainer\.accelerator=tpuu\b.*\bLightning\b"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_ends_with_one_message_and_no_traceback(name):
    damage, arguments, message = BAD_INPUT[name]
    for number in (1, 2, 3):
        scale = {frame: 1 - number / 10 - (frame - 20) / 100 for frame in (20, 22, 23)}
        write_patient(Path("real"), number, [20, 22, 23], n_frames=5, scale=scale)
    damage()
    ended = segtune(*arguments)
    assert ended.returncode == 1
    assert re.search(message, ended.stderr)
    assert "Traceback" not in ended.stderr
    assert ended.stderr.startswith("segtune: ")
    assert ended.stderr.count("\n") == 1
    assert not list(Path("outputs").rglob("result.json"))


def test_a_single_patient_is_refused():
    write_patient(Path("real"), 1, [20, 22, 23])
    ended = segtune(*rvsc())
    assert ended.returncode == 1
    assert re.search(r"\bsingle\b.*\bP01\b", ended.stderr)
    assert "Traceback" not in ended.stderr


def test_ctrl_c_ends_a_sweep_with_a_word_and_leaves_nothing_that_looks_done():
    command = [sys.executable, "-m", "segtune", *TINY, "loss=bce", "split=0.2", "reg=none", "-m"]
    process = subprocess.Popen(
        [*command, "trainer.max_epochs=100000"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    waited = 0.0
    while not list(Path().rglob("history.csv")) and waited < 60:
        time.sleep(0.1)
        waited += 0.1
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.fullmatch(r"segtune: .*\bSIGINT\b.*\n", said)
    assert done_runs() == []
    interrupted = next(Path().rglob("history.csv")).parent
    assert not (interrupted / "result.json").exists()
    assert len(list(Path().rglob("history.csv"))) == 1  # the sweep's second run did not start


def test_report_explains_what_it_misses():
    ended = segtune(module="segtune.report")
    assert (ended.returncode, "sweep=outputs/grid" in ended.stderr) == (1, True)
    ended = segtune("sweep=outputs/nothing", module="segtune.report")
    assert ended.returncode == 1
    assert re.search(r"outputs/nothing/sweep\.json: .*\(No such file", ended.stderr)


def test_help_lists_groups_and_options():
    ended = segtune("--help")
    assert ended.returncode == 0
    assert "loss: bce, bce_dice, bce_logdice, boundary, " in ended.stdout
    assert "split: 0.1, 0.2, 0.3, 0.4, 0.6, 0.8" in ended.stdout


def test_a_wheel_works_from_another_directory(tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    wheel = next((tmp_path / "dist").glob("*.whl"))
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    where = [sys.executable, "-c", "import segtune; print(segtune.__file__)"]
    found = subprocess.run(where, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(site)}, check=True)
    assert found.stdout.startswith(str(site))
    assert (site / "segtune" / "py.typed").is_file()
    ended = segtune("loss=focal", "split=0.6", "-m", *TINY, "reg=none", PYTHONPATH=str(site))
    assert ended.returncode == 0, ended.stderr
    assert len(done_runs()) == 2
    result = json.loads(next(Path("outputs").rglob("result.json")).read_text())
    assert result["git"] is None


def test_a_hand_made_patient_in_the_real_format_trains():
    for number in (1, 2, 3):
        write_patient(Path("real"), number, [20, 28, 40, 48], n_frames=40, scale={28: 0.7, 48: 0.7})
    ended = segtune(*rvsc(), "split=0.4", "data.target=epicardium", "data.allow=[duplicate_contour]")
    assert ended.returncode == 0, ended.stderr
    rows = np.genfromtxt(next(Path("outputs").rglob("slices.csv")), delimiter=",", names=True, dtype=None, encoding="utf8")
    assert set(rows["phase"]) == {"ED", "ES"}
    assert set(rows["n_true"]) == {24 * 24, round(20 * 1.2 * 0.7) ** 2}
