"""Estimates, decisions and sources of variance against planted truth, algebra and scipy.

`pytest -s tests/report/test_stats.py` prints a short form of benchmarks/statistics.py.
"""

import itertools
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import worlds
from segtune.report import curves, decisions, differences, stats, variation
from segtune.report.scores import Block, Scores
from segtune.report.winner import honest_score

PATIENTS = tuple(f"P{number:02}" for number in range(16))


def cell(random, mean=0.7, *, run_sd=0.01, residual_sd=0.05, seeds=3, effects=0.0, patients=PATIENTS):
    values = mean + effects + random.normal(0, run_sd, (seeds, 1)) + random.normal(0, residual_sd, (seeds, len(patients)))
    return Scores((Block(patients, values),))


def in_folds(values):
    """Scores in cross-validation. Args: values: for each fold (S runs, P patients)."""
    return Scores(tuple(Block(tuple(f"F{k}P{i}" for i in range(of.shape[1])), of, k) for k, of in enumerate(values)))


# Estimates


def test_one_split_is_the_crossed_analysis_of_variance():
    random = np.random.default_rng(0)
    one, other = cell(random, 0.8, run_sd=0.1), cell(random, 0.7, run_sd=0.1)
    found = stats.contrast([one], [other])
    a, b = one.blocks[0].values, other.blocks[0].values
    difference = a.mean(0) - b.mean(0)
    assert found.value == pytest.approx(difference.mean(), abs=1e-15)
    x = difference.var(ddof=1) / 16
    r = [y.mean(1).var(ddof=1) / 3 for y in (a, b)]
    e = sum(((y - y.mean(1, keepdims=True) - y.mean(0) + y.mean()) ** 2).sum() / (2 * 15) / 16 / 3 for y in (a, b))
    variance = max(x + sum(r) - e, x, sum(r))
    df = variance**2 / (sum(v**2 / 2 for v in r) + x**2 / 15)
    expected = scipy.stats.t.interval(0.95, df, difference.mean(), math.sqrt(variance))
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-9)
    assert found.p == pytest.approx(2 * scipy.stats.t.sf(found.value / math.sqrt(variance), df), rel=1e-9)
    of_pair = differences.of_runs([a, b])
    assert of_pair.own_variance[0, 1] == pytest.approx(variance, rel=1e-9)
    assert of_pair.own_df[0, 1] == pytest.approx(df, rel=1e-9)


def test_in_cross_validation_the_fold_is_the_unit():
    random = np.random.default_rng(0)
    one, other = ([random.normal(0.7, 0.05, (3, n)) for n in (4, 3, 3, 3, 3)] for _ in range(2))
    found = stats.contrast([in_folds(one)], [in_folds(other)])
    of_fold = np.array([a.mean() - b.mean() for a, b in zip(one, other, strict=True)])
    weights = np.array([4, 3, 3, 3, 3]) / 16
    error = math.sqrt(of_fold.var(ddof=1) * (weights**2).sum())
    assert found.value == pytest.approx(of_fold @ weights, abs=1e-15)
    assert found.p == pytest.approx(2 * scipy.stats.t.sf(abs(found.value) / error, 4), rel=1e-9)
    assert (found.n_folds, found.n_patients, found.n_seeds, found.limit()) == (5, 16, 3, "")


def test_an_interval_of_a_dice_stays_between_0_and_1():
    found = stats.mean(Scores((Block(("a", "b", "c"), np.array([[0.5, 0.99, 0.99]])),)))
    assert 0 <= found.low < found.value < found.high == 1
    assert not found.run_variance


def test_only_patients_that_both_have_scored_count():
    random = np.random.default_rng(0)
    few, many = cell(random, patients=PATIENTS[:7]), cell(random)
    found = stats.contrast([few], [many])
    shared = few.blocks[0].values.mean(0) - many.blocks[0].values[:, :7].mean(0)
    assert (found.n_patients, found.value) == (7, pytest.approx(shared.mean(), abs=1e-15))
    assert stats.contrast([few], [cell(random, patients=("Q1", "Q2"))]).n_runs == 0


@pytest.mark.parametrize(
    ("seeds", "patients", "words"),
    [
        (1, 16, ("4 more seeds",)),
        (5, 5, ("3 more validation patients",)),
        (3, 5, ("2 more seeds", "3 more validation patients")),
    ],
)
def test_everything_that_is_missing_for_a_verdict_is_named_at_once(seeds, patients, words):
    random = np.random.default_rng(0)
    settings = {"seeds": seeds, "patients": PATIENTS[:patients], "residual_sd": 0.001}
    found = stats.contrast([cell(random, 0.9, **settings)], [cell(random, 0.2, **settings)])
    assert all(one in found.limit() for one in words)
    assert len(found.limit().split(" and ")) == len(words)
    assert math.isnan(found.testable_p)
    assert not found.within(10)
    folds = stats.contrast([in_folds(random.random((4, 1, 3)))], [in_folds(random.random((4, 1, 3)))])
    assert re.search(r"\b1 more fold\b", folds.limit())


def test_equivalence_needs_the_whole_interval_inside_the_margin():
    random = np.random.default_rng(0)
    same = [cell(random, 0.7, run_sd=0.0005, residual_sd=0.002, seeds=5) for _ in range(2)]
    assert stats.contrast([same[0]], [same[1]]).within(0.01)
    assert not stats.contrast([cell(random, seeds=5)], [cell(random, seeds=5)]).within(0.001)


# Decisions


def test_the_floor_is_the_median_variance_less_what_chance_explains():
    own = np.array([1.0, 2.0, 8.0])
    least = 2 / (scipy.stats.chi2.median(4) / 4)
    assert differences.floored(own, np.full(3, 4.0)) == pytest.approx(np.maximum(own, least), rel=1e-12)


def test_shukla_s_variance_finds_the_noisy_configuration():
    random = np.random.default_rng(0)
    table = random.normal(0, 0.1, 400) + random.normal(size=(4, 400)) * np.array([[0.2], [0.02], [0.02], [0.02]])
    found = differences.of_folds(table, np.full(400, 1 / 400), n_patients=400, n_runs=1)
    assert 400 * found.variance[0, 1] == pytest.approx(0.2**2 + 0.02**2, rel=0.2)
    assert 400 * found.variance[1, 2] == pytest.approx(2 * 0.02**2, rel=0.5)
    assert 400 * found.own_variance[1, 2] == pytest.approx((table[1] - table[2]).var(ddof=1), rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "loud", "fold_sd", "quiet_sd"), [(5, 2, 0.3, 0.01), (5, 2, 0.1, 0.02), (7, 3, 0.1, 0.01)])
def test_noisy_configurations_in_folds_do_not_make_the_others_certain(n, loud, fold_sd, quiet_sd):
    """Shukla's variances of the quiet ones are far off here: alone, they lose the best in up to 35 % of sweeps."""
    random, sweeps, lost, false = np.random.default_rng(0), 500, 0, 0
    sd = np.r_[np.full(n - loud, quiet_sd), np.full(loud, fold_sd)]
    for _ in range(sweeps):
        table = random.normal(0.7, 0.1, 5) + random.normal(size=(n, 5)) * sd[:, None]
        decided = decisions.decide(differences.of_folds(table, np.full(5, 0.2), n_patients=5, n_runs=1))
        lost += not decided.may_be_best[0]
        false += bool(decided.worse.any())
    assert max(lost, false) / sweeps <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / sweeps)


def test_two_configurations_in_folds_are_a_paired_t_test():
    table = np.random.default_rng(0).random((2, 5))
    found = differences.of_folds(table, np.full(5, 0.2), n_patients=5, n_runs=1)
    t = (found.means[0] - found.means[1]) / math.sqrt(found.variance[0, 1])
    assert t == pytest.approx(scipy.stats.ttest_rel(*table).statistic, rel=1e-9)
    assert found.df[0, 1] == 4


def test_one_run_drops_nothing_and_three_patients_and_runs_call_nothing_clear():
    random = np.random.default_rng(0)
    far = [np.full((1, 9), mean) + random.normal(0, 0.001, (1, 9)) for mean in (0.9, 0.1)]
    assert decisions.decide(differences.of_runs(far)).may_be_best.all()
    few = [np.full((3, 3), mean) + random.normal(0, 0.001, (3, 3)) for mean in (0.9, 0.1)]
    found = decisions.decide(differences.of_runs(few))
    assert found.may_be_best.tolist() == [True, False]
    assert not found.worse.any()


def test_blind_no_more_on_the_studys_own_patients():
    """Dice 0.10 and 0.15 against 0.85, five seeds, on the validation sides that 16 patients have."""
    random = np.random.default_rng(0)
    for patients in (3, 6, 9, 12):
        means = np.r_[0.85, np.full(9, 0.83), 0.15, 0.10]
        scores = worlds.runs("B", random, patients=patients) - 0.7 + means[:, None, None]
        found = decisions.decide(differences.of_runs(list(scores)))
        assert not found.may_be_best[10:].any()
        assert found.worse[10:, 0].all() == (patients >= 8)


def test_several_looks_and_configurations_that_left_make_a_verdict_stricter():
    scores = list(worlds.runs("B", np.random.default_rng(1), n=4, best=0.08))
    found = differences.of_runs(scores)
    sizes = [
        decisions.decide(found, alpha=alpha, n_configurations=n).may_be_best.sum()
        for alpha, n in ((0.05, 4), (0.05, 60), (0.0005, 60))
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


@pytest.mark.slow
@pytest.mark.parametrize("world", worlds.WORLDS)
def test_the_best_is_seldom_lost_and_clear_differences_are_seldom_false(world):
    """12 equal configurations, 500 sweeps for each size; the limit is 5 % plus two Monte Carlo standard errors."""
    n = 500
    for seeds, patients in ((3, 3), (3, 9), (3, 16), (5, 9), (5, 16), (10, 30)):
        random, lost, false = np.random.default_rng([seeds, patients]), 0, 0
        for turn in range(n):
            found = differences.of_runs(list(worlds.runs(world, random, seeds=seeds, patients=patients, turn=turn % 3)))
            decided = decisions.decide(found)
            lost += not decided.may_be_best[0]
            false += bool(decided.worse.any())
        print(f"world {world}, {seeds} seeds, {patients} patients: best lost {lost / n:.3f}, false clear {false / n:.3f}")
        assert max(lost, false) / n <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / n)


@pytest.mark.slow
@pytest.mark.parametrize(("world", "least"), [("A", 0.98), ("B", 0.89), ("C", 0.47), ("D", 0.26), ("G", 0.27)])
def test_a_difference_of_a_tenth_is_seen(world, least):
    """The share of 11 worse configurations that leave the set, at 16 patients and 5 seeds."""
    random, n = np.random.default_rng(0), 600
    left = np.mean(
        [
            1
            - decisions.decide(differences.of_runs(list(worlds.runs(world, random, best=0.1, turn=i % 3))))
            .may_be_best[1:]
            .mean()
            for i in range(n)
        ]
    )
    print(f"world {world}: power {left:.3f} in {n} sweeps")
    assert left >= least - 2 * math.sqrt(least * (1 - least) / n)


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3, 12])
def test_folds_keep_their_promise_with_several_patients_in_each(n):
    sweeps = 500
    for n_folds, seeds, patients, fold_sd, noisy in ((5, 1, 10, 0.05, False), (5, 3, 4, 0.0, False), (10, 1, 20, 0.03, True)):
        random, lost, false, covered = np.random.default_rng([n_folds, seeds]), 0, 0, []
        for _ in range(sweeps):
            settings = {"seeds": seeds, "patients": patients, "fold_sd": fold_sd, "noisy": noisy}
            table = worlds.folds(random, n=n, n_folds=n_folds, **settings)
            found = differences.of_folds(table, np.full(n_folds, 1 / n_folds), n_patients=n_folds, n_runs=seeds)
            decided = decisions.decide(found)
            lost += not decided.may_be_best[0]
            false += bool(decided.worse.any())
            half = scipy.stats.t.ppf(0.975, found.own_df) * np.sqrt(found.own_variance)
            covered.append((np.abs(found.means[:, None] - found.means) <= half)[np.triu_indices(n, 1)].mean())
        print(f"{n} configurations, {n_folds} x {seeds}: lost {lost / sweeps:.3f}, false {false / sweeps:.3f}, "
              f"covered {np.mean(covered):.3f}")  # fmt: skip
        assert max(lost, false) / sweeps <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / sweeps)
        assert 0.93 - 0.02 <= np.mean(covered) <= 0.97 + 0.01


@pytest.mark.slow
def test_a_run_that_moves_a_little_changes_at_most_one_verdict_on_the_others():
    random, n, changed = np.random.default_rng(0), 300, 0
    for _ in range(n):
        scores = worlds.runs("A", random) + random.choice([0, 0.05, 0.1], 12)[:, None, None]
        moved, one = scores.copy(), random.integers(12)
        moved[one, random.integers(5)] += random.choice([-0.02, 0.02])
        others = np.arange(12) != one
        before, after = (decisions.decide(differences.of_runs(list(of))) for of in (scores, moved))
        pairs = (before.worse != after.worse)[np.ix_(others, others)].sum()
        changed += max((before.may_be_best != after.may_be_best)[others].sum(), pairs) > 1
    print(f"more than one verdict changes in {changed / n:.3f} of {n} sweeps")
    assert changed / n <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("world", ["A", "B", "G"])
def test_the_honest_score_of_a_winner_is_not_optimistic(world):
    random, naive, honest = np.random.default_rng(0), [], []
    for _ in range(300):
        scores = worlds.runs(world, random, patients=9)
        found = honest_score([Scores((Block(PATIENTS[:9], of),)) for of in scores], seed=0, n=200)
        naive.append(found.naive - 0.7)
        honest.append(found.score - 0.7)
    print(f"world {world}: naive {np.mean(naive):+.4f}, honest {np.mean(honest):+.4f}")
    assert np.mean(naive) > 0.01
    assert np.mean(honest) <= 0.005 + 2 * np.std(honest) / math.sqrt(300)


def test_an_honest_score_repeats_itself_and_needs_runs_and_patients():
    scores = [Scores((Block(PATIENTS[:4], of),)) for of in worlds.runs("B", np.random.default_rng(0), n=3, patients=4)]
    assert honest_score(scores, seed=0) == honest_score(scores, seed=0)
    assert honest_score(scores[:1], seed=0) is None
    assert honest_score([Scores((Block(PATIENTS[:4], one.blocks[0].values[:2]),)) for one in scores], seed=0) is None
    table = np.random.default_rng(0).random((3, 5, 1, 2))
    assert honest_score([in_folds(of) for of in table], seed=0).score < 1


# Quantities of a run, and families of tests


@pytest.mark.slow  # importing statsmodels takes seconds
@pytest.mark.parametrize("n", [1, 2, 7, 60])
def test_holm_agrees_with_statsmodels_to_the_bit(n):
    for p in np.random.default_rng(n).random((20, n)) ** 3:
        p[: n // 3] = p[0]  # ties
        assert stats.holm(p) == multipletests(p, 0.05, "holm")[1].tolist()


def test_holm_is_holm_and_what_is_not_tested_is_not_of_the_family():
    assert stats.holm([0.01, math.nan, 0.04, 0.03]) == pytest.approx([0.03, math.nan, 0.06, 0.06], nan_ok=True)
    assert np.isnan(stats.holm([math.nan])).all()


def test_run_contrast_is_welch_and_tests_against_its_null():
    a, b = np.array([3.0, 4.0, 6.0]), np.array([1.0, 2.0, 2.5, 1.5])
    found = stats.run_contrast([(1.0, a), (-1.0, b)])
    welch = scipy.stats.ttest_ind(a, b, equal_var=False)
    assert found.p == pytest.approx(welch.pvalue, rel=1e-12)
    assert (found.low, found.high) == pytest.approx(tuple(welch.confidence_interval()), rel=1e-12)
    against = stats.run_contrast([(1.0, a)], null=4.0)
    assert against.p == pytest.approx(scipy.stats.ttest_1samp(a, 4.0).pvalue, rel=1e-12)


def test_equal_counts_are_not_taken_for_certain():
    found = stats.run_contrast([(1.0, np.array([5.0, 5.0, 5.0])), (-1.0, np.array([5.0, 5.0, 6.0]))], resolution=1.0)
    assert found.low < 0 < found.high
    assert found.p > 0.05


# Sources of variance


class Configuration:
    """What variation.decompose needs of a configuration: its scores."""

    def __init__(self, values, fold=None):
        self.scores = Scores((Block(tuple(map(str, range(values.shape[1]))), values, fold),))


def test_sums_of_squares_are_the_planted_ones_on_a_table_without_noise():
    a, b = {"x": -0.1, "y": 0.0, "z": 0.1}, {"u": 0.03, "v": -0.03}
    patients = np.array([0.2, 0.0, -0.2])
    grid = list(itertools.product(a, b))
    cells = [Configuration(0.5 + a[i] + b[j] + np.tile(patients, (2, 1))) for i, j in grid]
    found = {one.name: one for one in variation.decompose({"a": [g[0] for g in grid], "b": [g[1] for g in grid]}, cells)}
    planted = {"a": 12 * 0.02, "b": 36 * 0.03**2, "a x b": 0.0, "patients": 12 * 0.08, "runs": 0.0, "residual": 0.0}
    assert {name: one.sum_of_squares for name, one in found.items()} == pytest.approx(planted, abs=1e-12)
    assert {name: one.df for name, one in found.items()} == {
        "a": 2, "b": 1, "a x b": 2, "patients": 2, "runs": 6, "residual": 22
    }  # fmt: skip
    total = sum(planted.values())
    assert found["a"].omega_squared == pytest.approx(planted["a"] / total, abs=1e-9)


def test_noise_has_no_source():
    """The share of the largest axis was 57 % of the variance of pure noise; less what chance gives, it is about nothing."""
    random, grid, found = np.random.default_rng(0), list(itertools.product("abc", "uvwx")), []
    levels = {"A": [g[0] for g in grid], "B": [g[1] for g in grid]}
    for _ in range(200):
        cells = [Configuration(random.normal(0, 0.05, (3, 1)) + random.normal(0, 0.05, (3, 6))) for _ in grid]
        found.append(max(one.omega_squared for one in variation.decompose(levels, cells) if one.name in ("A", "B", "A x B")))
    assert np.median(found) < 0.05


def test_one_run_each_leaves_the_share_of_chance_unknown():
    random, grid = np.random.default_rng(0), list(itertools.product("ab", "uv"))
    levels = {"A": [g[0] for g in grid], "B": [g[1] for g in grid]}
    single = variation.decompose(levels, [Configuration(random.random((1, 6))) for _ in grid])
    assert all(math.isnan(one.omega_squared) for one in single)

    class InFolds:
        def __init__(self):
            self.scores = in_folds(random.random((5, 1, 2)))

    folds = {one.name: one for one in variation.decompose(levels, [InFolds() for _ in grid])}
    assert math.isfinite(folds["A"].omega_squared)
    assert (folds["folds"].df, folds["residual"].df) == (4, 12)


def test_what_is_no_full_grid_is_not_decomposed():
    random = np.random.default_rng(0)
    cells = [Configuration(random.random((2, 4))) for _ in range(3)]
    assert variation.decompose({"a": list("xxy"), "b": list("uvu")}, cells) == []
    unlike = [*cells[:2], Configuration(random.random((3, 4)))]
    assert variation.decompose({"a": list("xyz")}, unlike) == []


def test_curves_have_the_roughness_and_the_epochs_that_were_planted():
    assert curves.roughness([0, 1, 0, 1]) == 2
    assert curves.roughness([0.0, 0.5, 1.0]) == 0
    assert math.isnan(curves.roughness([1.0, 1.0, 1.0]))
    assert math.isnan(curves.roughness([0, 1]))
    assert curves.epochs_to([0.1, 0.5, 0.9], 0.5) == 2
    assert curves.epochs_to([0.1, 0.5], 0.6) == 3
    assert curves.settled([1.0, 0.5, 0.01, 0.0]) == 3
    assert curves.settled([0.3, 0.3]) == 1
