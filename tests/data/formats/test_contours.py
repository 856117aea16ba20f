from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw

from segtune.data import phantom
from segtune.data.formats import contours
from segtune.errors import InputError

SUNNYBROOK = Path(__file__).resolve().parents[4] / "shared" / "data" / "sunnybrook" / "contourfiles"


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
        ("1 1\n2 2\n", r": .*\b3\b.*\bpoints\b.*\b2\b"),
        ("1 1\n5 1\n1 1\n", r": .*\b3\b.*\bpoints\b.*\b2\b"),
        ("", r": .*\b3\b.*\bpoints\b.*\b0\b"),
        ("1 1\n5 1\n5 nan\n", ", line 3: '5 nan'"),
        ("1 1\n5 1\n5 inf\n", ", line 3: '5 inf'"),
        ("1 1\nfive 1\n5 5\n", ", line 2: 'five 1'"),
        ("1 1\n5 1 7\n5 5\n", ", line 2: '5 1 7'"),
        ("1 1 _\n5 1\n5 5\n", ", line 1: '1 1 _'"),
        ("1 1\n5 \u0661\n5 5\n", ", line 2: '5 \u0661'"),
        ("1 1\n5 1\n5 -1e7\n", ", line 3: '5 -1e7'.*`x y`"),
        ("".join(f"{n} {n % 7}\n" for n in range(10_001)), r": .*\b10001 points\b.*\b10000\b"),
        (" " * (2**20 + 1), r": .*\b1 MiB\b"),
        ("\x89PNG\n", ", line 1: "),
        (
            "1 1\n5 1\n5 5\n\n11 1\n15 1\n15 5\n",
            r", line 5: .*\bsecond\b.*\bempty line\b",
        ),
        ("\n1 1\n5 1\n5 5\n1 1\n11 1\n15 1\n15 5\n", r", line 6: .*\bline 5\b.*\bsecond\b"),
        ("1 1\n5 1\n5 5\n" * 2, r", line 5: .*\bline 4\b.*\bsecond\b"),
        ("1 1\n5 1\n5 5\nend\n", ", line 4: 'end'"),
    ],
)
def test_bad_contour_files_are_refused_by_name_and_line(tmp_path, text, message):
    path = tmp_path / "P01-0020-icontour-manual.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=f"P01-0020-icontour-manual.txt{message}"):
        contours.read(path)


def test_reads_crlf_commas_and_blank_lines(tmp_path):
    path = tmp_path / "contour.txt"
    path.write_bytes(b"1.5 2\r\n3,4\r\n\r\n 5  6 \r\n")
    assert contours.read(path).tolist() == [[1.5, 2], [3, 4], [5, 6]]


def test_a_contour_with_an_empty_line_after_each_point_or_closed_twice_is_one(tmp_path):
    path = tmp_path / "contour.txt"
    path.write_bytes(b"1 1\r\r\n5 1\r\r\n5 5\r\r\n1 5\r\r\n")
    assert len(contours.read(path)) == 4
    path.write_text("1 1\n1 1\n5 1\n5 5\n5 5\n1 5\n1 1\n1 1\n")
    assert contours.mask(contours.read(path), (8, 8)).sum() == 16


@pytest.mark.parametrize("rasterise", contours.RASTERISERS.values())
@pytest.mark.parametrize("shift", [(-40, 0), (0, -40), (40, 0), (0, 40)])
def test_a_contour_outside_the_image_is_refused(rasterise, shift):
    with pytest.raises(InputError, match=r"\boutside\b.*\b40 columns\b"):
        rasterise(ellipse(20, 20, 9, 5) + shift, (40, 40))


def test_a_contour_without_a_pixel_centre_is_refused():
    with pytest.raises(InputError, match=r"\bcentre\b"):
        contours.mask(ellipse(20.5, 20.5, 0.3, 0.3), (40, 40))


def test_a_pil_mask_has_the_outline_and_no_decimals():
    painted = contours.mask_pil(np.array([(1.9, 0.9), (3.2, 0.9), (3.2, 2.7), (1.9, 2.7)]), (5, 6))
    expected = np.zeros((5, 6), dtype=bool)
    expected[0:3, 1:4] = True  # rows 0 to 2 (y) and columns 1 to 3 (x): both ends belong
    assert np.array_equal(painted, expected)


def test_a_disc_of_141_pixels_has_166_as_pil_draws_it():
    disc = ellipse(20.2, 20.3, 6.7, 6.7)
    canvas = Image.new("L", (48, 40))
    ImageDraw.Draw(canvas).polygon([tuple(point) for point in disc.tolist()], outline=1, fill=1)
    painted = contours.mask_pil(disc, (40, 48))
    assert painted.sum() == 166
    assert painted.dtype == bool
    assert np.array_equal(painted, np.array(canvas).astype(bool))


def test_a_line_beyond_the_last_row_leaves_a_pil_mask_empty_and_is_refused():
    with pytest.raises(InputError, match=r"\bcovers\b"):
        contours.mask_pil(np.array([(3.0, 40.0), (9.0, 40.0), (20.0, 40.0)]), (40, 40))


def test_masks_are_chosen_by_name():
    assert contours.rasteriser(None) is contours.mask
    assert contours.rasteriser("pil") is contours.mask_pil
    with pytest.raises(InputError, match=r"data.masks=cv2: .*\bnull\b.*\bpil\b"):
        contours.rasteriser("cv2")


def test_the_phantoms_masks_grow_as_published(tmp_path):
    read = {masks: phantom.read(seed=0, n_patients=1, size=64, target="endocardium", masks=masks, cache=tmp_path)
            for masks in (None, "pil")}  # fmt: skip
    sums = {masks: np.array([item.mask.sum() for item in slices]) for masks, slices in read.items()}
    assert (sums["pil"] > sums[None]).all()
    assert read["pil"].fingerprint() != read[None].fingerprint()


def test_end_diastole_is_the_larger_of_two_phases_where_both_are_drawn():
    assert contours.end_diastole({(0, 3): 9.0, (0, 7): 5.0}) == 3
    assert contours.end_diastole({(0, 3): 4.0, (0, 7): 5.0, (1, 3): 99.0}) == 7
    assert contours.end_diastole({(0, 7): 5.0, (0, 3): 5.0}) == 3
    assert contours.end_diastole({(0, 3): 5.0, (1, 7): 6.0}) == 7


@pytest.mark.parametrize("phases", [(), (3,), (3, 7, 9)])
def test_end_diastole_is_not_guessed_from_one_phase_or_three(phases):
    assert contours.end_diastole({(0, phase): 5.0 for phase in phases}) is None


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


MASKS = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(lambda shape: arrays(bool, shape))


def there_and_back(mask, path):
    """The mask that a mask's contour file gives again."""
    (line,) = contours.outlines(mask)
    path.write_bytes(contours.text(line).encode())
    return contours.mask(contours.read(path), mask.shape)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(MASKS)
def test_the_contour_of_what_one_can_enclose_gives_that_very_mask_again(tmp_path, mask):
    inside, n_dropped, n_filled = contours.enclosed(mask)
    assert inside.any() == mask.any()
    assert inside.sum() == mask.sum() - n_dropped + n_filled
    if mask.any():
        assert np.array_equal(there_and_back(inside, tmp_path / "contour.txt"), inside)


THIN = {
    "a pixel": ["...", ".#.", "..."],
    "a pixel in a corner": ["#..", "...", "..."],
    "a pixel that is the image": ["#"],
    "the whole image": ["####", "####"],
    "a line along an edge": ["....", "....", "####"],
    "a comb": ["#.#.#", "#.#.#", "#####"],
    "steps": ["##...", ".##..", "..##."],
}


@pytest.mark.parametrize("name", THIN)
def test_thin_shapes_and_the_image_s_edge_survive_the_contour(tmp_path, name):
    mask = np.array([[character == "#" for character in row] for row in THIN[name]])
    assert np.array_equal(contours.enclosed(mask)[0], mask)
    assert np.array_equal(there_and_back(mask, tmp_path / "contour.txt"), mask)


def test_a_contour_runs_half_a_pixel_around_the_centres():
    mask = np.zeros((5, 6), bool)
    mask[1:3, 2:5] = True
    (line,) = contours.outlines(mask)
    assert line.min(axis=0).tolist() == [1.5, 0.5]
    assert line.max(axis=0).tolist() == [4.5, 2.5]
    assert np.array_equal(line[0], line[-1])
    assert contours.text(line).splitlines(keepends=True)[0].endswith("0\r\n")
    assert contours.outlines(mask & False) == []


def test_only_the_largest_component_is_kept_and_its_holes_are_filled():
    mask = np.zeros((9, 9), bool)
    mask[1:6, 1:6] = True
    mask[3, 3] = False  # a hole
    mask[6, 6] = True  # at a corner: no neighbour
    mask[8, 0:3] = True
    inside, n_dropped, n_filled = contours.enclosed(mask)
    expected = np.zeros((9, 9), bool)
    expected[1:6, 1:6] = True
    assert np.array_equal(inside, expected)
    assert (n_dropped, n_filled) == (4, 1)
    empty, *counts = contours.enclosed(mask & False)
    assert not empty.any()
    assert counts == [0, 0]


def test_a_component_in_a_hole_is_within_the_contour_and_not_dropped():
    mask = np.zeros((7, 7), bool)
    mask[0:7, 0:7] = True
    mask[1:6, 1:6] = False
    mask[3, 3] = True
    inside, n_dropped, n_filled = contours.enclosed(mask)
    assert inside.all()
    assert (n_dropped, n_filled) == (0, 24)
