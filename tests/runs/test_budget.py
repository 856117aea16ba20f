import pytest

from segtune.runs import budget


@pytest.mark.parametrize(
    ("max_steps", "every"), [(1000, 100), (800, 80), (250, 25), (25, 5), (1234, 617), (7, 1), (1, 1), (1237, 1237), (22, 2)]
)
def test_a_run_in_steps_is_validated_about_ten_times_and_after_its_last_step(max_steps, every):
    trainer = {"max_epochs": None, "max_steps": max_steps, "val_every_steps": None}
    assert budget.steps_per_epoch(trainer) == every
    assert budget.n_epochs(trainer) * every == max_steps


def test_the_given_number_of_steps_counts_and_epochs_have_none():
    assert budget.steps_per_epoch({"max_steps": 100, "val_every_steps": 50}) == 50
    trainer = {"max_steps": None, "max_epochs": 15}
    assert budget.steps_per_epoch(trainer) is None
    assert budget.n_epochs(trainer) == 15
