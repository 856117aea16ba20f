import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segtune.config import entry
from segtune.runs import identity, layout
from segtune.runs.state import lock, write_status
from segtune.runs.sweep import write_sweep
from segtune.runs.tables import append_history
from segtune.sweeps import overview, plan
from segtune.sweeps.progress import listing

CONFIG = entry.plain(entry.compose(["loss=bce"]))
OTHER = entry.plain(entry.compose(["loss=focal", "split=0.6"]))
MEMORY = {"kind": "out of memory", "message": "out of memory: choose a smaller batch.size", "traceback": ""}
HERE = {"host": socket.gethostname(), "pid": os.getpid()}


def have(states, configs=(CONFIG, OTHER), folder="outputs/grid"):
    """A sweep whose runs are in these states."""
    runs = []
    for number, state in enumerate(states):
        config, name = configs[number % len(configs)], f"{number:012x}"
        runs.append({"run_id": name, "overrides": [f"seed={number}"], "axes": identity.axes(config)})
        place = Path(folder).parent / "runs" / name
        if state == "missing":
            continue
        place.mkdir(parents=True)
        about = {"run_id": name, "config": config, "overrides": []} | HERE
        if state == "completed":
            done = {"run_id": name, "config": config, "seconds": 30.0}
            (place / "result.json").write_text(json.dumps(done))
        if state == "failed":
            about["error"] = MEMORY
        if state == "interrupted":
            about["signal"] = "SIGTERM"
        write_status(place, "running" if state == "stale" else state, **about)
        if state == "stale":
            (place / layout.LOCK).touch()
            append_history(place, dict.fromkeys(layout.HISTORY_COLUMNS, 1.0))
    write_sweep(Path(folder), command=["python", "-m", "segtune", "-m"], runs=runs)
    return Path(folder)


def command(*arguments):
    began = time.perf_counter()
    ended = subprocess.run([sys.executable, "-m", "segtune.status", *arguments], capture_output=True, text=True, check=False)
    return ended, time.perf_counter() - began


STATES = ["completed", "completed", "queued", "failed", "failed", "interrupted", "stale", "missing"]


def test_status_counts_per_state_and_axis_and_groups_failures():
    found = overview.read_overview(have(STATES))
    assert found["n_runs"] == 8
    assert found["states"] == {
        **{"completed": 2, "running": 0, "queued": 1, "interrupted": 1, "stale": 1, "failed": 2, "missing": 1}
    }
    assert found["axes"]["loss"] == {
        "bce": {"completed": 1, "queued": 1, "failed": 1, "stale": 1},
        "focal": {"completed": 1, "failed": 1, "interrupted": 1, "missing": 1},
    }
    assert [(one["kind"], len(one["runs"])) for one in found["failures"]] == [("out of memory", 2)]
    assert [run["epochs_done"] for run in found["runs"] if run["state"] == "stale"] == [1]
    for axis in found["axes"].values():
        assert sum(sum(states.values()) for states in axis.values()) == 8


def test_a_run_that_somebody_works_on_is_running():
    folder = have(["stale"])
    with lock(Path("outputs/runs/000000000000")):
        assert overview.read_overview(folder)["states"]["running"] == 1


def test_time_left_comes_from_finished_runs():
    assert overview.read_overview(have(["completed", "interrupted"], configs=(CONFIG,)))["seconds_left"] == pytest.approx(30)
    assert overview.read_overview(have(["queued"], folder="other/grid"))["seconds_left"] is None


def test_the_table_says_all_of_it_in_words():
    text = overview.overview_table(overview.read_overview(have(STATES)))
    for words in (
        *("outputs/grid: 8 runs", "completed", "focal", r"0\.6", r"\btime\b.*\d+ (s|min)\b"),
        rf"failed, 2 \(out of memory\): {MEMORY['message']} .*000000000003\b.*000000000004\b",
        *(r"stale: 000000000006\b.*\b1 epochs?\b", r"interrupted: 000000000005\b.*\b0 epochs\b.*\bSIGTERM\b"),
    ):
        assert re.search(words, text)
    assert overview.MEANING in text.replace("\n", " ")
    assert "reg" not in text  # an axis that does not vary


def test_a_message_cannot_colour_the_table():
    folder = have(["failed"])
    path = Path("outputs/runs/000000000000/status.json")
    said = json.loads(path.read_text())
    said["error"]["message"] = "[bold red]boo[/bold red]"
    path.write_text(json.dumps(said))
    assert "[bold red]boo[/bold red]" in overview.overview_table(overview.read_overview(folder))


@pytest.mark.parametrize(("states", "code"), [(["completed", "failed"], 1), (["completed", "queued"], 0), (["stale"], 0)])
def test_the_exit_code_is_1_if_anything_failed(states, code):
    have(states)
    assert command("sweep=outputs/grid")[0].returncode == code
    ended, _ = command("sweep=outputs/grid", "json=true")
    assert ended.returncode == code
    assert json.loads(ended.stdout)["n_runs"] == len(states)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "sweep=outputs/grid"),
        (["sweep=nowhere"], r"nowhere/sweep.json: .*\(No such file"),
        (["sweep=x", "json=maybe"], "json=maybe: .*true.*false"),
    ],
)
def test_bad_input_is_one_line(arguments, words):
    ended, _ = command(*arguments)
    assert ended.returncode == 1
    assert re.search(words, ended.stderr)
    assert ended.stderr.count("\n") == 1


def test_a_damaged_sweep_file_is_one_line():
    folder = have(["completed"])
    for content in ('{"runs": [', "[]", "{}", '{"runs": [{}], "command": []}', '{"runs": [{"run_id": "../../etc"}]}'):
        (folder / "sweep.json").write_text(content)
        ended, _ = command("sweep=outputs/grid")
        assert ended.returncode == 1
        assert "sweep.json: damaged" in ended.stderr
        assert ended.stderr.count("\n") == 1


def test_a_thousand_runs_are_read_without_torch():
    """How long it takes is measured by benchmarks/many_runs.py."""
    have([STATES[number % len(STATES)] for number in range(1000)])
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['matplotlib'] = None\n"
        "sys.argv = ['status', 'sweep=outputs/grid', 'json=true']\n"
        "import runpy; runpy.run_module('segtune.status', run_name='__main__')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 1, ended.stderr
    assert json.loads(ended.stdout)["states"]["completed"] == 250


def test_listing_shows_what_differs():
    label = "loss=bce split=0.2 reg=none batch=15 seed="
    runs = [plan.Run(str(n), [], CONFIG, Path("outputs/runs") / str(n), "missing", {}, f"{label}{n}") for n in (1, 2)]
    lines = listing(runs).split("\n")
    assert lines[0] == "1  missing      loss=bce split=0.2 reg=none batch=15 seed=1"
    assert re.findall(r"\d+", lines[-1]) == ["2", "0", "0", "0", "2"]  # runs: done, to resume, failed, to run; no time


ESCAPE = "\x1b]0;owned\x07\x1b[31m\u202e[link=http://x]"


def test_nothing_that_a_foreign_sweep_says_reaches_the_terminal_s_controls():
    folder = have(["failed", "interrupted", "stale", "completed"])
    about = json.loads((folder / layout.SWEEP).read_text())
    for number, run in enumerate(about["runs"]):
        run["axes"] = {f"loss{ESCAPE}": f"{number}{ESCAPE}"}
        path = folder.parent / "runs" / run["run_id"] / layout.STATUS
        said = json.loads(path.read_text())
        said |= {"host": ESCAPE, "job": ESCAPE, "signal": ESCAPE}
        said["error"] = {"kind": ESCAPE, "message": f"one\ntwo{ESCAPE}"}
        path.write_text(json.dumps(said))
    about["command"] = [ESCAPE]
    (folder / layout.SWEEP).write_text(json.dumps(about))
    found = overview.read_overview(folder)
    for text in (overview.overview_table(found), json.dumps(found)):
        assert all(character.isprintable() or character == "\n" for character in text)
    assert "[link=http://x]" in overview.overview_table(found)
    assert "one\ntwo" in overview.overview_table(found)


@pytest.mark.parametrize(
    "config", [[], {}, {"trainer": 5}, {"trainer": {"max_epochs": "a"}}, {"trainer": {"max_epochs": 1e400}}]
)
@pytest.mark.parametrize("seconds", ["a", None, -1, float("nan"), 10**400])
def test_a_foreign_status_or_result_of_wrong_kinds_is_no_traceback(config, seconds):
    folder = have(["failed", "completed", "stale"])
    for place in (folder.parent / "runs").iterdir():
        for name in (layout.STATUS, layout.RESULT):
            if (place / name).exists():
                said = json.loads((place / name).read_text())
                (place / name).write_text(json.dumps(said | {"config": config, "seconds": seconds, "error": config}))
    (folder.parent / "runs" / "000000000002" / layout.HISTORY).write_text("epoch,seconds\n1,nan\n")
    assert overview.overview_table(overview.read_overview(folder))
