"""What befalls a sweep from outside: kill -9, a full disk, a read-only one, half files, two sweeps at once."""

import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from faults import killed
from segtune.runs.tables import read_history

pytestmark = pytest.mark.slow
ONE = ["loss=bce", "split=0.4", "reg=none"]
TWO = ["loss=bce", "split=0.4", "reg=none,l2", "-m"]


def segtune(*arguments):
    command = [sys.executable, "-m", "segtune", *killed.TINY, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


@contextmanager
def mounted(folder, options):
    """A file system of its own in this folder."""
    folder.mkdir(exist_ok=True)
    if os.geteuid():
        pytest.skip("only root can mount a file system")
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_sweep_that_is_killed_at_six_moments_ends_as_an_undisturbed_one(capsys):
    said = []
    assert killed.main(short=True, say=said.append), "\n".join(said)
    assert len(said) == 8


def test_a_full_disk_is_one_line_and_the_same_command_goes_on_when_there_is_room():
    folder = Path("small")
    with mounted(folder, "size=200k"):
        (folder / "filler").write_bytes(bytes(40_000))
        ended = segtune(*ONE, "model.width=4", f"outputs={folder}/o")
        assert ended.returncode == 1
        assert "Traceback" not in ended.stderr
        assert len(ended.stderr.strip().split("\n")) == 1
        assert "No space left on device" in ended.stderr
        assert not list(folder.rglob("result.json"))
        assert not list(folder.rglob("*.partial"))
        subprocess.run(["mount", "-o", "remount,size=50m", str(folder)], check=True)
        again = segtune(*ONE, "model.width=4", f"outputs={folder}/o")
        assert again.returncode == 0, again.stderr
        assert segtune(*ONE, "model.width=4", "outputs=o").returncode == 0
        assert killed.table(folder / "o") == killed.table(Path("o"))


def test_read_only_outputs_are_one_line():
    folder = Path("closed")
    with mounted(folder, "ro"):
        for command in (ONE, TWO):
            ended = segtune(*command, f"outputs={folder}")
            assert ended.returncode == 1
            assert len(ended.stderr.strip().split("\n")) == 1
            assert "Read-only file system" in ended.stderr


@pytest.mark.parametrize("name", ["result.json", "checkpoints/last.ckpt", "status.json"])
def test_half_a_file_costs_no_more_than_its_run_and_is_said_in_one_line(name):
    assert segtune(*TWO, "outputs=o").returncode == 0
    before = killed.table(Path("o"))
    run = sorted(Path("o/runs").iterdir())[0]
    for half in (name, *(["result.json"] if name.endswith("ckpt") else [])):
        content = (run / half).read_bytes()
        (run / half).write_bytes(content[: len(content) // 2])
    ended = segtune(*TWO, "outputs=o")
    assert ended.returncode == 0, ended.stderr
    counted = r"\b2 done, 0 .*resume\b" if name == "status.json" else r"\b1 done, 1 .*resume\b"
    assert re.search(counted, ended.stdout)
    if name.endswith("ckpt"):
        assert ended.stdout.count("damaged-1") == 1
        assert (run / "damaged-1" / name).exists()
    assert killed.table(Path("o")) == before


def test_two_sweeps_at_once_share_the_work_and_count_nothing_twice():
    command = [sys.executable, "-m", "segtune", *killed.TINY, "outputs=o", *killed.SHORT]
    pair = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [one.communicate(timeout=200) for one in pair]
    assert [one.returncode for one in pair] == [0, 0], said
    runs = [run["run_id"] for run in json.loads(Path("o/grid/sweep.json").read_text())["runs"]]
    trained = [line.split()[1] for out, _ in said for line in out.split("\n") if re.match(r"run \w+: Dice ", line)]
    assert sorted(trained) == sorted(f"{run}:" for run in runs)
    assert all(len(read_history(Path("o/runs") / run)["epoch"]) == 4 for run in runs)
    assert [path.name for path in Path("o/grid").iterdir() if path.name.startswith("sweep")] == ["sweep.json"]
    calm = segtune(*killed.SHORT, "outputs=calm")
    assert calm.returncode == 0
    assert killed.table(Path("o")) == killed.table(Path("calm"))


def test_the_folder_of_another_run_is_not_written_into():
    assert segtune(*ONE, "hydra.run.dir=mine").returncode == 0
    before = {path: path.stat().st_mtime_ns for path in Path("mine").rglob("*")}
    ended = segtune("loss=focal", "split=0.4", "reg=none", "hydra.run.dir=mine")
    assert ended.returncode == 1
    assert re.search(r"\bmine\b.*\bhydra\.run\.dir\b", ended.stderr)
    assert {path: path.stat().st_mtime_ns for path in Path("mine").rglob("*")} == before
