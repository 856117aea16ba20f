import logging
import tracemalloc
import warnings
import zlib

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.dataelem import RawDataElement

from conftest import write_dicom
from segtune.data.formats import dicom, dicom_pixels
from segtune.errors import InputError

IMAGE = np.arange(20 * 16).reshape(20, 16)


def rewritten(change):
    """Damage done to what pydicom reads of a file."""

    def damage(path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path)
            change(dataset)
            dataset.save_as(path)

    return damage


def tags(**values):
    return lambda path: write_dicom(path, IMAGE, **values)


def header(**values):
    """The file's own pixels under another header."""
    return rewritten(lambda dataset: dataset.update(values))


def stored(keyword, content, vr="DS"):
    """The tag with these bytes, whatever they are."""
    tag = pydicom.tag.Tag(keyword)
    element = RawDataElement(tag, vr, len(content), content, 0, False, True)
    return rewritten(lambda dataset: dataset.__setitem__(tag, element))


def encapsulated(syntax, content, **values):
    """Compressed pixels, or what says of itself that it is such."""

    def change(dataset):
        dataset.update(values)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = pydicom.encaps.encapsulate([content])
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True

    return rewritten(change)


def rle(rows, columns, n_runs):
    """Two segments of n_runs times 128 equal bytes."""
    segment = b"\x81\x00" * n_runs
    head = np.array([2, 64, 64 + len(segment), *[0] * 13], "<u4").tobytes()
    return encapsulated(uid.RLELossless, head + 2 * segment, Rows=rows, Columns=columns)


def beyond_meta(path):
    """The file up to where its data set begins, and from there."""
    content = path.read_bytes()
    end = 132 + 12 + int.from_bytes(content[140:144], "little")
    return content[:end], content[end:]


def deflate(path, n_more=0):
    rewritten(lambda dataset: setattr(dataset.file_meta, "TransferSyntaxUID", uid.DeflatedExplicitVRLittleEndian))(path)
    head, content = beyond_meta(path)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    parts = [packer.compress(part) for part in (zlib.decompress(content, -15), *[bytes(2**20)] * n_more)]
    path.write_bytes(head + b"".join(parts) + packer.flush())


def nest(path):
    head, content = beyond_meta(path)
    sequence = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    path.write_bytes(head + sequence * 2000 + content)


GREY = r"\(MONOCHROME2 or MONOCHROME1\).*\bcolours\b"
FILM = r"\b{} frames \(NumberOfFrames\) .*PerFrameFunctionalGroupsSequence"
COLOURS = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
DAMAGE = {
    "colours": (tags(**COLOURS), GREY),
    "numbers of colours": (tags(PhotometricInterpretation="PALETTE COLOR"), GREY),
    "no kind of pixels": (tags(PhotometricInterpretation=None), GREY),
    "a film": (tags(NumberOfFrames=2), FILM.format(2)),
    "a film that is no film": (tags(NumberOfFrames=10**9), FILM.format(10**9)),
    "fewer rows than pixels": (header(Rows=18), r"\bmore\b.*\b18 x 16 pixels"),
    "fewer columns": (header(Columns=15), r"\bmore\b.*\b20 x 15 pixels"),
    "more rows": (header(Rows=21), r"DICOM.*\(\w+Error\)"),
    "8 bits for 16": (header(BitsAllocated=8, BitsStored=8, HighBit=7), r"\bmore\b.*\b20 x 16 pixels"),
    "no rows": (rewritten(lambda d: d.__delattr__("Rows")), r"DICOM.*\(\w+Error\)"),
    "two numbers of rows": (stored("Rows", b"\x14\0\x14\0", "US"), r"DICOM.*\(\w+Error\)"),
    "65535 x 65535": (header(Rows=65535, Columns=65535), r"\b65535 x 65535 pixels.*\b17 million"),
    "no pixels": (rewritten(lambda d: d.__delattr__("PixelData")), r"DICOM.*\(\w+Error\)"),
    "no decoder": (encapsulated(uid.JPEGLSLossless, b"\xff\xd8\xff\xf7" + bytes(99)), "JPEG-LS .*decoder.*pip"),
    "no JPEG": (encapsulated(uid.JPEGBaseline8Bit, b"\xff\xd8\xff\xe0" + bytes(99)), "decoded"),
    "an unknown syntax": (encapsulated("1.2.3.4.5", bytes(99)), r"\bDICOM\b.*\bname\b.*\buncompressed\b"),
    "a JPEG 2000 file without end": (
        encapsulated(uid.JPEG2000Lossless, dicom_pixels.JP2 + bytes(99)),
        "JPEG 2000 file",
    ),
    "an RLE bomb": (rle(65535, 65535, 10**4), r"\b65535 x 65535 pixels.*\b17 million"),
    "RLE beyond its pixels": (rle(20, 16, 10**5), r"\bmore\b.*\b20 x 16 pixels"),
    "deflated": (deflate, r"\(deflated\).*\buncompressed\b"),
    "a bomb": (lambda path: deflate(path, 64), r"\(deflated\)"),
    "nested": (nest, "nested"),
    "a huge pixel": (tags(PixelSpacing=[0.7, 1001]), "PixelSpacing"),
    "a tiny pixel": (tags(PixelSpacing=["1e-300", 0.7]), "PixelSpacing"),
    "a huge gap": (tags(SpacingBetweenSlices=1001), r"SpacingBetweenSlices .*\b1001\b"),
    "a far position": (tags(ImagePositionPatient=[0, 0, "1e308"]), "ImagePositionPatient"),
    "a long axis": (tags(ImageOrientationPatient=["1e200", 0, 0, 0, 1, 0]), "ImageOrientationPatient"),
    "no number": (stored("ImagePositionPatient", b"nan\\0\\0 "), "ImagePositionPatient"),
}  # fmt: skip


@pytest.fixture
def path(tmp_path):
    write_dicom(tmp_path / "a.dcm", IMAGE)
    return tmp_path / "a.dcm"


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_no_grey_image_is_refused_by_name_and_fills_no_memory(path, name):
    damage, message = DAMAGE[name]
    damage(path)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=f"a.dcm: .*{message}") as caught:
            dicom.read(path)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()
    assert "Secret" not in str(caught.value)


def big_endian(path):
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID, dataset.PixelData = uid.ExplicitVRBigEndian, IMAGE.astype(">u2").tobytes()
    pydicom.dcmwrite(path, dataset, implicit_vr=False, little_endian=False)


@pytest.mark.parametrize(
    "change",
    [
        rewritten(lambda dataset: dataset.compress(uid.RLELossless)),
        big_endian,
        tags(NumberOfFrames=1),
        rewritten(lambda dataset: setattr(dataset, "PixelData", dataset.PixelData + bytes(30))),  # padding
    ],
)
def test_a_grey_image_is_read_however_it_is_stored(path, change):
    change(path)
    assert np.array_equal(dicom.read(path)[0], IMAGE)


@pytest.mark.parametrize(
    "change",
    [
        stored("SpecificCharacterSet", b"Secret^Name ", "CS"),
        stored("NumberOfFrames", b"Secret^Name ", "IS"),
        stored("PhotometricInterpretation", b"Secret^Name ", "CS"),
        stored("PixelSpacing", b"Secret^Name "),
        encapsulated(uid.JPEGBaseline8Bit, b"Secret^Name"),
    ],
)
def test_neither_a_value_of_a_header_nor_a_traceback_is_logged(path, change, capfd):
    change(path)
    handler = logging.StreamHandler()  # as a run's, which also writes the run's log
    logging.getLogger().addHandler(handler)
    try:
        dicom.read(path)
        said = ""
    except InputError as error:
        said = str(error)
    finally:
        logging.getLogger().removeHandler(handler)
    assert "Secret" not in said
    assert capfd.readouterr() == ("", "")


# What the stored numbers mean


def written(path, stored=IMAGE, **about):
    write_dicom(path, stored, **about)
    return dicom.read(path)[0]


def lut(entries, first=0, bits=16):
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries) % 2**16, first, bits])
    item.add_new("LUTData", "OW", np.asarray(entries, "<u2").tobytes())
    return pydicom.Sequence([item])


def real_world(slope):
    item = pydicom.Dataset()
    item.RealWorldValueSlope, item.RealWorldValueIntercept = slope, 0.0
    return pydicom.Sequence([item])


@pytest.mark.parametrize(
    "about",
    [
        {},
        {"RescaleSlope": 1, "RescaleIntercept": 0},
        {"RescaleSlope": None},
        {"PixelPaddingValue": 0},
        {"PixelPaddingValue": 9999},
        {"PresentationLUTShape": "IDENTITY"},
        {"WindowCenter": 50, "WindowWidth": 9},
        {"RealWorldValueMappingSequence": real_world(0.5)},
    ],
)
def test_pixels_whose_tags_change_nothing_are_those_stored_to_the_bit(tmp_path, about):
    image = written(tmp_path / "a.dcm", **about)
    assert image.dtype == np.float32
    assert image.tobytes() == IMAGE.astype(np.float32).tobytes()


@pytest.mark.parametrize(
    "about",
    [
        {"RescaleSlope": -1, "RescaleIntercept": 319},
        {"RescaleSlope": "0.5", "RescaleIntercept": -1024},
        {"RescaleSlope": -2},
        {"RescaleIntercept": "-7.5"},
        {"RescaleSlope": "1e-7", "RescaleIntercept": 0},
    ],
)
def test_rescale_slope_and_intercept_are_applied_as_pydicom_does(tmp_path, about):
    expected = pydicom.Dataset()
    expected.RescaleSlope, expected.RescaleIntercept = about.get("RescaleSlope", 1), about.get("RescaleIntercept", 0)
    image = written(tmp_path / "a.dcm", **about)
    assert np.array_equal(image, pydicom.pixels.apply_modality_lut(IMAGE, expected).astype(np.float32))


def test_the_table_of_the_modality_is_applied_as_pydicom_does(tmp_path):
    entries = 40000 - 100 * np.arange(300)
    image = written(tmp_path / "a.dcm", ModalityLUTSequence=lut(entries, first=10))
    expected = pydicom.pixels.apply_modality_lut(IMAGE.astype(np.uint16), pydicom.dcmread(tmp_path / "a.dcm"))
    assert np.array_equal(image, expected.astype(np.float32))
    assert image[0, 0] == image[0, 10] == 40000
    assert image[-1, -1] == 40000 - 29900


@pytest.mark.parametrize(
    "about",
    [
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PresentationLUTShape": "INVERSE"},
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
    ],
)
def test_what_is_shown_inverted_is_inverted_once(tmp_path, about):
    assert np.array_equal(written(tmp_path / "a.dcm", 319 - IMAGE, **about), IMAGE)
    about = {**about, "RescaleSlope": -2, "RescaleIntercept": 5}  # and what is inverted twice is not
    assert np.array_equal(written(tmp_path / "b.dcm", **about), 2 * IMAGE)


@pytest.mark.parametrize(
    "about", [{}, {"PhotometricInterpretation": "MONOCHROME1"}, {"RescaleSlope": -1}, {"PixelPaddingRangeLimit": 63900}]
)
def test_padding_is_no_image_but_its_darkest_value(tmp_path, about):
    bare = written(tmp_path / "a.dcm", IMAGE[2:], **about)
    stored = IMAGE.copy()
    stored[:2] = 63536
    if "PixelPaddingRangeLimit" in about:
        stored[0] = 63700
    image = written(tmp_path / "b.dcm", stored, PixelPaddingValue=63536, **about)
    assert np.array_equal(image[2:], bare)
    assert (image[:2] == bare.min()).all()


def test_padding_that_is_stored_with_the_other_sign_is_padding(tmp_path):
    stored = IMAGE.copy()
    stored[:2] = 2**16 - 2000
    path = tmp_path / "a.dcm"
    write_dicom(path, stored, PixelRepresentation=1)
    rewritten(lambda dataset: dataset.add_new("PixelPaddingValue", "US", 2**16 - 2000))(path)
    assert dicom.read(path)[0].min() == IMAGE[2:].min()


UNCLEAR = {
    "a slope of 0": {"RescaleSlope": 0, "RescaleIntercept": 1},
    "two slopes": {"RescaleSlope": [1, 2], "RescaleIntercept": 0},
    "beyond float32": {"RescaleSlope": "1e38", "RescaleIntercept": 0},
    "two ways": {"RescaleSlope": 2, "RescaleIntercept": 0, "ModalityLUTSequence": lut(range(300))},
    "two tables": {"ModalityLUTSequence": pydicom.Sequence([*lut(range(300)), *lut(range(300))])},
    "black is white": {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "IDENTITY"},
    "another shape": {"PresentationLUTShape": "LIN OD"},
    "a curve": {"PresentationLUTSequence": lut(range(300))},
    "a display that inverts": {"VOILUTSequence": lut(range(300, 0, -1))},
    "units that run the other way": {"RealWorldValueMappingSequence": real_world(-1.0)},
    "bits at the top": {"BitsStored": 12, "HighBit": 15},
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_a_tag_that_does_not_say_which_value_is_meant_is_refused_by_its_name(tmp_path, name):
    tag, *_ = UNCLEAR[name]
    with pytest.raises(InputError, match=f"a.dcm: .*{tag}"):
        written(tmp_path / "a.dcm", **UNCLEAR[name])


def test_a_table_that_is_damaged_is_refused_by_its_name(tmp_path):
    table = lut(range(300))
    table[0].LUTData = b"\0\1"
    with pytest.raises(InputError, match="a.dcm: .*ModalityLUTSequence.*LUTData"):
        written(tmp_path / "a.dcm", ModalityLUTSequence=table)


# How they are stored


@pytest.mark.parametrize("filling", [bytes(1), bytes(2), bytes(512), b" " * 2000, bytes(3 * 640), b"\1\2\3"])
def test_what_fills_a_file_up_behind_its_pixels_is_not_read(path, filling):
    rewritten(lambda dataset: setattr(dataset, "PixelData", dataset.PixelData + filling))(path)
    assert np.array_equal(dicom.read(path)[0], IMAGE)


def test_once_a_decoder_is_there_nobody_is_told_to_install_it(path, monkeypatch):
    encapsulated(uid.JPEGLSLossless, b"\xff\xd8\xff\xf7" + bytes(99))(path)
    decoder = pydicom.pixels.get_decoder(uid.JPEGLSLossless)
    monkeypatch.setattr(decoder, "_available", {"mine": lambda source, runner: bytearray(IMAGE.astype("<u2").tobytes())})
    monkeypatch.setattr(decoder, "_unavailable", {})
    assert np.array_equal(dicom.read(path)[0], IMAGE)
    monkeypatch.setattr(decoder, "_available", {"mine": lambda source, runner: 1 / 0})
    with pytest.raises(InputError, match=r"a.dcm: (?!.*\b(install|pip)\b).*\bdecoded\b"):
        dicom.read(path)


def test_a_syntax_that_no_decoder_reads_names_none(path):
    encapsulated(uid.UID("1.2.840.10008.1.2.4.100"), bytes(99))(path)
    with pytest.raises(InputError, match=r"a.dcm: (?!.*\b(install|pip)\b).*\bMPEG2\b.*\buncompressed\b"):
        dicom.read(path)
