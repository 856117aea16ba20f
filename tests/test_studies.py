"""The named studies: what they hold, and that each of them runs."""

import functools
import subprocess
import sys

import hydra
import pytest
from omegaconf import OmegaConf

from segtune.config import entry, overrides
from segtune.config.composing import Composer
from segtune.runs import identity
from segtune.runs.result import is_done
from segtune.runs.sweep import read_sweep
from segtune.sweeps import plan

STUDIES = {  # name -> number of runs
    **{"batch_size": 2, "losses": 11, "l2": 12, "l1": 6, "l1l2": 1, "published": 32, "as_run": 31},
    **{"claims": 220, "nested": 150, "spread": 70, "replicated": 45, "leak": 18, "long": 30, "patient_batches": 100},
    **{"grid": 72, "demo": 15, "strong": 15, "recipe": 10, "ablation": 35, "augment_epochs": 40},
}
PARTS = ("batch_size", "losses", "l2", "l1", "l1l2")


@functools.cache
def configs(study):
    """Every run of a study as a plain configuration, by its id."""
    grids = OmegaConf.load(overrides.CONF / "study" / f"{study}.yaml").hydra.sweeper.grids
    jobs = plan.combinations(grids, [])
    with hydra.initialize_config_dir(str(overrides.CONF), version_base="1.3"):
        composer = Composer(lambda asked: hydra.compose("config", asked, return_hydra_config=True))
        composed = [entry.plain(composer([f"study={study}", *job]).cfg) for job in jobs]
    return {identity.run_id(config): config for config in composed}


def cells(study):
    """(loss, split, penalty and lambdas, batch, epochs) of each run."""
    found = []
    for config in configs(study).values():
        axes = identity.axes(config)
        found.append((axes["loss"], axes["split"], axes["reg"], axes["batch"], config["trainer"]["max_epochs"]))
    return found


PUBLISHED = [  # the study's table, by hand
    *[("bce_dice", "0.1", "none", batch, 5) for batch in ("10", "15")],
    *[(loss, share, "none", "15", 15) for loss in ("bce", "focal") for share in ("0.2", "0.4", "0.6", "0.8")],
    *[("bce_dice", "0.2", "none", "15", 15), ("bce_dice", "0.8", "none", "15", 15), ("bce_dice", "0.4", "none", "15", 10)],
    *[("bce_dice", "0.4", f"l2({strength})", "15", 10) for strength in ("0.1", "0.01", "0.001", "0.0005", "5e-05")],
    *[("focal", "0.3", "l2(0.01)", "15", 5), ("focal", "0.3", "l2(0.001)", "15", 5)],
    *[("focal", "0.3", "l2(0.0001)", "15", 15), ("focal", "0.3", "l2(1e-05)", "15", 15)],
    *[("bce_dice", "0.4", f"l1({strength})", "15", 10) for strength in ("0.1", "0.005", "0.001", "0.0005", "5e-05")],
    ("bce_dice", "0.4", "l1l2(5e-05,0.001)", "15", 15),
    *[("bce_dice", share, "l2(0.001)", "15", 15) for share in ("0.2", "0.6", "0.8")],
    ("bce_dice", "0.2", "l1(0.01)", "15", 5),
]


@pytest.mark.slow
def test_published_is_the_study_s_table_of_32_runs():
    assert sorted(cells("published")) == sorted(PUBLISHED)
    assert len(set(PUBLISHED)) == 32


@pytest.mark.slow
def test_published_is_its_parts_together():
    parts = [set(configs(study)) for study in PARTS]
    assert set.union(*parts) == set(configs("published"))
    assert sum(map(len, parts)) == 32


@pytest.mark.slow
def test_as_run_is_the_same_table_at_a_batch_of_one_with_the_notebook_s_settings():
    expected = {(loss.replace("bce_dice", "bce_logdice"), share, reg, "1", epochs) for loss, share, reg, _, epochs in PUBLISHED}
    assert sorted(cells("as_run")) == sorted(expected)
    for config in configs("as_run").values():
        assert (config["split"]["by"], config["batch"]["shuffle"], config["data"]["normalize"]) == (
            "contiguous",
            False,
            "divide255",
        )
        assert (config["data"]["masks"], config["model"]["bn_momentum"], config["optimizer"]["eps"]) == ("pil", 0.01, 1e-7)
        assert config["optimizer"]["_target_"] == "segtune.optimizers.keras_adam"


def test_as_run_without_a_sweep_is_one_of_its_runs():
    one = entry.plain(entry.compose(["study=as_run"]))
    assert identity.run_id(one) in configs("as_run")
    assert entry.compose(["study=as_run", "loss=focal"]).loss.gamma == 2


@pytest.mark.parametrize(
    "study", [name if name in ("l2", "grid") else pytest.param(name, marks=pytest.mark.slow) for name in STUDIES]
)
def test_a_study_has_as_many_runs_as_it_says(study):
    assert len(configs(study)) == STUDIES[study]


def test_every_named_study_is_known_here():
    assert {*STUDIES, "none"} == set(overrides.groups()["study"])


@pytest.mark.parametrize(
    ("study", "replicates"),
    [("claims", {10, 20}), ("nested", {10}), ("spread", {10}), ("long", {10}), ("patient_batches", {10})],
)
def test_a_study_of_claims_replicates_every_cell(study, replicates):
    by_cell = {}
    for config in configs(study).values():
        by_cell.setdefault(identity.cell_id(config), set()).add((config["seed"], config["split"].get("fold")))
    assert {len(of) for of in by_cell.values()} == replicates


@pytest.mark.parametrize("study", ["nested", "spread"])
def test_smaller_training_sets_also_get_as_many_updates(study):
    trained = {}  # share of all images that train -> epochs
    for config in configs(study).values():
        if identity.axes(config)["loss"] == "bce":
            trained.setdefault(round(1 - config["split"]["val_fraction"], 1), set()).add(config["trainer"]["max_epochs"])
    assert trained == {0.8: {15}, 0.6: {15, 20}, 0.4: {15, 30}, 0.2: {15, 60}}


def test_replicates_are_seeds_and_folds_and_never_a_hyper_parameter():
    assert len({identity.cell_id(config) for config in configs("replicated").values()}) == 3
    assert len({identity.cell_id(config) for config in configs("nested").values()}) == 15


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """One folder for all studies: a run that one has done is done for the others."""
    return tmp_path_factory.mktemp("studies")


@pytest.mark.slow
@pytest.mark.parametrize("study", sorted({*STUDIES} - {"grid"}))
def test_a_study_runs_to_its_end_at_tiny_size(study, outputs):
    """One seed, two folds where all runs have folds, one epoch or ten steps each. The grid's 72 runs are only composed."""
    in_steps = study in ("strong", "recipe", "ablation", "augment_epochs", "demo")
    tiny = ["data.size=32", "data.n_patients=10", "model.width=2", "trainer.threads=1", "seed=0"]
    tiny += ["trainer.max_steps=10", "scheduler.warmup_steps=2"] if in_steps else ["trainer.max_epochs=1"]
    tiny += ["split.fold=0,1"] if in_steps or study in ("nested", "long", "patient_batches", "replicated") else []
    command = [sys.executable, "-m", "segtune", f"study={study}", *tiny, "figures=false", f"outputs={outputs}", "-m"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    runs = read_sweep(outputs / study)["runs"]
    assert len({run["run_id"] for run in runs}) == len(runs) >= min(2, STUDIES[study])
    assert all(is_done(outputs / "runs" / run["run_id"], run["run_id"]) for run in runs)


@pytest.mark.slow
def test_a_single_value_for_a_key_of_the_options_that_the_grid_chooses_holds_in_every_run():
    command = [sys.executable, "-m", "segtune", "study=l2", "reg.lambda=auto", "dry_run=true", "-m"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("reg.lambda=auto") == 6
