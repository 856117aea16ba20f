import csv
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from segtune.config import entry
from segtune.errors import InputError
from segtune.runs import identity, layout, state
from segtune.runs.files import new_folder, replacing, write_atomically, write_files
from segtune.runs.result import check_history, is_done, read_result, set_aside, set_aside_damaged, verify_files, write_result
from segtune.runs.state import (
    STALE_S,
    BusyError,
    LostError,
    end_attempt,
    lock,
    read_status,
    refuse_another,
    state_of,
    working,
    write_queued,
    write_status,
)
from segtune.runs.sweep import read_jobs, read_sweep, write_sweep
from segtune.runs.tables import append_history, csv_text, cut_history, read_history, read_pictures, read_table

ROW = dict.fromkeys(layout.HISTORY_COLUMNS, 0.5)
SLICE = dict.fromkeys(layout.SLICE_COLUMNS, 1)
PICTURES = {
    f"{which}_{part}": value
    for which in ("best", "median", "worst")
    for part, value in {
        "image": np.zeros((2, 4, 4), dtype=np.uint8),
        "true": np.zeros((2, 4, 4), dtype=bool),
        "pred": np.zeros((2, 4, 4), dtype=bool),
        "frame": np.array([1, 2]),
        "patient": np.array("P01"),
    }.items()
}


def config(*overrides):
    return entry.plain(entry.compose(overrides))


def write(folder, run="abc", **result):
    folder.mkdir(parents=True, exist_ok=True)
    append_history(folder, ROW | {"epoch": 1})
    write_result(
        folder,
        result={"run_id": run, **result},
        tables={"slices.csv": [SLICE], "cases.csv": [], "patients.csv": []},
        pictures=PICTURES,
    )


def test_what_is_written_is_read(tmp_path):
    write(tmp_path, last={"val_dice": 0.7, "dice_of_nobody": float("nan")})
    append_history(tmp_path, ROW | {"epoch": 2, "val_dice": 0.123456789012345678})
    assert read_result(tmp_path)["last"]["val_dice"] == 0.7
    assert read_result(tmp_path)["last"]["dice_of_nobody"] is None
    assert read_history(tmp_path)["epoch"] == [1, 2]
    assert read_history(tmp_path)["val_dice"] == [0.5, 0.123456789012345678]
    assert read_table(tmp_path, layout.SLICES)[0]["n_true"] == "1"
    assert read_pictures(tmp_path)["best_image"].shape == (2, 4, 4)
    assert (tmp_path / "history.csv").read_text().splitlines()[0] == ",".join(layout.HISTORY_COLUMNS)


def test_a_run_is_done_when_its_result_is_there_whole_and_its_own(tmp_path):
    assert not is_done(tmp_path, "abc")
    write(tmp_path)
    assert is_done(tmp_path, "abc")
    assert not is_done(tmp_path, "def")
    text = (tmp_path / "result.json").read_text()
    (tmp_path / "result.json").write_text(text[: len(text) // 2])
    assert not is_done(tmp_path, "abc")


def test_a_write_that_fails_leaves_neither_a_half_file_nor_a_temporary_one(tmp_path):
    write(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail_halfway():
        with replacing(tmp_path / "result.json") as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_is_set_aside_is_renamed_not_deleted(tmp_path):
    assert set_aside(tmp_path, "interrupted") is None
    for number in (1, 2):
        append_history(tmp_path, ROW)
        assert set_aside(tmp_path, "interrupted") == tmp_path / f"interrupted-{number}"
        assert not (tmp_path / "history.csv").exists()
        assert (tmp_path / f"interrupted-{number}" / "history.csv").exists()


def test_history_is_cut_to_the_epochs_of_the_checkpoint(tmp_path):
    for epoch in (1, 2, 3):
        append_history(tmp_path, ROW | {"epoch": epoch})
    whole = (tmp_path / "history.csv").read_text()
    (tmp_path / "history.csv").write_text(whole[:-40])  # killed while it wrote epoch 3
    assert cut_history(tmp_path, 2)
    assert (tmp_path / "history.csv").read_text() == "".join(whole.splitlines(keepends=True)[:3])
    assert not cut_history(tmp_path, 3)
    (tmp_path / "history.csv").write_bytes(b"\xff\xfe")
    assert not cut_history(tmp_path, 1)


def test_one_process_has_the_lock_and_the_other_is_told_who(tmp_path):
    write_status(tmp_path, "running", host=socket.gethostname(), pid=os.getpid())
    with lock(tmp_path):
        with pytest.raises(BusyError, match=f"process {os.getpid()} on"), lock(tmp_path):
            pass
        assert state_of(tmp_path, "abc")[0] == "running"
    with lock(tmp_path):
        pass


def test_the_lock_of_a_killed_process_is_free_and_its_run_is_stale(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from segtune.runs.state import lock, working\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "with lock(folder), working(folder, run_id='abc'):\n"
        "    print('here', flush=True); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).stdout == b"here\n"
    assert read_status(tmp_path)["state"] == "running"
    assert state_of(tmp_path, "abc")[0] == "stale"
    with lock(tmp_path):
        pass


def test_waiting_for_the_lock_ends_when_it_is_free(tmp_path):
    held, said = threading.Event(), []

    def hold():
        with lock(tmp_path):
            held.set()
            time.sleep(0.3)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    with lock(tmp_path, waiting=said.append):
        assert len(said) == 1
    thread.join()


def test_on_another_machine_the_heartbeat_counts(tmp_path):
    write_status(tmp_path, "running", host="elsewhere", pid=1)
    assert state_of(tmp_path, "abc")[0] == "running"
    with pytest.raises(BusyError, match="on elsewhere"), lock(tmp_path):
        pass
    old = time.time() - STALE_S - 1
    os.utime(tmp_path / "status.json", (old, old))
    assert state_of(tmp_path, "abc")[0] == "stale"
    with lock(tmp_path):
        pass


def test_a_working_process_keeps_touching_its_status(tmp_path, monkeypatch):
    monkeypatch.setattr(state, "BEAT_S", 0.02)
    with working(tmp_path, run_id="abc"):
        os.utime(tmp_path / "status.json", (0, 0))
        time.sleep(0.3)
        assert time.time() - (tmp_path / "status.json").stat().st_mtime < 60


def test_states_are_read_from_the_files_not_believed(tmp_path):
    assert state_of(tmp_path, "abc")[0] == "missing"
    write_queued(tmp_path, run_id="abc")
    assert state_of(tmp_path, "abc")[0] == "queued"
    gone = subprocess.Popen(["true"])
    gone.wait()
    write_status(tmp_path, "queued", host=socket.gethostname(), pid=gone.pid)
    assert state_of(tmp_path, "abc")[0] == "missing"  # whoever was to start it is gone
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    assert state_of(tmp_path, "abc")[0] == "interrupted"  # it had begun before that
    write_status(tmp_path, "completed")
    assert state_of(tmp_path, "abc")[0] == "interrupted"  # without a result
    write(tmp_path)
    write_status(tmp_path, "failed", error={})
    assert state_of(tmp_path, "abc")[0] == "completed"
    (tmp_path / "status.json").write_text("{")
    assert state_of(tmp_path, "abc") == ("completed", {})


def test_queueing_leaves_a_run_alone_that_somebody_works_on(tmp_path):
    with lock(tmp_path):
        write_status(tmp_path, "running", host=socket.gethostname(), pid=os.getpid())
        write_queued(tmp_path, run_id="abc")
    assert read_status(tmp_path)["state"] == "running"
    write_queued(tmp_path, if_queued=True, run_id="abc")
    assert read_status(tmp_path)["state"] == "running"


def test_the_folder_of_another_run_is_refused(tmp_path):
    refuse_another(tmp_path, "abc")
    write_status(tmp_path, "failed", run_id="abc")
    refuse_another(tmp_path, "abc")
    with pytest.raises(InputError, match=rf"{tmp_path.name}\b.*\babc\b.*\bdef\b"):
        refuse_another(tmp_path, "def")
    (tmp_path / "status.json").unlink()
    write(tmp_path, run="ghi")
    with pytest.raises(InputError, match=rf"{tmp_path.name}\b.*\bghi\b.*\babc\b"):
        refuse_another(tmp_path, "abc")


def test_a_history_row_with_a_column_too_few_is_refused(tmp_path):
    with pytest.raises(ValueError, match="seconds"):
        append_history(tmp_path, {key: 1.0 for key in layout.HISTORY_COLUMNS if key != "seconds"})


def test_the_id_of_the_default_run_is_what_it_was():
    """Golden: a change here orphans every result that users have. A new option must default to null."""
    assert identity.run_id(config()) == "982d914c93e9"
    assert identity.run_id(config("loss=focal", "split=0.6", "reg=l1", "reg.lambda=5e-7")) == "2a813731ff53"


def test_bookkeeping_null_empty_and_the_way_a_number_is_written_do_not_count():
    base = identity.run_id(config())
    assert (
        identity.run_id(config("outputs=elsewhere", "figures=false", "on_failure=stop", "dry_run=true", "trainer.devices=[3]"))
        == base
    )
    assert identity.run_id(config() | {"new": None, "other": {"deep": {}}, "list": []}) == base
    assert identity.run_id(config("model.dropout=0.050", "seed=0")) == base
    assert identity.run_id(dict(reversed(config().items()))) == base
    assert identity.run_id(config("reg=l1", "reg.lambda=1")) == identity.run_id(config("reg=l1", "reg.lambda=1.0"))


@pytest.mark.parametrize(
    "override", ["seed=1", "loss=bce", "split=0.4", "split.seed=1", "batch=10", "trainer.precision=bf16-mixed"]
)
def test_everything_else_counts(override):
    assert identity.run_id(config(override)) != identity.run_id(config())


def test_replicates_share_a_cell():
    assert identity.cell_id(config("seed=1")) == identity.cell_id(config("seed=2"))
    assert identity.cell_id(config("seed=1")) != identity.cell_id(config("seed=1", "loss=bce"))


def test_label_names_the_axes():
    label = "loss=bce_dice split=0.2 reg=l1l2 reg.lambda_l1=5e-05 reg.lambda_l2=0.001 batch=10"
    assert identity.label(config("reg=l1l2", "batch=10")) == label
    assert identity.run_id(config(*identity.words(label))) == identity.run_id(config("reg=l1l2", "batch=10"))
    assert identity.label(config("loss=focal")) == "loss=focal split=0.2 reg=none batch=15"


@pytest.mark.parametrize("said", [None, 5, "", "a\x1b[31m", "x" * 10_001])
def test_a_label_that_no_run_can_have_recorded_is_made_of_the_configuration(said):
    assert identity.label_of({"label": said, "config": config()}) == "loss=bce_dice split=0.2 reg=none batch=15"


def test_a_sweep_that_asks_for_other_runs_keeps_the_earlier_file(tmp_path):
    for runs in (["a"], ["a"], ["b"]):
        write_sweep(tmp_path, command=["x"], runs=[{"run_id": run} for run in runs])
    assert [run["run_id"] for run in read_sweep(tmp_path)["runs"]] == ["b"]
    assert json.loads((tmp_path / "sweep-1.json").read_text())["runs"] == [{"run_id": "a"}]
    assert {path.name for path in tmp_path.iterdir()} == {"sweep.json", "sweep-1.json", ".lock"}


def test_a_damaged_sweep_file_is_kept_and_not_in_the_way(tmp_path):
    (tmp_path / "sweep.json").write_text('{"runs": [')
    write_sweep(tmp_path, command=["x"], runs=[{"run_id": "a"}])
    assert [run["run_id"] for run in read_sweep(tmp_path)["runs"]] == ["a"]
    assert (tmp_path / "sweep-1.json").read_text() == '{"runs": ['


def test_missing_and_damaged_files_are_explained(tmp_path):
    with pytest.raises(InputError, match=r"result\.json: .*\(No such file"):
        read_result(tmp_path)
    with pytest.raises(InputError, match=r"history\.csv: .*\(No such file"):
        read_history(tmp_path)
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(InputError, match=r"sweep\.json: damaged \(.*\bline 1\b"):
        read_sweep(tmp_path)
    (tmp_path / "sweep.json").write_text("[]")
    with pytest.raises(InputError, match=r"sweep\.json: damaged \(.*\bobject\b"):
        read_sweep(tmp_path)


def test_a_history_of_something_else_is_damaged(tmp_path):
    for content in (b"", b"abc\n1\n", b"\xff\xfe\x00", b"epoch,lr\n1,x\n"):
        (tmp_path / "history.csv").write_bytes(content)
        if content:
            with pytest.raises(InputError, match="history.csv: damaged"):
                read_history(tmp_path)
        assert not cut_history(tmp_path, 1)


def test_an_unnamed_sweep_of_other_runs_never_takes_anothers_folder(tmp_path):
    def write(*runs, elsewhere=True):
        listed = [{"run_id": run} for run in runs]
        return write_sweep(tmp_path / "grid", command=["x"], runs=listed, elsewhere=elsewhere).name

    assert write("a", "b") == "grid"
    assert write("c") == "grid-2"
    assert write("d") == "grid-3"
    assert write("b", "a") == "grid"  # the same runs: the same sweep, begun again
    assert write("c") == "grid-2"
    assert [run["run_id"] for run in read_sweep(tmp_path / "grid")["runs"]] == ["b", "a"]
    assert write("e", elsewhere=False) == "grid"  # named by the user: what was there keeps a name of its own
    assert [run["run_id"] for run in json.loads((tmp_path / "grid" / "sweep-1.json").read_text())["runs"]] == ["b", "a"]


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("files.write_atomically(Path('x.csv'), bytes(10_000))", "x.csv"),
        ("tables.append_history(Path(), dict.fromkeys(layout.HISTORY_COLUMNS, '0' * 1000))", "history.csv"),
        ("with files.new_folder(Path('out')) as folder: (folder / 'y').write_bytes(bytes(10_000))", "out"),
    ],
)
def test_a_disk_that_takes_no_more_is_told_with_the_name_of_the_file(code, named, tmp_path):
    limited = (
        "import resource; from pathlib import Path; from segtune.config.error_messages import explain\n"
        "from segtune.runs import files, layout, tables\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        f"try:\n    {code}\nexcept OSError as error:\n    print(explain(error))"
    )
    said = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, check=False, cwd=tmp_path)
    cure = "Finished work is kept. Fix this problem and run the same command again."
    assert said.stdout == f"{named}: File too large. {cure}\n", said.stderr


@pytest.mark.parametrize("how", ["taken over", "gone", "made again"])
def test_a_process_that_wakes_after_its_run_was_taken_over_writes_nothing_more(how, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with working(folder, run_id="abc") as attempt:
        append_history(folder, ROW | {"epoch": 1})
        if how == "taken over":
            write_status(folder, "running", attempt="another's")
        else:
            shutil.rmtree(folder)
        if how == "made again":
            folder.mkdir()
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        for write_it in (
            lambda: append_history(folder, ROW | {"epoch": 2}),
            lambda: write_atomically(folder / "slices.csv", b""),
            lambda: write_atomically(folder / "checkpoints" / "last.ckpt", b""),
            lambda: write_files(folder / "curves", {".png": b""}),
            lambda: set_aside(folder, "damaged"),
            lambda: write_result(folder, result={}, tables=dict.fromkeys(layout.TABLES, ()), pictures=PICTURES),
        ):
            with pytest.raises(LostError, match=f"^{folder}: "):
                write_it()
        end_attempt(folder, attempt, "failed")
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
        assert folder.exists() == (how != "gone")
    append_history(tmp_path, ROW | {"epoch": 1})  # where this process makes no attempt, nothing is checked


def test_a_file_that_was_begun_before_the_run_was_taken_over_does_not_appear(tmp_path):
    def written_while_another_takes_over():
        with working(tmp_path), replacing(tmp_path / "slices.csv") as temporary:
            temporary.write_bytes(b"mine")
            write_status(tmp_path, "running", attempt="another's")

    with pytest.raises(LostError):
        written_while_another_takes_over()
    assert not (tmp_path / "slices.csv").exists()
    assert not [*tmp_path.glob("*.partial")]


def test_the_heartbeat_does_not_touch_the_status_of_another(tmp_path, monkeypatch):
    monkeypatch.setattr(state, "BEAT_S", 0.02)
    with working(tmp_path):
        write_status(tmp_path, "running", attempt="another's")
        os.utime(tmp_path / "status.json", (0, 0))
        time.sleep(0.2)
        assert (tmp_path / "status.json").stat().st_mtime == 0


@pytest.mark.parametrize("epochs", [[1, 2, 3, 2, 3], [1, 3], [2, 3], [1], [1, 2]])
def test_only_a_history_of_each_epoch_once_makes_a_result(epochs, tmp_path):
    for epoch in epochs:
        append_history(tmp_path, ROW | {"epoch": epoch})
    assert check_history(folder_with(tmp_path / "sound", [1, 2, 3]), 3)["epoch"] == [1, 2, 3]
    with pytest.raises(InputError, match=rf"history\.csv: .*{', '.join(map(str, epochs))}.*\b1 to 3\b.*damaged-1"):
        check_history(tmp_path, 3)
    assert not (tmp_path / "history.csv").exists()
    assert (tmp_path / "damaged-1" / "history.csv").exists()


def folder_with(folder, epochs):
    folder.mkdir()
    for epoch in epochs:
        append_history(folder, ROW | {"epoch": epoch})
    return folder


def test_the_result_lists_size_and_hash_of_what_it_was_made_from_and_of_itself(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.ckpt").write_bytes(b"weights")
    write(tmp_path)
    files = read_result(tmp_path)["files"]
    assert {*files} == {"history.csv", "slices.csv", "cases.csv", "patients.csv", "pictures.npz", "checkpoints/best.ckpt"}
    for name, about in files.items():
        content = (tmp_path / name).read_bytes()
        assert about == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    verify_files(tmp_path, read_result(tmp_path), files)


DAMAGE = {
    "emptied": lambda path: path.write_bytes(b""),
    "flipped": lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
    "removed": lambda path: path.unlink(),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b" "),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["history.csv", "slices.csv", "pictures.npz", "checkpoints/best.ckpt", "result.json"])
def test_a_result_that_was_damaged_after_it_was_written_does_not_count(name, damage, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.ckpt").write_bytes(b"weights")
    write(tmp_path)
    assert is_done(tmp_path, "abc")
    DAMAGE[damage](tmp_path / name)
    later = time.time() + 5
    if (tmp_path / name).exists():
        os.utime(tmp_path / name, (later, later))
    if (name, damage) == ("result.json", "longer"):
        assert is_done(tmp_path, "abc")  # white space after it says nothing else
        return
    assert not is_done(tmp_path, "abc")
    write_status(tmp_path, "completed")
    assert state_of(tmp_path, "abc")[0] == "interrupted"
    if (name, damage) != ("result.json", "removed"):
        aside, why = set_aside_damaged(tmp_path)
        assert name in why
        assert (aside / "result.json").exists()
        kept = name not in ("history.csv", "checkpoints/best.ckpt") and (name, damage) not in UNREADABLE
        assert (tmp_path / "checkpoints" / "best.ckpt").exists() == kept


UNREADABLE = (("result.json", "emptied"), ("result.json", "flipped"))  # then the list of hashes is not known either


def test_a_number_that_was_edited_in_the_result_is_noticed(tmp_path):
    write(tmp_path)
    path = tmp_path / "result.json"
    path.write_text(path.read_text().replace('"run_id": "abc"', '"run_id": "abd"'))
    assert json.loads(path.read_text())["run_id"] == "abd"  # it is whole otherwise
    with pytest.raises(InputError, match=r"result\.json: damaged"):
        read_result(tmp_path)


def test_a_result_of_before_hashes_still_counts(tmp_path):
    write(tmp_path)
    old = {key: value for key, value in read_result(tmp_path).items() if key not in ("files", "sha256")}
    (tmp_path / "result.json").write_text(json.dumps(old))
    assert is_done(tmp_path, "abc")
    verify_files(tmp_path, old, layout.FILES)


def test_what_a_killed_process_half_wrote_is_swept_up_by_the_next_one_and_a_living_ones_is_not(tmp_path):
    code = (
        "import os; from pathlib import Path; from segtune.runs import files\n"
        "with files.new_folder(Path('predicted')) as folder, files.replacing(Path('a.csv')) as file:\n"
        "    (folder / 'mask').touch(); file.touch(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)
    assert len([*tmp_path.glob(".*.partial")]) == 2
    with replacing(tmp_path / "b.csv") as living:
        assert [*tmp_path.glob(".*.partial")] == [living]
        with new_folder(tmp_path / "predicted") as folder:
            assert {*tmp_path.glob(".*.partial")} == {living, folder}
    assert {path.name for path in tmp_path.iterdir()} == {"b.csv", "predicted"}


def test_two_writers_of_one_file_both_succeed(tmp_path):
    def write_often(letter):
        for _ in range(100):
            write_atomically(tmp_path / "curves.png", letter * 10_000)

    threads = [threading.Thread(target=write_often, args=(letter,)) for letter in (b"a", b"b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {*(tmp_path / "curves.png").read_bytes()} in ({*b"a"}, {*b"b"})
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


FORMULAS = [
    "=1+1",
    "+1+cmd",
    "-1+cmd|' /C calc'!A0",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    " =1",
    "\uff1d1",
    "'=1",
    "''-x",
    "=",
    "\ufeff=1",
]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_cell_of_text_is_no_formula_and_is_read_as_it_was(tmp_path, text):
    rows = [{"patient": text, "phase": "ED", "dice": -0.5}]
    written = csv_text(("patient", "phase", "dice"), rows)
    ((cell, *others),) = list(csv.reader(io.StringIO(written, newline="")))[1:]
    assert cell == f"'{text}"
    assert others == ["ED", "-0.5"]
    (tmp_path / "cases.csv").write_bytes(written.encode())
    assert read_table(tmp_path, "cases.csv") == [{"patient": text, "phase": "ED", "dice": "-0.5"}]


@pytest.mark.parametrize(
    "value", [-0.5, -3, 1e-7, -1e300, float("-inf"), "-0.5", "+3", "-.5e-3", "1.5", "-inf", np.float64(-2.5)]
)
def test_a_number_in_a_table_stays_a_number(value):
    assert csv_text(("a",), [{"a": value}], header=False) == f"{value}\n"


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.lists(st.text(st.sampled_from("=+-@'\t\r\n 1a,;\"\uff0b"), max_size=5), min_size=1, max_size=3))
@example(["'"])
def test_every_text_is_read_from_a_table_as_it_was_written(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("table")
    columns = [f"column {index}" for index in range(len(texts))]
    (folder / "cases.csv").write_bytes(csv_text(columns, [dict(zip(columns, texts, strict=True))] * 2).encode())
    assert read_table(folder, "cases.csv") == [dict(zip(columns, texts, strict=True))] * 2


@pytest.mark.parametrize("seconds", [STALE_S + 1, 3600, 1e9])
def test_a_status_of_the_future_is_no_sign_of_life(tmp_path, seconds):
    write_status(tmp_path, "running", host="elsewhere", pid=1, since="2999-01-01T00:00:00+0000")
    os.utime(tmp_path / layout.STATUS, (time.time() + seconds,) * 2)
    assert state_of(tmp_path, "abc")[0] == "stale"
    with lock(tmp_path):  # nobody is waited for
        pass
    os.utime(tmp_path / layout.STATUS, (time.time() + 5,) * 2)  # clocks of two machines differ a little
    assert state_of(tmp_path, "abc")[0] == "running"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({"state": "\x1b[2J"}, "missing"),
        ({"state": ["running"]}, "missing"),
        ({"state": {}}, "missing"),
        ({"state": "queued", "host": socket.gethostname(), "pid": "1; rm"}, "missing"),
        ({"state": "queued", "host": socket.gethostname(), "pid": 10**30}, "missing"),
        ({"state": "queued", "host": socket.gethostname(), "pid": -1}, "missing"),
        ({"state": "queued", "host": socket.gethostname()}, "missing"),
        ({"state": "failed", "error": "x"}, "failed"),
        ({"state": "failed", "error": {"message": 5}}, "failed"),
        ({"state": "running", "host": ["a"]}, "stale"),
    ],
)
def test_what_a_foreign_status_says_is_of_its_kind_or_not_said(tmp_path, status, expected):
    (tmp_path / layout.STATUS).write_text(json.dumps(status | {"config": [], "overrides": [5], "job": 7, "signal": None}))
    os.utime(tmp_path / layout.STATUS, (0, 0))
    state, said = state_of(tmp_path, "abc")
    assert state == expected
    assert not {"config", "overrides", "job", "signal"} & said.keys()
    if "error" in said:
        assert said["error"] == {"kind": "error", "message": "no message", "traceback": ""}


def test_a_foreign_sweep_and_its_jobs_are_of_their_kinds(tmp_path):
    run = {"run_id": "abc", "axes": {"loss": 5}, "overrides": "x"}
    (tmp_path / layout.SWEEP).write_text(json.dumps({"command": "rm -rf", "runs": [run, run | {"axes": [1]}]}))
    first, second = read_sweep(tmp_path)["runs"]
    assert first == {"run_id": "abc", "axes": {"loss": "5"}, "overrides": []}
    assert second["axes"] == {}
    for name in ("a\x1b[2J", "..", "a/b", "a\0b", "x" * 300, "", 5):
        (tmp_path / layout.SWEEP).write_text(json.dumps({"runs": [{"run_id": name}]}))
        with pytest.raises(InputError, match="sweep.json: damaged"):
            read_sweep(tmp_path)
    (tmp_path / layout.JOBS).write_text(json.dumps({"a": "12_3", "b": "1; rm -rf ~", "c": "\x1b[2J", "d": 7}))
    assert read_jobs(tmp_path) == {"a": "12_3", "d": "7"}


def test_a_file_that_is_too_large_or_none_is_refused_before_it_is_read(tmp_path):
    for name, read in (
        (layout.RESULT, read_result),
        (layout.SWEEP, read_sweep),
        (layout.HISTORY, read_history),
    ):
        path = tmp_path / name
        with path.open("wb") as file:
            file.truncate(5 * 10**9)  # takes no room on the disk
        with pytest.raises(InputError, match=rf"{name}: damaged \(.*\d MB\b"):
            read(tmp_path)
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(InputError, match=rf"{name}: .*\bregular\b"):
            read(tmp_path)
        path.unlink()
    os.mkfifo(tmp_path / layout.STATUS)
    assert read_status(tmp_path) is None


@pytest.mark.slow
def test_pictures_that_grow_when_they_are_unpacked_or_hold_objects_are_refused(tmp_path):
    path = tmp_path / layout.PICTURES
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("best_image.npy", "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (11 * 10**8,)})
        for _ in range(11):
            file.write(bytes(10**8))
    assert path.stat().st_size < 2 * 10**6
    with pytest.raises(InputError, match="pictures.npz: damaged"):
        read_pictures(tmp_path)
    np.savez(path, best_image=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="pictures.npz: damaged"):
        read_pictures(tmp_path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match="pictures.npz: damaged"):
        read_pictures(tmp_path)
