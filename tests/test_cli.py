"""The command `segtune`, run from a script like the one that pip makes of [project.scripts], and the help of every verb."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from conftest import TINY
from segtune import __version__
from segtune.config import entry, error_messages, usage

ROOT = Path(__file__).resolve().parents[1]
VERBS = ("train", "sweep", "status", "report", "check", "calibrate", "evaluate", "predict", "export")
MODULE, _, FUNCTION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["segtune"].partition(":")


@pytest.fixture
def segtune(tmp_path_factory):
    """Run the command `segtune` in the current folder; warnings are errors."""
    script = tmp_path_factory.mktemp("bin") / "segtune"
    script.write_text(f"import sys\nfrom {MODULE} import {FUNCTION}\nif __name__ == '__main__':\n    sys.exit({FUNCTION}())\n")

    def run(*arguments, **env):
        command = [sys.executable, "-W", "error", str(script), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | env, check=False)

    return run


def by_module(*arguments, module="segtune"):
    command = [sys.executable, "-W", "error", "-m", module, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_without_a_verb_every_verb_has_one_line_and_neither_torch_nor_hydra_is_imported(arguments):
    code = f"import sys; sys.modules |= dict.fromkeys(['torch', 'hydra', 'pandas']); sys.argv[1:] = {arguments}\n"
    said = subprocess.run(
        [sys.executable, "-c", code + "import segtune.cli; segtune.cli.main()"], capture_output=True, text=True, check=True
    )
    listed = re.findall(r"^  (\w+) {2,}\S", said.stdout, flags=re.MULTILINE)
    assert tuple(listed) == VERBS
    assert "segtune sweep " in said.stdout
    assert "python -m" not in said.stdout


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version_is_that_of_segtune(flag, segtune):
    assert segtune(flag).stdout == f"segtune {__version__}\n"


@pytest.mark.parametrize(("typed", "nearest"), [("stats", "status"), ("reprot", "report"), ("loss=focal", "train"), ("", None)])
def test_an_unknown_verb_ends_with_exit_code_2_and_the_nearest_one(typed, nearest, segtune):
    ended = segtune(typed)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert nearest is None or f"Nearest: {nearest}." in ended.stderr


def test_a_reader_of_the_help_that_has_seen_enough_ends_it_without_a_word(segtune):
    code = "import sys, segtune.cli; sys.argv[1:] = ['--help']; segtune.cli.main()"
    command = f'{sys.executable} -c "{code}" | true; exit ${{PIPESTATUS[0]}}'
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (ended.returncode in (0, 141), ended.stderr) == (True, "")


@pytest.mark.parametrize("name", usage.FILES)
def test_the_help_of_a_verb_is_one_screen_with_a_line_for_each_key_and_two_examples(name):
    lines = usage.screen(name).splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    keys = {key: (value, comment) for key, value, comment in usage.own_keys(name)}
    bases = ["run"] if name in ("config", "check", "calibrate") else []
    known = {key for file in (name, *bases) for key in error_messages._own_keys(file)}
    assert keys.keys() == {key for key in known if not any(other.startswith(f"{key}.") for other in known)}
    for key, (value, comment) in keys.items():
        assert comment, f"conf/{name}.yaml: {key} has no comment"
        assert any(line.split()[:1] == [f"{key}={'...' if value == '???' else value}"] for line in lines)
    assert sum(line.startswith(f"  {usage.MODULE}") for line in lines) == 2


@pytest.mark.parametrize("name", usage.FILES)
def test_every_example_of_the_help_composes(name):
    for line in (line for line in usage.screen(name).splitlines() if line.startswith(f"  {usage.MODULE}")):
        words = shlex.split(re.split(" {2,}", line.strip())[0])[3:]
        jobs = [[re.sub(",.*", "", word) if "[" not in word else word for word in words if word != "-m"]]
        assert all(entry.compose(job, config_name=name) for job in jobs)


@pytest.mark.slow
def test_the_help_of_a_verb_is_the_same_in_both_forms_but_for_the_form(segtune):
    for verb, module in (("report", "segtune.report"), ("train", "segtune"), ("sweep", "segtune")):
        command, modules = (said.stdout.splitlines() for said in (segtune(verb, "--help"), by_module("--help", module=module)))
        assert command[0].startswith("segtune ")
        assert modules[0].startswith(f"python -m {module}: ")
        key = "  dry_run=false  " if module == "segtune" else "  claims=null "
        assert {line for line in command if line.startswith(key)} == {line for line in modules if line.startswith(key)} != set()


def test_options_of_the_users_own_folder_are_in_the_help(segtune):
    Path("own/loss").mkdir(parents=True)
    Path("own/loss/mine.yaml").write_text("_target_: lab.mine\n_partial_: true\n")
    for typed in (["--config-dir", "own", "--help"], ["-h", "--config-dir=own"], ["--help", "hydra.searchpath=[file://own]"]):
        assert re.search(r"^  loss: .*\n? .*\bmine\b", segtune("train", *typed).stdout, flags=re.MULTILINE)
    assert "mine" not in segtune("train", "--help").stdout


def test_packages_in_the_current_folder_are_found_as_they_are_with_python_m(segtune):
    Path("lab/conf/loss").mkdir(parents=True)
    Path("lab/conf/__init__.py").touch()
    Path("lab/conf/loss/mine.yaml").write_text("_target_: lab.mine\n_partial_: true\n")
    typed = ("--help", "hydra.searchpath=[pkg://lab.conf]")
    assert re.search(r"\bmine\b", segtune("train", *typed).stdout)
    assert re.search(r"\bmine\b", by_module(*typed).stdout)


@pytest.mark.slow
def test_hydras_flags_work_behind_a_verb(segtune):
    job = by_module("loss=focal", "--cfg", "job", "-p", "loss").stdout
    assert "segtune.losses.focal" in job
    for typed in (["train", "loss=focal", "--cfg", "job", "-p", "loss"], ["sweep", "-p", "loss", "-c", "job", "loss=focal"]):
        assert segtune(*typed).stdout == job
    assert by_module("-m", "loss=focal", "--cfg", "job", "-p", "loss").stdout == job
    assert f"file://{ROOT}/conf" in segtune("sweep", "--info", "searchpath").stdout
    assert "--multirun,-m" in segtune("report", "--hydra-help").stdout


@pytest.mark.slow
def test_a_verbs_exit_code_and_message_are_those_of_its_module(segtune):
    for typed in ([], ["swep=x"], ["sweep=nowhere"]):
        command, module = segtune("report", *typed), by_module(*typed, module="segtune.report")
        assert command.returncode == module.returncode == 1
        assert command.stderr == module.stderr.replace("python -m segtune.report", "segtune report")
    assert "See segtune report --help" in segtune("report", "swep=x").stderr
    assert "See segtune train --cfg job" in segtune("train", "trainer.epochs=1").stderr


@pytest.fixture
def lab():
    """A loss of the user's own in the current folder."""
    Path("lab").mkdir()
    Path("lab/__init__.py").touch()
    code = "from segtune.losses import bce\n\ndef loss(logits, target):\n    return 2 * bce(logits, target)\n"
    Path("lab/mine.py").write_text(code)
    return [*TINY, "trainer.max_epochs=1", "loss=bce", "loss._target_=lab.mine.loss", "split=0.4", "reg=none", "batch=10"]


@pytest.mark.slow
def test_a_dry_run_lists_the_same_runs_in_both_forms(segtune, lab):
    command = segtune("sweep", *lab, "dry_run=true")
    assert command.returncode == 0, command.stderr
    assert command.stdout == by_module("-m", *lab, "dry_run=true").stdout
    assert "lab.mine.loss" in command.stdout


@pytest.mark.slow
def test_modules_in_the_current_folder_are_found_in_a_run_and_in_worker_processes(segtune, lab):
    one = segtune("train", *lab)
    assert one.returncode == 0, one.stderr
    many = segtune("sweep", *lab, "seed=0,1,2", "hydra/launcher=local", "trainer.threads=1")
    assert many.returncode == 0, many.stderr
    about = json.loads(Path("outputs/grid/sweep.json").read_text())
    assert about["command"] == ["segtune", "sweep", *lab, "seed=0,1,2", "hydra/launcher=local", "trainer.threads=1"]
    assert "segtune report sweep=outputs/grid" in many.stdout
    results = [json.loads(path.read_text()) for path in Path("outputs/runs").glob("*/result.json")]
    assert len(results) == 4  # trainer.threads is part of a run's identity
    assert all("lab.mine" in result["inputs"] for result in results)
    again = by_module("-m", *lab, "seed=0,1,2", "hydra/launcher=local", "trainer.threads=1")
    assert "3 done, 0 to resume, 0 failed, 0 to run" in again.stdout
