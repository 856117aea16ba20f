"""Whatever a file holds, its parser understands it or refuses it in one clear message that names the file."""

import gzip
import json
import re
import shutil
import string
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image

import volumes
from conftest import write_dicom
from segtune.data import acdc, folder, nnunet, rvsc, slices, sunnybrook
from segtune.data.formats import colours, contours, dicom, nifti
from segtune.inference import models
from segtune.runs import identity, layout
from segtune.runs.result import read_result
from segtune.runs.state import read_status
from segtune.runs.sweep import read_sweep
from segtune.runs.tables import read_history, read_table

FUZZ = settings(max_examples=500, derandomize=True, deadline=2000)
FEW = settings(FUZZ, max_examples=200)
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


@st.composite
def lines(draw, valid, odd):
    """A file of valid lines, into one or two of which something odd is put, or in the line's place; some are of any bytes."""
    if draw(st.integers(0, 9)) == 9:
        return draw(st.binary(max_size=40))
    found = [*draw(valid)]
    for _ in range(draw(st.sampled_from([1, 1, 1, 1, 0, 2]))):
        index, text = draw(st.integers(0, len(found) - 1)), draw(st.sampled_from(odd))
        line = found[index]
        at = draw(st.sampled_from([len(line), len(line), 0, len(line) // 2, 1]))
        found[index] = draw(st.sampled_from([line[:at] + text + line[at:]] * 3 + [text, text, line + line]))
    end = draw(st.sampled_from(["\n", "\n", "\r\n", "\r", "\n\n", "\x0c"]))
    return end.join(found).encode("utf-8", "surrogatepass")


def changed(content, changes):
    """The bytes with some of them (share of the length, value) replaced."""
    array = bytearray(content)
    for share, value in changes:
        array[int(share * (len(array) - 1))] = value
    return bytes(array)


CHANGES = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6)

# Contours

ODD = [" _", " 7", "_1", "\u0663", "nan", "e999", "e9", " ", ";", "a", "\0", "\x1b[31m", "\u2028"]
POINTS = st.tuples(
    st.floats(-2, 50).map("{:.2f}".format), st.sampled_from([" ", " ", "\t", ",", ", "]), st.floats(-2, 70).map("{:g}".format)
).map("".join)


@FUZZ
@given(lines(st.lists(POINTS, min_size=3, max_size=5), ODD))
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

LISTED = st.sampled_from(
    [f".\\patient09\\P09contours-manual\\P09-{n:04}-{kind}contour-manual.txt" for n in (20, 22) for kind in "io"]
)
LISTED_NAME = re.compile("P09-([0-9]{4})-([io])contour-manual.txt", re.IGNORECASE | re.ASCII)
UNLISTED = [
    *("../../etc/passwd", "P08-0020-icontour-manual.txt", "P09-0099-icontour-manual.txt", "P09-0099-ocontour-manual.txt"),
    *("P09-\u0660\u0660\u0662\u0660-icontour-manual.txt", "P09-0020-\u0131contour-manual.txt", "P09-0020-icontour-auto.txt"),
    *("\0", "/", "\\", "P09-0024-icontour-manual.txt"),
]


@FUZZ
@given(lines(st.lists(LISTED, min_size=1, max_size=4), UNLISTED))
def test_a_list_file_names_contours_that_are_there_or_is_refused(place, content):
    path = place / "P09list.txt"
    path.write_bytes(content)
    there = {("P09", frame): path for frame in (20, 22, 24)}
    outlines = {(*key, kind): path for key in there for kind in "io" if key != ("P09", 24)}
    keys = parsed(lambda: list(rvsc._listed(path, "P09", "i", there, outlines)), path)
    if keys is not None:
        ends = [re.split(r"[/\\]", line.strip())[-1] for line in content.decode("utf-8-sig", "replace").splitlines()]
        named = [LISTED_NAME.fullmatch(end) for end in ends if end]
        assert keys == [("P09", int(match[1])) for match in named if match[2] in "iI"]
        assert {("P09", int(match[1])) for match in named} <= there.keys()
        assert {*keys} <= {key[:2] for key in outlines}


ROW = st.tuples(st.integers(1, 5), st.integers(1, 5)).map(lambda pair: "SCD{:07},SC-HF-I-{}".format(*pair))
ODD_NAMES = ["..", "/etc", ",", '"', "\0", "\u0661", "-", ".", " ", "'", "a\x1b", "_"]


@FUZZ
@given(
    st.sampled_from([b"patient_id,original_id\n"] * 4 + [b""]),
    lines(st.lists(ROW, min_size=1, max_size=4), ODD_NAMES),
)
def test_link_csv_pairs_names_of_folders_or_is_refused(place, head, content):
    path = place / "link.csv"
    path.write_bytes(head + content)
    link = parsed(lambda: sunnybrook._link(path), path)
    if link is None:
        return
    assert len({*link.values()}) == len(link) > 0
    for name in (*link, *link.values()):
        assert {*name} <= {*string.ascii_letters, *string.digits, "-", "_"}


PHASES = st.permutations(["Group: DCM", "ED: 1", "ES: 12", "NbFrame: 30"])
ODD_FRAMES = [
    "ED: 0",
    "ES: 10000",
    "\u0661",
    "\xb2",
    ".0",
    "_0",
    "-",
    "0",
    "Group: DCM",
    "\0",
    ":",
    "ED: 12",
    "9" * 5000,
    " ",
    "ES: 0",
]


@FUZZ
@given(lines(PHASES, ODD_FRAMES))
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
    ["0", "1", "RV", "", "a\nb", "\x1b[31m", "x" * 3000, "A.nii.gz", "../A.nii.gz", ".nii", "\ud800"]
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


FIELD = st.sampled_from([*ABOUT, "dataset", "modality"])
NOT_VALID = st.one_of(
    st.binary(max_size=60),
    JSON.map(lambda value: json.dumps(value).encode()),
    CHANGES.map(lambda changes: changed(json.dumps(ABOUT).encode(), changes)),
    st.integers(1, 100_000).map(lambda n: b"[" * n),
)
ONE_FIELD = st.one_of(
    st.builds(with_one_field_changed, st.tuples(FIELD, st.none()), JSON),
    st.builds(with_one_field_changed, st.tuples(st.sampled_from(["labels", "channel_names", "training"]), TEXTS), JSON),
    st.builds(
        with_one_field_changed, st.tuples(st.just("labels"), TEXTS), st.sampled_from([-1, 0, 1, 65535, 65536, True, 1.0])
    ),
    st.builds(with_one_field_changed, st.tuples(st.just("channel_names"), st.sampled_from(["0", "1", "2", "01"])), TEXTS),
    st.builds(with_one_field_changed, st.tuples(st.just("training"), st.just("")), TEXTS.map("{}.nii.gz".format)),
)


@FUZZ
@given(st.booleans().flatmap(lambda is_whole: ONE_FIELD if is_whole else NOT_VALID))
def test_dataset_json_is_understood_or_refused(place, content):
    path = place / "dataset.json"
    path.write_bytes(content)
    about = parsed(lambda: nnunet.read_json(path), path)
    if about is None:
        return
    assert about.channels
    assert all(
        values and all(type(value) is int and 0 <= value <= 65535 for value in values) for values in about.labels.values()
    )
    assert all((name.isprintable() and "/" not in name) for name in about.cases or ())
    for call in (lambda: nnunet._wanted(about, "no such"), lambda: nnunet._channel(about, "no such")):
        message = volumes.said(call)
        assert message.isprintable()
        assert len(message) < 2500


# Images


UNCHANGED = st.sampled_from([[], []])
FIELDS = [
    *["pixdim"] * 6,
    *["dim"] * 3,
    *("datatype", "vox_offset", "scl_slope", "scl_inter", "xyzt_units", "magic", "sform_code", "qform_code"),
    *("srow_x", "srow_y", "srow_z", "quatern_b", "qoffset_x"),
]
NUMBERS = [0, 1, 2, -1, 0.5, 1e-30, 1e4, 3e38, np.nan, np.inf, -np.inf, 352, 32767, 512, 16, 64, 768]
FIELD_CHANGES = st.lists(
    st.tuples(st.sampled_from(FIELDS), st.integers(0, 7), st.sampled_from(NUMBERS)), min_size=1, max_size=2
)


def nifti_bytes(is_stated, fields):
    content = nib.Nifti1Image(volumes.pixels(1, (6, 6, 6)), np.diag([1, 2, 3, 1])).to_bytes()
    header = nib.Nifti1Header(content[:348], check=False)
    header["sform_code"], header["qform_code"] = is_stated, 0
    for name, index, value in fields:
        with np.errstate(all="ignore"):
            header[name].flat[index % header[name].size] = np.array(value).astype(header[name].dtype)
    return header.binaryblock + content[348:]


@FUZZ
@given(
    st.booleans(), FIELD_CHANGES, UNCHANGED | CHANGES, st.booleans(), UNCHANGED | CHANGES, st.sampled_from([0, 0, 0, 1, 9, 400])
)
def test_a_nifti_file_is_a_volume_or_refused(place, is_stated, fields, changes, compressed, changes_after, n_cut):
    """Fields of the header, any bytes of it, and of the whole when it is compressed."""
    content = nifti_bytes(is_stated, fields)
    content = changed(content[:352], changes) + content[352:]
    stored = gzip.compress(content, 1) if compressed else content
    path = place / "fuzzed.nii"
    path.write_bytes(changed(stored, changes_after)[: -n_cut or None])
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
    places = parsed(lambda: dicom.read_places(path), path)
    assert all(isinstance(n, int) for place_ in places or [] for n in place_.shape)


@FUZZ
@given(st.sampled_from(["png", "tif"]), CHANGES)
def test_a_grey_image_is_read_or_refused(place, kind, changes):
    path = place / f"fuzzed.{kind}"
    Image.fromarray(volumes.pixels(0, (10, 12)).astype(np.uint8)).save(path)
    path.write_bytes(changed(path.read_bytes(), changes))
    pixels = parsed(lambda: folder._pixels(path), path)
    assert pixels is None or (pixels.ndim == 2 and pixels.size > 0)


@FUZZ
@given(st.sampled_from(["png", "tif"]), st.sampled_from(["L", "1", "P", "RGB", "RGBA", "LA", "I;16"]), CHANGES)
def test_a_mask_of_any_kind_is_read_or_refused(place, kind, mode, changes):
    path = place / f"fuzzed.{kind}"
    image = Image.fromarray((volumes.pixels(0, (10, 12)) > 100).astype(np.uint8) * 255).convert(mode)
    image.save(path)
    path.write_bytes(changed(path.read_bytes(), changes))
    drawing = parsed(lambda: folder._drawing(path), path)
    if drawing is not None:
        mask = parsed(lambda: colours.Structure(None).mask(path, *drawing), path)
        assert mask is None or (mask.dtype == bool and mask.shape == drawing[0].shape)


# What runs leave


@FUZZ
@given(
    st.binary(max_size=60)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.integers(1, 100_000).map(lambda n: b'{"a":' * n)
    | st.lists(st.text(max_size=8), max_size=6).map(lambda texts: ",".join(texts).encode("utf-8", "surrogatepass"))
)
def test_results_are_read_or_refused(place, content):
    for name in (layout.RESULT, layout.SLICES, layout.HISTORY, layout.STATUS, layout.SWEEP):
        (place / name).write_bytes(content)
    parsed(lambda: read_result(place), place)
    parsed(lambda: read_table(place, layout.SLICES), place)
    parsed(lambda: read_history(place), place)
    parsed(lambda: read_sweep(place), place)
    read_status(place)


# What a run's folder says of its network

CALLS = {
    "socket.connect",
    "socket.getaddrinfo",
    "urllib.Request",
    "os.system",
    "os.exec",
    "subprocess.Popen",
    "pickle.find_class",
}
AUDITED: list[str] = []  # of CALLS, files that were opened to be written, and calls of mark


def mark(*args, **kwargs):
    """What a hostile configuration would have called."""
    AUDITED.append(f"mark {args} {kwargs}")
    return 0.05


def audit(event, arguments):
    if event in CALLS or (event == "open" and isinstance(arguments[1], str) and {*arguments[1]} & {*"wax+"}):
        AUDITED.append(f"{event} {arguments}")


@pytest.fixture(scope="module", autouse=True)
def audited():
    sys.addaudithook(audit)  # which stays for as long as the process
    OmegaConf.register_new_resolver("mark", mark, replace=True)
    yield
    OmegaConf.clear_resolver("mark")


HOSTILE = st.sampled_from(
    [
        *(
            "${mark:}",
            "${oc.create:{_target_: test_fuzz.mark}}",
            "${oc.env:HOME}",
            "${data.size}",
            "a${",
            "}",
            "!!python/object/apply:os.getcwd []",
        ),
        *(
            "http://127.0.0.1:9/a",
            "/etc/passwd",
            "evil.pt",
            "torch.load",
            "test_fuzz.mark",
            "segtune.nets.UNet",
            "segtune.nets.Block",
        ),
        *("monai.networks.nets.HoVerNet", "monai.networks.nets.BasicUNet", "torch.nn.Linear", "zscore", "crop", "batch"),
    ]
)
CALLED = st.sampled_from([{"_target_": "test_fuzz.mark"}, [{"_target_": "test_fuzz.mark", "_args_": [1]}]])
VALUES = st.recursive(
    HOSTILE
    | CALLED
    | TEXTS
    | st.none()
    | st.booleans()
    | st.integers(-2, 2**70)
    | st.floats()
    | st.sampled_from([2, 16, 32, 0.05, 1.0]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["_target_", "_args_", "_partial_", "f", "url"]) | TEXTS, inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = st.sampled_from(
    [
        *("_target_", "_args_", "_recursive_", "_convert_", "_partial_", "width", "dropout", "bn_momentum", "convolutions"),
        *("pretrained", "pretrained_url", "path", "features", "act", "a.b", "${oc.env:HOME}", ""),
    ]
)
OF_DATA = st.sampled_from(["size", "spacing_mm", "larger", "normalize", "target", "reader", "root"])
OF_MODEL = st.tuples(st.just("config"), st.just("model"), KEYS)
PLACES = st.one_of(
    OF_MODEL,
    OF_MODEL,
    st.tuples(st.just("config"), st.just("data"), OF_DATA),
    st.tuples(st.just("data"), st.sampled_from(["pixel_mm", "fingerprint"])),
    st.sampled_from(
        [("config",), ("config", "model"), ("config", "data"), ("data",), ("config", "data", "reader", "_target_")]
    ),
)


@FEW
@given(
    st.lists(st.tuples(PLACES, VALUES), min_size=1, max_size=3),
    st.sampled_from([None, ["segtune.nets.Block"], ["torch.nn.Linear"], ["monai.networks.nets.HoVerNet"]]),
)
@pytest.mark.slow
def test_a_run_s_result_gives_its_network_or_is_refused_and_nothing_is_called(place, tiny_run, edits, trust):
    folder = place / "run"
    if not folder.exists():
        shutil.copytree(tiny_run[0], folder)
    result = read_result(tiny_run[0])
    del result["files"], result["sha256"]  # whoever forges a folder can
    for keys, value in edits:
        part = result
        for key in keys[:-1]:
            part = part.setdefault(key, {}) if isinstance(part, dict) else {}
        if isinstance(part, dict):
            part[keys[-1]] = value
    checkpoint = torch.load(Path(tiny_run[0]) / layout.CHECKPOINTS / layout.LAST, weights_only=True)
    try:
        result["run_id"] = identity.run_id(result.get("config"))
        (folder / layout.RESULT).write_text(json.dumps(result))
        torch.save(checkpoint | {"hyper_parameters": result["config"]}, folder / layout.CHECKPOINTS / layout.LAST)
    except (ValueError, TypeError, UnicodeError):
        return  # no result of any run
    AUDITED.clear()
    model = parsed(lambda: models.load(folder, trust=trust), folder)
    if model is not None:
        assert type(model.net).__name__ == "UNet"
        assert model.target
        item = slices.Slice(np.zeros((20, 12), np.float32), np.zeros((20, 12), bool), "P1", 0, 0, None, (1.0, 1.0), 8.0)
        if not model.config["data"].get("spacing_mm") and model.config["data"]["size"] < 512:
            (values,) = model.probabilities([item])
            assert values.shape == (20, 12)
            assert ((values >= 0) & (values <= 1)).all()
    assert AUDITED == []
