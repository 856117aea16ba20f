import copy
import json
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from markdown_it import MarkdownIt
from torch import nn

import segtune
from conftest import resign
from segtune import export as verb
from segtune.config import entry
from segtune.config.overrides import groups
from segtune.data.slices import Slice
from segtune.errors import InputError
from segtune.inference import card, models
from segtune.inference import export as inference_export
from segtune.runs import identity, layout
from segtune.runs.result import read_result
from segtune.runs.state import write_status
from segtune.runs.tables import csv_text, read_table
from segtune.training import build

TINY_MODELS = {
    "unet": ["model.width=2"],
    "unet_double": ["model.width=2"],
    "unet_plain": ["model.width=2"],
    "basic_unet": ["model.features=[2,2,4,4,8,2]"],
    "attention_unet": ["model.channels=[2,2,4,4,8]"],
}
CHECKED = "differs by 1.0e-06"


@pytest.fixture(scope="session")
def made(tiny_run):
    """The folder of a run."""
    return tiny_run[0]


@pytest.fixture
def folder(made, tmp_path):
    """A copy of it, to be changed."""
    return Path(shutil.copytree(made, tmp_path / made.name))


def edited(folder, edit):
    """Change the result, its configuration too: of the checkpoints, then, as well."""
    result = json.loads((folder / layout.RESULT).read_text())
    edit(result)
    result["run_id"] = identity.run_id(result["config"])
    (folder / layout.RESULT).write_text(json.dumps(result))
    for path in (folder / layout.CHECKPOINTS).iterdir():
        torch.save(torch.load(path, weights_only=True) | {"hyper_parameters": result["config"]}, path)
    resign(folder)


def exported(*overrides):
    verb.export(entry.compose(overrides, "export"))


def page(folder, which="last"):
    return card.page(folder, read_result(folder), which=which, checked=CHECKED)


def section(text, title):
    """The card from this heading to the next of its level."""
    level = title.split()[0]
    return re.split(rf"^{level} ", text.split(f"{title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def model_of(option, made, *overrides):
    """A run's network of this kind, with running statistics as after some training."""
    cfg = entry.plain(entry.compose([f"model={option}", *TINY_MODELS[option], *overrides]))
    torch.manual_seed(0)
    net = build.network(cfg["model"]).eval().requires_grad_(False)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    return models.Trained(made, "last", {"run_id": "0123456789ab", "config": cfg}, net, torch.device("cpu"))


# ONNX


@pytest.mark.parametrize(
    ("option", "overrides"), [*((option, []) for option in groups()["model"]), ("basic_unet", ["model.norm=instance"])]
)
def test_every_network_agrees_with_pytorch_at_any_batch_and_size(made, tmp_path, option, overrides):
    model = model_of(option, made, *overrides)
    found = inference_export.checked(model, tmp_path / "model.onnx")
    assert found.difference < 5e-5
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [(one.name, one.type, one.shape) for one in (*session.get_inputs(), *session.get_outputs())] == [
        (name, "tensor(float)", ["batch", 1, "height", "width"]) for name in ("image", "probability", "logits")
    ]
    image = torch.randn(3, 1, 80, 112)
    probability, logits = session.run(None, {"image": image.numpy()})
    assert logits == pytest.approx(model.net(image).numpy(), abs=1e-5)
    assert probability == pytest.approx(torch.sigmoid(model.net(image)).numpy(), abs=1e-6)
    assert {one.domain for one in onnx.load(tmp_path / "model.onnx").opset_import} == {""}


def test_sides_that_are_no_multiple_of_16_are_refused_and_not_answered_wrongly(made, tmp_path):
    inference_export.checked(model_of("unet", made), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    with pytest.raises(Exception, match="Concat"):
        session.run(None, {"image": np.zeros((1, 1, 40, 32), np.float32)})


def spoil(how):
    """write_onnx, of a network that was changed just before."""

    def write(model, path, write=inference_export.write_onnx):
        net = copy.deepcopy(model.net)
        how(net)
        write(models.Trained(model.folder, model.which, model.result, net, model.device), path)

    return write


@pytest.mark.parametrize("shift", [2e-3, float("nan")])
def test_a_file_that_does_not_agree_with_pytorch_is_not_written(made, monkeypatch, shift):
    monkeypatch.setattr(inference_export, "write_onnx", spoil(lambda net: net.head.bias.add_(shift)))
    with pytest.raises(InputError, match=rf"run={made}: .*\bPyTorch\b.*\b(2.0e-03|nan)\b.*\b0.0001\b"):
        exported(f"run={made}", "output=there/it")
    assert list(Path("there").iterdir()) == []


def test_where_every_probability_is_zero_the_check_still_sees_a_difference(made, monkeypatch):
    model = model_of("unet", made)
    model.net.head.bias.sub_(60)
    monkeypatch.setattr(inference_export, "write_onnx", spoil(lambda net: net.head.bias.add_(0.1)))
    with pytest.raises(InputError, match=rf"run={made}: .*\bPyTorch\b.* 1.\de-0[1-3]\b.*\b0.0001\b"):
        inference_export.checked(model, Path("model.onnx"))


def test_what_onnx_cannot_express_is_one_sentence(made):
    class Rare(nn.Module):
        def forward(self, image):
            return torch.special.i0(image)

    model = models.Trained(made, "last", read_result(made), Rare().eval(), torch.device("cpu"))
    with pytest.raises(InputError, match=rf"run={made}: .*\bONNX\b.*i0"):
        inference_export.checked(model, Path("model.onnx"))


def test_the_file_says_what_a_program_needs_to_know(folder):
    edited(folder, lambda result: result["config"]["data"].update(spacing_mm=1.25, target="a\ud800|b"))
    exported(f"run={folder}", "output=there", "which=best")
    model = onnx.load("there/model.onnx")
    assert {one.key: one.value for one in model.metadata_props} == {
        **{"run_id": read_result(folder)["run_id"], "epoch": "best", "target": "a?|b", "size": "32"},
        **{"normalize": "zscore", "spacing_mm": "1.25", "larger": "null", "antialias": "null"},
        **{"downsample": "null", "threshold": "0.5", "segtune": segtune.__version__},
    }
    assert "research" in model.doc_string
    assert sorted(path.name for path in Path("there").iterdir()) == ["model.onnx", "model_card.md"]


def test_which_epoch_s_weights_are_exported_is_a_choice(folder):
    path = folder / layout.CHECKPOINTS / layout.BEST
    best = torch.load(path, weights_only=True)
    best["state_dict"]["net.head.bias"] += 1
    torch.save(best, path)
    resign(folder)
    for which in models.WHICH:
        exported(f"run={folder}", f"output={which}", f"which={which}")
    image = np.zeros((1, 1, 32, 32), np.float32)
    logits = [
        onnxruntime.InferenceSession(f"{which}/model.onnx", providers=["CPUExecutionProvider"]).run(
            ["logits"], {"image": image}
        )
        for which in models.WHICH
    ]
    assert abs(logits[1][0] - logits[0][0]).max() > 0.5
    last, best = ({*card.alarms(read_result(folder), which)} for which in models.WHICH)
    (chosen,) = best - last
    assert f"> **Warning.** {chosen}" in Path("best/model_card.md").read_text()
    assert chosen not in Path("last/model_card.md").read_text()


# The command


def test_the_command_writes_a_folder_named_after_the_run_and_says_so(made, capsys, monkeypatch):
    exported(f"run={made}")
    printed = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        rf"outputs/export/{made.name}/model.onnx: .*\bPyTorch\b.* \d.\de-\d\d\b.*\b4\b.*\(onnxruntime [\d.]+; 0.0001\b.*\)",
        printed[0],
    )
    assert printed[1:] == [f"outputs/export/{made.name}/model_card.md"]
    assert sorted(path.name for path in Path("outputs/export").rglob("*")) == [made.name, "model.onnx", "model_card.md"]
    assert printed[0].partition(": ")[2] in Path(printed[1]).read_text()
    monkeypatch.delattr(verb, "checked")  # it is told before the work
    with pytest.raises(InputError, match=f"^output=outputs/export/{made.name}: "):
        exported(f"run={made}")


def test_an_empty_folder_is_filled_and_a_file_is_left_alone(made):
    Path("empty").mkdir()
    exported(f"run={made}", "output=empty")
    assert Path("empty/model.onnx").stat().st_size > 1000
    Path("file").write_text("mine")
    with pytest.raises(InputError, match="^output=file: "):
        exported(f"run={made}", "output=file")
    assert Path("file").read_text() == "mine"


def test_what_somebody_puts_there_meanwhile_is_left_alone(made, monkeypatch):
    def checked(model, path, check=inference_export.checked):
        Path("there").mkdir()
        Path("there/file").write_text("mine")
        return check(model, path)

    monkeypatch.setattr(verb, "checked", checked)
    with pytest.raises(InputError, match="^output=there: "):
        exported(f"run={made}", "output=there")
    assert [path.name for path in Path().rglob("*")] == ["there", "file"]


def test_wrong_keys_are_one_sentence(made):
    for overrides, message in (
        ([], "^run=: "),
        (["run=[a,b]"], "^run=: "),
        (["run=nowhere"], "^run=nowhere: "),
        ([f"run={made}", "which=first"], "^which=first: .*last.*best"),
        ([f"run={made}", "output=[a]"], "^output=.*a.*: "),
    ):
        with pytest.raises(InputError, match=message):
            exported(*overrides)
    assert list(Path().iterdir()) == []


def test_a_result_with_values_of_a_wrong_kind_is_one_sentence_and_nothing_is_written(folder):
    edited(folder, lambda result: result["last"].update(metrics=None, val_dice=0.5))
    edited(folder, lambda result: result["last"].pop("n_undefined", None))
    with pytest.raises(InputError, match=r"result.json\b.*\bdamaged\b"):
        exported(f"run={folder}", "output=there/it")
    edited(folder, lambda result: result["last"].update(metrics="none"))
    with pytest.raises(InputError, match=r"result.json\b.*\bdamaged\b"):
        exported(f"run={folder}", "output=there/it")
    assert not Path("there/it").exists()


@pytest.mark.slow
def test_the_command_as_typed_warns_of_nothing(made):
    command = [sys.executable, "-W", "error", "-m", "segtune.export", f"run={made}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("model_card.md\n")


# The card's code


@pytest.fixture(scope="module")
def onnx_file(made, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    inference_export.write_onnx(models.load(made), path)
    return path


@pytest.mark.parametrize("normalize", ["zscore", "divide255"])
@pytest.mark.parametrize(
    ("spacing_mm", "larger", "shapes"),
    [
        (None, None, [(30, 20), (50, 33)]),
        (None, "crop", [(30, 20), (50, 33), (31, 61)]),
        (4.1, None, [(30, 20), (37, 81)]),
        (4.1, "crop", [(30, 20), (37, 81), (64, 50)]),
    ],
)
def test_the_card_s_code_gives_what_the_run_gives(folder, onnx_file, normalize, spacing_mm, larger, shapes):
    edited(folder, lambda result: result["config"]["data"].update(spacing_mm=spacing_mm, larger=larger, normalize=normalize))
    (code,) = re.findall(r"^```python\n(.*?)^```", page(folder), flags=re.MULTILINE | re.DOTALL)
    shutil.copy(onnx_file, "model.onnx")
    model = models.load(folder)
    for shape in shapes:
        image = np.random.default_rng(0).normal(40, 30, size=shape).astype(np.float32)
        np.save("image.npy", image)
        found: dict = {}
        exec(code, found)
        assert ("pixel_mm" in found) == (spacing_mm is not None)
        pixel_mm = found.get("pixel_mm", (1.0, 1.0))
        (expected,) = model.probabilities([Slice(image, np.zeros(shape, bool), "P1", 0, 0, None, pixel_mm, 8.0)])
        assert found["probability"].shape == shape
        assert found["probability"] == pytest.approx(expected, abs=1e-5)
        assert np.ptp(expected) > 1e-3
        is_clear = abs(expected - 0.5) > 1e-5
        assert found["mask"].dtype == bool
        assert (found["mask"] == (expected > 0.5))[is_clear].all()


# The card


def row(text, *first):
    """The cells of the table's row that begins with these."""
    return next(cells for line in text.splitlines() if (cells := line.strip("| ").split(" | "))[: len(first)] == [*first])


def numbers(text):
    return re.findall(r"\d+(?:\.\d+)?", text)


def test_the_card_says_what_the_result_says(made):
    text, result = page(made), read_result(made)
    assert re.match(rf"# Model card: run {made.name}\n\n\*\*.*\bresearch\b.*\bmedical device\b.*\*\*\n", text)
    assert row(text, "checked") == ["checked", CHECKED]
    assert row(text, "optimizer") == ["optimizer", "torch.optim.Adam lr=0.001"]
    assert f"python={platform.python_version()}" in row(text, "versions")[1]
    assert "python -m segtune" not in section(text, "## Training")  # nothing but train() was called, and nobody noted a command
    assert row(text, "loss")[1] == "losses.bce\\_dice"
    for side, name in (("train", "training"), ("val", "validation")):
        labels, n = result["data"]["patients"][side], result["data"]["n_images"][side]
        assert row(text, name) == [name, str(len(labels)), str(n), ", ".join(labels)]


@pytest.mark.parametrize("which", models.WHICH)
def test_every_mean_stands_beside_its_counts(folder, which):
    edited(folder, lambda result: result["best"].update(epoch=1))
    about, note = read_result(folder)[which], ", not in model.onnx" * (which == "best")
    part, metrics = section(page(folder), f"### {which.capitalize()} epoch ({about['epoch']}){note}"), about["metrics"]
    assert ("Optimistic" in part) == (which == "best")
    for name, (heading, form) in card.METRICS.items():
        cells = row(part, heading + " at 2 mm" * (name == "surface_dice"))[1:]
        for level, cell in zip(("slices", "cases", "patients"), cells, strict=True):
            mean = metrics[level][name]
            counts = " / ".join(str(mean[key]) for key in ("n", "n_one_empty", "n_both_empty", "n_undefined"))
            assert cell == f"{mean['value']:{form}} ({counts})"
    for name, (heading, scale) in card.AGREEMENT.items():
        of = metrics["agreement"][name]
        assert row(part, heading)[1] == f"{scale * of['bias']:.1f}"
        assert row(part, heading)[2:4] == ["undefined", "undefined"]  # limits of agreement of a single patient
        assert row(part, heading)[4:] == ["1", "0"]


def test_an_epoch_that_is_both_last_and_best_is_the_exported_one(folder):
    edited(folder, lambda result: result["best"].update(epoch=2))
    assert "### Best epoch (2)\n" in page(folder)


def test_a_patient_s_row_is_that_of_the_exported_epoch(made):
    for which in models.WHICH:
        (scored,) = [one for one in read_table(made, layout.PATIENTS) if one["which"] == which]
        cells = row(section(page(made, which), f"### Patient by patient ({which} epoch)"), scored["patient"])
        assert cells[1:4] == ["2", f"{float(scored['dice']):.3f}", f"{float(scored['hd_mm']):.1f}"]
        volumes, fractions = (
            [scale * float(scored[name.format(side)]) for side in ("pred", "true")]
            for name, scale in (("stroke_volume_{}_ml", 1), ("ejection_fraction_{}", 100))
        )
        assert cells[8:10] == ["{:.1f} ({:.1f})".format(*volumes), "{:.1f} ({:.1f})".format(*fractions)]


def test_few_patients_are_said_to_be_few_with_what_one_of_them_weighs(made):
    result = {"data": {"patients": {"val": ["a", "b", "c"]}}}
    rows = [{"dice": "0.9"}, {"dice": "0.6"}, {"dice": "0.3"}, {"dice": "nan"}]
    assert numbers(card.few(result, rows)) == ["3", "0.450", "0.750"]
    assert numbers(card.few({"data": {"patients": {"val": [*range(10)]}}}, None)) == ["10"]
    of_ten, of_three = (card.few({"data": {"patients": {"val": [*range(n)]}}}, None) for n in (10, 3))
    assert (of_ten.count("."), of_three.count(".")) == (1, 2)  # few are said to be few
    alone = card.few(read_result(made), None)
    assert (numbers(alone), alone.count(".")) == (["1"], 2)
    assert f"- {alone}\n" in section(page(made), "## Limits")


def test_slices_without_the_structure_and_phases_are_counted():
    rows = [{"phase": "ED", "n_true": "5"}] * 3 + [{"phase": "", "n_true": "0"}]
    phases, empty = card.of_slices(rows)
    assert "ED (3 slices)" in phases
    assert "(1 slice)" in phases
    assert (numbers(phases), numbers(empty)) == (["3", "1"], ["1", "4", "25"])
    none = card.of_slices(rows[:3])[1]
    assert numbers(none) == ["0", "3", "0"]
    assert none.count(".") == empty.count(".") + 1  # that it stays silent there has hardly been tested


def test_choices_that_shape_the_scores_are_among_what_is_told(folder):
    told = {  # in which part of the card, with which word, for which settings
        "data.larger": ("## Limits", r"^- .*\bcrop\b"),
        "data.spacing_mm": ("## Limits", r"^- .*\bresampled\b"),
        "data.empty": ("## Limits", r"^- .*\bdata\.empty=drop\b"),
        "trainer.patience": ("### Last epoch (2)", r"^[^|]*\bstop\b"),
    }

    def said():
        text = page(folder)
        return {key for key, (part, words) in told.items() if re.search(words, section(text, part), flags=re.MULTILINE)}

    assert said() == set()
    for number, (key, value) in enumerate(zip(told, ("crop", 1.25, "drop", 3), strict=True), start=1):
        group, _, name = key.partition(".")
        edited(folder, lambda result, of=group, name=name, value=value: result["config"][of].update({name: value}))
        assert said() == {*list(told)[:number]}
    assert re.search(r"\bresampled\b.*\b1\.25 mm\b", row(page(folder), "preprocessing")[1])


def test_leaks_and_allowed_errors_are_told_before_all_else_and_among_the_limits(folder):
    finding = {"kind": "duplicate_contour", "patient": "P01", "frame": 20, "file": None}

    def edit(result):
        result["data"] |= {"n_leaks": 2, "leaks": ["P01", "P02"]}
        result["data"]["findings"] = [
            *[{"severity": "error", "message": "it is that of P02.", **finding}] * 9,
            {"severity": "warning", "message": "of 3 pixels.", **finding, "kind": "tiny"},
        ]
        result["config"]["data"]["allow"] = ["duplicate_contour"]

    edited(folder, edit)
    text = page(folder)
    for part in (text[: text.index("## Intended use")], section(text, "## Limits")):
        assert re.search(r"\*\*.*\b2 patients\b", part)
        assert re.search(r"\*\*.*\b9 errors\b", part)
    assert row(text, "patients on both sides")[1] == "**2: P01, P02**"
    (error,) = [line.strip("| ").split(" | ") for line in text.splitlines() if "| duplicate\\_contour |" in line]
    assert error[1:] == ["duplicate\\_contour", "9", "P01: it is that of P02."]
    assert re.match(r"\*\*error\b.*\bdata\.allow\b", error[0])
    assert row(text, "warning") == ["warning", "tiny", "1", "P01: of 3 pixels."]


def test_what_is_undefined_is_called_so_and_never_zero(folder):
    def edit(result):
        for mean in result["last"]["metrics"]["cases"].values():
            mean |= {"value": None, "n": 0, "n_undefined": 2}
        result["last"]["metrics"]["agreement"]["stroke_volume_ml"] = dict.fromkeys(("bias", "sd", "lower", "upper")) | {
            "n": 0,
            "n_undefined": 1,
        }

    edited(folder, edit)
    path = folder / layout.PATIENTS
    head, *lines = path.read_text().splitlines()
    names = head.split(",")
    undefined = dict(zip(names, lines[-1].split(","), strict=True)) | {
        "hd_mm": "nan",
        "ejection_fraction_pred": "",
        "undefined": "ED is missing",
    }
    path.write_text("\n".join([head, *lines[:-1], ",".join(undefined.values())]) + "\n")
    text = page(folder)
    part = section(text, "### Last epoch (2)")
    assert row(part, "HD [mm]")[2] == "undefined (0 / 0 / 0 / 2)"
    assert row(part, "stroke volume [ml]")[1:] == ["undefined", "undefined", "undefined", "0", "1"]
    cells = row(section(text, "### Patient by patient (last epoch)"), undefined["patient"])
    assert (cells[3], cells[10]) == ("undefined", "ED is missing")
    assert cells[9].startswith("undefined (")


def test_a_run_of_an_earlier_version_gets_a_card_that_says_what_is_missing(folder):
    def edit(result):
        for which in models.WHICH:
            del result[which]["metrics"]
        for key in ("tolerance_mm", "machine", "weights", "calibration"):
            del result[key]
        for key in ("pixel_mm", "findings", "leaks", "n_leaks"):
            del result["data"][key]

    edited(folder, edit)
    for name in (layout.CASES, layout.PATIENTS, layout.STATUS):
        (folder / name).unlink(missing_ok=True)
    text = page(folder)
    dice = read_result(folder)["last"]["val_dice"]
    assert re.search(rf"\bDice\b[^.]*{dice:.3f}, .*\b0\b.*{card.MISSING}", section(text, "### Last epoch (2)"))
    assert re.search(rf"\(patients\.csv\).*{card.MISSING}: {card.EARLIER}", text)
    assert re.search(rf"\bcheck\b.*{card.MISSING}: {card.EARLIER}", section(text, "## Data"))
    assert row(text, "patients on both sides")[1] == row(text, "machine")[1] == card.MISSING
    assert re.search(rf"\bcommand\b.*{card.MISSING} \(status\.json\)", section(text, "## Training"))
    (folder / layout.SLICES).unlink()
    (unknown,) = card.of_slices(None)
    assert card.MISSING in unknown
    assert f"- {unknown}\n" in section(page(folder), "## Limits")


def test_the_command_is_told_without_a_path_of_this_machine(folder):
    overrides = [
        "data=rvsc",
        "data.root=/home/anna/My Data",
        "outputs=/somewhere/x",
        "split='0.6'",
        "data.patient='(?P<patient>[^_/]+)_'",
    ]
    write_status(folder, "completed", run_id=folder.name, overrides=overrides)
    text = page(folder)
    assert "python -m segtune data=rvsc data.root=... split=0.6 'data.patient=" in text
    assert re.search(r"^`\.\.\.` .*\bpath\b", text, flags=re.MULTILINE)
    assert "/home" not in text
    assert "/tmp" not in text
    write_status(folder, "completed", run_id="0123456789ab", overrides=["loss=focal"])
    assert "loss=focal" not in page(folder)


def test_a_command_that_names_code_is_told_with_a_warning_and_without_flags(folder):
    overrides = ["loss._target_=lab.mine", "--config-dir=there", "-m", "data.target='$(reboot)'"]
    write_status(folder, "completed", run_id=folder.name, overrides=overrides)
    text = page(folder)
    assert re.search(r"^\*\*.*\bcode\b", section(text, "## Training"), flags=re.MULTILINE)
    assert "python -m segtune loss._target_=lab.mine 'data.target=" in text
    assert "--config-dir" not in text
    write_status(folder, "completed", run_id=folder.name, overrides=["loss=focal"])
    assert not re.search(r"^\*\*.*\bcode\b", section(page(folder), "## Training"), flags=re.MULTILINE)


HOSTILE = "P1|x <script>alert(1)</script> `` ``` `a` [b](c) ![d](e) *f* _g_ ~~h~~ \\ &lt; \x1b[31m\u202e\n# i\n```\n<img src=x>"


def with_text(folder, text):
    """The card of a run that has this text wherever a file can have text."""
    finding = {"kind": text, "patient": text, "frame": 1, "file": text, "message": text}

    def edit(result):
        result["config"]["data"]["target"] = result["config"]["loss"]["weight"] = text
        result["data"] |= {"n_leaks": 1, "leaks": [text], "fingerprint": text}
        result["data"]["patients"] = {side: [text] for side in ("train", "val", "unused")}
        result["data"]["findings"] = [{"severity": severity, **finding} for severity in ("error", "warning")]
        result["git"] = {"commit": text, "dirty": True}
        result["machine"] = result["versions"] = {text: text}

    edited(folder, edit)
    write_status(folder, "completed", run_id=read_result(folder)["run_id"], overrides=[f"a={text}"])
    for name, columns in layout.TABLES.items():
        rows = read_table(folder, name)
        changed = [one | {key: text for key in ("patient", "phase", "undefined") if key in one} for one in rows]
        (folder / name).write_text(csv_text(columns, changed))
    return page(folder)


def test_text_of_the_run_is_neither_markdown_nor_html_nor_code(folder):
    markdown = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    tokens = {text: markdown.parse(with_text(folder, text)) for text in ("harmless", HOSTILE)}
    shape = {
        text: [(one.type, [inner.type for inner in one.children or []]) for one in found] for text, found in tokens.items()
    }
    assert shape[HOSTILE] == shape["harmless"]
    cells = [one.content for one in tokens[HOSTILE] if one.type == "inline"]
    shown = ["".join(inner.content for inner in one.children) for one in tokens[HOSTILE] if one.type == "inline"]
    assert HOSTILE.replace("\n", " ").replace("\x1b", "?").replace("\u202e", "?") in shown
    assert len(cells) > 100
    python = [[one.content for one in found if one.info == "python"] for found in tokens.values()]
    assert python[0] == python[1]


def test_the_card_s_code_holds_no_text_of_the_run(folder):
    def edit(result):
        result["config"]["data"] |= {"spacing_mm": "1)\nimport os  #"}

    edited(folder, edit)
    with pytest.raises(ValueError, match="could not convert string to float"):
        page(folder)
