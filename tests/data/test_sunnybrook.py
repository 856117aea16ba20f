import errno
import logging
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from conftest import SQUARE, write_dicom
from layouts.sunnybrook import ED, ES, LABEL, REAL, read, write_patient
from segtune.data.formats import contours
from segtune.data.slices import SliceSet
from segtune.errors import InputError


def phases(slices) -> dict[int, str | None]:
    return {item.frame: item.phase for item in slices}


def test_a_slice_is_what_names_and_pixels_say(tmp_path):
    write_patient(tmp_path, 1, [27, 40], [40])
    first, second = read(tmp_path)
    assert (first.patient, first.frame, first.slice_index, first.phase) == (LABEL, 27, 1, "ES")
    assert (second.patient, second.frame, second.slice_index, second.phase) == (LABEL, 40, 1, "ED")
    assert (first.spacing_mm, first.gap_mm) == ((0.7, 0.8), 8)
    assert np.array_equal(first.image, np.random.default_rng([1, 27]).integers(0, 400, (96, 64)))


def test_the_contour_files_count_pixels_from_1(tmp_path):
    write_patient(tmp_path, 1, [20])
    rows, columns = np.nonzero(read(tmp_path)[0].mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (19, 38, 9, 28)  # x from 10 to 30, y from 20 to 40


def test_a_contour_around_the_first_pixel_fits_the_image(tmp_path):
    write_patient(tmp_path, 1, [20], start=(-9.5, -19.5))
    mask = read(tmp_path)[0].mask
    assert mask[:20, :20].all()
    assert mask.sum() == 400


def test_target_epicardium_reads_the_outer_contours(tmp_path):
    write_patient(tmp_path, 1, [*ED, *ES], ED)
    slices = read(tmp_path, "epicardium")
    assert phases(slices) == {20: "ED", 40: "ED"}
    assert [item.mask.sum() for item in slices] == [24 * 24] * 2


def test_masks_may_be_drawn_as_published(tmp_path):
    write_patient(tmp_path, 1, [20])
    assert read(tmp_path, masks="pil")[0].mask.sum() == 21 * 21
    with pytest.raises(InputError, match="data.masks=cv2"):
        read(tmp_path, masks="cv2")


def test_patients_come_in_the_order_of_their_patient_ids_whatever_the_order_of_the_lines(tmp_path):
    for number, label in ((10, "SC-N-2"), (2, "SC-HYP-1"), (1, "SC-HF-NI-3")):
        write_patient(tmp_path, number, [120, 20], label=label)
    found = [(item.patient, item.frame) for item in read(tmp_path)]
    assert found == [(label, frame) for label in ("SC-HF-NI-3", "SC-HYP-1", "SC-N-2") for frame in (20, 120)]


def test_images_without_a_contour_are_passed_over(tmp_path):
    write_patient(tmp_path, 1, [20], [20, 40])
    assert len(read(tmp_path)) == 1


# Phases


def test_end_diastole_is_the_phase_with_epicardial_contours_even_if_it_is_the_smaller_one(tmp_path):
    write_patient(tmp_path, 1, [*ED, *ES], ED[:1], scale=dict.fromkeys(ED, 0.5))
    assert phases(read(tmp_path)) == {20: "ED", 27: "ES", 40: "ED", 47: "ES"}


def test_without_epicardial_contours_end_diastole_is_the_larger_phase(tmp_path):
    write_patient(tmp_path, 1, [*ED, *ES], scale=dict.fromkeys(ED, 0.5))
    assert phases(read(tmp_path)) == {20: "ES", 27: "ED", 40: "ES", 47: "ED"}


@pytest.mark.parametrize(("larger", "smaller"), [(ED, ES), (ES, ED)])
@pytest.mark.parametrize("target", ["endocardium", "epicardium"])
def test_epicardial_contours_at_both_phases_leave_the_choice_to_the_area(tmp_path, target, larger, smaller):
    write_patient(tmp_path, 1, [*ED, *ES], [*ED, *ES], scale=dict.fromkeys(smaller, 0.5))
    assert phases(read(tmp_path, target)) == dict.fromkeys(larger, "ED") | dict.fromkeys(smaller, "ES")


def test_of_three_phases_only_the_one_with_epicardial_contours_has_a_name(tmp_path):
    write_patient(tmp_path, 1, [20, 27, 29], [20])
    write_patient(tmp_path, 2, [20, 27, 29])
    assert [item.phase for item in read(tmp_path)] == ["ED", None, None, None, None, None]


def test_one_phase_without_epicardial_contours_has_no_name(tmp_path):
    write_patient(tmp_path, 1, ED)
    write_patient(tmp_path, 2, ED, ED)
    assert [item.phase for item in read(tmp_path)] == [None, None, "ED", "ED"]


def test_frame_20_is_the_last_phase_of_the_first_slice(tmp_path):
    write_patient(tmp_path, 1, [1, 20, 21, 40], [20])
    assert [(s.slice_index, s.phase) for s in read(tmp_path)] == [(0, "ES"), (0, "ED"), (1, "ES"), (1, "ED")]


# Bad input


def a_file(root, pattern):
    return next(root.rglob(pattern))


def link(text):
    return lambda root: (root / "link.csv").write_text(text)


def elsewhere(pattern):
    """Moves what has this name out of the data, with a link in its place."""

    def damage(root):
        path, outside = a_file(root, pattern), root.parent / f"outside-{pattern}"
        shutil.move(path, outside)
        path.symlink_to(outside)

    return damage


HEAD = "patient_id,original_id\n"
LINE = f"{HEAD}SCD0000101,{LABEL}\n"
CONTOUR = "IM-0001-0040-icontour-manual.txt"
DAMAGE = {
    "no link.csv": (lambda r: (r / "link.csv").unlink(), r"data.root=\S+: [^.]*\blink[.]csv\b.*\bdicoms\b"),
    "link.csv is a folder": (
        lambda r: ((r / "link.csv").unlink(), (r / "link.csv").mkdir()),
        r"data.root=\S+: [^.]*\blink[.]csv\b.*\bdicoms\b",
    ),
    "link.csv is empty": (link(""), r"link\.csv, line 1: .*\bpatient_id,original_id\b"),
    "link.csv without a head": (link(f"SCD0000101,{LABEL}\n"), r"link\.csv, line 1: .*\bpatient_id,original_id\b"),
    "link.csv is binary": (
        lambda r: (r / "link.csv").write_bytes(b"\x89PNG\0\xff\n"),
        r"link\.csv, line 1: .*\bpatient_id,original_id\b",
    ),
    "link.csv with an endless field": (link(f'{HEAD}"{"x" * 200_000}'), r"link\.csv: .*\b0.0625 MiB"),
    "link.csv names nobody": (link(HEAD), r"link\.csv: .*\bno patient\b"),
    "a line of one name": (link(f"{LINE}\nSCD0000201\n"), r"link\.csv, line 4: 'SCD0000201' .*\bSCD0000101,SC-HF-I-1\b"),
    "a line of three names": (link(f"{LINE}a,b,c\n"), r"link\.csv, line 3: 'a,b,c' .*\bSCD0000101,SC-HF-I-1\b"),
    "a path for a patient_id": (link(f"{HEAD}../x,{LABEL}\n"), r"link\.csv, line 2: '\.\./x,SC-HF-I-1' "),
    "a path for an original_id": (link(f"{HEAD}SCD0000101,..\n"), r"link\.csv, line 2: 'SCD0000101,\.\.' "),
    "an absolute path": (link(f"{HEAD}/etc,{LABEL}\n"), r"link\.csv, line 2: '/etc,SC-HF-I-1' "),
    "a patient_id twice": (link(f"{LINE}SCD0000101,SC-N-2\n"), r"link\.csv, line 3: SCD0000101 .*\btwice\b"),
    "an original_id twice": (link(f"{LINE}SCD0000201,{LABEL}\n"), r"link\.csv, line 3: SC-HF-I-1 .*\btwice\b"),
    "a patient without images": (link(f"{LINE}SCD0000201,SC-N-2\n"), r"/SCD0000201: .*\blink.csv\b.*\bmissing\b"),
    "contours of an unknown patient": (
        lambda r: shutil.copytree(r / "contourfiles" / LABEL, r / "contourfiles" / "SC-N-9"),
        r"contourfiles/SC-N-9: .*\blink.csv\b.*\bSC-N-9\b",
    ),
    "images of an unknown patient": (
        lambda r: (r / "dicoms" / "SCD9").mkdir(),
        r"dicoms/SCD9: .*\blink.csv\b.*\bSCD9\b",
    ),
    "no folder dicoms": (lambda r: shutil.rmtree(r / "dicoms"), f"/dicoms: .*{os.strerror(errno.ENOENT)}"),
    "no folder contourfiles": (lambda r: shutil.rmtree(r / "contourfiles"), f"/contourfiles: .*{os.strerror(errno.ENOENT)}"),
    "no contours of a patient": (
        lambda r: shutil.rmtree(r / "contourfiles" / LABEL),
        r"SC-HF-I-1/i-contours: .*\bendocardium\b.*\bSC-HF-I-1\b",
    ),
    "an empty folder of contours": (
        lambda r: [path.unlink() for path in r.rglob("*icontour*")],
        r"SC-HF-I-1/i-contours: .*\bendocardium\b.*\bSC-HF-I-1\b",
    ),
    "a missing image": (lambda r: a_file(r, "40.dcm").unlink(), rf"{CONTOUR}: .*SCD0000101/40\.dcm\b"),
    "an image twice": (
        lambda r: shutil.copy(a_file(r, "40.dcm"), a_file(r, "40.dcm").with_name("0040.dcm")),
        r"/40\.dcm and \S*/0040\.dcm .*\bframe\b|/0040\.dcm and \S*/40\.dcm .*\bframe\b",
    ),
    "an image with another name": (
        lambda r: a_file(r, "40.dcm").rename(r / "dicoms" / "SCD0000101" / "IM-0001-0040.dcm"),
        r"IM-0001-0040\.dcm: .*\b59\.dcm\b",
    ),
    "frame 0": (
        lambda r: a_file(r, CONTOUR).rename(a_file(r, CONTOUR).with_name(CONTOUR.replace("0040", "0000"))),
        r"IM-0001-0000-icontour-manual.txt: .*\bIM-0001-0059-icontour-manual.txt\b.*\b1\b",
    ),
    "two series": (
        lambda r: shutil.copy(a_file(r, CONTOUR), a_file(r, CONTOUR).with_name(CONTOUR.replace("0001", "0002"))),
        r"IM-0002-0040-icontour-manual.txt and \S*IM-0001-0040-icontour-manual.txt .*\bframe\b",
    ),
    "an outer contour among the inner ones": (
        lambda r: shutil.copy(a_file(r, "*ocontour*"), a_file(r, "i-contours")),
        r"i-contours/IM-0001-0040-ocontour-manual.txt: .*\bIM-0001-0059-icontour-manual.txt\b",
    ),
    "a folder named as an image": (
        lambda r: (a_file(r, "40.dcm").unlink(), (r / "dicoms" / "SCD0000101" / "40.dcm").mkdir()),
        r"SCD0000101/40\.dcm: .*\bfile\b.*\b59\.dcm\b",
    ),
    "a contour of 2 points": (lambda r: a_file(r, CONTOUR).write_text("1 1\n2 2\n"), rf"{CONTOUR}: .*\b3\b.*\bpoints\b.*\b2\b"),
    "letters": (lambda r: a_file(r, CONTOUR).write_text("1 1\na b\n"), f"{CONTOUR}, line 2: 'a b'"),
    "a contour outside": (
        lambda r: np.savetxt(a_file(r, CONTOUR), np.array(SQUARE) + 500),
        rf"{CONTOUR}: .*\boutside\b.*\b64 columns\b",
    ),
    "a contour without a pixel": (
        lambda r: a_file(r, CONTOUR).write_text("5.2 5.2\n5.4 5.2\n5.4 5.4\n"),
        rf"{CONTOUR}: .*\bcentre\b",
    ),
    "a truncated image": (
        lambda r: a_file(r, "40.dcm").write_bytes(a_file(r, "40.dcm").read_bytes()[:3000]),
        r"SCD0000101/40\.dcm: .*DICOM.*\(\w+\)",
    ),
    "a PNG": (lambda r: a_file(r, "40.dcm").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(999)), r"40\.dcm: .*\bnot\b.*DICOM"),
    "no spacing": (
        lambda r: write_dicom(a_file(r, "40.dcm"), np.ones((96, 64)), PixelSpacing=None),
        r"40\.dcm: .*PixelSpacing",
    ),
    "link.csv elsewhere": (elsewhere("link.csv"), r"/link\.csv: .*\blink\b.*/data\b"),
    "dicoms elsewhere": (elsewhere("dicoms"), r"/dicoms: .*\blink\b.*/data\b"),
    "a patient elsewhere": (elsewhere("SCD0000101"), r"/SCD0000101: .*\blink\b.*/data\b"),
    "an image elsewhere": (elsewhere("40.dcm"), r"40\.dcm: .*\blink\b.*/data\b"),
    "contours elsewhere": (elsewhere("i-contours"), r"/i-contours: .*\blink\b.*/data\b"),
    "a contour elsewhere": (elsewhere(CONTOUR), rf"{CONTOUR}: .*\blink\b.*/data\b"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_data_are_refused_by_name(tmp_path, name):
    damage, message = DAMAGE[name]
    write_patient(tmp_path / "data", 1, [27, 40], [40])
    assert len(read(tmp_path / "data")) == 2
    damage(tmp_path / "data")
    with pytest.raises(InputError, match=message):
        read(tmp_path / "data")


def test_a_link_within_the_folder_and_files_of_other_kinds_are_harmless(tmp_path):
    write_patient(tmp_path / "data", 1, [20, 40])
    expected = read(tmp_path / "data").fingerprint()
    image = a_file(tmp_path / "data", "40.dcm")
    shutil.move(image, tmp_path / "data" / "store")
    image.symlink_to("../../store")
    for path in (".DS_Store", "README.txt", "dicoms/Thumbs.db", f"contourfiles/{LABEL}/i-contours/._{CONTOUR}"):
        (tmp_path / "data" / path).write_bytes(b"\0")
    assert read(tmp_path / "data").fingerprint() == expected
    (tmp_path / "linked").symlink_to(tmp_path / "data")
    assert read(tmp_path / "linked").fingerprint() == expected


def test_a_link_to_itself_is_refused(tmp_path):
    write_patient(tmp_path, 1, [20, 40])
    image = a_file(tmp_path, "40.dcm")
    image.unlink()
    image.symlink_to(image)
    with pytest.raises(InputError, match=r"40\.dcm: .*\bneither\b"):
        read(tmp_path)


def test_link_csv_may_have_a_byte_order_mark_windows_lines_quotes_and_blank_lines(tmp_path):
    write_patient(tmp_path, 1, [20])
    (tmp_path / "link.csv").write_bytes(b'\xef\xbb\xbfpatient_id,original_id\r\n\r\n"SCD0000101", SC-HF-I-1 \r\n')
    assert read(tmp_path).patients == [LABEL]


def test_a_patient_without_epicardial_contours_is_refused_as_target_epicardium(tmp_path):
    write_patient(tmp_path, 1, [20, 27])
    with pytest.raises(InputError, match=r"/o-contours: .*\bepicardium\b.*\bSC-HF-I-1\b"):
        read(tmp_path, "epicardium")
    a_file(tmp_path, "o-contours").rmdir()
    with pytest.raises(InputError, match=r"/o-contours: .*\bepicardium\b.*\bSC-HF-I-1\b"):
        read(tmp_path, "epicardium")
    assert len(read(tmp_path)) == 2


def test_an_unknown_target_and_a_missing_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match="data.target=heart: .*endocardium.*epicardium"):
        read(tmp_path, "heart")
    with pytest.raises(InputError, match="data.root=.*/elsewhere: .*such folder"):
        read(tmp_path / "elsewhere")


def test_no_name_from_a_header_is_kept_or_logged(tmp_path, caplog, capfd):
    write_patient(tmp_path, 1, [20, 40])
    assert "Secret" not in repr([vars(item) for item in read(tmp_path)])
    path = a_file(tmp_path, "40.dcm")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(InputError) as caught, caplog.at_level(logging.DEBUG):
        read(tmp_path)
    assert "Secret" not in caplog.text + str(caught.value) + "".join(capfd.readouterr())


# The five real patients

real = pytest.mark.skipif(not REAL.is_dir(), reason="the real patients are not part of the project")


@pytest.fixture(scope="module")
def endocardium() -> SliceSet:
    return read(REAL)


@real
def test_five_real_patients_have_96_slices(endocardium):
    counts = {"SC-HF-I-1": 18, "SC-HF-I-2": 18, "SC-HF-I-4": 20, "SC-HF-I-5": 18, "SC-HF-I-6": 22}
    assert Counter(endocardium.patients) == counts
    assert list(dict.fromkeys(endocardium.patients)) == list(counts)
    assert {(s.image.shape, s.gap_mm) for s in endocardium} == {((256, 256), 8.0), ((256, 256), 10.0)}
    assert all(1.28 < mm < 1.37 for s in endocardium for mm in s.spacing_mm)


@real
def test_real_foreground_is_0_1_to_3_7_percent(endocardium):
    share = [100 * item.mask.mean() for item in endocardium]
    assert 0.1 < min(share) < 0.15
    assert 3.5 < max(share) < 3.7


@real
def test_half_of_the_real_slices_are_end_diastole_and_the_area_rule_would_say_so_too(endocardium):
    assert Counter(item.phase for item in endocardium) == {"ED": 48, "ES": 48}
    for patient in set(endocardium.patients):
        mine = [item for item in endocardium if item.patient == patient]
        area = {divmod(item.frame - 1, 20): float(item.mask.sum()) for item in mine}
        assert {(item.frame - 1) % 20 for item in mine if item.phase == "ED"} == {contours.end_diastole(area)}


@real
def test_real_epicardia_are_drawn_at_end_diastole_only():
    epicardium = read(REAL, "epicardium")
    assert (len(epicardium), {item.phase for item in epicardium}) == (46, {"ED"})


@real
def test_the_blood_in_a_real_mask_is_brighter_than_the_wall_around_it(endocardium):
    for item in endocardium:
        wall = ndimage.binary_dilation(item.mask, iterations=4) & ~item.mask
        assert item.image[item.mask].mean() > item.image[wall].mean()


@real
@pytest.mark.parametrize("axis", [0, 1])
def test_real_masks_lie_on_the_steepest_edge(endocardium, axis):
    """Moved by a pixel in either direction, the masks' borders lie on smaller gradients: the 1 that is subtracted is right."""

    def steepness(shift: int) -> float:
        total = 0.0
        for item in endocardium:
            border = item.mask ^ ndimage.binary_erosion(item.mask), item.mask ^ ndimage.binary_dilation(item.mask)
            slope = ndimage.gaussian_gradient_magnitude(item.image, 1.0)
            total += sum(np.roll(slope, -shift, axis)[line].mean() for line in border) / slope.mean()
        return total

    values = [steepness(shift) for shift in (-2, -1, 0, 1, 2)]
    assert int(np.argmax(values)) == 2, values


@pytest.mark.parametrize(
    ("taken", "name", "what"),
    [
        ("dicoms/SCD0000101/20.dcm", "dicoms/SCD0000101/21.ima", "image"),
        ("dicoms/SCD0000101/20.dcm", "dicoms/SCD0000101/IM21", "image"),
        ("dicoms/SCD0000101/20.dcm", "dicoms/SCD0000101/old/21.dcm", "image"),
        ("dicoms/SCD0000101/20.dcm", "dicoms/SCD0000101/21.png", "image"),
        ("dicoms/SCD0000101/20.dcm", "dicoms/21.dcm", "image"),
        ("{i}/IM-0001-0020-icontour-manual.txt", "{i}/IM-0001-0021-icontour-manual.csv", "contour"),
        ("{i}/IM-0001-0020-icontour-manual.txt", "{i}/more/IM-0001-0021-icontour-manual.txt", "contour"),
        ("{i}/IM-0001-0020-icontour-manual.txt", "{i}/../icontours/IM-0001-0021-icontour-manual.txt", "contour"),
    ],
)
def test_an_image_or_contour_that_would_be_lost_is_refused_by_name(tmp_path, taken, name, what):
    write_patient(tmp_path, 1, [20])
    taken, name = (Path(os.path.normpath(tmp_path / one.format(i=f"contourfiles/{LABEL}/i-contours"))) for one in (taken, name))
    name.parent.mkdir(exist_ok=True)
    name.write_bytes(taken.read_bytes())
    with pytest.raises(InputError, match=rf"{name.name}: .*\b{what}\b"):
        read(tmp_path)


def test_files_that_are_not_taken_are_told_but_for_what_comes_with_data(tmp_path, caplog):
    write_patient(tmp_path, 1, [20])
    for name in ("README.txt", ".DS_Store", "dicoms/Thumbs.db", "dicoms/SCD0000101/._20.dcm"):
        (tmp_path / name).write_text("x")
    read(tmp_path)
    assert not caplog.text
    for name in ("dicoms/SCD0000101/20.png", "notes.txt", f"contourfiles/{LABEL}/IM-0001-0020-p1contour-manual.txt"):
        (tmp_path / name).write_text("x")
    read(tmp_path)
    assert re.search(rf"\b3\b.*: notes.txt, contourfiles/{LABEL}/IM-0001-0020-p1contour-manual.txt,", caplog.messages[-1])
