import re

import numpy as np
import pydicom
import pytest

import volumes
from conftest import write_dicom, write_patient
from layouts.acdc import write_acdc
from layouts.dicom import AXIAL, SHARED, write_enhanced_heart, write_heart
from segtune.data import images, stacks
from segtune.data.formats import dicom, nifti
from segtune.errors import InputError


def dicoms(root):
    """(patient, frame, slice, phase) -> the value of its pixels."""
    return {
        (image.item.patient, image.item.frame, image.item.slice_index, image.phase): float(image.item.image[0, 0])
        for patient in images.find(root).patients
        for image in patient.images()
    }


def left_out(root):
    """What is left out, by a word for each kind, and how many."""
    words = ("frames", "_4d", "label", "objects", "NIfTI")
    return [(next(word for word in words if word in kind), n) for kind, n in images.find(root).left_out.items()]


def together(root):
    """Of each line about files that were put together or told apart: its patients, its other numbers, and a word for why."""
    return [
        (
            *re.findall(r"\bP?[0-9]+\b", line),
            next(word for word in (stacks.OTHERWISE, "series", "share", "studies", "stacks") if word in line),
        )
        for line in images.find(root).put_together
    ]


SERIES = "series.*folder"  # why images of several series at one position make no volume, and the cure


# DICOM


def test_files_named_like_the_rvsc_s_keep_patient_and_frame(tmp_path):
    write_patient(tmp_path, 9, [20], n_frames=22)
    found = images.find(tmp_path)
    (patient,) = found.patients
    read = list(patient.images())
    assert [image.item.frame for image in read] == list(range(20, 42))
    assert (read[0].item.patient, read[0].file, read[0].phase, read[0].item.slice_index) == ("P09", "P09-0020.dcm", "0", 1)
    assert (read[-1].phase, read[-1].item.slice_index) == ("1", 2)
    assert read[0].item.gap_mm == pytest.approx(8.4)
    assert read[0].item.spacing_mm == (0.7, 0.8)
    assert not any(image.item.mask.any() for image in read)
    assert left_out(tmp_path) == [("NIfTI", 3)]


def test_slices_lie_along_the_normal_and_phases_in_time_whatever_the_names(tmp_path):
    write_heart(tmp_path / "anna", phases=5, slices=3)  # im1 ... im15: im10 comes after im9, not after im1
    found = dicoms(tmp_path)
    assert [key[1] for key in found] == list(range(15))
    for number, ((patient, frame, index, phase), value) in enumerate(found.items()):
        assert (patient, frame) == ("P01", number)
        assert value == 10 * index + int(phase)
    assert [patient.gap_mm for patient in images.find(tmp_path).patients] == [8.0]


def test_the_instance_number_orders_phases_that_have_no_time(tmp_path):
    for number, value in ((3, 2), (1, 0), (2, 1)):
        tags = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": AXIAL, "InstanceNumber": number}
        write_dicom(tmp_path / f"x{9 - number}.dcm", np.full((20, 16), value), **tags)
    assert {phase: value for (_, _, _, phase), value in dicoms(tmp_path).items()} == {"0": 0, "1": 1, "2": 2}


def test_a_patient_is_a_folder_and_folders_come_in_natural_order(tmp_path):
    for name in ("heart10", "heart2", "heart1/series"):
        write_heart(tmp_path / name, slices=1, phases=1)
    (tmp_path / "heart3").mkdir()
    found = images.find(tmp_path)
    folders = [patient.frames[0].path.parent.relative_to(tmp_path).as_posix() for patient in found.patients]
    assert folders == ["heart1/series", "heart2", "heart10"]
    assert [patient.patient for patient in found.patients] == ["P01", "P02", "P03"]


def test_a_label_that_a_file_s_name_has_is_not_given_to_a_folder(tmp_path):
    write_heart(tmp_path / "a", slices=1, phases=1, names=lambda count: "P01-0020.dcm")
    write_heart(tmp_path / "b", slices=1, phases=1)
    assert [patient.patient for patient in images.find(tmp_path).patients] == ["P01", "P02"]


def test_dicom_is_known_by_what_it_is_where_its_name_does_not_tell(tmp_path):
    names = ["IM-0001", "1.2.840.113619.2.5", "MR0001.IMA"]
    write_heart(tmp_path, slices=3, phases=1, names=lambda count: names[count - 1])
    (tmp_path / "README").write_text("not an image")
    found = images.find(tmp_path)
    assert [frame.path.name for frame in found.patients[0].frames] == sorted(names)
    assert left_out(tmp_path) == [("NIfTI", 1)]


def other_object(path, kind):
    write_dicom(path, np.zeros((20, 16)), StudyDescription="Secret^Name")
    dataset = pydicom.dcmread(path)
    dataset.file_meta.MediaStorageSOPClassUID = kind
    del dataset.PixelData, dataset.Rows, dataset.PixelSpacing
    dataset.save_as(path)


def test_objects_that_say_they_are_no_images_are_passed_over_and_counted(tmp_path):
    write_heart(tmp_path, slices=2, phases=1)
    other_object(tmp_path / "DICOMDIR", pydicom.uid.MediaStorageDirectoryStorage)
    other_object(tmp_path / "a.dcm", pydicom.uid.BasicTextSRStorage)
    (tmp_path / "only").mkdir()
    other_object(tmp_path / "only/report.dcm", pydicom.uid.BasicTextSRStorage)
    found = images.find(tmp_path)
    assert [patient.patient for patient in found.patients] == ["P01"]
    assert [frame.path.name for frame in found.patients[0].frames] == ["im1.dcm", "im2.dcm"]
    assert left_out(tmp_path) == [("objects", 3)]
    with pytest.raises(InputError, match=r"input=\S+/only: .*\b1 DICOM objects\b"):
        images.find(tmp_path / "only")


def test_an_image_without_pixels_is_not_passed_over(tmp_path):
    write_heart(tmp_path, slices=2, phases=1)
    other_object(tmp_path / "a.dcm", pydicom.uid.MRImageStorage)
    with pytest.raises(InputError, match=r"a.dcm: .*\(Rows, Columns\)"):
        images.find(tmp_path)


def undefined(root):
    (patient,) = images.find(root).patients
    read = list(patient.images())
    assert {(image.item.slice_index, image.phase, image.undefined) for image in read} == {(0, "", patient.undefined)}
    return patient.undefined


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, 1]}, "orientations"),
        ({"PixelSpacing": [1.4, 1.6]}, "spacings"),
        ({"shape": (20, 18)}, "sizes"),
        ({"ImagePositionPatient": None}, "ImagePositionPatient"),
        ({"ImagePositionPatient": [0, 0, 16]}, "2 images.* 3$"),
        ({"ImagePositionPatient": [0, 0, 20.5]}, "1 images.* 2$"),
    ],
)
def test_images_that_make_no_stack_are_read_and_not_stacked(tmp_path, other, why):
    write_heart(tmp_path)
    tags = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": AXIAL, **other}
    shape = tags.pop("shape", (20, 16))
    write_dicom(tmp_path / "long_axis.dcm", np.zeros(shape), **tags)
    assert re.search(why, undefined(tmp_path))


def test_slices_with_a_hole_between_them_are_not_stacked(tmp_path):
    write_heart(tmp_path, slices=4)
    for name in ("im3.dcm", "im4.dcm"):
        (tmp_path / name).unlink()
    assert "8 to 16 mm" in undefined(tmp_path)


def test_a_single_phase_has_no_number(tmp_path):
    write_heart(tmp_path, phases=1)
    assert [(index, phase) for _, _, index, phase in dicoms(tmp_path)] == [(2, ""), (1, ""), (0, "")]


def test_one_name_in_two_folders_is_refused(tmp_path):
    for folder in ("a", "b"):
        write_heart(tmp_path / folder, slices=1, phases=1, names=lambda count: "P09-0020.dcm")
    with pytest.raises(InputError, match=r"P09-0020.dcm and \S+P09-0020.dcm "):
        images.find(tmp_path)


def test_a_place_is_read_without_the_pixels_and_agrees_with_the_image(tmp_path):
    write_heart(tmp_path, slices=1, phases=1, InstanceNumber=7, SpacingBetweenSlices=9)
    path = tmp_path / "im1.dcm"
    image, header = dicom.read(path)
    assert dicom.read_places(path)[0][:4] == (header, image.shape, 0, 7)
    path.write_bytes(path.read_bytes()[:-200])
    assert dicom.read_places(path)[0][:4] == (header, image.shape, 0, 7)
    with pytest.raises(InputError, match=r"im1.dcm: .*DICOM.*\(\w+\)"):
        dicom.read(path)


# NIfTI


def told(root):
    """name -> (patient, frame, phase)."""
    return {file.name: (file.patient, file.frame, file.phase) for file in images.find(root).volumes}


def test_each_volume_is_a_patient_called_by_its_name(tmp_path):
    for name in ("b10.nii.gz", "b2.nii", "sub/a.nii.gz"):
        volumes.write(tmp_path / name, volumes.pixels(1))
    assert told(tmp_path) == {"b2": ("b2", 0, ""), "b10": ("b10", 0, ""), "a": ("a", 0, "")}


def test_equal_names_are_told_apart_by_their_folders(tmp_path):
    for name in ("one/t2.nii.gz", "two/t2.nii.gz", "t1.nii.gz"):
        volumes.write(tmp_path / name, volumes.pixels(1))
    assert told(tmp_path) == {"one/t2": ("one/t2", 0, ""), "t1": ("t1", 0, ""), "two/t2": ("two/t2", 0, "")}


def test_the_slices_of_a_volume_are_its_planes(tmp_path):
    path = volumes.write(tmp_path / "a.nii.gz", volumes.pixels(1))
    (file,) = images.find(tmp_path).volumes
    read = list(file.images(nifti.read(path)))
    assert [image.item.slice_index for image in read] == [0, 1, 2]
    assert np.array_equal(read[2].item.image, volumes.pixels(1)[:, :, 2].T)
    assert (read[0].file, read[0].item.spacing_mm, read[0].item.gap_mm) == ("a.nii.gz", pytest.approx((0.8, 0.7)), 9)


def test_in_acdc_s_layout_the_folder_is_the_patient_and_info_cfg_tells_the_phases(tmp_path):
    for name in ("patient002", "patient010"):
        write_acdc(tmp_path / "training" / name)
    volumes.write(tmp_path / "training/patient002/patient002_frame05.nii.gz", volumes.pixels(5))
    assert told(tmp_path) == {
        "patient002_frame01": ("patient002", 1, "ED"),
        "patient002_frame05": ("patient002", 5, "5"),
        "patient002_frame12": ("patient002", 12, "ES"),
        "patient010_frame01": ("patient010", 1, "ED"),
        "patient010_frame12": ("patient010", 12, "ES"),
    }
    assert left_out(tmp_path) == [("NIfTI", 2), ("_4d", 2), ("label", 4)]


def test_one_patient_s_folder_is_enough_even_as_the_current_one(tmp_path, monkeypatch):
    write_acdc(tmp_path / "patient007")
    monkeypatch.chdir(tmp_path / "patient007")
    assert told(".")["patient007_frame12"] == ("patient007", 12, "ES")


def test_a_label_image_beside_its_image_is_left_out_and_one_alone_is_an_image(tmp_path):
    for name in ("a.nii.gz", "a_gt.nii", "b_gt.nii.gz", "labelsTr/c.nii.gz"):
        volumes.write(tmp_path / name, volumes.labels())
    assert list(told(tmp_path)) == ["a", "b_gt"]
    assert left_out(tmp_path) == [("label", 2)]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["la_003_0000.nii.gz", "la_004_0000.nii.gz"], ["la_003", "la_004"]),
        (["la_003_0000.nii.gz", "la_004.nii.gz"], ["la_003_0000", "la_004"]),
        (["la_003_0000.nii.gz", "la_003_0001.nii.gz"], ["la_003_0000", "la_003_0001"]),
    ],
)
def test_the_case_of_nnu_net_s_only_channel_is_the_name_without_it(tmp_path, names, expected):
    for name in names:
        volumes.write(tmp_path / name, volumes.pixels(1))
    assert list(told(tmp_path)) == expected


def film(n, shape=(12, 10, 3)):
    return np.stack([volumes.pixels(frame, shape) for frame in range(n)], axis=3)


def phases_of(root):
    """name -> patient and, of each volume that is read, frame and phase."""
    return {
        file.name: (file.patient, [(part.frame, part.phase) for part in file.frames()]) for file in images.find(root).volumes
    }


def test_a_fourth_axis_is_time_and_each_of_its_frames_a_volume(tmp_path):
    volumes.write(tmp_path / "a.nii.gz", film(4))
    volumes.write(tmp_path / "b.nii.gz", film(1))
    assert phases_of(tmp_path) == {"a": ("a", [(0, "0"), (1, "1"), (2, "2"), (3, "3")]), "b": ("b", [(0, "")])}
    part = images.find(tmp_path).volumes[0].frames()[2]
    read = list(part.images(part.read()))
    assert [image.item.slice_index for image in read] == [0, 1, 2]
    assert np.array_equal(read[1].item.image, film(4)[:, :, 1, 2].T)


def test_a_film_of_acdc_is_read_once_with_the_phases_of_info_cfg(tmp_path):
    folder = tmp_path / "patient003"
    volumes.write(folder / "patient003_4d.nii.gz", film(5))
    (folder / "Info.cfg").write_text("ED: 1\nES: 4\n")
    whole = ("patient003", [(1, "ED"), (2, "2"), (3, "3"), (4, "ES"), (5, "5")])
    assert phases_of(tmp_path) == {"patient003_4d": whole}
    volumes.write(folder / "patient003_frame01.nii.gz", volumes.pixels(0))
    assert phases_of(tmp_path) == {"patient003_4d": whole}
    assert left_out(tmp_path) == [("NIfTI", 1), ("frames", 1)]
    volumes.write(folder / "patient003_frame04.nii.gz", volumes.pixels(3))
    both = {"patient003_frame01": ("patient003", [(1, "ED")]), "patient003_frame04": ("patient003", [(4, "ES")])}
    assert phases_of(tmp_path) == both
    (folder / "Info.cfg").unlink()
    assert phases_of(tmp_path) == {"patient003_4d": ("patient003_4d", [(n, str(n)) for n in range(5)])}
    assert phases_of(folder / "patient003_4d.nii.gz") == phases_of(tmp_path)


def test_a_film_without_the_frames_of_info_cfg_is_refused(tmp_path):
    volumes.write(tmp_path / "patient003/patient003_4d.nii.gz", film(5))
    (tmp_path / "patient003/Info.cfg").write_text("ED: 1\nES: 12\n")
    with pytest.raises(InputError, match=r"_4d.nii.gz: .*\b5 frames\b.*Info.cfg .*\bframe 12 .*\bES\b"):
        images.find(tmp_path)


def test_a_fourth_axis_of_nnu_net_s_folders_is_no_time(tmp_path):
    volumes.write(tmp_path / "imagesTs/a.nii.gz", film(2))
    with pytest.raises(InputError, match=r"imagesTs/a.nii.gz: .*\bimagesTs\b.*\baxis \(.*\b2\).*\bchannel"):
        images.find(tmp_path)


def test_a_film_that_no_memory_holds_is_refused(tmp_path):
    volumes.write(tmp_path / "a.nii", film(2), dim=[4, 1000, 1000, 1000, 30000, 1, 1, 1])
    with pytest.raises(InputError, match="a.nii: .*1000 x 1000 x 1000 x 30000 pixels"):
        images.find(tmp_path)


def why(root):
    (patient,) = images.find(root).patients
    assert patient.gap_mm is None
    return patient.undefined


def test_several_channels_of_nnu_net_are_not_several_patients(tmp_path):
    for name in ("imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz"):
        volumes.write(tmp_path / name, volumes.pixels(1))
    with pytest.raises(InputError, match="a_0000.nii.gz: .*channels.*_0001"):
        images.find(tmp_path)


def hearts(root):
    """Each patient's numbers of images, slices and phases, and why there is no volume, if there is none."""
    return {
        patient.patient: (
            len(patient.frames),
            len({frame.slice_index for frame in patient.frames if not (patient.undefined or frame.undefined)}),
            len({frame.phase for frame in patient.frames if not (patient.undefined or frame.undefined)}),
            patient.undefined,
        )
        for patient in images.find(root).patients
    }


def test_two_patients_or_studies_in_one_folder_are_told_apart(tmp_path):
    write_heart(tmp_path / "in", PatientID="1")
    write_heart(tmp_path / "in", names="b{}.dcm".format, PatientID="2")
    write_heart(tmp_path / "in", names="c{}.dcm".format, PatientID="2", StudyInstanceUID="1.2")
    assert hearts(tmp_path) == dict.fromkeys(("P01", "P02", "P03"), (6, 3, 2, ""))
    assert together(tmp_path) == [("P01", "P02", "studies"), ("P01", "P02", "P03", "share")]


def test_several_series_of_one_position_are_no_beat_and_a_series_for_each_slice_is_one(tmp_path):
    write_heart(tmp_path / "in", phases=1, SeriesInstanceUID="1.2")
    write_heart(tmp_path / "in", phases=1, names="b{}.dcm".format, SeriesInstanceUID="1.3", TriggerTime=40)
    assert re.search(SERIES, why(tmp_path))
    for index in range(3):
        position = {"ImagePositionPatient": [0, 0, 8 * index], "SeriesInstanceUID": f"1.{index + 2}"}
        write_heart(tmp_path / "each/in", slices=1, phases=2, names=f"c{index}-{{}}.dcm".format, **position)
    assert images.find(tmp_path / "each").patients[0].undefined == ""


STUDY = {"PatientID": "1", "StudyInstanceUID": "1.9"}


def write_series(folder, series, *, first=0, start=0, name="x{}.dcm", **about):
    """A series of STUDY from slice `first` on, its phases from `start` on; its files named within the series."""
    tags = {**STUDY, "SeriesInstanceUID": f"1.9.{series}", **about}
    shape, slices, phases = (tags.pop(key, usual) for key, usual in (("shape", (20, 16)), ("slices", 1), ("phases", 2)))
    for index in range(first, first + slices):
        for phase in range(start, start + phases):
            place = {"ImagePositionPatient": [0, 0, 8.0 * index], "ImageOrientationPatient": AXIAL, "TriggerTime": 40 * phase}
            number = (index - first) * phases + phase - start
            write_dicom(folder / name.format(number), np.full(shape, 10 * index + phase), **{**place, **tags})


def test_a_folder_and_series_for_each_slice_are_one_patient_as_the_same_files_flat(tmp_path):
    for index in range(8):
        write_series(tmp_path / f"folders/deep/{index}", index, first=index, phases=5)
        write_series(tmp_path / "flat", index, first=index, phases=5, name=f"{index}-{{}}.dcm")
    assert dicoms(tmp_path / "folders") == dicoms(tmp_path / "flat")
    assert hearts(tmp_path / "folders") == {"P01": (40, 8, 5, "")}
    assert together(tmp_path / "folders") == [("P01", "8", "8", "series")]


@pytest.mark.parametrize("about", [{}, {"PatientID": ""}, {"StudyInstanceUID": None}, {"SeriesInstanceUID": "1.9.1"},
                                   {"SeriesInstanceUID": None}])  # fmt: skip
def test_a_folder_for_each_slice_is_one_patient_whatever_else_the_headers_lack(tmp_path, about):
    for index in range(3):
        write_series(tmp_path / f"{index}", index, first=index, **about)
    assert hearts(tmp_path) == {"P01": (6, 3, 2, "")}


def test_without_patient_and_study_a_folder_is_a_patient(tmp_path):
    for index in range(3):
        write_series(tmp_path / f"{index}", index, first=index, PatientID=None, PatientName="", StudyInstanceUID=None)
    assert hearts(tmp_path) == dict.fromkeys(("P01", "P02", "P03"), (2, 1, 2, ""))


def test_a_series_for_each_moment_of_the_beat_is_one_heart_and_two_series_are_two_acquisitions(tmp_path):
    for phase in range(4):
        write_series(tmp_path / f"beat/{phase}", phase, slices=3, start=phase, phases=1)
        write_series(tmp_path / "flat", phase, slices=3, start=phase, phases=1, name=f"{phase}-{{}}.dcm")
    assert hearts(tmp_path / "beat") == hearts(tmp_path / "flat") == {"P01": (12, 3, 4, "")}
    write_series(tmp_path / "flat", 9, slices=3, start=11, phases=1, name="9-{}.dcm")  # a time of its own
    ((_, slices, _, why),) = hearts(tmp_path / "flat").values()
    assert (slices, bool(re.search(SERIES, why))) == (0, True)


def test_two_acquisitions_of_one_study_are_told_apart_by_their_folders_or_not_at_all(tmp_path):
    for index in range(3):
        write_series(tmp_path / f"in/rest/{index}", index, first=index)
        write_series(tmp_path / f"in/stress/{index}", 10 + index, first=index)
        write_series(tmp_path / "flat", index, first=index, name=f"a{index}-{{}}.dcm")
        write_series(tmp_path / "flat", 10 + index, first=index, name=f"b{index}-{{}}.dcm")
    assert hearts(tmp_path / "in") == dict.fromkeys(("P01", "P02"), (6, 3, 2, ""))
    assert ("P01", "P02", "stacks") in together(tmp_path / "in")
    ((n, _, _, why),) = hearts(tmp_path / "flat").values()
    assert (n, bool(re.search(SERIES, why))) == (12, True)


@pytest.mark.parametrize("folder", ["other", "heart"])
@pytest.mark.parametrize(
    "about",
    [
        {"ImageOrientationPatient": [0, 1, 0, 0, 0, 1]},
        {"shape": (24, 16)},
        {"PixelSpacing": [1, 1]},
        {"ImagePositionPatient": None},
        {"ImagePositionPatient": [0, 0, 99]},
    ],
)
def test_a_series_that_lies_otherwise_costs_the_heart_beside_it_nothing(tmp_path, about, folder):
    write_series(tmp_path / "heart", 0, slices=3)
    write_series(tmp_path / folder, 1, phases=1, name="y{}.dcm", **about)
    assert hearts(tmp_path) == {"P01": (7, 3, 2, "")}
    (last,) = [image for image in images.find(tmp_path).patients[0].images() if image.undefined]
    assert (last.phase, last.undefined) == ("", stacks.OTHERWISE)
    assert ("P01", "1", stacks.OTHERWISE) in together(tmp_path)


def test_a_slice_that_is_missing_is_told_once_and_not_as_a_patient_for_each_folder(tmp_path):
    for index in (0, 1, 3):
        write_series(tmp_path / f"{index}", index, first=index)
    ((*counts, why),) = hearts(tmp_path).values()
    assert (counts, "8 to 16 mm" in why) == ([6, 0, 0], True)


def test_visits_of_one_patient_are_two_hearts(tmp_path):
    for visit in (1, 2):
        for index in range(3):
            write_series(tmp_path / f"visit{visit}/{index}", index, first=index, StudyInstanceUID=f"1.9.{visit}")
    assert hearts(tmp_path) == dict.fromkeys(("P01", "P02"), (6, 3, 2, ""))
    assert ("P01", "P02", "studies") in together(tmp_path)


def test_images_that_are_there_twice_are_no_two_phases(tmp_path):
    write_heart(tmp_path / "in", slices=1, phases=1, SOPInstanceUID="1.2.3")
    for path in list((tmp_path / "in").iterdir()):
        (path.parent / f"copy of {path.name}").write_bytes(path.read_bytes())
    assert "SOPInstanceUID" in why(tmp_path)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ([{"TriggerTime": 0}], ["TriggerTime"]),
        ([{"TriggerTime": None}], ["TriggerTime"]),
        ([{"TriggerTime": None}] * 3, []),
        ([{"TriggerTime": 0}] * 3, []),
        ([{"TriggerTime": None, "InstanceNumber": None}] * 3, ["TriggerTime", "InstanceNumber"]),
        ([{"TriggerTime": 5, "InstanceNumber": 1}] * 3, ["TriggerTime", "InstanceNumber"]),
        ([{"InstanceNumber": None}] * 3, []),
    ],
)
def test_phases_have_an_order_that_the_headers_tell_and_never_the_names(tmp_path, changed, expected):
    for phase in range(3):
        tags = {"TriggerTime": 40 * phase, "InstanceNumber": phase} | dict(enumerate(changed)).get(2 - phase, {})
        place = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": AXIAL}
        write_dicom(tmp_path / "in" / f"im{phase}.dcm", np.full((20, 16), phase), **place, **tags)
    said = why(tmp_path)
    assert [tag for tag in ("TriggerTime", "InstanceNumber") if tag in said] == expected
    assert bool(said) == bool(expected)


def test_each_frame_of_enhanced_mr_is_an_image_with_its_own_place(tmp_path):
    write_enhanced_heart(tmp_path / "a.dcm")
    found = dicoms(tmp_path)
    assert [key[:2] for key in found] == [("P01", number) for number in range(12)]
    assert {(index, phase): value for (_, _, index, phase), value in found.items()} == {
        (index, str(phase)): 10 * index + phase for index in range(3) for phase in range(4)
    }
    (patient,) = images.find(tmp_path).patients
    assert (patient.gap_mm, patient.undefined) == (8.0, "")
    assert {image.item.spacing_mm for image in patient.images()} == {(0.7, 0.8)}


@pytest.mark.parametrize(
    "groups",
    [
        lambda index, phase: {
            "CardiacSynchronizationSequence": {},
            "FrameContentSequence": {"TemporalPositionIndex": phase + 1},
        },
        lambda index, phase: {
            "CardiacSynchronizationSequence": {},
            "FrameContentSequence": {"DimensionIndexValues": [index + 1, phase + 1]},
        },
    ],
)
def test_phases_of_enhanced_mr_without_a_time_are_ordered_by_their_index(tmp_path, groups):
    pointers = pydicom.Sequence([pydicom.Dataset(), pydicom.Dataset()])
    for item, keyword in zip(pointers, ("ImagePositionPatient", "NominalCardiacTriggerDelayTime"), strict=True):
        item.DimensionIndexPointer = pydicom.tag.Tag(keyword)
    write_enhanced_heart(tmp_path / "a.dcm", groups=groups, DimensionIndexSequence=pointers)
    for (_, _, index, phase), value in dicoms(tmp_path).items():
        assert value == 10 * index + int(phase)


def test_a_file_of_enhanced_mr_for_each_slice_is_one_patient(tmp_path):
    for index in range(3):
        whose = {**STUDY, "SeriesInstanceUID": f"1.9.{index}", "SOPInstanceUID": f"1.9.{index}.1"}
        write_enhanced_heart(tmp_path / f"{index}/a.dcm", slices=1, first=index, **whose)
    assert hearts(tmp_path) == {"P01": (12, 3, 4, "")}


def test_frames_of_several_kinds_at_one_place_are_no_beat(tmp_path):
    groups = lambda index, phase: {"MRImageFrameTypeSequence": {"ComplexImageComponent": ("MAGNITUDE", "PHASE")[phase % 2]}}  # noqa: E731
    write_enhanced_heart(tmp_path / "a.dcm", groups=groups)
    ((n, _, _, why),) = hearts(tmp_path).values()
    assert (n, bool(re.search(SERIES, why))) == (12, True)


@pytest.mark.parametrize("shared", [False, True])
def test_the_rescale_of_a_frame_is_applied_to_it(tmp_path, shared):
    slope = (lambda index, phase: -2) if shared else (lambda index, phase: [1, -1, 0.5, 3][phase])
    rescale = lambda index, phase: {"RescaleSlope": slope(index, phase), "RescaleIntercept": 100}  # noqa: E731
    of_all = {**SHARED, "PixelValueTransformationSequence": rescale(0, 0)} if shared else SHARED
    of_each = lambda index, phase: {} if shared else {"PixelValueTransformationSequence": rescale(index, phase)}  # noqa: E731
    write_enhanced_heart(tmp_path / "a.dcm", shared=of_all, groups=of_each)
    for (_, _, index, phase), value in dicoms(tmp_path).items():
        assert value == (10 * index + int(phase)) * slope(index, int(phase)) + 100


def test_a_single_frame_of_enhanced_mr_is_an_image_for_every_reader(tmp_path):
    rescale = {"PixelValueTransformationSequence": {"RescaleSlope": -1, "RescaleIntercept": 50}}
    write_enhanced_heart(tmp_path / "a.dcm", slices=1, phases=1, groups=lambda index, phase: rescale, value=lambda *_: 20)
    image, header = dicom.read(tmp_path / "a.dcm")
    assert (image == 30).all()
    assert header == ((0.7, 0.8), None, [0, 0, 0], AXIAL)
    write_enhanced_heart(tmp_path / "b.dcm")
    with pytest.raises(InputError, match=r"b.dcm: .*\b12 frames \(NumberOfFrames\)[^P]*$"):
        dicom.read(tmp_path / "b.dcm")


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"NumberOfFrames": 11}, r".*NumberOfFrames .*\b11\b.*\b12\b"),
        ({"PerFrameFunctionalGroupsSequence": None}, r".*\b12 frames \(NumberOfFrames\).*PerFrameFunctionalGroupsSequence"),
        ({"SharedFunctionalGroupsSequence": None}, ".*PixelSpacing"),
    ],
)
def test_frames_that_are_not_described_are_refused(tmp_path, tags, message):
    write_enhanced_heart(tmp_path / "a.dcm", **tags)
    with pytest.raises(InputError, match=f"a.dcm: {message}"):
        images.find(tmp_path)


def test_frames_whose_pixels_are_cut_off_or_go_on_are_refused_and_filling_is_not(tmp_path):
    write_enhanced_heart(tmp_path / "a.dcm")
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    content = dataset.PixelData
    for filling, message in ((content[:640], r"\bmore\b.*\b12 .*\b20 x 16\b"), (None, r"DICOM.*\(\w+\)")):
        dataset.PixelData = content[:-640] if filling is None else content + filling[:-1] + b"\7"
        dataset.save_as(tmp_path / "a.dcm")
        with pytest.raises(InputError, match=f"a.dcm: .*{message}"):
            dicoms(tmp_path)
    dataset.PixelData = content + bytes(640)
    dataset.save_as(tmp_path / "a.dcm")
    assert len(dicoms(tmp_path)) == 12


def test_a_film_among_images_is_refused_before_anything_is_predicted(tmp_path):
    write_heart(tmp_path)
    write_heart(tmp_path, slices=1, phases=1, names=lambda count: "zz.dcm", NumberOfFrames=2)
    with pytest.raises(InputError, match=r"zz.dcm: .*\b2 frames \(NumberOfFrames\)"):
        images.find(tmp_path)


def test_names_of_the_rvsc_that_the_headers_contradict_give_no_slices(tmp_path):
    write_heart(tmp_path / "25", slices=2, phases=25, names=lambda count: f"P01-{count - 1:04}.dcm")
    assert re.search(r"\b20 \* slice \+ phase\b", why(tmp_path / "25"))
    write_heart(tmp_path / "gap", slices=2, phases=20, names=lambda count: f"P01-{count - 1:04}.dcm", SpacingBetweenSlices=10)
    assert re.search(r"\b0 and 1\b.*\b8 mm\b.*\b10\b", why(tmp_path / "gap"))
    write_heart(tmp_path / "20", slices=2, phases=20, names=lambda count: f"P01-{count - 1:04}.dcm")
    assert images.find(tmp_path / "20").patients[0].undefined == ""
    write_heart(tmp_path / "two", slices=1, phases=5, names=lambda count: f"P01-{count - 1:04}.dcm")
    write_heart(tmp_path / "two", slices=1, phases=5, names=lambda count: f"P01-{count + 19:04}.dcm", PatientID="2")
    assert re.search(r"\bpatients\b.*\bstudies\b.*\bnames\b", why(tmp_path / "two"))


# Both


def test_a_single_file_is_enough(tmp_path):
    path = volumes.write(tmp_path / "case_0000.nii.gz", volumes.pixels(1))
    assert told(path) == {"case": ("case", 0, "")}
    write_heart(tmp_path, slices=1, phases=1, names=lambda count: "P09-0020.dcm")
    write_heart(tmp_path, slices=1, phases=1, names=lambda count: "IM1")
    assert list(dicoms(tmp_path / "P09-0020.dcm")) == [("P09", 20, 1, "0")]
    assert list(dicoms(tmp_path / "IM1")) == [("P01", 0, 0, "")]


def test_both_kinds_none_and_nothing_are_one_message_each(tmp_path):
    with pytest.raises(InputError, match=r"input=\S+/nowhere: .*\bfolder\b.*\bfile\b"):
        images.find(tmp_path / "nowhere")
    with pytest.raises(InputError, match=f"input={tmp_path}: [^(]*$"):
        images.find(tmp_path)
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(InputError, match=rf"input={tmp_path}: .*\(1 .*NIfTI"):
        images.find(tmp_path)
    with pytest.raises(InputError, match=r"a.txt: .*\bnot\b.*DICOM"):
        images.find(tmp_path / "a.txt")
    write_heart(tmp_path, slices=1, phases=1)
    volumes.write(tmp_path / "b.nii.gz", volumes.pixels(1))
    with pytest.raises(InputError, match=rf"input={tmp_path}: .*DICOM \(im1.dcm\) .*NIfTI \(b.nii.gz\)"):
        images.find(tmp_path)


def test_a_link_out_of_the_folder_is_refused_and_one_within_it_read_once(tmp_path):
    volumes.write(tmp_path / "elsewhere/a.nii.gz", volumes.pixels(1))
    inside = tmp_path / "in"
    volumes.write(inside / "data/b.nii.gz", volumes.pixels(1))
    (inside / "link").symlink_to(inside / "data")
    with pytest.raises(InputError, match=r"in/link: (?!.*/in\b).*\blink\b"):
        images.find(inside)
    (inside / "link").unlink()
    (inside / "circle").symlink_to(inside)
    with pytest.raises(InputError, match=r"in/circle: (?!.*/in\b).*\blink\b"):
        images.find(inside)
    (inside / "circle").unlink()
    for target in (tmp_path / "elsewhere", tmp_path / "elsewhere/a.nii.gz", tmp_path / "nothing"):
        (inside / "out").symlink_to(target)
        with pytest.raises(InputError, match=r"in/out: .*\blink\b.*/in\b"):
            images.find(inside)
        (inside / "out").unlink()
    (tmp_path / "way").symlink_to(inside)
    assert list(told(tmp_path / "way")) == ["b"]


def test_files_that_may_be_images_of_another_format_are_named(tmp_path, caplog):
    for name in ("a.nii.gz", "b.nrrd", "c.img", "c.hdr", "README.md", "notes.txt", "deep/d.mha"):
        volumes.write(tmp_path / name, volumes.pixels(1))
    assert left_out(tmp_path) == [("NIfTI", 6)]
    assert re.search(r"\b4\b.*: b.nrrd, c.hdr, c.img, deep/d.mha$", caplog.messages[-1])
