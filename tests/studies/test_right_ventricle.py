"""Each of the 16 claims in worlds where it is true, false and neither, with the validation patients that 16 patients allow."""

import math
import re

import numpy as np
import pytest

import claim_worlds
import simulated
from segtune.data import splits
from segtune.report import claims, reading
from segtune.report.analysis import Analysis
from segtune.studies import right_ventricle
from segtune.studies.contrasts import log_rank

ALL = [pytest.param(number, id=f"{number}_{plant.__name__}") for number, plant in claim_worlds.PLANTS.items()]
FAMILY = len(right_ventricle.CLAIMS)


@pytest.mark.parametrize(("by", "share", "n_folds", "expected"), [
    *[("patient", share, None, {n}) for share, n in ((0.2, 3), (0.4, 6), (0.6, 10), (0.8, 13))],
    ("nested", 0.8, None, {3}),
    ("nested", 0.8, 5, {3, 4}),
    ("kfold", 0.2, 10, {1, 2}),
])  # fmt: skip
def test_the_worlds_have_as_many_validation_patients_as_real_splits_of_16(by, share, n_folds, expected):
    folds = range(n_folds) if n_folds else [None]
    assert {len(claim_worlds.sides(by, share, n_folds, fold)[1]) for fold in folds} == expected


@pytest.mark.parametrize("number", ALL)
def test_a_true_claim_is_supported_even_as_one_of_16(number):
    found = claim_worlds.judged(number, 1)
    assert found.verdict == claims.SUPPORTED, found.why
    assert found.p < 0.05 / FAMILY or not found.found.has_differences


@pytest.mark.parametrize("number", ALL)
def test_the_opposite_of_a_claim_contradicts_it(number):
    found = claim_worlds.judged(number, -1)
    assert found.verdict == claims.CONTRADICTED, found.why


@pytest.mark.slow
@pytest.mark.parametrize("number", ALL)
def test_a_claim_is_decided_where_its_effect_is_large_and_is_rarely_false(number):
    n = 200
    true, neither, opposite = (claim_worlds.rates(number, effect, n) for effect in (1, 0, -1))
    false = neither[claims.SUPPORTED] + neither["declared"]
    print(f"claim {number}: {n} worlds each. True: {dict(true)}. Neither: {dict(neither)}. Opposite: {dict(opposite)}.")
    assert true[claims.SUPPORTED] >= 0.9 * n
    assert opposite[claims.CONTRADICTED] >= 0.9 * n
    assert true[claims.CONTRADICTED] + opposite[claims.SUPPORTED] == 0
    assert false <= (0.05 + 2 * math.sqrt(0.05 * 0.95 / n)) * n


@pytest.mark.parametrize("number", ALL)
def test_a_single_run_of_each_configuration_leaves_a_claim_undecided_and_says_why(number):
    found = claim_worlds.judged(number, 1, replicates=1)
    assert found.verdict == claims.UNDECIDED
    assert re.search(r"\b(3|5|10)\b.*(needed|seeds)|two seeds|all nested folds", found.why)


def test_noisier_validation_curves_alone_do_not_support_claim_6():
    for seed in range(20):
        world = claim_worlds.World(seed)
        for share in claim_worlds.SHARES:
            noisy = claim_worlds.noise("val_loss", 0.3)
            world.cell(loss="focal", share=share, by="nested", folds=5, seeds=2, columns=noisy)
        assert (found := world.verdict(6)).verdict == claims.UNDECIDED or found.p > 0.05 / FAMILY


def test_claims_on_training_sizes_need_an_arm_with_as_many_updates():
    world = claim_worlds.World(0)
    for share in claim_worlds.SHARES:
        world.cell(0.9 - 0.6 * share, loss="bce", by="nested", share=share, folds=5, seeds=2)
    found = world.verdict(3)
    assert found.verdict == claims.UNDECIDED
    assert "bce, nested, at 80 % with 60 epochs (equal updates)" in found.why
    world = claim_worlds.World(0)  # steps, not images, make the difference
    for share, epochs in [(share, 15) for share in claim_worlds.SHARES] + [(0.4, 20), (0.6, 30), (0.8, 60)]:
        dice = 0.9 - 0.6 * share if epochs == 15 else 0.78
        world.cell(dice, loss="bce", by="nested", share=share, epochs=epochs, folds=5, seeds=2)
    assert world.verdict(3).verdict != claims.SUPPORTED


def test_the_gap_of_claim_8_is_measured_on_the_same_patients():
    world = claim_worlds.World(0)
    for share, gap in ((0.2, 0.25), (0.4, 0.1)):
        world.cell(share=share, seeds=5, curve={"gap": gap})
    found = world.verdict(8)
    assert found.verdict == claims.UNDECIDED
    assert "nested" in found.why


def test_one_patient_per_batch_that_equals_15_shuffled_images_contradicts_claim_16():
    world = claim_worlds.World(0, calm=12)
    for batch in (15, "patient"):
        world.cell(0.7, batch=batch, by="kfold", folds=10, run_sd=0.01)
    assert world.verdict(16).verdict == claims.CONTRADICTED


def test_fewer_images_per_patient_need_as_many_updates_in_claim_16():
    world = claim_worlds.World(0)
    for images in (8, 15):
        for batch in (8, 15):
            dice = 0.6 + 0.2 * (batch == images)
            world.cell(dice, batch=batch, by="kfold", folds=10, split__images_per_patient=images)
    found = world.verdict(16)
    assert found.verdict == claims.UNDECIDED
    assert "split.images_per_patient" in found.why


def test_a_run_that_stops_early_has_not_reached_its_dice_sooner():
    world = claim_worlds.World(0)
    world.cell(0.7, curve={"reach": 9}, seeds=2, **claim_worlds.FOLDS)

    def stop(random, columns):
        columns |= {name: values[:5] for name, values in columns.items()}

    for value in (0.0005, 0.00075, 0.001):
        world.cell(0.3, l2=value, columns=stop, seeds=2, **claim_worlds.FOLDS)
    assert world.verdict(10).verdict == claims.CONTRADICTED


def test_a_lambda_that_may_be_the_best_and_is_far_from_the_loss_leaves_claim_12_undecided():
    world = claim_worlds.World(0)
    world.cell(0.5, **claim_worlds.FOLDS)
    for value, ratio in ((0.001, 1.0), (0.0005, 0.001)):
        world.cell(0.8, l2=value, curve={"ratio": ratio}, **claim_worlds.FOLDS)
    assert world.verdict(12).verdict == claims.UNDECIDED


def test_curves_that_do_not_settle_are_censored_in_claim_15():
    for dice, expected in ((98, claims.CONTRADICTED), (20, claims.SUPPORTED)):
        world = claim_worlds.World(0)
        world.cell(epochs=100, by="kfold", folds=10, curve={"loss_settles": 20, "dice_settles": dice})
        assert world.verdict(15).verdict == expected
    world = claim_worlds.World(0)
    world.cell(epochs=100, by="kfold", folds=10, curve={"loss_settles": 99, "dice_settles": 99})
    assert world.verdict(15).verdict == claims.UNDECIDED


def test_each_claim_is_one_member_of_the_family():
    world = claim_worlds.World(0)
    claim_worlds.PLANTS[7](world, 1)  # eight tests
    judged = claims.verdicts(right_ventricle.CLAIMS, world.cells)
    tested = [one for one in judged if math.isfinite(one.p)]
    best_loss = next(one for one in judged if one.claim.number == 7)
    assert best_loss.p == max(test.p for test in best_loss.found.tests)
    assert best_loss.p_holm <= len(tested) * best_loss.p + 1e-12
    assert [row["p_holm"] for row in claims.claim_rows(best_loss)] == [best_loss.p_holm] * 8


def test_the_log_rank_test_is_an_exact_permutation_test_that_counts_what_never_happens():
    early, late = np.array([3.0, 4, 4, 3]), np.array([8.0, 9, 9, 7])
    assert log_rank(early, late, 15) == log_rank(late, early, 15) == pytest.approx(2 / math.comb(8, 4))
    never = np.full(5, 16.0)
    assert log_rank(never, never, 15) == 1.0
    assert log_rank(np.arange(1.0, 12), np.full(11, 16.0), 15) < 1e-3  # by the normal approximation
    random = np.random.default_rng(0)
    p = [log_rank(*random.integers(3, 12, (2, 6)).astype(float), 9) for _ in range(400)]
    assert np.mean(np.array(p) < 0.05) <= 0.07


def test_claims_are_judged_from_files(tmp_path):
    effects, runs = np.random.default_rng(0), []
    for l2, dice, norm in ((0.0, 0.7, 40.0), (0.01, 0.3, 5.0), (0.1, 0.3, 5.0)):
        for fold in range(5):
            config = simulated.config(by="nested", share=0.4, l2=l2, fold=fold, n_folds=5)
            side = splits.nested(claim_worlds.IMAGES, val_fraction=0.4, seed=0, n_folds=5, fold=fold).val
            patients = sorted({claim_worlds.IMAGES[i] for i in side})
            values = simulated.scores(dice, effects, patients=patients)
            columns = simulated.curves(15, last=dice)
            own = norm * math.exp(effects.normal(0, 0.02))
            runs.append((simulated.write_run(tmp_path, config, values, columns, norm=own, pictures=False), []))
    sweep = reading.read([simulated.write_sweep(tmp_path, "claims", runs)])
    found = {one.claim.number: one for one in Analysis(sweep, right_ventricle.STUDY).verdicts}
    assert found[9].verdict == claims.SUPPORTED, found[9].why
    assert found[9].found.tests[0].estimate.n_folds == 5
    assert found[3].verdict == claims.UNDECIDED
    assert "nested" in found[3].why


def test_a_claim_without_its_cells_names_them_and_the_study_that_has_them():
    world = claim_worlds.World(0)
    for share in claim_worlds.SHARES:
        world.cell(loss="bce", share=share, seeds=3)
    for number, study in ((3, "nested"), (4, "nested"), (6, "nested"), (8, "nested"), (14, "spread")):
        found = world.verdict(number)  # a claim on training sizes is not decided on splits whose test patients differ
        assert found.verdict == claims.UNDECIDED
        assert "nested" in found.why
        assert found.claim.study == f"study={study}"


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
