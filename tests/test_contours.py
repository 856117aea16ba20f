from pathlib import Path

import numpy as np
import pytest

from segtune.data import contours
from segtune.errors import InputError

SUNNYBROOK = Path(__file__).resolve().parents[2] / "shared" / "data" / "sunnybrook" / "contourfiles"


def ellipse(x, y, a, b, n=470):
    t = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.stack([x + a * np.cos(t), y + b * np.sin(t)], axis=1)


def test_the_centre_of_the_first_pixel_is_0_0():
    square = np.array([(1.5, 0.5), (3.5, 0.5), (3.5, 2.5), (1.5, 2.5)])
    expected = np.zeros((5, 5), dtype=bool)
    expected[1:3, 2:4] = True  # rows 1, 2 (y) and columns 2, 3 (x)
    assert np.array_equal(contours.mask(square, (5, 5)), expected)


def test_a_disc_of_141_pixels_has_about_as_many():
    """Where a polygon drawn by PIL has 166 with its outline and 116 without."""
    disc = ellipse(20.2, 20.3, 6.7, 6.7)
    assert contours.area(disc) == pytest.approx(141, abs=0.1)
    assert abs(contours.mask(disc, (40, 40)).sum() - 141) <= 2


def test_areas_are_unbiased_and_within_1_percent_for_smooth_contours():
    generator = np.random.default_rng(0)
    ratios = []
    for _ in range(200):
        contour = ellipse(*generator.uniform(60, 68, 2), *generator.uniform(15, 40, 2))
        ratios.append(contours.mask(contour, (128, 128)).sum() / contours.area(contour))
    assert np.mean(ratios) == pytest.approx(1, abs=5e-4)
    assert np.abs(np.array(ratios) - 1).max() < 0.01


def test_closed_and_open_contours_and_both_directions_give_the_same_mask():
    contour = ellipse(20.2, 20.3, 9, 5)
    expected = contours.mask(contour, (40, 40))
    assert np.array_equal(contours.mask(np.vstack([contour, contour[:1]]), (40, 40)), expected)
    assert np.array_equal(contours.mask(contour[::-1], (40, 40)), expected)
    assert contours.area(np.vstack([contour, contour[:1]])) == pytest.approx(contours.area(contour))


def test_shoelace_by_hand():
    assert contours.area(np.array([(1000.0, 0.0), (1004.0, 0.0), (1004.0, 3.0)])) == pytest.approx(6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 1\n2 2\n", "at least 3 different points, this one has 2"),
        ("1 1\n5 1\n1 1\n", "at least 3 different points, this one has 2"),
        ("", "at least 3 different points, this one has 0"),
        ("1 1\n5 1\n5 nan\n", "line 3: '5 nan' is not a point"),
        ("1 1\n5 1\n5 inf\n", "line 3: '5 inf' is not a point"),
        ("1 1\nfive 1\n5 5\n", "line 2: 'five 1' is not a point"),
        ("1 1\n5 1 7\n5 5\n", "line 2: '5 1 7' is not a point"),
        ("\x89PNG\n", "line 1"),
    ],
)
def test_bad_contour_files_are_refused_by_name_and_line(tmp_path, text, message):
    path = tmp_path / "P01-0020-icontour-manual.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"P01-0020-icontour-manual.txt.*{message}"):
        contours.read(path)


def test_reads_crlf_commas_and_blank_lines(tmp_path):
    path = tmp_path / "contour.txt"
    path.write_bytes(b"1.5 2\r\n3,4\r\n\r\n 5  6 \r\n")
    assert contours.read(path).tolist() == [[1.5, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize("shift", [(-40, 0), (0, -40), (40, 0), (0, 40)])
def test_a_contour_outside_the_image_is_refused(shift):
    with pytest.raises(InputError, match="lies outside the image"):
        contours.mask(ellipse(20, 20, 9, 5) + shift, (40, 40))


def test_a_contour_without_a_pixel_centre_is_refused():
    with pytest.raises(InputError, match="encloses no pixel centre"):
        contours.mask(ellipse(20.5, 20.5, 0.3, 0.3), (40, 40))


def test_a_centre_on_the_edge_counts_once():
    """Two squares side by side share an edge of centres: each centre belongs to one of them."""
    left, right = (np.array([(x, 2.0), (x + 4, 2.0), (x + 4, 6.0), (x, 6.0)]) for x in (1.0, 5.0))
    first, second = contours.mask(left, (9, 12)), contours.mask(right, (9, 12))
    assert (first.sum(), second.sum()) == (16, 16)
    assert not (first & second).any()
    assert np.array_equal(np.argwhere(first)[0], [2, 1])


@pytest.mark.skipif(not SUNNYBROOK.is_dir(), reason="the real contours are not part of the project")
def test_real_contours_over_100_pixels_keep_their_area():
    found = [contours.read(path) for path in sorted(SUNNYBROOK.rglob("*.txt"))]
    areas = np.array([contours.area(contour) for contour in found])
    ratios = np.array([contours.mask(contour, (256, 256)).sum() for contour in found])[areas > 100] / areas[areas > 100]
    assert len(ratios) == 140
    assert ratios.mean() == pytest.approx(1, abs=0.001)
    assert (abs(ratios - 1) <= 0.01).mean() > 0.98  # the centre test can do no better: its steps are whole pixels
    assert abs(ratios - 1).max() < 0.015
