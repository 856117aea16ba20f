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
from segtune.data import dicom
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


GREY = r"expected one grey image \(MONOCHROME2\), not colours, several frames or inverted values. Convert it"
COLOURS = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
DAMAGE = {
    "colours": (tags(**COLOURS), GREY),
    "numbers of colours": (tags(PhotometricInterpretation="PALETTE COLOR"), GREY),
    "larger is darker": (tags(PhotometricInterpretation="MONOCHROME1"), GREY),
    "no kind of pixels": (tags(PhotometricInterpretation=None), GREY),
    "a film": (tags(NumberOfFrames=2), GREY),
    "a film that is no film": (tags(NumberOfFrames=10**9), GREY),
    "fewer rows than pixels": (header(Rows=18), "holds more than the 18 x 16 pixels of its header"),
    "fewer columns": (header(Columns=15), "holds more than the 20 x 15 pixels of its header"),
    "more rows": (header(Rows=21), "damaged or incomplete DICOM file"),
    "8 bits for 16": (header(BitsAllocated=8, BitsStored=8, HighBit=7), "holds more than the"),
    "no rows": (rewritten(lambda d: d.__delattr__("Rows")), "damaged or incomplete DICOM file"),
    "two numbers of rows": (stored("Rows", b"\x14\0\x14\0", "US"), "damaged or incomplete DICOM file"),
    "65535 x 65535": (header(Rows=65535, Columns=65535), "65535 x 65535 pixels; more than 17 million are not read"),
    "no pixels": (rewritten(lambda d: d.__delattr__("PixelData")), "damaged or incomplete DICOM file"),
    "no decoder": (encapsulated(uid.JPEGLSLossless, b"\xff\xd8\xff\xf7" + bytes(99)), "compressed, install a decoder"),
    "no JPEG": (encapsulated(uid.JPEGBaseline8Bit, b"\xff\xd8\xff\xe0" + bytes(99)), "its pixels cannot be decoded"),
    "an unknown syntax": (encapsulated("1.2.3.4.5", bytes(99)), "(cannot be decoded|damaged or incomplete)"),
    "a JPEG 2000 file without end": (encapsulated(uid.JPEG2000Lossless, dicom.JP2 + bytes(99)), "a whole JPEG 2000 file"),
    "an RLE bomb": (rle(65535, 65535, 10**4), "65535 x 65535 pixels; more than 17 million are not read. Crop or resample"),
    "RLE beyond its pixels": (rle(20, 16, 10**5), "holds more than the 20 x 16 pixels of its header. Copy it again"),
    "deflated": (deflate, r"its header is compressed, too \(deflated\), which is not read. Store it uncompressed"),
    "a bomb": (lambda path: deflate(path, 64), "its header is compressed, too"),
    "nested": (nest, "its header is nested without end, or nearly so. Replace it"),
    "a huge pixel": (tags(PixelSpacing=[0.7, 1001]), "no usable PixelSpacing"),
    "a tiny pixel": (tags(PixelSpacing=["1e-300", 0.7]), "no usable PixelSpacing"),
    "a huge gap": (tags(SpacingBetweenSlices=1001), "SpacingBetweenSlices is .1001.0., not a distance"),
    "a far position": (tags(ImagePositionPatient=[0, 0, "1e308"]), "ImagePositionPatient .3 numbers. or"),
    "a long axis": (tags(ImageOrientationPatient=["1e200", 0, 0, 0, 1, 0]), "ImageOrientationPatient .6. is not usable"),
    "no number": (stored("ImagePositionPatient", b"nan\\0\\0 "), "ImagePositionPatient .3 numbers. or"),
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
