import dataclasses
import math
import re
import time

import numpy as np
import pytest
import sklearn.metrics
import torch
import torchmetrics.functional.classification as oracle
from hypothesis import given
from hypothesis import strategies as st

from segtune.metrics import overlap, volumes
from segtune.metrics.score import DISTANCES, OVERLAPS, Pair, score_case, score_pairs, score_slice


def masks(*rows):
    return torch.tensor(rows, dtype=torch.bool).reshape(len(rows), 1, 2, -1)


TRUE = masks([1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0])
PRED = masks([0, 1, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0])


def test_counts_by_hand():
    c = overlap.counts(PRED, TRUE)
    assert (c.n_true.tolist(), c.n_pred.tolist(), c.n_overlap.tolist()) == ([2, 0, 0, 1], [2, 0, 1, 0], [1, 0, 0, 0])


def test_both_empty_is_undefined_and_one_empty_is_0():
    dice, iou = overlap.dice(overlap.counts(PRED, TRUE)).tolist(), overlap.iou(overlap.counts(PRED, TRUE)).tolist()
    assert (dice[0], dice[2], dice[3]) == (0.5, 0, 0)
    assert (iou[0], iou[2], iou[3]) == (1 / 3, 0, 0)
    assert math.isnan(dice[1])
    assert math.isnan(iou[1])


def test_mean_leaves_undefined_images_out_and_counts_them():
    metric = overlap.MeanOverlap()
    metric.update(PRED[:2], TRUE[:2])
    metric.update(PRED[2:], TRUE[2:])
    values = metric.compute()
    assert values["dice"].item() == pytest.approx(0.5 / 3)
    assert values["n_undefined"].item() == 1


def test_agrees_with_scikit_learn_and_torchmetrics_on_random_masks():
    generator = torch.Generator().manual_seed(0)
    true, pred = (torch.rand(1, 1, 16, 16, generator=generator) < 0.3 for _ in range(2))
    c = overlap.counts(pred, true)
    assert overlap.dice(c).item() == pytest.approx(sklearn.metrics.f1_score(true.flatten(), pred.flatten()))
    assert overlap.iou(c).item() == pytest.approx(oracle.binary_jaccard_index(pred, true).item())


def test_disjoint_masks_score_0_not_1():
    true = masks([1, 1, 0, 0])
    assert overlap.dice(overlap.counts(~true, true)).item() == 0


def test_sensitivity_and_precision_by_hand_and_the_same_rule_for_empty_masks():
    c = overlap.counts(
        masks([1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]), masks([1, 0, 0, 0], *[[0] * 4] * 2, [1] * 4)
    )
    assert overlap.sensitivity(c).tolist() == pytest.approx([1, math.nan, 0, 0], nan_ok=True)
    assert overlap.precision(c).tolist() == pytest.approx([0.25, math.nan, 0, 0], nan_ok=True)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_one_number_and_a_batch_agree_and_dice_is_the_harmonic_mean(n_true_only, n_pred_only, n_both):
    c = overlap.Counts(n_true_only + n_both, n_pred_only + n_both, n_both)
    batch = overlap.Counts(*(torch.tensor([n]) for n in c))
    for f in (overlap.dice, overlap.iou, overlap.sensitivity, overlap.precision):
        assert f(c) == pytest.approx(f(batch).item(), nan_ok=True)
    if n_both:
        assert overlap.dice(c) == pytest.approx(2 / (1 / overlap.sensitivity(c) + 1 / overlap.precision(c)))


def test_float_masks_are_refused_as_torchmetrics_1_9_scores_disjoint_ones_with_1():
    true = torch.tensor([[[[1.0, 1, 0, 0]]]])
    with pytest.raises(RuntimeError):
        overlap.counts(1 - true, true)


# slices, cases, patients

SIZE = (8, 10)
SPACING = (2.0, 0.5)
GAP = 10.0
DIAGONAL = math.hypot(8 * 2, 10 * 0.5)
ML_PER_PIXEL = 2 * 0.5 * 10 / 1000


def mask(n_rows=0, shift=0):
    """n_rows rows of 4 pixels, a number of columns to the right."""
    drawn = np.zeros(SIZE, bool)
    drawn[1 : 1 + n_rows, 2 + shift : 6 + shift] = True
    return drawn


def pair(pred, true, slice_index=0, phase="ED", patient="P01", spacing_mm=SPACING, gap_mm=GAP):
    return Pair(pred, true, patient, phase, slice_index, spacing_mm, gap_mm)


def case(*pairs):
    return score_case(pairs, tolerance_mm=1)


def stack(n_pred, n_true, phase="ED", **about):
    """A case: the numbers of rows of each slice's masks."""
    return [pair(mask(p), mask(t), i, phase, **about) for i, (p, t) in enumerate(zip(n_pred, n_true, strict=True))]


def test_a_slice_by_hand():
    row = score_slice(pair(mask(3, shift=1), mask(3), slice_index=4), tolerance_mm=0.4)
    assert (row["patient"], row["phase"], row["slice_index"]) == ("P01", "ED", 4)
    assert (row["n_true"], row["n_pred"], row["n_overlap"]) == (12, 12, 9)
    assert (row["dice"], row["iou"], row["sensitivity"], row["precision"]) == (0.75, 0.6, 0.75, 0.75)
    assert (row["hd_mm"], row["hd95_mm"]) == (0.5, 0.5)  # one column
    # boundaries of 10: the middle row's ends are 0.5 off, and of the outer rows one end; the other's pixel there is boundary
    assert row["surface_dice"] == pytest.approx(12 / 20)
    assert row["assd_mm"] == pytest.approx(8 * 0.5 / 20)
    assert (row["n_one_empty"], row["n_both_empty"]) == (0, 0)


def test_a_case_is_one_volume_and_not_the_mean_of_its_slices():
    row = case(*stack([2, 2], [2, 4]))
    assert row["dice"] == pytest.approx(2 * 16 / (16 + 24))
    assert row["hd_mm"] == 4  # two rows down, in the plane; the gap is 10
    assert (row["volume_true_ml"], row["volume_pred_ml"]) == pytest.approx((24 * ML_PER_PIXEL, 16 * ML_PER_PIXEL))
    assert row["volume_error_ml"] == pytest.approx(-8 * ML_PER_PIXEL)
    assert (row["n_slices"], row["undefined"]) == (2, "")


def test_a_slice_that_is_missed_is_a_gap_away_in_its_case_and_a_diagonal_by_itself():
    pairs = stack([2, 0], [2, 2])
    assert case(*pairs)["hd_mm"] == GAP
    row = score_slice(pairs[1], tolerance_mm=1)
    assert (row["hd_mm"], row["dice"], row["surface_dice"], row["n_one_empty"]) == (DIAGONAL, 0, 0, 1)


def test_a_missed_case_is_the_diagonal_of_its_volume_away():
    row = case(*stack([0, 0, 0], [2, 2, 2]))
    assert row["hd_mm"] == row["assd_mm"] == pytest.approx(math.hypot(3 * GAP, DIAGONAL))
    assert (row["volume_pred_ml"], row["n_one_empty"]) == (0, 1)


def test_slices_may_come_in_any_order():
    pairs = stack([1, 2, 3], [2, 2, 4])
    assert case(*pairs) == case(*pairs[::-1])


def test_an_empty_case_is_undefined_and_has_a_volume_of_0():
    row = case(*stack([0, 0], [0, 0]))
    assert all(math.isnan(row[name]) for name in (*OVERLAPS, *DISTANCES))
    assert (row["n_both_empty"], row["volume_error_ml"], row["undefined"]) == (1, 0, "")


TWO = stack([2, 2], [2, 3])


@pytest.mark.parametrize(
    ("pairs", "why"),
    [
        (stack([2, 2], [2, 3], gap_mm=None), "distance"),
        ([TWO[0], pair(mask(2), mask(3), 2)], r"slice 1\b.*missing"),
        ([*TWO, pair(mask(2), mask(3), 1)], r"slice 1\b.*twice"),
        ([TWO[0], pair(mask(2), mask(3), 1, spacing_mm=(2, 0.6))], r"size\b.*\bspacing"),
        ([TWO[0], pair(mask(2), mask(3), 1, gap_mm=None)], r"size\b.*\bspacing"),
        ([TWO[0], pair(mask(2)[1:], mask(3)[1:], 1)], r"size\b.*\bspacing"),
    ],
)
def test_a_case_without_a_known_geometry_has_overlaps_and_says_why_it_has_no_more(pairs, why):
    row = case(*pairs)
    assert re.search(why, row["undefined"])
    assert row["dice"] > 0.8
    assert all(math.isnan(row[name]) for name in (*DISTANCES, "volume_true_ml", "volume_pred_ml", "volume_error_ml"))


def test_a_case_that_a_crop_has_cut_has_no_volume_and_says_why():
    whole, cut = case(*TWO), case(TWO[0], dataclasses.replace(TWO[1], n_cut=1))
    assert "data.larger=crop" in cut["undefined"]
    assert all(math.isnan(cut[f"volume_{side}"]) for side in ("true_ml", "pred_ml", "error_ml"))
    assert [cut[name] for name in DISTANCES] == [whole[name] for name in DISTANCES]


def test_headers_may_round():
    assert case(TWO[0], pair(mask(2), mask(3), 1, spacing_mm=(2.0, 0.500001)))["undefined"] == ""


def test_a_case_of_one_slice_is_scored_in_its_plane_and_has_no_volume():
    one = pair(mask(2), mask(4), gap_mm=None)
    row, plane = case(one), score_slice(one, tolerance_mm=1)
    assert [row[name] for name in DISTANCES] == [plane[name] for name in DISTANCES]
    assert "one slice" in row["undefined"]
    assert math.isnan(row["volume_true_ml"])


def patient(*stacks):
    return score_pairs([p for stack in stacks for p in stack], tolerance_mm=1).patients[0]


def test_a_patient_by_hand():
    """Expert: ED 4 + 6 rows, ES 2 + 2; prediction: ED 4 + 4, ES 2 + 2; a row is 0.04 ml."""
    row = patient(stack([4, 4], [4, 6]), stack([2, 2], [2, 2], "ES"))
    assert row["dice"] == pytest.approx((2 * 8 / 18 + 1) / 2)
    assert row["hd_mm"] == pytest.approx((4 + 0) / 2)
    assert (row["stroke_volume_true_ml"], row["stroke_volume_pred_ml"]) == pytest.approx((0.24, 0.16))
    assert row["stroke_volume_error_ml"] == pytest.approx(-0.08)
    assert (row["ejection_fraction_true"], row["ejection_fraction_pred"]) == pytest.approx((0.6, 0.5))
    assert row["ejection_fraction_error"] == pytest.approx(-0.1)
    assert (row["n_cases"], row["undefined"]) == (2, "")


@pytest.mark.parametrize(
    ("stacks", "why"),
    [
        ([stack([4, 4], [4, 6])], "^ES\\b.*missing"),
        ([stack([4, 4], [4, 6], "ES")], "^ED\\b.*missing"),
        ([stack([4, 4], [4, 6], None)], "^ED\\b.*missing"),
        ([stack([4, 4], [4, 6]), stack([2], [2], "ES")], "^ES: .*one slice"),
        ([stack([4, 4], [0, 0]), stack([2, 2], [2, 2], "ES")], r"^(?!.*\bES\b).*\bend-diastolic\b.*\b0$"),
    ],
)
def test_an_ejection_fraction_that_cannot_be_is_undefined_and_says_why(stacks, why):
    row = patient(*stacks)
    assert re.search(why, row["undefined"])
    assert math.isnan(row["ejection_fraction_error"])
    assert math.isnan(row["stroke_volume_error_ml"])
    assert row["dice"] >= 0


def test_a_model_that_predicts_nothing_scores_worst_in_everything():
    """Three patients; the last one's ES has nothing to be found. The other model is bad: off by rows."""
    truths = [([4, 6], [2, 2]), ([5, 5], [3, 1]), ([6, 6], [0, 0])]

    def table(model):
        stacks = [
            stack(model(t), t, phase, patient=f"P{i}")
            for i, both in enumerate(truths)
            for phase, t in zip(("ED", "ES"), both, strict=True)
        ]
        return score_pairs([p for s in stacks for p in s], tolerance_mm=1)

    nothing, bad = table(lambda t: [0] * len(t)), table(lambda t: [max(n - 2, 0) for n in t])
    for worst, other in zip(nothing, bad, strict=True):
        for name in (*OVERLAPS, "surface_dice"):
            assert volumes.mean(worst, name).value == 0 < volumes.mean(other, name).value
        for name in ("hd_mm", "hd95_mm", "assd_mm"):
            assert volumes.mean(worst, name).value > volumes.mean(other, name).value
            assert volumes.mean(worst, name).n == volumes.mean(other, name).n
    assert volumes.mean(nothing.cases, "dice")[1:] == (5, 5, 1, 1)
    assert volumes.mean(nothing.patients, "hd_mm")[1:] == (3, 5, 1, 0)
    fractions = [[abs(row["ejection_fraction_error"]) for row in s.patients] for s in (nothing, bad)]
    assert fractions[0] == pytest.approx([row["ejection_fraction_true"] for row in nothing.patients])
    assert sum(fractions[0]) > sum(fractions[1])


def test_rows_keep_the_order_of_patients_and_phases():
    scores = score_pairs([*stack([1, 1], [1, 1], "ES", patient="B"), *stack([1, 1], [1, 1], patient="A")], tolerance_mm=1)
    assert [row["patient"] for row in scores.slices] == ["B", "B", "A", "A"]
    assert [(row["patient"], row["phase"]) for row in scores.cases] == [("B", "ES"), ("A", "ED")]
    assert [row["patient"] for row in scores.patients] == ["B", "A"]


def test_probabilities_are_no_masks():
    with pytest.raises(ValueError, match="bool .*float64"):
        pair(mask(1) * 0.7, mask(1))


def test_a_case_of_12_slices_takes_less_than_a_tenth_of_a_second():
    rows, columns = np.ogrid[:256, :256]
    discs = [(rows - 128) ** 2 + (columns - x) ** 2 < 45**2 for x in (125, 130)]
    pairs = [pair(*discs, slice_index=i) for i in range(12)]
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        case(*pairs)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.1, seconds
