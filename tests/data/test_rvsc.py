import logging
import os
import re
import shutil
import time

import numpy as np
import pydicom
import pytest

from conftest import SQUARE, write_dicom, write_patient
from segtune.data import rvsc
from segtune.errors import InputError

ED_ES = [20, 28, 40, 48]  # slices 1 and 2, phases 0 and 8
SHRINK = {28: 0.7, 48: 0.7}


@pytest.mark.parametrize("flat", [False, True])
def test_reads_both_layouts_by_file_name(tmp_path, flat):
    write_patient(tmp_path, 9, [20, 22, 23], flat=flat)
    slices = rvsc.read(tmp_path, target="endocardium")
    assert [(s.patient, s.frame, s.slice_index, s.phase) for s in slices] == [("P09", f, 1, None) for f in (20, 22, 23)]
    assert slices[0].spacing_mm == (0.7, 0.8)
    assert slices[0].image.dtype == np.float32
    assert np.array_equal(slices[1].image, np.random.default_rng([9, 22]).integers(0, 400, (96, 64)))


def test_the_mask_is_where_the_contour_is(tmp_path):
    write_patient(tmp_path, 9, [20])
    mask = rvsc.read(tmp_path, target="endocardium")[0].mask
    rows, columns = np.nonzero(mask)
    assert mask.shape == (96, 64)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 39, 10, 29)
    assert mask.sum() == 400


def test_target_epicardium_reads_the_outer_contours(tmp_path):
    write_patient(tmp_path, 9, [20])
    assert rvsc.read(tmp_path, target="epicardium")[0].mask.sum() == 24 * 24


def test_masks_may_be_drawn_as_published(tmp_path):
    write_patient(tmp_path, 9, [20])
    assert rvsc.read(tmp_path, target="endocardium", masks="pil")[0].mask.sum() == 21 * 21
    with pytest.raises(InputError, match="data.masks=cv2"):
        rvsc.read(tmp_path, target="endocardium", masks="cv2")


def test_root_may_be_the_training_set_or_its_parent(tmp_path):
    write_patient(tmp_path, 9, [20])
    parent, folder = (rvsc.read(root, target="endocardium") for root in (tmp_path, tmp_path / "TrainingSet"))
    assert parent.fingerprint() == folder.fingerprint()


def test_two_phases_are_ed_and_es_by_area(tmp_path):
    write_patient(tmp_path, 1, ED_ES, n_frames=40, scale=SHRINK)
    write_patient(tmp_path, 2, ED_ES, n_frames=40, scale={20: 0.7, 40: 0.7})
    phases = [s.phase for s in rvsc.read(tmp_path, target="endocardium")]
    assert phases == ["ED", "ES", "ED", "ES", "ES", "ED", "ES", "ED"]


def test_ed_against_es_is_decided_on_the_slices_that_have_both(tmp_path):
    write_patient(tmp_path, 1, [20, 40, 60, 68], n_frames=60, scale={20: 0.1, 40: 0.1, 60: 1.0, 68: 0.8})
    assert [s.phase for s in rvsc.read(tmp_path, target="endocardium")] == ["ED", "ED", "ED", "ES"]


def test_gap_comes_from_the_positions_or_the_tag(tmp_path):
    write_patient(tmp_path, 1, ED_ES, n_frames=40)
    assert rvsc.read(tmp_path, target="endocardium")[0].gap_mm == pytest.approx(8.4)
    write_patient(tmp_path, 2, [20])
    for path in tmp_path.rglob("P02-*.dcm"):
        write_dicom(path, np.ones((96, 64)), SpacingBetweenSlices=9.5)
    gaps = [s.gap_mm for s in rvsc.read(tmp_path, target="endocardium")]
    assert gaps == pytest.approx([8.4] * 4 + [9.5])


def test_without_position_or_tag_there_is_no_gap(tmp_path):
    write_patient(tmp_path, 1, [20])
    assert rvsc.read(tmp_path, target="endocardium")[0].gap_mm is None


def test_patients_come_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 2, 1):
        write_patient(tmp_path, number, [21, 20], n_frames=3)
    found = [(s.patient, s.frame) for s in rvsc.read(tmp_path, target="endocardium")]
    assert found == [("P01", 20), ("P01", 21), ("P02", 20), ("P02", 21), ("P10", 20), ("P10", 21)]


def test_contours_that_the_list_omits_are_read_and_said(tmp_path, caplog):
    write_patient(tmp_path, 9, [20, 22], listed=[20])
    with caplog.at_level(logging.WARNING):
        assert len(rvsc.read(tmp_path, target="endocardium")) == 2
    assert re.search(r"P09list\.txt .*\bP09-0022\b", caplog.text)


def test_no_list_file_is_needed(tmp_path):
    write_patient(tmp_path, 9, [20, 22])
    next(tmp_path.rglob("P09list.txt")).unlink()
    assert len(rvsc.read(tmp_path, target="endocardium")) == 2


def test_243_slices_are_read_in_under_5_seconds(tmp_path):
    """A bound that users are promised (about 0.6 s here), far from a benchmark."""
    image = np.random.default_rng(0).integers(0, 400, (256, 216))
    outline = np.stack([60 + 40 * np.cos(np.linspace(0, 6.28, 470)), 90 + 30 * np.sin(np.linspace(0, 6.28, 470))], axis=1)
    for number in range(1, 17):
        for frame in range(20, 35 if number < 16 else 38):
            write_dicom(tmp_path / f"P{number:02}-{frame:04}.dcm", image)
            np.savetxt(tmp_path / f"P{number:02}-{frame:04}-icontour-manual.txt", outline, fmt="%.2f")
    started = time.perf_counter()
    assert len(rvsc.read(tmp_path, target="endocardium")) == 243
    assert time.perf_counter() - started < 5


def a_file(root, pattern):
    return next(root.rglob(pattern))


def truncate(path, n=3000):
    path.write_bytes(path.read_bytes()[:n])


DAMAGE = {
    "missing contour": (
        lambda r: a_file(r, "P09-0022-icontour*").unlink(),
        r"P09list\.txt, line 3: .*\bP09-0022-icontour-manual\.txt .*\bmissing\b",
    ),
    "missing image": (lambda r: a_file(r, "P09-0022.dcm").unlink(), r"P09list\.txt, line 3: .*\b0022\b.*\bP09-0022\.dcm"),
    "list names an absent frame": (
        lambda r: a_file(r, "P09list.txt").write_text(".\\x\\P09-0999-icontour-manual.txt\r\n"),
        r"P09list\.txt, line 1: .*\b0999\b.*\bP09-0999\.dcm",
    ),
    "list names another patient": (
        lambda r: a_file(r, "P09list.txt").write_text("P08-0020-icontour-manual.txt"),
        r"P09list\.txt, line 1: 'P08-0020-icontour-manual.txt'.*\bP09\b",
    ),
    "list is gibberish": (lambda r: a_file(r, "P09list.txt").write_text("hello"), r"P09list\.txt, line 1: 'hello'"),
    "contour of 2 points": (
        lambda r: a_file(r, "P09-0022-icontour*").write_text("1 1\n2 2\n"),
        r"P09-0022-icontour-manual.txt: .*\b3\b.*\bpoints\b.*\b2\b",
    ),
    "contour outside": (
        lambda r: np.savetxt(a_file(r, "P09-0022-icontour*"), np.array(SQUARE) + 500),
        r"P09-0022-icontour-manual.txt: .*\boutside\b.*\b64 columns\b",
    ),
    "letters": (
        lambda r: a_file(r, "P09-0022-icontour*").write_text("1 1\na b\n2 2"),
        "P09-0022-icontour-manual.txt, line 2: 'a b'",
    ),
    "truncated header": (lambda r: truncate(a_file(r, "P09-0022.dcm"), 300), r"P09-0022\.dcm: .*DICOM.*\(\w+\)"),
    "truncated pixels": (lambda r: truncate(a_file(r, "P09-0022.dcm")), r"P09-0022\.dcm: .*DICOM.*\(\w+\)"),
    "empty image": (lambda r: a_file(r, "P09-0022.dcm").write_bytes(b""), r"P09-0022\.dcm: .*\bnot\b.*DICOM"),
    "a PNG": (
        lambda r: a_file(r, "P09-0022.dcm").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(5000)),
        r"P09-0022\.dcm: .*\bnot\b.*DICOM",
    ),
    "no spacing": (
        lambda r: write_dicom(a_file(r, "P09-0022.dcm"), np.ones((96, 64)), PixelSpacing=None),
        r"P09-0022\.dcm: .*PixelSpacing",
    ),
    "a copy in another folder": (
        lambda r: shutil.copy(a_file(r, "P09-0022.dcm"), r / "TrainingSet" / "P09-0022.dcm"),
        r"P09-0022\.dcm and \S+P09-0022\.dcm ",
    ),
    "no contours at all": (
        lambda r: [path.unlink() for path in [*r.rglob("*.txt")]],
        r"\bP09\b.*endocardium.*\(P09-NNNN-icontour-manual.txt\)",
    ),
    "no images at all": (lambda r: [path.unlink() for path in [*r.rglob("*.dcm")]], r"data.root=\S+: .*RVSC"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_data_are_refused_by_name(tmp_path, name):
    damage, message = DAMAGE[name]
    write_patient(tmp_path, 9, [20, 22, 23])
    damage(tmp_path)
    with pytest.raises(InputError, match=message):
        rvsc.read(tmp_path, target="endocardium")


def test_an_empty_folder_and_a_missing_one_are_refused(tmp_path):
    with pytest.raises(InputError, match=f"data.root={tmp_path}: .*RVSC"):
        rvsc.read(tmp_path, target="endocardium")
    with pytest.raises(InputError, match=f"data.root={tmp_path}/elsewhere: .*such folder"):
        rvsc.read(tmp_path / "elsewhere", target="endocardium")


def test_an_unknown_target_is_refused(tmp_path):
    with pytest.raises(InputError, match="data.target=heart: .*endocardium.*epicardium"):
        rvsc.read(tmp_path, target="heart")


def test_no_name_from_a_header_is_kept_or_logged(tmp_path, caplog, capfd):
    write_patient(tmp_path, 9, [20, 22], listed=[20])
    truncate(a_file(tmp_path, "P09-0022.dcm"))
    with pytest.raises(InputError) as caught, caplog.at_level(logging.DEBUG):
        rvsc.read(tmp_path, target="endocardium")
    assert "Secret" not in caplog.text + str(caught.value) + "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"PixelSpacing": [0.7, float("inf")]}, "PixelSpacing"),
        ({"SpacingBetweenSlices": -8.4}, "SpacingBetweenSlices"),
        ({"ImagePositionPatient": [0, 0]}, "ImagePositionPatient"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 1]}, "ImageOrientationPatient"),
    ],
)
def test_geometry_that_cannot_be_is_refused_and_the_file_is_named(tags, words, tmp_path):
    write_patient(tmp_path, 1, [20, 22])
    write_dicom(next(tmp_path.rglob("P01-0022.dcm")), np.zeros((96, 64)), **tags)
    with pytest.raises(InputError, match=f"P01-0022.dcm: .*{words}"):
        rvsc.read(tmp_path, target="endocardium")


def test_a_distance_of_zero_is_one_that_is_not_known(tmp_path):
    write_patient(tmp_path, 1, [20])
    write_dicom(next(tmp_path.rglob("P01-0020.dcm")), np.zeros((96, 64)), SpacingBetweenSlices=0)
    assert rvsc.read(tmp_path, target="endocardium")[0].gap_mm is None


def test_a_byte_order_mark_is_no_part_of_a_contour_and_an_underscore_no_digit(tmp_path):
    write_patient(tmp_path, 1, [20])
    path = next(tmp_path.rglob("P01-0020-icontour-manual.txt"))
    text = path.read_text()
    path.write_text(text, encoding="utf-8-sig")
    assert len(rvsc.read(tmp_path, target="endocardium")) == 1
    path.write_text(f"1_0 10\n{text}")
    with pytest.raises(InputError, match="P01-0020-icontour-manual.txt, line 1: '1_0 10'"):
        rvsc.read(tmp_path, target="endocardium")


def renamed(root, *, only=""):
    for path in root.rglob(f"*{only}contour-manual.txt"):
        path.rename(path.with_name(path.name.replace("-manual", "-auto")))


def test_computed_contours_are_read_where_there_is_no_manual_one_and_said_to_be_none_of_an_expert(tmp_path, caplog):
    write_patient(tmp_path, 9, [20, 22])
    manual = rvsc.read(tmp_path, target="endocardium")
    assert caplog.text == ""
    renamed(tmp_path)
    a_file(tmp_path, "P09-0022-icontour-auto.txt").unlink()  # nothing was predicted there; the list names it all the same
    with caplog.at_level(logging.WARNING):
        computed = rvsc.read(tmp_path, target="endocardium")
    assert [item.frame for item in computed] == [20]
    assert np.array_equal(computed[0].mask, manual[0].mask)
    assert "-auto" in caplog.text


def test_computed_contours_beside_a_single_manual_one_do_not_count(tmp_path, caplog):
    write_patient(tmp_path, 9, [20, 22], listed=[20])
    renamed(tmp_path, only="0022-i")
    with caplog.at_level(logging.WARNING):
        assert [item.frame for item in rvsc.read(tmp_path, target="endocardium")] == [20]
    assert "-auto" not in caplog.text


def test_a_list_names_manual_contours_only(tmp_path):
    write_patient(tmp_path, 9, [20])
    a_file(tmp_path, "P09list.txt").write_text("P09-0020-icontour-auto.txt")
    with pytest.raises(InputError, match=r"P09list\.txt, line 1: 'P09-0020-icontour-auto.txt'.*\bP09\b"):
        rvsc.read(tmp_path, target="endocardium")


def test_links_may_lead_elsewhere_in_the_root_but_not_out_of_it(tmp_path):
    root, store = tmp_path / "data", tmp_path / "data" / "store"
    write_patient(root, 9, [20, 22], n_frames=3)
    expected = rvsc.read(root, target="endocardium").fingerprint()
    image = a_file(root, "P09-0022.dcm")
    image.rename(store)
    image.symlink_to(store)
    (root / "TrainingSet" / "loop").symlink_to(root / "TrainingSet")
    assert rvsc.read(root, target="endocardium").fingerprint() == expected
    with pytest.raises(InputError, match=r"P09-0022\.dcm: .*\blink\b.*/TrainingSet\b"):
        rvsc.read(root / "TrainingSet", target="endocardium")


@pytest.mark.parametrize("name", ["TrainingSet", "TrainingSet/patient09", "TrainingSet/patient09/P09dicom"])
def test_a_folder_that_is_a_link_out_is_refused_and_not_passed_over(tmp_path, name):
    write_patient(tmp_path / "data", 8, [20], n_frames=1)
    write_patient(tmp_path / "data", 9, [20], n_frames=1)
    (tmp_path / "data" / name).rename(tmp_path / "outside")
    (tmp_path / "data" / name).symlink_to(tmp_path / "outside")
    for look in (lambda root: rvsc.read(root, target="endocardium"), lambda root: list(rvsc.contour_files(root))):
        with pytest.raises(InputError, match=rf"{name}: .*\blink\b"):
            look(tmp_path / "data")


def test_a_folder_that_cannot_be_read_is_refused_and_not_passed_over(tmp_path, monkeypatch):
    write_patient(tmp_path, 8, [20], n_frames=1)
    write_patient(tmp_path, 9, [20], n_frames=1)
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("patient09"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match="/patient09: .*Permission denied"):
        rvsc.read(tmp_path, target="endocardium")


def test_digits_and_letters_of_other_scripts_make_no_name_of_a_file(tmp_path):
    write_patient(tmp_path, 9, [20], n_frames=1)
    contour = a_file(tmp_path, "*icontour*")
    for name in ("P09-0021-\u0131contour-manual.txt", "P09-\u0660\u0660\u0662\u0661-icontour-manual.txt"):
        contour.with_name(name).write_text("1 1")
    assert [name for *_, name, _ in rvsc.contour_files(tmp_path)] == [contour, a_file(tmp_path, "*ocontour*")]
    assert len(rvsc.read(tmp_path, target="endocardium")) == 1


def test_images_whose_stored_values_run_the_other_way_are_read_as_the_others(tmp_path):
    for name in ("plain", "inverted"):
        write_patient(tmp_path / name, 9, [20, 40])
    for path in (tmp_path / "inverted").rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.PixelData = (1000 - dataset.pixel_array).astype("<u2").tobytes()
        dataset.RescaleSlope, dataset.RescaleIntercept = -1, 1000
        dataset.save_as(path)
    plain, inverted = (rvsc.read(tmp_path / name, target="endocardium") for name in ("plain", "inverted"))
    assert inverted.fingerprint() == plain.fingerprint()


@pytest.mark.parametrize(
    ("taken", "name", "what"),
    [
        ("P09-0020.dcm", "P09-0099.ima", "image"),
        ("P09-0020.dcm", "P09-0099", "image"),
        ("P09-0020.dcm", "P09-0099.png", "image"),
        ("P09-0020.dcm", "P09-99.dcm", "image"),
        ("P09-0020.dcm", "IM21", "image"),
        ("P09-0020-icontour-manual.txt", "P09-0021-icontour-manual.csv", "contour"),
        ("P09-0020-icontour-manual.txt", "P09-0020-icontour-manual (1).txt", "contour"),
        ("P09-0020-icontour-manual.txt", "P09-21-icontour-manual.txt", "contour"),
        ("P09-0020-icontour-manual.txt", "P09_0021_i-contour.txt", "contour"),
    ],
)
def test_an_image_or_contour_that_would_be_lost_is_refused_by_name(tmp_path, taken, name, what):
    write_patient(tmp_path, 9, [20], flat=True)
    (original,) = tmp_path.rglob(taken)
    original.with_name(name).write_bytes(original.read_bytes())
    for look in (lambda root: rvsc.read(root, target="endocardium"), lambda root: list(rvsc.contour_files(root))):
        with pytest.raises(InputError, match=rf"{re.escape(name)}: .*\b{what}\b"):
            look(tmp_path)


def test_files_that_are_not_taken_are_told_but_for_what_comes_with_data(tmp_path, caplog):
    write_patient(tmp_path, 9, [20])
    (dicom,) = tmp_path.rglob("P09-0020.dcm")
    for name in ("README.txt", ".DS_Store", "Thumbs.db", "._P09-0021.dcm"):
        (dicom.parent / name).write_text("x")
    rvsc.read(tmp_path, target="endocardium")
    assert not caplog.text
    for name in ("P09-0020.png", "notes.txt", "P09-0020-icontour-manual.txt.bak"):
        (dicom.parent / name).write_text("x")
    for name in ("TrainingSet2", "Test1Set"):
        (tmp_path / name).mkdir()
    rvsc.read(tmp_path, target="endocardium")
    assert re.search(r"\b4\b.*: TrainingSet2, TrainingSet/patient09/P09dicom/P09-0020-icontour-man", caplog.messages[-1])
