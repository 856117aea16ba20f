"""segtune.load: the results of sweeps as pandas tables."""

import json
import math
import subprocess
import sys
import warnings
from pathlib import Path

import pandas as pd
import pytest
from pandas.api.types import is_integer_dtype, is_numeric_dtype

import segtune
import simulated
from conftest import resign
from segtune.errors import InputError
from segtune.report import reading
from segtune.runs import layout
from segtune.runs.state import write_status

DICE = {"P01": 0.8, "P02": 0.6, "P03": 0.7}


def write(name, *settings, dice=DICE, options=None):
    """A sweep of finished runs in outputs/<name>; returns its folder and the ids of its runs."""
    runs = []
    for one in settings:
        runs.append(simulated.write_run(Path("outputs"), one, dice, simulated.curves(epochs=4, last=0.65), pictures=True))
        if options:
            path = Path("outputs/runs", runs[-1], layout.RESULT)
            path.write_text(json.dumps({**json.loads(path.read_text()), "options": options(one)}))
            resign(path.parent)
    return simulated.write_sweep(Path("outputs"), name, [(run, ()) for run in runs]), runs


def config(lr=1e-3, **settings):
    found = simulated.config(**settings)
    found["optimizer"]["lr"] = lr
    return found


@pytest.fixture(autouse=True)
def nothing_is_left_out_in_silence():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_runs_have_one_row_each_with_settings_and_scores_as_numbers():
    folder, runs = write("lr", config(), config(lr=2e-3, seed=1), config(loss="focal", l2=0.01))
    found = segtune.load(folder).runs
    assert list(found.run_id) == runs
    assert list(found.loss) == ["bce_dice", "bce_dice", "focal"]
    assert list(found.lr) == list(found["optimizer.lr"]) == [1e-3, 2e-3, 1e-3]
    assert list(found.seed) == [0, 1, 0]
    assert list(found.epochs) == [4, 4, 4]
    assert found.dice.to_list() == pytest.approx([0.7] * 3)
    assert found.best_dice.max() <= 1
    assert (found.lambda_l1 == 0).all()
    assert list(found.lambda_l2) == [0, 0, 0.01]
    numbers = (
        "lr",
        "seed",
        "fold",
        "epochs",
        "optimizer.lr",
        "dice",
        "val_dice",
        "train_dice",
        "best_dice",
        "best_epoch",
        "seconds",
    )
    assert all(is_numeric_dtype(found[name]) for name in numbers)
    assert all(is_integer_dtype(found[name]) for name in ("seed", "epochs", "best_epoch"))
    assert found.fold.isna().all()
    assert Path(found.folder[0], layout.RESULT).is_file()


def test_only_keys_in_which_the_runs_differ_are_columns():
    sizes = [{"data__size": size, "data__reader__size": size} for size in (64, 128)]
    folder, _ = write("a", *(config(loss="focal", **size) for size in sizes))
    found = segtune.load(folder).runs
    assert list(found["data.size"]) == [64, 128]
    assert {column for column in found if "." in column} == {"data.size"}


def test_a_value_that_only_some_runs_have_is_nan_in_the_others():
    one, other = config(loss="focal"), config(loss="bce")
    one["loss"]["gamma"] = 3
    folder, _ = write("a", one, other)
    found = segtune.load(folder).runs
    assert found["loss.gamma"][0] == 3
    assert math.isnan(found["loss.gamma"][1])
    assert is_numeric_dtype(found["loss.gamma"])


def test_options_that_a_run_recorded_are_its_columns_and_functions_that_they_do_not_tell_apart_are_shown():
    named = {"loss": "bce", "model": "unet_double", "batch": "15", "reg": "none", "split": "0.2"}
    folder, _ = write("a", config(loss="bce"), config(loss="focal"), options=lambda one: named)
    found = segtune.load(folder).runs
    assert list(found.model) == ["unet_double"] * 2
    assert list(found["loss._target_"]) == ["segtune.losses.bce", "segtune.losses.focal"]
    folder, _ = write(
        "b", config(loss="bce"), config(loss="focal"), options=lambda one: named | {"loss": one["loss"]["_target_"]}
    )
    assert "loss._target_" not in segtune.load(folder).runs


def test_lists_are_text_so_that_runs_can_be_grouped_by_them():
    one, other = config(), config()
    one["model"]["channels"], other["model"]["channels"] = [2, 4], [4, 8]
    folder, _ = write("a", one, other)
    assert segtune.load(folder).runs.groupby("model.channels").size().to_dict() == {"[2, 4]": 1, "[4, 8]": 1}


def test_patients_have_one_row_for_each_run_and_their_mean_is_the_runs_dice():
    folder, runs = write("a", config(), config(seed=1))
    found = segtune.load(folder)
    patients = found.patients
    assert list(zip(patients.run_id, patients.patient, strict=True)) == [(run, name) for run in runs for name in DICE]
    assert patients.groupby("run_id").dice.mean()[runs[0]] == pytest.approx(found.runs.dice[0])
    first = patients.iloc[0]
    scored = reading.read_run(Path("outputs/runs", runs[0]), ()).scored.patients["P01"]
    assert first.hd95_mm == scored["hd95_mm"]
    assert first.ejection_fraction_pred == scored["ejection_fraction_pred"]
    assert (first.volume_ED_true_ml, first.volume_ES_true_ml) == (100, 45)
    assert all(is_numeric_dtype(patients[name]) for name in patients.columns.drop(["run_id", "patient"]))


def test_a_patient_without_a_defined_dice_has_a_row_of_nan():
    folder, _ = write("a", config(), dice={**DICE, "P04": math.nan})
    found = segtune.load(folder)
    assert list(found.patients.dice.isna()) == [False, False, False, True]
    assert found.runs.dice[0] == pytest.approx(0.7)


def test_history_has_one_row_for_each_run_and_epoch_with_the_columns_of_history_csv():
    folder, runs = write("a", config(), config(seed=1))
    history = segtune.load(folder).history
    assert list(history.columns) == ["run_id", *layout.HISTORY_COLUMNS]
    assert list(history.epoch) == [1, 2, 3, 4] * 2
    assert is_integer_dtype(history.epoch)
    pd.testing.assert_frame_equal(
        history[history.run_id == runs[1]].drop(columns="run_id").reset_index(drop=True),
        pd.read_csv(Path("outputs/runs", runs[1], layout.HISTORY)),
        check_dtype=False,
    )


def test_several_sweeps_are_one_table_with_a_shared_run_once():
    one, (first, _) = write("one", config(), config(seed=1))
    other, (again, third) = write("other", config(), config(seed=2))
    assert first == again
    for given in ([one, other], [str(one), other, one], (folder for folder in (one, other))):
        assert segtune.load(given).runs.seed.to_list() == [0, 1, 2]
    assert third in set(segtune.load([one, other]).patients.run_id)


def test_unfinished_failed_and_damaged_runs_are_left_out_with_a_reason_and_one_warning():
    folder, runs = write("a", *(config(seed=seed) for seed in range(5)))
    for run in runs[1:3]:
        for path in Path("outputs/runs", run).iterdir():
            path.unlink()
    about = {"run_id": runs[2], "overrides": [], "config": {}}
    write_status(Path("outputs/runs", runs[2]), "failed", **about, error={"kind": "error", "message": "no memory"})
    Path("outputs/runs", runs[3], layout.SLICES).write_text("abc")
    with pytest.warns(UserWarning, match="left out") as warned:
        found = segtune.load(folder)
    assert list(found.runs.seed) == [0, 4]
    reasons = dict(found.left_out)
    assert reasons.keys() == {*runs[1:4]}
    assert (reasons[runs[1]], reasons[runs[2]]) == ("missing", "failed: no memory")
    assert layout.SLICES in reasons[runs[3]]
    assert len(warned) == 1
    assert str(warned[0].message).startswith("3 of 5 runs")
    assert warned[0].filename == __file__


def test_a_sweep_without_a_finished_run_gives_empty_tables_with_columns():
    folder, (run,) = write("a", config())
    Path("outputs/runs", run, layout.RESULT).unlink()
    with pytest.warns(UserWarning, match=run):
        found = segtune.load(folder)
    assert (len(found.runs), len(found.patients), len(found.history)) == (0, 0, 0)
    assert {"run_id", "loss", "dice"} <= {*found.runs}


def test_what_is_no_sweep_is_refused_by_name():
    _, (run,) = write("a", config())
    for given in ("outputs/nowhere", Path("outputs/runs") / run, ["outputs/a", "outputs"]):
        with pytest.raises(InputError) as caught:
            segtune.load(given)
        assert str(given[-1] if isinstance(given, list) else given) in str(caught.value)
    with pytest.raises(InputError):
        segtune.load([])


def test_importing_segtune_costs_neither_pandas_nor_numpy_and_loading_no_torch():
    folder, _ = write("a", config())
    code = (
        "import sys, without_torch, segtune; assert not {'pandas', 'numpy', 'hydra'} & {*sys.modules}; "
        f"assert len(segtune.load({str(folder.resolve())!r}).runs) == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_the_columns_are_those_that_the_documentation_names():
    folder, _ = write("a", config())
    found = segtune.load(folder)
    text = type(found).__doc__
    for column in (*found.runs, *list(found.patients)[:12], *layout.HISTORY_COLUMNS[:7]):
        assert column in text, column
