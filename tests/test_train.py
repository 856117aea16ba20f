import json

import numpy as np
import pytest
import torch

from conftest import TINY, write_patient
from segtune import app, results
from segtune.errors import InputError
from segtune.train import epochs_to_90, train


def run(tmp_path, *overrides):
    tiny = [key for key in TINY if "data=rvsc" not in overrides or not key.startswith("data")]
    cfg = app.compose([*tiny, *overrides])
    folder = tmp_path / "outputs" / "runs" / results.run_id(app.plain(cfg))
    train(cfg, folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        return run(tmp_path_factory.mktemp("run"), "reg=l2", "batch=10")


def test_a_run_leaves_everything_that_is_promised(folder):
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {
        *("history.csv", "slices.csv", "pictures.npz", "result.json", "curves.png", "curves.svg"),
        *("checkpoints/best.ckpt", "checkpoints/last.ckpt"),
    }


def test_result_says_what_was_run_on_whom_and_with_what(folder):
    result = results.read_result(folder)
    keys = "run_id cell_id config data best last epochs_to_90 seconds peak_memory_mb versions git"
    assert set(result) == set(keys.split())
    data = result["data"]
    assert sorted(data["patients"]["train"] + data["patients"]["val"]) == ["P01", "P02", "P03", "P04"]
    assert data["n_images"]["val"] == len(rows_of(folder, "last", "frame", "patient")) > 0
    assert (data["leaks"], data["n_leaks"]) == ([], 0)
    assert result["config"]["reg"]["lambda"] == 5e-4
    assert results.is_done(folder, folder.name)


def rows_of(folder, which, *columns):
    rows = [row for row in results.read_slices(folder) if row["which"] == which]
    return ["/".join(row[column] for column in columns) for row in rows]


@pytest.mark.parametrize("which", ["best", "last"])
def test_the_history_s_dice_is_recomputed_from_the_slices(folder, which):
    result, history = results.read_result(folder)[which], results.read_history(folder)
    rows = [row for row in results.read_slices(folder) if row["which"] == which]
    counts = np.array([[int(row[name]) for name in ("n_true", "n_pred", "n_overlap")] for row in rows])
    dice = 2 * counts[:, 2] / (counts[:, 0] + counts[:, 1])
    assert dice == pytest.approx([float(row["dice"]) for row in rows], abs=1e-12)
    assert dice.mean() == pytest.approx(history["val_dice"][result["epoch"] - 1], abs=1e-12)
    assert np.mean([float(row["soft_dice"]) for row in rows]) == pytest.approx(result["val_soft_dice"], abs=1e-6)


def test_best_is_the_epoch_of_the_highest_validation_dice(folder):
    history = results.read_history(folder)
    assert results.read_result(folder)["best"]["epoch"] == 1 + int(np.argmax(history["val_dice"]))
    assert results.read_result(folder)["last"]["epoch"] == 2


def test_checkpoints_load_with_weights_only_and_the_last_has_lost_its_optimiser(folder):
    best, last = (torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True) for name in ("best", "last"))
    assert best["hyper_parameters"] == last["hyper_parameters"] == results.read_result(folder)["config"]
    assert type(last["hyper_parameters"]) is dict
    assert "optimizer_states" not in last
    assert "optimizer_states" not in best


def test_pictures_hold_the_best_the_median_and_the_worst_patient(folder):
    pictures = results.read_pictures(folder)
    for name in ("best", "median", "worst"):
        assert pictures[f"{name}_image"].dtype == np.uint8
        assert pictures[f"{name}_image"].shape == pictures[f"{name}_true"].shape == pictures[f"{name}_pred"].shape
        assert pictures[f"{name}_true"].dtype == pictures[f"{name}_pred"].dtype == bool
        assert len(pictures[f"{name}_frame"]) == len(pictures[f"{name}_image"])


def test_the_same_run_twice_is_the_same_to_the_bit(folder, tmp_path):
    again = run(tmp_path, "reg=l2", "batch=10")
    assert again.name == folder.name
    weights = [torch.load(f / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for f in (folder, again)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    histories = [results.read_history(f) for f in (folder, again)]
    assert [h.pop("seconds") is not None for h in histories] == [True, True]
    assert histories[0] == histories[1]
    assert (folder / "slices.csv").read_bytes() == (again / "slices.csv").read_bytes()


def test_runs_do_not_leak_into_one_another(tmp_path):
    alone = results.read_history(run(tmp_path / "a", "seed=5"))
    run(tmp_path / "b", "loss=focal")
    after = results.read_history(run(tmp_path / "b", "seed=5"))
    assert alone["val_loss"] == after["val_loss"]


def test_a_leaky_split_is_recorded(tmp_path):
    data = results.read_result(run(tmp_path, "split.by=image", "trainer.max_epochs=1", "figures=false"))["data"]
    assert data["n_leaks"] == len(data["leaks"]) > 0


def test_the_real_format_trains_and_no_name_is_stored(tmp_path):
    for number in (1, 2, 3):
        write_patient(tmp_path / "real", number, [20, 28, 40, 48], n_frames=40, scale={28: 0.7, 48: 0.7})
    folder = run(tmp_path, "data=rvsc", f"data.root={tmp_path / 'real'}", "data.size=96", "split=0.4")
    assert set(rows_of(folder, "last", "phase")) == {"ED", "ES"}
    assert not any(b"Secret" in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_a_single_patient_is_refused_and_nothing_is_taken_for_done(tmp_path):
    write_patient(tmp_path / "real", 1, [20, 22])
    with pytest.raises(InputError, match="a single patient"):
        run(tmp_path, "data=rvsc", f"data.root={tmp_path / 'real'}", "data.size=96")
    assert not list(tmp_path.rglob("result.json"))


def test_a_setting_that_lightning_refuses_is_explained(tmp_path):
    with pytest.raises(InputError, match=r"trainer.precision=7.*Lightning refuses"):
        run(tmp_path, "trainer.precision=7")


def test_what_an_interrupted_run_left_does_not_mix_with_a_new_start(folder, tmp_path):
    unfinished = tmp_path / "outputs" / "runs" / folder.name
    unfinished.mkdir(parents=True)
    (unfinished / "history.csv").write_text((folder / "history.csv").read_text())
    assert run(tmp_path, "reg=l2", "batch=10") == unfinished
    assert len(results.read_history(unfinished)["epoch"]) == 2
    assert (unfinished / "interrupted-1" / "history.csv").exists()


def test_epochs_to_90_counts_from_1_and_is_none_without_a_best():
    assert epochs_to_90([0.1, 0.5, 0.91, 1.0]) == 3
    assert epochs_to_90([0.0, 0.0]) is None
    assert epochs_to_90([float("nan")]) is None
    assert epochs_to_90([float("nan"), 0.5]) == 2


def test_result_json_is_strict_json(folder):
    def refuse(constant):
        raise AssertionError(constant)

    json.loads((folder / "result.json").read_text(), parse_constant=refuse)
