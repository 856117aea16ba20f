"""The plan of a sweep: positions of runs, looks, and runs that come after the last look."""

from pathlib import Path

import pytest

import simulated
from segtune.errors import InputError
from segtune.runs import identity
from segtune.sweeps import looks
from segtune.sweeps.plan import Run


def runs(*, losses=("bce", "focal"), seeds=(0,), folds=(None,), done=()):
    found = []
    for loss in losses:
        for seed in seeds:
            for fold in folds:
                config = simulated.config(loss=loss, seed=seed, fold=fold)
                run = identity.run_id(config)
                finished = seed in done if fold is None else fold in done
                found.append(Run(run, [], config, Path("runs") / run, "completed" if finished else "missing"))
    return found


def sweep(listed, **plan):
    return {"runs": [{"run_id": run.run_id} for run in listed], **plan}


def late(now, looks_, *earlier):
    return looks.added(now, looks_, earlier, looks.positions(now))


def test_seeds_are_counted_on_a_single_split_and_folds_in_cross_validation():
    assert [*looks.positions(runs(losses=("bce",), seeds=(7, 3, 5))).values()] == [0, 1, 2]
    assert [*looks.positions(runs(losses=("bce",), seeds=(0, 1), folds=(0, 1, 2))).values()] == [0, 1, 2, 0, 1, 2]


def test_seeds_that_are_added_after_a_judged_sweep_are_late():
    before, now = runs(seeds=range(3)), runs(seeds=range(5), done=range(3))
    added = late(now, (), sweep(before))
    assert {*added} == {run.run_id for run in now} - {run.run_id for run in before}


@pytest.mark.parametrize(
    ("now", "earlier", "plan"),
    [
        (runs(seeds=range(5), done=range(2)), runs(seeds=range(3)), ()),  # it was never complete
        (runs(seeds=range(5), done=(0,)), runs(seeds=(0,)), ()),  # one seed decides nothing
        (runs(seeds=range(5, 9)), runs(seeds=range(5)), ()),  # new seeds alone are a sweep of their own
        (runs(seeds=range(5), done=range(3)), runs(seeds=range(3)), (3, 5)),  # the same plan goes on
        (runs(losses=("bce",), seeds=range(3)), runs(losses=("focal",), seeds=range(3)), ()),  # other configurations
    ],
)
def test_what_was_not_judged_before_or_is_planned_is_not_late(now, earlier, plan):
    assert late(now, plan, sweep(earlier, looks=list(plan))) == []


def test_a_plan_that_is_declared_after_the_first_verdict_comes_too_late():
    before, now = runs(seeds=range(3)), runs(seeds=range(5), done=range(3))
    assert len(late(now, (3, 5), sweep(before, looks=[]))) == 4


def test_a_first_look_at_which_nothing_can_be_decided_is_refused():
    looks.check((), runs())
    looks.check((2, 5), runs(seeds=range(5)))
    with pytest.raises(InputError, match=r"looks=\[1, 3\].*\b2 seeds\b"):
        looks.check((1, 3), runs())
    with pytest.raises(InputError, match=r"looks=\[3, 5\].*\b5 folds\b"):
        looks.check((3, 5), runs(folds=range(5)))
