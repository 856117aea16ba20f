"""Whatever a file holds, its parser understands it or refuses it in one clear message that names the file."""

import gzip
import json
import re
import string

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import volumes
from conftest import write_dicom
from segtune import results
from segtune.data import acdc, contours, dicom, folder, nifti, nnunet, rvsc, slices, sunnybrook

FUZZ = settings(max_examples=250, derandomize=True, deadline=2000)
NUMBER = r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?"
POINT = re.compile(rf"[\s,]*{NUMBER}[\s,]+{NUMBER}[\s,]*", re.IGNORECASE)  # what is a point, said a second time


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def parsed(call, path):
    """What a parser makes of a file; None if it refuses it. Any exception but InputError, and any warning, is a failure."""
    found = []
    message = volumes.said(lambda: found.append(call()))
    assert message is None or is_clear(message, str(path)), message
    return found[0] if found else None


def is_clear(message, *names):
    said = message.startswith(names) and message.endswith((".", "?"))
    return said and message.isprintable() and len(message) < 400 + len(names[0])


def lines(*texts):
    """Files of such lines, joined as they are on any system, or all bytes."""
    joined = st.tuples(st.lists(st.one_of(*texts), max_size=8), st.sampled_from(["\n", "\r\n", "\r", "\n\n", "\x0c"]))
    return st.binary(max_size=60) | joined.map(lambda pair: pair[1].join(pair[0]).encode("utf-8", "surrogatepass"))


def changed(content, changes):
    """The bytes with some of them (share of the length, value) replaced."""
    array = bytearray(content)
    for share, value in changes:
        array[int(share * (len(array) - 1))] = value
    return bytes(array)


CHANGES = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6)

# Contours

NUMBERS = st.sampled_from(
    ["1", "10.5", "-3", "1e1", ".5", "7.", "1e999", "nan", "inf", "1_0", "\u0663", "0x1", "_", "a", "\0", "1e5"]
)
FIELDS = st.lists(NUMBERS | st.floats().map(str) | st.text(max_size=3), max_size=3)
POINTS = st.tuples(st.floats(-2, 70).map("{:.2f}".format), st.floats(-2, 70).map("{:.2f}".format)).map(" ".join)


@FUZZ
@given(lines(POINTS, POINTS, POINTS, st.tuples(st.sampled_from([" ", ",", "\t", ", "]), FIELDS).map(lambda f: f[0].join(f[1]))))
def test_a_contour_is_two_numbers_per_line_or_refused(place, content):
    path = place / "contour.txt"
    path.write_bytes(content)
    points = parsed(lambda: contours.read(path), path)
    if points is None:
        return
    given_ = [line for line in content.decode("utf-8-sig", "replace").splitlines() if line.replace(",", " ").strip()]
    assert all(POINT.fullmatch(line) for line in given_)
    assert points.shape == (len(given_), 2)
    assert np.isfinite(points).all()
    for rasterise in contours.RASTERISERS.values():
        message = volumes.said(lambda draw=rasterise: draw(points, (64, 48)))
        assert message is None or is_clear(message, "the contour ")


# Lists of files

LISTED = st.tuples(
    st.sampled_from(["", ".\\patient09\\", "../../", "/etc/", "C:\\"]),
    st.sampled_from(["P09", "p09", "P08", "P9", "P\u0660\u0669", ""]),
    st.sampled_from(["-0020-", "-0999-", "-20-", "-\u0660\u0660\u0662\u0660-", "-"]),
    st.sampled_from(["icontour", "ocontour", "\u0131contour", "xcontour", "contour"]),
    st.sampled_from(["-manual.txt", "-auto.txt", ".txt", "-manual.txt\0", "-manual.TXT"]),
).map("".join)


@FUZZ
@given(lines(LISTED, st.text(max_size=20)))
def test_a_list_file_names_contours_that_are_there_or_is_refused(place, content):
    path = place / "P09list.txt"
    path.write_bytes(content)
    dicoms, outlines = {("P09", 20): path}, {("P09", 20, "i"): path}
    keys = parsed(lambda: list(rvsc._listed(path, "P09", "i", dicoms, outlines)), path)
    assert keys is None or {*keys} <= dicoms.keys()


ROW = st.lists(st.sampled_from(["SCD0000101", "SC-HF-I-1", "..", "/etc", "", '"', "a\0", "\u0661", "-a"]), max_size=3).map(
    ",".join
)


@FUZZ
@given(st.booleans(), lines(ROW, ROW, st.text(max_size=10)))
def test_link_csv_pairs_names_of_folders_or_is_refused(place, has_head, content):
    path = place / "link.csv"
    path.write_bytes(b"patient_id,original_id\n" * has_head + content)
    link = parsed(lambda: sunnybrook._link(path), path)
    if link is None:
        return
    assert len({*link.values()}) == len(link) > 0
    for name in (*link, *link.values()):
        assert {*name} <= {*string.ascii_letters, *string.digits, "-", "_"}


@FUZZ
@given(
    lines(
        st.tuples(
            st.sampled_from(["ED", "ES", "ed", "Group", ""]),
            st.sampled_from([":", ": ", "=", ""]),
            st.integers(-1, 10000).map(str)
            | st.sampled_from(["\u0661", "1.0", "9" * 5000, "1_0", "\xb2"])
            | st.text(max_size=5),
        ).map("".join)
    )
)
def test_info_cfg_gives_two_frames_or_is_refused(place, content):
    path = place / "Info.cfg"
    path.write_bytes(content)
    frames = parsed(lambda: acdc.read_info(path), path)
    if frames is not None:
        assert list(frames) == ["ED", "ES"]
        assert frames["ED"] != frames["ES"]
        assert all(1 <= frame <= 9999 and f"{frame}".encode() in content for frame in frames.values())


# dataset.json

ABOUT = {
    "channel_names": {"0": "MRI", "1": "CT"},
    "labels": {"background": 0, "RV": 1, "both": [1, 2]},
    "numTraining": 2,
    "file_ending": ".nii.gz",
    "training": [{"image": "./imagesTr/A.nii.gz", "label": "./labelsTr/A.nii.gz"}, "B.nii.gz"],
}
TEXTS = st.sampled_from(
    ["0", "1", "RV", "", "a\nb", "\x1b[31m", "x" * 300, "A.nii.gz", "../A.nii.gz", ".nii", "\ud800"]
) | st.text(max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**70) | st.just(10**4000) | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


def with_one_field_changed(where, value):
    """ABOUT with this value at one place: a key of its own, or one of a key's."""
    about = json.loads(json.dumps(ABOUT))
    key, inner = where
    if inner is None:
        about[key] = value
    elif isinstance(about[key], dict):
        about[key][inner] = value
    else:
        about[key] = [value]
    return json.dumps(about).encode()


@FUZZ
@given(
    st.one_of(
        st.binary(max_size=60),
        JSON.map(lambda value: json.dumps(value).encode()),
        CHANGES.map(lambda changes: changed(json.dumps(ABOUT).encode(), changes)),
        st.integers(1, 100_000).map(lambda n: b"[" * n),
        st.builds(with_one_field_changed, st.tuples(st.sampled_from([*ABOUT, "dataset", "modality"]), st.none()), JSON),
        st.builds(with_one_field_changed, st.tuples(st.sampled_from(["labels", "channel_names", "training"]), TEXTS), JSON),
    )
)
def test_dataset_json_is_understood_or_refused(place, content):
    path = place / "dataset.json"
    path.write_bytes(content)
    about = parsed(lambda: nnunet.read_json(path), path)
    if about is None:
        return
    assert about.channels
    assert all(values and all(0 <= value <= nnunet.MAX_LABEL for value in values) for values in about.labels.values())
    assert all((name.isprintable() and "/" not in name) for name in about.cases or ())
    for call in (lambda: nnunet._wanted(about, "no such"), lambda: nnunet._channel(about, "no such")):
        message = volumes.said(call)
        assert message.isprintable()
        assert len(message) < 2500


# Images


@FUZZ
@given(CHANGES.map(lambda changes: [(share * 0.45, value) for share, value in changes]), st.booleans(), st.integers(0, 800))
def test_a_nifti_file_is_a_volume_or_refused(place, changes, compressed, n_cut):
    """Of about 780 bytes the first 352 are the header."""
    content = changed(nib.Nifti1Image(volumes.pixels(1, (6, 6, 6)), np.diag([1, 2, 3, 1])).to_bytes(), changes)
    path = place / "fuzzed.nii"
    path.write_bytes(gzip.compress(content, 1)[: -n_cut or None] if compressed else content[: -n_cut // 8 or None])
    volume = parsed(lambda: nifti.read(path), path)
    if volume is not None:
        assert volume.voxels.ndim == 3
        assert volume.voxels.nbytes < 10 * len(content)
        low, high = slices.SPACINGS_MM
        assert all(low <= mm <= high for mm in (*volume.spacing_mm, volume.gap_mm or 1.0))
        assert volume.affine is None or np.isfinite(volume.affine).all()


@pytest.fixture(scope="module")
def dicom_bytes(place):
    tags = {"SpacingBetweenSlices": 8, "ImagePositionPatient": [0, 0, 5], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    write_dicom(place / "valid.dcm", volumes.pixels(1, (12, 10)), **tags)
    return (place / "valid.dcm").read_bytes()


@FUZZ
@given(CHANGES.map(lambda changes: [(0.14 + 0.86 * share, value) for share, value in changes]), st.integers(0, 40))
def test_a_dicom_file_is_one_grey_image_or_refused(place, dicom_bytes, changes, n_cut):
    """The first 128 bytes, an eighth of the file, say nothing."""
    path = place / "fuzzed.dcm"
    path.write_bytes(changed(dicom_bytes, changes)[: -n_cut or None])
    found = parsed(lambda: dicom.read(path), path)
    if found is not None:
        image, header = found
        assert image.ndim == 2
        assert np.isfinite(image).all()
        low, high = slices.SPACINGS_MM
        assert all(low <= mm <= high for mm in (*header.spacing_mm, header.gap_mm or 1.0))
    place_ = parsed(lambda: dicom.read_place(path), path)
    assert place_ is None or all(isinstance(n, int) for n in place_.shape)


@FUZZ
@given(st.sampled_from(["png", "tif"]), CHANGES)
def test_a_grey_image_is_read_or_refused(place, kind, changes):
    path = place / f"fuzzed.{kind}"
    Image.fromarray(volumes.pixels(0, (10, 12)).astype(np.uint8)).save(path)
    path.write_bytes(changed(path.read_bytes(), changes))
    pixels = parsed(lambda: folder._pixels(path), path)
    assert pixels is None or (pixels.ndim == 2 and pixels.size > 0)


# What runs leave


@FUZZ
@given(
    st.binary(max_size=60)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.integers(1, 100_000).map(lambda n: b'{"a":' * n)
    | st.lists(st.text(max_size=8), max_size=6).map(lambda texts: ",".join(texts).encode("utf-8", "surrogatepass"))
)
def test_results_are_read_or_refused(place, content):
    for name in (results.RESULT, results.SLICES, results.HISTORY, results.STATUS, results.SWEEP):
        (place / name).write_bytes(content)
    parsed(lambda: results.read_result(place), place)
    parsed(lambda: results.read_table(place, results.SLICES), place)
    parsed(lambda: results.read_history(place), place)
    parsed(lambda: results.read_sweep(place), place)
    results.read_status(place)
