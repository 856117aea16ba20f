import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from segtune import build, results, trained
from segtune.data import module as data_module
from segtune.data.slices import Slice
from segtune.errors import InputError


@pytest.fixture
def folder(tiny_run, tmp_path):
    """A copy of the run's folder to be damaged."""
    return Path(shutil.copytree(tiny_run[0], tmp_path / tiny_run[0].name))


def a_slice(shape, *, spacing_mm=(1.0, 1.0), mask=None):
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return Slice(image, np.zeros(shape, bool) if mask is None else mask, "P1", 0, 0, None, spacing_mm, 8.0)


@pytest.mark.parametrize("which", trained.WHICH)
def test_a_loaded_run_predicts_what_it_predicted_in_training(tiny_run, which):
    folder, cfg = tiny_run
    model = trained.load(folder, which=which)
    slices = build.slices(cfg)
    scored = [row for row in results.read_table(folder, results.SLICES) if row["which"] == which]
    of = {(item.patient, item.frame): item for item in slices}
    items = [of[row["patient"], int(row["frame"])] for row in scored]
    masks = [values > 0.5 for values in model.probabilities(items)]
    assert [mask.shape for mask in masks] == [item.image.shape for item in items]
    found = [int((mask & item.mask).sum()) for mask, item in zip(masks, items, strict=True)]
    assert found == [int(row["n_overlap"]) for row in scored]
    assert sum(found) > 0


def test_an_ensemble_is_the_mean_of_its_models(tiny_run):
    model = trained.load(tiny_run[0])
    other = trained.load(tiny_run[0], which="best")
    items = [a_slice((30, 20)), a_slice((32, 32))]
    both = trained.ensemble([model, other], items)
    for value, one, two in zip(both, model.probabilities(items), other.probabilities(items), strict=True):
        assert value == pytest.approx((one + two) / 2, abs=1e-12)


def test_an_image_larger_than_the_training_s_is_taken_whole(tiny_run):
    (values,) = trained.load(tiny_run[0]).probabilities([a_slice((50, 33))])
    assert values.shape == (50, 33)
    assert ((values > 0) & (values < 1)).all()


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "how"),
    [
        ((40, 30), (1.0, 1.0), {"spacing_mm": None, "larger": None}),
        ((100, 30), (1.0, 1.0), {"spacing_mm": None, "larger": "crop"}),
        ((37, 30), (0.7, 0.8), {"spacing_mm": 1.1, "larger": None}),
        ((30, 37), (2.0, 1.9), {"spacing_mm": 1.3, "larger": "crop"}),
    ],
)
def test_restore_brings_a_mask_back_to_where_it_was(shape, spacing_mm, how):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    mask = ((rows - shape[0] / 2 + 2) / 9) ** 2 + ((columns - shape[1] / 2) / 8) ** 2 < 1
    item = a_slice(shape, spacing_mm=spacing_mm, mask=mask)
    fitted = data_module.fit([item], size=48, **how)
    _, masks = data_module.to_tensors(fitted, size=48, normalize="zscore")
    back = data_module.restore(masks[0, 0].double().numpy(), item, **how)
    assert back.shape == shape
    overlap = 2 * np.count_nonzero((back > 0.5) & mask) / (np.count_nonzero(back > 0.5) + mask.sum())
    assert overlap == 1 if how["spacing_mm"] is None else overlap > 0.95


def test_what_was_cropped_away_has_probability_zero():
    item = a_slice((100, 30))
    back = data_module.restore(np.ones((48, 48)), item, spacing_mm=None, larger="crop")
    assert (np.flatnonzero(back.all(axis=1)) == np.arange(26, 74)).all()
    assert not back[:26].any()
    assert not back[74:].any()


def edited(folder, edit):
    result = json.loads((folder / results.RESULT).read_text())
    edit(result)
    result["run_id"] = results.run_id(result["config"]) if isinstance(result.get("config"), dict) else "?"
    (folder / results.RESULT).write_text(json.dumps(result))


def edited_throughout(folder, edit):
    """As edited, and the checkpoint says the same."""
    edited(folder, edit)
    path = folder / "checkpoints" / "last.ckpt"
    config = json.loads((folder / results.RESULT).read_text())["config"]
    torch.save(torch.load(path, weights_only=True) | {"hyper_parameters": config}, path)


@pytest.mark.parametrize(
    "target",
    ["os.system", "segtune.nets.torch.load", "segtune.nets.nn", "monai.networks.nets.resnet.torch.hub.load", "segtune.nets", 5],
)
def test_a_run_s_folder_cannot_have_other_code_called(folder, target):
    edited(folder, lambda result: result["config"]["model"].update({"_target_": target}))
    with pytest.raises(InputError, match="run code that this file names"):
        trained.load(folder)
    edited(
        folder,
        lambda result: result["config"]["model"].update({"_target_": "segtune.nets.UNet", "width": {"_target_": target}}),
    )
    with pytest.raises(InputError, match="run code that this file names"):
        trained.load(folder)


def test_damaged_and_foreign_folders_are_refused_by_name(folder, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        trained.load(tmp_path / "nothing")
    with pytest.raises(InputError, match="which=first: choose last or best"):
        trained.load(folder, which="first")
    checkpoint = folder / "checkpoints" / "last.ckpt"
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[:1000])
    with pytest.raises(InputError, match="last.ckpt: damaged, or no checkpoint"):
        trained.load(folder)
    torch.save({"state_dict": {}, "hyper_parameters": {"a": 1}}, checkpoint)
    with pytest.raises(InputError, match="last.ckpt is of run"):
        trained.load(folder)
    checkpoint.unlink()
    with pytest.raises(InputError, match="the file is not there"):
        trained.load(folder)
    checkpoint.write_bytes(whole)
    (folder / results.RESULT).write_text(json.dumps({"run_id": "abc", "config": []}))
    with pytest.raises(InputError, match="result.json: damaged"):
        trained.load(folder)
    (folder / results.RESULT).unlink()
    with pytest.raises(InputError, match="The run has not finished"):
        trained.load(folder)


def test_a_pickle_in_place_of_the_checkpoint_is_not_run(folder, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "evil"), "w"))

    torch.save({"state_dict": Evil()}, folder / "checkpoints" / "last.ckpt")
    with pytest.raises(InputError, match="damaged, or no checkpoint"):
        trained.load(folder)
    assert not (tmp_path / "evil").exists()


def test_weights_of_another_network_are_refused(folder):
    edited_throughout(folder, lambda result: result["config"]["model"].update({"width": 3}))
    with pytest.raises(InputError, match="its weights do not fit the network"):
        trained.load(folder)


def test_a_configuration_s_network_takes_no_memory_beyond_the_weights_that_are_there(folder, monkeypatch):
    build_network, on_meta = build.network, []

    def network(model):
        net = build_network(model)
        on_meta.extend(parameter.is_meta for parameter in net.parameters())
        return net

    monkeypatch.setattr(build, "network", network)
    edited_throughout(folder, lambda result: result["config"]["model"].update({"width": 256}))  # 1.2 GB
    with pytest.raises(InputError, match="its weights do not fit the network"):
        trained.load(folder)
    assert on_meta
    assert all(on_meta)


def test_an_image_that_would_become_huge_is_refused(folder):
    edited_throughout(folder, lambda result: result["config"]["data"].update({"spacing_mm": 0.01}))
    model = trained.load(folder)
    with pytest.raises(
        InputError, match="30 x 50 pixels of 1 to 2 mm has a side of 6000 pixels .* trained on pixels of 0.01 mm"
    ):
        model.probabilities([a_slice((30, 50), spacing_mm=(2.0, 1.0))])


def test_runs_that_look_for_different_structures_are_no_ensemble(tiny_run, folder):
    with pytest.raises(InputError, match="a run is there twice"):
        trained.load_all([str(tiny_run[0]), str(folder)], which="last", accelerator="cpu")
    edited_throughout(folder, lambda result: result["config"]["data"].update({"target": "epicardium"}))
    with pytest.raises(InputError, match=r"different structures \(endocardium \(phantom\), epicardium \(phantom\)\)"):
        trained.load_all([str(tiny_run[0]), str(folder)], which="last", accelerator="cpu")


def test_pixels_of_another_size_than_the_training_s_are_told(tiny_run, caplog):
    model = trained.load(tiny_run[0])
    size = model.result["data"]["pixel_mm"][0]
    trained.warn_of_other_scale([model], [a_slice((30, 20), spacing_mm=(size, size))])
    assert caplog.text == ""
    trained.warn_of_other_scale([model], [a_slice((30, 20), spacing_mm=(size / 2, size / 2))])
    assert "structures look of another size" in caplog.text


def test_the_expert_s_mask_is_nothing_to_the_network_nor_a_reason_to_warn(tiny_run, folder, caplog):
    edited(folder, lambda result: result["config"]["data"].update({"larger": "crop", "size": 16}))
    path = folder / "checkpoints" / "last.ckpt"
    config = json.loads((folder / results.RESULT).read_text())["config"]
    torch.save(torch.load(path, weights_only=True) | {"hyper_parameters": config}, path)
    whole = a_slice((40, 30), mask=np.ones((40, 30), bool))
    (with_mask,), (without,) = (trained.load(folder).probabilities([item]) for item in (whole, a_slice((40, 30))))
    assert (with_mask == without).all()
    assert "cuts the structure" not in caplog.text
