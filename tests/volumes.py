"""Tiny NIfTI files with known content."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np

from segtune.errors import InputError


def write(path: Path, array: np.ndarray, spacing=(0.7, 0.8, 9.0), *, sform=True, **fields) -> Path:
    """The array as stored (columns, rows, slices), its spacing in the same order; fields: of the header, as given."""
    affine = np.diag([-spacing[0], -spacing[1], *spacing[2:3], 1.0] if len(spacing) > 2 else [*spacing, 1.0, 1.0])
    image = nib.Nifti1Image(array, affine)
    image.header["descrip"] = b"Secret^Name"
    image.header.set_zooms([*spacing, *[1.0] * (array.ndim - len(spacing))])
    image.set_sform(affine, code=int(sform))
    image.set_qform(affine, code=int(sform))
    if fields:
        content = bytearray(image.to_bytes())
        header = nib.Nifti1Header(bytes(content[:348]), check=False)
        for name, value in fields.items():
            header[name] = value
        content[:348] = header.binaryblock
        return _store(path, bytes(content))
    return _store(path, image.to_bytes())


def _store(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, 1) if path.name.endswith(".gz") else content)
    return path


def said(call) -> str | None:
    """The message with which a call refuses its input; None if it takes it. Any other exception passes through."""
    try:
        call()
    except InputError as error:
        return str(error)
    return None


def pixels(seed: int, shape=(12, 10, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 400, shape).astype(np.int16)


def labels(shape=(12, 10, 3)) -> np.ndarray:
    """1, 2 and 3 side by side in columns 2 to 7 of rows 1 to 4; the first slice shows none of them."""
    array = np.zeros(shape, np.uint8)
    for value in (1, 2, 3):
        array[2 * value : 2 * value + 2, 1:5, 1:] = value
    return array
