"""The versions that an installation may have."""

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import segtune

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BOUNDS = {one.name: one.specifier for one in map(Requirement, PROJECT["dependencies"])}
SPEC = importlib.util.spec_from_file_location("advisories", ROOT / ".ci" / "advisories.py")
advisories = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(advisories)


@pytest.mark.parametrize(
    ("name", "version"),
    [
        *(("torch", version) for version in ("2.5.1", "2.6.0", "2.8.0", "2.9.1")),  # CVE-2025-32434, CVE-2026-24747
        *(("hydra-core", version) for version in ("1.3.2", "1.3.7")),  # instantiate's blocklist
        *(("pytorch-lightning", version) for version in ("2.6.2", "2.6.3", "2.5.5")),  # malware
        *(("monai", version) for version in ("1.4.0", "1.5.1", "1.5.2")),  # GHSA-89gg-p5r5-q6r4, GHSA-rghg-q7wp-9767
        *(("onnx", version) for version in ("1.17.0", "1.20.1")),  # CVE-2026-27489
        ("pydicom", "3.0.1"),  # CVE-2026-32711
        *(("pillow", version) for version in ("10.2.0", "11.2.1", "12.1.0")),  # CVE-2024-28219, CVE-2025-48379, CVE-2026-25990
        ("jinja2", "3.1.5"),  # CVE-2025-27516
        ("tqdm", "4.66.2"),  # CVE-2024-34062
    ],
)
def test_a_version_with_a_known_hole_cannot_be_installed(name, version):
    assert version not in BOUNDS[name]


def test_the_pinned_versions_are_within_the_bounds():
    pins = dict(advisories.pinned((ROOT / "constraints.txt").read_text().lower()))
    assert all(pins[name] in bound for name, bound in BOUNDS.items() if name in pins)
    assert {"torch", "hydra-core", "pytorch-lightning"} <= pins.keys()


def test_advisories_of_a_pinned_version_fail_and_a_list_that_cannot_be_had_is_said_to_be_so(tmp_path, capsys):
    path = tmp_path / "constraints.txt"
    path.write_text("# comment\na==1.0\nTorch==2.9.0+cpu\n")

    def ask(question):
        assert [(one["package"]["name"], one["version"]) for one in question["queries"]] == [("a", "1.0"), ("Torch", "2.9.0")]
        return {"results": [{}, {"vulns": [{"id": "CVE-2026-24747"}]}]}

    assert advisories.main(path, ask) == 1
    assert re.search(r"\b2 .*\b1 .*\nTorch==2.9.0: CVE-2026-24747\n", capsys.readouterr().out)
    assert advisories.main(path, lambda question: {"results": [{}, {}]}) == 0
    assert re.search(r"\b2 .*\b0 ", capsys.readouterr().out)

    def unreachable(question):
        raise OSError("no route")

    for answer in (unreachable, lambda question: {"results": [{}]}, lambda question: []):
        assert advisories.main(path, answer) == 0
        assert re.search(r"\b2 .*\bNOT\b", capsys.readouterr().out)


def test_the_oldest_versions_are_the_lower_bounds():
    pins = dict(advisories.pinned((ROOT / "constraints-oldest.txt").read_text().lower()))
    tools = [*map(Requirement, PROJECT["optional-dependencies"]["dev"])]
    bounds = {**BOUNDS, **{tool.name: tool.specifier for tool in tools}}
    lowest = {name: Version(one.version) for name, bound in bounds.items() for one in bound if one.operator == ">="}
    assert lowest == {name: Version(pins[name]) for name in bounds}


def test_changelog_citation_and_package_name_one_version():
    newest = re.search(r"^## \[(\d[^]]*)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (cited["version"], cited["date-released"]) == newest.groups()
    assert segtune.__version__ == cited["version"]


def test_pre_commit_runs_the_pinned_ruff():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    pinned = f"ruff=={dict(advisories.pinned((ROOT / 'constraints.txt').read_text()))['ruff']}"
    assert [hook["additional_dependencies"] for hook in hooks if hook["language"] == "python"] == [[pinned]] * 2


def test_the_workflow_runs_on_the_oldest_and_the_newest_python_that_the_package_names():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())["jobs"]
    oldest, newest = jobs["test"]["strategy"]["matrix"]["include"]
    named = [one.rpartition(" ")[2] for one in PROJECT["classifiers"] if one.startswith("Programming Language")]
    assert [oldest["python"], newest["python"]] == [named[0], named[-1]]
    assert PROJECT["requires-python"] == f">={oldest['python']}"
    assert (ROOT / oldest["constraints"]).is_file()
    assert (ROOT / newest["constraints"]).is_file()
