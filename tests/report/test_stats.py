"""Estimates and tests against planted truth, algebra and scipy."""

import itertools
import math
import re

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests

from segtune.report import curves, scores, stats, variation
from segtune.report.scores import Block, Scores

PATIENTS = tuple(f"P{number:02}" for number in range(16))


def cell(random, mean=0.7, *, run_sd=0.01, residual_sd=0.05, seeds=3, effects=0.0, patients=PATIENTS, pooled=scores.UNLIKE):
    values = mean + effects + random.normal(0, run_sd, (seeds, 1)) + random.normal(0, residual_sd, (seeds, len(patients)))
    return Scores((Block(patients, values),), pooled)


def sweep(random, means=(0.7, 0.7, 0.7), **settings):
    """Configurations on the same patients that share their variance between runs, as in a report."""
    effects = random.normal(0, 0.1, len(PATIENTS))
    cells = [cell(random, mean, effects=effects, **settings) for mean in means]
    pooled = scores.pool(cells)
    return [Scores(one.blocks, pooled) for one in cells]


def pairs(cells):
    return [stats.contrast([one], [other]) for one, other in itertools.combinations(cells, 2)]


def test_one_fold_is_the_two_way_analysis_of_variance():
    random = np.random.default_rng(0)
    one, other = cell(random, 0.8, run_sd=0.1), cell(random, 0.7, run_sd=0.1)
    found = stats.contrast([one], [other])
    a, b = one.blocks[0].values, other.blocks[0].values
    difference = a.mean(0) - b.mean(0)
    assert found.value == pytest.approx(difference.mean(), abs=1e-15)
    variance = difference.var(ddof=1) / 16
    for y in (a, b):
        rest = y - y.mean(1, keepdims=True) - y.mean(0) + y.mean()
        variance += (y.mean(1).var(ddof=1) - (rest**2).sum() / (2 * 15) / 16) / 3
    half = (found.high - found.low) / 2
    df = scipy.stats.t.ppf(0.975, np.arange(1, 100)) * math.sqrt(variance)
    assert df[-1] < half < df[0]  # that variance, with some degrees of freedom
    assert found.p_patient == scipy.stats.wilcoxon(difference, method="exact").pvalue
    welch = scipy.stats.ttest_ind(a.mean(1), b.mean(1), equal_var=False)
    assert found.p_run == pytest.approx(welch.pvalue, rel=1e-9)


def test_folds_of_one_patient_give_the_t_interval_over_patients():
    values = np.random.default_rng(0).normal(0.7, 0.1, (8, 3))
    found = stats.mean(Scores(tuple(Block((f"P{i}",), values[i][:, None]) for i in range(8))))
    means = values.mean(1)
    interval = scipy.stats.t.interval(0.95, 7, means.mean(), scipy.stats.sem(means))
    assert (found.low, found.high) == pytest.approx(interval, rel=1e-12)
    assert found.run_variance


def test_only_patients_that_both_have_scored_count():
    random = np.random.default_rng(0)
    few, many = cell(random, patients=PATIENTS[:7]), cell(random)
    found = stats.contrast([few], [many])
    shared = few.blocks[0].values.mean(0) - many.blocks[0].values[:, :7].mean(0)
    assert (found.n_patients, found.value) == (7, pytest.approx(shared.mean(), abs=1e-15))
    assert stats.contrast([few], [cell(random, patients=("Q1", "Q2"))]).n_runs == 0


def test_a_cell_in_several_pairs_counts_its_runs_once():
    random = np.random.default_rng(0)
    strong, none = [cell(random, 0.7, run_sd=0.05) for _ in range(3)], cell(random, 0.6, run_sd=0.05)
    found = stats.contrast(strong, [none] * 3)
    assert (found.n_runs, found.n_seeds) == (12, 3)
    means = [one.blocks[0].values.mean(1) for one in strong]
    variance = sum(of.var(ddof=1) / 27 for of in means) + none.blocks[0].values.mean(1).var(ddof=1) / 3
    t = found.value / math.sqrt(variance)
    assert scipy.stats.t.sf(t, 2) * 2 > found.p_run > scipy.stats.t.sf(t, 8) * 2


@pytest.mark.slow
@pytest.mark.parametrize("run_sd", [0.0, 0.01, 0.03])
def test_intervals_cover_and_no_difference_is_declared_where_there_is_none(run_sd):
    """16 patients, 3 seeds, residual sd 0.05, 3 configurations; the standard error of a coverage in 1,500 sweeps is 0.6 %."""
    random, n = np.random.default_rng(0), 1500
    means = differences = declared = 0
    for _ in range(n):
        cells = sweep(random, run_sd=run_sd)
        mean, found = stats.mean(cells[0]), pairs(cells)
        means += mean.low <= 0.7 <= mean.high
        differences += np.mean([one.low <= 0 <= one.high for one in found])
        declared += min(stats.holm([one.p for one in found])) < stats.ALPHA
    print(f"run sd {run_sd}: covered {means / n:.3f} (mean), {differences / n:.3f} (difference); declared {declared / n:.3f}")
    assert 0.93 <= means / n <= 0.97
    assert 0.93 <= differences / n <= 0.97
    assert declared / n <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize(("sds", "n"), [((0.005, 0.02, 0.15), 400), ((0.005, 0.02, 0.15) * 4, 100)])
def test_unlike_variances_of_runs_are_not_pooled_into_false_differences(sds, n):
    """Sweeps without an effect in which every third configuration is noisy."""
    random, declared = np.random.default_rng(2), 0
    for _ in range(n):
        cells = [cell(random, run_sd=sd) for sd in sds]
        pooled = scores.pool(cells)
        declared += min(stats.holm([one.p for one in pairs([Scores(one.blocks, pooled) for one in cells])])) < stats.ALPHA
    print(f"{len(sds)} cells, run sd {sorted(set(sds))}: declared {declared / n:.3f} of {n} sweeps")
    assert declared / n <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / n)


def test_variances_between_runs_are_pooled_where_they_are_alike_and_only_there():
    random = np.random.default_rng(3)
    blocks = [Block(PATIENTS, np.array([[0.5], [0.52], [0.54]]) + random.normal(0, 1e-4, (3, 16))) for _ in range(12)]
    alike = scores.pool([Scores((block,)) for block in blocks])
    assert alike.df == 24
    assert alike.variance == pytest.approx(0.02**2, rel=0.05)
    assert scores.pool([cell(random, run_sd=sd) for sd in (0.001, 0.01, 0.1)]) == scores.UNLIKE
    assert scores.pool([cell(random, seeds=1) for _ in range(20)]) == scores.UNLIKE
    one, other = (Scores((block,), alike) for block in blocks[:2])
    assert stats.contrast([one], [other]).p_run == pytest.approx(
        2 * scipy.stats.t.sf(abs(stats.contrast([one], [other]).value) / math.sqrt(2 * alike.variance / 3), 24), rel=1e-9
    )


@pytest.mark.parametrize(
    ("seeds", "patients", "words"),
    [(1, 16, r"\b1 seed\b.*\b3\b"), (2, 16, r"\b2 seeds\b"), (3, 5, r"\b5 patients\b.*\b0\.062\b")],
)
def test_too_few_seeds_or_patients_are_named_as_the_limit(seeds, patients, words):
    random = np.random.default_rng(0)
    settings = {"seeds": seeds, "patients": PATIENTS[:patients], "residual_sd": 0.001}
    found = stats.contrast([cell(random, 0.9, **settings)], [cell(random, 0.2, **settings)])
    assert re.search(words, found.limit())
    assert not found.within(10)
    assert found.value == pytest.approx(0.7, abs=0.05)


def test_six_patients_and_three_seeds_can_be_told_apart():
    random = np.random.default_rng(0)
    settings = {"patients": PATIENTS[:6], "residual_sd": 0.001}
    found = stats.contrast([cell(random, 0.9, **settings)], [cell(random, 0.2, **settings)])
    assert found.limit() == ""
    assert found.p == 2 / 2**6


def test_equivalence_needs_the_whole_interval_inside_the_margin():
    random = np.random.default_rng(0)
    same = [cell(random, 0.7, run_sd=0.0005, residual_sd=0.002) for _ in range(2)]
    assert stats.contrast([same[0]], [same[1]]).within(0.01)
    assert not stats.contrast([cell(random)], [cell(random)]).within(0.001)


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
    assert found.p_run == pytest.approx(welch.pvalue, rel=1e-12)
    assert (found.low, found.high) == pytest.approx(tuple(welch.confidence_interval()), rel=1e-12)
    against = stats.run_contrast([(1.0, a)], null=4.0)
    assert against.p_run == pytest.approx(scipy.stats.ttest_1samp(a, 4.0).pvalue, rel=1e-12)


def test_equal_counts_are_not_taken_for_certain():
    found = stats.run_contrast([(1.0, np.array([5.0, 5.0, 5.0])), (-1.0, np.array([5.0, 5.0, 6.0]))], resolution=1.0)
    assert found.low < 0 < found.high
    assert found.p_run > 0.05


def test_slope_is_least_squares_over_the_whole_range():
    x = np.repeat([0.2, 0.4, 0.8], 3)
    y = 0.1 + 0.5 * x + np.random.default_rng(0).normal(0, 0.01, 9)
    found, fit = stats.slope(x, y, 3), scipy.stats.linregress(x, y)
    assert found.value == pytest.approx(0.6 * fit.slope)
    assert found.p_run == pytest.approx(fit.pvalue, rel=1e-9)


def test_spread_ratio_is_the_f_test_of_pooled_variances():
    random = np.random.default_rng(0)
    wide, narrow = [random.normal(5, 1.0, 4) for _ in range(2)], [random.normal(0, 0.1, 4)]
    found = stats.spread_ratio(wide, narrow)
    ratio = np.mean([of.var(ddof=1) for of in wide]) / narrow[0].var(ddof=1)
    assert found.value == pytest.approx(math.log(ratio) / 2)
    assert found.p_run == pytest.approx(2 * scipy.stats.f.sf(ratio, 6, 3))


def test_eta_squared_is_the_planted_one_on_a_table_without_noise():
    a, b, c = (
        {"x": -0.1, "y": 0.0, "z": 0.1},
        {"u": 0.03, "v": -0.03},
        {("x", "u"): 0.01, ("x", "v"): -0.01, ("y", "u"): -0.01, ("y", "v"): 0.01},
    )
    grid = list(itertools.product(a, b, range(2)))
    values = [0.5 + a[i] + b[j] + c.get((i, j), 0.0) for i, j, _ in grid]
    found = {row[0]: row[1:] for row in variation.decompose({"a": [g[0] for g in grid], "b": [g[1] for g in grid]}, values)}
    squares = {"a": 4 * 0.02, "b": 12 * 0.03**2, "a x b": 8 * 0.01**2, "residual": 0.0}
    for name, planted in squares.items():
        assert found[name][1] == pytest.approx(planted, abs=1e-12)
        assert found[name][2] == pytest.approx(planted / sum(squares.values()), abs=1e-9)
    assert [found[name][0] for name in squares] == [2, 1, 2, 6]


def test_shares_of_the_variance_add_up_in_three_axes():
    random = np.random.default_rng(0)
    grid = list(itertools.product("abc", "uv", "xyz", range(2)))
    rows = variation.decompose({name: [g[i] for g in grid] for i, name in enumerate("ABC")}, random.random(len(grid)))
    assert len(rows) == 8
    assert sum(row[3] for row in rows) == pytest.approx(1, abs=1e-12)
    assert sum(row[1] for row in rows) == len(grid) - 1


@pytest.mark.parametrize("drop", [1, 2])
def test_what_is_no_full_grid_is_not_decomposed(drop):
    assert (
        variation.decompose({"a": list("xxyy")[drop:], "b": list("uvuv")[drop:]}, [1.0, 2.0, 3.0, 4.0][drop:]) in (None, [])
        or drop == 2
    )


def test_ranks_are_stable_where_cells_are_far_apart_and_not_where_they_are_alike():
    random = np.random.default_rng(0)
    far = [cell(random, mean, residual_sd=0.01) for mean in (0.9, 0.5, 0.1)]
    first, limits = variation.rank_stability(far, seed=0)
    assert list(first) == [1, 0, 0]
    assert limits.tolist() == [[1, 1], [2, 2], [3, 3]]
    alike, _ = variation.rank_stability([cell(random, 0.5, residual_sd=0.3) for _ in range(3)], seed=0)
    assert alike.sum() == pytest.approx(1)
    assert alike.max() < 1
    again, _ = variation.rank_stability(far, seed=0)
    assert list(again) == list(first)


def test_power_grows_with_the_effect_and_is_none_where_nothing_can_be_declared():
    settings = {"pooled": scores.UNLIKE, "seed": 0}
    few = [variation.power(0.04, 0.01, 16, 3, 3, effect=effect, **settings) for effect in (0.0, 0.05, 0.2)]
    assert few[0] < 0.05 < few[1] < few[2]
    assert (
        variation.power(0.04, 0.01, 5, 3, 3, effect=0.5, **settings)
        == variation.power(0.04, 0.01, 16, 1, 3, effect=0.5, **settings)
        == 0
    )


def test_power_is_what_simulated_sweeps_declare():
    random, n, declared = np.random.default_rng(4), 300, 0
    for _ in range(n):
        one, other = cell(random, 0.75), cell(random, 0.7)
        declared += stats.contrast([one], [other]).p < stats.ALPHA
    print(f"a true 0.05 between two cells is declared in {declared / n:.2f} of {n} sweeps")
    claimed = variation.power(0.05 * math.sqrt(2 / 3), 0.01, 16, 3, 1, effect=0.05, pooled=scores.UNLIKE, seed=0)
    assert claimed == pytest.approx(declared / n, abs=0.09)


def test_curves_have_the_roughness_and_the_epochs_that_were_planted():
    assert curves.roughness([0, 1, 0, 1]) == 2
    assert curves.roughness([0.0, 0.5, 1.0]) == 0
    assert math.isnan(curves.roughness([1.0, 1.0, 1.0]))
    assert math.isnan(curves.roughness([0, 1]))
    assert curves.epochs_to([0.1, 0.5, 0.9], 0.5) == 2
    assert curves.epochs_to([0.1, 0.5], 0.6) == 3
    assert curves.settled([1.0, 0.5, 0.01, 0.0]) == 3
    assert curves.settled([0.3, 0.3]) == 1
