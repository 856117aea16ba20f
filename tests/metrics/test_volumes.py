import math

import numpy as np
import pytest

from segtune.metrics import volumes

NAN = math.nan


def row(value, one_empty=0, both_empty=0):
    return {"dice": value, "n_one_empty": one_empty, "n_both_empty": both_empty}


def test_a_sum_of_discs_by_hand():
    """100 + 200 + 0 pixels of 0.7 x 0.5 mm, 10 mm apart: 300 * 3.5 mm^3."""
    assert volumes.volume_ml([100, 200, 0], spacing_mm=(0.7, 0.5), gap_mm=10) == pytest.approx(1.05)
    assert volumes.volume_ml([0, 0], spacing_mm=(0.7, 0.5), gap_mm=10) == 0


def test_a_ball_of_30_mm_has_its_volume():
    z, y, x = np.ogrid[-40:41:2, -40:41, -40:41]
    areas = (z**2 + y**2 + x**2 < 30**2).sum((1, 2))
    assert volumes.volume_ml(areas.tolist(), spacing_mm=(1, 1), gap_mm=2) == pytest.approx(4 / 3 * math.pi * 27, rel=0.01)


def test_stroke_volume_and_ejection_fraction_by_hand():
    assert volumes.stroke_volume_ml(120, 50) == 70
    assert volumes.ejection_fraction(120, 48) == pytest.approx(0.6)
    assert volumes.ejection_fraction(50, 100) == -1


@pytest.mark.parametrize(("edv", "esv"), [(0, 0), (0, 10), (NAN, 10), (10, NAN)])
def test_ejection_fraction_without_an_end_diastolic_volume_is_undefined(edv, esv):
    assert math.isnan(volumes.ejection_fraction(edv, esv))


def test_a_mean_counts_what_it_leaves_out_and_what_it_punishes():
    rows = [row(0.9), row(0.0, one_empty=1), row(NAN, both_empty=1), row(NAN)]
    assert volumes.mean(rows, "dice") == (pytest.approx(0.45), 2, 1, 1, 2)


@pytest.mark.parametrize("rows", [[], [row(NAN, both_empty=1)]])
def test_the_mean_of_nothing_is_nan_not_0(rows):
    assert math.isnan(volumes.mean(rows, "dice").value)
    assert volumes.mean(rows, "dice").n_undefined == len(rows)


def test_bland_altman_by_hand():
    """Errors -2, 0, 2 and 4: bias 1, variance (9 + 1 + 1 + 9) / 3."""
    found = volumes.bland_altman([98, 50, 72, 84], [100, 50, 70, 80])
    sd = math.sqrt(20 / 3)
    assert found == pytest.approx((1, sd, 1 - 1.96 * sd, 1 + 1.96 * sd, 4, 0))


def test_bland_altman_counts_undefined_pairs():
    assert volumes.bland_altman([1, NAN, 3, 4], [1, 2, NAN, 2])[4:] == (2, 2)


def test_bland_altman_of_one_pair_has_a_bias_and_no_limits_and_of_none_nothing():
    one, none = volumes.bland_altman([5], [3]), volumes.bland_altman([NAN], [3])
    assert one.bias == 2
    assert all(map(math.isnan, (*one[1:4], *none[:4])))
    assert (none.n, none.n_undefined) == (0, 1)
