"""Critical values against published tables and SciPy."""

import numpy as np
import pytest
import scipy.stats

from segtune.report import quantiles


@pytest.mark.parametrize(  # Dunnett 1955, table 1a: one-sided 95 % points of p treatments against a control
    ("n_others", "df", "expected"),
    [(1, 5, 2.02), (2, 5, 2.44), (9, 5, 3.30), (2, 10, 2.15), (4, 10, 2.47), (9, 20, 2.60), (3, 60, 2.10), (9, 1e9, 2.42)],
)
def test_dunnett_s_points_are_the_published_ones(n_others, df, expected):
    assert float(quantiles.dunnett(n_others, np.array(float(df)), 0.05)) == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize("df", [1.0, 3.0, 7.5, 40.0])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 3])
def test_with_one_other_dunnett_is_student_s_t(df, alpha):
    assert float(quantiles.dunnett(1, np.array(df), alpha)) == pytest.approx(scipy.stats.t.isf(alpha, df), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "df"), [(2, 3.0), (3, 1.0), (3, 1.5), (12, 4.0), (12, 33.3), (72, 30.0)])
def test_the_studentized_range_is_scipy_s(n, df):
    assert float(quantiles.studentized_range(n, np.array(df), 0.05)) == pytest.approx(
        scipy.stats.studentized_range.ppf(0.95, n, df), rel=1e-4
    )


def test_degrees_of_freedom_may_have_any_shape_and_those_below_one_count_as_one():
    found = quantiles.dunnett(3, np.array([[0.2, 1.0], [5.0, np.inf]]), 0.05)
    assert found.shape == (2, 2)
    assert found[0, 0] == found[0, 1] > found[1, 0] > found[1, 1]


@pytest.mark.parametrize("n", [2, 100, 1000])
def test_many_configurations_have_larger_points_and_no_warning(n):
    few, many = (float(quantiles.dunnett(k, np.array(20.0), 0.05)) for k in (1, n))
    assert few < many < 10
    assert float(quantiles.studentized_range(n, np.array(20.0), 0.05)) < 15
