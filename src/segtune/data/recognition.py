"""Compute image codes, which are used to find the same image in other files.

The image is found even if its name, format, data type, scale or orientation is different.

The image is clipped to its 1st and 99th percentile, and blank rows and columns around it are removed. It is then divided into
GRID x GRID cells. The code has one bit per cell, which says whether the mean of the cell is above the mean of its four
neighbours. Scaling or shifting the grey values changes no bit, storing 8 bits instead of 16 changes a few, and a flip
or a rotation only moves the bits. Two images are compared in all eight orientations. They count as the same image if at
most a fraction SAME of the bits differs in the best orientation. tests/data/test_recognition.py measures this for
several changes of an image.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from segtune.data.slices import Slice

GRID = 24
SAME = 0.25  # the share of bits that may differ
PERCENTILES = (1, 99)
BLANK = 2 / 255  # a row or column is blank if all its pixels are darker than this fraction of the clipped range
TELLING = 0.2  # least share of ones, and of zeros, in a usable code
CHUNK = 512  # number of codes that are compared at once

Bits = NDArray[np.bool_]


def code(image: NDArray[np.float32]) -> str:
    """Return the code of an image (H, W) as hexadecimal digits; empty if the image has too little content."""
    values = image.astype(np.float64)
    low, high = np.percentile(values, PERCENTILES)
    if not high > low:
        return ""
    values = np.clip((values - low) / (high - low), 0, 1)
    rows, columns = (np.flatnonzero((values >= BLANK).any(axis)) for axis in (1, 0))
    values = values[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if min(values.shape) < GRID:
        return ""
    cells = _means(_means(values).T).T
    padded = np.pad(cells, 1, mode="edge")
    bits = cells > (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]) / 4
    return np.packbits(bits).tobytes().hex() if TELLING <= bits.mean() <= 1 - TELLING else ""


def codes(slices: Iterable[Slice]) -> list[str]:
    """The code of each slice."""
    return [code(item.image) for item in slices]


def known_again(seen: Sequence[str], known: Sequence[str]) -> list[int]:
    """For each code in `seen`, return the index of the most similar code in `known`.

    The index is -1 if no known code is similar enough to be a code of the same image. Texts that are not codes, such as
    empty texts, match nothing.
    """
    found = [-1] * len(seen)
    at = [index for index, text in enumerate(known) if _is_code(text)]
    if not at:
        return found
    stored = np.stack([_signs(known[index]).ravel() for index in at])
    asked = [index for index, text in enumerate(seen) if _is_code(text)]
    for start in range(0, len(asked), CHUNK):
        part = asked[start : start + CHUNK]
        turned = np.stack([[view.ravel() for view in _orientations(_signs(seen[index]))] for index in part])
        differing = (1 - (turned.reshape(-1, GRID**2) @ stored.T) / GRID**2) / 2
        differing = differing.reshape(len(part), 8, len(at)).min(axis=1)
        for index, row in zip(part, differing, strict=True):
            found[index] = at[int(row.argmin())] if row.min() <= SAME else -1
    return found


def _means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average the rows of an array (H, W) over GRID parts of equal height, even if H is not a multiple of GRID.

    Returns: (GRID, W).
    """
    edges = np.linspace(0, len(values), GRID + 1)
    whole = np.minimum(edges.astype(int), len(values) - 1)
    sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
    until = sums[whole] + (edges - whole)[:, None] * values[whole]
    sums_of_parts: NDArray[np.float64] = np.diff(until, axis=0)
    return sums_of_parts / (len(values) / GRID)


def _is_code(text: str) -> bool:
    return len(text) == GRID**2 // 4 and not {*text} - {*"0123456789abcdef"}


def _signs(text: str) -> NDArray[np.float32]:
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))
    return (2 * bits.astype(np.float32) - 1).reshape(GRID, GRID)


def _orientations(grid: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    turned = [np.rot90(grid, turns) for turns in range(4)]
    return [*turned, *(one.T for one in turned)]
