import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import segtune
from conftest import TINY, write_patient
from plain import epoch, plain
from segtune.config import entry
from segtune.data import phantom
from segtune.errors import InputError, NotFiniteError
from segtune.inference import export, models
from segtune.metrics import overlap
from segtune.report import reading, sentences
from segtune.runs import identity, layout
from segtune.runs.result import is_done, read_result, without_measurements
from segtune.runs.sweep import write_sweep
from segtune.runs.tables import read_history, read_pictures, read_table
from segtune.training import build, checkpoints, outcome, provenance
from segtune.training import run as training_run
from segtune.training.module import Segmenter
from segtune.training.outcome import epochs_to_90
from segtune.training.run import train


def run(tmp_path, *overrides):
    tiny = [key for key in TINY if "data=rvsc" not in overrides or not key.startswith("data")]
    cfg = entry.compose([*tiny, *overrides])
    folder = tmp_path / "outputs" / "runs" / identity.run_id(entry.plain(cfg))
    train(build.experiment(cfg), folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        return run(tmp_path_factory.mktemp("run"), "reg=l2", "batch=10")


def test_a_run_leaves_everything_that_is_promised(folder):
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {
        *("history.csv", "slices.csv", "cases.csv", "patients.csv", "pictures.npz", "result.json", "curves.png", "curves.svg"),
        "images.csv",
        *("checkpoints/best.ckpt", "checkpoints/last.ckpt"),
    }


def test_result_says_what_was_run_on_whom_and_with_what(folder):
    result = read_result(folder)
    keys = "run_id cell_id config options label data tolerance_mm best last epochs_to_90 calibration weights seconds"
    rest = "schema peak_memory_mb versions git machine files sha256 inputs attempts"
    assert set(result) == {*keys.split(), *rest.split()}
    data = result["data"]
    assert sorted(data["patients"]["train"] + data["patients"]["val"]) == ["P01", "P02", "P03", "P04"]
    assert data["n_images"]["val"] == len(rows_of(folder, "last", "frame", "patient")) > 0
    assert (data["leaks"], data["n_leaks"]) == ([], 0)
    assert result["config"]["reg"]["lambda"] == 5e-4
    assert is_done(folder, folder.name)


def rows_of(folder, which, *columns):
    rows = [row for row in read_table(folder, layout.SLICES) if row["which"] == which]
    return ["/".join(row[column] for column in columns) for row in rows]


@pytest.mark.parametrize("which", ["best", "last"])
def test_the_history_s_dice_is_recomputed_from_the_slices(folder, which):
    result, history = read_result(folder)[which], read_history(folder)
    rows = [row for row in read_table(folder, layout.SLICES) if row["which"] == which]
    counts = np.array([[int(row[name]) for name in ("n_true", "n_pred", "n_overlap")] for row in rows])
    dice = 2 * counts[:, 2] / (counts[:, 0] + counts[:, 1])
    assert dice == pytest.approx([float(row["dice"]) for row in rows], abs=1e-12)
    assert dice.mean() == pytest.approx(history["val_dice"][result["epoch"] - 1], abs=1e-12)
    assert np.mean([float(row["soft_dice"]) for row in rows]) == pytest.approx(result["val_soft_dice"], abs=1e-6)


def test_best_is_the_epoch_of_the_highest_validation_dice(folder):
    history = read_history(folder)
    assert read_result(folder)["best"]["epoch"] == 1 + int(np.argmax(history["val_dice"]))
    assert read_result(folder)["last"]["epoch"] == 2


def test_checkpoints_load_with_weights_only_and_the_last_has_lost_its_optimiser(folder):
    best, last = (torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True) for name in ("best", "last"))
    assert best["hyper_parameters"] == last["hyper_parameters"] == read_result(folder)["config"]
    assert type(last["hyper_parameters"]) is dict
    assert "optimizer_states" not in last
    assert "optimizer_states" not in best


def test_pictures_hold_the_best_the_median_and_the_worst_patient(folder):
    pictures = read_pictures(folder)
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
    histories = [read_history(f) for f in (folder, again)]
    assert [h.pop("seconds") is not None for h in histories] == [True, True]
    assert histories[0] == histories[1]
    assert (folder / "slices.csv").read_bytes() == (again / "slices.csv").read_bytes()


@pytest.mark.parametrize("size", ["batch=10", "batch=15"])
def test_the_fast_path_trains_as_the_plain_one_does(size, tmp_path):
    """Channels last, turned images, fused Adam, folded batch norm: the losses of a first epoch without dropout."""
    settings = ["model.dropout=0", "trainer.max_epochs=1", "loss=bce_dice", "reg=none", "model.width=8", "data.size=64", size]
    history = read_history(run(tmp_path, *settings))
    experiment = build.experiment(entry.compose([*TINY, *settings]))
    data = experiment.datamodule()
    torch.manual_seed(experiment.seed)
    net = experiment.module().net
    images = np.concatenate(data.train_batches(0))
    losses = epoch(plain(net), *data._train, images, experiment.split.val, experiment.batch_size)
    assert (history["train_loss"][0], history["val_loss"][0]) == pytest.approx(tuple(losses), abs=1e-4)


def test_runs_do_not_leak_into_one_another(tmp_path):
    alone = read_history(run(tmp_path / "a", "seed=5"))
    run(tmp_path / "b", "loss=focal")
    after = read_history(run(tmp_path / "b", "seed=5"))
    assert alone["val_loss"] == after["val_loss"]


def test_a_leaky_split_is_recorded(tmp_path):
    data = read_result(run(tmp_path, "split.by=image", "trainer.max_epochs=1", "figures=false"))["data"]
    assert data["n_leaks"] == len(data["leaks"]) > 0


def test_the_real_format_trains_if_copies_are_allowed_and_no_name_is_stored(tmp_path):
    for number in (1, 2, 3):
        write_patient(tmp_path / "real", number, [20, 28, 40, 48], n_frames=40, scale={28: 0.7, 48: 0.7})
    settings = ["data=rvsc", f"data.root={tmp_path / 'real'}", "data.size=96", "split=0.4"]
    with pytest.raises(InputError, match=r"\bP02\b.*\b20: .*data\.allow=\[duplicate_contour\]"):
        run(tmp_path, *settings)
    folder = run(tmp_path, *settings, "data.allow=[duplicate_contour]")
    kinds = [one["kind"] for one in read_result(folder)["data"]["findings"] if one["severity"] == "error"]
    assert kinds == ["duplicate_contour"] * 8
    assert set(rows_of(folder, "last", "phase")) == {"ED", "ES"}
    assert not any(b"Secret" in path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(("target", "refused"), [("epicardium", True), ("endocardium", False)])
def test_a_run_refuses_errors_of_the_contours_that_it_reads_and_records_those_of_the_others(tmp_path, target, refused):
    phantom.write(tmp_path / "real", seed=1, n_patients=3, size=64)
    first, second = (next((tmp_path / "real").rglob(f"P0{n}-*-ocontour-manual.txt")) for n in (1, 2))
    shutil.copy(first, second)
    settings = ["data=rvsc", f"data.root={tmp_path / 'real'}", "data.size=64", "figures=false", "trainer.max_epochs=1"]
    settings.append(f"data.target={target}")
    if refused:
        with pytest.raises(InputError, match=rf"\b{second.name}\b.*\bepicardium\b.*\[duplicate_contour\]"):
            run(tmp_path, *settings)
        settings.append("data.allow=[duplicate_contour]")
    found = read_result(run(tmp_path, *settings))["data"]["findings"]
    duplicates = [(one["file"], one["severity"]) for one in found if one["kind"] == "duplicate_contour"]
    assert duplicates == [(second.name, "error" if refused else "warning")]


def test_a_structure_that_the_crop_cuts_is_recorded_and_has_no_volume(tmp_path):
    for number in (1, 2, 3):
        write_patient(tmp_path / "real", number, [20, 28, 40, 48], n_frames=40, scale={28: 0.7, 48: 0.7})
    where = ["data=rvsc", f"data.root={tmp_path / 'real'}", "data.allow=[duplicate_contour]", "split=0.4", "figures=false"]
    folder = run(tmp_path, *where, "data.size=48", "data.larger=crop", "trainer.max_epochs=1")
    found = [one for one in read_result(folder)["data"]["findings"] if one["kind"] == "cropped"]
    assert {one["patient"] for one in found} == {"P01", "P02", "P03"}
    cases = read_table(folder, layout.CASES)
    (why,) = {case["undefined"] for case in cases if case["phase"] == "ED"}
    assert why.startswith("data.larger=crop")
    assert {case["volume_true_ml"] for case in cases if case["phase"] == "ED"} == {"nan"}


def test_a_single_patient_is_refused_and_nothing_is_taken_for_done(tmp_path):
    write_patient(tmp_path / "real", 1, [20, 22])
    with pytest.raises(InputError, match=r"\bsingle\b.*\bP01\b"):
        run(tmp_path, "data=rvsc", f"data.root={tmp_path / 'real'}", "data.size=96")
    assert not list(tmp_path.rglob("result.json"))


def test_a_setting_that_lightning_refuses_is_explained(tmp_path):
    with pytest.raises(InputError, match=r"trainer\.precision=7\b.*\bLightning\b"):
        run(tmp_path, "trainer.precision=7")


def test_what_a_run_left_before_its_first_checkpoint_does_not_mix_with_a_new_start(folder, tmp_path):
    unfinished = tmp_path / "outputs" / "runs" / folder.name
    unfinished.mkdir(parents=True)
    (unfinished / "history.csv").write_text((folder / "history.csv").read_text())
    assert run(tmp_path, "reg=l2", "batch=10") == unfinished
    assert len(read_history(unfinished)["epoch"]) == 2
    assert (unfinished / "interrupted-1" / "history.csv").exists()


class Stop(BaseException):
    pass


def cut_off(monkeypatch, tmp_path, where, *overrides):
    """Start a run and stop it: at the nth training step, or at the nth file that is written whole."""
    target, name, n = where
    original, count = getattr(target, name), []

    def stopping(*args, **kwargs):
        count.append(1)
        if len(count) == n:
            raise Stop
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(target, name, stopping)
        with pytest.raises(Stop):
            run(tmp_path, *overrides)


def same(one, other):
    """Weights, history, slices, pictures and result to the bit, less what is measured."""
    for name in ("best.ckpt", "last.ckpt"):
        a, b = (torch.load(f / "checkpoints" / name, weights_only=True) for f in (one, other))
        assert a.keys() == b.keys()
        assert a["epoch"] == b["epoch"]
        assert all(torch.equal(a["state_dict"][key], b["state_dict"][key]) for key in a["state_dict"])
    histories = [read_history(f) for f in (one, other)]
    assert [h.pop("seconds") is not None for h in histories] == [True, True]
    assert histories[0] == histories[1]
    assert without_measurements(read_result(one)) == without_measurements(read_result(other))
    for name in ("slices.csv", "pictures.npz"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


LONG = ("reg=l2", "batch=10", "trainer.max_epochs=4", "optimizer.lr=0.01")
MOMENTS = {
    "in the first epoch": (Segmenter, "training_step", 2),
    "in the third epoch": (Segmenter, "training_step", 11),
    "at the first checkpoint": (checkpoints, "write_atomically", 1),
    "between the last and the best checkpoint": (checkpoints, "write_atomically", 2),
    "at a later checkpoint": (checkpoints, "save", 5),
    "before the optimiser's state is dropped": (training_run, "drop_optimizer", 1),
    "after training": (outcome, "write_result", 1),
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.chdir(tmp_path_factory.mktemp("undisturbed"))
        return run(Path(), *LONG).resolve()


STRONG = (
    *("recipe=strong", "trainer.max_epochs=null", "trainer.max_steps=24", "trainer.val_every_steps=6", "batch.size=4"),
    *("scheduler=cosine", "scheduler.warmup_steps=7", "data.downsample=2", "data.size=64", "optimizer.lr=0.01"),
    *("+trainer.accumulate_grad_batches=2", "reg=l2", "score.tta=auto"),
)


@pytest.fixture(scope="module")
def undisturbed_strong(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.chdir(tmp_path_factory.mktemp("undisturbed"))
        return run(Path(), *STRONG).resolve()


@pytest.mark.parametrize("moment", ["in the third epoch", "between the last and the best checkpoint", "after training"])
def test_a_strong_run_that_was_interrupted_equals_an_uninterrupted_one_to_the_bit(moment, undisturbed_strong, monkeypatch):
    target, name, n = MOMENTS[moment]
    cut_off(monkeypatch, Path(), (target, name, 30 if name == "training_step" else n), *STRONG)
    same(run(Path(), *STRONG), undisturbed_strong)


def test_a_strong_run_draws_what_the_network_saw_and_its_sweep_shows_it(tmp_path, undisturbed_strong):
    assert (undisturbed_strong / "augmented.png").read_bytes()[:4] == b"\x89PNG"
    module, data = (lambda one: (one.module(0.0), one.datamodule()))(build.experiment(entry.compose([*TINY, *STRONG])))
    image, mask = data.first_batch()
    new, where = module.augmented((image, mask), 0, 0)
    assert (len(image), image.shape[2:]) == (4, (32, 32))
    assert new.shape == where.shape == (4, 1, 16, 16)
    assert torch.equal(new, module.augmented((image, mask), 0, 0)[0])
    assert not torch.equal(new, module.augmented((image, mask), 0, 1)[0])


def test_a_strong_run_at_half_resolution_is_exported_as_it_predicts(tmp_path, undisturbed_strong):
    model = models.load(undisturbed_strong, tta=False)
    assert not any(part.training for part in model.net.modules())
    assert export.checked(model, tmp_path / "model.onnx").difference < 5e-5
    image = torch.randn(1, 1, 64, 96)
    assert model.net(image).shape == image.shape


def test_a_strong_run_saves_averaged_weights_alone_and_validates_them_at_full_resolution(undisturbed_strong):
    cfg = entry.compose([*TINY, "figures=false", *STRONG])
    experiment = build.experiment(cfg)
    for name in ("best.ckpt", "last.ckpt"):
        weights = torch.load(undisturbed_strong / "checkpoints" / name, weights_only=True)["state_dict"]
        assert {key.partition(".")[0] for key in weights} == {"net"}
    module = experiment.module(0.0)
    module.net.load_state_dict({key.removeprefix("net."): value for key, value in weights.items()})
    data = experiment.datamodule()
    images, masks = (part[experiment.split.val] for part in data._val)
    assert images.shape[2:] == (32, 32)
    assert masks.shape[2:] == (64, 64)
    with torch.inference_mode():
        logits = torch.nn.functional.interpolate(module.eval()(images), size=(64, 64), mode="bilinear")
    history = read_history(undisturbed_strong)
    assert overlap.dice(overlap.counts(logits > 0, masks)).nanmean() == pytest.approx(history["val_dice"][-1], abs=1e-6)
    assert history["epoch"] == [1, 2, 3, 4]
    assert history["lr"][0] == pytest.approx(0.01 / 7)


@pytest.mark.parametrize("moment", MOMENTS)
def test_interrupted_and_resumed_equals_uninterrupted_to_the_bit(moment, undisturbed, monkeypatch):
    cut_off(monkeypatch, Path(), MOMENTS[moment], *LONG)
    folder = Path("outputs/runs") / undisturbed.name
    assert not is_done(folder, folder.name)
    same(run(Path(), *LONG), undisturbed)


def test_a_run_that_is_cut_off_again_and_again_arrives(undisturbed, monkeypatch):
    for step in (7, 6, 8, 2):
        cut_off(monkeypatch, Path(), (Segmenter, "training_step", step), *LONG)
    same(run(Path(), *LONG), undisturbed)


@pytest.mark.slow
def test_what_else_a_run_keeps_in_mind_survives_being_cut_off(tmp_path, monkeypatch):
    """The scheduler's and Keras's Adam's steps, the order of patients, the calibrated lambda."""
    options = ["scheduler=cosine", "optimizer=keras_adam", "batch=patient", "reg=l1", "reg.lambda=auto", "trainer.max_epochs=4"]
    whole = run(tmp_path / "whole", *options)
    cut_off(monkeypatch, Path(), (Segmenter, "training_step", 8), *options)
    same(run(Path(), *options), whole)


def test_history_has_the_learning_rate_of_each_epoch(tmp_path):
    options = ["scheduler=step", "scheduler.step_size=2", "scheduler.gamma=0.1", "trainer.max_epochs=4"]
    assert read_history(run(tmp_path, *options))["lr"] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4])


EARLY = ("trainer.patience=2", "trainer.max_epochs=40", "optimizer.lr=0.1")


@pytest.mark.slow
def test_a_run_stops_when_its_patience_is_over_and_does_not_go_on_when_it_is_resumed(tmp_path, monkeypatch):
    folder = run(tmp_path / "whole", *EARLY)
    val_loss = read_history(folder)["val_loss"]
    assert len(val_loss) < 40
    assert int(np.argmin(val_loss)) == len(val_loss) - 3
    cut_off(monkeypatch, Path(), (outcome, "write_result", 1), *EARLY)
    same(run(Path(), *EARLY), folder)


@pytest.mark.parametrize("name", ["checkpoints/last.ckpt", "history.csv"])
def test_half_a_file_is_set_aside_and_the_run_starts_anew(name, undisturbed, monkeypatch, caplog):
    cut_off(monkeypatch, Path(), (Segmenter, "training_step", 14), *LONG)
    folder = Path("outputs/runs") / undisturbed.name
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    same(run(Path(), *LONG), undisturbed)
    assert (folder / "damaged-1" / name).read_bytes() == content[: len(content) // 2]
    assert re.search(rf"{folder.name}.*\b{'history' if name == 'history.csv' else 'checkpoint'}\b.*damaged-1", caplog.text)


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:5000]), Path.unlink])
def test_a_best_checkpoint_that_cannot_be_had_again_starts_the_run_anew(damage, undisturbed, monkeypatch, caplog):
    monkeypatch.setattr(checkpoints, "best_of", lambda val_dice: 1)  # so that it is not the last one over again
    cut_off(monkeypatch, Path(), (Segmenter, "training_step", 14), *LONG)
    folder = Path("outputs/runs") / undisturbed.name
    damage(folder / "checkpoints" / "best.ckpt")
    run(Path(), *LONG)
    assert re.search(rf"{folder.name}.*\bbest\b.*damaged-1", caplog.text)
    assert (folder / "damaged-1" / "history.csv").exists()


def test_a_checkpoint_of_another_run_is_refused(folder, tmp_path):
    other = tmp_path / "outputs" / "runs" / identity.run_id(entry.plain(entry.compose([*TINY, "loss=bce"])))
    shutil.copytree(folder / "checkpoints", other / "checkpoints")
    with pytest.raises(InputError, match=rf"last\.ckpt\b.*\b{folder.name}\b.*\b{other.name}\b"):
        run(tmp_path, "loss=bce")


def test_a_loss_that_is_not_finite_is_a_failure_with_advice_and_leaves_no_such_checkpoint(tmp_path):
    with pytest.raises(NotFiniteError, match=r"\bepoch 1\b.*\boptimizer\.lr \(.*1e\+30\)"):
        run(tmp_path, "optimizer=sgd", "optimizer.lr=1e30")
    assert not list(tmp_path.rglob("*.ckpt"))
    assert list(tmp_path.rglob("history.csv"))


def test_a_warm_up_as_long_as_a_run_in_epochs_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"^scheduler\.warmup_steps=50: .*\bsteps of this run\b"):
        run(tmp_path, "scheduler=cosine", "scheduler.warmup_steps=50", "trainer.max_epochs=1")


def test_score_null_is_no_processing(tmp_path):
    assert "score" not in read_result(run(tmp_path, "score=null", "trainer.max_epochs=1", "figures=false"))


def test_epochs_to_90_counts_from_1_and_is_none_without_a_best():
    assert epochs_to_90([0.1, 0.5, 0.91, 1.0]) == 3
    assert epochs_to_90([0.0, 0.0]) is None
    assert epochs_to_90([float("nan")]) is None
    assert epochs_to_90([float("nan"), 0.5]) == 2


def test_result_json_is_strict_json(folder):
    def refuse(constant):
        raise AssertionError(constant)

    json.loads((folder / "result.json").read_text(), parse_constant=refuse)


def test_the_terminal_tells_the_dice_that_the_report_has(tmp_path, caplog):
    caplog.set_level("INFO")
    folder = run(tmp_path, "split.val_fraction=0.5", "figures=false")
    write_sweep(tmp_path / "outputs" / "grid", command=[], runs=[{"run_id": folder.name}])
    [record] = reading.read([tmp_path / "outputs" / "grid"]).records
    result = read_result(folder)
    assert record.dice == result["last"]["patient_dice"] != result["last"]["val_dice"]
    best = rf"\({result['best']['patient_dice']:.3f} [^)]*\b{result['best']['epoch']:.0f}\b[^)]*\bbest\)"
    assert re.search(rf"{folder.name}: Dice {record.dice:.3f}\b.*\b2 \w+ patients\b.*{best}", caplog.text)


def test_every_attempt_at_a_run_is_recorded_with_its_versions(monkeypatch, tmp_path):
    cut_off(monkeypatch, tmp_path, (Segmenter, "training_step", 11), *LONG)
    monkeypatch.setattr(provenance, "versions", lambda: {"segtune": "0.0.9", "torch": "2.99"})
    folder = run(tmp_path, *LONG)
    first, second = read_result(folder)["attempts"]
    assert (first["first_epoch"], first["versions"]["segtune"]) == (1, segtune.__version__)
    assert (second["first_epoch"] > 1, second["versions"]) == (True, {"segtune": "0.0.9", "torch": "2.99"})
    write_sweep(tmp_path / "outputs" / "grid", command=[], runs=[{"run_id": folder.name}])
    said = sentences.unlike_code(reading.read([tmp_path / "outputs" / "grid"]).records)
    assert re.search(rf"\bsegtune\b.*\b0\.0\.9 \(1 run.*\b{re.escape(segtune.__version__)} \(1 run", said[0])
    assert "torch" in said[1]


@pytest.mark.parametrize(
    ("change", "aside"),
    [({"data": "other"}, "other-data-1"), ({"lab.losses": "other"}, "other-code-1"), ({}, None)],
)
def test_a_run_that_was_cut_off_starts_anew_if_its_data_or_code_have_changed(tiny_run, tmp_path, change, aside):
    source, _ = tiny_run
    folder = Path(shutil.copytree(source, tmp_path / source.name))
    (folder / "result.json").unlink()
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    before = (folder / "history.csv").read_bytes()
    run_id = identity.run_id(checkpoint["hyper_parameters"])
    epochs = checkpoints.resume(folder, run_id, checkpoint["inputs"] | change)
    assert epochs == (0 if change else 2)
    assert sorted(path.name for path in folder.glob("other-*")) == ([aside] if aside else [])
    assert (folder / (aside or "") / "history.csv").read_bytes() == before
