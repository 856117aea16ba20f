"""A run's or sweep's folder that somebody else made: no link leads out of it, no pipe or device holds a verb up, and what is
in it costs no memory and steers no terminal."""

import io
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import TINY, resign
from segtune import evaluate
from segtune.config import entry
from segtune.errors import InputError
from segtune.report.__main__ import report_sweeps
from segtune.runs import identity, layout
from segtune.runs.result import read_result
from segtune.runs.state import epochs_done, lock, read_status, state_of
from segtune.runs.sweep import write_sweep
from segtune.runs.tables import csv_text, read_csv, read_history, read_pictures
from segtune.sweeps.execute import execute
from segtune.sweeps.plan import Run
from segtune.training import checkpoints


@pytest.fixture
def folder(tiny_run):
    """A copy of a finished run, in outputs/runs."""
    source, _ = tiny_run
    return Path(shutil.copytree(source, Path("outputs/runs") / source.name))


def swapped(path, kind):
    """Put a link to a file elsewhere, a link to an endless device, or a pipe in the place of a file."""
    elsewhere = Path("elsewhere").resolve()
    elsewhere.mkdir(exist_ok=True)
    secret = elsewhere / path.name
    if path.exists():
        shutil.copy(path, secret)
    else:
        secret.write_text('{"state": "failed", "host": "SECRET"}')
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(secret if kind == "link" else "/dev/zero")
    return secret


KINDS = ("link", "device", "pipe")
PICTURES = 'id="figure-patients"'  # in a page that shows patients


@pytest.mark.parametrize("kind", KINDS)
def test_history_tables_and_pictures_are_read_from_regular_files_alone(folder, kind):
    for name, read in (
        (layout.HISTORY, lambda: read_history(folder)),
        (layout.SLICES, lambda: read_csv(folder / layout.SLICES)),
        (layout.IMAGES, lambda: read_csv(folder / layout.IMAGES)),
        (layout.PICTURES, lambda: read_pictures(folder)),
        (layout.RESULT, lambda: read_result(folder)),
    ):
        swapped(folder / name, kind)
        with pytest.raises(InputError, match=f"/{name}: "):
            read()
    assert epochs_done(folder) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_status_and_a_lock_are_regular_files_or_not_there(folder, kind):
    swapped(folder / layout.STATUS, kind)
    assert read_status(folder) is None
    swapped(folder / layout.LOCK, kind)
    (folder / layout.RESULT).unlink()
    assert state_of(folder, folder.name)[0] == "missing"
    with pytest.raises(OSError, match=f"/{layout.LOCK}'"), lock(folder):
        pass


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [layout.LOCK, layout.LOG])
def test_a_run_writes_neither_lock_nor_log_through_a_link_or_into_a_pipe(tmp_path, kind, name):
    config = entry.plain(entry.compose([*TINY, "figures=false"]))
    run = Run(identity.run_id(config), [], config, tmp_path / "outputs/runs" / identity.run_id(config), "missing")
    run.folder.mkdir(parents=True)
    secret = swapped(run.folder / name, kind)
    before = secret.read_bytes()
    with pytest.raises(OSError, match=f"/{name}'"):
        execute(run)
    assert secret.read_bytes() == before


def test_what_a_foreign_checkpoint_says_has_changed_is_printable(folder, caplog):
    (folder / layout.RESULT).unlink()
    last = folder / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    torch.save(checkpoint | {"inputs": {"x\nimport os\x1b[31m": "x"}}, last)
    checkpoints.resume(folder, identity.run_id(checkpoint["hyper_parameters"]), {"data": "1"})
    assert "import os" in caplog.text
    assert "\x1b" not in caplog.text
    assert "\nimport os" not in caplog.text


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_checkpoint_that_is_no_regular_file_is_not_resumed_from(folder, kind):
    (folder / layout.RESULT).unlink()
    secret = swapped(folder / "checkpoints" / "last.ckpt", kind)
    before = secret.read_bytes()
    config = torch.load(secret, weights_only=True)["hyper_parameters"]
    assert checkpoints.resume(folder, identity.run_id(config), {"data": "1"}) == 0
    assert secret.read_bytes() == before


def listed(folder):
    sweep = Path("outputs/grid")
    run = {"run_id": folder.name, "overrides": [], "axes": {}}
    write_sweep(sweep, command=["python"], runs=[run])
    return sweep


@pytest.mark.parametrize("name", ["tables", "figures"])
def test_a_report_writes_nothing_through_a_link(folder, name):
    victim = Path("victim").resolve()
    victim.mkdir()
    (victim / "cells.csv").write_text("mine")
    sweep = listed(folder)
    (sweep / name).symlink_to(victim)
    with pytest.raises(InputError, match=rf"/{name}: .*\blink\b"):
        report_sweeps([sweep])
    assert [path.name for path in victim.iterdir()] == ["cells.csv"]
    assert (victim / "cells.csv").read_text() == "mine"


def repack(folder, **arrays):
    """Change arrays of pictures.npz, and the hash that result.json has of it."""
    pictures = read_pictures(folder)
    content = io.BytesIO()
    np.savez_compressed(content, **{**pictures, **arrays})
    (folder / layout.PICTURES).write_bytes(content.getvalue())
    resign(folder)


@pytest.mark.parametrize("change", ["shorter", "floats", "empty", "huge"])
def test_pictures_that_no_run_can_have_written_are_left_out_of_the_report(folder, change):
    pictures = read_pictures(folder)
    changes = {
        "shorter": {"best_true": pictures["best_true"][1:]},
        "floats": {"best_pred": pictures["best_pred"].astype(float)},
        "empty": {f"best_{part}": pictures[f"best_{part}"][:0] for part in ("image", "true", "pred", "frame")},
        "huge": {f"best_{part}": np.zeros((1, 9000, 9000), bool) for part in ("true", "pred")}
        | {"best_image": np.zeros((1, 9000, 9000), np.uint8), "best_frame": np.array([1])},
    }
    repack(folder, **changes[change])
    with pytest.raises(InputError, match=layout.PICTURES):
        read_pictures(folder)
    page = report_sweeps([listed(folder)])
    assert PICTURES not in page.read_text()


def test_pictures_that_unpack_to_more_than_a_run_writes_are_refused_before_they_do(folder):
    with (
        zipfile.ZipFile(folder / layout.PICTURES, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("best_image.npy", "w") as file,
    ):
        for _ in range(300):
            file.write(bytes(2**20))
    tracemalloc.start()
    with pytest.raises(InputError, match=layout.PICTURES):
        read_pictures(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2**20


def test_a_table_of_a_thousand_columns_is_refused_by_its_head(folder):
    wide = ",".join(f"c{number}" for number in range(1000))
    (folder / layout.HISTORY).write_text(wide + "\n" + "1\n" * 1000)
    with pytest.raises(InputError, match=f"{layout.HISTORY}.*256 columns"):
        read_history(folder)


def test_a_table_has_no_characters_that_steer_a_terminal():
    text = csv_text(["patient"], [{"patient": "\x1b[31mRED\x07"}, {"patient": "\x9b2J"}, {"patient": "\x1b=1"}])
    assert text == "patient\n?[31mRED?\n?2J\n?=1\n"


def test_the_page_has_no_characters_that_steer_a_terminal(folder):
    result = json.loads((folder / layout.RESULT).read_text())
    patient = result["data"]["patients"]["val"][0]
    for name in layout.TABLES:
        path = folder / name
        path.write_text(path.read_text().replace(f",{patient},", f",{patient}\x1b]0;TITLE\x07,"))
    text = (folder / layout.RESULT).read_text()
    (folder / layout.RESULT).write_text(text.replace(f'"{patient}"', f'"{patient}\\u001b]0;TITLE\\u0007"'))
    resign(folder)
    page = report_sweeps([listed(folder)])
    assert PICTURES in page.read_text()  # as long as they can be read
    for path in [page, *page.parent.rglob("*.csv")]:
        assert not {"\x1b", "\x07"} & set(path.read_text()), path
    assert "TITLE" in "".join(path.read_text() for path in page.parent.rglob("*.csv"))


@pytest.mark.slow
def test_status_ends_in_time_whatever_stands_in_a_run_s_folder(folder):
    sweep = listed(folder)
    for name, kind in ((layout.HISTORY, "pipe"), (layout.LOCK, "pipe"), (layout.STATUS, "link"), (layout.PICTURES, "device")):
        swapped(folder / name, kind)
    ended = subprocess.run(
        [sys.executable, "-m", "segtune.status", f"sweep={sweep}"], capture_output=True, text=True, timeout=60, check=False
    )
    assert "SECRET" not in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_evaluation_does_not_wait_at_a_pipe(folder):
    swapped(folder / layout.IMAGES, "pipe")
    with pytest.raises(InputError, match=layout.IMAGES):
        evaluate.evaluate(entry.compose([f"run={folder}", "data=phantom", "data.seed=1", "outputs=out"], "evaluate"))


def test_a_folder_that_was_removed_is_not_made_again(tmp_path):
    with pytest.raises(FileNotFoundError):
        checkpoints.save({"epoch": 1}, tmp_path / "removed" / "checkpoints" / "last.ckpt")
    assert not (tmp_path / "removed").exists()
