"""Find the structure in masks stored as PNG or TIFF files.

The structure consists of all pixels of one colour, which must be the same in all files of a data set.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segtune.errors import InputError

COLOURED = {"P", "PA", "RGB", "RGBA", "LA"}  # Pillow's modes that `coded` accepts
COLOUR = 1 << 32  # a colour that is not grey has the code COLOUR + 0xRRGGBB, which is above all grey values
WHITE = 255
NEAR = 1 / 16  # how far lossy compression or smoothing moves a mask's values, as a fraction of the brightest value
PURE = (
    0.95  # a mask was drawn with two values if at least this fraction of its pixels is near black or near the brightest value
)
MOST_COLOURS = 256  # background colours are remembered only for masks with at most this many colours


def coded(path: Path, image: Image.Image) -> tuple[NDArray[np.int64], dict[int, int]]:
    """Code the colours of an image as numbers.

    A grey value is its own code. Other colours have the code COLOUR + 0xRRGGBB.

    Returns: the codes (H, W), and the palette (number -> code). It is empty if the image has no palette.

    Raises: InputError naming the file if two entries of the palette have the same colour, or if transparency
        contradicts the colours.
    """
    rgba = np.array(image.convert("RGBA")).astype(np.int64)
    red, green, blue, alpha = np.moveaxis(rgba, 2, 0)
    is_grey = (red == green) & (green == blue)
    codes = np.where(is_grey, red, COLOUR + (red << 16 | green << 8 | blue))
    if (alpha < WHITE).any() and not ((alpha == np.where(codes == 0, 0, WHITE)).all()):
        raise InputError(
            f"{path}: its transparency contradicts its colours, because it must be black exactly where it is transparent. "
            "Store the mask as a grey PNG without transparency, 0 outside the structure."
        )
    if not image.mode.startswith("P"):
        return codes, {}
    numbers, first = np.unique(np.array(image if image.mode == "P" else image.getchannel(0)), return_index=True)
    palette = dict(zip(numbers.tolist(), codes.ravel()[first].tolist(), strict=True))
    for number, code in palette.items():
        if same := [other for other, its in palette.items() if its == code and other < number]:
            raise InputError(
                f"{path}: in its palette, the numbers {same[0]} and {number} have the same colour, {shown(code)}, "
                "so they cannot be distinguished. Store the mask as a grey PNG."
            )
    return codes, palette


def shown(code: float) -> str:
    """Return a colour code as text for messages, for example 255 or #ff0000."""
    return f"#{int(code) - COLOUR:06x}" if code >= COLOUR else f"{code:g}"


class Structure:
    """Finds the structure in the masks of one data set, and checks that its colour is the same in all files.

    Args: value: the structure's grey value. For masks with a palette, it may also be a palette index, which must stand
        for the same colour in all files. None: the structure consists of all pixels that are not black, which must
        have the same colour in all files.
    """

    def __init__(self, value: int | None) -> None:
        self.value = value
        self._taken: dict[float, Path] = {}  # colours of the structure, and the first file with each
        self._left: dict[float, Path] = {}  # other colours, and the first file with each

    def mask(self, path: Path, pixels: NDArray[Any], palette: Mapping[int, int]) -> NDArray[np.bool_]:
        """Return the mask (H, W) of the structure in one file.

        Args: pixels, palette: as returned by `coded`, or grey values and an empty palette.
        Raises: InputError that names the file, if it is unclear whether a value or colour stands for the structure.
        """
        if pixels.dtype == bool:  # one bit per pixel; True is white, whose value may be given as 255 or 1
            return pixels if self.value in (None, 1, WHITE) else np.zeros_like(pixels)
        values, counts = np.unique(pixels, return_counts=True)
        self._check_lossy(path, values, counts)
        used = values[: MOST_COLOURS + 1].tolist()
        taken = self._foreground(path, values) if self.value is None else _valued(path, self.value, values, palette)
        for code in taken:
            if where := self._left.get(code):
                self._refuse(path, where, f"the colour {shown(code)} is the structure in one and not in the other")
            self._taken.setdefault(code, path)
        if len(self._taken) > 1:  # possible only for palettes with the same number; _foreground checks the other case
            (one, where), (other, _) = [*self._taken.items()][:2]
            self._refuse(path, where, f"the structure is {shown(other)} in one and {shown(one)} in the other")
        if len(used) <= MOST_COLOURS:
            for code in used:
                if code not in taken:
                    if where := self._taken.get(code):
                        self._refuse(path, where, f"the colour {shown(code)} is the structure in one and not in the other")
                    self._left.setdefault(code, path)
        return np.isin(pixels, taken)

    def _foreground(self, path: Path, values: NDArray[Any]) -> list[float]:
        """Return a list with the colour that is not black. Raises: InputError if the masks have two such colours."""
        taken: list[float] = values[values != 0][:2].tolist()
        seen = dict(self._taken)
        for code in taken:
            seen.setdefault(code, path)
            if len(seen) > 1:
                (one, where), (other, _) = [*seen.items()][:2]
                kind = "values" if max(one, other) < COLOUR else "colours"
                both = f"{shown(one)} ({where.name}) and {shown(other)}"
                message = f"data.target=foreground, but besides 0 the masks hold the {kind} {both}"
                raise InputError(f"{path}: {message}. {_cure(one, other, values[-1])}")
        return taken

    def _refuse(self, path: Path, where: Path, why: str) -> None:
        raise InputError(
            f"{path}: its palette does not agree with that of {where}: with data.target={self.value}, {why}. Set "
            "data.target to the structure's grey value or to foreground (all pixels that are not black), or store the "
            "masks as grey PNG."
        )

    def _check_lossy(self, path: Path, values: NDArray[Any], counts: NDArray[Any]) -> None:
        """Check that the mask was not stored with lossy compression, which scatters values around black and white.

        If data.target names a value, a mask is refused only if its values scatter around both black and white.

        Raises: InputError that names the file.
        """
        top = values[-1]
        if not (3 <= len(values) <= MOST_COLOURS and WHITE / 4 <= top <= WHITE and values[0] == 0):
            return
        low, high = values <= NEAR * top, values >= (1 - NEAR) * top
        scatters = high.sum() > 1 and (low.sum() > 1 or self.value is None)
        if scatters and counts[low | high].sum() >= PURE * counts.sum():
            near = [value for value in values[low | high].tolist() if value not in (0, top)]
            raise InputError(
                f"{path}: besides 0 and {top:g}, it contains values near them, like "
                f"{', '.join(f'{one:g}' for one in near[-3:])}, so it was stored with lossy compression (like JPEG) or "
                "smoothed. Store masks as PNG with two values, from the original drawing."
            )


def _valued(path: Path, value: int, values: NDArray[Any], palette: Mapping[int, int]) -> list[float]:
    """Return a list with the colour that data.target=value stands for.

    The list is empty if the file does not contain this colour.
    """
    taken = {float(code) for code in (value if value in values else None, palette.get(value)) if code is not None}
    if len(taken) > 1:
        raise InputError(
            f"{path}: data.target={value} is ambiguous: it is the colour {shown(palette[value])} as a palette index, "
            "but another colour as a grey value. Store masks as grey PNG."
        )
    coloured = [code for code in values.tolist() if code >= COLOUR]
    if coloured and not palette:
        raise InputError(
            f"{path}: its pixels are colours, like {shown(coloured[0])}, but data.target={value} is a grey value. If all "
            "pixels that are not black have one colour, set data.target=foreground; if not, store masks as grey PNG."
        )
    return sorted(taken)


def _cure(one: float, other: float, top: float) -> str:
    """Advise what to do about two values, `one` and `other`, in the masks. Args: top: the largest value in the file."""
    if max(one, other, top) >= COLOUR:
        return (
            "Store masks as grey PNG with one value per structure and set data.target to the value of yours, or store masks "
            "of a single structure in one colour on black."
        )
    if max(one, other, top) < WHITE / 4 and one == int(one) and other == int(other):
        return f"Name the structure's value, like data.target={min(one, other):g}, or store masks with two values."
    return (
        "If each value is a structure, set data.target to the value of yours. If they come from smoothed edges or lossy "
        "compression, store masks as PNG with two values."
    )
