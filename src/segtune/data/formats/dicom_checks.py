"""Check the pixels of a DICOM file before they are decoded, because decoding a damaged file can use up the memory."""

import math
from pathlib import Path

import pydicom
from pydicom.pixels import get_decoder
from pydicom.pixels.decoders.base import Decoder
from pydicom.uid import UID, JPEG2000TransferSyntaxes

from segtune.data.formats import grey
from segtune.data.formats.dicom_errors import explained
from segtune.errors import InputError

PYLIBJPEG = "pylibjpeg - requires "  # the beginning of pydicom's text about decoders that pip can install
MAX_PIXELS = 2**24  # of one image: 4096 x 4096
JP2 = b"\0\0\0\x0cjP  "  # first bytes of a complete JPEG 2000 file, in which pydicom may search for pixels forever


def check_pixels(path: Path, dataset: pydicom.FileDataset, n_frames: int) -> tuple[int, int]:
    """Check the stored pixels, remove padding after the last image, and return the shape (H, W) of each image.

    Raises: InputError if the images are not grey, are too large, or do not agree with the header.
    """
    with explained(path):
        rows, columns, bits = (int(dataset[name].value) for name in ("Rows", "Columns", "BitsAllocated"))
        content, syntax = bytes(dataset.PixelData or b""), dataset.file_meta.TransferSyntaxUID
        stored, high = (int(dataset.get(name) or usual) for name, usual in (("BitsStored", bits), ("HighBit", 0)))
    check_grey(path, dataset)
    if rows * columns > MAX_PIXELS:
        raise InputError(
            f"{path}: the image has {rows} x {columns} pixels, but at most {MAX_PIXELS / 1e6:.0f} million are read. Crop or "
            "resample it."
        )
    if high and high != stored - 1:
        raise InputError(
            f"{path}: BitsStored is {stored}, so HighBit must be {stored - 1}, but it is {high}. Such files are not "
            "supported. Store the image again."
        )
    if syntax in JPEG2000TransferSyntaxes and JP2 in content:
        raise InputError(f"{path}: its pixels are a whole JPEG 2000 file, which DICOM does not permit. Store it uncompressed.")
    n_bytes = math.ceil(rows * columns * bits * n_frames / 8)
    _check_decoder(path, syntax)
    if syntax.is_compressed:
        is_too_long = len(content) >= 1.1 * n_bytes + 2**16
    else:
        padding = content[n_bytes:]  # accepted if shorter than a row or column, or if all bytes are equal
        is_too_long = len(padding) >= min(rows, columns) * bits / 8 and padding.count(padding[:1]) < len(padding)
        if padding and not is_too_long:
            with explained(path):
                dataset.PixelData = content[:n_bytes]
    if is_too_long:
        images = f"{n_frames} images of " if n_frames > 1 else ""
        raise InputError(
            f"{path}: it contains more data than its header says ({images}{rows} x {columns} pixels). Copy it again."
        )
    return rows, columns


def _check_decoder(path: Path, syntax: UID) -> None:
    """Check that an installed package can decode the pixels. Raises: InputError if there is no such package."""
    decoder, missing = decoder_of(path, syntax)
    what = f"as {syntax.name}" if decoder or syntax.name != syntax else "in a way that DICOM does not name"
    if decoder is None:
        raise InputError(f"{path}: its pixels are stored {what}, which is not supported. Store it uncompressed.")
    if not decoder.is_available:
        raise InputError(f"{path}: its pixels are stored {what}. To read them, install a decoder: {missing}.")


def decoder_of(path: Path, syntax: UID) -> tuple[Decoder | None, str]:
    """Return the decoder for a transfer syntax, and the command that installs the missing packages for it.

    The decoder is None if pydicom has no decoder. The command is empty if there are no packages to install.
    """
    with explained(path):
        try:
            decoder = get_decoder(syntax)
        except NotImplementedError:
            return None, ""
        needed = [line for line in decoder.missing_dependencies if line.startswith(PYLIBJPEG)]
    packages = [f'"{name}"' for line in needed for name in line.removeprefix(PYLIBJPEG).split(" and ")]
    return decoder, " ".join(["pip install", *packages]) if packages else ""


def check_grey(path: Path, dataset: pydicom.FileDataset) -> None:
    with explained(path):
        is_grey = int(dataset.get("SamplesPerPixel") or 1) == 1 and dataset.get("PhotometricInterpretation") in grey.KINDS
    if not is_grey:
        raise InputError(f"{path}: expected one grey image ({' or '.join(grey.KINDS)}), not colours. Convert it to grey.")
