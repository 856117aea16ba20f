import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

import volumes
from layouts.acdc import INFO, write_patient
from segtune.data import acdc
from segtune.errors import InputError


def read(root, target="rv", **settings):
    return acdc.read(root, target=target, **settings)


def test_both_phases_of_every_patient_are_read_in_order(tmp_path):
    for number in (10, 2):
        write_patient(tmp_path, number)
    found = [(item.patient, item.phase, item.frame, item.slice_index) for item in read(tmp_path)]
    assert found == [
        (patient, phase, frame, index)
        for patient in ("patient002", "patient010")
        for phase, frame in (("ED", 1), ("ES", 12))
        for index in range(3)
    ]


def test_images_are_as_stored_with_their_spacing(tmp_path):
    write_patient(tmp_path, 1)
    item = read(tmp_path)[4]
    assert np.array_equal(item.image, volumes.pixels(112)[:, :, 1].T)
    assert (item.spacing_mm, item.gap_mm) == (pytest.approx((0.8, 0.7)), 9.0)


@pytest.mark.parametrize(("target", "first"), [("rv", 2), ("myocardium", 4), ("lv", 6)])
def test_the_target_chooses_the_structure(tmp_path, target, first):
    write_patient(tmp_path, 1)
    assert np.unique(np.nonzero(read(tmp_path, target)[1].mask)[1]).tolist() == [first, first + 1]


def test_slices_without_the_target_are_kept_or_dropped_as_chosen(tmp_path, caplog):
    write_patient(tmp_path, 1)
    assert [item.mask.any() for item in read(tmp_path)] == [False, True, True] * 2
    caplog.set_level("INFO")
    assert [item.slice_index for item in read(tmp_path, empty="drop")] == [1, 2, 1, 2]
    assert re.search(r"\b2 of 6 slices\b", caplog.text)
    with pytest.raises(InputError, match=r"data.empty=skip: .*\bkeep\b.*\bdrop\b"):
        read(tmp_path, empty="skip")


def test_a_patient_of_whom_dropping_leaves_nothing_is_refused(tmp_path):
    write_patient(tmp_path, 1)
    folder = write_patient(tmp_path, 2)
    for path in folder.glob("*_gt.nii.gz"):
        volumes.write(path, volumes.labels() * 0)
    assert len(read(tmp_path)) == 12
    with pytest.raises(InputError, match=r"data.empty=drop .*\bpatient002\b"):
        read(tmp_path, empty="drop")
    shutil.rmtree(tmp_path / "patient001")
    with pytest.raises(InputError, match=r"data.target: .*\b6 slices\b"):
        read(tmp_path)


def test_root_may_be_the_parent_of_training(tmp_path):
    write_patient(tmp_path / "training", 1)
    write_patient(tmp_path / "testing", 101)
    assert read(tmp_path).fingerprint() == read(tmp_path / "training").fingerprint()


def test_uncompressed_files_windows_lines_and_hidden_files_are_read_alike(tmp_path):
    folder = write_patient(tmp_path, 1)
    expected = read(tmp_path).fingerprint()
    image = folder / "patient001_frame01.nii.gz"
    image.unlink()
    volumes.write(image.with_suffix(""), volumes.pixels(101))
    (folder / "Info.cfg").write_bytes(b"\xef\xbb\xbf" + INFO.replace("\n", "\r\n").encode())
    (folder / "._patient001_frame01.nii.gz").write_bytes(b"\0")
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    assert read(tmp_path).fingerprint() == expected


def test_200_volumes_are_read_in_under_30_seconds(tmp_path):
    """A bound that users are promised, held here by a fifth of the files."""
    for number in range(1, 21):
        write_patient(tmp_path, number, shape=(216, 256, 10))
    started = time.perf_counter()
    assert len(read(tmp_path)) == 400
    assert time.perf_counter() - started < 6


def info(text):
    return lambda folder: (folder / "Info.cfg").write_text(text)


def linked(name):
    def damage(folder):
        shutil.move(folder / name, folder.parents[1] / f"outside-{name}")
        (folder / name).symlink_to(folder.parents[1] / f"outside-{name}")

    return damage


def cut(path, n):
    path.write_bytes(path.read_bytes()[:n])


ONE = "patient001_frame01"
DAMAGE = {
    "no Info.cfg": (lambda f: (f / "Info.cfg").unlink(), "/patient001: .*Info.cfg"),
    "Info.cfg is a folder": (lambda f: ((f / "Info.cfg").unlink(), (f / "Info.cfg").mkdir()), "/patient001: .*Info.cfg"),
    "no ED": (info("ES: 12\n"), "Info.cfg: .*`ED: ...`"),
    "no ES": (info("ED: 1\n"), "Info.cfg: .*`ES: ...`"),
    "an empty Info.cfg": (info(""), "Info.cfg: .*`ED: ...`"),
    "a word for a frame": (info("ED: first\nES: 12"), "Info.cfg, line 1: 'first' .*`ED: 1`"),
    "frame 0": (info("ES: 12\nED: 0"), "Info.cfg, line 2: '0' .*`ED: 1`"),
    "a path for a frame": (info("ED: ../../x\nES: 12"), "Info.cfg, line 1: '../../x' .*`ED: 1`"),
    "ED twice": (info("ED: 1\nES: 12\nED: 2"), "Info.cfg, line 3: ED .*twice"),
    "ED equal to ES": (info("ED: 7\nES: 7"), r"Info.cfg: ED and ES .*\bframe 7\b"),
    "a frame that is not there": (
        info("ED: 2\nES: 12"),
        r"patient001_frame02.nii.gz: .*Info.cfg .*\bframe 2 .*\bED\b",
    ),
    "an endless Info.cfg": (info("ED: 1\n" * 20000), "Info.cfg: .*0.0625 MiB"),
    "no label image": (lambda f: (f / f"{ONE}_gt.nii.gz").unlink(), f"{ONE}_gt.nii.gz: .*missing.*Info.cfg"),
    "no image": (lambda f: (f / f"{ONE}.nii.gz").unlink(), f"{ONE}.nii.gz: .*missing.*Info.cfg"),
    "an image twice": (lambda f: volumes.write(f / f"{ONE}.nii", volumes.pixels(1)), rf"{ONE}[.]nii[.]gz and \S+{ONE}[.]nii "),
    "a film for a frame": (
        lambda f: volumes.write(f / f"{ONE}.nii.gz", volumes.pixels(1, (12, 10, 3, 4))),
        f"{ONE}.nii.gz: .*12 x 10 x 3 x 4 .*4 axes",
    ),
    "a label of no structure": (
        lambda f: volumes.write(f / f"{ONE}_gt.nii.gz", volumes.labels() + np.uint8(1)),
        rf"{ONE}_gt.nii.gz: .*\blabel 4\b.*\bACDC\b",
    ),
    "an image cut off": (lambda f: cut(f / f"{ONE}.nii.gz", 300), rf"{ONE}.nii.gz: .*\bdamaged\b"),
    "a label image of another patient": (
        lambda f: volumes.write(f / f"{ONE}_gt.nii.gz", volumes.labels((12, 12, 3))),
        f"{ONE}_gt.nii.gz: .*12 x 12 x 3 .*{ONE}.nii.gz .*12 x 10 x 3",
    ),
    "an image elsewhere": (linked(f"{ONE}.nii.gz"), rf"{ONE}.nii.gz: .*\blink\b.*/data\b"),
    "Info.cfg elsewhere": (linked("Info.cfg"), r"Info.cfg: .*\blink\b.*/data\b"),
    "another folder": (lambda f: (f.parent / "results").mkdir(), "results: .*patient001"),
    "no patients": (shutil.rmtree, r"data.root=.* \(like patient001\)"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_data_are_refused_by_name(tmp_path, name):
    damage, message = DAMAGE[name]
    folder = write_patient(tmp_path / "data", 1)
    assert len(read(tmp_path / "data")) == 6
    damage(folder)
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path / "data")
    assert "Secret" not in str(caught.value)


def test_a_patient_s_folder_elsewhere_is_refused(tmp_path):
    folder = write_patient(tmp_path / "data", 1)
    shutil.move(folder, tmp_path / "outside")
    folder.symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match=r"/patient001: .*\blink\b.*/data\b"):
        read(tmp_path / "data")


def test_an_unknown_target_and_a_missing_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match="data.target=heart: .* rv, myocardium, lv"):
        read(tmp_path, "heart")
    with pytest.raises(InputError, match="data.root=.*/elsewhere: .*such folder"):
        read(tmp_path / "elsewhere")


def test_nothing_of_a_header_or_of_info_but_the_frames_is_kept(tmp_path):
    write_patient(tmp_path, 1, info=f"{INFO}Name: Secret\n")
    assert "Secret" not in repr([vars(item) for item in read(tmp_path)])


def test_a_link_may_lead_to_what_lies_beside_training(tmp_path):
    folder = write_patient(tmp_path / "training", 1)
    expected = read(tmp_path).fingerprint()
    image = folder / f"{ONE}.nii.gz"
    shutil.move(image, tmp_path / "store")
    image.symlink_to(tmp_path / "store")
    assert read(tmp_path).fingerprint() == expected
    with pytest.raises(InputError, match=rf"{ONE}.nii.gz: .*\blink\b.*/training\b"):
        read(tmp_path / "training")


FIVE = "patient001_frame05"
LOST = {
    "labels in another format": (f"patient001/{FIVE}_gt.nrrd", "patient001_frame01.nii.gz"),
    "a pair in another format": (f"patient001/{FIVE}.img", "patient001_frame01.nii.gz"),
    "another patient's frame": ("patient001/patient002_frame01.nii.gz", "patient001_frame01.nii.gz"),
    "a frame one folder below": ("patient001/more/patient001_frame05_gt.nii.gz", "patient001_frame01.nii.gz"),
    "labels of a frame that is no phase": (f"patient001/{FIVE}_gt.nii.gz", "Info.cfg .*neither ED nor ES"),
    "a packed patient": ("patient003.zip", r"folder\b.* patient003\b"),
    "frames without a folder": ("patient003_frame01.nii.gz", r"folder\b.* patient003\b"),
}


@pytest.mark.parametrize("name", LOST)
def test_a_frame_that_would_be_lost_is_refused_by_name(tmp_path, name):
    file, message = LOST[name]
    write_patient(tmp_path, 1)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    volumes.write(tmp_path / file, volumes.labels())
    named = str(Path(file).parent) if "more" in file else file
    with pytest.raises(InputError, match=f"{named}: .*{message}"):
        read(tmp_path)


def test_a_patient_beside_training_is_refused(tmp_path):
    write_patient(tmp_path / "training", 1)
    write_patient(tmp_path, 2)
    with pytest.raises(InputError, match=r"/patient002: .*\bbeside\b.*\btraining\b"):
        read(tmp_path)


def test_files_that_are_not_taken_are_named_and_acdc_s_own_are_not(tmp_path, caplog):
    folder = write_patient(tmp_path / "training", 1)
    for name in ("MANDATORY_CITATION.md", "README", "training/patient001/.DS_Store"):
        (tmp_path / name).write_text("text")
    expected = read(tmp_path).fingerprint()
    assert not caplog.text
    volumes.write(folder / f"{FIVE}.nii.gz", volumes.pixels(5))
    for name in ("notes.txt", "training/patient001/screen.png", f"training/patient001/{ONE}.nrrd"):
        (tmp_path / name).write_text("text")
    assert read(tmp_path).fingerprint() == expected
    assert re.search(r"\b4\b.*: notes.txt, training/patient001/patient001_frame05.nii.gz", caplog.messages[-1])
