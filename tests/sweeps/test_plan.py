import copy
import functools
import json
import re
from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf

from segtune.config import CONF, entry
from segtune.config.error_messages import explain
from segtune.config.overrides import quote_numbers
from segtune.errors import InputError
from segtune.runs import identity, layout
from segtune.runs.state import read_status, write_status
from segtune.runs.sweep import read_sweep
from segtune.runs.tables import append_history
from segtune.sweeps import launch as sweeps_launch
from segtune.sweeps import plan
from segtune.sweeps.progress import estimate

GRID = {"loss": ["bce", "focal", "bce_dice"], "split": [0.2, 0.4, 0.6, 0.8], "reg": ["none", "l1", "l2"], "batch": [10, 15]}


def compose(overrides):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("config", [quote_numbers(one) for one in overrides], return_hydra_config=True)
    cfg.hydra.sweep.dir = "outputs"
    return cfg


def planned(*arguments, grids=(GRID,)):
    return plan.plan(plan.combinations(grids, [quote_numbers(a) for a in arguments]), compose)


def test_a_grid_is_the_product_of_its_axes():
    jobs = plan.combinations([GRID], [])
    assert len(jobs) == 72
    assert jobs[0] == ["loss=bce", "split='0.2'", "reg=none", "batch='10'"]


def test_the_default_grid_is_the_one_of_the_documentation():
    study = OmegaConf.load(CONF / "study" / "grid.yaml")
    assert OmegaConf.to_container(study.hydra.sweeper.grids) == [GRID]


def test_naming_an_axis_pins_it_in_every_grid():
    jobs = plan.combinations([GRID, {"loss": ["bce"], "seed": [1, 2]}], ["loss=focal", "split='0.6'"])
    assert len(jobs) == 3 * 2 + 2
    assert all(job.count("loss=focal") == 1 and "loss=bce" not in job and "split='0.6'" in job for job in jobs)


def test_the_command_line_alone_is_a_grid_too():
    assert plan.combinations([], ["seed=1,2", "batch='10'"]) == [["seed=1", "batch='10'"], ["seed=2", "batch='10'"]]


def test_grids_are_a_union_in_which_each_run_counts_once():
    runs = planned(grids=[{"loss": ["bce", "focal"], "seed": [0]}, {"loss": ["focal"], "batch": [10, 15]}])
    assert [run.label.split()[0] for run in runs] == ["loss=bce", "loss=focal", "loss=focal"]
    assert len({run.run_id for run in runs}) == 3


def test_a_lambda_does_not_make_two_runs_of_one_without_regulariser():
    runs = planned("reg=none,l2", "reg.lambda=1e-4,1e-3", grids=())
    assert [run.label.split()[2] for run in runs] == ["reg=none", "reg=l2", "reg=l2"]
    assert [run.label.split()[4:] for run in runs] == [[], ["reg.lambda=0.0001"], ["reg.lambda=0.001"]]
    assert len(planned("reg=none", "reg.lambda=1e-4,1e-3", grids=())) == 1


def test_the_same_holds_for_any_option_s_own_keys():
    assert len(planned("loss=bce,focal", "loss.gamma=1,2,3", grids=())) == 4


def test_a_key_of_no_option_is_refused_before_anything_starts():
    with pytest.raises(Exception, match="reg.lambada") as caught:
        planned("reg=none,l2", "reg.lambada=1", grids=())
    assert re.search(r"^reg\.lambada: .*\breg\.lambda\b", explain(caught.value))


def test_a_bad_value_in_one_run_is_refused_before_anything_starts():
    with pytest.raises(InputError, match=r"^batch\.size=0: "):
        planned("batch.size=10,0", grids=())


def test_several_studies_at_once_are_refused():
    """Hydra would take the grids of none of them."""
    with pytest.raises(InputError, match="^study=losses,l2: "):
        plan.combinations([GRID], ["study=losses,l2"])


def test_a_grid_that_is_no_list_is_refused():
    with pytest.raises(InputError, match=r"\bgrids: loss: bce\b.*\[bce\]"):
        plan.combinations([{"loss": "bce"}], [])


def test_intervals_are_no_grid():
    with pytest.raises(InputError, match=r"^optimizer\.lr=interval\(0,1\): .*\boptimizer\.lr=1,2,3\b"):
        plan.combinations([], ["optimizer.lr=interval(0,1)"])


@functools.cache
def composed():
    return entry.plain(entry.compose(["loss=bce"]))


def job(run_id, state="missing", config=None):
    config = config or copy.deepcopy(composed())
    return plan.Run(run_id, [f"seed={run_id}"], config, Path("outputs/runs") / run_id, state, {}, identity.label(config))


def finish(run):
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "result.json").write_text(json.dumps({"run_id": run.run_id}))


def launch(runs, start, on_failure="continue"):
    sweeps_launch.launch(runs, Path("outputs/grid"), ["x"], start, on_failure=on_failure)


def test_only_what_is_not_done_is_started_and_the_count_comes_first(caplog):
    caplog.set_level("INFO")
    states = ["completed"] * 12 + ["interrupted", "stale", "interrupted", "failed"] + ["missing"] * 7 + ["changed"]
    runs = [job(str(number), state) for number, state in enumerate(states)]
    for run in runs[:12]:
        finish(run)
    started = []

    def start(todo, about):
        started.extend(run.run_id for run in todo)
        assert all(read_status(run.folder)["state"] == "queued" for run in todo)
        for run in todo:
            finish(run)
        return {}

    launch(runs, start)
    assert re.findall(r"\d+", caplog.messages[0]) == ["12", "3", "1", "8"]  # done, to resume, failed, to run
    assert started == [str(number) for number in range(12, 24)]
    assert re.search(r"\b24\b.*\bsegtune\.report sweep=outputs/grid\b", caplog.messages[-1])
    assert [run["run_id"] for run in read_sweep(Path("outputs/grid"))["runs"]] == [run.run_id for run in runs]


def test_above_60_runs_figures_are_left_for_later():
    seen = []

    def start(todo, about):
        seen.extend(run.config["figures"] for run in todo)
        for run in todo:
            finish(run)
        return {}

    launch([job(str(i)) for i in range(61)], start)
    launch([job(f"{i} again") for i in range(60)], start)
    assert seen == [False] * 61 + [True] * 60


def test_the_runs_files_decide_what_failed_not_what_the_launcher_says():
    runs = [job("1"), job("2"), job("3"), job("4")]

    def start(todo, about):
        finish(runs[0])
        write_status(runs[1].folder, "failed", error={"kind": "input", "message": "no such file"})
        write_status(runs[2].folder, "interrupted", signal="SIGTERM")
        return {"4": {"kind": "error", "message": "oops", "traceback": ""}}

    with pytest.raises(InputError, match="1 completed, 2 failed, 1 interrupted") as caught:
        launch(runs, start)
    assert "2 loss=bce split=0.2 reg=none batch=15: no such file" in str(caught.value)
    assert re.search(r"3 loss=bce split=0\.2 reg=none batch=15: .*\(SIGTERM\)", str(caught.value))
    assert "4 loss=bce split=0.2 reg=none batch=15: oops" in str(caught.value)


def test_time_left_of_runs_in_steps_is_estimated_by_step_and_of_others_by_run():
    short, long = (entry.plain(entry.compose(["recipe=strong", f"trainer.max_steps={n}"])) for n in (100, 1000))
    epochs = entry.plain(entry.compose(["trainer.max_epochs=10"]))
    finish(job("a"))
    done = {"run_id": "a", "config": short, "seconds": 20}
    (Path("outputs/runs/a/result.json")).write_text(json.dumps(done))
    assert estimate([job("new", config=long)]) == pytest.approx(200)
    Path("outputs/runs/new").mkdir()
    append_history(Path("outputs/runs/new"), dict.fromkeys(layout.HISTORY_COLUMNS, 1))
    assert estimate([job("new", "stale", long)]) == pytest.approx(180)
    assert estimate([job("other", config=epochs)]) == pytest.approx(20)


def test_time_left_is_estimated_from_runs_of_the_same_kind():
    small, large = (entry.plain(entry.compose([f"data.size={size}", "trainer.max_epochs=10"])) for size in (64, 128))
    assert estimate([job("new", config=small)]) is None
    for name, config, seconds in (
        ("a", small, 10),
        ("b", small, 30),
        ("c", small, 20),
        ("e", small, 500),
        ("f", small, 5),
        ("d", large, 1000),
    ):
        finish(job(name))
        done = {"run_id": name, "config": config, "seconds": seconds}
        (Path("outputs/runs") / name / "result.json").write_text(json.dumps(done))
    assert estimate([job("new", config=small), job("a", "completed", small)]) == pytest.approx(20)
    assert estimate([job("new", config=large), job("newer", config=large)], at_once=2) == pytest.approx(1000)
    append_history(Path("outputs/runs/d"), dict.fromkeys(layout.HISTORY_COLUMNS, 1))
    assert estimate([job("d", "stale", large)]) == pytest.approx(900)
