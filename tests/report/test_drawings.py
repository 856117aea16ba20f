"""The data behind figures of a report: the answer, the map of verdicts, and Dice against cost."""

import dataclasses

import numpy as np
import pytest

import simulated
from segtune.report import drawings, reading, sentences
from segtune.report.analysis import Analysis
from segtune.report.axes import group

MEANS = {"bce_dice": 0.85, "dice": 0.84, "bce": 0.6}


@pytest.fixture
def analysis(tmp_path):
    """Three losses in five folds, of which one is clearly worse."""
    random, runs = np.random.default_rng(0), []
    for loss, mean in MEANS.items():
        for fold in range(5):
            patients = simulated.PATIENTS[fold * 3 : fold * 3 + 3]
            dice = {patient: float(np.clip(mean + random.normal(0, 0.03), 0, 1)) for patient in patients}
            config = simulated.config(loss=loss, by="kfold", fold=fold, n_folds=5)
            runs.append((simulated.write_run(tmp_path, config, dice, simulated.curves(2), pictures=False), []))
    return Analysis(reading.read([simulated.write_sweep(tmp_path, "sim", runs)]))


def arguments(drawn):
    return drawn[0].args, drawn[0].keywords


def test_the_first_figure_has_the_answer_as_its_title_and_every_patient_as_a_dot(analysis):
    ((rows,), about) = arguments(drawings._forest(analysis)["cells"])
    assert about["title"] == sentences.answer(analysis.groups[0])
    assert [row.special for row in rows] == [True, True, False]
    assert all(len(row.points) == 15 for row in rows)
    assert rows[0].mean == pytest.approx(np.mean(rows[0].points))


def test_the_map_of_verdicts_agrees_with_the_comparisons_and_mirrors_itself(analysis):
    ((names, verdicts), _) = arguments(drawings._significance(analysis)["significance"])
    assert names[-1] == "loss=bce"
    assert verdicts[-1][:2] == ["worse", "worse"]
    opposite = {"worse": "better", "better": "worse", "unclear": "unclear", "equivalent": "equivalent"}
    for i in range(3):
        for j in range(3):
            if i != j:
                assert verdicts[j][i] == opposite[verdicts[i][j]]
    worse = {(one.worse.name, (one.a if one.worse is one.b else one.b).name) for one in analysis.comparisons if one.worse}
    assert {(names[i], names[j]) for i in range(3) for j in range(3) if verdicts[i][j] == "worse"} == worse


def test_cost_is_drawn_only_where_it_differs(analysis):
    assert drawings._cost(analysis) == {}
    slow = [
        dataclasses.replace(one, result={**one.result, "seconds": 40.0 if one.facts.loss == "bce" else 20.0})
        for one in analysis.sweep.records
    ]
    sweep = dataclasses.replace(analysis.sweep, records=tuple(slow), cells=group(slow))
    ((points,), _) = arguments(drawings._cost(Analysis(sweep))["cost"])
    assert {name: seconds for name, seconds, _, _ in points} == {"loss=bce_dice": 20, "loss=dice": 20, "loss=bce": 40}
