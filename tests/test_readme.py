"""Every command in the README's code blocks composes, is a target of the Makefile, or is a known tool."""

import re
import shlex
from pathlib import Path

import pytest

import simulated
from segtune.config import entry, rules, usage
from segtune.config.overrides import quote_numbers
from segtune.sweeps import plan

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r"^```(?:bash|sh)\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
COMMANDS = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines() if line.split("#")[0].strip()]
VERBS = {"train": ["segtune"], "sweep": ["segtune", "-m"], **{verb: [f"segtune.{verb}"] for verb in usage.FILES}}


def as_module(command):
    """The words of a command, `segtune verb ...` as python -m segtune.verb ...; None for another command."""
    words = shlex.split(command)
    if words[0] == "segtune" and words[1] in VERBS:
        return ["python", "-m", *VERBS[words[1]], *words[2:]]
    return words if "-m segtune" in command else None


SEGTUNE = [words for words in map(as_module, COMMANDS) if words]


def test_the_readme_has_the_two_commands_that_must_always_work():
    assert "python -m segtune loss=focal split=0.6 -m" in COMMANDS
    assert "python -m segtune reg=l1 reg.lambda=5e-7" in COMMANDS
    assert {"make demo", "make test"} <= set(COMMANDS)


@pytest.mark.parametrize("words", SEGTUNE, ids=" ".join)
def test_every_segtune_command_composes(words):
    module = words[words.index("-m") + 1]
    overrides = [word for word in words[words.index(module) + 1 :] if not word.startswith("-")]
    if module != "segtune":
        assert entry.compose(overrides, config_name=module.removeprefix("segtune."))
        return
    for job in plan.combinations([], [quote_numbers(override) for override in overrides]):
        rules.check(entry.plain(entry.compose(job)))


@pytest.mark.parametrize("command", [c for c in COMMANDS if not as_module(c)])
def test_every_other_command_is_a_make_target_or_a_tool(command):
    words = shlex.split(command)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    elif words[0] == "segtune":
        assert words[1] in ("--help", "--version")
    else:
        assert words[0] in ("git", "cd", "pip", "python3", "source", "pre-commit")


def test_the_readmes_python_runs_on_a_sweep(tmp_path):
    outputs, dice, curves = tmp_path / "outputs", {"P01": 0.8, "P02": 0.6}, simulated.curves(2)
    runs = [simulated.write_run(outputs, simulated.config(seed=seed), dice, curves) for seed in (0, 1)]
    simulated.write_sweep(outputs, "lr", [(run, ()) for run in runs])
    names = {}
    for block in re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL):
        exec(block, names)
    assert list(names["results"].runs.run_id) == runs


def test_every_file_the_readme_links_exists():
    for target in re.findall(r"\]\((?!http)([^)#]+)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target
