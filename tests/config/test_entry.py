import os
import re
import subprocess
import sys

import pytest
from hydra.utils import instantiate

from segtune.config import entry, rules
from segtune.config import overrides as config_overrides
from segtune.config.explain import explain
from segtune.config.overrides import _searched, as_axes, at_home, groups, has_key, quote_numbers
from segtune.data import readers, splits
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


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["reg=l1", "reg.lambda=-1"], "reg.lambda=-1: must be a number of at least 0"),
        (["reg=l2", "reg.lambda=nan"], "reg.lambda=nan: must be"),
        (["reg=l2", "reg.lambda=abc"], "reg.lambda=abc: must be"),
        (["reg=l1l2", "reg.lambda_l2=-1"], "reg.lambda_l2=-1: must be"),
        (["reg=l1", "reg.on=some"], "reg.on=some: must be one of kernels, all"),
        (["batch.size=0"], "batch.size=0: must be a whole number of at least 1"),
        (["batch.size=1.5"], "batch.size=1.5: must be a whole number"),
        (["batch.size=true"], "batch.size=True: must be a whole number"),
        (["data=folder", "data.root=x", "data.pixel_mm=1", "data.ed=1.5"], "data.ed=1.5: must be a frame's number, the text"),
        (["data=nnunet", "data.root=x", "data.target=1", "data.es=[]"], "data.es=[]: must be a frame's number, the text"),
        (
            ["data=nnunet", "data.root=x", "data.target=1", "data.ed=2", "data.es=2"],
            "data.ed=2 and data.es=2: ED and ES are",
        ),
        (["data.size=100"], "data.size=100: must be a multiple of 16"),
        (["data.normalize=max"], "data.normalize=max: must be one of zscore, divide255"),
        (["data.target=heart"], "data.target=heart: must be one of endocardium, epicardium"),
        (["split.val_fraction=1"], "split.val_fraction=1: must be a share above 0 and below 1"),
        (["split.by=slice"], "split.by=slice: must be one of patient, kfold, nested, contiguous, image"),
        (["trainer.max_epochs=0"], "trainer.max_epochs=0: must be"),
        (["trainer.devices=2"], "trainer.devices=2: must be 1"),
        (["trainer.threads=0"], "trainer.threads=0: must be"),
        (["seed=-1"], "seed=-1: must be"),
        (["optimizer.lr=0"], "optimizer.lr=0: must be a number above 0"),
        (["scheduler=step", "scheduler.step_size=0"], "scheduler.step_size=0: must be a whole number of at least 1"),
        (["scheduler=step", "scheduler.step_size=x"], "scheduler.step_size=x: must be"),
        (["scheduler=step", "scheduler.gamma=-1"], "scheduler.gamma=-1: must be a number above 0"),
        (["scheduler=step", "scheduler.gamma=x"], "scheduler.gamma=x: must be"),
        (["scheduler=cosine", "scheduler.T_max=0"], "scheduler.T_max=0: must be a whole number of at least 1"),
        (
            ["model=attention_unet", "model.strides=[3,3,3,3]"],
            "model.strides=[3, 3, 3, 3]: must be a list of 4 whole numbers from",
        ),
        (
            ["model=attention_unet", "model.strides=[2,2]"],
            "model.strides=[2, 2]: must be a list of 4 whole numbers from 1 to 2",
        ),
        (["model=attention_unet", "model.channels=[1,1,1,1,1]"], "model.channels=[1, 1, 1, 1, 1]: must be a list of 5 whole"),
        (["model=basic_unet", "model.norm=foo"], "model.norm=foo: must be one of batch, instance"),
        (["trainer.threads=100000"], "trainer.threads=100000: must be a whole number from 1 to 1024"),
        (["+trainer.accumulate_grad_batches=0"], "trainer.accumulate_grad_batches=0: must be"),
        (["+trainer.benchmark=foo"], "trainer.benchmark=foo: must be true or false"),
        (["+trainer.deterministic=foo"], "trainer.deterministic=foo: must be true, false or warn"),
        (["+trainer.gradient_clip_val=-1"], "trainer.gradient_clip_val=-1: must be a number of at least 0"),
        (["loss=focal", "loss.alpha=2"], "loss.alpha=2: must be a number of at least 0 and up to 1"),
    ],
)
def test_values_that_cannot_be_are_refused_by_key(overrides, message):
    config = entry.plain(entry.compose(overrides))
    with pytest.raises(InputError) as caught:  # noqa: PT012 -- either of the two
        rules.check(config)
        readers.check_target(config["data"])
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["split=kfold", "split.fold=99"],
            "split.fold=99: split.n_folds=5 has folds 0 to 4; name those, like split.fold=0,1 -m",
        ),
        (
            ["split=kfold", "study=as_run"],
            "split.by=contiguous goes with split.val_fraction, not with split.fold, split.n_folds: choose a share",
        ),
        (["split=kfold", "study=nested"], "split.by=nested goes with split.val_fraction"),
        (
            ["split.by=kfold"],
            "split.by=kfold goes with split.fold, split.n_folds, not with split.val_fraction: choose split=kfold",
        ),
        (["split=0.1", "study=nested"], "split.val_fraction=0.1: must be at least 0.2 with split.by=nested"),
        (["reg=l2", "reg.lambda=1e-3", "reg.ratio=0.3"], "reg.ratio=0.3 goes with reg.lambda=auto, not with reg.lambda=0.001"),
        (["loss=tversky", "loss.alpha=0", "loss.beta=0"], "loss.alpha=0 with loss.beta=0: the loss is 0 whatever"),
        (["loss=focal_tversky", "loss.gamma=0"], "loss.gamma=0: must be above 0 with loss=focal_tversky"),
        (["study=as_run", "model=basic_unet"], "model.bn_momentum=0.01 (study=as_run has it) goes with model=unet or"),
    ],
)
def test_values_that_cannot_be_beside_each_other_are_refused_by_key(overrides, message):
    config = entry.plain(entry.compose(overrides))
    with pytest.raises(InputError) as caught:  # noqa: PT012 -- either of the two
        rules.check(config)
        readers.check_target(config["data"])
    assert str(caught.value).startswith(message)


def test_the_least_share_of_nested_is_its_test_side():
    assert rules.NESTED_FROM == splits.TEST_FRACTION


def test_the_defaults_and_every_valid_edge_pass():
    for overrides in (
        [],
        ["split=kfold", "split.fold=4"],
        ["split=0.2", "study=nested"],
        ["loss=focal", "loss.gamma=0", "loss.alpha=0"],
        ["loss=tversky", "loss.beta=0"],
        ["loss=tversky", "loss.alpha=0"],
        ["reg=l2", "reg.lambda=auto", "reg.ratio=0.3"],
        ["study=as_run", "model=unet_double"],
        ["loss=focal", "loss.alpha=0.25"],
        ["trainer.devices=[1]"],
        ["reg=l1", "reg.lambda=0"],
        ["data=rvsc", "data.root=x"],
    ):
        rules.check(entry.plain(entry.compose(overrides)))


def explained(*overrides):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever Hydra raises, the sentence is what counts
        entry.plain(entry.compose(overrides))
    return explain(caught.value)


def test_an_unknown_option_lists_the_known_ones_the_nearest_first():
    said = explained("loss=focl")
    assert said.startswith("loss=focl: no such option. Nearest: focal. Known: focal, ")
    assert set(said.partition("Known: ")[2].removesuffix(".").split(", ")) == set(groups()["loss"])
    message = explained("split=0.5")
    assert message.startswith("split=0.5: no such option. Nearest: 0.4. Known: 0.4, 0.6, 0.3,")
    assert "split.val_fraction=" in message
    assert explained("batch=12").startswith("batch=12: no such option. Nearest: 10. Known: 10, 15, 1, patient.")


def test_an_unknown_key_names_the_nearest_ones():
    assert explained("trainer.max_epoch=3").startswith("trainer.max_epoch: no such key. Nearest: trainer.max_epochs")
    assert explained("sed=3").startswith("sed: no such key. Nearest: seed")


def test_a_lambda_without_a_regulariser_is_refused_with_those_that_have_one():
    message = explained("reg=none", "reg.lambda=1e-3")
    assert message == "reg.lambda: the chosen reg has no lambda; only reg=l1, l2. Choose one or leave it out."


def test_a_missing_root_is_asked_for():
    assert explained("data=rvsc") == "data.root has no value: add data.root=... to the command."


def test_a_bug_is_not_explained_away():
    assert explain(ZeroDivisionError("x")) is None


@pytest.mark.parametrize(
    ("override", "words"),
    [("~loss", "a run needs one of loss=bce"), ("=3", "is not of the form key=value"), ("+", "is not of the form")],
)
def test_an_override_that_cannot_be_is_refused(override, words):
    with pytest.raises(InputError, match=words):
        quote_numbers(override)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["outputs="], "outputs=: must be a folder"),
        (["outputs=null"], "must be a folder"),
        (["figures=foo"], "figures=foo: must be true or false"),
        (["data=rvsc", "data.root=5"], "data.root=5: must be a folder"),
        (["on_failure=maybe"], "one of continue, stop"),
        (["seed=-1"], "a whole number from 0 to 4294967295"),
    ],
)
def test_a_setting_that_cannot_be_is_named(overrides, words):
    with pytest.raises(InputError, match=words):
        rules.check(entry.plain(entry.compose(overrides)))


def fails():
    raise TypeError("float() of nothing")


def test_a_bug_in_what_hydra_calls_stays_a_bug_and_a_wrong_argument_is_explained():
    for target, explained in (("test_entry.fails", False), ("test_entry.nothing", True)):
        with pytest.raises(Exception, match=target) as caught:
            instantiate({"_target_": target})
        assert (explain(caught.value) is not None) == explained
    with pytest.raises(Exception, match="unexpected") as caught:
        instantiate({"_target_": "test_entry.fails", "more": 1})
    assert "more" in explain(caught.value)


def test_an_unknown_key_of_another_verb_is_explained_by_its_own_keys():
    with pytest.raises(Exception, match="swep") as caught:
        entry.compose(["swep=x"], config_name="report")
    assert explain(caught.value, "report") == (
        "swep: no such key. Nearest: sweep, claims, run. See python -m segtune.report --help for all."
    )


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
        (["seed=1", "-m", "--resolve", "-c", "all"], ["--cfg", "all", "--resolve", "--multirun", "seed=1"]),
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
    assert re.findall("loss=[a-z.]+ split=[0-9.]+", said.stdout) == ["loss=bce split=0.5", "loss=lab.mine split=0.5"]


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
