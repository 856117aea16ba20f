"""Convert the stored numbers of a DICOM image to the grey values of the modality, where larger is brighter.

The conversion follows pydicom.pixels. First ModalityLUTSequence, or RescaleSlope and RescaleIntercept, is applied. Then the
values are inverted if the header says MONOCHROME1 or PresentationLUTShape INVERSE. Pixels equal to PixelPaddingValue
are outside the image, and are set to the darkest value of the image. Windows for display (WindowCenter, VOILUTSequence)
and units (RealWorldValueMappingSequence) are not applied.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from segtune.errors import InputError

TAGS = [
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "PresentationLUTShape", "PresentationLUTSequence"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "RealWorldValueMappingSequence", "VOILUTSequence"),
]
KINDS = ("MONOCHROME2", "MONOCHROME1")


def values(path: Path, pixels: NDArray[Any], header: Dataset, *, little_endian: bool) -> NDArray[np.float32]:
    """Apply the header's tags to the stored pixels (H, W). Without such tags, the values stay as they are.

    Args: header: the tags of this image (or frame). little_endian: byte order of the entries of a lookup table.
    Raises: InputError that names the tag, if its meaning is unclear.
    """
    table = _table(path, header, "ModalityLUTSequence", pixels, little_endian)
    slope, intercept = (_number(path, header, name, usual) for name, usual in (("RescaleSlope", 1), ("RescaleIntercept", 0)))
    if slope == 0:
        raise InputError(f"{path}: RescaleSlope is 0, which would make all pixels equal. Correct the tag.")
    is_scaled = (slope, intercept) != (1, 0)
    if table is not None and is_scaled:
        raise InputError(f"{path}: ModalityLUTSequence and RescaleSlope are both given. Remove the wrong one.")
    is_inverted = _is_inverted(path, header)
    _check_other_tables(
        path, header, pixels, slope if table is None else float(table[1][-1]) - float(table[1][0]), little_endian
    )
    padding = _padding(pixels, header, is_black=slope > 0 and table is None and not is_inverted)
    if not (is_scaled or is_inverted or table is not None or padding is not None):
        return pixels.astype(np.float32)

    found = pixels.astype(np.float64)
    if table is not None:
        first, entries = table
        found = entries[np.clip(pixels.astype(np.int64) - first, 0, len(entries) - 1)].astype(np.float64)
    elif is_scaled:
        found = found * slope + intercept
    shown = ... if padding is None else ~padding
    if is_inverted:
        found = found[shown].max() - found
    if padding is not None:
        found[padding] = found[shown].min()
    with np.errstate(over="ignore"):
        image = found.astype(np.float32)
    if not np.isfinite(image).all():
        raise InputError(f"{path}: RescaleSlope and RescaleIntercept give values that are not finite. Correct the tags.")
    return image


def _is_inverted(path: Path, header: Dataset) -> bool:
    """Return whether the smallest value is shown as white."""
    shape = str(header.get("PresentationLUTShape") or "IDENTITY").strip().upper()
    is_black_white = header.get("PhotometricInterpretation") == "MONOCHROME1"
    if shape not in ("IDENTITY", "INVERSE"):
        raise InputError(f"{path}: PresentationLUTShape must be IDENTITY or INVERSE. Correct the tag.")
    if is_black_white and shape == "IDENTITY" and header.get("PresentationLUTShape"):
        raise InputError(
            f"{path}: the smallest value is white according to MONOCHROME1 (PhotometricInterpretation), but black according to "
            "IDENTITY (PresentationLUTShape). Correct one of the tags."
        )
    if header.get("PresentationLUTSequence"):
        raise InputError(
            f"{path}: its grey values are changed by a PresentationLUTSequence, which is not supported. Convert the image."
        )
    return is_black_white or shape == "INVERSE"


def _number(path: Path, header: Dataset, name: str, usual: float) -> float:
    """The single value of a tag; `usual` if the tag is absent or empty."""
    value = header.get(name)
    if value is None or value == "":
        return usual
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{path}: {name} is not a single finite number, so the pixel values are unknown. Correct the tag.")
    return number


def _table(
    path: Path, header: Dataset, name: str, pixels: NDArray[Any], little_endian: bool
) -> tuple[int, NDArray[Any]] | None:
    """The only lookup table of a sequence; None if there is none.

    Returns: the first stored value in the table, and the entries of the table. The first entry belongs to this value,
        and the other entries belong to the following values.
    """
    items = header.get(name) or []
    if not items:
        return None
    if len(items) > 1:
        raise InputError(f"{path}: {name} has {len(items)} tables, but only one is expected. Keep the right one.")
    return _entries(path, items[0], name, pixels, little_endian)


def _entries(path: Path, item: Dataset, name: str, pixels: NDArray[Any], little_endian: bool) -> tuple[int, NDArray[Any]]:
    try:
        n, first, _ = (int(value) for value in item.LUTDescriptor)
        data, n = item.LUTData, n % 2**16 or 2**16
        if isinstance(data, bytes):
            kind = np.dtype(np.uint8) if len(data) < 2 * n else np.dtype(np.uint16).newbyteorder("<" if little_endian else ">")
            entries: NDArray[Any] = np.frombuffer(data[: n * kind.itemsize], kind)
        else:
            entries = np.atleast_1d(np.asarray(data, np.int64)) % 2**16
        if len(entries) < n:
            raise ValueError
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise InputError(f"{path}: the table in {name} is damaged (LUTDescriptor, LUTData). Correct it.") from None
    if pixels.dtype.kind == "i" and first >= 2**15:  # a negative number that was stored as an unsigned one
        first -= 2**16
    return first, entries[:n]


def _check_other_tables(path: Path, header: Dataset, pixels: NDArray[Any], direction: float, little_endian: bool) -> None:
    """Check that no ignored lookup table would invert the image.

    Args: direction: positive if the modality's values increase with the stored values, negative if they decrease.
    Raises: InputError that names the table.
    """
    for item in header.get("VOILUTSequence") or []:
        _, entries = _entries(path, item, "VOILUTSequence", pixels, little_endian)
        if entries[-1] < entries[0]:
            raise InputError(f"{path}: VOILUTSequence inverts the brightness. Convert the image, or remove the tag.")
    for item in header.get("RealWorldValueMappingSequence") or []:
        slope = _number(path, item, "RealWorldValueSlope", 0)
        if table := item.get("RealWorldValueLUTData"):
            ends = _numbers(table)
            slope = ends[-1] - ends[0]
        if slope * direction < 0:
            raise InputError(
                f"{path}: RealWorldValueMappingSequence and RescaleSlope (or the lookup table) contradict each other, because "
                "they order the pixel values in opposite directions. Convert the image, or remove the wrong tag."
            )


def _numbers(value: Any) -> Sequence[float]:
    return [float(one) for one in np.atleast_1d(np.asarray(value, np.float64))]


def _padding(pixels: NDArray[Any], header: Dataset, *, is_black: bool) -> NDArray[np.bool_] | None:
    """Return the mask of the padding pixels, which are outside the image. None: there is no padding to replace.

    The mask is also None if all pixels are padding.

    Args: is_black: whether the smallest stored value is the darkest value. Padding with 0 is then not replaced.
    """
    ends = [header.get(name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    n_bits = int(header.get("BitsStored") or 8 * pixels.dtype.itemsize)
    ends = [_stored(value, n_bits, is_signed=pixels.dtype.kind == "i") for value in ends if isinstance(value, int)]
    if not ends or not isinstance(header.get("PixelPaddingValue"), int):
        return None
    if is_black and ends == [0] * len(ends) and pixels.min() >= 0:
        return None
    found = (pixels >= min(ends)) & (pixels <= max(ends))
    return None if found.all() or not found.any() else found


def _stored(value: int, n_bits: int, *, is_signed: bool) -> int:
    """Convert a header value to the pixels' number type, because headers often confuse signed and unsigned values."""
    value %= 2**n_bits
    return value - 2**n_bits if is_signed and value >= 2 ** (n_bits - 1) else value
