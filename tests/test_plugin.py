"""The example plug-in, used as a person would use it: from a folder of options, and as an installed package."""

import csv
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from layouts import labkit

PLUGIN = Path(__file__).parents[1] / "examples/plugin"
TRUST = "trust=[monai.networks.nets.SegResNet]"
SMALL = ["data=npz", "data.root=npz", "data.size=32", "trainer.max_epochs=1"]
RECIPE = ["loss=power_jaccard", "model=segresnet", "reg=huber", "optimizer=nadam"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with four patients in the plug-in's own format."""
    place = tmp_path_factory.mktemp("lab")
    labkit.write(place / "npz")
    return place


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Python's path as it is after `pip install examples/plugin`."""
    site = tmp_path_factory.mktemp("site")
    shutil.copytree(PLUGIN / "labkit", site / "labkit")
    about = site / "labkit-0.1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: labkit\nVersion: 0.1.0\n")
    said = re.search(r'^labkit = "([\w.]+)"', (PLUGIN / "pyproject.toml").read_text(), flags=re.MULTILINE)
    (about / "entry_points.txt").write_text(f"[segtune]\nlabkit = {said[1]}\n")
    return site


def run(module, *arguments, cwd, path, status=0):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(path), os.environ.get("PYTHONPATH", "")])}
    ended = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == status, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


@pytest.mark.slow
def test_a_plugin_in_a_folder_is_trained_evaluated_and_exported(place):
    options = f"--config-dir={PLUGIN / 'labkit/conf'}"
    run("segtune", options, *SMALL, *RECIPE, "outputs=one", cwd=place, path=PLUGIN)
    (folder,) = (place / "one/runs").iterdir()
    result = json.loads((folder / "result.json").read_text())
    chosen = {"loss": "power_jaccard", "model": "segresnet", "reg": "huber", "optimizer": "nadam", "data": "npz"}
    assert {group: result["options"][group] for group in chosen} == chosen
    assert result["weights"]["l2"] > 0
    assert "labkit.recipes" in result["inputs"]

    reading = ("data=npz", "data.root=npz", "outputs=one", options)
    refusal = run("segtune.evaluate", f"run={folder}", *reading, cwd=place, path=PLUGIN, status=1)
    assert re.search(r"SegResNet.*trust=", refusal)
    run("segtune.evaluate", f"run={folder}", *reading, TRUST, cwd=place, path=PLUGIN)
    (evaluated,) = (place / "one/evaluate").iterdir()
    with (evaluated / "patients.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["dice"]) == pytest.approx(result["last"]["metrics"]["patients"]["dice"]["value"], abs=1e-6)

    run("segtune.export", f"run={folder}", "outputs=one", TRUST, cwd=place, path=PLUGIN)
    assert {path.name for path in next((place / "one/export").iterdir()).iterdir()} >= {"model.onnx", "model_card.md"}


@pytest.mark.slow
def test_an_installed_plugin_is_swept_in_several_processes_and_reported(place, installed):
    run("segtune", *SMALL, "study=labkit", "hydra/launcher=local", "outputs=two", "-m", cwd=place, path=installed)
    run("segtune.report", "sweep=two/labkit", cwd=place, path=installed)
    with (place / "two/labkit/tables/runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    swept = {"loss": ("power_jaccard", "bce_dice"), "model": ("segresnet", "unet"), "reg": ("huber", "none")}
    assert {tuple(row[key] for key in swept) for row in rows} == {*itertools.product(*swept.values())}
    assert {row["lambda_l1"] for row in rows if row["reg"] == "huber"} == {""}  # a penalty, though neither L1 nor L2
    assert {row["lambda_l1"] for row in rows if row["reg"] == "none"} == {"0.0"}
    label = next(row["label"] for row in rows if row["loss"] == "power_jaccard")
    said = run("segtune", *label.split(), "outputs=two", cwd=place, path=installed)
    assert "already done" in said


def test_a_plugin_whose_options_are_gone_is_named(installed, tmp_path):
    shutil.copytree(installed / "labkit-0.1.0.dist-info", tmp_path / "labkit-0.1.0.dist-info")
    said = run("segtune", "dry_run=true", cwd=tmp_path, path=tmp_path, status=1)
    assert re.search(r"labkit\b.*labkit\.conf", said)
    assert "Traceback" not in said


def test_the_plugins_documentation_names_each_of_its_options():
    text = (PLUGIN / "README.md").read_text()
    options = [path.relative_to(PLUGIN / "labkit/conf") for path in (PLUGIN / "labkit/conf").rglob("*.yaml")]
    assert len(options) == 6
    for option in options:
        assert f"`labkit/conf/{option.as_posix()}`" in text
        assert f"{option.parent.name}={option.stem}" in text
