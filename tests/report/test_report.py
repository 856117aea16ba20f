"""Reports of simulated sweeps: every number is recomputed from the runs' files, and names from the data stay text."""

import csv
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests

import simulated
from conftest import resign
from segtune.errors import InputError
from segtune.report import drawings, reading, tables
from segtune.report.__main__ import report_sweeps, study_of
from segtune.report.analysis import Analysis
from segtune.report.penalties import lambda_series
from segtune.report.sentences import sentences, unlike_code
from segtune.runs import identity, layout
from segtune.runs.state import write_status
from segtune.runs.sweep import read_sweep, write_sweep
from segtune.studies import contrasts, right_ventricle

SHARES, SEEDS = (0.2, 0.4), (0, 1, 2)
NASTY = "<script>alert('$x$')</script>"


def grid(root: Path, *, seeds=SEEDS, patients=simulated.PATIENTS, name="sim", losses=("bce", "focal", "bce_dice"), **settings):
    """A full grid of losses and shares, bce_dice ahead by 0.1."""
    random = np.random.default_rng(0)
    effects, runs = random.normal(0, 0.05, len(patients)), []
    for loss in losses:
        for share in SHARES:
            for seed in seeds:
                config = simulated.config(loss=loss, share=share, by="nested", seed=seed, **settings)
                mean = 0.7 if loss == "bce_dice" else 0.6
                dice = simulated.scores(mean, random, patients=patients, effects=effects)
                curve = simulated.curves(15, last=mean + 0.01 * random.random(), rough=0.02)
                run = simulated.write_run(root, config, dice, curve)
                runs.append((run, [f"loss={loss}", f"split='{share}'", f"seed={seed}", f"outputs={NASTY}"]))
    return simulated.write_sweep(root, name, runs)


def rows(folder, table):
    with (folder / "tables" / f"{table}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = grid(tmp_path_factory.mktemp("report"))
    report_sweeps([folder])
    return folder


def raw(folder, run):
    """patient -> mean Dice after the last epoch, and the history; read without segtune."""
    place = folder.parent / "runs" / run
    found = {}
    with (place / "slices.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["which"] == "last":
                found.setdefault(row["patient"], []).append(float(row["dice"]))
    with (place / "history.csv").open(newline="") as file:
        history = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    return {patient: sum(of) / len(of) for patient, of in found.items()}, history


def test_every_cell_s_numbers_are_recomputed_from_the_runs_csv_files(folder):
    cells = rows(folder, "cells")
    assert len(cells) == 6
    for row in cells:
        found = [raw(folder, run) for run in row["run_ids"].split()]
        assert len(found) == int(row["n_runs"]) == int(row["n_seeds"]) == 3
        by_patient = np.array([[dice[patient] for patient in simulated.PATIENTS] for dice, _ in found])
        assert float(row["dice"]) == pytest.approx(by_patient.mean(), abs=1e-12)
        gaps = [history[-1]["train_dice"] - history[-1]["val_dice"] for _, history in found]
        assert float(row["gap"]) == pytest.approx(np.mean(gaps), abs=1e-12)
        losses = [[epoch["val_loss"] for epoch in history] for _, history in found]
        assert float(row["roughness_val_loss"]) == pytest.approx(
            np.mean([np.abs(np.diff(c, 2)).mean() / np.ptp(c) for c in losses]), abs=1e-12
        )
        dice = [np.array([epoch["val_dice"] for epoch in history]) for _, history in found]
        assert float(row["epochs_to_90"]) == pytest.approx(
            np.mean([np.argmax(c >= 0.9 * c.max()) + 1 for c in dice]), abs=1e-12
        )
        assert float(row["dice_low"]) < float(row["dice"]) < float(row["dice_high"])


def test_a_difference_is_the_paired_mean_over_patients(folder):
    found = rows(folder, "comparisons")
    assert len(found) == 15
    of = {row["cell"]: [raw(folder, run)[0] for run in row["run_ids"].split()] for row in rows(folder, "cells")}
    for row in found:
        a, b = (np.array([[dice[patient] for patient in simulated.PATIENTS] for dice in of[row[side]]]) for side in "ab")
        assert float(row["difference"]) == pytest.approx(a.mean() - b.mean(), abs=1e-12)
        assert float(row["low"]) < float(row["difference"]) < float(row["high"])
        x = (a.mean(0) - b.mean(0)).var(ddof=1) / 16
        r = (a.mean(1).var(ddof=1) + b.mean(1).var(ddof=1)) / 3
        half = (float(row["high"]) - float(row["low"])) / 2
        assert half >= scipy.stats.t.ppf(0.975, float(row["df"])) * math.sqrt(max(x, r)) * (1 - 1e-9)


def test_an_axis_value_is_compared_over_configurations_that_are_equal_in_the_rest(folder):
    found = next(row for row in rows(folder, "levels") if (row["axis"], row["level"]) == ("loss", "focal"))
    of = {(row["loss"], row["split"]): [raw(folder, run)[0] for run in row["run_ids"].split()] for row in rows(folder, "cells")}
    mean = {key: np.mean([list(dice.values()) for dice in runs]) for key, runs in of.items()}
    difference = np.mean([mean["focal", split] - mean["bce_dice", split] for split in ("0.2", "0.4")])
    assert (found["against"], found["n_pairs"]) == ("bce_dice", "2")
    assert float(found["effect"]) == pytest.approx(difference, abs=1e-12)


def test_the_best_are_the_planted_ones(folder):
    kept = {row["loss"] for row in rows(folder, "cells") if row["may_be_best"] == "true"}
    assert kept == {"bce_dice"}
    assert {row["may_be_best"] for row in rows(folder, "cells")} == {"true", "false"}
    assert {row["group"] for row in rows(folder, "cells")} == {"1"}
    analysis = Analysis(reading.read([folder]))
    assert (len(analysis.cells), len(analysis.may_be_best)) == (6, 2)
    assert analysis.variance[0].name == "loss"
    said = sentences(analysis)
    assert re.search(r"\b2 of 6\b.*\b95 %.*bce_dice.*\b4\b", said[0])
    assert "bce_dice" in said[1]
    assert all(row["verdict"] == "not enough evidence" and not row["worse"] for row in rows(folder, "comparisons"))
    assert any("2 more seeds" in line for line in said)  # three seeds drop configurations, but call no difference clear


def test_five_seeds_state_clear_differences(tmp_path):
    folder = grid(tmp_path, seeds=range(5))
    report_sweeps([folder])
    found = rows(folder, "comparisons")
    worse = {row["worse"] for row in found if row["worse"]}
    assert {row["verdict"] for row in found if row["worse"]} == {"clearly worse"}
    assert {name.split()[0] for name in worse} == {"loss=bce", "loss=focal"}
    assert all(row["worse"] in (row["a"], row["b"]) for row in found if row["worse"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"seeds": (0,)}, "4 more seeds"), ({"patients": simulated.PATIENTS[:5]}, "3 more validation patients")],
)
@pytest.mark.slow
def test_one_seed_or_five_patients_say_all_that_is_missing(settings, words, tmp_path):
    folder = grid(tmp_path, **settings)
    report_sweeps([folder])
    assert {row["verdict"] for row in rows(folder, "comparisons")} == {"not enough evidence"}
    analysis = Analysis(reading.read([folder]))
    one_seed = settings == {"seeds": (0,)}
    if one_seed:
        assert len(analysis.may_be_best) == 6
    else:
        assert {"bce_dice"} <= {cell.facts.loss for cell in analysis.may_be_best}
        assert len(analysis.may_be_best) < 6
    assert all(math.isnan(one.omega_squared) for one in analysis.variance) == one_seed
    said = sentences(analysis)
    assert any(words in line for line in said)
    html = (folder / "report.html").read_text()
    assert ("how much is chance is unknown" in html) == one_seed
    assert any("seed=0,1,2,3,4" in line for line in said) == one_seed
    assert any("split=kfold" in line for line in said) == (not one_seed)


# Groups, plans and looks


def test_configurations_are_ranked_only_among_those_on_the_same_patients(tmp_path):
    random, runs = np.random.default_rng(0), []
    for share, patients in ((0.2, simulated.PATIENTS[:3]), (0.6, simulated.PATIENTS[:9])):
        for loss, mean in (("bce", 0.9), ("focal", 0.5)):
            for seed in range(5):
                config = simulated.config(loss=loss, share=share, seed=seed)
                dice = simulated.scores(mean, random, patients=patients)
                runs.append((simulated.write_run(tmp_path, config, dice, simulated.curves(15), pictures=False), []))
    folder = simulated.write_sweep(tmp_path, "sides", runs)
    report_sweeps([folder])
    groups = {row["cell"]: row["group"] for row in rows(folder, "cells")}
    assert sorted(groups.values()) == ["1", "1", "2", "2"]
    assert all(groups[row["a"]] == groups[row["b"]] == row["group"] for row in rows(folder, "comparisons"))
    assert len(rows(folder, "comparisons")) == 2
    assert "same patients" in (folder / "report.html").read_text()


def planned(root, seeds, *, name="planned", waiting=(), looks=(), added=(), mean=0.5, n_patients=12):
    """A sweep of bce_dice at 0.8 and focal at `mean`. Args: waiting: seeds whose runs of focal are not finished."""
    random, runs, listed = np.random.default_rng(0), {}, []
    for position, seed in enumerate(seeds):
        for loss, dice in (("bce_dice", 0.8), ("focal", mean)):
            config = simulated.config(loss=loss, seed=seed)
            values = simulated.scores(dice, random, patients=simulated.PATIENTS[:n_patients])
            if seed in waiting and loss == "focal":
                run = identity.run_id(config)
            else:
                run = simulated.write_run(root, config, values, simulated.curves(15), pictures=False)
            runs[loss, seed] = run
            listed.append({"run_id": run, "overrides": [f"loss={loss}", f"seed={seed}"], "axes": {}, "replicate": position})
    command = ["python", "-m", "segtune", "loss=bce_dice,focal", f"seed={','.join(map(str, seeds))}", "-m"]
    late = [runs[loss, seed] for seed in added for loss in ("bce_dice", "focal")]
    return write_sweep(root / name, command=command, runs=listed, looks=looks, added=late)


def test_a_sweep_is_judged_once_when_it_is_complete(tmp_path):
    analysis = Analysis(reading.read([planned(tmp_path, range(5), waiting=(4,))]))
    assert (analysis.groups[0].verdicts.n_reached, len(analysis.may_be_best)) == (0, 2)
    assert [one.verdict for one in analysis.comparisons] == ["not enough evidence"]
    assert math.isfinite(analysis.comparisons[0].low)
    said = " ".join(sentences(analysis))
    assert "1 run" in said
    assert "looks=[3,5,10]" in said
    whole = Analysis(reading.read([planned(tmp_path / "whole", range(5))]))
    assert [cell.facts.loss for cell in whole.may_be_best] == ["bce_dice"]
    assert whole.comparisons[0].worse.facts.loss == "focal"


def test_a_difference_of_unequal_folds_is_that_of_the_common_ones(tmp_path):
    """Cross-validation in which one configuration has only the two easy folds."""
    random, runs = np.random.default_rng(0), []
    for loss, folds in (("bce", range(5)), ("focal", range(2))):
        for fold in folds:
            patients = [f"F{fold}{i}" for i in range(3)]
            dice = simulated.scores(0.9 if fold < 2 else 0.3, random, patients=patients, residual_sd=0.001, run_sd=0.001)
            config = simulated.config(loss=loss, fold=fold)
            runs.append((simulated.write_run(tmp_path, config, dice, simulated.curves(15), pictures=False), []))
    analysis = Analysis(reading.read([simulated.write_sweep(tmp_path, "folds", runs)]))
    (one,) = analysis.comparisons
    assert abs(one.difference) < 0.01
    assert one.low < one.difference < one.high
    assert len(analysis.may_be_best) == 2
    assert any("lacks folds 2, 3, 4" in line for line in sentences(analysis))


def test_a_failed_run_does_not_stop_the_verdict(tmp_path):
    folder = planned(tmp_path, range(5), waiting=(4,))
    run = next(run["run_id"] for run in read_sweep(folder)["runs"] if not (tmp_path / "runs" / run["run_id"]).exists())
    write_status(_made(tmp_path / "runs" / run), "failed", run_id=run, error={"kind": "error", "message": "x"})
    analysis = Analysis(reading.read([folder]))
    assert [cell.facts.loss for cell in analysis.may_be_best] == ["bce_dice"]


def test_a_declared_look_decides_before_the_sweep_is_complete_and_what_left_stays_out(tmp_path):
    analysis = Analysis(reading.read([planned(tmp_path, range(10), waiting=range(5, 10), looks=(3, 5, 10))]))
    verdicts = analysis.groups[0].verdicts
    assert (verdicts.n_looks, verdicts.n_reached, verdicts.left_at) == (3, 2, (0, 1))
    assert [cell.facts.loss for cell in analysis.may_be_best] == ["bce_dice"]
    assert any("3, 5, 10" in line and "2 of 3" in line for line in sentences(analysis))


def test_a_plan_goes_on_when_its_last_seed_has_failed_everywhere(tmp_path):
    folder = planned(tmp_path, range(5), looks=(3, 5))
    for run in read_sweep(folder)["runs"]:
        if run["replicate"] == 4:
            place = tmp_path / "runs" / run["run_id"]
            (place / layout.RESULT).unlink()
            write_status(place, "failed", run_id=run["run_id"], error={"kind": "error", "message": "x"})
    assert Analysis(reading.read([folder])).groups[0].verdicts.n_reached == 2


def test_a_look_that_the_sweep_does_not_list_yet_is_not_reached(tmp_path):
    analysis = Analysis(reading.read([planned(tmp_path, range(3), looks=(3, 5))]))
    assert (analysis.groups[0].verdicts.n_reached, len(analysis.may_be_best)) == (1, 1)


def test_what_left_at_an_early_look_is_called_clearly_worse_at_a_later_one(tmp_path):
    analysis = Analysis(reading.read([planned(tmp_path, range(10), looks=(3, 5, 10))]))
    assert analysis.groups[0].verdicts.left_at == (0, 1)
    assert [one.verdict for one in analysis.comparisons] == ["clearly worse"]
    assert "Clear differences between two configurations: 1 of 1." in sentences(analysis)


def test_configurations_are_ranked_on_the_patients_that_all_have(tmp_path):
    """bce has no defined Dice of the hard patients, so that its own mean is the highest."""
    random, runs = np.random.default_rng(0), []
    for loss, mean in (("bce", 0.7), ("focal", 0.8)):
        for seed in range(5):
            dice = simulated.scores(mean, random, residual_sd=0.01, run_sd=0.001)
            for patient in simulated.PATIENTS[:6]:
                dice[patient] = math.nan if loss == "bce" else 0.2
            config = simulated.config(loss=loss, seed=seed)
            runs.append((simulated.write_run(tmp_path, config, dice, simulated.curves(15), pictures=False), []))
    analysis = Analysis(reading.read([simulated.write_sweep(tmp_path, "hard", runs)]))
    assert [cell.facts.loss for cell, _ in analysis.cells] == ["focal", "bce"]
    assert analysis.cells[1][1].value > analysis.cells[0][1].value
    assert [cell.facts.loss for cell in analysis.may_be_best] == ["focal"]
    assert analysis.best.facts.loss == "focal"


def test_seeds_added_without_a_plan_are_shown_and_decide_nothing(tmp_path):
    """Two seeds cannot tell the configurations apart; with eight more they would be."""
    close = {"mean": 0.77, "n_patients": 6}
    alone = Analysis(reading.read([planned(tmp_path / "a", range(2), **close)]))
    assert len(alone.may_be_best) == 2
    added = Analysis(reading.read([planned(tmp_path / "b", range(40), added=range(2, 40), **close)]))
    free = Analysis(reading.read([planned(tmp_path / "c", range(40), **close)]))
    assert len(free.may_be_best) == 1
    assert len(added.may_be_best) == 2
    assert added.cells[0][1].n_seeds == 40
    assert any("76 runs" in line and "nothing" in line and "looks=" in line for line in sentences(added))


def test_a_sweep_of_one_run_and_an_unfinished_one_are_reported(tmp_path):
    runs = [
        (
            simulated.write_run(
                tmp_path, simulated.config(), simulated.scores(0.7, np.random.default_rng(0)), simulated.curves(1)
            ),
            [],
        )
    ]
    folder = simulated.write_sweep(tmp_path, "one", [*runs, ("0123456789ab", ["loss=bce"])])
    write_status(
        _made(tmp_path / "runs" / "fedcba987654"),
        "failed",
        run_id="fedcba987654",
        error={"kind": "data", "message": f"{NASTY}\nsecond line"},
    )
    folder = simulated.write_sweep(tmp_path, "one", [*runs, ("0123456789ab", []), ("fedcba987654", [])])
    report_sweeps([folder])
    html = (folder / "report.html").read_text()
    assert "1 of 3" in html
    analysis = Analysis(reading.read([folder]))
    assert (len(analysis.cells), analysis.comparisons) == (1, [])
    assert all(line in html for line in sentences(analysis))
    assert "&lt;script&gt;alert" in html
    assert "\nsecond line" in html


def _made(path):
    path.mkdir(parents=True)
    return path


def test_a_sweep_without_a_result_is_explained(tmp_path):
    folder = simulated.write_sweep(tmp_path, "none", [("0123456789ab", [])])
    with pytest.raises(InputError, match=rf"^{folder}: .*\b1 run"):
        report_sweeps([folder])


class Page(HTMLParser):
    """Collects tags, attributes and scripts of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.scripts, self.inside = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))
        self.inside = tag == "script"

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.scripts.append(data)


def test_names_messages_and_labels_with_markup_are_shown_as_text(tmp_path):
    patients = (NASTY, *simulated.PATIENTS[1:])
    folder = grid(tmp_path, patients=patients, name="a<b>", losses=("bce",))
    report_sweeps([folder])
    text = (folder / "report.html").read_text()
    found = Page(text)
    assert found.tags.count("script") == 3  # the data, Plotly, the page's own
    assert NASTY not in text
    assert json.loads(found.scripts[0])["runs"]
    assert (folder / "figures" / "sides.svg").exists()


def test_the_page_is_whole_without_a_network(folder):
    text = (folder / "report.html").read_text()
    without_plotly = re.sub(r'<script type="text/plain" id="plotly">.*?</script>', "", text, flags=re.DOTALL)
    assert len(without_plotly) < len(text) - 4_000_000
    found = Page(text)
    for tag, attributes in found.attributes:
        for name in ("src", "href"):
            if target := attributes.get(name):
                assert target.startswith(("#", "data:", "../runs/", "tables/", "figures/")), (tag, target)
                if target.startswith(("../runs/", "tables/", "figures/")):
                    assert (folder / target).exists(), target
        if tag == "img":
            assert len(attributes["alt"]) > 20
    assert "@import" not in without_plotly
    assert not re.search(r"url\((?!data:)", without_plotly)


def test_every_figure_is_there_as_svg_and_png(folder):
    names = {path.stem for path in (folder / "figures").glob("*.svg")}
    assert names == {path.stem for path in (folder / "figures").glob("*.png")}
    assert {"cells", "curves", "curves_unscaled", "patients", "sides"} <= names


@pytest.mark.slow
def test_several_sweeps_are_reported_together(tmp_path):
    first, second = grid(tmp_path, name="a", losses=("bce",)), grid(tmp_path, name="b", losses=("bce_dice",))
    written = report_sweeps([first, second])
    assert written == tmp_path.resolve() / "a+b" / "report.html"
    assert {row["level"] for row in rows(written.parent, "levels") if row["axis"] == "loss"} == {"bce", "bce_dice"}


def test_a_damaged_run_is_named_and_left_out(tmp_path, capsys):
    folder = grid(tmp_path, losses=("bce",))
    run = rows_of(folder)[0]
    (folder.parent / "runs" / run / "slices.csv").write_text("abc\n1\n")
    report_sweeps([folder])
    assert re.search(rf"^{run}\b.*slices\.csv", capsys.readouterr().out, flags=re.MULTILINE)
    assert [name for name, _ in reading.read([folder]).left_out] == [run]
    assert "5 of 6" in (folder / "report.html").read_text()


def rows_of(folder):
    return [run["run_id"] for run in read_sweep(folder)["runs"]]


@pytest.mark.slow
def test_a_regulariser_s_response_is_drawn_with_its_calibrated_lambda(tmp_path):
    random, runs = np.random.default_rng(0), []
    for value in (0.0, 0.1, 0.001, 0.00001):
        config = simulated.config(share=0.4, l2=value)
        runs.append(
            (
                simulated.write_run(
                    tmp_path, config, simulated.scores(0.6, random), simulated.curves(15, ratio=1000 * value), norm=40.0
                ),
                [],
            )
        )
    folder = simulated.write_sweep(tmp_path, "l2", runs)
    report_sweeps([folder])
    html = (folder / "report.html").read_text()
    assert re.search(r'alt="[^"]*\blambda_l2\b[^"]*\bbce_dice\b[^"]*\b40 %', html)
    assert (folder / "figures" / "response_1.svg").exists()


def test_the_report_needs_no_torch(tmp_path):
    folder = grid(tmp_path, losses=("bce",))
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r}); import without_torch; from pathlib import Path; "
        f"from segtune.report.__main__ import report_sweeps, study_of; report_sweeps([Path({str(folder)!r})])"
    )
    ended = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_a_patient_undefined_in_some_runs_is_left_out_of_the_cell_and_the_rest_counts_whole(tmp_path):
    random, runs = np.random.default_rng(0), []
    for seed in range(4):
        dice = simulated.scores(0.6, random)
        if seed < 2:
            dice["P05"] = float("nan")
        runs.append((simulated.write_run(tmp_path, simulated.config(seed=seed), dice, simulated.curves(15)), []))
    (cell,) = reading.read([simulated.write_sweep(tmp_path, "x", runs)]).cells
    (block,) = cell.scores.blocks
    assert block.values.shape == (4, 15)
    assert "P05" not in block.patients


DAMAGE = {
    "half of the slices": ("slices.csv", lambda text: "\n".join(text.splitlines()[: len(text.splitlines()) * 3 // 4]) + "\n"),
    "no slices": ("slices.csv", lambda text: text.splitlines()[0] + "\n"),
    "slices twice": ("slices.csv", lambda text: text + "\n".join(text.splitlines()[1:]) + "\n"),
    "a Dice above one": (
        "slices.csv",
        lambda text: re.sub(r"(last,[^,]*,P01,ED,,0,0,[^,]*),[^,]*,", r"\1,7.5,", text, count=1),
    ),
    "half of the history": ("history.csv", lambda text: "\n".join(text.splitlines()[:8]) + "\n"),
    "a seed that is text": ("result.json", lambda text: text.replace('"seed": 0', '"seed": "a"')),
    "patients that are a number": ("result.json", lambda text: re.sub(r'"val": \[[^\]]*\]', '"val": 5', text)),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_files_that_do_not_fit_each_other_are_no_run(name, tmp_path):
    folder = grid(tmp_path, losses=("bce",))
    run = rows_of(folder)[0]
    file, damage = DAMAGE[name]
    path = folder.parent / "runs" / run / file
    path.write_text(damage(path.read_text()))
    resign(path.parent)
    sweep = reading.read([folder])
    ((left_out, why),) = sweep.left_out
    assert left_out == run
    assert file in why
    assert len(sweep.records) == 5


def test_a_copy_of_a_sweep_makes_no_more_seeds(tmp_path):
    first, second = grid(tmp_path / "a", seeds=(0,)), grid(tmp_path / "b", seeds=(0,))
    assert {len(cell.records) for cell in reading.read([first, second]).cells} == {1}


def test_the_same_label_in_two_data_sets_is_two_patients(tmp_path):
    random, runs = np.random.default_rng(0), []
    for n_patients, print_ in ((4, "aaaaaaaaaaaa"), (5, "bbbbbbbbbbbb")):
        config = simulated.config(data__n_patients=n_patients)
        run = simulated.write_run(tmp_path, config, simulated.scores(0.6, random), simulated.curves(15))
        path = tmp_path / "runs" / run / "result.json"
        path.write_text(path.read_text().replace('"simulated"', f'"{print_}"'))
        resign(path.parent)
        runs.append((run, []))
    analysis = Analysis(reading.read([simulated.write_sweep(tmp_path, "two", runs)]))
    assert [len(group.cells) for group in analysis.groups] == [1, 1]  # they share no patient
    assert analysis.comparisons == []


def test_settings_that_differ_in_a_null_alone_have_names_of_their_own(tmp_path):
    random, runs = np.random.default_rng(0), []
    for alpha in (None, 0.25):
        config = simulated.config(loss="focal")
        config["loss"]["alpha"] = alpha
        runs.append((simulated.write_run(tmp_path, config, simulated.scores(0.6, random), simulated.curves(15)), []))
    names = {cell.name for cell in reading.read([simulated.write_sweep(tmp_path, "null", runs)]).cells}
    assert names == {"loss=focal loss.alpha=null", "loss=focal loss.alpha=0.25"}


@pytest.mark.slow
def test_no_cell_of_the_tables_is_a_formula_and_its_patients_are_found_all_the_same(tmp_path):
    names = ["=1+1", "@a", "+b", "-c+d", "\te", "'=f"]
    folder = grid(tmp_path, patients=names, losses=("bce", "focal"))
    report_sweeps([folder])
    assert reading.read([folder]).left_out == ()
    found = {row["patient"] for row in rows(folder, "patients")}
    assert found == {f"'{name}" for name in names}
    assert {cell[:1] for cell in tables.csv_of([{"=a": "=b", "c": -1.5}]).replace("\n", ",").split(",")} == {
        "'",
        "c",
        "-",
        "",
    }


@pytest.mark.slow
def test_what_a_foreign_run_says_is_printable_where_it_is_told(tmp_path, capsys):
    folder = grid(tmp_path, losses=("bce",))
    path = sorted((folder.parent / "runs").iterdir())[0] / layout.SLICES
    path.write_text(path.read_text().replace("last,", "last,\x1b[2J"))
    report_sweeps([folder])
    told = capsys.readouterr().out
    assert f"{path.parent.name} " in told
    assert [name for name, _ in reading.read([folder]).left_out] == [path.parent.name]
    assert "\x1b" not in told


def test_a_penalty_that_segtune_does_not_know_is_a_penalty_all_the_same(tmp_path):
    random, runs = np.random.default_rng(0), []
    for target in (None, "segtune.regularizers.l1", "lab.l1", "lab.huber"):
        penalty = {} if target is None else {"penalty": {"_target_": target, "_partial_": True}, "lambda": 0.1, "on": "kernels"}
        config = simulated.config() | {"reg": penalty}
        runs.append((simulated.write_run(tmp_path, config, simulated.scores(0.6, random), simulated.curves(15)), []))
    sweep = reading.read([simulated.write_sweep(tmp_path, "penalties", runs)])
    facts = {cell.levels["reg"]: (cell.facts.l1, cell.facts.l2) for cell in sweep.cells}
    assert facts["none"] == (0, 0)
    assert facts["l1 reg.lambda=0.1"] == (0.1, 0)
    assert all(math.isnan(value) for name in ("lab.l1 reg.lambda=0.1", "lab.huber reg.lambda=0.1") for value in facts[name])
    assert contrasts.pick(sweep.cells, l1=0.0, l2=0.0).levels["reg"] == "none"
    [(none, l1, _)] = lambda_series(sweep.cells)
    assert (none.levels["reg"], [cell.levels["reg"] for cell in l1.values()]) == ("none", ["l1 reg.lambda=0.1"])


def test_a_loss_of_the_users_own_is_not_the_one_of_the_same_name():
    own = simulated.config() | {"loss": {"_target_": "lab.bce"}}
    assert identity.axes(own)["loss"] == "lab.bce"
    assert identity.axes(simulated.config(loss="bce"))["loss"] == "bce"


# Claims of a published study


def study_words(folder):
    """Words of a study's claims in a report's page, its tables and its figures."""
    page = (folder / "report.html").read_text().replace(NASTY, "")
    page = re.sub(r'<script type="text/plain" id="plotly">.*?</script>|data:image[^"]*', "", page, flags=re.DOTALL)
    words = ("claim", "Claims", "Regularisers", "Dotted", "published", "undecided</span>")
    files = [path.name for path in (*(folder / "tables").iterdir(), *(folder / "figures").iterdir()) if "claim" in path.name]
    return {word for word in words if word in re.sub("<style>.*?</style>", "", page, flags=re.DOTALL)}, files


def test_a_sweep_of_another_study_has_no_claims_no_published_curves_and_no_empty_section(folder):
    assert study_words(folder) == (set(), [])
    assert "as published" not in figure_labels(folder)


def figure_labels(folder, claims=None):
    """The labels in the legend of the figure of curves."""
    sweep = reading.read([folder])
    make, _ = drawings.draw(Analysis(sweep, study_of(sweep, claims)), "x")["curves"]
    return " ".join(text.get_text() for text in make().legends[0].get_texts())


@pytest.mark.slow
def test_a_report_judges_a_study_when_asked_and_removes_its_verdicts_when_asked_not_to(tmp_path):
    folder = grid(tmp_path)
    report_sweeps([folder], claims="right_ventricle")
    words, files = study_words(folder)
    assert {"Claims", "Dotted", "published"} <= words
    assert "Regularisers" not in words
    assert "claims.csv" in files
    assert {"claim_05.svg", "claim_05.png"} <= {*files}
    assert "as published" in figure_labels(folder, "right_ventricle")
    assert len({row["claim"] for row in rows(folder, "claims")}) == 16
    report_sweeps([folder], claims="none")
    assert study_words(folder) == (set(), [])


def test_a_named_study_is_judged_by_itself_and_only_if_all_sweeps_are_named_ones(tmp_path):
    named, other = grid(tmp_path, name="nested", losses=("bce", "focal")), grid(tmp_path, name="mine", losses=("bce_dice",))
    assert study_of(reading.read([named]), None) is right_ventricle.STUDY
    assert study_of(reading.read([named]), "none") is None
    assert study_of(reading.read([named, other]), None) is None
    assert study_of(reading.read([other]), "right_ventricle") is right_ventricle.STUDY


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["python", "-m", "segtune", "study=claims", "-m"], "claims"),
        (["python", "-m", "segtune", "study=claims", "name=x", "study='long'", "-m"], "long"),
        (["python", "-m", "segtune", "loss=bce,focal", "-m"], ""),
        ([], ""),
    ],
)
def test_the_study_of_a_sweep_is_the_one_in_its_command(command, name):
    assert reading.named_study(command) == name
    assert "" not in right_ventricle.SWEEPS


@pytest.mark.parametrize("wrong", ["left_ventricle", "", True, ["right_ventricle"]])
def test_a_wrong_study_is_refused_with_the_options(wrong, tmp_path):
    with pytest.raises(InputError, match=r"claims=.*right_ventricle.*none"):
        report_sweeps([grid(tmp_path, losses=("bce",), seeds=(0,))], claims=wrong)


@pytest.mark.slow
def test_claims_and_comparisons_are_two_families(tmp_path):
    folder = grid(tmp_path)
    sweep = reading.read([folder])
    alone, judged = Analysis(sweep), Analysis(sweep, right_ventricle.STUDY)
    assert [one.verdict for one in alone.comparisons] == [one.verdict for one in judged.comparisons]
    report_sweeps([folder], claims="right_ventricle")
    found = {row["claim"]: row for row in rows(folder, "claims") if row["p_claim"]}
    assert found
    p = [float(row["p_claim"]) for row in found.values()]
    expected = multipletests(p, method="holm")[1]
    assert [float(row["p_holm"]) for row in found.values()] == pytest.approx(list(expected), rel=1e-12)


def test_runs_of_one_configuration_that_were_made_with_different_code_are_named(tmp_path):
    """They differ in the content of a module of the user's own, which no version of segtune tells."""
    sweep = reading.read([grid(tmp_path, seeds=range(4), losses=("bce",))])
    alike = sweep.cells[0].records
    assert len(alike) == 4
    records = [
        replace(record, result={**record.result, "inputs": {"data": "d", "mylosses": "old" if number < 3 else "new"}})
        for number, record in enumerate(alike)
    ]
    assert not [line for line in unlike_code(sweep.records) if "mylosses" in line]
    (line,) = [line for line in unlike_code(records) if "mylosses" in line]
    assert re.search(r"\b2\b.*\bmylosses\b.*\b3, 1\b", line)
