from pathlib import Path

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from segtune import app, results, sweep
from segtune.errors import InputError

GRID = {"loss": ["bce", "focal", "bce_dice"], "split": [0.2, 0.4, 0.6, 0.8], "reg": ["none", "l1", "l2"], "batch": [10, 15]}


def compose(overrides):
    cfg = app.compose(overrides)
    OmegaConf.set_struct(cfg, False)
    cfg.hydra = {"sweep": {"dir": "outputs"}}
    return cfg


def planned(*arguments, grids=(GRID,)):
    return sweep.plan(sweep.combinations(grids, [app.quote_numbers(a) for a in arguments]), compose)


def test_a_grid_is_the_product_of_its_axes():
    jobs = sweep.combinations([GRID], [])
    assert len(jobs) == 72
    assert jobs[0] == ["loss=bce", "split='0.2'", "reg=none", "batch='10'"]


def test_the_default_grid_is_the_one_of_the_documentation():
    study = OmegaConf.load(app.CONF / "study" / "grid.yaml")
    assert OmegaConf.to_container(study.hydra.sweeper.grids) == [GRID]


def test_naming_an_axis_pins_it_in_every_grid():
    jobs = sweep.combinations([GRID, {"loss": ["bce"], "seed": [1, 2]}], ["loss=focal", "split='0.6'"])
    assert len(jobs) == 3 * 2 + 2
    assert all(job.count("loss=focal") == 1 and "loss=bce" not in job and "split='0.6'" in job for job in jobs)


def test_the_command_line_alone_is_a_grid_too():
    assert sweep.combinations([], ["seed=1,2", "batch='10'"]) == [["seed=1", "batch='10'"], ["seed=2", "batch='10'"]]


def test_grids_are_a_union_in_which_each_run_counts_once():
    runs = planned(grids=[{"loss": ["bce", "focal"], "seed": [0]}, {"loss": ["focal"], "batch": [10, 15]}])
    assert [run.label.split()[0] for run in runs] == ["loss=bce", "loss=focal", "loss=focal"]
    assert len({run.run_id for run in runs}) == 3


def test_a_lambda_does_not_make_two_runs_of_one_without_regulariser():
    runs = planned("reg=none,l2", "reg.lambda=1e-4,1e-3", grids=())
    assert [run.label.split()[2] for run in runs] == ["reg=none", "reg=l2(0.0001)", "reg=l2(0.001)"]
    assert len(planned("reg=none", "reg.lambda=1e-4,1e-3", grids=())) == 1


def test_the_same_holds_for_any_option_s_own_keys():
    assert len(planned("loss=bce,focal", "loss.gamma=1,2,3", grids=())) == 4


def test_a_key_of_no_option_is_refused_before_anything_starts():
    with pytest.raises(Exception, match="reg.lambada") as caught:
        planned("reg=none,l2", "reg.lambada=1", grids=())
    assert "no such key. Nearest: reg.lambda" in app.explain(caught.value)


def test_a_bad_value_in_one_run_is_refused_before_anything_starts():
    with pytest.raises(InputError, match="batch.size=0: must be"):
        planned("batch.size=10,0", grids=())


def test_a_grid_that_is_no_list_is_refused():
    with pytest.raises(InputError, match=r"loss: bce must be a list, like loss: \[bce\]"):
        sweep.combinations([{"loss": "bce"}], [])


def test_intervals_are_no_grid():
    with pytest.raises(InputError, match="a grid needs a list"):
        sweep.combinations([], ["optimizer.lr=interval(0,1)"])


def job(run_id, done=False):
    return sweep.Run(run_id, [f"seed={run_id}"], Path("outputs/runs") / run_id, f"seed={run_id}", done)


def returned(value):
    status = JobStatus.FAILED if isinstance(value, Exception) else JobStatus.COMPLETED
    ret = JobReturn(status=status)
    ret.return_value = value
    return ret


def test_only_what_is_not_done_is_started(tmp_path):
    started = []

    def start(jobs):
        started.extend(jobs)
        return [returned(None) for _ in jobs]

    sweep.launch([job("1", done=True), job("2")], tmp_path / "grid", ["x"], start)
    assert started == [["seed=2"]]
    assert [run["run_id"] for run in results.read_sweep(tmp_path / "grid")["runs"]] == ["1", "2"]


def test_above_60_runs_figures_are_left_for_later(tmp_path):
    started = []
    sweep.launch(
        [job(str(i)) for i in range(61)],
        tmp_path,
        ["x"],
        lambda jobs: [started.extend(jobs) or returned(None) for _ in range(len(jobs))],
    )
    assert all("figures=false" in overrides for overrides in started)


def test_failed_runs_are_named_with_their_messages_after_the_others_ran(tmp_path, capsys):
    outcomes = [InputError("no such file"), None, ZeroDivisionError("oops")]
    with pytest.raises(InputError, match="2 of 3 runs failed") as caught:
        sweep.launch([job("1"), job("2"), job("3")], tmp_path, ["x"], lambda jobs: [returned(value) for value in outcomes])
    assert "1 seed=1: no such file" in str(caught.value)
    assert "3 seed=3: ZeroDivisionError: oops" in str(caught.value)
    assert "ZeroDivisionError" in capsys.readouterr().err  # a bug keeps its traceback
