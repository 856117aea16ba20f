import csv
import json
import shutil
from pathlib import Path

import pytest

from segtune.errors import InputError
from segtune.report import reading
from segtune.runs import layout, schema
from segtune.runs.result import is_done, read_result, signed
from segtune.runs.state import read_status, state_of
from segtune.runs.sweep import read_sweep

PREVIOUS = Path(__file__).parents[1] / "previous/schema0"  # one run and its sweep, written before records had a version
RUN = "bc406884cba7"


@pytest.fixture
def outputs(tmp_path):
    return Path(shutil.copytree(PREVIOUS, tmp_path / "outputs"))


def rewrite(path, change, *, sign=True):
    record = json.loads(path.read_text())
    change(record)
    if sign:
        record = signed({key: value for key, value in record.items() if key != "sha256"})
    path.write_text(json.dumps(record, indent=2) + "\n")


def test_a_run_of_the_previous_version_is_done_and_reported(outputs):
    folder = outputs / "runs" / RUN
    assert "schema" not in read_result(folder)
    assert state_of(folder, RUN)[0] == "completed"
    sweep = reading.read([outputs / "old"])
    (record,) = sweep.records
    assert sweep.left_out == ()
    assert record.label.startswith("loss=bce split=0.4 reg=l2 reg.lambda=0.0005 batch=10")
    assert record.dice == pytest.approx(record.result["last"]["patient_dice"], abs=1e-12)
    assert set(record.scored.patients) == set(record.patients)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda r: r.update(run_id=5), "run_id"),
        (lambda r: r.pop("run_id"), "run_id"),
        (lambda r: r["best"].update(epoch="last"), r"best\.epoch"),
        (lambda r: r["data"].update(patients=5), r"data\.patients"),
        (lambda r: r["data"]["patients"].update(val="P01"), r"data\.patients"),
        (lambda r: r["config"].update(seed=[0]), r"config\.seed"),
        (lambda r: r.update(schema=schema.VERSION + 1), r"schema.*\b2\b"),
        (lambda r: r.update(options=["loss"]), "options"),
    ],
)
def test_a_damaged_result_is_one_line_that_names_the_file_and_the_entry(outputs, change, named):
    path = outputs / "runs" / RUN / layout.RESULT
    rewrite(path, change)
    with pytest.raises(InputError, match=rf"result\.json: .*\b{named}") as caught:
        read_result(path.parent)
    assert "\n" not in str(caught.value)
    assert not is_done(path.parent, RUN)


@pytest.mark.parametrize("entry", schema.OF_A_FINISHED_RUN)
def test_a_report_leaves_out_a_result_without_an_entry_that_it_needs_and_names_it(outputs, entry):
    path = outputs / "runs" / RUN / layout.RESULT
    rewrite(path, lambda record: record.pop(entry))
    ((run, why),) = reading.read([outputs / "old"]).left_out
    assert run == RUN
    assert f"{entry}:" in why


def test_entries_that_this_version_does_not_know_are_kept(outputs):
    path = outputs / "runs" / RUN / layout.RESULT
    rewrite(path, lambda record: record.update(later={"a": 1}))
    assert read_result(path.parent)["later"] == {"a": 1}


def test_a_status_is_read_without_its_damaged_entries(outputs):
    path = outputs / "runs" / RUN / layout.STATUS
    rewrite(path, lambda record: record.update(pid="many", options={"loss": 3}, host="there"), sign=False)
    status = read_status(path.parent)
    assert status["host"] == "there"
    assert not {"pid", "options"} & status.keys()


@pytest.mark.parametrize(
    "change", [lambda s: s.update(runs="none"), lambda s: s["runs"][0].update(run_id="../x"), lambda s: s.update(schema=99)]
)
def test_a_damaged_sweep_is_one_line_that_names_the_file(outputs, change):
    rewrite(outputs / "old" / layout.SWEEP, change, sign=False)
    with pytest.raises(InputError, match=r"sweep\.json: ") as caught:
        read_sweep(outputs / "old")
    assert "\n" not in str(caught.value)


def test_damaged_names_of_a_sweep_s_runs_are_left_out(outputs):
    rewrite(outputs / "old" / layout.SWEEP, lambda sweep: sweep["runs"][0].update(label=5, options=[], axes="x"), sign=False)
    (run,) = read_sweep(outputs / "old")["runs"]
    assert (run["run_id"], run["axes"]) == (RUN, {})
    assert not {"label", "options"} & run.keys()


def test_the_tables_of_this_version_have_the_structure_and_those_of_the_previous_one_are_read_without(outputs):
    for name, columns in layout.TABLES.items():
        assert columns[:3] == ("which", "structure", "patient")
        with (outputs / "runs" / RUN / name).open() as file:
            assert "structure" not in csv.DictReader(file).fieldnames
