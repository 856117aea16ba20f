import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from layouts.sunnybrook import REAL, write_patient
from segtune import check
from segtune.config import entry
from segtune.data import contour_files, examination, findings, inspection, phantom, slice_checks
from segtune.data.formats import dicom
from segtune.errors import InputError
from segtune.training import build

FRAMES = (20, 40, 60)


def examine(*overrides):
    cfg = entry.compose(overrides, "check")
    return examination.examine(entry.plain(cfg)["data"], partial(build.slices, cfg), partial(build.split, cfg))


def run(capsys, *overrides) -> tuple[int, str, str]:
    """Exit code, what was printed, and the page."""
    code = 0
    try:
        check.check(entry.compose(overrides, "check"))
    except SystemExit as end:
        code = end.code
    printed = capsys.readouterr()
    assert printed.err == ""
    return code, printed.out, Path(printed.out.splitlines()[-1]).read_text()


def about(found, *kinds):
    return [(one.severity, one.kind, one.patient, one.frame) for one in found if one.kind in kinds or not kinds]


@pytest.fixture
def sunnybrook(tmp_path) -> Path:
    """Three sound patients in Sunnybrook's layout, each with hearts of a size and place of its own."""
    root = tmp_path / "data"
    for number in (1, 2, 3):
        scale = {frame: 1 - 0.05 * number - 0.006 * frame for frame in FRAMES}
        write_patient(root, number, FRAMES, FRAMES, scale=scale, start=(3 * number, 5 * number))
    return root


def test_what_a_crop_will_cut_is_foretold(sunnybrook):
    whole, cut = (examine(*data(sunnybrook), "data.larger=crop", f"data.size={size}")[1] for size in (256, 16))
    assert about(whole, "cropped") == []
    assert {(severity, patient) for severity, _, patient, _ in about(cut, "cropped")} == {
        ("warning", f"SC-HF-I-{number}") for number in (1, 2, 3)
    }


def files(root, number, kind="o"):
    folder = root / "contourfiles" / f"SC-HF-I-{number}" / f"{kind}-contours"
    return sorted(folder.iterdir())


def data(root) -> list[str]:
    return ["data=sunnybrook", f"data.root={root}"]


def test_sound_data_have_neither_errors_nor_warnings(sunnybrook, capsys):
    slices, found = examine(*data(sunnybrook))
    assert len(slices) == 9
    assert found == []
    code, printed, page = run(capsys, *data(sunnybrook))
    assert code == 0
    for text in (printed, page):
        assert re.search(r"\b0 errors, 0 warnings, 0 notes\b", text)
        assert all(label in text for label in ("SC-HF-I-1", "SC-HF-I-3", "96 x 64", "0.7 x 0.8"))


def copy_epicardia(root, source, target):
    for old, new in zip(files(root, source), files(root, target), strict=True):
        shutil.copy(old, new)


@pytest.mark.parametrize("target", ["endocardium", "epicardium"])
def test_another_patient_s_contours_are_found_whatever_the_target(sunnybrook, target):
    copy_epicardia(sunnybrook, 1, 3)
    _, found = examine(*data(sunnybrook), f"data.target={target}")
    errors = [one for one in found if one.severity == "error"]
    assert about(errors) == [("error", "duplicate_contour", "SC-HF-I-3", frame) for frame in FRAMES]
    assert [one.file for one in errors] == [path.relative_to(sunnybrook).as_posix() for path in files(sunnybrook, 3)]
    assert about(found, "not_nested") == [("warning", "not_nested", "SC-HF-I-3", frame) for frame in FRAMES]


def test_errors_end_with_exit_code_1_unless_they_are_allowed(sunnybrook, capsys):
    copy_epicardia(sunnybrook, 1, 3)
    code, printed, page = run(capsys, *data(sunnybrook))
    assert code == 1
    assert re.search(r"\b3 errors, 3 warnings, 0 notes\b.*data.allow=\[duplicate_contour\]", printed)
    code, printed, allowed = run(capsys, *data(sunnybrook), "data.allow=[duplicate_contour]")
    assert code == 0
    assert re.search(r"\b3 errors, 3 warnings, 0 notes\b.*data.allow(?!=)", printed)
    assert page.count("IM-0001-0040-ocontour-manual.txt") == allowed.count("IM-0001-0040-ocontour-manual.txt") == 3


def test_allowing_one_kind_does_not_allow_another(sunnybrook, capsys):
    shutil.copy(sunnybrook / "dicoms/SCD0000101/20.dcm", sunnybrook / "dicoms/SCD0000201/20.dcm")
    code, printed, _ = run(capsys, *data(sunnybrook), "data.allow=[duplicate_contour]")
    assert code == 1
    assert re.search(r"\bduplicate_image\b.*\n.*\bimage .*\bpatient SC-HF-I-1, frame 20, slice 0\b", printed)


def test_what_cannot_be_allowed_is_one_sentence_before_any_work(tmp_path):
    with pytest.raises(InputError, match="data.allow=tiny: .*duplicate_contour, duplicate_image and polarity"):
        check.check(entry.compose([*data(tmp_path / "nowhere"), "data.allow=[tiny]"], "check"))


def test_every_damaged_contour_is_listed_where_the_reader_stops_at_the_first(sunnybrook, capsys):
    inner = files(sunnybrook, 1, "i")
    inner[0].write_text("1 1\na b\n")
    np.savetxt(inner[1], np.array([(500, 500), (520, 500), (520, 520)]))
    np.savetxt(files(sunnybrook, 2, "i")[2], np.array([(500, 500), (540, 500), (540, 520)]))
    slices, found = examine(*data(sunnybrook))
    assert len(slices) == 0
    assert about([one for one in found if one.severity == "error"]) == [
        ("error", "unreadable", "SC-HF-I-1", 20),
        ("error", "outside_image", "SC-HF-I-1", 40),
        ("error", "outside_image", "SC-HF-I-2", 60),
    ]
    code, printed, page = run(capsys, *data(sunnybrook))
    assert code == 1
    assert f"{inner[0].name}, line 2: 'a b'" in printed
    for text in (printed, page):
        assert re.search(r"\b3 errors\b", text)
        assert "data.allow" not in text  # no kind of error that can be allowed
        assert inspection.MEANING not in text  # nor a table of patients, which is explained where there is one
    assert all(inspection.MEANING in text for text in run(capsys, "data.n_patients=2", "data.size=32")[1:])


def test_what_the_reader_refuses_beyond_the_contours_is_an_error_too(sunnybrook):
    (sunnybrook / "dicoms/SCD0000101/40.dcm").unlink()
    _, found = examine(*data(sunnybrook))
    (error,) = [one for one in found if one.severity == "error"]
    assert error.kind == "unreadable"
    assert re.search(r"0040-icontour-manual.txt: .*SCD0000101/40[.]dcm\b", error.message)


def test_the_other_target_s_damage_does_not_hide_the_slices(sunnybrook):
    files(sunnybrook, 2)[0].write_text("")
    slices, found = examine(*data(sunnybrook))
    assert len(slices) == 9
    assert about(found, "unreadable") == [("error", "unreadable", "SC-HF-I-2", 20)]


def test_a_patient_without_epicardia_is_no_hindrance(sunnybrook):
    for path in files(sunnybrook, 2):
        path.unlink()
    copy_epicardia(sunnybrook, 1, 3)
    assert len(about(examine(*data(sunnybrook))[1], "not_nested")) == 3


def test_patients_on_two_sides_of_the_configured_split(sunnybrook):
    _, found = examine(*data(sunnybrook), "split.by=image", "split.val_fraction=0.5")
    assert about(found, "two_sides")
    assert not about(examine(*data(sunnybrook))[1], "two_sides")


def test_a_split_that_cannot_be_made_is_a_warning(tmp_path):
    write_patient(tmp_path / "data", 1, FRAMES)
    _, found = examine(*data(tmp_path / "data"))
    assert about(found, "split") == [("warning", "split", None, None)]


def test_rvsc_s_contours_are_checked_too(tmp_path):
    phantom.write(tmp_path, seed=1, n_patients=3, size=64)
    rvsc = ["data=rvsc", f"data.root={tmp_path}"]
    assert about(examine(*rvsc)[1]) == []
    first, second = (next((tmp_path / "TrainingSet").glob(f"patient0{n}/P0{n}contours-manual/*-i*")) for n in (1, 2))
    shutil.copy(first, second)
    _, found = examine("data=rvsc", f"data.root={tmp_path / 'TrainingSet'}")
    errors = [one for one in found if one.severity == "error"]
    assert about(errors) == [("error", "duplicate_contour", "P02", int(second.name[4:8]))]
    assert errors[0].file == f"patient02/P02contours-manual/{second.name}"


def test_the_phantom_has_no_error(capsys):
    code, printed, _ = run(capsys, "data.n_patients=4", "data.size=64")
    assert code == 0
    assert re.search(r"\b0 errors, 0 warnings, 0 notes\b", printed)
    assert printed.splitlines()[2].split()[:3] == ["patient", "slices", "ED"]


def folder_of(root, **masks):
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for number, (name, mask) in enumerate(masks.items()):
        image = np.random.default_rng(number).integers(0, 255, mask.shape).astype(np.uint8)
        Image.fromarray(image).save(root / "images" / f"{name}.png")
        Image.fromarray(mask.astype(np.uint8) * 255).save(root / "masks" / f"{name}.png")
    return ["data=folder", f"data.root={root}", "data.pixel_mm=1", "data.patient='(?P<patient>.+)_'", "split=0.4"]


def test_other_readers_are_checked_by_their_slices(tmp_path):
    disc = np.hypot(*np.mgrid[-20:20, -20:20]) < 8
    overrides = folder_of(tmp_path / "data", anna_1=disc, anna_2=disc & False, bert_1=disc)
    assert about(examine(*overrides)[1]) == [
        ("error", "duplicate_contour", "bert", 0),
        ("warning", "empty", "anna", 1),
        ("note", "phase", None, None),
        ("note", "gap", None, None),
    ]


def test_bad_data_of_other_readers_are_one_sentence(tmp_path):
    with pytest.raises(InputError, match=rf"data.root={tmp_path}: [^.]*\bimages\b"):  # entry makes one sentence of it
        examine("data=folder", f"data.root={tmp_path}", "data.pixel_mm=1")


def test_a_row_says_what_a_patient_has(sunnybrook):
    slices, _ = examine(*data(sunnybrook))
    first, *_ = (inspection.row_of(mine) for mine in slices.by_patient())
    assert first[:7] == ("SC-HF-I-1", 3, 3, 0, 0, 0, "96 x 64")
    assert (first.spacing_mm, first.gap_mm) == ("0.7 x 0.8", "8")
    shares = [100 * item.mask.mean() for item in slices if item.patient == "SC-HF-I-1"]
    assert first.foreground == f"{min(shares):.2f} to {max(shares):.2f}"
    low, middle, high = (float(value) for value in first.intensity.split(" / "))
    assert 0 <= low < 20 < middle < 380 < high < 400


def test_the_page_is_whole_and_escapes_what_comes_from_the_data():
    evil = "<script>alert(1)</script>"
    found = [findings.Finding("error", "unreadable", evil, 1, f"{evil}.txt", f"{evil} & more")]
    row = inspection.Patient(evil, 1, 0, 0, 1, 0, evil, "1", "1", "1", "1")
    slices, _ = examine("data.n_patients=2", "data.size=32")
    page = inspection.render_page(f"data.root={evil}", slices, [row], found, found)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 6
    assert "http" not in page.replace("http-equiv", "")
    assert page.rstrip().endswith("</html>")


def test_long_lists_are_left_to_the_page():
    many = [findings.Finding("warning", "tiny", f"P{n}", n, None, "small") for n in range(100)]
    lines = inspection.listing(many)
    assert lines[0] == f"warning: tiny, {findings.KINDS['tiny']} (100)"
    assert re.search(r"\b80 more\b", lines[-2])
    assert len(lines) == 1 + inspection.MOST_LINES + 2


def test_a_name_cannot_write_to_the_terminal(tmp_path, capsys):
    phantom.write(tmp_path, seed=1, n_patients=2, size=32)
    folder = tmp_path / "TrainingSet/patient01"
    folder.rename(folder.with_name("\x1b[31m\udcff\nx"))
    next(tmp_path.rglob("P01*icontour*")).write_text("")
    code, printed, page = run(capsys, "data=rvsc", f"data.root={tmp_path}")
    assert code == 1
    assert "?[31m??x/P01contours-manual/" in printed
    assert "\x1b" not in printed
    assert "P01contours-manual" in page


def test_no_name_from_a_header_is_told(sunnybrook, capsys):
    (sunnybrook / "dicoms/SCD0000101/40.dcm").write_bytes((sunnybrook / "dicoms/SCD0000101/40.dcm").read_bytes()[:3000])
    assert "Secret" not in "".join(run(capsys, *data(sunnybrook))[1:])


@pytest.mark.slow
def test_the_command_ends_with_1_for_errors_and_for_bad_input():
    def command(*arguments):
        line = [sys.executable, "-W", "error", "-m", "segtune.check", *arguments]
        return subprocess.run(line, capture_output=True, text=True, env=os.environ, check=False)

    sound = command("data.n_patients=2", "data.size=32")
    assert (sound.returncode, sound.stderr) == (0, "")
    assert [path.name for path in Path("outputs/check").iterdir()] == [Path(sound.stdout.splitlines()[-1]).parent.name]
    bad = command("data=rvsc", "data.root=nowhere")
    assert bad.returncode == 1
    assert re.fullmatch("segtune: data.root=nowhere: .*such folder.*\n", bad.stderr)
    assert not list(Path().rglob(".*check*"))


@pytest.mark.skipif(not REAL.is_dir(), reason="the real patients are not part of the project")
def test_the_nine_wrong_epicardia_among_the_real_patients_are_found(capsys):
    _, found = examine(*data(REAL))
    errors, warnings = ([one for one in found if one.severity == severity] for severity in ("error", "warning"))
    frames = list(range(59, 220, 20))
    assert about(errors) == [("error", "duplicate_contour", "SC-HF-I-6", frame) for frame in frames]
    assert about(warnings) == [("warning", "not_nested", "SC-HF-I-6", frame) for frame in frames]
    for one in errors:
        assert one.file == f"contourfiles/SC-HF-I-6/o-contours/IM-0001-{one.frame:04}-ocontour-manual.txt"
        assert f"patient SC-HF-I-1, frame {one.frame} " in one.message
    assert run(capsys, *data(REAL))[0] == 1


# What a run asks of contour files


def found_by_a_run(root, *overrides):
    """As train and evaluate ask."""
    cfg = entry.compose([*data(root), *overrides])
    slices = build.slices(cfg)
    drawn = contour_files.for_run(entry.plain(cfg)["data"], slices)
    return slice_checks.for_run(slices, allow=cfg.data.allow, of_contours=drawn)


def test_a_run_has_the_findings_of_contour_files_that_check_has(sunnybrook, monkeypatch):
    inner, outer = files(sunnybrook, 1, "i")[0], files(sunnybrook, 2)[1]
    points = np.loadtxt(inner)
    np.savetxt(inner, points[[0, 2, 1, 3]])  # a bow tie
    shutil.copy(files(sunnybrook, 3)[1], outer)
    looked_at = []
    read = dicom.read
    monkeypatch.setattr(dicom, "read", lambda path: looked_at.append(path) or read(path))
    found = found_by_a_run(sunnybrook)
    assert len(looked_at) == len({*looked_at}) == 9
    _, checked = examine(*data(sunnybrook))
    told = {(one["kind"], one["patient"], one["frame"]) for one in found}
    assert told == {(one.kind, one.patient, one.frame) for one in checked}
    assert {kind for kind, *_ in told} >= {"duplicate_contour", "not_nested", "self_crossing"}
    assert not any("/" in str(one["file"]) + one["message"] for one in found)  # a folder may be called like a patient


def test_a_run_refuses_the_copied_contours_that_it_would_train_on(sunnybrook):
    shutil.copy(files(sunnybrook, 3)[1], files(sunnybrook, 2)[1])
    with pytest.raises(InputError, match=r"SC-HF-I-3, frame 40\b.*SC-HF-I-2, frame 40\b.*data\.allow=\[duplicate_contour\]"):
        found_by_a_run(sunnybrook, "data.target=epicardium")
    assert found_by_a_run(sunnybrook, "data.target=epicardium", "data.allow=[duplicate_contour]")


def test_errors_in_contours_of_the_other_target_are_warnings_of_a_run(sunnybrook):
    shutil.copy(files(sunnybrook, 3)[1], files(sunnybrook, 2)[1])
    files(sunnybrook, 1)[0].write_text("1 1\nfive 5\n")
    _, checked = examine(*data(sunnybrook))
    assert {one.kind for one in checked if one.severity == "error"} == {"duplicate_contour", "unreadable"}
    found = found_by_a_run(sunnybrook)
    expected = {("warning", "unreadable", "SC-HF-I-1", FRAMES[0]), ("warning", "duplicate_contour", "SC-HF-I-2", FRAMES[1])}
    assert expected <= {(one["severity"], one["kind"], one["patient"], one["frame"]) for one in found}
    assert not [one for one in found if one["severity"] == "error"]
