"""Sweeps through a real Slurm on this machine. Without Slurm this is skipped, but fails where CI=true."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster import slurm
from layouts import labkit
from segtune.runs import identity
from segtune.runs.result import read_result, without_measurements
from segtune.runs.state import epochs_done
from segtune.runs.sweep import read_jobs
from segtune.runs.tables import read_history

TESTS = Path(__file__).resolve().parents[1]
TINY = [
    *("data.n_patients=4", "data.size=32", "model.width=2", "trainer.threads=1", "trainer.accelerator=cpu"),
    *("figures=false", "split=0.4", "batch=10"),
]
SLOW = ["loss=bce", "loss._target_=broken_losses.slow", "reg=none"]  # a second an epoch
CLUSTER = ["hydra/launcher=slurm", "hydra.launcher.cpus=1", "hydra.launcher.mem=2GB"]
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cluster")]  # one cluster on a machine


@pytest.fixture(scope="module", autouse=True)
def environment(tmp_path_factory):
    missing = slurm.missing()
    if missing and os.environ.get("CI") != "true":
        pytest.skip(f"no Slurm here (apt-get install slurm-wlm munge): {', '.join(missing)}")
    assert not missing
    paths = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    with pytest.MonkeyPatch.context() as patch, slurm.cluster(tmp_path_factory.mktemp("slurm")) as env:
        for name in ("SLURM_CONF", "PATH"):
            patch.setenv(name, env[name])
        patch.setenv("PYTHONPATH", paths)
        yield


def segtune(*arguments, module="segtune"):
    return subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, timeout=240, check=False)


def slurm_says(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def job():
    """The Slurm job of the sweep below o, once it is in the queue."""
    path = Path("o/grid/jobs.json")
    ids = {name.partition("_")[0] for name in json.loads(path.read_text()).values()} if path.exists() else set()
    return next((one for one in slurm_says("squeue", "--noheader", "--format=%F").split("\n") if one in ids), "")


def until(ready, seconds=90):
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, slurm_says("squeue", "--array", "--format=%i %T %r")
        time.sleep(0.2)


def status(outputs):
    ended = segtune(f"sweep={outputs}/grid", "json=true", module="segtune.status")
    return json.loads(ended.stdout) | {"exit": ended.returncode}


def epochs(outputs):
    return max((epochs_done(path.parent) for path in Path(outputs).glob("runs/*/history.csv")), default=0)


def logs(outputs):
    return "".join(path.read_text() for path in Path(outputs).glob("runs/*/segtune.log"))


def resumed(outputs):
    """Whether the last attempt at each run went on after an epoch of an earlier one."""
    attempts = [read_result(path.parent)["attempts"] for path in Path(outputs).glob("runs/*/result.json")]
    return bool(attempts) and all(of_run[-1]["first_epoch"] > 1 for of_run in attempts)


def content(outputs):
    """All that a sweep leaves, less what is measured: results, histories, slices, pictures."""
    found = {}
    for path in sorted(Path(outputs).glob("runs/*/*")):
        if path.name == "result.json":
            result = without_measurements(read_result(path.parent))
            result["config"] = {key: value for key, value in result["config"].items() if key not in identity.BOOKKEEPING}
            found[path.parent.name, path.name] = result
        elif path.name == "history.csv":
            history = read_history(path.parent)
            history.pop("seconds")
            found[path.parent.name, path.name] = history
        elif path.name in ("slices.csv", "pictures.npz"):
            found[path.parent.name, path.name] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The slow run that the tests below disturb, here in this process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    ended = segtune(*TINY, *SLOW, "trainer.max_epochs=12", "-m", f"outputs={folder}")
    assert ended.returncode == 0, ended.stderr
    return content(folder)


STRONG = [
    *("recipe=strong", "trainer.max_epochs=null", "trainer.max_steps=12", "trainer.val_every_steps=4", "batch.size=4"),
    *("scheduler=cosine", "scheduler.warmup_steps=3", "data.downsample=2", "data.size=64", "score.tta=auto"),
]


@pytest.mark.parametrize("recipe", [["trainer.max_epochs=2"], STRONG], ids=["study", "strong"])
def test_a_sweep_is_the_same_under_every_launcher_to_the_bit(recipe):
    command = [*TINY, *recipe, "loss=bce,bce_dice", "reg=none,l2", "study=grid", "-m"]
    for name, launcher in (("here", []), ("local", ["hydra/launcher=local"]), ("slurm", [*CLUSTER, "hydra.launcher.pack=3"])):
        ended = segtune(*command, f"outputs={name}", *launcher)
        assert ended.returncode == 0, ended.stderr
    assert len(content("here")) == 16
    assert content("here") == content("local") == content("slurm")
    assert len(set(read_jobs(Path("slurm/grid")).values())) == 2  # 3 runs + 1


def test_a_plugin_is_swept_on_the_nodes(monkeypatch):
    plugin = TESTS.parent / "examples/plugin"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(plugin), os.environ["PYTHONPATH"]]))
    labkit.write(Path("npz"))
    ended = segtune(
        *(f"--config-dir={plugin / 'labkit/conf'}", "study=labkit", "model=segresnet", "data=npz", "data.root=npz"),
        *("data.size=32", "trainer.max_epochs=1", "trainer.accelerator=cpu", "trainer.threads=1", "figures=false"),
        *("outputs=plugin", "hydra.launcher.pack=4", "-m", *CLUSTER),
    )
    assert ended.returncode == 0, ended.stderr
    options = [read_result(path.parent)["options"] for path in Path("plugin/runs").glob("*/result.json")]
    assert sorted((one["loss"], one["reg"], one["model"]) for one in options) == [
        (loss, reg, "segresnet") for loss in ("bce_dice", "power_jaccard") for reg in ("huber", "none")
    ]


def test_a_run_that_fails_is_named_and_the_others_complete():
    bad = "loss._target_=broken_losses.raises,broken_losses.out_of_memory,broken_losses.not_finite,segtune.losses.bce"
    ended = segtune(*TINY, "trainer.max_epochs=1", "loss=bce", "reg=none", bad, "-m", "outputs=o", *CLUSTER)
    assert ended.returncode == 1
    for words in ("1 completed, 3 failed", "raised on purpose", "choose", "not finite"):
        assert words.lower() in ended.stderr.lower()
    found = status("o")
    assert (found["exit"], found["states"]["completed"], found["states"]["failed"]) == (1, 1, 3)
    assert {failure["kind"] for failure in found["failures"]} == {"error", "out of memory", "not finite"}


def test_returning_at_once_asking_again_and_cancelling(undisturbed):
    command = [*TINY, *SLOW, "trainer.max_epochs=12", "-m", "outputs=o", *CLUSTER]
    ended = segtune(*command, "hydra.launcher.wait=false")
    assert ended.returncode == 0, ended.stderr
    assert "1 queued" in ended.stdout or "1 running" in ended.stdout
    assert job()  # it came back long before the run is over
    states = status("o")["states"]
    assert states["queued"] + states["running"] == 1  # it may have begun by now
    again = segtune(*command, "hydra.launcher.wait=false")
    assert re.search(r"^1\b.*\bSlurm\b.*\bqueue\b", again.stdout, flags=re.MULTILINE)
    assert len(set(read_jobs(Path("o/grid")).values())) == 1
    until(lambda: epochs("o") >= 2)
    assert status("o")["states"]["running"] == 1
    slurm_says("scancel", job())
    until(lambda: not job())
    found = status("o")
    assert found["states"]["interrupted"] == 1
    assert found["runs"][0]["signal"] == "SIGTERM"
    ended = segtune(*command)  # once more, and it goes on where it was
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"\b0 done, 1 .*resume\b", ended.stdout)
    assert resumed("o")
    assert content("o") == undisturbed


def test_a_cancelled_task_that_never_began_is_told_of():
    slurm_says("scontrol", "update", "PartitionName=main", "State=DOWN")
    try:
        command = [*TINY, "trainer.max_epochs=1", "loss=bce", "reg=none", "-m", "outputs=o", *CLUSTER]
        process = subprocess.Popen([sys.executable, "-m", "segtune", *command], stderr=subprocess.PIPE, text=True)
        until(job)
        slurm_says("scancel", job())
        assert re.search(r"\bloss=bce\b.*\bSlurm\b(?!.*\bepoch)", process.communicate(timeout=60)[1])
        assert process.returncode == 1
        assert status("o")["states"]["missing"] == 1
    finally:
        slurm_says("scontrol", "update", "PartitionName=main", "State=UP")


def announce_preemption(*, by_signal):
    """Whether Slurm sends the job's own signal (SIGUSR2) to what it preempts, or SIGTERM as `scancel` does."""
    path = Path(os.environ["SLURM_CONF"])
    line = "SlurmctldParameters=preempt_send_user_signal\n"
    path.write_text(path.read_text().replace(line, "") + (line if by_signal else ""))
    slurm_says("scontrol", "reconfigure")


@pytest.mark.parametrize("how", ["SIGUSR2", "requeue", "time limit", "preemption", "preemption by SIGTERM"])
def test_a_task_that_slurm_takes_off_its_node_goes_on_by_itself(how, undisturbed, monkeypatch):
    if how == "time limit":
        monkeypatch.setenv("SLOW_S", "0.4")  # an epoch of three seconds, of which the 30 before the signal hold some
    elif how.startswith("preemption"):
        monkeypatch.setenv("SLOW_S", "0.3")  # the scheduler of a busy machine may take ten seconds to see the urgent job
    limit = ["hydra.launcher.time=1", "hydra.launcher.signal_delay_s=30"] if how == "time limit" else []
    both = ["hydra.launcher.cpus=2"] if how.startswith("preemption") else []
    announce_preemption(by_signal=how != "preemption by SIGTERM")
    command = [*TINY, *SLOW, "trainer.max_epochs=12", "-m", "outputs=o", *CLUSTER, *both, *limit]
    process = subprocess.Popen([sys.executable, "-m", "segtune", *command], stderr=subprocess.PIPE, text=True)
    until(lambda: epochs("o") >= 2)
    if how == "SIGUSR2":
        slurm_says("scancel", "--signal=USR2", job())
    elif how == "requeue":
        slurm_says("scontrol", "requeue", job())
    elif how.startswith("preemption"):
        slurm_says("sbatch", "--partition=urgent", "--ntasks=1", "--cpus-per-task=2", "--output=/dev/null", "--wrap=sleep 1")
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert resumed("o")
    assert content("o") == undisturbed
    assert len(set(read_jobs(Path("o/grid")).values())) == 1


def test_a_task_that_never_gets_to_the_end_of_an_epoch_gives_up_and_says_why():
    """Five real requeues of a run whose epochs outlast the time it gets."""
    run = [*TINY, "loss=bce", "loss._target_=broken_losses.stuck", "reg=none", "trainer.max_epochs=2", "-m", "outputs=o"]
    process = subprocess.Popen([sys.executable, "-m", "segtune", *run, *CLUSTER], stderr=subprocess.PIPE, text=True)
    for attempt in range(1, 6):
        until(lambda n=attempt: logs("o").count(": loss=") >= n)  # it is in its first epoch for the nth time
        time.sleep(1)
        slurm_says("scancel", "--signal=USR2", job())
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert re.search(r"\bSlurm\b.*\b5 times\b.*\bepoch\b", said)
    assert status("o")["failures"][0]["kind"] == "out of time"
