"""The axes of a sweep, and the names of its configurations."""

import dataclasses
from pathlib import Path

import pytest

import simulated
from segtune.config import entry
from segtune.report import axes, planning, records


def record(number, label, *overrides, recipe="study"):
    """A run with these overrides. Args: label: what it recorded as its label."""
    config = entry.plain(entry.compose([*overrides, f"recipe={recipe}", f"seed={number}"]))
    one = simulated.record(config, {"P01": 0.5}, simulated.curves(2))
    options = {"recipe": recipe, "augment": "full", "average": "ema", "scheduler": "constant"}
    return dataclasses.replace(one, run_id=str(number), result={**one.result, "options": options, "label": label})


def names(*records):
    found, of_sweep = axes.with_levels(records)
    cells = axes.group(found)
    return list(of_sweep), [
        cell.name for record in records for cell in cells if record.run_id in {r.run_id for r in cell.records}
    ]


STUDY = "loss=bce_dice split=0.2 reg=none batch=15"
STRONG = "loss=bce_dice split=0.2 reg=none batch=10 recipe=strong"


def test_configurations_of_two_recipes_are_named_by_them_and_not_by_all_that_the_recipe_sets():
    found = names(record(0, STUDY), record(1, STRONG, recipe="strong"))
    assert found == (["recipe"], ["recipe=study", "recipe=strong"])


def test_what_differs_within_a_recipe_is_named_beside_it():
    runs = [
        record(0, STUDY),
        record(1, STRONG, recipe="strong"),
        record(2, STRONG.replace("loss=bce_dice", "loss=focal"), "loss=focal", recipe="strong"),
    ]
    of_sweep, found = names(*runs)
    assert of_sweep == ["recipe", "loss"]
    assert found == ["recipe=study loss=bce_dice", "recipe=strong loss=bce_dice", "recipe=strong loss=focal"]


ABLATION = [
    ("", ()),
    (" augment=none", ("augment=none",)),
    (" average=none", ("average=none",)),
    (" scheduler.warmup_steps=0", ("scheduler.warmup_steps=0",)),
]


@pytest.mark.parametrize("n", [3, 4])
def test_configurations_that_differ_from_one_in_a_single_axis_are_named_by_it(n):
    runs = [record(i, STRONG + said, *given, recipe="strong") for i, (said, given) in enumerate(ABLATION[:n])]
    of_sweep, found = names(*runs)
    assert len(of_sweep) == n - 1
    if n == 4:
        assert found == ["recipe=strong", "augment=none", "average=none", "scheduler.warmup_steps=0"]
    else:  # with two axes, both are named
        assert found[1:] == ["augment=none average=ema", "augment=full average=none"]


def test_a_full_grid_is_named_by_all_of_its_axes():
    grid = [(loss, batch, average) for loss in ("bce", "focal") for batch in (1, 15) for average in ("none", "ema")]
    words = [f"loss={loss} batch={batch} average={average}" for loss, batch, average in grid]
    runs = [
        record(i, f"{said} split=0.2 reg=none", f"loss={loss}", f"batch='{batch}'", f"average={average}")
        for i, (said, (loss, batch, average)) in enumerate(zip(words, grid, strict=True))
    ]
    assert names(*runs)[1] == words


def test_the_command_for_all_patients_says_what_validation_chose_in_most_runs():
    runs = []
    for number, keeps in enumerate((True, True, False)):
        one = record(number, f"{STRONG} score.tta=auto split.seed=1", "score.tta=auto", recipe="strong")
        score = {"tta": False, "largest_component": keeps}
        runs.append(dataclasses.replace(one, result={**one.result, "score": score}))
    (cell,) = axes.group(axes.with_levels(runs)[0])
    nothing = {"commands": (), "studies": (), "n_listed": 3, "records": (), "cells": (), "axes": (), "unfinished": {}}
    sweep = records.Sweep(folders=(Path("outputs/strong"),), failures=(), left_out=(), plan=records.Plan(), **nothing)
    words = planning.final_command(cell, sweep).split()
    assert {"split=all", "split.chosen_from=outputs/strong", "score.largest_component=true", "score.tta=false"} <= {*words}
    assert not {"score.tta=auto", "split.seed=1", "split=0.2"} & {*words}
    assert not [word for word in words if word.startswith(("seed=", "outputs="))]
