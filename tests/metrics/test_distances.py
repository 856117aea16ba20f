import math
import time

import monai.metrics
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import directed_hausdorff

from segtune.metrics import distances
from segtune.metrics.distances import assd_mm, hausdorff_mm, surface_dice

SPACING = (2.0, 0.5)
uses_monai = pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI 1.6 calls itself so


def drawn(*rows):
    return np.array([[character == "#" for character in row] for row in rows])


def measured(pred, true, spacing_mm=SPACING):
    return distances.surface_distances(pred, true, spacing_mm=spacing_mm)


def everything(d, tolerance_mm=1.0):
    return hausdorff_mm(d), hausdorff_mm(d, 95), assd_mm(d), surface_dice(d, tolerance_mm=tolerance_mm)


def blobs(seed, shape):
    noise = np.random.default_rng(seed).normal(size=(2, *shape))
    for axis in range(1, noise.ndim):  # neighbours agree, as in masks
        noise = noise + np.roll(noise, 1, axis) + np.roll(noise, -1, axis)
    return noise[0] > 0.8, noise[1] > 0.8


# by hand


def test_boundary_is_the_mask_minus_its_erosion_with_direct_neighbours():
    mask = drawn(".....", ".###.", ".###.", ".###.", "....#")
    assert (distances.boundary(mask) == drawn(".....", ".###.", ".#.#.", ".###.", "....#")).all()


def test_a_mask_cut_off_by_the_image_has_a_boundary_there():
    assert (distances.boundary(np.ones((3, 3), bool)) == drawn("###", "#.#", "###")).all()


def test_in_a_volume_the_first_and_last_slice_are_boundary():
    edge = distances.boundary(np.ones((3, 3, 3), bool))
    assert edge.sum() == 26
    assert not edge[1, 1, 1]


def test_a_pixel_two_columns_off_is_1_mm_and_two_rows_off_4_mm():
    true = drawn("#....", ".....", ".....")
    assert everything(measured(drawn("..#..", ".....", "....."), true)) == (1.0, 1.0, 1.0, 1.0)
    assert everything(measured(drawn(".....", ".....", "#...."), true)) == (4.0, 4.0, 4.0, 0.0)
    assert hausdorff_mm(measured(drawn(".....", "..#..", "....."), true)) == pytest.approx(math.sqrt(2**2 + 1**2))


def test_a_line_against_its_half():
    """Prediction 4 pixels, expert the first 2 of them, 0.5 mm apart: distances 0, 0, 0.5, 1 and 0, 0."""
    d = measured(drawn("####..", "......"), drawn("##....", "......"))
    assert (d.pred_to_true_mm.tolist(), d.true_to_pred_mm.tolist()) == ([0, 0, 0.5, 1], [0, 0])
    assert hausdorff_mm(d) == 1
    assert hausdorff_mm(d, 95) == pytest.approx(0.5 + 0.85 * 0.5)  # rank 0.95 * 3 = 2.85
    assert assd_mm(d) == pytest.approx(1.5 / 6)
    assert surface_dice(d, tolerance_mm=0) == pytest.approx(4 / 6)
    assert surface_dice(d, tolerance_mm=0.5) == pytest.approx(5 / 6)


def test_slices_apart_count_with_the_gap():
    pred, true = np.zeros((2, 4, 4, 4), bool)
    pred[0, 1, 1] = true[2, 1, 1] = True
    assert hausdorff_mm(measured(pred, true, (8.4, 0.7, 0.7))) == pytest.approx(16.8)


def test_hd95_takes_each_direction_by_itself_where_pooling_would_hide_a_missed_part():
    """The expert's 20 pixels have 2 that are far off (10 %), the prediction's 200 none: pooled, those 2 are below 1 %."""
    d = distances.SurfaceDistances(np.zeros(200), np.array([0.0] * 18 + [30.0] * 2), 500)
    assert hausdorff_mm(d, 95) == 30
    assert np.percentile(np.concatenate(d[:2]), 95) == 0


# empty masks


def test_both_empty_is_undefined():
    empty = np.zeros((3, 5), bool)
    assert all(map(math.isnan, everything(measured(empty, empty))))


@pytest.mark.parametrize("swapped", [False, True])
def test_one_empty_is_the_diagonal_and_surface_dice_0_whatever_the_tolerance(swapped):
    masks = drawn("#....", ".....", "....."), np.zeros((3, 5), bool)
    d = measured(*masks[:: -1 if swapped else 1])
    diagonal = math.hypot(3 * 2.0, 5 * 0.5)
    assert everything(d, tolerance_mm=1e6) == (diagonal, diagonal, diagonal, 0)


def test_the_diagonal_is_longer_than_the_distance_of_opposite_corners():
    d = measured(drawn("#....", "....."), drawn(".....", "....#"))
    assert hausdorff_mm(d) < d.diagonal_mm


@uses_monai
def test_predicting_nothing_scores_worst_where_monai_averages_to_a_perfect_0():
    true = drawn(".....", ".###.", ".....")
    nothing, wrong = np.zeros_like(true), drawn("#....", ".....", ".....")
    metric = monai.metrics.HausdorffDistanceMetric(percentile=95, include_background=True)
    with pytest.warns(UserWarning, match="prediction"):
        metric(torch.tensor(nothing)[None, None], torch.tensor(true)[None, None])
    assert metric.aggregate().item() == 0
    ours, other = everything(measured(nothing, true)), everything(measured(wrong, true))
    assert all(a > b for a, b in zip(ours[:3], other[:3], strict=True))
    assert ours[3] == 0


# bad input


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_probabilities_and_labels_are_no_masks(kind):
    with pytest.raises(ValueError, match=r"\bbool\b.*\bthreshold\b"):
        measured(np.ones((2, 2), kind), np.ones((2, 2), bool))


def test_shapes_and_spacings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 2\) and \(2, 3\)"):
        measured(np.ones((2, 2), bool), np.ones((2, 3), bool))
    with pytest.raises(ValueError, match=r"\(2, 2\) and \(2, 2\).*spacing_mm .*\b3\b"):
        measured(np.ones((2, 2), bool), np.ones((2, 2), bool), (8, 1, 1))
    with pytest.raises(ValueError, match="spacing_mm=.*in mm"):
        measured(np.ones((2, 2), bool), np.ones((2, 2), bool), (1, math.nan))
    with pytest.raises(ValueError, match="tolerance_mm=nan"):
        surface_dice(measured(np.ones((2, 2), bool), np.ones((2, 2), bool)), tolerance_mm=math.nan)


# oracles


@uses_monai
@pytest.mark.parametrize(("shape", "spacing"), [((24, 30), (1.4, 0.7)), ((6, 20, 18), (8.0, 1.3, 0.9))])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_monai_and_scipy(shape, spacing, seed):
    pred, true = blobs(seed, shape)
    d = measured(pred, true, spacing)
    y = {"y_pred": torch.tensor(pred)[None, None], "y": torch.tensor(true)[None, None]}
    about = {**y, "include_background": True, "spacing": spacing}
    oracle = monai.metrics
    assert hausdorff_mm(d) == pytest.approx(oracle.compute_hausdorff_distance(**about).item(), rel=1e-5)
    assert hausdorff_mm(d, 95) == pytest.approx(oracle.compute_hausdorff_distance(**about, percentile=95).item(), rel=1e-5)
    assert assd_mm(d) == pytest.approx(oracle.compute_average_surface_distance(**about, symmetric=True).item(), rel=1e-5)
    for tolerance in (0.5, 2.03):
        expected = oracle.compute_surface_dice(**about, class_thresholds=[tolerance]).item()
        assert surface_dice(d, tolerance_mm=tolerance) == pytest.approx(expected, rel=1e-5)
    points = [np.argwhere(distances.boundary(mask)) * spacing for mask in (pred, true)]
    directed = directed_hausdorff(*points)[0], directed_hausdorff(*points[::-1])[0]
    assert (d.pred_to_true_mm.max(), d.true_to_pred_mm.max()) == pytest.approx(directed)


# properties

mask_pairs = st.tuples(st.integers(1, 6), st.integers(1, 6)).flatmap(lambda shape: st.tuples(*[arrays(bool, shape)] * 2))
steps = st.tuples(*[st.floats(0.1, 10)] * 2)


@given(mask_pairs, steps)
def test_exchanging_the_masks_changes_nothing(masks, spacing):
    there, back = everything(measured(*masks, spacing)), everything(measured(*masks[::-1], spacing))
    assert there == pytest.approx(back, nan_ok=True)


@given(mask_pairs, steps)
def test_a_mask_is_at_distance_0_of_itself(masks, spacing):
    if masks[0].any():
        assert everything(measured(masks[0], masks[0], spacing), tolerance_mm=0) == (0, 0, 0, 1)


@given(mask_pairs, steps)
def test_the_percentile_and_the_average_are_at_most_the_hausdorff_distance_and_that_at_most_the_diagonal(masks, spacing):
    d = measured(*masks, spacing)
    hd, hd95, assd, _ = everything(d)
    assert math.isnan(hd) or max(hd95, assd) <= hd * (1 + 1e-12) <= d.diagonal_mm * (1 + 2e-12)


@given(mask_pairs, steps, st.floats(0, 20), st.floats(0, 20))
def test_surface_dice_grows_with_the_tolerance(masks, spacing, a, b):
    d = measured(*masks, spacing)
    less, more = (surface_dice(d, tolerance_mm=tolerance) for tolerance in sorted((a, b)))
    assert math.isnan(less) or 0 <= less <= more <= 1


@given(mask_pairs, steps)
@settings(max_examples=30)
def test_an_empty_margin_changes_no_distance(masks, spacing):
    d, padded = measured(*masks, spacing), measured(*(np.pad(mask, 3) for mask in masks), spacing)
    if masks[0].any() and masks[1].any():
        assert everything(d) == pytest.approx(everything(padded))


@given(st.integers(1, 200), st.floats(0.01, 10))
def test_a_distance_of_n_pixels_is_within_a_tolerance_of_n_pixels(n, step):
    pred, true = np.zeros((2, 1, 201), bool)
    pred[0, 0] = true[0, n] = True
    assert surface_dice(measured(pred, true, (1, step)), tolerance_mm=n * step) == 1


def test_a_case_of_12_slices_takes_less_than_a_tenth_of_a_second():
    rows, columns = np.ogrid[:256, :256]
    volumes = [np.stack([(rows - 128) ** 2 + (columns - x) ** 2 < 45**2] * 12) for x in (125, 130)]
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        measured(*volumes, (8.4, 0.7, 0.7))
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.1, seconds


@pytest.mark.parametrize(("relative", "within"), [(0.0, True), (1e-12, True), (1e-6, False)])
def test_a_distance_that_exceeds_the_tolerance_by_rounding_alone_is_within_it(relative, within):
    """3 pixels of 0.1 mm are 0.30000000000000004 mm; one that is a millionth farther is not within 0.3 mm."""
    distance = np.array([3 * 0.1 * (1 + relative)])
    assert distance[0] > 0.3
    assert surface_dice(distances.SurfaceDistances(distance, distance, 10.0), tolerance_mm=0.3) == within
