import os
import re
import subprocess
import sys

import pytest

from segtune.config import entry, rules
from segtune.config import overrides as config_overrides
from segtune.config.overrides import _searched, as_axes, at_home, groups, has_key, quote_numbers
from segtune.errors import InputError


@pytest.mark.parametrize(
    ("typed", "quoted"),
    [
        ("split=0.6", "split='0.6'"),
        ("split='0.6'", "split='0.6'"),
        ('split="0.6"', 'split="0.6"'),
        ("split=0.60", "split='0.6'"),
        ("split=.6", "split='0.6'"),
        ("split=6e-1", "split='0.6'"),
        ("split=0.2,0.4", "split='0.2','0.4'"),
        ("split=0.2,'0.4'", "split='0.2','0.4'"),
        ("split=choice(0.2,0.4)", "split='0.2','0.4'"),
        ("batch=10", "batch='10'"),
        ("batch=10.0", "batch='10'"),
        ("batch=10,15", "batch='10','15'"),
        ("+batch=10", "+batch='10'"),
        ("split=range(0.2,0.5,0.1)", "split='0.2','0.3','0.4'"),
        ("reg=null", "reg='none'"),
        ("split=0.5", "split='0.5'"),
        ("loss=bce,focal", "loss=bce,focal"),
        ("split.val_fraction=0.5", "split.val_fraction=0.5"),
        ("reg.lambda=5e-7", "reg.lambda=5e-7"),
    ],
)
def test_options_that_look_like_numbers_are_quoted_and_nothing_else(typed, quoted):
    assert quote_numbers(typed) == quoted


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["reg=l1,l2", "reg.lambda=auto"], ["reg=l1,l2", "reg.lambda=choice(auto)"]),
        (["study=l2", "reg.lambda=1e-4"], ["study=l2", "reg.lambda=choice(1e-4)"]),
        (["reg=l2", "reg.lambda=auto"], ["reg=l2", "reg.lambda=auto"]),
        (["reg=none,l2", "reg.lambda=1,2"], ["reg=none,l2", "reg.lambda=1,2"]),
        (["split='0.2'", "split.val_fraction=0.5"], ["split='0.2'", "split.val_fraction=0.5"]),
        (["-m", "trainer.max_epochs=3", "seed=1", "+reg.lambda=1"], ["-m", "trainer.max_epochs=3", "seed=1", "+reg.lambda=1"]),
    ],
)
def test_in_a_sweep_a_key_that_the_base_may_lack_is_an_axis_and_nothing_else(typed, expected):
    assert as_axes(typed) == expected


@pytest.mark.parametrize("typed", ["split=(", "split", "loss=bce,", "loss=[bce,focal]"])
def test_what_is_no_override_is_refused_by_name(typed):
    with pytest.raises(InputError) as caught:
        quote_numbers(typed)
    assert typed in str(caught.value)


@pytest.mark.parametrize("value", ["0.6", "'0.6'", ".6", "0.60"])
def test_a_share_composes_in_every_form_a_person_types(value):
    assert entry.compose([f"split={value}"]).split.val_fraction == 0.6


def test_help_needs_no_torch_lightning_or_monai():
    code = (
        "import runpy, sys\n"
        "sys.modules |= dict.fromkeys(('torch', 'pytorch_lightning', 'lightning', 'monai', 'torchmetrics'))\n"
        "sys.argv = ['segtune', '--help']\n"
        "runpy.run_module('segtune', run_name='__main__')"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert "loss: bce, bce_dice" in said.stdout


def test_a_verb_that_is_told_to_end_says_so_and_cleans_up(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from segtune.config import entry\n"
        "from segtune.runs.files import new_folder; sys.argv = ['x', 'sweep=a']\n"
        "def task(cfg):\n"
        "    with new_folder(Path('out')):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "entry.entry('status', task)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (143, "segtune: stopped by SIGTERM.\n")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def user_options(tmp_path):
    """A folder with a loss and a share of the user's own; the options known to later tests are segtune's again."""
    for name, text in {
        "loss/mine.yaml": "_target_: lab.mine\n_partial_: true\nk: 2\n",
        "split/0.5.yaml": "val_fraction: 0.5\n",
    }.items():
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / name).write_text(text)
    before = [*_searched]
    yield str(tmp_path / "own")
    _searched[:] = before


@pytest.mark.parametrize(
    ("typed", "taken"),
    [
        (["--cfg", "job"], ["--cfg", "job"]),
        (["-c", "job", "split=0.6"], ["--cfg", "job", "split='0.6'"]),
        (["split=0.6", "-p", "loss", "-c", "job"], ["--cfg", "job", "--package", "loss", "split='0.6'"]),
        (["-ploss", "--cfg=job"], ["--cfg", "job", "--package", "loss"]),
        (["seed=1", "--info", "defaults"], ["--info", "defaults", "seed=1"]),
        (["-i"], ["--info", "all"]),
        (["--config-name", "config", "seed=1"], ["--config-name", "config", "seed=1"]),
        (["seed=1", "-m", "--resolve", "-c", "all"], ["--cfg", "all", "--resolve", "seed=1"]),
        (["--multi", "seed=1"], ["--multirun", "seed=1"]),
        (["~seed"], ["~seed"]),
    ],
)  # fmt: skip
def test_hydras_flags_keep_their_values_wherever_they_stand(typed, taken):
    assert config_overrides.arguments(typed) == taken


def test_the_options_of_the_users_own_folder_are_known(user_options):
    assert config_overrides.arguments(["loss=bce,mine", "loss.k=3", "split=0.50", "-m", "--config-dir", user_options]) == [
        "--multirun", "--config-dir", user_options, "loss=bce,mine", "loss.k=choice(3)", "split='0.5'"
    ]  # fmt: skip
    assert {"mine", "bce"} <= {*groups()["loss"]}
    assert has_key("loss", "mine", "k")
    config_overrides.arguments([f"hydra.searchpath=[file://{user_options}]", "loss=mine"])
    assert "mine" in groups()["loss"]
    config_overrides.arguments(["loss=bce"])
    assert "mine" not in groups()["loss"]


def test_a_sweep_over_the_users_own_options_is_composed(user_options):
    command = ["--config-dir", user_options, "loss=bce,mine", "loss.k=3", "split=0.5", "reg=none", "batch=15", "-m"]
    said = subprocess.run(
        [sys.executable, "-m", "segtune", *command, "dry_run=true"], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    assert re.findall("loss=[a-z.]+ split=[0-9.]+", said.stdout) == ["loss=bce split=0.5", "loss=mine split=0.5"]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("data.root=~/x", "data.root=HOME/x"),
        ("data.root=~", "data.root=HOME"),
        ("outputs='~/out'", "outputs='HOME/out'"),
        ('outputs="~/out"', 'outputs="HOME/out"'),
        ("run=[~/a,~/b]", "run=[HOME/a,HOME/b]"),
        ("run=['~/a', \"~/b\"]", "run=['HOME/a', \"HOME/b\"]"),
        ("data.root=~/a,~/b", "data.root=HOME/a,HOME/b"),
        ("hydra.run.dir=~/r", "hydra.run.dir=HOME/r"),
        ("hydra.launcher.extra={chdir: ~/x}", "hydra.launcher.extra={chdir: HOME/x}"),
        ("data.root=~nobody-of-this-name/x", "data.root=~nobody-of-this-name/x"),
        ("data.root=a~/b", "data.root=a~/b"),
        ("~seed", "~seed"),
    ],
)
def test_a_leading_tilde_is_the_home_folder_in_every_path(typed, expected, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert at_home(typed) == expected.replace("HOME", "/home/someone")


def test_a_tilde_in_a_configuration_is_the_home_folder_for_verbs_and_for_a_runs_identity(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    cfg = entry.compose(["data=rvsc", "data.root='x'", "outputs='y'"])
    cfg.data.root, cfg.outputs = "~/x", "~/out"  # as a YAML of the user's own may have them
    assert entry.plain(cfg)["data"]["reader"]["root"] == "/home/someone/x"
    assert entry.plain(cfg)["outputs"] == "/home/someone/out"
    home = entry.with_home(cfg)
    assert (home.data.root, home.data.reader.root, home.outputs) == ("/home/someone/x", "/home/someone/x", "/home/someone/out")
    with pytest.raises(Exception, match="nothing"):
        _ = home.nothing


def verb(code, *arguments, **env):
    """A verb whose task is this code, in a process of its own."""
    whole = (
        "import errno, os, sys; from pathlib import Path; from segtune.config import entry\n"
        "from segtune.errors import InputError, SummaryError\n"
        f"def task(cfg):\n    {code}\nentry.entry('status', task)"
    )
    return subprocess.run(
        [sys.executable, "-c", whole, *arguments], capture_output=True, text=True, check=False, env=os.environ | env
    )


@pytest.mark.parametrize(("value", "is_shown"), [("0", False), ("", False), ("1", True)])
def test_tracebacks_are_shown_where_hydra_would_show_them(value, is_shown):
    ended = verb("raise InputError('no')", "sweep=a", HYDRA_FULL_ERROR=value)
    assert ended.returncode == 1
    assert ("Traceback" in ended.stderr) == is_shown


def test_a_message_of_several_lines_keeps_them_and_loses_other_control_characters():
    ended = verb("raise SummaryError(['two failed:', '  a\\x1b[31m', '  b\\nc'])", "sweep=a")
    assert ended.stderr == "segtune: two failed:\n  a?[31m\n  b?c\n"
    assert verb("raise InputError('a folder called a\\nb')", "sweep=a").stderr == "segtune: a folder called a?b\n"


@pytest.mark.parametrize("number", ["EFBIG", "ENAMETOOLONG", "ENOSPC", "ELOOP", "EMFILE", "EBUSY", "ENOTEMPTY"])
def test_whatever_a_disk_answers_is_one_sentence_that_names_the_file(number):
    ended = verb(f"raise OSError(errno.{number}, os.strerror(errno.{number}), 'out/x.csv')", "sweep=a")
    assert ended.returncode == 1
    assert ended.stderr.startswith("segtune: out/x.csv: ")
    assert ended.stderr.count("\n") == 1


def test_a_reader_of_the_output_that_has_seen_enough_ends_a_verb_without_a_word():
    code = "import sys; from segtune.config import entry; entry.entry('status', lambda cfg: print('line\\n' * 100_000))"
    command = f'{sys.executable} -c "{code}" sweep=a | head -1; exit ${{PIPESTATUS[0]}}'
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (141, "line\n", "")


def test_a_name_is_a_sweeps_and_no_folder_of_other_results():
    for name in ("lr", "lr-2.b", "2024"):
        rules.check({"name": name})
    for name in ("runs", "evaluate", "../x", ".x", "a/b", "", True):
        with pytest.raises(InputError, match="name="):
            rules.check({"name": name})
