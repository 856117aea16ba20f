import errno
import json
import os
import re
import shutil

import numpy as np
import pytest

import volumes
from layouts.nnunet import CASES, MSD, V2, write
from segtune.data import nnunet
from segtune.errors import InputError


def read(root, target="RV", **settings):
    return nnunet.read(root, target=target, **settings)


@pytest.mark.parametrize(("about", "channels"), [(V2, ("_0000",)), (MSD, ("",)), (MSD, ("_0000",))])
def test_both_layouts_and_both_forms_of_dataset_json_are_read_alike(tmp_path, about, channels):
    slices = read(write(tmp_path, about=about, channels=channels))
    assert [(s.patient, s.frame, s.slice_index, s.phase) for s in slices] == [(c, 0, i, None) for c in CASES for i in range(3)]
    assert np.array_equal(slices[4].image, volumes.pixels(10)[:, :, 1].T)
    assert np.unique(np.nonzero(slices[4].mask)[1]).tolist() == [2, 3]
    assert slices[0].spacing_mm == pytest.approx((0.8, 0.7))


@pytest.mark.parametrize(
    ("target", "columns"), [("RV", [2, 3]), ("both", [2, 3, 4, 5]), ("LV", [6, 7]), (2, [4, 5]), ("3", [6, 7])]
)
def test_the_target_is_a_label_s_name_or_value(tmp_path, target, columns):
    assert np.unique(np.nonzero(read(write(tmp_path), target)[1].mask)[1]).tolist() == columns


@pytest.mark.parametrize("target", ["heart", "background", 0, 9, "", "²", "9" * 5000])
def test_a_target_that_is_no_structure_is_refused(tmp_path, target):
    with pytest.raises(InputError, match=r"data.target=.*: .*dataset.json.* RV, wall, both, LV\b"):
        read(write(tmp_path), target)


def test_names_match_however_a_file_system_or_dataset_json_composes_their_letters(tmp_path):
    apart, composed = "Ja\u0308ger_1", "J\u00e4ger_1"
    root = write(tmp_path, (composed,), labels={"background": 0, apart: 1, "wall": 2, "LV": 3}, training=[f"{apart}.nii.gz"])
    (root / "labelsTr" / f"{composed}.nii.gz").rename(root / "labelsTr" / f"{apart}.nii.gz")
    for target in (apart, composed):
        assert {*read(root, target).patients} == {composed}


def test_the_pattern_tells_patient_phase_and_frame(tmp_path):
    write(tmp_path, ("p2_ES_12", "p10_ED_01", "p2_ED_01"))
    slices = read(tmp_path, patient="(?P<patient>p[0-9]+)_(?P<phase>E.)_(?P<frame>[0-9]+)")[::3]
    assert [(s.patient, s.phase, s.frame) for s in slices] == [("p2", "ED", 1), ("p2", "ES", 12), ("p10", "ED", 1)]
    slices = read(tmp_path, patient="(?P<patient>[^_]+)")[::3]
    assert [(s.patient, s.phase, s.frame) for s in slices] == [("p2", None, 0), ("p2", None, 1), ("p10", None, 0)]


def test_names_that_look_grouped_are_refused_without_a_pattern(tmp_path):
    write(tmp_path, ("p2_ES", "p2_ED"))
    with pytest.raises(InputError, match="p2_ED and p2_ES .*data.patient="):
        read(tmp_path)


@pytest.mark.parametrize("channels", [("_0000", "_0001"), ("",)])
def test_one_of_several_channels_is_chosen_by_name_or_number(tmp_path, channels):
    write(tmp_path, channels=channels, channel_names={"0": "T1", "1": "T2"})
    both = np.stack([volumes.pixels(0), volumes.pixels(1)], axis=3)
    if channels == ("",):
        for case in CASES:
            volumes.write(tmp_path / "imagesTr" / f"{case}.nii.gz", both)
    for channel, index in (("T1", 0), ("T2", 1), (1, 1), ("0", 0)):
        assert np.array_equal(read(tmp_path, channel=channel)[0].image, both[:, :, 0, index].T)
    with pytest.raises(InputError, match=r"^(?!data.channel=).*data.channel: 0 \(T1\), 1 \(T2\)"):
        read(tmp_path)
    with pytest.raises(InputError, match=r"data.channel=T3: .*0 \(T1\), 1 \(T2\)"):
        read(tmp_path, channel="T3")


def test_the_list_of_cases_names_files_and_is_never_followed(tmp_path):
    cases = [{"image": f"../../{case}.nii.gz", "label": f"/etc/{case}.nii.gz"} for case in CASES]
    expected = read(write(tmp_path)).fingerprint()
    assert read(write(tmp_path, about=MSD, training=cases)).fingerprint() == expected


def test_slices_without_the_target_may_be_dropped(tmp_path):
    assert [item.slice_index for item in read(write(tmp_path), empty="drop")] == [1, 2, 1, 2]


def about(**keys):
    return lambda root: (root / "dataset.json").write_text(json.dumps({**V2, **keys}))


def text(content):
    return lambda root: (root / "dataset.json").write_text(content)


def elsewhere(name):
    def damage(root):
        shutil.move(root / name, root.parent / "outside")
        (root / name).symlink_to(root.parent / "outside")

    return damage


IMAGE, LABEL = "imagesTr/la_010_0000.nii.gz", "labelsTr/la_010.nii.gz"
DAMAGE = {
    "no dataset.json": (lambda r: (r / "dataset.json").unlink(), r"data.root=\S+: [^.]*\bdataset[.]json\b"),
    "dataset.json is a folder": (
        lambda r: ((r / "dataset.json").unlink(), (r / "dataset.json").mkdir()),
        r"dataset.json: .*\(.*\bfile\)",
    ),
    "no images": (lambda r: shutil.rmtree(r / "imagesTr"), r"data.root=\S+: [^.]*\bimagesTr\b"),
    "no labels": (lambda r: shutil.rmtree(r / "labelsTr"), r"data.root=\S+: [^.]*\blabelsTr\b"),
    "labelsTr is a file": (
        lambda r: (shutil.rmtree(r / "labelsTr"), (r / "labelsTr").touch()),
        f"/labelsTr: .*{os.strerror(errno.ENOTDIR)}",
    ),
    "an empty labelsTr": (lambda r: [path.unlink() for path in (r / "labelsTr").iterdir()], r"/labelsTr: .*\blabel image\b"),
    "not JSON": (text('{\n"labels": }'), "dataset.json, line 2: .*JSON"),
    "an empty file": (text(""), "dataset.json, line 1: .*JSON"),
    "a list": (text("[]"), r"dataset.json: .*\bobject\b"),
    "nested": (text("[" * 100_000), r"dataset.json: .*JSON \(.*recursion"),
    "an endless number": (text('{"numTraining": ' + "9" * 5000 + "}"), r"dataset.json: .*JSON \(.*digits"),
    "too large": (text(" " * (2**22 + 1)), "dataset.json: .*4 MiB"),
    "not text": (lambda r: (r / "dataset.json").write_bytes(b'{"a": "\xff"}'), r"dataset.json: .*JSON \(.*utf-8"),
    "a key twice": (text('{"labels": {"a": 1, "a": 2}}'), r"dataset.json: .*JSON \(.*\bkey 'a' .*\btwice\b"),
    "no label": (about(labels={}), r"dataset.json, key labels: [^':]+[.] "),
    "labels as a list": (about(labels=["RV"]), r"dataset.json, key labels: [^':]+[.] "),
    "a label without a value": (about(labels={"RV": None}), "key labels: 'RV': 'None' "),
    "a label of true": (about(labels={"RV": True}), "key labels: 'RV': 'True' "),
    "a label of -1": (about(labels={"RV": -1}), "key labels: 'RV': '-1' "),
    "a label of half": (about(labels={"RV": 0.5}), "key labels: 'RV': '0.5' "),
    "a label of nothing": (about(labels={"RV": []}), r"key labels: 'RV': '\[\]' "),
    "names both ways": (about(labels={"RV": "LV"}), "key labels: 'RV': 'LV' "),
    "a label of two lines": (about(labels={"RV\nx": 1}), r"key labels: 'RV\\nx': .*\b100\b"),
    "a label of a thousand letters": (about(labels={"x" * 1000: 1}), r"key labels: 'xxx.*x': .*\b100\b"),
    "half a letter": (about(labels={"\ud800": 1}), r"key labels: '\\ud800': .*\b100\b"),
    "a name twice": (about(labels={"1": "RV", "2": "RV"}), r"key labels: 'RV' .*\btwice\b"),
    "pixels to be ignored": (about(labels={"RV": 1, "ignore": 2}), "key labels: ignore: "),
    "no channels": (about(channel_names={}), "key channel_names: .*counted"),
    "channels from 1": (about(channel_names={"1": "MRI"}), "key channel_names: .*counted"),
    "a channel without a name": (about(channel_names={"0": 3}), r"key channel_names: .*\b100\b"),
    "a channel of two lines": (about(channel_names={"0": "MRI\nx"}), r"key channel_names: .*\b100\b"),
    "a case of two lines": (about(training=["la\n_003.nii.gz"]), "key training: .*imagesTr"),
    "a number of cases beyond counting": (about(numTraining=10**4000), "key numTraining: '10{39}' "),
    "files elsewhere": (about(dataset={}), "key dataset: .*imagesTr.*labelsTr"),
    "another format": (about(file_ending=".mha"), r"key file_ending: '[.]mha'.*[.]nii[.]gz and [.]nii\b"),
    "an ending that is none": (about(file_ending=[1]), r"key file_ending: '\[1\]'"),
    "a wrong number of cases": (about(numTraining=3), r"key numTraining: 3 .*\blabelsTr .*\b2\b"),
    "no number of cases": (about(numTraining="two"), "key numTraining: 'two' "),
    "a list of nothing": (about(training=[{}]), "key training: .*imagesTr"),
    "no list": (about(training=3), "key training: .*imagesTr"),
    "a case that is not there": (
        about(training=["la_003.nii.gz", "x/la_010.nii.gz", "la_011.nii"]),
        "labelsTr/la_011.nii.gz: .*missing.*dataset.json.*training",
    ),
    "a case that is not listed": (about(training=["la_003.nii.gz"]), "labelsTr/la_010: .*dataset.json.*training"),
    "a label without an image": (lambda r: (r / IMAGE).unlink(), "labelsTr/la_010.nii.gz: .*imagesTr/la_010_0000.nii.gz"),
    "an image without a label": (lambda r: (r / LABEL).unlink(), r"key numTraining: 2 .*\blabelsTr .*\b1\b"),
    "an image of no case": (
        lambda r: shutil.copy(r / IMAGE, r / "imagesTr" / "la_011_0000.nii.gz"),
        "imagesTr/la_011_0000.nii.gz: .*labelsTr.*dataset.json",
    ),
    "a channel that is not named": (
        lambda r: shutil.copy(r / IMAGE, r / "imagesTr" / "la_010_0001.nii.gz"),
        "imagesTr/la_010_0001.nii.gz: .*labelsTr.*dataset.json",
    ),
    "an image in both layouts": (
        lambda r: shutil.copy(r / IMAGE, r / "imagesTr" / "la_010.nii.gz"),
        r"la_010\S* and \S*la_010\S* .*\bla_010\b",
    ),
    "a value that dataset.json does not name": (
        about(labels={"background": 0, "RV": 1, "LV": 3}),
        r"la_003.nii.gz: .*\blabel 2\b.*dataset.json.*\(only 0, 1, 3\)",
    ),
    "another shape": (
        lambda r: volumes.write(r / LABEL, volumes.labels((12, 10, 4))),
        "la_010.nii.gz: .*12 x 10 x 4 .*la_010_0000.nii.gz .*12 x 10 x 3",
    ),
    "four axes": (
        lambda r: volumes.write(r / IMAGE, volumes.pixels(1, (12, 10, 3, 2))),
        r"la_010_0000.nii.gz: .*12 x 10 x 3 x 2\b.*4 axes",
    ),
    "cut off": (
        lambda r: (r / LABEL).write_bytes((r / LABEL).read_bytes()[:90]),
        r"labelsTr/la_010.nii.gz: .*\bdamaged\b",
    ),
    "an image elsewhere": (elsewhere(IMAGE), r"la_010_0000.nii.gz: .*\blink\b.*/data\b"),
    "labels elsewhere": (elsewhere("labelsTr"), r"/labelsTr: .*\blink\b.*/data\b"),
    "dataset.json elsewhere": (elsewhere("dataset.json"), r"/dataset.json: .*\blink\b.*/data\b"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_data_are_refused_by_name(tmp_path, name):
    damage, message = DAMAGE[name]
    root = write(tmp_path / "data")
    assert len(read(root)) == 6
    damage(root)
    with pytest.raises(InputError, match=message) as caught:
        read(root)
    assert "Secret" not in str(caught.value)


def test_of_many_labels_and_channels_a_message_lists_ten(tmp_path):
    labels = {f"l{index}": index for index in range(1, 60000)}
    write(tmp_path, labels=labels, channel_names={str(index): f"c{index}" for index in range(64)})
    with pytest.raises(InputError, match=r"data.target=heart: .* l1, l2, .*, l10, ... \(59999\)\."):
        read(tmp_path, "heart")
    with pytest.raises(InputError, match=r"data.channel: 0 \(c0\), .*, 9 \(c9\), ... \(64\)\."):
        read(tmp_path, "l1")


def added(name):
    def add(root):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"some bytes")

    return add


@pytest.mark.parametrize(
    "name",
    [
        *(
            "labelsTr/la_011.nrrd",
            "labelsTr/la_011.img",
            "labelsTr/la_011.hdr",
            "labelsTr/la_011.mha",
            "imagesTr/la_011_0000.mhd",
        ),
        *("imagesTr/la_011_0000.img.gz", "labelsTr/la_011.nii.gz.part", "labelsTr/more/la_011.nii.gz", "labelsTr/la_011"),
    ],
)
def test_a_case_in_a_file_that_is_not_read_is_refused_by_name_with_the_cure(tmp_path, name):
    added(name)(write(tmp_path))
    with pytest.raises(
        InputError, match=rf"{name.replace('/la_011.nii.gz', '') if 'more' in name else name}: .*\bconvert .*[.]nii[.]gz"
    ):
        read(tmp_path)


def test_other_files_beside_the_cases_are_named_and_companions_are_not(tmp_path, caplog):
    write(tmp_path)
    expected = read(tmp_path).fingerprint()
    assert not caplog.text
    for name in ("README.md", ".DS_Store", "imagesTs/x.nii.gz", "labelsTr/README.txt", "labelsTr/._la_003.nii.gz"):
        added(name)(tmp_path)
    assert read(tmp_path).fingerprint() == expected
    assert not caplog.text
    for name in ("labelsTr/la_003.nrrd", "imagesTr/la_003_0000.json", "labelsTr/volumes.csv", "case.nii.gz"):
        added(name)(tmp_path)
    assert read(tmp_path).fingerprint() == expected
    told = r"\b4\b.*: case.nii.gz, labelsTr/la_003.nrrd, labelsTr/volumes.csv, imagesTr/la_003_0000.json$"
    assert re.search(told, caplog.messages[-1])
