import math

import pytest
import sklearn.metrics
import torch
import torchmetrics.functional.classification as oracle

from segtune import metrics


def masks(*rows):
    return torch.tensor(rows, dtype=torch.bool).reshape(len(rows), 1, 2, -1)


TRUE = masks([1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0])
PRED = masks([0, 1, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0])


def test_counts_by_hand():
    c = metrics.counts(PRED, TRUE)
    assert (c.n_true.tolist(), c.n_pred.tolist(), c.n_overlap.tolist()) == ([2, 0, 0, 1], [2, 0, 1, 0], [1, 0, 0, 0])


def test_both_empty_is_undefined_and_one_empty_is_0():
    dice, iou = metrics.dice(metrics.counts(PRED, TRUE)).tolist(), metrics.iou(metrics.counts(PRED, TRUE)).tolist()
    assert (dice[0], dice[2], dice[3]) == (0.5, 0, 0)
    assert (iou[0], iou[2], iou[3]) == (1 / 3, 0, 0)
    assert math.isnan(dice[1])
    assert math.isnan(iou[1])


def test_mean_leaves_undefined_images_out_and_counts_them():
    metric = metrics.MeanOverlap()
    metric.update(PRED[:2], TRUE[:2])
    metric.update(PRED[2:], TRUE[2:])
    values = metric.compute()
    assert values["dice"].item() == pytest.approx(0.5 / 3)
    assert values["n_undefined"].item() == 1


def test_agrees_with_scikit_learn_and_torchmetrics_on_random_masks():
    generator = torch.Generator().manual_seed(0)
    true, pred = (torch.rand(1, 1, 16, 16, generator=generator) < 0.3 for _ in range(2))
    c = metrics.counts(pred, true)
    assert metrics.dice(c).item() == pytest.approx(sklearn.metrics.f1_score(true.flatten(), pred.flatten()))
    assert metrics.iou(c).item() == pytest.approx(oracle.binary_jaccard_index(pred, true).item())


def test_disjoint_masks_score_0_not_1():
    true = masks([1, 1, 0, 0])
    assert metrics.dice(metrics.counts(~true, true)).item() == 0
