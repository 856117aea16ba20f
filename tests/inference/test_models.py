import json
import math
import os
import re
import shutil
import zipfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from conftest import resign, unsign
from segtune.config import overrides
from segtune.config.entry import compose, plain
from segtune.data import tensors
from segtune.data.grid import resample_and_crop, restore
from segtune.data.slices import Slice
from segtune.errors import InputError
from segtune.inference import ensembles, models, networks
from segtune.nets import UNet
from segtune.runs import identity, layout
from segtune.runs.tables import read_table
from segtune.training import build


@pytest.fixture
def folder(tiny_run, tmp_path):
    """A copy of the run's folder, without its hashes, to be damaged."""
    copy = Path(shutil.copytree(tiny_run[0], tmp_path / tiny_run[0].name))
    unsign(copy)
    return copy


def a_slice(shape, *, spacing_mm=(1.0, 1.0), mask=None):
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return Slice(image, np.zeros(shape, bool) if mask is None else mask, "P1", 0, 0, None, spacing_mm, 8.0)


def test_a_user_s_own_network_whose_code_has_changed_since_is_refused(folder, monkeypatch):
    to_own(folder)
    path = folder / "result.json"
    for digest, refused in (("now", False), ("before", True)):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"inputs": {"test_models": digest}}))
        resign(folder)
        monkeypatch.setattr(models.inputs, "modules", lambda target: {"test_models": "now"})
        if refused:
            with pytest.raises(InputError, match=r"result\.json: .*\btest_models\.Own\b.*\btest_models\b(?!\.)"):
                models.load(folder, trust=["test_models.Own"])
        else:
            models.load(folder, trust=["test_models.Own"])


@pytest.mark.parametrize("which", models.WHICH)
def test_a_loaded_run_predicts_what_it_predicted_in_training(tiny_run, which):
    folder, cfg = tiny_run
    model = models.load(folder, which=which)
    slices = build.slices(cfg)
    scored = [row for row in read_table(folder, layout.SLICES) if row["which"] == which]
    of = {(item.patient, item.frame): item for item in slices}
    items = [of[row["patient"], int(row["frame"])] for row in scored]
    masks = [values > 0.5 for values in model.probabilities(items)]
    assert [mask.shape for mask in masks] == [item.image.shape for item in items]
    found = [int((mask & item.mask).sum()) for mask, item in zip(masks, items, strict=True)]
    assert found == [int(row["n_overlap"]) for row in scored]
    assert sum(found) > 0


def test_an_ensemble_is_the_mean_of_its_models(tiny_run):
    model = models.load(tiny_run[0])
    other = models.load(tiny_run[0], which="best")
    items = [a_slice((30, 20)), a_slice((32, 32))]
    both = ensembles.ensemble([model, other], items)
    for value, one, two in zip(both, model.probabilities(items), other.probabilities(items), strict=True):
        assert value == pytest.approx((one + two) / 2, abs=1e-12)


def test_an_image_larger_than_the_training_s_is_taken_whole(tiny_run):
    (values,) = models.load(tiny_run[0]).probabilities([a_slice((50, 33))])
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
    fitted = resample_and_crop([item], size=48, **how)
    _, masks = tensors.to_tensors(fitted, size=48, normalize="zscore")
    back = restore(masks[0, 0].double().numpy(), item, **how)
    assert back.shape == shape
    overlap = 2 * np.count_nonzero((back > 0.5) & mask) / (np.count_nonzero(back > 0.5) + mask.sum())
    assert overlap == 1 if how["spacing_mm"] is None else overlap > 0.95


def test_what_was_cropped_away_has_probability_zero():
    item = a_slice((100, 30))
    back = restore(np.ones((48, 48)), item, spacing_mm=None, larger="crop")
    assert (np.flatnonzero(back.all(axis=1)) == np.arange(26, 74)).all()
    assert not back[:26].any()
    assert not back[74:].any()


def edited(folder, edit):
    result = json.loads((folder / layout.RESULT).read_text())
    edit(result)
    result["run_id"] = identity.run_id(result["config"]) if isinstance(result.get("config"), dict) else "?"
    (folder / layout.RESULT).write_text(json.dumps(result))


def edited_throughout(folder, edit):
    """As edited, and the checkpoint says the same."""
    edited(folder, edit)
    path = folder / "checkpoints" / "last.ckpt"
    config = json.loads((folder / layout.RESULT).read_text())["config"]
    torch.save(torch.load(path, weights_only=True) | {"hyper_parameters": config}, path)


@pytest.mark.parametrize(
    "target",
    [
        *(
            "os.system",
            "segtune.nets.torch.load",
            "segtune.nets.nn",
            "monai.networks.nets.resnet.torch.hub.load",
            "segtune.nets",
        ),
        *(5, None, ["segtune.nets.UNet"], "", "segtune.nets.Block", "monai.networks.nets.SegResNet", "torch.nn.Sequential"),
        *("segtune.nets.UNet ", "segtune..nets.UNet", "${oc.env:HOME}", "__main__.UNet", "SEGTUNE.nets.UNet"),
    ],
)
def test_a_run_s_folder_cannot_have_other_code_called(folder, target):
    edited(folder, lambda result: result["config"]["model"].update({"_target_": target}))
    named = re.escape(str(target))
    with pytest.raises(InputError, match=rf"result\.json: .*{named}.*\bcode\b"):
        models.load(folder)
    edited(
        folder,
        lambda result: result["config"]["model"].update({"_target_": "segtune.nets.UNet", "width": {"_target_": target}}),
    )
    with pytest.raises(InputError, match=rf"result\.json: model\.'?width'?=.*{named}.*\bcode\b"):
        models.load(folder)


PICKLE = "{_target_: torch.load, f: evil.pt, weights_only: false}"
ROUTES = {  # what a configuration could have run, by where it says so
    "resolver": {"dropout": f"${{oc.create:{PICKLE}}}"},
    "resolver in a list": {"channels": [2, f"${{oc.create:{PICKLE}}}"]},
    "numpy": {"dropout": "${oc.create:{_target_: numpy.load, file: evil.pt, allow_pickle: true}}"},
    "pandas": {"dropout": "${oc.create:{_target_: pandas.read_pickle, filepath_or_buffer: evil.pt}}"},
    "hub": {"dropout": "${oc.create:{_target_: torch.hub.load, repo_or_dir: a/b, model: c}}"},
    "environment": {"dropout": "${oc.env:SECRET}"},
    "another key": {"dropout": "${data.size}"},
    "nested": {"dropout": {"_target_": "torch.load", "f": "evil.pt", "weights_only": False}},
    "nested in a list": {"dropout": [{"_target_": "torch.load", "f": "evil.pt", "weights_only": False}]},
    "nested deeply": {"width": {"a": [{"b": {"_target_": "os.getcwd"}}]}},
    "arguments": {"_args_": [2]},
    "positional calls": {"_args_": [{"_target_": "os.getcwd"}]},
    "partial": {"_partial_": True},
    "not recursive": {"_recursive_": False},
    "converted": {"_convert_": "object"},
    "interpolated key": {"${oc.env:SECRET}": 1},
    "yaml tag": {"dropout": "!!python/object/apply:os.system [ls]"},
    "url": {"pretrained_url": "http://127.0.0.1:9/weights.pth?${oc.env:SECRET}"},
    "pretrained": {"pretrained": True},
    "path": {"weights_path": "evil.pt"},
    "huge": {"width": 10**30},
    "large": {"width": 10**6},
    "deep": {"convolutions": 10**9},
    "zero": {"width": 0},
    "negative": {"width": -2},
    "flag for a number": {"width": True},
    "number for a whole number": {"width": 2.0},
    "not a number": {"dropout": math.nan},
    "infinite": {"bn_momentum": math.inf},
    "text for a number": {"dropout": "0.05"},
    "null": {"dropout": None},
    "too much dropout": {"dropout": 1.0},
    "list for a number": {"width": [2]},
    "mapping for a number": {"width": {}},
    "unknown": {"depth": 2},
}


@pytest.fixture
def nothing_is_run(tmp_path, monkeypatch):
    """A pickle that would leave a mark is at hand; Hydra, torch.hub and URLs may not be used."""

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "mark"), "w"))

    def refuse(*args, **kwargs):
        raise AssertionError(f"called with {args}")

    torch.save(Evil(), "evil.pt")
    monkeypatch.setenv("SECRET", "0.07")
    for name in (
        *(
            "hydra.utils.instantiate",
            "segtune.training.build.instantiate",
            "torch.hub.load",
            "torch.hub.load_state_dict_from_url",
        ),
        *("urllib.request.urlopen", "omegaconf.OmegaConf.create", "socket.socket.connect", "numpy.load", "os.system"),
    ):
        monkeypatch.setattr(name, refuse)
    yield
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("arguments", ROUTES.values(), ids=ROUTES)
@pytest.mark.parametrize("trust", [None, "segtune.nets.UNet", "test_models.Own"])
def test_no_argument_in_a_run_s_folder_runs_reads_or_fetches_anything(folder, nothing_is_run, arguments, trust):
    target = "test_models.Own" if trust == "test_models.Own" else "segtune.nets.UNet"
    edited_throughout(folder, lambda result: result["config"]["model"].update(arguments | {"_target_": target}))
    (key,) = arguments
    with pytest.raises(InputError, match=rf"result\.json: .*{re.escape(key)}|last\.ckpt: .*\bweights\b") as told:
        models.load(folder, trust=trust)
    assert "0.07" not in str(told.value)


class Own(nn.Module):
    """A user's network, which remembers how it was called."""

    calls: ClassVar[list] = []

    def __init__(self, width=2, **more):
        super().__init__()
        self.net = UNet(width=width)
        self.register_buffer("grid", torch.arange(3.0), persistent=False)  # not in the checkpoint
        Own.calls.append(more)

    def forward(self, image):
        assert self.grid.tolist() == [0, 1, 2]
        return self.net(image)


def to_own(folder, **arguments):
    """The run, of which the network is Own."""
    model = {"_target_": "test_models.Own", "width": 2, **arguments}
    edited_throughout(folder, lambda result: result["config"].update(model=model))
    path = folder / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"] = {f"net.{name}": value for name, value in checkpoint["state_dict"].items()}
    torch.save(checkpoint, path)


def test_a_user_s_own_network_is_built_only_if_its_exact_name_is_trusted(tiny_run, folder):
    to_own(folder, act=["relu", {"inplace": True}], pretrained=False)
    for trust in (None, [], "test_models.nets", ["test_models.own", "segtune.nets.UNet"], ["test_models.Own.calls"]):
        with pytest.raises(InputError, match=r"result\.json: .*trust=\[test_models\.Own\]"):
            models.load(folder, trust=trust)
    (values,) = models.load(folder, trust=["test_models.Own"]).probabilities([a_slice((32, 32))])
    (expected,) = models.load(tiny_run[0]).probabilities([a_slice((32, 32))])
    assert (values == expected).all()
    assert Own.calls[-1] == {"act": ["relu", {"inplace": True}], "pretrained": False}
    for verb in ("predict", "evaluate", "export"):
        assert compose(["trust=[test_models.Own]"], verb).trust == ["test_models.Own"]
        assert compose([], verb).trust is None


@pytest.mark.parametrize(
    "arguments",
    [
        {"act": "torch.load"},
        {"act": "../evil"},
        {"act": "evil.pt"},
        {"act": "http:x"},
        {"act": "a${b"},
        {"act": "a}"},
        {"act": ["relu", {"_partial_": True}]},
        {"act": ["relu", {"file": "evil"}]},
        {"pretrained": 1},
        {"pretrainedUrl": "x"},
        {"more": {"pretrained": True}},
        {"checkpoint": "x"},
        {"scale": 1e300},
        {"sizes": [0] * 5000},
        {"deep": [[[[[[[[[[0]]]]]]]]]]},
    ],
)
def test_the_arguments_of_a_trusted_network_are_plain_data(folder, nothing_is_run, arguments):
    to_own(folder, **arguments)
    n_calls, (key,) = len(Own.calls), arguments
    with pytest.raises(InputError, match=rf"result\.json: model\.'?{key}\b"):
        models.load(folder, trust=["test_models.Own"])
    assert len(Own.calls) == n_calls


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("torch.load", r"torch\.load: .*torch\.nn\.Module"),
        ("os.system", r"os\.system: .*torch\.nn\.Module"),
        ("builtins.eval", r"builtins\.eval: .*torch\.nn\.Module"),
        ("no_such_package.Net", r"no_such_package\.Net: .*ModuleNotFoundError"),
        ("segtune.nets.NoSuch", r"segtune\.nets\.NoSuch: .*AttributeError"),
        ("monai.networks.nets.SegResNet", r"last\.ckpt: .*\bweights\b"),
        ("monai.networks.nets.EfficientNetBN", r"last\.ckpt: .*\bweights\b"),
    ],
)
def test_what_is_trusted_and_is_no_network_of_these_weights_is_refused(folder, nothing_is_run, target, message):
    edited_throughout(folder, lambda result: result["config"].update(model={"_target_": target}))
    with pytest.raises(InputError, match=message):
        models.load(folder, trust=[target])


@pytest.mark.parametrize("trust", [5, {"a": 1}, ["UNet"], [5], "os.system()", ["a.b; c"], True])
def test_trust_takes_names_of_classes_alone(folder, trust):
    with pytest.raises(InputError, match="^trust=:"):
        models.load(folder, trust=trust)


def test_no_network_of_monai_may_fetch_weights(folder, nothing_is_run):
    url = {"pretrained_url": "http://127.0.0.1:9/a", "adapt_standard_resnet": True, "in_channels": 3, "mode": "original"}
    model = {"_target_": "monai.networks.nets.HoVerNet", **url}
    edited_throughout(folder, lambda result: result["config"].update(model=model))
    for trust, message in (
        (None, r"trust=\[monai\.networks\.nets\.HoVerNet\]"),
        ([model["_target_"]], r"model\.pretrained_url="),
    ):
        with pytest.raises(InputError, match=message):
            models.load(folder, trust=trust)


@pytest.mark.parametrize("option", overrides.groups()["model"])
def test_every_network_of_conf_is_listed_and_built_as_hydra_builds_it(option):
    model = plain(compose([f"model={option}"]))["model"]
    net = networks.build(*networks.checked(model, Path("result.json")))
    expected = build.network(model)
    assert str(net) == str(expected)
    assert [(name, value.shape) for name, value in net.state_dict().items()] == [
        (name, value.shape) for name, value in expected.state_dict().items()
    ]


@pytest.mark.parametrize(
    "more",
    [
        {"act": "relu", "bias": False, "upsample": "nontrainable"},
        {"act": ["leakyrelu", {"negative_slope": 0.2, "inplace": True}], "norm": ["instance", {"affine": True}]},
    ],
)
def test_the_plain_arguments_of_a_listed_network_are_taken(more):
    model = plain(compose(["model=basic_unet"]))["model"] | more
    assert networks.build(*networks.checked(model, Path("result.json")))


@pytest.mark.parametrize("size", [16384, 4112, 2**62, 0, -16, 24, True, 32.0, "32", math.nan, None, [32]])
def test_an_image_size_that_cannot_be_is_refused_before_anything_is_allocated(folder, monkeypatch, size):
    monkeypatch.setattr(torch, "load", None)
    edited(folder, lambda result: result["config"]["data"].update(size=size))
    told = rf"data\.size={size}: .*\b16\b.*\b4096\b" if type(size) is int else "damaged"
    with pytest.raises(InputError, match=rf"result\.json: {told}"):
        models.load(folder)


def test_an_image_size_is_held_against_memory_and_the_network_s_width(folder, monkeypatch):
    edited_throughout(folder, lambda result: result["config"]["data"].update(size=4096))
    pages = models.os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setattr(models.os, "sysconf", {"SC_PAGE_SIZE": pages, "SC_PHYS_PAGES": 5 * 10**8 // pages}.get)
    with pytest.raises(InputError, match=r"data\.size=4096: .*\bGB\b"):
        models.load(folder)
    edited_throughout(folder, lambda result: result["config"]["data"].update(size=32))
    with pytest.raises(InputError, match=r"3000 x 3000 .*\bGB\b"):
        models.load(folder).probabilities([a_slice((3000, 3000))])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("target", target) for target in ("${oc.env:SECRET}", "a}", "", None, True, ["a"], "x" * 1000)),
        *(("normalize", normalize) for normalize in ("${a}", ["zscore"], "eval", {}, None)),
        *(("spacing_mm", spacing_mm) for spacing_mm in (math.nan, 0, -1, 1e-9, True, "1", [1])),
        *(("reader", reader) for reader in (None, "a.b.c", {"_target_": "x"}, {"_target_": 5}, {"_target_": "a.\x1b.b"})),
        ("larger", "pad"),
    ],
)
def test_what_a_run_s_images_must_be_is_of_the_right_kind(folder, key, value):
    edited_throughout(folder, lambda result: result["config"]["data"].update({key: value}))
    with pytest.raises(InputError, match="result.json: damaged"):
        models.load(folder)


def test_a_link_out_of_the_run_s_folder_is_not_followed(folder, tmp_path):
    for name in ("result.json", "slices.csv", "history.csv", "checkpoints/last.ckpt"):
        path, elsewhere = folder / name, tmp_path / f"elsewhere-{Path(name).name}"
        path.rename(elsewhere)
        path.symlink_to(elsewhere)
        with pytest.raises(InputError, match=rf"{re.escape(name)}: .*\blink\b"):
            models.load(folder)
        path.unlink()
        elsewhere.rename(path)
    os.mkfifo(folder / "cases.csv.new")
    (folder / "cases.csv.new").replace(folder / "cases.csv")
    with pytest.raises(InputError, match=r"cases\.csv: (?!.*\blink\b)"):
        models.load(folder)
    (folder / "cases.csv").unlink()
    (tmp_path / "link").symlink_to(folder)  # to the folder itself: as good as it
    assert models.load(tmp_path / "link")


def repacked(path, change, **how):
    """The checkpoint's archive written anew, its entries as `change` gives them back."""
    with zipfile.ZipFile(path) as archive:
        entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(path, "w", **how) as archive:
        for name, content in change(entries):
            archive.writestr(name, content)


def test_a_checkpoint_that_grows_when_it_is_read_is_refused(folder):
    path = folder / "checkpoints" / "last.ckpt"
    whole = path.read_bytes()
    repacked(path, list)
    assert models.load(folder)

    def refused():
        with pytest.raises(InputError, match=r"last\.ckpt: damaged"):
            models.load(folder)
        path.write_bytes(whole)

    repacked(path, list, compression=zipfile.ZIP_DEFLATED)
    refused()
    bomb = b"\x80\x02c__builtin__\nbytearray\nJ\x00\x00\x00\x7f\x85R."  # of 2 GB
    repacked(path, lambda entries: [(name, bomb if name.endswith("data.pkl") else one) for name, one in entries])
    refused()
    checkpoint = torch.load(path, weights_only=True)
    huge = {name: torch.zeros(1).expand(10**6, 10**6) for name in checkpoint["state_dict"]}
    torch.save(checkpoint | {"state_dict": huge}, path)
    refused()
    laughs = ["a"]
    for _ in range(60):
        laughs = [laughs, laughs]
    torch.save(checkpoint | {"hyper_parameters": {"a": laughs}}, path)
    refused()
    torch.save(checkpoint | {"state_dict": {**checkpoint["state_dict"], "net.head.bias": [0.0]}}, path)
    refused()
    torch.save(checkpoint, path, _use_new_zipfile_serialization=False)
    refused()


def test_damaged_and_foreign_folders_are_refused_by_name(folder, tmp_path):
    with pytest.raises(InputError, match=f"run={tmp_path / 'nothing'}: "):
        models.load(tmp_path / "nothing")
    with pytest.raises(InputError, match="which=first: .*last.*best"):
        models.load(folder, which="first")
    checkpoint = folder / "checkpoints" / "last.ckpt"
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[:1000])
    with pytest.raises(InputError, match=r"last\.ckpt: damaged"):
        models.load(folder)
    torch.save({"state_dict": {}, "hyper_parameters": {"a": 1}}, checkpoint)
    with pytest.raises(InputError, match=rf"last\.ckpt\b.*{identity.run_id({'a': 1})}.*{folder.name}"):
        models.load(folder)
    checkpoint.unlink()
    with pytest.raises(InputError, match=r"last\.ckpt: (?!damaged)"):
        models.load(folder)
    checkpoint.write_bytes(whole)
    (folder / layout.RESULT).write_text(json.dumps({"run_id": "abc", "config": []}))
    with pytest.raises(InputError, match="result.json: damaged"):
        models.load(folder)
    (folder / layout.RESULT).unlink()
    with pytest.raises(InputError, match=r"result\.json: .*\(No such file"):
        models.load(folder)


def test_a_pickle_in_place_of_the_checkpoint_is_not_run(folder, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "evil"), "w"))

    torch.save({"state_dict": Evil()}, folder / "checkpoints" / "last.ckpt")
    with pytest.raises(InputError, match=r"last\.ckpt: damaged"):
        models.load(folder)
    assert not (tmp_path / "evil").exists()


def test_weights_of_another_network_are_refused(folder):
    edited_throughout(folder, lambda result: result["config"]["model"].update({"width": 3}))
    with pytest.raises(InputError, match=r"last\.ckpt: .*\bweights\b"):
        models.load(folder)


def test_a_configuration_s_network_takes_no_memory_beyond_the_weights_that_are_there(folder, monkeypatch):
    build_network, on_meta = networks.build, []

    def network(*given):
        net = build_network(*given)
        on_meta.extend(parameter.is_meta for parameter in net.parameters())
        return net

    monkeypatch.setattr(networks, "build", network)
    edited_throughout(folder, lambda result: result["config"]["model"].update({"width": 256}))  # 1.2 GB
    with pytest.raises(InputError, match=r"last\.ckpt: .*\bweights\b"):
        models.load(folder)
    assert on_meta
    assert all(on_meta)


def test_an_image_that_would_become_huge_is_refused(folder):
    edited_throughout(folder, lambda result: result["config"]["data"].update({"spacing_mm": 0.01}))
    model = models.load(folder)
    with pytest.raises(InputError, match=rf"30 x 50\b.*\b1 to 2 mm\b.*\b6000\b.*{folder.name}.*\b0\.01 mm\b"):
        model.probabilities([a_slice((30, 50), spacing_mm=(2.0, 1.0))])


def test_runs_that_look_for_different_structures_are_no_ensemble(tiny_run, folder):
    with pytest.raises(InputError, match="run=: .*twice"):
        ensembles.load_all([str(tiny_run[0]), str(folder)], which="last", accelerator="cpu")
    edited_throughout(folder, lambda result: result["config"]["data"].update({"target": "epicardium"}))
    with pytest.raises(InputError, match=r"run=: .*\bendocardium\b.*\bepicardium\b"):
        ensembles.load_all([str(tiny_run[0]), str(folder)], which="last", accelerator="cpu")


def test_pixels_of_another_size_than_the_training_s_are_told(tiny_run, caplog):
    model = models.load(tiny_run[0])
    size = model.result["data"]["pixel_mm"][0]
    models.warn_of_other_scale([model], [a_slice((30, 20), spacing_mm=(size, size))])
    assert caplog.text == ""
    models.warn_of_other_scale([model], [a_slice((30, 20), spacing_mm=(size / 2, size / 2))])
    (said,) = caplog.messages
    assert f"{size / 2:.3g} mm" in said
    assert tiny_run[0].name in said
    assert "data.spacing_mm=" in said


def test_the_expert_s_mask_is_nothing_to_the_network_nor_a_reason_to_warn(tiny_run, folder, caplog):
    edited(folder, lambda result: result["config"]["data"].update({"larger": "crop", "size": 16}))
    path = folder / "checkpoints" / "last.ckpt"
    config = json.loads((folder / layout.RESULT).read_text())["config"]
    torch.save(torch.load(path, weights_only=True) | {"hyper_parameters": config}, path)
    whole = a_slice((40, 30), mask=np.ones((40, 30), bool))
    (with_mask,), (without,) = (models.load(folder).probabilities([item]) for item in (whole, a_slice((40, 30))))
    assert (with_mask == without).all()
    assert not [one for one in caplog.records if one.name.startswith("segtune.data")]


@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
def test_a_flipped_bit_in_the_weights_is_noticed_by_whoever_uses_them(name, tiny_run, tmp_path):
    copy = Path(shutil.copytree(tiny_run[0], tmp_path / "copy"))
    path = copy / "checkpoints" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    os.utime(path, (0, 0))  # nor does its date tell
    with pytest.raises(InputError, match=f"{name}: damaged .*python -m segtune"):
        models.load(copy, which=name.removesuffix(".ckpt"))
    models.load(copy, which="best" if name == "last.ckpt" else "last")  # the other one is sound
