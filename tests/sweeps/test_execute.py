"""One run under every circumstance (execute), and many in this process or beside it."""

import dataclasses
import logging
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from conftest import TINY, write_patient
from segtune.config import entry
from segtune.errors import InputError, Interrupted
from segtune.report import reading
from segtune.runs import identity, inputs, layout
from segtune.runs import state as runs_state
from segtune.runs.result import is_done, read_result, without_measurements, write_result
from segtune.runs.state import LostError, lock, read_status, state_of, write_status
from segtune.runs.sweep import write_sweep
from segtune.runs.tables import read_history
from segtune.sweeps import local as sweeps_local
from segtune.sweeps import plan
from segtune.sweeps.execute import describe_failure, execute
from segtune.sweeps.launch import Sweep
from segtune.sweeps.local import run_in_processes, visible_gpus
from segtune.sweeps.progress import Progress
from segtune.sweeps.serial import run_serially
from segtune.training import run as training_run
from segtune.training.module import Segmenter


def planned(*overrides):
    config = entry.plain(entry.compose([*TINY, "trainer.threads=1", "figures=false", *overrides]))
    run_id = identity.run_id(config)
    folder = Path("outputs/runs") / run_id
    return plan.Run(run_id, list(overrides), config, folder, state_of(folder, run_id)[0])


def broken(kind):
    return planned("loss=bce", f"loss._target_=broken_losses.{kind}")


def whole(runs, halt=None):
    return Sweep(Path("outputs/grid"), halt, Progress(runs))


@pytest.fixture
def trained(monkeypatch):
    """Replaces training by a list of what would have been trained."""
    seen = []

    def note(cfg, folder, *, bar):
        seen.append(folder.name)
        write_result(folder, result={"run_id": folder.name}, tables={name: [] for name in layout.TABLES}, pictures={})

    monkeypatch.setattr(training_run, "train", note)
    return seen


def test_a_run_says_running_and_then_completed(monkeypatch):
    run, seen = planned(), []
    monkeypatch.setattr(training_run, "train", lambda cfg, folder, bar: seen.append(read_status(folder)))
    execute(run)
    assert (seen[0]["state"], seen[0]["run_id"], seen[0]["pid"]) == ("running", run.run_id, os.getpid())
    assert read_status(run.folder)["state"] == "completed"
    assert read_status(run.folder)["config"] == run.config


def said_done(run, caplog):
    """Whether the last message, which is no warning, is one that names the run and its result and no folder set aside."""
    last, message = caplog.records[-1], caplog.messages[-1]
    return last.levelname == "INFO" and f"{run.run_id} " in message and message.endswith(str(run.folder / "result.json"))


def test_a_finished_run_is_skipped_until_its_data_change(caplog):
    caplog.set_level("INFO")
    run = planned("data.seed=7")
    execute(run)
    before = (run.folder / "result.json").read_bytes()
    execute(run)
    assert said_done(run, caplog)
    assert (run.folder / "result.json").read_bytes() == before
    contour = next(Path(os.environ["XDG_CACHE_HOME"]).glob("segtune/**/*seed7*/**/*icontour*.txt"), None)
    contour = (
        contour or sorted(Path(os.environ["XDG_CACHE_HOME"]).rglob("*icontour*.txt"), key=lambda path: path.stat().st_mtime)[-1]
    )
    lines = contour.read_text().splitlines()
    contour.write_text("\n".join(lines[: len(lines) // 2]) + "\n")
    assert plan.Changed()(run.folder, run.config) == ["data"]
    execute(run)
    assert len([message for message in caplog.messages if re.search(r"\bdata\b.*other-data-1", message)]) == 1
    assert (run.folder / "other-data-1" / "result.json").read_bytes() == before
    assert is_done(run.folder, run.run_id)


def test_a_finished_run_whose_data_cannot_be_read_now_keeps_its_result(tmp_path):
    for number in (1, 2):
        write_patient(tmp_path / "data", number, [20, 22], scale={20: 1 - number / 10, 22: 0.93 - number / 10})
    settings = ["data=rvsc", f"data.root={tmp_path / 'data'}", "data.size=96", "split=0.4", "model.width=2"]
    settings += ["trainer.max_epochs=1", "trainer.threads=1", "trainer.accelerator=cpu", "figures=false", "outputs=o"]
    config = entry.plain(entry.compose(settings))
    run = plan.Run(identity.run_id(config), settings, config, Path("o/runs") / identity.run_id(config), "missing")
    execute(run)
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    with pytest.raises(Exception, match=f"data.root={tmp_path / 'data'}: ") as caught:
        execute(run)
    assert isinstance(caught.value.__cause__, InputError)  # Hydra's own error wraps it
    assert is_done(run.folder, run.run_id)
    (tmp_path / "elsewhere").rename(tmp_path / "data")
    execute(run)
    assert not list(run.folder.glob("other-data-*"))


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (InputError("no such file: add it"), "input", "no such file: add it"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "out of memory", "batch.size"),
        (MemoryError(), "out of memory", "batch.size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory", "model.width"),
        (ZeroDivisionError("oops"), "error", "ZeroDivisionError: oops"),
        (OSError(28, "No space left on device", "outputs/x"), "input", "outputs/x: No space left on device"),
    ],
)
def test_a_failure_has_a_kind_and_advice(error, kind, words, monkeypatch):
    def fail(cfg, folder, *, bar):
        raise error

    run = planned()
    monkeypatch.setattr(training_run, "train", fail)
    with pytest.raises(type(error)):
        execute(run)
    status = read_status(run.folder)
    assert (status["state"], status["error"]["kind"]) == ("failed", kind)
    assert words in status["error"]["message"]
    assert ("Traceback" in status["error"]["traceback"]) == (kind == "error")
    assert words in (run.folder / "segtune.log").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_interrupts_a_run_which_says_so_and_can_go_on(number, monkeypatch):
    handler = signal.getsignal(number)
    monkeypatch.setattr(
        training_run, "train", lambda cfg, folder, bar: os.kill(os.getpid(), number) or threading.Event().wait(5)
    )
    run = planned()
    with pytest.raises(Interrupted):
        execute(run)
    status = read_status(run.folder)
    assert (status["state"], status["signal"]) == ("interrupted", signal.Signals(number).name)
    assert signal.getsignal(number) == handler
    with lock(run.folder):
        pass


def test_a_status_that_cannot_be_written_does_not_hide_why_the_run_failed(monkeypatch, caplog):
    def fail(cfg, folder, *, bar):
        monkeypatch.setattr(runs_state, "write_status", full)
        raise OSError(28, "No space left on device", "outputs/x")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    run = planned()
    monkeypatch.setattr(training_run, "train", fail)
    with pytest.raises(OSError, match="outputs/x"):
        execute(run)
    assert re.search(r"status\.json: .*\(No space", caplog.text)
    assert state_of(run.folder, run.run_id)[0] == "stale"


def test_a_run_that_another_process_has_comes_last(trained):
    runs = [planned(f"seed={seed}") for seed in (1, 2, 3)]
    held, release = threading.Event(), threading.Event()

    def hold():
        with lock(runs[0].folder):
            held.set()
            release.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    progress = whole(runs)
    ended = progress.progress.ended
    progress.progress.ended = lambda failed: (release.set(), ended(failed=failed))
    assert run_serially(runs, progress) == {}
    thread.join()
    assert trained == [runs[1].run_id, runs[2].run_id, runs[0].run_id]


def test_here_goes_on_after_a_failure_or_stops_if_told(trained, monkeypatch, tmp_path):
    note = training_run.train

    def fail_once(experiment, folder, *, bar):
        if experiment.seed == 2:
            raise InputError("this one is bad")
        note(experiment, folder, bar=bar)

    monkeypatch.setattr(training_run, "train", fail_once)
    runs = [planned(f"seed={seed}") for seed in (1, 2, 3)]
    assert run_serially(runs, None)[runs[1].run_id]["message"] == "this one is bad"
    assert trained == [runs[0].run_id, runs[2].run_id]
    again = [planned(f"seed={seed}") for seed in (4, 2, 5)]
    run_serially(again, None, halt=tmp_path / "halt")
    assert trained[2:] == [again[0].run_id]


@pytest.mark.slow
def test_local_workers_give_the_same_and_survive_what_befalls_one_of_them(caplog):
    caplog.set_level("INFO")
    good = [planned(f"seed={seed}", "loss=bce") for seed in (1, 2, 3)]
    bad = [broken(kind) for kind in ("raises", "killed", "out_of_memory", "not_finite", "too_large")]
    runs = [bad[0], good[0], bad[1], bad[2], good[1], bad[3], bad[4], good[2]]
    failures = run_in_processes(runs, whole(runs), workers=2, per_gpu=1)
    assert [failures[run.run_id]["kind"] for run in bad] == ["error", "killed", "out of memory", "not finite", "out of memory"]
    assert "SIGKILL" in failures[bad[1].run_id]["message"]
    assert "raised on purpose" in failures[bad[0].run_id]["traceback"]
    assert len(failures) == 5
    for run in bad:
        assert state_of(run.folder, run.run_id)[0] == "failed"
    os.environ.pop("OMP_NUM_THREADS", None)
    for run in good:
        there = read_history(run.folder)
        alone = plan.replace(run, folder=Path("alone") / run.run_id)
        execute(alone)
        here = read_history(alone.folder)
        assert [h.pop("seconds") is not None for h in (there, here)] == [True, True]
        assert there == here


@pytest.mark.slow
def test_local_workers_stop_at_the_first_failure_if_told(tmp_path):
    runs = [broken("raises"), *(planned(f"seed={seed}") for seed in range(6))]
    run_in_processes(runs, whole(runs, halt=tmp_path / "halt"), workers=1, per_gpu=1)
    assert [state_of(run.folder, run.run_id)[0] for run in runs] == ["failed"] + ["missing"] * 6


def test_gpus_are_those_that_may_be_seen(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert visible_gpus() == ["2", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'GPU 0: one (UUID: GPU-a)'\necho 'GPU 1: two (UUID: GPU-b)'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert visible_gpus() == ["0", "1"]


class Hired:
    """In place of a worker process: notes its place and finishes every run at once."""

    places = []  # noqa: RUF012 - one list for all, on purpose

    def __init__(self, place):
        self.place, self.run = place, None
        Hired.places.append(place)
        self.read, self.pipe = os.pipe()
        os.write(self.pipe, b"x")
        self.pipe = self.read
        self.process = subprocess.Popen(["true"])
        self.process.join, self.process.is_alive = self.process.wait, lambda: True

    def give(self, run, wait):
        self.run = run

    def result(self):
        run, self.run = self.run, None
        return run, {}

    def dismiss(self):
        os.close(self.read)


@pytest.mark.parametrize(
    ("workers_", "per_gpu", "accelerator", "expected"),
    [
        (None, 1, "auto", ["0", "1"]),
        (None, 2, "gpu", ["0", "1", "0", "1"]),
        (3, 1, "auto", ["0", "1", "0"]),
        (None, 1, "cpu", [None, None]),
    ],
)
def test_workers_share_gpus_and_cores_out(workers_, per_gpu, accelerator, expected, monkeypatch):
    monkeypatch.setattr(sweeps_local, "visible_gpus", lambda: ["0", "1"])
    monkeypatch.setattr(sweeps_local, "_Worker", Hired)
    monkeypatch.setattr(Hired, "places", [])
    monkeypatch.setattr(sweeps_local.os, "sched_getaffinity", lambda pid: set(range(8)))
    runs = [planned(f"trainer.accelerator={accelerator}", f"seed={seed}") for seed in range(5)]
    run_in_processes(runs, whole(runs), workers=workers_, per_gpu=per_gpu)
    assert [place.get("CUDA_VISIBLE_DEVICES") for place in Hired.places] == expected
    assert {place["OMP_NUM_THREADS"] for place in Hired.places} == {str(8 // len(expected))}


def test_logging_is_left_as_it_was(trained):
    logger = logging.getLogger("segtune")
    before = (list(logger.handlers), logger.level)
    execute(planned())
    assert (logger.handlers, logger.level) == before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
@pytest.mark.slow
def test_memory_once_freed_is_kept_unless_told_otherwise():
    """Pages that the kernel has to hand out, and zero, anew in a training step: the least of four, once it has settled."""
    code = (
        "from segtune.training.process import settle_process; settle_process()\n"
        "import resource, torch\n"
        "from segtune import nets\n"
        "torch.set_num_threads(1); net, image = nets.UNet(width=8), torch.zeros(10, 1, 128, 128)\n"
        "faults = [0]\n"
        "for step in range(8):\n"
        "    net(image).sum().backward()\n"
        "    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)\n"
        "print(min(after - before for before, after in zip(faults[4:], faults[5:])))"
    )
    faults = {}
    for setting in ("", "default"):
        env = os.environ | {"SEGTUNE_MALLOC": setting}
        faults[setting] = int(subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True).stdout)
    assert 10 * faults[""] < faults["default"]


@pytest.mark.parametrize("how", ["gone", "taken over"])
def test_a_run_whose_folder_is_lost_while_it_trains_stops_and_leaves_nothing(how, monkeypatch, caplog):
    run, step, seen = planned("data.seed=7", "trainer.max_epochs=5"), Segmenter.training_step, []

    def lose(self, *arguments):
        seen.append(1)
        if len(seen) == 5:
            if how == "gone":
                shutil.rmtree(run.folder)
            else:
                write_status(run.folder, "running", attempt="another's", pid=1, host="elsewhere")
        return step(self, *arguments)

    monkeypatch.setattr(Segmenter, "training_step", lose)
    with pytest.raises(LostError) as caught:
        execute(run)
    assert describe_failure(caught.value)["kind"] == "taken over"
    if how == "gone":
        assert not run.folder.exists()
    else:
        assert read_status(run.folder)["attempt"] == "another's"
        assert not (run.folder / "result.json").exists()


@pytest.fixture
def repaired():
    """The folder of a finished run, and a function that starts it again and says whether it leaves the same."""
    run = planned("data.seed=7")
    execute(run)
    names = ("slices.csv", "cases.csv", "patients.csv", "pictures.npz")
    before = {name: (run.folder / name).read_bytes() for name in names}
    result = without_measurements(read_result(run.folder))

    def again():
        execute(run)
        return (
            {name: (run.folder / name).read_bytes() for name in names} == before
            and without_measurements(read_result(run.folder)) == result
            and is_done(run.folder, run.run_id)
        )

    return run.folder, again


@pytest.mark.parametrize("name", ["slices.csv", "pictures.npz", "result.json"])
def test_what_is_derived_is_made_again_from_sound_checkpoints(name, repaired, monkeypatch, caplog):
    folder, again = repaired
    path = folder / name
    if name == "result.json":
        path.write_text(path.read_text().replace('"val_dice": 0.', '"val_dice": 0.9'))
    else:
        path.write_bytes(b"")
    monkeypatch.setattr(Segmenter, "training_step", None)  # nothing is trained
    assert again()
    assert re.search(rf"\b{re.escape(name)}\b.*{folder}/damaged-1\b", caplog.text)
    assert (folder / "damaged-1" / name).exists()


@pytest.mark.parametrize("name", ["history.csv", "checkpoints/best.ckpt", "checkpoints/last.ckpt"])
def test_a_run_of_which_history_or_checkpoints_are_damaged_is_trained_again(name, repaired, caplog):
    folder, again = repaired
    path = folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert again()
    assert (folder / "damaged-1" / name).read_bytes() == content


def test_an_edited_loss_of_the_users_own_is_trained_anew_and_the_line_says_why(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_lab.py").write_text(
        "from own_helpers import factor\nfrom segtune.losses import bce\n"
        "def mine(logits, target):\n    return factor * bce(logits, target)\n"
    )
    (tmp_path / "own_helpers.py").write_text("factor = 1\n")
    run = planned("data.seed=7", "loss=bce", "loss._target_=own_lab.mine")
    execute(run)
    first = read_result(run.folder)
    assert {*first["inputs"]} == {"data", "own_lab", "own_helpers"}
    checkpoints = [torch.load(run.folder / "checkpoints" / name, weights_only=True) for name in ("last.ckpt", "best.ckpt")]
    assert [checkpoint["inputs"] for checkpoint in checkpoints] == [first["inputs"]] * 2
    execute(run)
    assert said_done(run, caplog)

    (tmp_path / "own_helpers.py").write_text("factor = 2\n")
    inputs.modules.cache_clear()  # as in a new process
    for name in ("own_lab", "own_helpers"):
        sys.modules.pop(name)
    execute(run)
    assert any(re.search(r"\(own_helpers\).*other-code-1", message) for message in caplog.messages)
    assert read_result(run.folder / "other-code-1") == first
    assert read_result(run.folder)["last"]["train_loss"] != first["last"]["train_loss"]
    inputs.modules.cache_clear()


def test_the_same_data_by_another_path_are_the_same_run_and_other_data_are_not(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    for number in (1, 2, 3):
        write_patient(Path("d"), number, [20, 21, 40])
        write_patient(Path("e"), number, [20, 40])

    def run_on(root):
        tiny = [option for option in TINY if not option.startswith("data.")]
        overrides = [*tiny, "data=rvsc", f"data.root={root}", "data.size=96", "split.val_fraction=0.4", "figures=false"]
        overrides += ["data.allow=[duplicate_contour]"]  # its patients have one contour
        config = entry.plain(entry.compose(overrides))
        folder = Path("outputs/runs") / identity.run_id(config)
        return plan.Run(folder.name, overrides, config, folder, state_of(folder, folder.name)[0])

    spellings = [run_on(root) for root in ("d", "d/", "./d", str(Path("d").absolute()))]
    assert len({run.run_id for run in spellings}) == 4
    assert len({identity.cell_id(run.config, "f") for run in spellings}) == 1
    assert plan.once(spellings, plan.Changed()) == spellings[:1]  # none is done: the first one is to be
    assert len(plan.once([*spellings, run_on("e")], plan.Changed())) == 2
    execute(spellings[0])
    for run in plan.once(spellings[1:], plan.Changed()):
        assert (run.folder, run.state, run.run_id) == (spellings[0].folder, "completed", spellings[0].run_id)
    Path("d").rename("moved")
    [run] = plan.once([run_on("moved")], plan.Changed())
    assert run.folder == spellings[0].folder
    [other] = plan.once([run_on("e")], plan.Changed())
    assert (other.folder.name, other.state) == (run_on("e").run_id, "missing")
    [gone] = plan.once([run_on("nowhere")], plan.Changed())
    assert gone.state == "missing"  # it says why in its turn

    execute(run_on("moved"))  # the same run once more, as an earlier version would have done
    write_sweep(Path("outputs/grid"), command=[], runs=[{"run_id": run.run_id} for run in (spellings[0], run_on("moved"))])
    found = reading.read([Path("outputs/grid")])
    assert [cell.seeds for cell in found.cells] == [(0,)]
    assert len(found.records) == 1
    ((left_out, why),) = found.left_out
    assert {left_out, found.records[0].run_id} == {spellings[0].run_id, run_on("moved").run_id}
    assert found.records[0].run_id in why


def test_a_result_whose_data_have_changed_in_their_folder_is_not_lent_to_a_copy_of_the_old_ones(tmp_path):
    for number in (1, 2, 3):
        write_patient(Path("d"), number, [20, 21, 40])

    def run_on(root):
        tiny = [option for option in TINY if not option.startswith("data.")]
        overrides = [*tiny, "data=rvsc", f"data.root={root}", "data.size=96", "split.val_fraction=0.4", "figures=false"]
        config = entry.plain(entry.compose([*overrides, "data.allow=[duplicate_contour]"]))
        folder = Path("outputs/runs") / identity.run_id(config)
        state = state_of(folder, folder.name)[0]
        run = plan.Run(folder.name, overrides, config, folder, state)
        changed = state == "completed" and plan.Changed()(folder, config)
        return dataclasses.replace(run, state="changed") if changed else run

    execute(run_on("d"))
    shutil.copytree("d", "old")
    write_patient(Path("d"), 1, [20, 40])
    for name in next(Path("d").rglob("P01*contours*")).glob("P01-0021*"):
        name.unlink()
    for roots in (("d", "old"), ("old", "d")):
        runs = plan.once([run_on(root) for root in roots], plan.Changed())
        assert [run.run_id for run in runs] == [run_on(root).run_id for root in roots]
        assert "completed" not in {run.state for run in runs}


def test_a_result_is_kept_where_the_users_module_cannot_be_found(tmp_path, monkeypatch):
    with monkeypatch.context() as path:
        path.syspath_prepend(tmp_path)
        (tmp_path / "away_lab.py").write_text("from segtune.losses import bce as mine\n")
        run = planned("data.seed=7", "loss=bce", "loss._target_=away_lab.mine")
        execute(run)
    inputs.modules.cache_clear()
    sys.modules.pop("away_lab")
    monkeypatch.chdir(tmp_path.parent)
    before = (tmp_path / run.folder / "result.json").read_bytes()
    moved = dataclasses.replace(run, folder=tmp_path / run.folder)
    with pytest.raises(InputError, match=rf"^away_lab\.mine: .*\b{run.run_id}\b"):
        execute(moved)
    assert (moved.folder / "result.json").read_bytes() == before
