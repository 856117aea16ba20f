import json
import math
import re
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import TINY
from segtune import calibrate, nets
from segtune.config import entry
from segtune.errors import InputError
from segtune.runs import identity
from segtune.training import build, lambda_search
from segtune.training.run import train

SMALL = [*TINY[:1], "data.size=64", "model.width=4", "trainer.accelerator=cpu", "trainer.max_epochs=1"]


def started(*overrides):
    experiment = build.experiment(entry.compose([*SMALL, *overrides], "calibrate"))
    return experiment, lambda_search.start(experiment)


def trained(folder, *overrides):
    cfg = entry.compose([*SMALL, "figures=false", *overrides])
    return train(build.experiment(cfg), folder / identity.run_id(entry.plain(cfg)))


@pytest.mark.parametrize(("penalty", "expected"), [("l1", 35_659), ("l2", 1_792)])
@pytest.mark.slow
def test_the_study_s_network_starts_at_the_closed_form_and_that_is_the_published_sum(penalty, expected, monkeypatch):
    monkeypatch.setattr(lambda_search, "PENALTY_SEEDS", 10)
    experiment = build.experiment(entry.compose([f"reg={penalty}"], "calibrate"))
    net = experiment.module().net
    assert nets.expected_sums(net, nets.kernels(net))[penalty] == pytest.approx(expected, rel=1e-4)
    found = lambda_search.penalties(experiment)
    assert sum(found) / len(found) == pytest.approx(expected, rel=0.01)


def test_the_closed_form_by_hand():
    """The whole of a network of width 1: he_normal kernels, glorot_uniform transposed ones and head, scales of 1."""
    net = nets.UNet(width=1)
    convolutions = [(1, 1), (1, 2), (2, 4), (4, 8), (8, 16), (16, 8), (8, 4), (4, 2), (2, 1)]  # channels in and out
    transposed = [(16, 8), (8, 4), (4, 2), (2, 1)]
    square = sum(9 * i * o * 2 / (9 * i) for i, o in convolutions)
    square += sum(9 * i * o * 6 / (9 * i + 9 * o) / 3 for i, o in transposed)
    assert nets.expected_sums(net, nets.kernels(net))["l2"] == pytest.approx(square)
    scales = sum(o for _, o in convolutions)
    assert nets.expected_sums(net, nets.all_parameters(net))["l2"] == pytest.approx(square + 6 / (1 + 1) / 3 + scales)


def test_there_is_no_closed_form_for_a_network_whose_initialiser_is_not_ours():
    net = torch.nn.Linear(3, 3)
    assert nets.expected_sums(net, net.parameters()) == {}


def test_gradients_of_the_penalties_are_those_of_algebra():
    """|d sum w^2| = 2 sqrt(sum w^2); |d sum |w|| = sqrt(number of weights)."""
    _, l2 = started("reg=l2")
    assert l2.penalty_gradient == pytest.approx(2 * math.sqrt(l2.penalty), rel=1e-3)
    experiment, l1 = started("reg=l1")
    n = sum(parameter.numel() for parameter in nets.kernels(experiment.module().net))
    assert l1.penalty_gradient == pytest.approx(math.sqrt(n), rel=1e-3)


@pytest.mark.parametrize(("reg", "loss"), [("l2", "bce_dice"), ("l1", "bce")])
@pytest.mark.slow
def test_the_lambda_for_ratio_1_gives_ratio_1_at_the_first_step_of_fresh_runs(reg, loss):
    """Of the median one: one network's loss differs from the next one's by a tenth (bce_dice) or a quarter (bce)."""
    experiment, start = started(f"reg={reg}", f"loss={loss}", "model.width=16")
    data = experiment.datamodule()
    image, mask = (part[data.train_batches(0)[0]] for part in data._train)
    ratios = []
    for seed in range(100, 111):
        torch.manual_seed(seed)
        module = experiment.module(start.penalty_weight(1.0)).train()
        ratios.append(module.penalties()[1].item() / module.loss(module(image), mask.float()).item())
    assert statistics.median(ratios) == pytest.approx(1, rel=0.2)


def test_auto_trains_with_the_calibrated_lambda_and_records_it_and_why(tmp_path):
    found = trained(tmp_path, "reg=l2", "reg.lambda=auto", "reg.ratio=0.3")
    calibration = found["calibration"]
    assert calibration["lambda"] == pytest.approx(0.3 * calibration["loss"] / calibration["penalty"])
    assert calibration["ratio"] == 0.3
    penalty = found["last"]["train_penalty"]
    assert found["last"]["train_weighted_penalty"] == pytest.approx(calibration["lambda"] * penalty, rel=1e-4)
    assert identity.axes(found["config"])["reg"] == "l2(auto 0.3)"


def test_replicates_of_a_cell_get_the_same_lambda(tmp_path):
    one, other = (trained(tmp_path, "reg=l1", "reg.lambda=auto", f"seed={seed}") for seed in (0, 7))
    assert one["calibration"] == other["calibration"]
    assert one["cell_id"] == other["cell_id"]
    assert one["last"]["train_loss"] != other["last"]["train_loss"]


def test_the_folds_of_a_cell_get_the_same_lambda():
    folds = [started("reg=l2", "split=kfold", "split.n_folds=4", f"split.fold={fold}")[1] for fold in (0, 3)]
    assert folds[0] == folds[1]


def test_a_run_without_auto_says_nothing_of_calibration_and_is_not_moved_by_it(tmp_path):
    assert trained(tmp_path, "reg=l2")["calibration"] is None


@pytest.mark.slow
def test_a_large_lambda_is_marked_as_a_collapse_and_a_small_one_is_not():
    experiment = build.experiment(entry.compose([*SMALL, "reg=l2"], "calibrate")).for_calibration()
    data, batches, device = lambda_search._data(experiment)
    trials = {}
    for weight in (0.0, 1e-6, 1.0, 1e4):
        trained = list(lambda_search.try_out(experiment, data, np.concatenate(batches), device, weight))
        trials[weight] = lambda_search.Trial(weight, *(list(column) for column in zip(*trained, strict=True)))
    collapsed = [lambda_search.collapsed(trial, trials[0.0], trials[1e4]) for trial in trials.values()]
    assert collapsed == [False, False, True, True]


def test_the_command_prints_and_keeps_what_it_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(lambda_search, "STEPS", 10)
    calibrate.calibrate(entry.compose([*SMALL, "reg=l2", "reg.ratio=0.2", f"outputs={tmp_path}"], "calibrate"))
    said = capsys.readouterr().out
    (file,) = tmp_path.glob("calibrate/*/calibration.json")
    record = json.loads(file.read_text())
    found = [re.escape(f"{record[key]:.6g}") for key in ("lambda", "lambda_by_gradient")]
    assert re.search(r"\b0\.2\b.*reg\.lambda={}\b.*\b{}\b".format(*found), said)  # a ratio that the table lacks
    assert all(Path(line).exists() for line in said.splitlines() if line.startswith(str(tmp_path)))
    assert [row["ratio"] for row in record["table"]][0::6] == [0.01, 10]


@pytest.mark.parametrize("reg", ["none", "l1l2"])
def test_what_has_no_single_lambda_cannot_be_calibrated(reg):
    with pytest.raises(InputError, match=r"^reg: .*\breg=l1\b.*\breg=l2\b"):
        started(f"reg={reg}")
