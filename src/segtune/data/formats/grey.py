"""What the stored numbers of a DICOM image mean: the values of the modality, where larger is brighter.

Applied, as pydicom.pixels does it: ModalityLUTSequence, or else RescaleSlope and RescaleIntercept; then the inversion that
MONOCHROME1 or PresentationLUTShape INVERSE asks for. Pixels of PixelPaddingValue are no image: they become its darkest value.
Not applied: what chooses a window for the display (WindowCenter, VOILUTSequence) or a unit (RealWorldValueMappingSequence).
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
    """The image (H, W) that the stored pixels stand for; the pixels themselves where no tag says otherwise.

    Args: header: the tags of this image (or frame) alone. little_endian: how the file stores the entries of a table.
    Raises: InputError naming the tag where it is not clear what is meant.
    """
    table = _table(path, header, "ModalityLUTSequence", pixels, little_endian)
    slope, intercept = (_number(path, header, name, usual) for name, usual in (("RescaleSlope", 1), ("RescaleIntercept", 0)))
    if slope == 0:
        raise InputError(f"{path}: RescaleSlope is 0, which makes every pixel the same. Restore the tag.")
    is_scaled = (slope, intercept) != (1, 0)
    if table is not None and is_scaled:
        raise InputError(f"{path}: ModalityLUTSequence and RescaleSlope are both given: which one counts? Remove the other.")
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
        raise InputError(f"{path}: RescaleSlope and RescaleIntercept make values that are not finite. Restore the tags.")
    return image


def _is_inverted(path: Path, header: Dataset) -> bool:
    """Whether the smallest value is to be shown white."""
    shape = str(header.get("PresentationLUTShape") or "IDENTITY").strip().upper()
    is_black_white = header.get("PhotometricInterpretation") == "MONOCHROME1"
    if shape not in ("IDENTITY", "INVERSE"):
        raise InputError(
            f"{path}: PresentationLUTShape is neither IDENTITY nor INVERSE, the two that are read. Correct the tag."
        )
    if is_black_white and shape == "IDENTITY" and header.get("PresentationLUTShape"):
        raise InputError(
            f"{path}: the smallest value is white by MONOCHROME1 (PhotometricInterpretation) and black by IDENTITY "
            "(PresentationLUTShape): which one counts? Correct one of the tags."
        )
    if header.get("PresentationLUTSequence"):
        raise InputError(
            f"{path}: its grey values are bent by a PresentationLUTSequence, which is not read. Convert the image."
        )
    return is_black_white or shape == "INVERSE"


def _number(path: Path, header: Dataset, name: str, usual: float) -> float:
    """A tag's only value; `usual` if it is absent or empty."""
    value = header.get(name)
    if value is None or value == "":
        return usual
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(
            f"{path}: {name} is not one finite number, so the values of its pixels are not known. Restore the tag."
        )
    return number


def _table(
    path: Path, header: Dataset, name: str, pixels: NDArray[Any], little_endian: bool
) -> tuple[int, NDArray[Any]] | None:
    """The first stored value that a sequence's only table maps, and what it and those after it become; None without a table."""
    items = header.get(name) or []
    if not items:
        return None
    if len(items) > 1:
        raise InputError(f"{path}: {name} has {len(items)} tables: which one counts? Keep one.")
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
        raise InputError(f"{path}: the table in {name} is damaged (LUTDescriptor, LUTData). Restore it.") from None
    if pixels.dtype.kind == "i" and first >= 2**15:  # a negative number that was stored as an unsigned one
        first -= 2**16
    return first, entries[:n]


def _check_other_tables(path: Path, header: Dataset, pixels: NDArray[Any], direction: float, little_endian: bool) -> None:
    """Tables that are not applied must not turn dark and bright round.

    Args: direction: more than 0 if a larger stored value is a larger value of the modality, less than 0 if a smaller one.
    """
    for item in header.get("VOILUTSequence") or []:
        _, entries = _entries(path, item, "VOILUTSequence", pixels, little_endian)
        if entries[-1] < entries[0]:
            raise InputError(
                f"{path}: VOILUTSequence shows dark as bright: which is meant? Convert the image, or remove the tag."
            )
    for item in header.get("RealWorldValueMappingSequence") or []:
        slope = _number(path, item, "RealWorldValueSlope", 0)
        if table := item.get("RealWorldValueLUTData"):
            ends = _numbers(table)
            slope = ends[-1] - ends[0]
        if slope * direction < 0:
            raise InputError(
                f"{path}: by RealWorldValueMappingSequence larger values are smaller ones of the modality (RescaleSlope): "
                "which is meant? Convert the image, or remove the tag that is wrong."
            )


def _numbers(value: Any) -> Sequence[float]:
    return [float(one) for one in np.atleast_1d(np.asarray(value, np.float64))]


def _padding(pixels: NDArray[Any], header: Dataset, *, is_black: bool) -> NDArray[np.bool_] | None:
    """Where the pixels are padding, which is outside the image; None if nothing is, or if all is.

    Args: is_black: whether 0, where it is the smallest stored value, is the darkest, as it is in images without padding, too.
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
    """The number as pixels hold it: signed and unsigned ones are often confused."""
    value %= 2**n_bits
    return value - 2**n_bits if is_signed and value >= 2 ** (n_bits - 1) else value
