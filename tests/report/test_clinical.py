"""The report in mm and ml, recomputed from the runs' tables with csv and numpy alone, on masks with known traps."""

import csv
import json
import math
import re

import numpy as np
import pytest
import scipy.stats

import simulated
from conftest import resign, unsign
from segtune.metrics.score import DISTANCES, OVERLAPS, Pair, score_pairs
from segtune.plots import agreement
from segtune.report import clinical, drawings, reading, sentences, tables
from segtune.report.__main__ import report_sweeps
from segtune.report.analysis import Analysis
from segtune.runs import layout
from segtune.runs.sweep import read_sweep
from segtune.runs.tables import csv_text

PATIENTS = ("P01", "P02", "P03", "P04", "P05", "P06")
FOLDS = (PATIENTS[:4], PATIENTS[4:])  # of unequal size, so that the order of taking means matters
UNKNOWN, EMPTY = "P02", "P03"  # the first without a slice distance, the second without a structure in ES
NASTY = "<script>alert('$x$')</script>"
NOTHING, NOISY, GOOD = "bce", "focal", "bce_dice"  # how the networks of these losses predict here


def square(top, left, side, shape=(20, 20)):
    mask = np.zeros(shape, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def pairs(patients, predict):
    """Three slices of ED and ES of each patient; predict: expert's mask, patient, phase -> predicted mask."""
    for number, patient in enumerate(patients):
        for phase, side in (("ED", 9 + number % 3), ("ES", 0 if patient == EMPTY else 5 + number % 2)):
            for i in range(3):
                true = square(4, 4, side - i if side else 0)
                gap = None if patient == UNKNOWN else 8.0
                yield Pair(predict(true, patient, phase), true, patient, phase, i, (1.5, 1.0), gap)


def predictor(loss, random):
    def predict(true, patient, phase):
        shift = {GOOD: 0, NOISY: 2}[loss] + int(random.integers(0, 2))
        drawn = np.roll(true, (shift, -shift), (0, 1))
        return drawn | square(14, 14, int(random.integers(0, 3))) if loss == NOISY else drawn

    return (lambda true, patient, phase: np.zeros_like(true)) if loss == NOTHING else predict


def scored(patients, predict, tolerance_mm=2.0):
    found = score_pairs(list(pairs(patients, predict)), tolerance_mm=tolerance_mm)
    return {layout.SLICES: found.slices, layout.CASES: found.cases, layout.PATIENTS: found.patients}


def write(root, rows, **settings):
    """One run with these tables."""
    names = dict.fromkeys((row["patient"] for row in rows[layout.PATIENTS]), 0.5)
    return simulated.write_run(root, simulated.config(**settings), names, simulated.curves(3), tables=rows)


def sweep(root, losses=(NOTHING, NOISY, GOOD), folds=FOLDS, seeds=(0, 1)):
    random, runs = np.random.default_rng(0), []
    for loss in losses:
        for seed in seeds:
            for fold, patients in enumerate(folds):
                rows = scored(patients, predictor(loss, random))
                runs.append((write(root, rows, loss=loss, seed=seed, fold=fold, epochs=3), [f"loss={loss}"]))
    return simulated.write_sweep(root, "clinical", runs)


def analysed(folder):
    return Analysis(reading.read([folder]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A sweep with its report."""
    folder = sweep(tmp_path_factory.mktemp("clinical"))
    report_sweeps([folder])
    return folder


def table(folder, name):
    with (folder / "tables" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def raw(folder, cell, name):
    """The rows of the last epoch in one file of each run of a configuration; read without segtune."""
    found = []
    for run in next(row["run_ids"] for row in table(folder, "cells") if row["cell"] == cell).split():
        with (folder.parent / "runs" / run / name).open(newline="") as file:
            found.append([row for row in csv.DictReader(file) if row["which"] == "last"])
    return found


def by_patient(runs, column, phase=None):
    """patient -> its defined values, one for each run that has one."""
    found = {}
    for row in (row for run in runs for row in run if phase in (None, row.get("phase"))):
        found.setdefault(row["patient"], [])
        if not math.isnan(float(row[column])):
            found[row["patient"]].append(float(row[column]))
    return found


CELLS = tuple(f"loss={loss}" for loss in (NOTHING, NOISY, GOOD))


def test_the_metrics_are_those_that_runs_write():
    assert (clinical.OVERLAPS, clinical.DISTANCES) == (OVERLAPS, DISTANCES)


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_s_means_are_over_cases_then_runs_then_patients(folder, cell):
    runs, cases = raw(folder, cell, "patients.csv"), [row for run in raw(folder, cell, "cases.csv") for row in run]
    found = {row["metric"]: row for row in table(folder, "clinical") if row["cell"] == cell}
    assert set(found) == set(clinical.METRICS)
    for name, row in found.items():
        means = [np.mean(values) for values in by_patient(runs, name).values() if values]
        assert float(row["mean"]) == pytest.approx(np.mean(means), abs=1e-12)
        assert int(row["n_patients"]) == len(means)
        defined = [case for case in cases if not math.isnan(float(case[name]))]
        assert int(row["n_cases"]) == len(cases) == 24
        assert int(row["n_undefined"]) == len(cases) - len(defined)
        assert int(row["n_one_empty"]) == sum(int(case["n_one_empty"]) for case in defined)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    ("quantity", "file", "column", "phase"),
    [
        ("volume_ED_ml", "cases.csv", "volume_{}_ml", "ED"),
        ("volume_ES_ml", "cases.csv", "volume_{}_ml", "ES"),
        ("stroke_volume_ml", "patients.csv", "stroke_volume_{}_ml", None),
        ("ejection_fraction", "patients.csv", "ejection_fraction_{}", None),
    ],
)
def test_agreement_has_one_error_per_patient(folder, cell, quantity, file, column, phase):
    runs = raw(folder, cell, file)
    true, pred = ({p: v for p, v in by_patient(runs, column.format(of), phase).items() if v} for of in ("true", "pred"))
    errors = [np.mean(pred[patient]) - np.mean(true[patient]) for patient in true]
    found = next(row for row in table(folder, "agreement") if (row["cell"], row["quantity"]) == (cell, quantity))
    bias, sd = np.mean(errors), np.std(errors, ddof=1)
    assert [float(found[key]) for key in ("bias", "sd", "mean_absolute_error")] == pytest.approx(
        [bias, sd, np.mean(np.abs(errors))], abs=1e-9
    )
    assert float(found["sd_runs"]) == pytest.approx(math.sqrt(np.mean([np.var(v, ddof=1) for v in pred.values()])), abs=1e-9)
    assert {found[key] for key in ("lower", "upper", "lower_low", "lower_high", "upper_low", "upper_high")} == {""}
    assert (int(found["n_patients"]), int(found["n_undefined"])) == (5, 1)  # one has no known distance of slices


def agreeing(errors):
    """Patient rows whose ejection fractions have these errors."""
    blank = {clinical.column(name, of): math.nan for name in clinical.QUANTITIES for of in ("true", "pred", "pred_sd")}
    of = {"true": 0.5, "pred_sd": 0.01}
    named = {clinical.column("ejection_fraction", key): value for key, value in of.items()}
    return [blank | named | {clinical.column("ejection_fraction", "pred"): 0.5 + error} for error in errors]


def test_limits_of_agreement_come_from_six_patients_on():
    errors = np.array([0.02, -0.05, 0.1, 0.0, 0.03, -0.01])
    bias, sd = errors.mean(), errors.std(ddof=1)
    found = next(row for row in clinical.agreement_rows(agreeing(errors)) if row["quantity"] == "ejection_fraction")
    assert (found["lower"], found["upper"]) == pytest.approx((bias - 1.96 * sd, bias + 1.96 * sd))
    far, near = (scipy.stats.nct.ppf(q, 5, 1.96 * math.sqrt(6)) / math.sqrt(6) for q in (0.975, 0.025))
    ends = [found[key] for key in ("lower_low", "lower_high", "upper_low", "upper_high")]
    assert ends == pytest.approx([bias - far * sd, bias - near * sd, bias + near * sd, bias + far * sd], rel=1e-6)
    few = next(row for row in clinical.agreement_rows(agreeing(errors[:5])) if row["quantity"] == "ejection_fraction")
    assert math.isfinite(few["bias"])
    assert math.isnan(few["lower"])
    assert math.isnan(few["upper_high"])


def test_each_patient_s_row_is_recomputed_from_its_cases(folder):
    cell = f"loss={GOOD}"
    cases = [row for run in raw(folder, cell, "cases.csv") for row in run]
    found = {row["patient"]: row for row in table(folder, "clinical_patients") if row["cell"] == cell}
    assert set(found) == set(PATIENTS)
    for patient, row in found.items():
        mine = [case for case in cases if case["patient"] == patient]
        assert (int(row["n_runs"]), int(row["n_cases"])) == (2, len(mine)) == (2, 4)
        dice = [float(case["dice"]) for case in mine]
        assert float(row["dice"]) == pytest.approx(np.nanmean(dice), abs=1e-12)  # as many defined in each run here
        for phase in ("ED", "ES"):
            ml = [float(case["volume_pred_ml"]) for case in mine if case["phase"] == phase]
            if patient == UNKNOWN:
                assert row[f"volume_{phase}_pred_ml"] == ""
            else:
                assert float(row[f"volume_{phase}_pred_ml"]) == pytest.approx(np.mean(ml), abs=1e-9)


def test_a_model_that_predicts_nothing_is_the_worst_in_every_column(folder):
    found = {(row["cell"], row["metric"]): row for row in table(folder, "clinical")}
    for name in clinical.METRICS:
        nothing, *others = (float(found[cell, name]["mean"]) for cell in CELLS)
        assert nothing > max(others) if name in clinical.LENGTHS else nothing == 0 < min(others)
    assert int(found[CELLS[0], "dice"]["n_one_empty"]) == 22  # of 24: in two nothing is to be found
    errors = {(row["cell"], row["quantity"]): float(row["mean_absolute_error"]) for row in table(folder, "agreement")}
    for quantity in clinical.QUANTITIES:
        assert errors[CELLS[0], quantity] > max(errors[cell, quantity] for cell in CELLS[1:])
    assert all(row["dice"] == "0.0" for row in table(folder, "clinical_patients") if row["cell"] == CELLS[0])


def test_one_empty_is_in_the_mean_both_empty_and_an_unknown_geometry_are_counted_and_left_out(tmp_path):
    def predict(true, patient, phase):  # nothing where nothing is, and nothing at all of P01's ES
        return np.zeros_like(true) if (patient, phase) == ("P01", "ES") else true

    run = write(tmp_path, scored(PATIENTS, predict), epochs=3)
    found = {
        row["metric"]: row for row in tables.build(analysed(simulated.write_sweep(tmp_path, "x", [(run, [])])))["clinical"]
    }
    assert [found["dice"][key] for key in ("n_cases", "n_one_empty", "n_undefined", "n_patients")] == [12, 1, 1, 6]
    assert found["dice"]["mean"] == pytest.approx((0.5 + 5) / 6)  # P01 has 0 and 1
    assert [found["hd_mm"][key] for key in ("n_cases", "n_one_empty", "n_undefined", "n_patients")] == [12, 1, 3, 5]
    assert found["hd_mm"]["mean"] == pytest.approx(math.hypot(20 * 1.5, 20, 3 * 8) / 2 / 5)  # the stack's diagonal


def test_a_one_empty_case_is_named_beside_its_patient(folder):
    text = (folder / "report.html").read_text()
    assert "ES in 2 of 2 runs" in {row["one_empty"] for row in table(folder, "clinical_patients") if row["cell"] == CELLS[1]}
    best = re.search(r'id="best_patients".*?</table>', text, re.DOTALL)[0]
    assert best.count("<tr>") == 1 + len(PATIENTS)
    assert ">none</td>" in best


def part(text, name):
    """A section of the page."""
    return re.search(rf'<section id="{name}">.*?</section>', text, re.DOTALL)[0]


def test_the_page_says_its_rules_once_and_that_nothing_here_is_tested(folder):
    section = part((folder / "report.html").read_text(), "clinical")
    assert section.count("endpoint") == 1
    assert section.count("Empty masks:") == 1
    assert re.search(r"\btolerance\b[^.]*\b2 mm\b", section)
    assert not re.search(r"<b>\d+ of \d+ runs", section)  # that recorded none of it
    assert not re.search(r"\bp (patients|runs|Holm)\b|Wilcoxon", section)


def test_the_agreement_is_drawn_with_numbers_in_its_alternative_text(folder):
    assert {path.name for path in (folder / "figures").glob("agreement.*")} == {"agreement.png", "agreement.svg"}
    alt = re.search(r'alt="([^"]*\bbias\b[^"]*)"', (folder / "report.html").read_text())[1]
    found = next(row for row in table(folder, "agreement") if row["quantity"] == "ejection_fraction")
    assert re.search(rf"Ejection fraction[^.;]*\b{found['cell']}: bias {100 * float(found['bias']):.1f}\b", alt)


def test_a_figure_of_agreement_has_its_lines_where_the_numbers_are():
    one = agreement.Agreement([50, 60, 70], [52, 59, math.nan], [1, 2, math.nan], 0.5, -3.7, 4.7, (-90, -1), (2, 90))
    axes = agreement.agreement([("$a$", {"EF [percentage points]": one, "EDV [ml]": one})], title="x").axes
    assert [ax.get_title() for ax in axes] == [r"\$a\$" + "\nEF, 2 patients", r"\$a\$" + "\nEDV, 2 patients"]
    assert axes[0].get_xlabel().endswith("[percentage points]")
    heights = {line.get_ydata()[0] for line in axes[0].get_lines() if len(set(line.get_ydata())) == 1}
    assert {0, 0.5, -3.7, 4.7} <= heights
    low, high = axes[0].get_ylim()
    assert -6 < low < -3.7
    assert 4.7 < high < 7  # an interval of 90 does not squeeze the points


def test_a_limit_s_interval_covers_the_true_limit_in_95_of_100_studies():
    random = np.random.default_rng(0)
    for n in (6, 12):
        errors = random.normal(1, 2, (4000, n))
        below, above = clinical._limit_factors(n)
        bias, sd = errors.mean(1), errors.std(1, ddof=1)
        assert np.mean((bias + below * sd < 1 + 1.96 * 2) & (bias + above * sd > 1 + 1.96 * 2)) == pytest.approx(
            0.95, abs=0.012
        )


def test_one_patient_has_a_bias_and_no_limits_and_is_drawn(tmp_path):
    analysis = analysed(sweep(tmp_path, losses=(GOOD,), folds=(("P01",),)))
    found = next(row for row in tables.build(analysis)["agreement"] if row["quantity"] == "volume_ED_ml")
    assert math.isfinite(found["bias"])
    assert all(math.isnan(found[key]) for key in ("sd", "lower", "upper", "lower_low", "upper_high"))
    assert found["n_patients"] == 1
    make, alt = drawings.draw(analysis, "x")["agreement"]
    assert len(make().axes) == 3
    assert "limits — to —" in alt


# Runs of an earlier version, damaged ones, runs that do not go together


def forget(folder, run):
    place = folder.parent / "runs" / run
    (place / layout.CASES).unlink()
    (place / layout.PATIENTS).unlink()
    path = place / layout.RESULT
    result = json.loads(path.read_text())
    del result["tolerance_mm"], result["data"]["findings"]
    path.write_text(json.dumps(result))
    resign(place)


def runs_of(folder):
    return [run["run_id"] for run in read_sweep(folder)["runs"]]


@pytest.mark.slow
def test_cells_of_an_earlier_version_are_blank_and_their_runs_counted(tmp_path):
    folder = sweep(tmp_path, losses=(GOOD, NOISY), folds=(PATIENTS,))
    good, noisy = runs_of(folder)[:2], runs_of(folder)[2:]
    before = {row["metric"]: row for row in tables.build(analysed(folder))["clinical"] if row["cell"] == f"loss={NOISY}"}
    for run in (*good, noisy[0]):
        forget(folder, run)
    report_sweeps([folder])
    blank = [row for row in table(folder, "clinical") if row["cell"] == f"loss={GOOD}"]
    assert {(row["mean"], row["n_runs"], row["n_cases"]) for row in blank} == {("", "0", "0")}
    half = {row["metric"]: row for row in table(folder, "clinical") if row["cell"] == f"loss={NOISY}"}
    assert {row["n_runs"] for row in half.values()} == {"1"}
    assert half["hd_mm"]["n_cases"] == "12"
    assert float(half["hd_mm"]["mean"]) != before["hd_mm"]["mean"]  # of the run that is left alone
    text = (folder / "report.html").read_text()
    assert "<b>3 of 4 runs</b>" in part(text, "clinical")
    assert "3 of 4 runs" in part(text, "provenance")
    assert len(table(folder, "runs")) == 4


@pytest.mark.slow
def test_a_sweep_of_an_earlier_version_alone_is_reported(tmp_path):
    folder = sweep(tmp_path, losses=(GOOD,), folds=(PATIENTS[:2],))
    for run in runs_of(folder):
        forget(folder, run)
    report_sweeps([folder])
    assert "<b>2 of 2 runs</b>" in part((folder / "report.html").read_text(), "clinical")
    assert not (folder / "figures" / "agreement.svg").exists()


def last(columns, value, table=layout.CASES):
    """Put a value into columns of the first row of the last epoch."""

    def damage(place):
        header, *lines = (place / table).read_text().splitlines()
        at = next(i for i, line in enumerate(lines) if line.startswith("last"))
        cells = lines[at].split(",")
        for column in columns.split():
            cells[header.split(",").index(column)] = value
        lines[at] = ",".join(cells)
        (place / table).write_text("\n".join([header, *lines]) + "\n")

    return damage


def tolerance(value):
    def damage(place):
        path = place / layout.RESULT
        path.write_text(json.dumps(json.loads(path.read_text()) | {"tolerance_mm": value}))

    return damage


def findings(value):
    def damage(place):
        result = json.loads((place / layout.RESULT).read_text())
        result["data"]["findings"] = value
        (place / layout.RESULT).write_text(json.dumps(result))

    return damage


def cut(name):
    return lambda place: (place / name).write_text((place / name).read_text()[:-60])


DAMAGE = {
    "no cases": (lambda place: (place / layout.CASES).unlink(), r"cases\.csv: .*\(No such file"),
    "no patients": (lambda place: (place / layout.PATIENTS).unlink(), r"patients\.csv: .*\(No such file"),
    "no tolerance": (tolerance(None), r"result\.json: tolerance_mm=None\b"),
    "a tolerance that is text": (tolerance("2"), r"result\.json: .*\btolerance_mm\b"),
    "cases cut off": (cut(layout.CASES), r"cases\.csv: "),
    "patients cut off": (cut(layout.PATIENTS), r"patients\.csv: "),
    "cases of another patient": (last("patient", "P99"), r"cases\.csv: .*slices\.csv"),
    "cases of another phase": (last("phase", "ES"), r"cases\.csv: .*slices\.csv"),
    "fewer slices": (last("n_slices", "2"), r"cases\.csv: .*slices\.csv"),
    "another patient": (last("patient", "P99", layout.PATIENTS), r"patients\.csv: .*slices\.csv"),
    "an overlap above 1": (last("iou", "1.5"), r"cases\.csv: .*\bP01\b"),
    "a negative distance": (last("assd_mm", "-1"), r"cases\.csv: .*\bP01\b"),
    "an endless distance": (last("hd_mm", "inf"), r"cases\.csv: .*\bP01\b"),
    "one metric undefined alone": (last("hd95_mm", "nan"), r"cases\.csv: .*\bP01\b"),
    "a negative volume": (last("volume_pred_ml", "-3"), r"cases\.csv: .*\bP01\b"),
    "a volume that is text": (last("volume_pred_ml", "many"), r"runs/\w+ are damaged"),
    "a count that is no number": (last("n_one_empty", "nan"), r"cases\.csv: .*\bP01\b"),
    "an overlap where one is empty": (last("n_one_empty", "1"), r"cases\.csv: .*\bDice\b"),
    "a Dice that its cases have not": (last("dice", "0.123", layout.PATIENTS), r"patients\.csv: .*\bP01\b.*cases\.csv"),
    "no overlap where its cases have one": (
        last("dice iou sensitivity precision", "nan", layout.PATIENTS),
        r"patients\.csv: .*\bP01\b.*cases\.csv",
    ),
    "binary": (lambda place: (place / layout.CASES).write_bytes(b"\xff\xfe\x00"), r"cases\.csv: damaged"),
    "findings that are a number": (findings(5), "damaged"),
    "a finding without a kind": (findings([{"severity": "error"}]), "damaged"),
}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A sweep of two runs, and what to put back after each damage."""
    folder = sweep(tmp_path_factory.mktemp("two"), losses=(GOOD,), folds=(PATIENTS[:2],))
    place = folder.parent / "runs" / runs_of(folder)[0]
    return folder, place, {path: path.read_bytes() for path in place.iterdir() if path.is_file()}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_run_with_damaged_tables_is_named_and_left_out(name, two):
    folder, place, whole = two
    damage, words = DAMAGE[name]
    damage(place)
    resign(place)
    try:
        read = reading.read([folder])
    finally:
        for path, content in whole.items():
            path.write_bytes(content)
    ((run, why),) = read.left_out
    assert run == place.name
    assert re.search(words, why)
    assert len(read.records) == 1


def test_undamaged_they_are_both_read(two):
    assert len(reading.read([two[0]]).records) == 2


def test_runs_of_one_cell_with_other_tolerances_have_no_mean_surface_dice(tmp_path):
    folder = sweep(tmp_path, losses=(GOOD,), folds=(PATIENTS,))
    tolerance(1.0)(place := folder.parent / "runs" / runs_of(folder)[0])
    resign(place)
    report_sweeps([folder])
    found = {row["metric"]: row for row in table(folder, "clinical")}
    assert (found["surface_dice"]["mean"], found["surface_dice"]["tolerance_mm"]) == ("", "1, 2")
    assert found["surface_dice"]["n_undefined"] == found["surface_dice"]["n_cases"] == "24"
    assert found["hd_mm"]["mean"] != ""
    assert "at 1, 2 mm" in (folder / "report.html").read_text()


def test_a_label_of_two_data_sets_is_two_patients_here_too(tmp_path):
    runs = []
    for n, print_ in ((4, "aaaaaaaaaaaa"), (5, "bbbbbbbbbbbb")):
        run = write(tmp_path, scored(("P01",), predictor(GOOD, np.random.default_rng(0))), data__n_patients=n, epochs=3)
        path = tmp_path / "runs" / run / layout.RESULT
        path.write_text(path.read_text().replace('"simulated"', f'"{print_}"'))
        resign(path.parent)
        runs.append((run, []))
    found = tables.build(analysed(simulated.write_sweep(tmp_path, "two", runs)))["clinical_patients"]
    assert {row["patient"] for row in found} == {"P01 (aaaaaa)", "P01 (bbbbbb)"}


# Findings of the data check


@pytest.mark.slow
def test_allowed_errors_are_on_top_and_findings_are_counted_per_data_set(tmp_path, capsys):
    error = {"severity": "error", "kind": "duplicate_contour", "patient": NASTY, "frame": 1, "file": None, "message": "copy"}
    empty = {"severity": "warning", "kind": "empty", "patient": "P01", "frame": None, "file": None, "message": "no structure"}
    folder = sweep(tmp_path, losses=(GOOD,), folds=(PATIENTS[:2],))
    for run, of in zip(runs_of(folder), ([empty, error, error], [error, error, empty, empty]), strict=True):
        findings(of)(folder.parent / "runs" / run)
        resign(folder.parent / "runs" / run)
    report_sweeps([folder])
    assert re.match(r".*data\.allow.*\bduplicate_contour\b.*\b2\b", capsys.readouterr().out)  # the first line
    found = table(folder, "findings")
    assert [
        (row["severity"], row["kind"], row["n_least"], row["n_most"], row["n_runs"], row["n_recorded"]) for row in found
    ] == [
        ("error", "duplicate_contour", "2", "2", "2", "2"),
        ("warning", "empty", "1", "2", "2", "2"),
    ]
    text = (folder / "report.html").read_text()
    assert NASTY not in text
    assert re.search(r'class="alarm">[^<]*\bduplicate_contour\b', part(text, "summary"))
    assert 'class="contradicted">error' in part(text, "provenance")


def test_data_without_errors_raise_no_alarm(folder):
    assert sentences.alarms(analysed(folder)) == []
    assert 'class="alarm"' not in (folder / "report.html").read_text()


# Several volumes of a patient


def of_visits(patients, shift, visits=("visit 1", "visit 2")):
    """Three slices of ED and ES of each patient at each visit; the prediction is shifted, and lacks rows at the second."""
    rows = []
    for number, patient in enumerate(patients):
        for visit, phase in ((visit, phase) for visit in visits for phase in ("ED", "ES")):
            for i in range(3):
                true = square(4, 4, (9 + number if phase == "ED" else 6) - i - visits.index(visit))
                pred = np.roll(true, shift, 0)
                pred[: 5 + shift] = False if visit == visits[-1] else pred[: 5 + shift]
                rows.append(Pair(pred, true, patient, phase, i, (1.5, 1.0), 8.0, volume=visit))
    found = score_pairs(rows, tolerance_mm=2.0)
    return {layout.SLICES: found.slices, layout.CASES: found.cases, layout.PATIENTS: found.patients}


def test_a_patient_of_two_visits_counts_once_and_its_volume_is_the_mean_of_both(tmp_path):
    runs = [write(tmp_path, of_visits(PATIENTS, seed), seed=seed, epochs=3) for seed in (0, 1)]
    report_sweeps([simulated.write_sweep(tmp_path, "visits", [(run, []) for run in runs])])
    folder = tmp_path / "visits"
    (record, *_) = reading.read([folder]).records
    assert {case["volume"] for case in record.scored.cases["P01"]} == {"visit 1", "visit 2"}
    found = {row["quantity"]: row for row in table(folder, "agreement")}
    assert {row["n_patients"] for row in found.values()} == {"6"}
    of_runs = raw(folder, table(folder, "cells")[0]["cell"], "cases.csv")
    true, predicted = (
        [
            [
                np.mean([float(row[f"volume_{side}_ml"]) for row in run if (row["patient"], row["phase"]) == (name, "ED")])
                for run in of_runs
            ]
            for name in PATIENTS
        ]
        for side in ("true", "pred")
    )
    errors = np.mean(predicted, axis=1) - np.mean(true, axis=1)
    assert float(found["volume_ED_ml"]["bias"]) == pytest.approx(errors.mean())
    assert float(found["volume_ED_ml"]["sd"]) == pytest.approx(errors.std(ddof=1))
    between = np.std(predicted, axis=1, ddof=1)
    assert float(found["volume_ED_ml"]["sd_runs"]) == pytest.approx(math.sqrt(np.mean(between**2)), abs=1e-9)


def test_tables_of_a_version_without_volumes_are_still_read(tmp_path):
    folder = sweep(tmp_path, losses=(GOOD,), folds=(PATIENTS[:2],))
    expected = analysed(folder)
    for place in (tmp_path / "runs").iterdir():
        for name in (layout.SLICES, layout.CASES):
            with (place / name).open(newline="") as file:
                rows = list(csv.DictReader(file))
            columns = [column for column in rows[0] if column != "volume"]
            (place / name).write_text(csv_text(columns, [{key: row[key] for key in columns} for row in rows]))
        unsign(place)  # as that version left it
    read = reading.read([folder])
    assert read.left_out == ()
    assert [[*record.scored.cases] for record in read.records] == [["P01", "P02"]] * 2
    assert [record.patients for record in read.records] == [record.patients for record in expected.sweep.records]


def test_which_of_a_patient_s_volumes_is_empty_is_counted_in_runs_and_never_in_more_than_there_are():
    nothing = [Pair(square(0, 0, 0), square(4, 4, 5), "P01", None, i, (1.0, 1.0), 8.0, volume=v) for v in "ab" for i in (0, 1)]
    cases = score_pairs(nothing, tolerance_mm=2.0)
    run = clinical.Scored(2.0, {"P01": cases.cases}, {"P01": cases.patients[0]})
    assert clinical.patient_rows([run, run])[0]["one_empty"] == "a in 2 of 2 runs; b in 2 of 2 runs"
