"""The user's own code and files that a configuration names, by their content."""

import hashlib
import importlib
import sys
from pathlib import Path

import pytest

from segtune.runs import inputs

LAB = {
    "lab/__init__.py": "",
    "lab/mine.py": "from . import helpers\nfrom .deep.shapes import disc\nimport torch\nimport beside\n",
    "lab/helpers.py": "def f():\n    from lab import lazy\n",
    "lab/lazy.py": "import lab.mine",
    "lab/deep/__init__.py": "",
    "lab/deep/shapes.py": "from ..constants import *\nfrom segtune import losses\n",
    "lab/constants.py": "K = 2",
    "lab/unrelated.py": "",
    "beside.py": "import json, numpy",
    "stranger.py": "",
}
ALL = {"lab", "lab.mine", "lab.helpers", "lab.lazy", "lab.deep", "lab.deep.shapes", "lab.constants", "beside"}


@pytest.fixture
def lab(tmp_path, monkeypatch):
    for name, text in LAB.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    inputs.modules.cache_clear()
    yield tmp_path
    inputs.modules.cache_clear()


def of(target="lab.mine.loss", **more):
    return inputs.content_hashes({"loss": {"_target_": target, "_partial_": True}, **more})


def test_a_module_its_packages_and_what_it_imports_of_the_users_own_are_hashed(lab):
    found = of()
    assert {*found} == ALL
    assert found["lab.constants"] == hashlib.sha256(b"K = 2").hexdigest()
    assert "lab" not in sys.modules  # nothing was imported to find that out


@pytest.mark.parametrize("name", ["lab/mine.py", "lab/__init__.py", "lab/lazy.py", "lab/constants.py", "beside.py"])
def test_an_edit_anywhere_in_them_is_a_change_and_names_the_module(name, lab):
    before = of()
    (lab / name).write_text((lab / name).read_text() + "\n# edited")
    assert of() == before  # a process runs what it has imported
    inputs.modules.cache_clear()
    module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    assert inputs.changed_inputs(before, of()) == [module]
    assert inputs.describe_changes(inputs.changed_inputs(before, of())) == f"its code has changed ({module})"


@pytest.mark.parametrize("name", ["lab/unrelated.py", "stranger.py"])
def test_what_is_not_imported_does_not_count(name, lab):
    before = of()
    (lab / name).write_text("x = 1")
    inputs.modules.cache_clear()
    assert inputs.changed_inputs(before, of()) == []


def test_a_new_import_is_a_change(lab):
    before = of("stranger.f")
    (lab / "stranger.py").write_text("import lab.unrelated")
    inputs.modules.cache_clear()
    assert inputs.changed_inputs(before, of("stranger.f")) == ["lab", "lab.unrelated", "stranger"]


@pytest.mark.parametrize(
    "target",
    [
        *("segtune.losses.bce", "torch.optim.Adam", "monai.networks.nets.BasicUNet", "functools.partial", "builtins.dict"),
        *("nowhere.at.all", ""),
    ],
)
def test_what_is_known_by_its_version_and_what_is_not_there_has_no_source(target, lab):
    assert of(target) == {}


def test_every_target_of_a_configuration_counts_wherever_it_is(lab):
    found = inputs.content_hashes(
        {"data": {"reader": {"_target_": "stranger.read"}}, "model": {"parts": [{"_target_": "beside.net"}]}}
    )
    assert {*found} == {"stranger", "beside"}


def test_source_that_python_cannot_parse_is_hashed_all_the_same(lab):
    (lab / "broken.py").write_text("def f(:")
    assert {*of("broken.f")} == {"broken"}


def test_a_library_counts_with_its_own_package_alone(lab, monkeypatch):
    library = lab / "lib" / "site-packages"
    (library / "theirs").mkdir(parents=True)
    (library / "theirs" / "__init__.py").write_text("import another\nfrom . import part")
    (library / "theirs" / "part.py").touch()
    (library / "another.py").touch()
    monkeypatch.syspath_prepend(library)
    assert {*of("theirs.net")} == {"theirs", "theirs.part"}


def test_a_file_that_a_network_starts_from_is_known_by_its_content(lab, monkeypatch):
    monkeypatch.chdir(lab)
    Path("w.pt").write_bytes(b"one")
    config = {"model": {"weights": "w.pt", "name": "no such file", "long": "x" * 5000}, "data": {"root": "w.pt"}}
    before = inputs.content_hashes(config)
    assert before == {"model.weights": hashlib.sha256(b"one").hexdigest()}
    Path("w.pt").write_bytes(b"two")
    assert inputs.changed_inputs(before, inputs.content_hashes(config)) == ["model.weights"]
