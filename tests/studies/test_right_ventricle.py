"""Each of the 16 claims on sweeps where it is true, where it is false, and with a single run per configuration."""

import re

import numpy as np
import pytest

import simulated
from segtune.report import claims, reading
from segtune.report.analysis import Analysis
from segtune.studies import right_ventricle

LOSSES, SHARES = ("bce", "focal", "bce_dice"), (0.2, 0.4, 0.6, 0.8)
pytestmark = pytest.mark.slow


class World:
    """Writes runs on 16 patients, `seeds` of them for each configuration."""

    def __init__(self, root, seeds):
        self.root, self.seeds, self.random, self.runs = root, seeds, np.random.default_rng(0), []
        self.effects = self.random.normal(0, 0.05, len(simulated.PATIENTS))

    def cell(self, dice=0.7, *, norm=None, run_sd=0.004, residual_sd=0.01, curve=None, jitter=0.0, **settings):
        for seed in range(self.seeds):
            config = simulated.config(seed=seed, **settings)
            values = simulated.scores(dice, self.random, effects=self.effects, run_sd=run_sd, residual_sd=residual_sd)
            shape = {name: value * (1 + self.random.normal(0, jitter)) for name, value in (curve or {}).items()}
            columns = simulated.curves(config["trainer"]["max_epochs"], last=dice, **shape)
            self.runs.append((simulated.write_run(self.root, config, values, columns, norm=norm, pictures=False), []))

    def verdict(self, number):
        sweep = reading.read([simulated.write_sweep(self.root, "planted", self.runs)])
        return next(one for one in Analysis(sweep, right_ventricle.STUDY).verdicts if one.claim.number == number)


def batch_size(w, true):
    for batch, rough in ((15, 0.02), (10, 0.2)):
        w.cell(batch=batch, share=0.1, epochs=5, curve={"rough": rough if true else 0.22 - rough}, jitter=0.01)


def short_run(w, true):
    for loss in LOSSES:
        w.cell(loss=loss, epochs=100, curve={"dice_settles": 10 if true else 90}, jitter=0.02)


def share_matters(w, true):
    for share, dice in zip(SHARES, (0.75, 0.72, 0.5, 0.4) if true else (0.5, 0.5, 0.6, 0.65), strict=True):
        w.cell(dice, loss="bce", by="nested", share=share)


def fluctuation(w, true):
    for share in SHARES:
        w.cell(loss="bce", by="nested", share=share, curve={"rough": 0.3 * (share if true else 1 - share)}, jitter=0.03)


def focal(w, true):
    for loss, share in ((loss, share) for loss in LOSSES for share in SHARES):
        low = (loss == "focal") == true
        w.cell(0.6 if low else 0.75, loss=loss, share=share, curve={"rough_dice": 0.005 if low else 0.05}, jitter=0.02)


def decay(w, true):
    for share in SHARES:
        true_curve, false_curve = {"spread": 2 * share, "first_loss": 1.5}, {"spread": 0.0, "first_loss": 1 + 2 * share}
        w.cell(loss="focal", share=share, curve=true_curve if true else false_curve, jitter=0.01)


def best_loss(w, true):
    for loss, share in ((loss, share) for loss in LOSSES for share in SHARES):
        bad = not true and share == 0.6
        w.cell({"bce": 0.6, "focal": 0.62, "bce_dice": 0.5 if bad else 0.75}[loss], loss=loss, share=share)


def overfits(w, true):
    for share, gap in ((0.2, 0.25), (0.4, 0.1)) if true else ((0.2, 0.1), (0.4, 0.25)):
        w.cell(by="nested", share=share, curve={"gap": gap}, jitter=0.01)


def collapse(w, true):
    w.cell(0.75, share=0.4, norm=40.0)
    for value in (0.01, 0.1):
        w.cell(0.3 if true else 0.85, share=0.4, l2=value, norm=5.0 if true else 60.0)


def faster(w, true):
    w.cell(share=0.4, curve={"reach": 9 if true else 3})
    for value in (0.0005, 0.00075, 0.001):
        w.cell(share=0.4, l2=value, curve={"reach": 3 if true else 9})


def small_lambda(w, true):
    w.cell(0.7, share=0.4, run_sd=0.001, residual_sd=0.003)
    w.cell(0.7 if true else 0.6, share=0.4, l2=0.00005, run_sd=0.001, residual_sd=0.003)


def magnitude(w, true):
    for value, dice in ((0.1, 0.4), (0.001, 0.8), (0.00001, 0.6)):
        w.cell(dice, share=0.4, l2=value, curve={"ratio": value * (1000 if true else 1e6)}, jitter=0.05)


def lambda1(w, true):
    w.cell(0.7, share=0.4, norm=40.0, curve={"reach": 9 if true else 3})
    for value in (0.005, 0.1):
        w.cell(0.2 if true else 0.8, share=0.4, l1=value, norm=3.0 if true else 60.0)
    w.cell(0.7, share=0.4, l1=5e-7, norm=40.0, curve={"reach": 3 if true else 9})


def unreliable(w, true):
    for share in SHARES:
        wide = (share > 0.5) == true
        w.cell(0.6, loss="bce", by="nested", share=share, run_sd=0.15 if wide else 0.0005)


def saturates(w, true):
    for loss in LOSSES:
        w.cell(loss=loss, epochs=60, curve={"loss_settles": 20, "dice_settles": 20 if true else 50}, jitter=0.01)


def patient_batches(w, true):
    w.cell(0.7, batch=15, run_sd=0.001)
    w.cell(0.75 if true else 0.6, batch="patient", run_sd=0.001)


PLANTED = (batch_size, short_run, share_matters, fluctuation, focal, decay, best_loss, overfits, collapse, faster, small_lambda,
           magnitude, lambda1, unreliable, saturates, patient_batches)  # fmt: skip
ALL = [pytest.param(number, plant, id=f"{number}_{plant.__name__}") for number, plant in enumerate(PLANTED, start=1)]


@pytest.mark.parametrize(("number", "plant"), ALL)
def test_a_claim_that_is_planted_true_is_supported(number, plant, tmp_path):
    world = World(tmp_path, seeds=3 if plant is not unreliable else 5)
    plant(world, True)
    assert (found := world.verdict(number)).verdict == claims.SUPPORTED, found.why


@pytest.mark.parametrize(("number", "plant"), ALL)
def test_a_claim_that_is_planted_false_is_contradicted(number, plant, tmp_path):
    world = World(tmp_path, seeds=3 if plant is not unreliable else 5)
    plant(world, False)
    assert (found := world.verdict(number)).verdict == claims.CONTRADICTED, found.why


@pytest.mark.parametrize(("number", "plant"), ALL)
def test_a_single_run_of_each_cell_leaves_a_claim_undecided_and_says_why(number, plant, tmp_path):
    world = World(tmp_path, seeds=1)
    plant(world, True)
    found = world.verdict(number)
    assert found.verdict == claims.UNDECIDED
    assert re.search(r"\b1 seed\b.*\b3\b", found.why)


def test_a_run_that_stops_early_has_not_reached_its_dice_sooner(tmp_path):
    world = World(tmp_path, seeds=3)
    world.cell(share=0.4, epochs=15, curve={"reach": 9})
    for value in (0.0005, 0.00075, 0.001):
        for seed in range(3):
            config = simulated.config(seed=seed, share=0.4, l2=value)
            columns = simulated.curves(5, last=0.3)
            world.runs.append((simulated.write_run(tmp_path, config, simulated.scores(0.3, world.random), columns), []))
    assert world.verdict(10).verdict == claims.CONTRADICTED


def test_a_claim_without_its_cells_names_them_and_the_study_that_has_them(tmp_path):
    world = World(tmp_path, seeds=3)
    world.cell()
    for number in (3, 4, 8, 14):  # a claim on training sizes is not decided on splits whose test patients differ
        for share in SHARES:
            world.cell(loss="bce", share=share)
        found = world.verdict(number)
        assert found.verdict == claims.UNDECIDED
        assert "nested" in found.why
        assert found.claim.study == "study=nested"


def test_the_table_at_the_head_has_a_row_for_every_claim():
    rows = [line for line in (right_ventricle.__doc__ or "").splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert [int(row.split("|")[1]) for row in rows] == [claim.number for claim in right_ventricle.CLAIMS] == list(range(1, 17))
    assert all(row.count("|") == 7 for row in rows)


def test_the_published_curves_are_found_for_the_configurations_they_match():
    facts = reading.facts_of({"config": simulated.config(loss="bce", share=0.8)})
    assert len(right_ventricle.published(facts)["val_dice"]) == 15
    assert max(right_ventricle.published(facts)["val_dice"]) == pytest.approx(0.363, abs=5e-4)
    assert right_ventricle.published(reading.facts_of({"config": simulated.config(share=0.4, l2=0.1)})) is not None
    assert right_ventricle.published(reading.facts_of({"config": simulated.config(loss="focal")})) is None
