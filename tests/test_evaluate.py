import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import layouts.acdc
import layouts.sunnybrook
from conftest import TINY, resign, unsign, write_patient
from segtune import evaluate
from segtune.config import entry
from segtune.config.error_messages import explain
from segtune.data import readers
from segtune.data.findings import KINDS
from segtune.errors import InputError
from segtune.inference import ensembles
from segtune.inference import models as inference_models
from segtune.inference.ensembles import keeps_largest_component
from segtune.inference.models import WHICH, load
from segtune.inference.origin import _is_same_folder, _may_be_alike, comparable_data, origin
from segtune.inference.score import PHASES, by_phase, evaluation_table, mean_and_sd
from segtune.metrics.score import Pair, score_pairs
from segtune.runs import identity, layout
from segtune.runs.result import read_result
from segtune.runs.tables import read_table
from segtune.training import build
from segtune.training.run import train

OWN = ["data=phantom", "data.n_patients=4"]  # of the runs here
OTHER = [*OWN, "data.seed=1"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs that differ by their seed, and so have the same training side."""
    folders = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        for seed in (0, 1):
            longer = ["trainer.max_epochs=10", "optimizer.lr=0.01"]
            cfg = entry.compose([*TINY, *longer, "split=0.4", "figures=false", f"seed={seed}"])
            folders.append(tmp_path_factory.mktemp("runs") / identity.run_id(entry.plain(cfg)))
            train(build.experiment(cfg), folders[-1])
    return folders


@pytest.fixture
def evaluated(capsys):
    """Evaluate; returns what was printed and the folder that this names."""

    def evaluated(folders, *overrides) -> tuple[str, Path]:
        typed = f"[{','.join(map(str, folders))}]" if isinstance(folders, list) else folders
        evaluate.evaluate(entry.compose([f"run={typed}", "accelerator=cpu", *overrides], "evaluate"))
        printed = capsys.readouterr().out
        return printed, Path(printed.splitlines()[-1])

    return evaluated


def record(folder):
    return json.loads((folder / "evaluation.json").read_text())


def damaged(folder, copy, edit):
    """A copy of the run whose result.json was edited."""
    shutil.copytree(folder, copy)
    result = json.loads((copy / layout.RESULT).read_text())
    edit(result)
    (copy / layout.RESULT).write_text(json.dumps(result))
    resign(copy)
    return copy


def rvsc(root, *numbers, **about):
    """A set of RVSC files called Test1Set, each heart of a size of its own, ED larger than ES."""
    for number in numbers:
        scale = {frame: (1 - 0.1 * (number - 16)) * (0.7 if frame % 20 else 1) for frame in (20, 28, 40, 48)}
        write_patient(root, number, scale, n_frames=40, scale=scale, **about)
    return (root / "TrainingSet").rename(root / "Test1Set")


@pytest.mark.parametrize("which", WHICH)
def test_on_its_own_data_a_run_scores_its_validation_patients_as_it_did_itself(runs, evaluated, caplog, which):
    printed, folder = evaluated(runs[0], *OWN, f"which={which}")
    mine, its = ([row for row in read_table(f, layout.SLICES) if row["which"] == which] for f in (folder, runs[0]))
    for column in ("patient", "frame", "phase", "n_true", "n_overlap"):
        assert [row[column] for row in mine] == [row[column] for row in its]
    pairs = [pair for pair in zip(mine, its, strict=True) if pair[0]["n_pred"] == pair[1]["n_pred"] != "0"]
    assert len(pairs) > len(mine) / 2  # in the others the run, on its square image, saw something in the padding too
    for column in ("dice", "sensitivity", "hd_mm", "assd_mm"):
        assert [row[column] for row, _ in pairs] == [row[column] for _, row in pairs]
    of_run = read_result(runs[0])["data"]["patients"]
    assert record(folder)["data"]["left_out"] == of_run["train"]
    assert record(folder)["data"]["n_patients"] == len(of_run["val"]) == 2
    assert re.search(rf"\b{runs[0].name}: 2 of 4 patients\b", caplog.text)
    assert ("which=last" in caplog.text) == (which == "best")
    assert re.search(r"\btraining: 2 patients\b", printed)


def test_a_run_whose_predictions_are_processed_is_scored_as_it_did_itself_unless_told_otherwise(evaluated, tmp_path):
    settings = ["score.tta=true", "score.largest_component=true", "data.downsample=2", "data.size=64"]
    cfg = entry.compose([*TINY, *settings, "trainer.max_epochs=10", "optimizer.lr=0.01", "split=0.4", "figures=false"])
    run = tmp_path / identity.run_id(entry.plain(cfg))
    train(build.experiment(cfg), run)
    assert read_result(run)["score"] == {"tta": True, "largest_component": True}
    printed, folder = evaluated(run, *OWN)
    assert re.search(r"\bfour views\b.*\b3-D component\b", printed)
    assert record(folder)["score"] == {"tta": [True], "largest_component": True}
    mine, its = ([row for row in read_table(f, layout.SLICES) if row["which"] == "last"] for f in (folder, run))
    n_equal = sum(
        row["n_pred"] == other["n_pred"] and row["dice"] == other["dice"] for row, other in zip(mine, its, strict=True)
    )
    assert n_equal > len(mine) / 2  # in the others the run, on its square image, saw something in the padding too
    _, plain = evaluated(run, *OWN, "score.tta=false", "score.largest_component=false")
    assert plain != folder
    assert record(plain)["score"] == {"tta": False, "largest_component": False}
    n_pred = [[float(row["n_pred"]) for row in read_table(f, layout.CASES)] for f in (plain, folder)]
    assert n_pred[0] != n_pred[1]


def test_how_predictions_are_processed_is_not_chosen_without_the_run_s_validation(runs, evaluated):
    with pytest.raises(InputError, match=r"^score\.tta=auto: .*\btrue or false\b"):
        evaluated(runs[0], *OWN, "score.tta=auto")


def test_of_an_ensemble_most_runs_decide_on_the_largest_component():
    class Run:
        def __init__(self, keeps):
            self.keeps_largest_component = keeps

    runs = [Run(True), Run(True), Run(False)]
    assert keeps_largest_component(runs, None)
    assert not keeps_largest_component(runs[1:], None)
    assert not keeps_largest_component(runs, False)
    assert keeps_largest_component(runs[2:], True)


def test_another_data_set_is_scored_whole_and_again_to_the_same_bytes(runs, evaluated, caplog):
    printed, folder = evaluated(runs[0], *OTHER)
    assert not [one for one in caplog.records if one.name in (origin.__module__, inference_models.__name__)]
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(files) == {"slices.csv", "cases.csv", "patients.csv", "evaluation.json"}
    for name, columns in layout.TABLES.items():
        assert files[name].decode().splitlines()[0].split(",") == list(columns)
        assert "" not in {row["which"] for row in read_table(folder, name)}
    found = record(folder)
    assert [found["data"][key] for key in ("n_patients", "n_cases", "left_out")] == [4, 8, []]
    assert found["runs"][0]["run_id"] == runs[0].name
    assert found["metrics"]["all"]["patients"]["dice"]["n"] == 4
    assert found["metrics"]["ED"]["cases"]["dice"]["n"] == found["metrics"]["ES"]["cases"]["dice"]["n"] == 4
    assert found["versions"]["segtune"]
    assert str(runs[0].parent) not in (folder / "evaluation.json").read_text()
    assert evaluated(runs[0], *OTHER) == (printed, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert len({folder, *(evaluated(runs[0], *OTHER, more)[1] for more in ("which=best", "tolerance_mm=3"))}) == 3


def test_several_runs_are_their_mean_probability_in_any_order(runs, evaluated):
    _, folder = evaluated(runs, *OTHER)
    files = [path.read_bytes() for path in sorted(folder.iterdir())]
    assert evaluated(runs[::-1], *OTHER)[1] == folder
    assert [path.read_bytes() for path in sorted(folder.iterdir())] == files
    slices = build.slices(entry.compose([*TINY, "data.seed=1"]))
    one, two = (load(run).probabilities(slices) for run in runs)
    means, rows = [(a + b) / 2 for a, b in zip(one, two, strict=True)], read_table(folder, layout.SLICES)
    assert [int(row["n_pred"]) for row in rows] == [np.count_nonzero(mean > 0.5) for mean in means]
    soft_dice = [2 * p[item.mask].sum() / (p.sum() + item.mask.sum()) for item, p in zip(slices, means, strict=True)]
    assert [float(row["soft_dice"]) for row in rows] == pytest.approx(soft_dice, abs=1e-6)
    assert len(record(folder)["runs"]) == 2


def test_data_of_another_reader_and_size_are_scored_on_their_own_grid(runs, evaluated, tmp_path, caplog):
    for number, shape in ((1, (52, 40, 3)), (2, (30, 36, 3))):
        layouts.acdc.write_patient(tmp_path / "data", number, shape=shape)
    overrides = ["data=acdc", f"data.root={tmp_path / 'data'}"]
    printed, folder = evaluated(runs[0], *overrides)
    rows = read_table(folder, layout.SLICES)
    assert [int(row["n_true"]) for row in rows] == [0, 8, 8] * 4
    assert re.search(r"\bendocardium \(phantom\).*\brv \(acdc\)", printed)
    assert record(folder)["data"]["settings"] == {"allow": None, "empty": "keep", "slice_axis": None}
    assert re.search(r"\b0\.7\b.*\b5\.6 mm\b.*\bdata\.spacing_mm=", caplog.text)
    empty = [one["patient"] for one in record(folder)["data"]["findings"] if one["kind"] == "empty"]
    assert (len(empty), empty[0]) == (2, "patient001")
    assert re.search(rf"{KINDS['empty']} \(2\).*\bpatient001\b", caplog.text)


def test_a_structure_of_the_same_name_is_compared_with_a_word_and_an_unknown_one_has_to_be_named(
    runs, evaluated, tmp_path, caplog
):
    for number in (1, 2):
        scale = {20: 1 - number / 10, 40: 0.93 - number / 10}
        layouts.sunnybrook.write_patient(tmp_path / "data", number, (20, 40), (20, 40), scale=scale)
    printed, _ = evaluated(runs[0], "data=sunnybrook", f"data.root={tmp_path / 'data'}")
    assert re.search(r"\bendocardium \(phantom\).*\bendocardium \(sunnybrook\)", printed)
    assert re.search(r"\bendocardium\b.*\bchamber\b.*\bdata=sunnybrook\b", caplog.text)
    data = entry.plain(entry.compose(["run=x", "data=acdc", "data.root=x"], "evaluate"))["data"]
    origins = [origin(load(runs[0]))._replace(data={"target": "epicardium"})]
    with pytest.raises(InputError, match=r"^data.target: .*\bepicardium \(phantom\).*\brv, myocardium, lv\b"):
        comparable_data(data, origins)


def test_the_right_ventricle_s_other_contour_is_refused(runs, evaluated):
    with pytest.raises(InputError, match=rf"^data.target=epicardium: .*\b{runs[0].name}\b.*\bendocardium\b"):
        evaluated(runs[0], *OWN, "data.target=epicardium")


@pytest.mark.parametrize("typed", ["size=64", "spacing_mm=1", "larger=crop", "normalize=zscore"])
def test_how_images_reach_the_network_is_not_for_the_command_to_say(runs, evaluated, typed):
    with pytest.raises(InputError, match=rf"^data.{typed}: .*\brun\b.*\bdata.{typed.partition('=')[0]}\b"):
        evaluated(runs[0], *OWN, f"data.{typed}")


def test_data_have_to_be_named(runs, evaluated):
    with pytest.raises(InputError, match="^data: .*data=acdc, data=folder, .*data=sunnybrook"):
        evaluated(runs[0])


def test_patients_that_every_run_has_seen_are_no_test(runs, evaluated, tmp_path):
    def all_train(result):
        result["data"]["patients"] = {"train": ["P01", "P02", "P03", "P04"], "val": []}

    copy = damaged(runs[0], tmp_path / runs[0].name, all_train)
    with pytest.raises(InputError, match=rf"\b{copy.name}\b.*\b4 patients\b"):
        evaluated(copy, *OWN)
    with pytest.raises(InputError, match=rf"\b{runs[1].name}\b.*\b4 patients\b"):
        evaluated([copy, runs[1]], *OWN)


def test_the_phantom_read_as_rvsc_may_be_the_phantom_and_one_of_another_seed_is_not(runs):
    one = origin(load(runs[0]))
    about = {name: {"reader": {"_target_": f"segtune.data.{name}.read"}} for name in ("phantom", "rvsc", "acdc")}
    assert _may_be_alike(one, about["rvsc"])
    assert _may_be_alike(one, about["phantom"] | {"seed": 0})
    assert not _may_be_alike(one, about["phantom"] | {"seed": 1})
    assert not _may_be_alike(one, about["acdc"])


def test_patients_of_another_set_with_the_images_of_training_patients_are_left_out(runs, evaluated, caplog):
    _, folder = evaluated(runs[0], "data=phantom", "data.n_patients=5")  # the same four, and one more
    trained_on = read_result(runs[0])["data"]["patients"]["train"]
    assert re.search(rf"\b2 of 5 patients\b.*\bimages\b.*\b{runs[0].name}\b", caplog.text)
    assert record(folder)["data"]["left_out"] == trained_on


def test_of_a_run_that_recorded_no_images_the_names_of_training_patients_are_told(runs, evaluated, caplog, tmp_path):
    copy = Path(shutil.copytree(runs[0], tmp_path / runs[0].name))
    unsign(copy)
    _, folder = evaluated(copy, "data=phantom", "data.n_patients=5")
    first, second = read_result(runs[0])["data"]["patients"]["train"]
    assert re.search(rf"\b{copy.name}\b.*\bcodes\b.*\bimages\b", caplog.text)
    assert re.search(rf"\b2 of 5 patients\b.*\b{copy.name}\b.*\({first}, {second}\)", caplog.text)
    assert record(folder)["data"]["left_out"] == []


def test_the_training_s_own_folder_is_known_whatever_else_is_chosen(runs, tmp_path):
    about = {"reader": {"_target_": "segtune.data.acdc.read"}, "root": str(tmp_path / "a")}
    one = origin(load(runs[0]))._replace(reader=readers.of(about), data=about)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to("a")
    assert _is_same_folder(one, about | {"root": str(tmp_path / "b"), "empty": "drop"})
    assert not _is_same_folder(one, about | {"root": str(tmp_path / "c")})
    assert not _is_same_folder(one, about | {"reader": {"_target_": "segtune.data.nnunet.read"}})
    assert not _is_same_folder(one._replace(data={}), about)


def test_a_run_without_its_patients_is_damaged(runs, evaluated, tmp_path):
    copy = damaged(runs[0], tmp_path / "copy", lambda result: result["data"].pop("patients"))
    with pytest.raises(InputError, match=r"copy/result.json: damaged"):
        evaluated(copy, *OWN)


def test_the_challenge_s_test_set_is_read_where_its_contours_are(runs, evaluated, tmp_path, caplog):
    root = rvsc(tmp_path, 17, 18)
    _, folder = evaluated(runs[0], "data=rvsc", f"data.root={root}")
    assert [row["patient"] for row in read_table(folder, layout.PATIENTS)] == ["P17", "P18"]
    assert all(float(row["volume_true_ml"]) > 0 for row in read_table(folder, layout.CASES))
    assert not [one for one in caplog.messages if re.search(r"\bP1[78]\b.*\boptimistic\b|\b2 of 2 patients\b", one)]
    assert str(tmp_path) not in (folder / "evaluation.json").read_text()
    for path in root.rglob("P18*contour-manual.txt"):
        path.unlink()  # the list file still names them
    with pytest.raises(InputError, match=r"\bP18\b.*\bendocardium\b"):
        evaluated(runs[0], "data=rvsc", f"data.root={root}")


def test_copied_contours_are_refused_unless_allowed(runs, evaluated, tmp_path):
    for number in (17, 18):
        write_patient(tmp_path, number, (20, 40), n_frames=40)
    overrides = ["data=rvsc", f"data.root={tmp_path}"]
    with pytest.raises(InputError, match=r"\bP18\b.*\bP17\b.*data.allow=\[duplicate_contour\]"):
        evaluated(runs[0], *overrides)
    _, folder = evaluated(runs[0], *overrides, "data.allow=[duplicate_contour]")
    assert {one["kind"] for one in record(folder)["data"]["findings"]} >= {"duplicate_contour"}


def test_errors_of_contour_files_that_are_scored_are_refused(runs, evaluated, tmp_path):
    root = rvsc(tmp_path, 17, 18)
    first, second = (next(root.rglob(f"P{n}-*-icontour-manual.txt")) for n in (17, 18))
    second.write_bytes(first.read_bytes())
    with pytest.raises(InputError, match=r"\bP18\b.*\bP17\b.*data.allow=\[duplicate_contour\]"):
        evaluated(runs[0], "data=rvsc", f"data.root={root}")


def test_errors_of_contour_files_that_are_not_scored_are_recorded_as_warnings(runs, evaluated, tmp_path):
    root = rvsc(tmp_path, 17, 18)
    first, second = (next(root.rglob(f"P{n}-*-ocontour-manual.txt")) for n in (17, 18))
    second.write_bytes(first.read_bytes())
    _, folder = evaluated(runs[0], "data=rvsc", f"data.root={root}")
    found = [one for one in record(folder)["data"]["findings"] if one["file"] == second.name]
    assert ("duplicate_contour", "warning", "P18") in {(one["kind"], one["severity"], one["patient"]) for one in found}


def test_a_run_that_predicts_nothing_scores_worst(runs, evaluated, monkeypatch):
    monkeypatch.setattr(ensembles, "ensemble", lambda models, slices: [np.zeros(item.image.shape) for item in slices])
    _, folder = evaluated(runs[0], *OTHER)
    for row in read_table(folder, layout.CASES):
        assert (float(row["dice"]), float(row["surface_dice"]), row["n_one_empty"]) == (0, 0, "1")
        assert float(row["hd_mm"]) > 179  # the whole field of view
    for of in record(folder)["challenge"].values():
        assert of["images"]["dice"]["mean"] == of["cases"]["dice"]["mean"] == 0
        assert of["images"]["dice"]["n_one_empty"] == of["images"]["dice"]["n"] > 20
        assert [of[kind]["hd_mm"]["n_one_empty"] for kind in ("cases", "means")] == [4, 4]
    assert record(folder)["metrics"]["all"]["agreement"]["ejection_fraction"]["n"] == 4


def disc(radius, shape=(40, 40)):
    return np.hypot(*np.ogrid[-20:20, -20:20]) < radius if shape == (40, 40) else np.zeros(shape, bool)


def scores_of(n_patients, *, gap_mm=10.0, phases=("ED", "ES")):
    """Two slices each: in the first the prediction is the expert's, the second the expert alone has drawn."""
    pairs = [
        Pair(pred, true, f"P{number}", phase, index, (1.0, 1.0), gap_mm)
        for number in range(n_patients)
        for phase in phases
        for index, (pred, true) in enumerate([(disc(8), disc(8)), (disc(0), disc(8))])
    ]
    return score_pairs(pairs, tolerance_mm=2.0)


def about(n_patients):
    names = {"n_patients": n_patients, "n_cases": 2 * n_patients, "n_slices": 4 * n_patients}
    data = {"reader": "rvsc", "target": "endocardium", "left_out": [], **names}
    return {"runs": [], "which": "last", "trained_on": {"reader": "rvsc", "target": "endocardium"}, "data": data}


def test_the_challenge_s_figures_are_means_over_images():
    area, diagonal = np.count_nonzero(disc(8)), math.hypot(40, 40)
    phase = by_phase(scores_of(3))["ES"]
    assert mean_and_sd(phase.images, "dice")[:4] == (0.5, pytest.approx(np.std([0, 1] * 3, ddof=1)), 6, 3)
    assert mean_and_sd(phase.means, "hd_mm") == pytest.approx((diagonal / 2, 0, 3, 3, 0))
    assert mean_and_sd(phase.cases, "dice") == pytest.approx((2 / 3, 0, 3, 0, 0))
    assert mean_and_sd(phase.cases, "volume_true_ml").mean == pytest.approx(2 * area * 10 / 1000)


def test_every_mean_on_the_terminal_has_its_counts():
    lines = [line.split() for line in evaluation_table(about(3), scores_of(3))]
    at = lines.index(PHASES["ES"].split())
    area = np.count_nonzero(disc(8))
    volume = [f"{2 * area / 100:.1f}", f"{area / 100:.1f}"]
    assert lines[at + 2] == ["P0", "2", "0.667", "10.0", "0.500", "28.3", *volume]
    assert lines[at + 6] == ["mean", "of", "patients", "0.667", "10.0", "0.500", "28.3", *volume]
    assert lines[at + 7] == ["+-", "sd", "0.000", "0.0", "0.000", "0.0", "0.0", "0.0"]
    assert lines[at + 8 : at + 11] == [["patients", *"333333"], ["one", "empty", *"003300"], ["undefined", *"000000"]]
    assert lines[at + 12] == ["mean", "of", "slices", "0.500", "28.3"]
    assert lines[at + 14 : at + 17] == [["slices", "6", "6"], ["one", "empty", "3", "3"], ["undefined", "0", "0"]]
    bias = f"{-area / 100:.1f}"
    assert ["EDV", "[ml]", bias, bias, "to", bias, "3", "0"] in lines


def test_what_is_undefined_is_counted_with_its_reason():
    lines = evaluation_table(about(2), scores_of(2, gap_mm=None, phases=(None,)))
    at = lines.index(PHASES["unknown"])
    assert lines[at + 2].split() == ["P0", "2", "0.667", "-", "0.500", "28.3", "-", "-"]
    assert lines[at + 9].split() == ["undefined", "0", "2", "0", "0", "2", "2"]
    assert any(re.search(r"\bvolume: P0\b.*\bdistance\b.*\bP1\b.*\bdistance\b", line) for line in lines)
    assert ["EDV", "[ml]", "-", "-", "0", "0"] in [line.split() for line in lines]


def test_many_patients_are_left_to_the_files():
    lines = evaluation_table(about(21), scores_of(21))
    assert not any(line.startswith("P0") for line in lines)
    assert any("cases.csv" in line for line in lines)
    assert any(line.startswith("P19") for line in evaluation_table(about(20), scores_of(20)))


def test_an_unknown_key_names_those_of_the_data():
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever Hydra raises, the sentence is what counts
        entry.compose(["data=rvsc", "data.rot=x"], "evaluate")
    assert re.match(r"data\.rot: [^:]*: data\.root\b", explain(caught.value, "evaluate"))


@pytest.mark.slow
def test_the_command_as_typed(runs):
    def command(*arguments):
        line = [sys.executable, "-W", "error", "-m", "segtune.evaluate", f"run={runs[0]}", *arguments]
        return subprocess.run(line, capture_output=True, text=True, env=os.environ, check=False)

    done = command(*OTHER)
    assert done.returncode == 0
    assert re.match(rf"{KINDS['tiny']} \(12\).*\bP01\b", done.stderr)
    assert done.stderr.count("\n") == 1
    assert (Path(done.stdout.splitlines()[-1]) / "evaluation.json").is_file()
    own = command(*OWN)
    assert re.search(rf"\b{runs[0].name}: 2 of 4 patients\b", own.stderr)
    bad = command("data=rvsc", "data.root=nowhere")
    assert bad.returncode == 1
    assert re.fullmatch(r"segtune: data\.root=nowhere: .*\n", bad.stderr)
    assert sorted(path.name for path in Path().iterdir()) == ["outputs"]


def test_every_volume_of_a_patient_has_its_own_line_and_is_not_pooled_with_the_others():
    """Two frames: in one the prediction is the expert's, in the other half of it is missed."""
    frames = {"frame 1": (disc(8), disc(8)), "frame 12": (disc(6), disc(8))}
    pairs = [
        Pair(*masks, "P1", None, index, (1.0, 1.0), 10.0, volume=frame) for frame, masks in frames.items() for index in range(2)
    ]
    scores = score_pairs(pairs, tolerance_mm=2.0)
    phase = by_phase(scores)["unknown"]
    assert [(case["volume"], case["n_slices"], case["dice"] == 1) for case in phase.cases] == [
        ("frame 1", 2, True),
        ("frame 12", 2, False),
    ]
    assert [row["hd_mm"] for row in phase.means] == [case["hd_mm"] for case in phase.cases]
    lines = [line.split() for line in evaluation_table(about(1), scores)]
    at = lines.index(PHASES["unknown"].split())
    assert [line[:4] for line in lines[at + 2 : at + 4]] == [["P1", "frame", "1", "2"], ["P1", "frame", "12", "2"]]
    assert ["mean", "of", "volumes"] in [line[:3] for line in lines]


def test_a_label_s_number_is_compared_with_a_word_of_warning(runs, caplog):
    """What label 1 is may differ between two data sets."""
    about = {"reader": {"_target_": "segtune.data.nnunet.read"}, "root": "a", "target": "1"}
    one = origin(load(runs[0]))._replace(reader=readers.of(about), data=about)
    assert comparable_data(about | {"target": None}, [one]) == {"target": "1"}
    assert re.search(r"\blabel 1\b.*\bdata\.target=", caplog.text)
    caplog.clear()
    comparable_data(about | {"target": None}, [one._replace(data=about | {"target": "RV"})])
    assert not caplog.text
