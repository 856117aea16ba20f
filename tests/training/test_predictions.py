import dataclasses

import numpy as np
import pytest
import torch

from conftest import TINY
from segtune.config import entry
from segtune.data.slices import Slice
from segtune.training import build, predictions
from segtune.training.predictions import Predictions, Processing, volume_dice

HEART, STOMACH = np.s_[2:6, 2:6], np.s_[9:12, 9:12]


def stack(patient, phase, n):
    image = np.zeros((16, 16), np.float32)
    return [Slice(image, image > 0, patient, index, index, phase, (1.0, 1.0), 8.0) for index in range(n)]


def masks(*boxes_of_slices):
    found = torch.zeros(len(boxes_of_slices), 1, 16, 16, dtype=torch.bool)
    for index, boxes in enumerate(boxes_of_slices):
        for box in boxes:
            found[index, 0][box] = True
    return found


def predicted(*boxes_of_slices):
    true = masks(*([HEART] for _ in boxes_of_slices))
    return Predictions(torch.zeros(len(true)), masks(*boxes_of_slices), true)


def test_the_dice_of_a_choice_is_of_volumes_and_each_patient_counts_once():
    slices = [*stack("A", "ED", 2), *stack("A", "ES", 1), *stack("B", "ED", 1)]
    found = predicted([HEART], [], [HEART], [STOMACH])
    assert volume_dice(slices, found) == pytest.approx(((2 * 16 / 48 + 1) / 2 + 0) / 2)


def test_a_volume_in_which_neither_has_drawn_anything_is_left_out():
    slices = [*stack("A", "ED", 1), *stack("B", "ED", 1)]
    found = predicted([HEART], [])
    empty = found._replace(true=masks([HEART], []))
    assert volume_dice(slices, empty) == 1
    assert volume_dice(slices[1:], Predictions(*(part[1:] for part in empty))) == 0


class Trainer:
    """In place of Lightning's: predictions by checkpoint and by whether the module averages over views."""

    def __init__(self, module, answers):
        self.module, self.answers, self.asked = module, answers, []

    def predict(self, module, *, datamodule, ckpt_path):
        self.asked.append((ckpt_path, module.tta))
        return [self.answers[ckpt_path, module.tta]]


@pytest.fixture
def choose():
    def choose(answers, **settings):
        experiment = build.experiment(entry.compose(TINY))
        slices = stack("A", "ED", 2)
        experiment = dataclasses.replace(
            experiment, slices=slices, split=dataclasses.replace(experiment.split, val=np.arange(2))
        )
        module = experiment.module()
        trainer = Trainer(module, answers)
        experiment = dataclasses.replace(experiment, **settings)
        return *predictions.predict(experiment, trainer, module, None, {"best": "best", "last": "last"}), trainer.asked

    return choose


WITH_STOMACH, HALF = predicted([HEART, STOMACH], [HEART]), predicted([HEART], [])


def test_auto_takes_what_is_better_after_the_last_epoch_for_both_checkpoints(choose):
    answers = {("best", False): HALF, ("last", False): WITH_STOMACH}
    found, chosen, _ = choose(answers, largest_component="auto")
    assert chosen == Processing(tta=False, largest_component=True)
    assert (found["last"].predicted == found["last"].true).all()
    assert (found["best"].predicted == HALF.predicted).all()


def test_auto_changes_nothing_if_it_does_not_help(choose):
    answers = {("best", False): WITH_STOMACH, ("last", False): HALF}
    found, chosen, _ = choose(answers, largest_component="auto")
    assert chosen == Processing(tta=False, largest_component=False)
    assert (found["best"].predicted == WITH_STOMACH.predicted).all()
    assert (found["last"].predicted == HALF.predicted).all()


def test_the_average_over_views_is_chosen_in_the_same_way(choose):
    answers = {(which, tta): WITH_STOMACH if tta else HALF for which in ("best", "last") for tta in (False, True)}
    found, chosen, asked = choose(answers, tta="auto")
    assert chosen == Processing(tta=True, largest_component=False)
    assert (found["last"].predicted == WITH_STOMACH.predicted).all()
    assert len(asked) == 4


def test_what_is_set_is_not_chosen(choose):
    answers = {(which, True): HALF for which in ("best", "last")}
    found, chosen, asked = choose(answers, tta=True, largest_component=True)
    assert chosen == Processing(tta=True, largest_component=True)
    assert (found["last"].predicted == HALF.predicted).all()
    assert asked == [("best", True), ("last", True)]
