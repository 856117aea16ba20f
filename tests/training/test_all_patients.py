"""split=all: training on all patients, without validation, with the score of the sweep that chose the configuration."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import TINY
from segtune import evaluate, export
from segtune.config import entry
from segtune.errors import InputError
from segtune.report.__main__ import report_sweeps
from segtune.runs import identity, layout
from segtune.runs.result import read_result, without_measurements
from segtune.runs.sweep import write_sweep
from segtune.runs.tables import read_history, read_pictures, read_table
from segtune.training import build
from segtune.training.run import train

pytestmark = pytest.mark.slow
SMALL = (*TINY, "figures=false", "optimizer.lr=0.02", "trainer.max_epochs=8")
STRONG = (
    *("recipe=strong", "trainer.max_epochs=null", "trainer.max_steps=8", "trainer.val_every_steps=2", "batch.size=4"),
    *("scheduler.warmup_steps=2", "data.downsample=2", "data.size=64"),
)


def run(outputs, *overrides):
    cfg = entry.compose([*SMALL, *overrides])
    folder = Path(outputs) / "runs" / identity.run_id(entry.plain(cfg))
    if not (folder / layout.RESULT).exists():
        train(build.experiment(cfg), folder)
    return folder


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """A reported sweep of two losses in two folds, and its best configuration trained on all patients."""
    outputs = tmp_path_factory.mktemp("outputs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        folds = ("split=kfold", "split.n_folds=2", "score.largest_component=true")
        folders = [
            run(outputs, *folds, f"split.fold={fold}", f"loss={loss}") for loss in ("bce", "bce_dice") for fold in (0, 1)
        ]
        runs = [{"run_id": folder.name, "folder": f"runs/{folder.name}", "overrides": []} for folder in folders]
        write_sweep(outputs / "grid", command=["python", "-m", "segtune", "-m"], runs=runs)
        report_sweeps([outputs / "grid"])
    return outputs


def cells(outputs):
    return {row["cell"]: row for row in read_table(outputs / "grid" / "tables", "cells.csv")}


def test_every_patient_is_trained_on_and_the_last_epoch_is_the_only_choice(tmp_path):
    folder = run(tmp_path, "split=all")
    result, history = read_result(folder), read_history(folder)
    assert result["data"]["patients"] == {"train": ["P01", "P02", "P03", "P04"], "val": [], "unused": []}
    assert history["epoch"] == [*range(1, 9)]
    assert all(np.isnan(values).all() for name, values in history.items() if name.startswith("val_"))
    assert history["train_loss"][-1] < history["train_loss"][0]
    assert result["best"]["epoch"] == result["last"]["epoch"] == 8
    assert [read_table(folder, name) for name in layout.TABLES] == [[], [], []]
    assert read_pictures(folder) == {}
    last, best = (torch.load(folder / "checkpoints" / name, weights_only=True) for name in (layout.LAST, layout.BEST))
    assert all(torch.equal(last["state_dict"][name], value) for name, value in best["state_dict"].items())
    weights = [value for name, value in last["state_dict"].items() if name.endswith("weight") and value.ndim == 4]
    squares = sum(value.double().square().sum().item() for value in weights if set(value.shape[2:]) != {1})
    assert result["weights"]["l2"] == pytest.approx(squares)


@pytest.mark.parametrize("recipe", [(), STRONG], ids=["study", "strong"])
def test_an_interrupted_run_on_all_patients_equals_an_uninterrupted_one(tmp_path, monkeypatch, recipe):
    from segtune.training.module import Segmenter

    whole = run(tmp_path / "whole", "split=all", *recipe)
    step, n = Segmenter.training_step, 0

    def breaks(self, *arguments):
        nonlocal n
        n += 1
        if n == 6:
            raise OSError("cut off")
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "training_step", breaks)
        with pytest.raises(OSError, match="cut off"):
            run(tmp_path / "cut", "split=all", *recipe)
    again = run(tmp_path / "cut", "split=all", *recipe)
    assert read_result(again)["attempts"][-1]["first_epoch"] > 1
    assert without_measurements(read_result(again)) == without_measurements(read_result(whole))
    one, other = (
        torch.load(folder / "checkpoints" / layout.LAST, weights_only=True)["state_dict"] for folder in (again, whole)
    )
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_report_names_the_command_and_the_run_records_the_sweep_s_score(outputs, capsys):
    report_sweeps([outputs / "grid"])
    command = re.search(r"`python -m segtune (\S.*) split=all split\.chosen_from=\S+ outputs=\S+`", capsys.readouterr().out)
    best = max(cells(outputs).values(), key=lambda row: float(row["dice"]))
    assert f"loss={best['loss']}" in command[1].split()
    assert "split=kfold" not in command[1]
    folder = run(outputs, *command[1].split(), "split=all", f"split.chosen_from={outputs / 'grid'}")
    expected = read_result(folder)["expected"]
    assert expected["sweep"] == "grid"
    assert expected["dice"] == float(best["dice"])
    assert expected["run_ids"] == best["run_ids"].split()
    assert (expected["n_patients"], expected["n_folds"], expected["n_runs"]) == (4, 2, 2)
    assert expected["score"] == {"tta": False, "largest_component": True}


def test_auto_is_false_without_validation_patients_and_said(outputs, caplog):
    folder = run(outputs, "loss=bce", "split=all", "score.largest_component=auto", "seed=1")
    assert read_result(folder)["score"] == {"tta": False, "largest_component": False}
    assert re.search(r"\bscore\.largest_component=auto\b.*\bsplit=all\b", caplog.text)


@pytest.mark.parametrize("processed", ["score.largest_component=true", "score.tta=true"])
@pytest.mark.parametrize("when", ["in training", "in export"])
def test_the_model_card_quotes_the_sweep_s_score_and_none_of_its_own(outputs, tmp_path, when, processed):
    chosen_from = [f"split.chosen_from={outputs / 'grid'}"] if when == "in training" else []
    folder = run(tmp_path, "loss=bce", "split=all", processed, *chosen_from)
    settings = [f"chosen_from={outputs / 'grid'}"] if when == "in export" else []
    export.export(entry.compose([f"run={folder}", f"output={tmp_path / 'exported'}", *settings], "export"))
    card = (tmp_path / "exported" / "model_card.md").read_text()
    dice = float(cells(outputs)["loss=bce"]["dice"])
    assert re.search(rf"\ball 4 patients\b.*\*\*{dice:.3f}\*\*.*\b2 folds\b", card)
    assert "undefined (0" not in card
    assert str(outputs) not in card
    assert ("in another way" in card) == (processed != "score.largest_component=true")
    assert "## Scores" not in card


def test_a_run_with_validation_patients_has_its_own_scores_on_the_card(outputs, tmp_path):
    folder = outputs / "runs" / cells(outputs)["loss=bce"]["run_ids"].split()[0]
    with pytest.raises(InputError, match=r"^chosen_from=.*\bvalidation\b"):
        export.export(entry.compose([f"run={folder}", f"output={tmp_path / 'x'}", f"chosen_from={outputs / 'grid'}"], "export"))


def test_the_best_epoch_is_the_last_and_is_not_called_optimistic(outputs, tmp_path):
    folder = run(outputs, "loss=bce", "split=all", "seed=1")
    export.export(entry.compose([f"run={folder}", f"output={tmp_path / 'x'}", "which=best"], "export"))
    card = (tmp_path / "x" / "model_card.md").read_text()
    assert "optimistic choice" not in card
    assert "chosen among all epochs" not in card


def test_a_card_without_a_sweep_says_that_nothing_is_known(tmp_path):
    folder = run(tmp_path, "split=all")
    export.export(entry.compose([f"run={folder}", f"output={tmp_path / 'exported'}"], "export"))
    assert re.search(r"\bis not known\b.*\bchosen_from\b", (tmp_path / "exported" / "model_card.md").read_text())


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["optimizer.lr=0.01"], r"\boptimizer\.lr\b"),
        (["data.n_patients=5"], r"\bthe data\b"),
        (["loss=focal"], r"\bloss\b"),
    ],
)
def test_a_configuration_that_the_sweep_does_not_have_is_refused_with_the_nearest(outputs, overrides, named):
    with pytest.raises(InputError, match=named):
        run(outputs, "loss=bce", "split=all", f"split.chosen_from={outputs / 'grid'}", *overrides)


def test_a_sweep_without_its_runs_or_with_an_empty_table_is_named_with_the_cure(outputs, tmp_path):
    shutil.copytree(outputs / "grid", tmp_path / "moved" / "grid")
    with pytest.raises(InputError, match=r"\bmoved/runs/\w+ is missing\b"):
        run(tmp_path, "loss=bce", "split=all", f"split.chosen_from={tmp_path / 'moved' / 'grid'}")
    (tmp_path / "moved" / "grid" / "tables" / "cells.csv").write_text("")
    with pytest.raises(InputError, match=r"\bcells\.csv: damaged\b"):
        run(tmp_path, "loss=bce", "split=all", f"split.chosen_from={tmp_path / 'moved' / 'grid'}")


def test_a_sweep_without_a_report_is_named_with_the_cure(outputs, tmp_path):
    shutil.copytree(outputs, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "grid" / "tables")
    with pytest.raises(InputError, match=r"\bsegtune\.report sweep="):
        run(tmp_path, "loss=bce", "split=all", f"split.chosen_from={tmp_path / 'copy' / 'grid'}")
    with pytest.raises(InputError, match=r"\bnowhere\b.*\bsweep\b"):
        run(tmp_path, "loss=bce", "split=all", "split.chosen_from=nowhere")


def test_a_report_of_runs_on_all_patients_says_that_there_is_nothing_to_compare(outputs, tmp_path, capsys):
    folders = [run(tmp_path, "split=all", f"seed={seed}") for seed in (0, 1)]
    runs = [{"run_id": folder.name, "folder": f"runs/{folder.name}", "overrides": []} for folder in folders]
    write_sweep(tmp_path / "grid", command=["python"], runs=runs)
    page = report_sweeps([tmp_path / "grid"])
    assert re.search(r"\bsplit=all\b", capsys.readouterr().out)
    assert "split=all" in page.read_text()


def test_it_is_evaluated_on_other_patients(tmp_path, capsys):
    folder = run(tmp_path, "split=all")
    evaluate.evaluate(entry.compose([f"run={folder}", "data=phantom", "data.n_patients=3", "data.seed=1"], "evaluate"))
    record = json.loads((Path(capsys.readouterr().out.splitlines()[-1]) / "evaluation.json").read_text())
    assert record["data"]["n_patients"] == 3


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["split=all", "trainer.patience=2"], r"^trainer\.patience=2\b"),
        (["split=all", "+split.val_fraction=0.2"], r"^split\.by=all\b"),
        (["+split.chosen_from=outputs/grid"], r"^split\.by=patient\b.*\bchosen_from\b"),
    ],
)
def test_what_needs_validation_is_refused_and_what_needs_none_too(overrides, named):
    from segtune.config import rules

    with pytest.raises(InputError, match=named):
        rules.check(entry.plain(entry.compose([*TINY, *overrides])))
