import csv
import gzip
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate

import volumes
from conftest import TINY, write_dicom
from layouts.acdc import write_acdc
from layouts.dicom import AXIAL, write_enhanced_heart, write_heart
from segtune import predict
from segtune.config import entry
from segtune.config.error_messages import explain
from segtune.data import rvsc, stacks
from segtune.data.formats import contours
from segtune.errors import InputError
from segtune.inference import ensembles
from segtune.inference import images as inference_images
from segtune.inference import overlays as inference_overlays
from segtune.inference.images import MOST_LINES

BRIGHT, DARK = 300, 10
NAME = "Secret^Name"


@pytest.fixture(autouse=True)
def model(monkeypatch):
    """In place of a network: what is bright is the structure."""
    result, config = {"run_id": "0123456789ab", "data": {"pixel_mm": [0.5, 0.8]}}, {"data": {"spacing_mm": None}}
    fake = SimpleNamespace(result=result, config=config, which="last", target="endocardium", folder=Path("0123456789ab"))
    fake.tta = fake.keeps_largest_component = False
    monkeypatch.setattr(ensembles, "load_all", lambda runs, **how: [fake])
    monkeypatch.setattr(ensembles, "ensemble", lambda models, slices: [np.where(s.image > 200, 0.9, 0.2) for s in slices])
    return fake


def run(source="in", output="out", **settings):
    given = {"run": "r", "input": source, "output": output, **settings}
    predict.predict(entry.compose([f"{key}={value}" for key, value in given.items()], "predict"))


def by_volume(heart):
    """The numbers in how ED and ES were found, which is by the predicted volumes."""
    assert re.search(r"\blargest\b.*\bsmallest\b", heart["ed_es_by"])
    return re.findall(r"\d+", heart["ed_es_by"])


def rows(name, folder="out"):
    with (Path(folder) / name).open(newline="") as file:
        return list(csv.DictReader(file))


def squares(*sides, shape=(30, 24)):
    """An image with bright squares of these sides, the first from (2, 3) on, none of them touching."""
    image = np.full(shape, DARK)
    row = 2
    for side in sides:
        image[row : row + side, 3 : 3 + side] = BRIGHT
        row += side + 1
    return image


def write_frame(frame, image, folder="in", patient="P09", **tags):
    about = {"ImagePositionPatient": [0, 0, 8.0 * (frame // 20)], "ImageOrientationPatient": AXIAL, "PixelSpacing": [0.5, 0.5]}
    write_dicom(Path(folder) / f"{patient}-{frame:04}.dcm", image, **{**about, **tags})


# DICOM


def test_a_contour_is_that_of_the_largest_component_and_our_reader_gets_the_mask_back(capsys):
    ring = squares(9, 4)
    ring[5:8, 6:9] = DARK
    write_frame(20, ring)
    write_frame(28, squares(5))
    write_frame(40, squares())
    run()
    assert sorted(path.name for path in Path("out/contours").iterdir()) == [
        "P09-0020-icontour-auto.txt",
        "P09-0028-icontour-auto.txt",
    ]
    mask = np.array(Image.open("out/masks/P09-0020.png"))
    expected = squares(9) > 200
    assert np.array_equal(mask, 255 * expected)
    text = Path("out/contours/P09-0020-icontour-auto.txt").read_bytes()
    assert text.count(b"\r\n") == text.count(b"\n") > 20
    shutil.copytree("out/contours", "in/contours")
    (Path("in") / "P09-0040.dcm").unlink()
    first, second = rvsc.read("in", target="endocardium")
    assert np.array_equal(first.mask, expected)
    assert np.array_equal(second.mask, squares(5) > 200)
    found = rows("slices.csv")
    columns = (
        "file",
        "structure",
        "patient",
        "phase",
        "slice",
        "frame",
        "n_pixels",
        "n_dropped",
        "n_filled",
        "area_mm2",
        "mean_probability",
    )
    assert tuple(found[0]) == columns
    assert [found[0][name] for name in columns[:10]] == [
        "P09-0020.dcm",
        "endocardium",
        "P09",
        "0",
        "1",
        "20",
        "81",
        "16",
        "9",
        "20.25",
    ]
    assert float(found[0]["mean_probability"]) == pytest.approx((72 * 0.9 + 9 * 0.2) / 81)
    assert [row["n_pixels"] for row in found] == ["81", "25", "0"]
    assert found[2]["mean_probability"] == "nan"
    assert not np.array(Image.open("out/masks/P09-0040.png")).any()
    printed = capsys.readouterr().out
    assert re.search(r"\b3 images\b.*\b1 patient\b.*\b2\b.*\b1\b", printed)
    assert re.search(r"\b16 pixels\b.*\b9 pixels\b", printed)
    assert "ring" not in printed
    assert printed.endswith(f" out\n{inference_images.RESEARCH}\n")


def test_it_is_told_that_a_ring_s_contour_has_its_cavity_within(capsys):
    image = squares(10)
    image[4:10, 5:11] = DARK
    write_frame(20, image)
    run()
    assert re.search(r"\b36%.*\bring\b", capsys.readouterr().out)


def test_a_run_that_looks_for_the_epicardium_writes_o_contours(model):
    model.target = "epicardium"
    write_frame(20, squares(5))
    run()
    assert [path.name for path in Path("out/contours").iterdir()] == ["P09-0020-ocontour-auto.txt"]


def test_of_a_heart_in_dicom_the_largest_component_is_that_of_all_slices(model):
    """On the second slice the stomach is larger than the heart."""
    model.keeps_largest_component = True
    for frame, heart, stomach in ((20, 6, 3), (40, 5, 7), (60, 6, 0)):
        image = squares(heart)
        image[20 : 20 + stomach, 14 : 14 + stomach] = BRIGHT
        write_frame(frame, image)
    run()
    assert [(row["n_pixels"], row["n_dropped"]) for row in rows("slices.csv")] == [("36", "9"), ("25", "49"), ("36", "0")]
    run(output="each", **{"score.largest_component": "false"})
    assert [row["n_pixels"] for row in rows("slices.csv", "each")] == ["36", "49", "36"]
    about = json.loads(Path("out/about.json").read_text())
    assert about["score"] == {"largest_component": True, "tta": [False]}


def test_a_mask_at_the_image_s_edge_comes_back_too():
    write_frame(20, np.full((30, 24), BRIGHT))
    run()
    found = contours.mask(contours.read(Path("out/contours/P09-0020-icontour-auto.txt")), (30, 24))
    assert found.all()


def test_volumes_by_hand_and_ed_is_the_largest_es_the_smallest(capsys):
    """Squares of 8, 6 and 4 pixels of 0.5 mm on each of 2 slices, 8 mm apart."""
    for phase, side in ((0, 8), (5, 4), (9, 6)):
        for index in (1, 2):
            write_frame(20 * index + phase, squares(side))
    write_frame(20 + 12, squares(9))
    run()
    found = {row["phase"]: row for row in rows("volumes.csv")}
    assert list(found) == ["0", "5", "9", "12"]
    for phase, side in (("0", 8), ("5", 4), ("9", 6)):
        assert float(found[phase]["volume_ml"]) == pytest.approx(2 * side**2 * 0.25 * 8 / 1000)
        assert (found[phase]["n_slices"], found[phase]["undefined"]) == ("2", "")
    assert found["12"]["volume_ml"] == "nan"
    assert re.search(r"\bone slice\b", found["12"]["undefined"])
    assert [row["n_lacking"] for row in found.values()] == ["0", "0", "0", "1"]
    (heart,) = rows("patients.csv")
    assert (heart["patient"], heart["n_phases"], heart["ed_phase"], heart["es_phase"]) == ("P09", "4", "0", "5")
    assert by_volume(heart) == ["3", "1"]  # three phases have all slices, one has not
    assert float(heart["edv_ml"]) == pytest.approx(0.256)
    assert float(heart["stroke_volume_ml"]) == pytest.approx(0.192)
    assert float(heart["ejection_fraction"]) == pytest.approx(0.75)
    assert heart["undefined"] == ""
    assert "P09  EDV 0.3 ml ESV 0.1 ml SV 0.2 ml EF 75%" in capsys.readouterr().out


def test_two_phases_of_which_one_has_fewer_images_have_an_ejection_fraction_and_it_is_told():
    for frame in (20, 40, 60, 29, 49):
        write_frame(frame, squares(8 if frame % 20 == 0 else 4))
    run()
    (heart,) = rows("patients.csv")
    assert float(heart["ejection_fraction"]) == pytest.approx(1 - 2 * 16 / (3 * 64))
    assert by_volume(heart) == ["2", "1", "9"]  # two phases; one slice of phase 9 is taken for empty


WITHOUT = {  # what is written, and why there is no ejection fraction
    "one phase": (lambda: [write_frame(frame, squares(5)) for frame in (20, 40)], r"\bsingle phase\b"),
    "one slice": (lambda: [write_frame(frame, squares(5)) for frame in (20, 25)], r"\bone slice\b"),
    "nothing found": (lambda: [write_frame(f, squares()) for f in (20, 25, 40, 45)], r"\bend-diastolic volume\b.*\b0\b"),
    "a slice is missing": (lambda: [write_frame(frame, squares(5)) for frame in (20, 60)], r"\bslice 2\b"),
    "no gap": (
        lambda: [write_frame(frame, squares(5), ImagePositionPatient=None) for frame in (20, 40)],
        r"\bdistance\b",
    ),
    "another size": (
        lambda: [write_frame(frame, squares(5, shape=(30, frame))) for frame in (20, 40)],
        r"\bspacing\b",
    ),
    "no stack": (
        lambda: [write_dicom(Path(f"in/{n}.dcm"), squares(5)) for n in (1, 2)],
        r"\bImagePositionPatient, ImageOrientationPatient\b",
    ),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_without_a_volume_the_tables_say_why(name):
    write, why = WITHOUT[name]
    write()
    run()
    (heart,) = rows("patients.csv")
    assert re.search(why, heart["undefined"])
    assert heart["ejection_fraction"] == "nan"


def test_other_names_become_p01_and_a_frame_and_are_not_written_for_they_may_be_a_person_s(capsys):
    write_heart(Path("in/anna"), slices=2, phases=2)
    write_heart(Path("in/bert"), slices=2, phases=2)
    run()
    assert [(row["file"], row["patient"], row["frame"]) for row in rows("slices.csv")][3:6] == [
        ("", "P01", "3"),
        ("", "P02", "0"),
        ("", "P02", "1"),
    ]
    assert len(list(Path("out/masks").iterdir())) == 8
    assert (Path("out/overlays") / "P02-0003.png").is_file()
    printed = capsys.readouterr().out
    assert "\nP01  EDV " in printed
    assert "anna" not in printed


def write_study(*, folder="in/{}", stored=lambda image: image, **tags):
    """A series and folder for each of 4 slices, 2 phases: squares of 10 and 8 pixels, so that the ejection fraction is 36 %."""
    for index in range(4):
        for phase, side in ((0, 10), (1, 8)):
            about = {"ImagePositionPatient": [0, 0, 8.0 * index], "ImageOrientationPatient": AXIAL, "TriggerTime": 40 * phase}
            whose = {"PatientID": NAME, "StudyInstanceUID": "1.2.3", "SeriesInstanceUID": f"1.2.3.{index}"}
            write_dicom(Path(folder.format(index)) / f"{index}-{phase}.dcm", stored(squares(side)), **about, **whose, **tags)


def test_a_folder_for_each_slice_gives_the_ejection_fraction_of_the_same_files_in_one(capsys):
    write_study()
    write_study(folder="flat")
    run()
    printed = capsys.readouterr().out
    assert re.search(r"^P01: .*\b4 series\b.*\b4 folders\b", printed, flags=re.MULTILINE)
    assert "EF 36%" in printed
    assert NAME not in printed
    run(source="flat", output="again")
    assert rows("patients.csv") == rows("patients.csv", "again")
    assert rows("volumes.csv") == rows("volumes.csv", "again")


@pytest.mark.parametrize(
    ("tags", "stored"),
    [
        ({"RescaleSlope": -1, "RescaleIntercept": 1000}, lambda image: 1000 - image),
        ({"RescaleSlope": 20, "RescaleIntercept": 0}, lambda image: image // 20),
        ({"PhotometricInterpretation": "MONOCHROME1"}, lambda image: 4095 - image),
        ({"PresentationLUTShape": "INVERSE"}, lambda image: 4095 - image),
    ],
)
def test_the_ejection_fraction_is_the_same_however_the_grey_values_are_stored(tags, stored):
    write_study(stored=stored, **tags)
    run()
    (heart,) = rows("patients.csv")
    assert float(heart["ejection_fraction"]) == pytest.approx(0.36)


def test_enhanced_mr_has_a_volume_per_phase_and_a_contour_per_frame():
    sides = (8, 10, 6, 5)
    write_enhanced_heart(Path("in/a.dcm"), value=lambda index, phase: squares(sides[phase], shape=(20, 16)), PatientID=NAME)
    run()
    (heart,) = rows("patients.csv")
    assert (heart["ed_phase"], heart["es_phase"]) == ("1", "3")
    assert by_volume(heart) == ["4"]
    assert float(heart["ejection_fraction"]) == pytest.approx(0.75)
    assert [float(row["volume_ml"]) for row in sorted(rows("volumes.csv"), key=lambda row: row["phase"])] == pytest.approx(
        [3 * side**2 * 0.7 * 0.8 * 8 / 1000 for side in sides]
    )
    assert sorted(path.name for path in Path("out/contours").iterdir()) == [
        f"P01-{frame:04}-icontour-auto.txt" for frame in range(12)
    ]


def test_a_localiser_beside_the_heart_is_in_no_volume_and_said(capsys):
    write_study()
    across = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [0, 1, 0, 0, 0, 1]}
    whose = {"PatientID": NAME, "StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.99"}
    write_dicom(Path("in/localiser/a.dcm"), squares(9), **across, **whose)
    run()
    (heart,) = rows("patients.csv")
    assert (heart["n_phases"], heart["undefined"]) == ("2", "")
    assert float(heart["ejection_fraction"]) == pytest.approx(0.36)
    assert [(row["phase"], row["n_slices"], row["n_lacking"], row["undefined"]) for row in rows("volumes.csv")] == [
        ("0", "4", "0", ""),
        ("1", "4", "0", ""),
        ("", "1", "0", stacks.OTHERWISE),
    ]
    assert re.search(rf"^P01: .*\b{stacks.OTHERWISE}\): 1$", capsys.readouterr().out, flags=re.MULTILINE)


def test_a_screen_alone_says_which_folder_is_which_patient_and_of_all(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for number in range(MOST_LINES + 2):
        write_heart(Path(f"in/case{number}"), slices=1, phases=1)
    run()
    printed = capsys.readouterr().out
    assert "\nP01 = case0  " in printed
    assert f"\nP22 = case{MOST_LINES + 1}  " in printed


def test_where_slices_are_not_known_none_is_given():
    write_dicom(Path("in/a.dcm"), squares(5))
    run()
    assert (rows("slices.csv")[0]["slice"], rows("slices.csv")[0]["phase"]) == ("", "")


# NIfTI


def ring(shape=(12, 10, 3)):
    """As stored: columns, rows, slices; a ring and a single pixel on slice 1."""
    array = np.full(shape, DARK, np.int16)
    array[2:7, 1:6, 1] = BRIGHT
    array[4, 3, 1] = DARK
    array[10, 8, 1] = BRIGHT
    return array


def test_of_a_volume_in_nifti_the_largest_component_is_kept_and_counted(model, capsys):
    voxels = np.full((12, 10, 3), DARK, np.int16)
    voxels[2:5, 2:5, :] = voxels[8:11, 6:9, 1] = BRIGHT
    Path("in").mkdir()
    nib.save(nib.Nifti1Image(voxels, np.diag([1.5, 1.5, 8, 1])), "in/A.nii.gz")
    run(**{"score.largest_component": "true"})
    mask = np.asarray(nib.load("out/masks/A.nii.gz").dataobj)
    assert mask[2:5, 2:5].all()
    assert mask.sum() == 27
    assert [row["n_dropped"] for row in rows("slices.csv")] == ["0", "9", "0"]
    assert re.search(r"\bcomponent: 9 pixels\b", capsys.readouterr().out)


def test_a_mask_of_a_volume_is_the_network_s_own_on_the_image_s_grid():
    path = volumes.write(Path("in/case_0000.nii.gz"), ring(), sform_code=2, qform_code=1)
    run()
    image, mask = nib.load(path), nib.load("out/masks/case.nii.gz")
    assert np.array_equal(mask.get_fdata(), ring() == BRIGHT)
    assert np.array_equal(mask.affine, image.affine)
    assert (int(mask.header["sform_code"]), int(mask.header["qform_code"])) == (2, 1)
    assert mask.get_data_dtype() == np.uint8
    found = rows("slices.csv")
    assert [(row["slice"], row["n_pixels"], row["n_dropped"], row["n_filled"]) for row in found] == [
        ("0", "0", "0", "0"),
        ("1", "25", "0", "0"),
        ("2", "0", "0", "0"),
    ]
    (volume,) = rows("volumes.csv")
    assert float(volume["volume_ml"]) == pytest.approx(25 * 0.7 * 0.8 * 9 / 1000)
    assert re.search(r"\bsingle phase\b", rows("patients.csv")[0]["undefined"])
    assert not Path("out/contours").exists()


@pytest.mark.parametrize("shape", [(12, 10), (12, 10, 1), (12, 10, 3, 1)])
def test_a_mask_has_as_many_axes_as_its_image(shape):
    array = volumes.pixels(1, shape)
    volumes.write(Path("in/a.nii"), array, spacing=(0.7, 0.8, 9.0)[: len(shape)])
    run()
    mask = nib.load("out/masks/a.nii.gz")
    assert mask.shape == shape
    assert np.array_equal(mask.get_fdata(), array > 200)


def test_ed_and_es_are_info_cfg_s_where_it_is():
    write_acdc(Path("in/patient001"))
    for frame, n in ((1, 2), (12, 5)):  # the smaller one is ED here, against what the volumes say
        array = np.full((12, 10, 3), DARK, np.int16)
        array[:n, 0] = BRIGHT
        volumes.write(Path(f"in/patient001/patient001_frame{frame:02}.nii.gz"), array)
    run()
    (heart,) = rows("patients.csv")
    assert (heart["patient"], heart["ed_phase"], heart["es_phase"], heart["ed_es_by"]) == ("patient001", "ED", "ES", "Info.cfg")
    assert float(heart["ejection_fraction"]) == pytest.approx(-1.5)
    Path("in/patient001/patient001_frame12.nii.gz").unlink()
    run(output="again")
    (heart,) = rows("patients.csv", "again")
    assert (heart["undefined"].split()[0], heart["ed_es_by"], heart["ejection_fraction"]) == ("ES", "Info.cfg", "nan")


def beating(*sides, dtype=np.int16):
    """As stored: columns, rows, slices, frames; a bright square of each side on both slices of each frame."""
    array = np.full((12, 10, 2, len(sides)), DARK, dtype)
    for frame, side in enumerate(sides):
        array[:side, :side, :, frame] = BRIGHT
    return array


def test_a_film_has_a_volume_per_frame_its_extremes_are_ed_and_es_and_its_mask_is_a_film(capsys):
    path = volumes.write(Path("in/a.nii.gz"), beating(6, 10, 8, 5))
    run()
    assert [(row["phase"], row["n_slices"]) for row in rows("volumes.csv")] == [(str(n), "2") for n in range(4)]
    ml = [float(row["volume_ml"]) for row in rows("volumes.csv")]
    assert ml == pytest.approx([2 * side**2 * 0.7 * 0.8 * 9 / 1000 for side in (6, 10, 8, 5)])
    (heart,) = rows("patients.csv")
    assert (heart["ed_phase"], heart["es_phase"]) == ("1", "3")
    assert by_volume(heart) == ["4"]
    assert float(heart["ejection_fraction"]) == pytest.approx(0.75)
    image, mask = nib.load(path), nib.load("out/masks/a.nii.gz")
    assert np.array_equal(mask.get_fdata(), image.get_fdata() == BRIGHT)
    assert np.array_equal(mask.affine, image.affine)
    assert mask.header.get_zooms() == image.header.get_zooms()
    assert sorted(path.name for path in Path("out/overlays/a").iterdir()) == [f"frame-{n:02}.png" for n in range(4)]
    printed = capsys.readouterr().out
    assert re.search(r"\b4 volumes \(8 slices\).*\b1 patient\b", printed)
    assert f"EF 75% ({heart['ed_es_by']})" in printed


def test_a_film_of_acdc_has_ed_and_es_of_info_cfg():
    volumes.write(Path("in/patient001/patient001_4d.nii.gz"), beating(6, 10, 8, 5))
    Path("in/patient001/Info.cfg").write_text("ED: 1\nES: 3\n")
    run()
    (heart,) = rows("patients.csv")
    assert (heart["patient"], heart["ed_phase"], heart["es_phase"], heart["ed_es_by"]) == ("patient001", "ED", "ES", "Info.cfg")
    assert float(heart["ejection_fraction"]) == pytest.approx(1 - 64 / 36)
    assert [row["phase"] for row in rows("volumes.csv")] == ["ED", "2", "ES", "4"]
    assert [row["frame"] for row in rows("slices.csv")] == ["1", "1", "2", "2", "3", "3", "4", "4"]


def test_equal_names_keep_their_folders():
    for folder in ("a", "b"):
        volumes.write(Path(f"in/{folder}/t2.nii.gz"), ring())
    run()
    for folder in ("a", "b"):
        assert Path(f"out/masks/{folder}/t2.nii.gz").is_file()
        assert Path(f"out/overlays/{folder}/t2.png").is_file()


def test_a_long_volume_is_predicted_in_parts_and_drawn_on_several_pages(monkeypatch):
    seen = []
    mean = ensembles.ensemble
    monkeypatch.setattr(ensembles, "ensemble", lambda models, slices: seen.append(len(slices)) or mean(models, slices))
    array = volumes.pixels(1, (12, 10, 45))
    volumes.write(Path("in/a.nii.gz"), array)
    run()
    assert seen == [32, 13]
    assert np.array_equal(nib.load("out/masks/a.nii.gz").get_fdata(), array > 200)
    assert sorted(path.name for path in Path("out/overlays/a").iterdir()) == ["page-1.png", "page-2.png", "page-3.png"]


# Overlays


def yellow(picture):
    """Where the outline's colour is, (H, W)."""
    red, green, blue = np.moveaxis(np.array(picture).astype(int), 2, 0)
    return (red > 150) & (green > 120) & (blue < 90)


def test_an_overlay_is_to_scale_large_enough_and_its_outline_is_where_the_mask_ends():
    write_frame(20, squares(9), PixelSpacing=[1.0, 2.0])
    run()
    picture = Image.open("out/overlays/P09-0020.png")
    assert picture.size == (512, 320)  # 24 columns of 2 mm, 30 rows of 1 mm
    rows_, columns = np.nonzero(yellow(picture))
    per_px = 320 / 30, 512 / 24
    for found, first, scale in ((rows_, 2, per_px[0]), (columns, 3, per_px[1])):
        assert abs(found.min() - first * scale) < 3
        assert abs(found.max() - (first + 9) * scale) < 3


def test_an_overlay_s_grey_runs_from_the_1st_to_the_99th_percentile():
    image = np.tile(np.arange(24), (30, 1)) * 4
    image[0, 0] = 150  # beyond the 99th percentile
    write_frame(20, image)
    run()
    grey = np.array(Image.open("out/overlays/P09-0020.png"))
    assert not yellow(grey).any()
    assert np.median(grey[200:, :5]) < 10
    assert np.median(grey[200:, -5:]) > 245


def test_a_montage_has_every_slice_in_its_place():
    volumes.write(Path("in/a.nii.gz"), ring((12, 10, 5)), spacing=(1.0, 1.0, 9.0))
    run()
    picture = Image.open("out/overlays/a.png")
    width, height = 512, round(512 * 10 / 12)
    assert picture.size == (3 * width + 2 * 4, 2 * height + 4)
    at = np.nonzero(yellow(picture))
    assert at[0].max() < height
    assert width < at[1].min()
    assert at[1].max() < 2 * width + 4


# Where it goes


def left():
    """What lies in the current folder."""
    return sorted(path.name for path in Path().iterdir())


def test_the_output_is_never_something_that_is_there(tmp_path):
    write_frame(20, squares(5))
    Path("full").mkdir()
    Path("full/a.txt").touch()
    Path("file").touch()
    Path("empty").mkdir()
    for output in ("full", "file"):
        with pytest.raises(InputError, match=f"^output={output}: "):
            run(output=output)
    Path("way").symlink_to("in")
    for output in ("in/out", "in", ".", "way/out"):
        with pytest.raises(InputError, match=rf"^output={re.escape(output)}: .*\binput=in\b"):
            run(output=output)
    run(output="empty")
    run(output="far/away/out")
    run(source="in/P09-0020.dcm", output="beside")
    for output in ("empty", "far/away/out", "beside"):
        assert len(rows("slices.csv", output)) == 1
    assert left() == ["beside", "empty", "far", "file", "full", "in", "way"]


@pytest.mark.parametrize("error", [InputError("no"), KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_what_was_interrupted_leaves_nothing(monkeypatch, error):
    write_frame(20, squares(5))
    write_frame(40, squares(5))
    draw, drawn = inference_overlays.overlay, []

    def overlay(*arguments, **settings):
        if drawn:
            raise error
        drawn.append(1)
        return draw(*arguments, **settings)

    monkeypatch.setattr(inference_images, "overlay", overlay)
    with pytest.raises(type(error)):
        run()
    assert left() == ["in"]


def compressed(path):
    """JPEG-LS, for which no decoder is installed."""
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLSLossless
    dataset.PixelData = encapsulate([b"\xff\xd8\xff\xf7" + bytes(100)])
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path)


def cut(path, n_bytes):
    path.write_bytes(path.read_bytes()[:n_bytes])


def nan():
    array = volumes.pixels(1).astype(np.float32)
    array[1, 2, 2] = np.nan
    return array


BOMB = gzip.compress(nib.Nifti1Image(volumes.pixels(1), np.eye(4)).to_bytes() + bytes(2**24))
BAD = {
    "compressed without a decoder": (
        lambda p: (write_frame(40, squares(5)), compressed(p / "P09-0040.dcm")),
        r"P09-0040.dcm: .*\bdecoder\b",
    ),
    "no spacing": (lambda p: write_frame(40, squares(5), PixelSpacing=None), r"P09-0040.dcm: .*\bPixelSpacing\b"),
    "cut off": (lambda p: (write_frame(40, squares(5)), cut(p / "P09-0040.dcm", -99)), "P09-0040.dcm: damaged"),
    "several frames": (
        lambda p: write_frame(40, squares(5, shape=(40, 24)), NumberOfFrames=2, Rows=20),
        r"P09-0040.dcm: .*\b2 frames \(NumberOfFrames\)",
    ),
    "no DICOM": (lambda p: (p / "P09-0040.dcm").write_text("hello"), r"P09-0040.dcm: (?!damaged).*\bDICOM\b"),
    "both kinds": (lambda p: volumes.write(p / "a.nii.gz", ring()), "^input=in: .*DICOM .P09-0020.dcm.*NIfTI .a.nii.gz"),
    "a link": (lambda p: (p / "out.dcm").symlink_to("/etc/hostname"), r"out.dcm: .*\blink\b"),
}
BAD_VOLUMES = {
    "5-D": (
        lambda p: volumes.write(p, volumes.pixels(1, (12, 10, 3, 2, 2))),
        r"b.nii.gz: .*\b12 x 10 x 3 x 2 x 2\b.*\b5\b",
    ),
    "cut off": (lambda p: cut(volumes.write(p, ring()), -20), r"b.nii.gz: .*\bdamaged\b"),
    "not finite": (lambda p: volumes.write(p, nan()), r"b.nii.gz: 1 pixel.*\bslice 2\b.*\bNaN\b"),
    "a bomb": (lambda p: p.write_bytes(BOMB), r"b.nii.gz: .*\b12 x 10 x 3\b.*\bheader\b"),
    "twice": (lambda p: volumes.write(p.with_name("a.nii"), ring()), r"in/a.nii\b.* in/a.nii\b.*\bsame\b"),
    "a bad Info.cfg": (lambda p: (p.parent / "Info.cfg").write_text("ED: x"), "Info.cfg, line 1: 'x' "),
}


@pytest.mark.parametrize("name", [*BAD, *(f"volume: {name}" for name in BAD_VOLUMES)])
def test_bad_input_is_one_message_and_leaves_nothing(name):
    if name in BAD:
        write_frame(20, squares(5))
        damage, message = BAD[name]
        damage(Path("in"))
    else:
        volumes.write(Path("in/a.nii.gz"), ring())
        damage, message = BAD_VOLUMES[name.removeprefix("volume: ")]
        damage(Path("in/b.nii.gz"))
    with pytest.raises(InputError, match=message) as caught:
        run()
    assert "Secret" not in str(caught.value)
    assert left() == ["in"]


def test_a_key_that_is_missing_is_named():
    with pytest.raises(Exception, match="input") as caught:
        predict.predict(entry.compose(["run=r", "output=out"], "predict"))
    assert re.match(r"input\b.*\binput=\.\.\.", explain(caught.value, "predict"))


# Names


def everything(folder):
    """Every byte and every name of a folder, compressed files unpacked."""
    for path in Path(folder).rglob("*"):
        yield path.name.encode()
        if path.is_file():
            content = path.read_bytes()
            yield gzip.decompress(content) if path.suffix == ".gz" else content
            if path.suffix == ".png":
                with Image.open(path) as picture:
                    assert picture.info == {}


def with_names(path):
    """A NIfTI file with names wherever the header has room for a text."""
    texts = {field: NAME.encode() for field in ("descrip", "aux_file", "db_name", "intent_name")}
    volumes.write(path, ring(), **texts)
    image = nib.load(path)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", NAME.encode()))
    nib.Nifti1Image(np.asarray(image.dataobj), None, image.header).to_filename(path)


@pytest.mark.parametrize("kind", ["DICOM", "NIfTI"])
def test_no_name_of_a_header_is_written_or_said(kind, caplog, capfd):
    if kind == "DICOM":
        tags = dict.fromkeys(("PatientID", "InstitutionName", "StudyDescription", "ReferringPhysicianName"), NAME)
        for frame in (20, 25, 40, 45):
            write_frame(frame, squares(5), **tags, PatientComments=NAME, OperatorsName=NAME, SeriesDescription=NAME)
    else:
        with_names(Path("in/a.nii.gz"))
    assert any(NAME.encode() in content for content in everything("in"))
    with caplog.at_level(logging.DEBUG):
        run()
    said = [caplog.text.encode(), "".join(capfd.readouterr()).encode()]
    for content in (*everything("out"), *said):
        assert b"Secret" not in content
    for content in (Path("out/about.json").read_bytes(), Path("out/slices.csv").read_bytes()):
        assert os.fsencode(Path.cwd()) not in content


def test_about_tells_the_runs_and_the_counts():
    write_frame(20, squares(9, 4))
    write_frame(40, squares())
    Path("in/notes.txt").touch()
    run()
    about = json.loads(Path("out/about.json").read_text())
    expected = {"runs": ["0123456789ab"], "which": "last", "target": "endocardium", "threshold": 0.5, "kind": "DICOM"}
    counts = {"n_patients": 1, "n_images": 2, "n_empty": 1, "n_pixels": 81, "n_dropped": 16, "n_filled": 0}
    assert about == {**about, **expected, **counts}
    ((kind, n),) = about["left_out"].items()
    assert n == 1
    assert re.search(r"\bDICOM\b.*\bNIfTI\b", kind)
    assert {"segtune", "python", "torch"} <= about["versions"].keys()
    assert "research" in about["use"]


def test_pixels_of_another_size_than_the_training_s_are_told_once(caplog):
    for frame in (20, 40):
        write_frame(frame, squares(5))
    run()
    assert caplog.text == ""
    write_frame(60, squares(5), PixelSpacing=[1.5, 1.5])
    run(output="other")
    (said,) = caplog.messages
    assert re.search(r"\b0\.5 to 1\.5 mm\b.*\b0123456789ab\b.*\bdata\.spacing_mm=", said)


def test_many_patients_are_printed_up_to_twenty(capsys):
    for number in range(1, 24):
        write_frame(20, squares(5), patient=f"P{number:02}")
    run()
    printed = capsys.readouterr().out
    assert "P20  " in printed
    assert "P21  " not in printed
    assert re.search(r"\b3 \w+ patients\b.*patients\.csv", printed)


@pytest.mark.slow
def test_the_command_as_typed_with_an_ensemble_of_two_runs():
    def command(module, *arguments):
        words = [sys.executable, "-W", "error", "-m", module, *arguments]
        return subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)

    for seed in (0, 1):
        ended = command("segtune", *TINY, f"seed={seed}", "figures=false")
        assert ended.returncode == 0, ended.stderr
    runs = ",".join(str(path) for path in Path("outputs/runs").iterdir())
    for frame in (20, 40):
        write_frame(frame, np.random.default_rng(frame).integers(0, 400, (30, 24)))
    ended = command("segtune.predict", f"run=[{runs}]", "input=in", "output=out", "accelerator=cpu")
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(json.loads(Path("out/about.json").read_text())["runs"]) == 2
    assert len(rows("slices.csv")) == 2
    assert ended.stdout.endswith(f"{inference_images.RESEARCH}\n")
    again = command("segtune.predict", f"run=[{runs}]", "input=in", "output=out")
    assert (again.returncode, again.stdout) == (1, "")
    assert re.fullmatch(r"segtune: output=out: .*\n", again.stderr)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_volume_whose_slices_lie_along_another_axis_has_its_ml_and_its_mask_on_the_stored_axes(axis):
    order = np.insert([0, 1], axis, 2)
    array = ring().transpose(order)
    path = volumes.write(Path("in/a.nii.gz"), array, spacing=tuple((0.7, 0.8, 9.0)[one] for one in order))
    run()
    mask = nib.load("out/masks/a.nii.gz")
    assert np.array_equal(mask.get_fdata(), array == BRIGHT)
    assert np.array_equal(mask.affine, nib.load(path).affine)
    assert [row["n_pixels"] for row in rows("slices.csv")] == ["0", "25", "0"]
    assert float(rows("volumes.csv")[0]["volume_ml"]) == pytest.approx(25 * 0.7 * 0.8 * 9 / 1000)
