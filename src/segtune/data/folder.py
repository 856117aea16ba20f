"""Reader of pairs of PNG or TIFF files of the same name, one slice each: images/NAME.png and masks/NAME.png.

Both folders may have one level of folders within (images/anna/01.png), which is then part of the name: anna/01. Such files
say neither who is on them (data.patient, see names.parse) nor how large a pixel is (data.pixel_mm): the user does.
"""

import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segtune.data import cases, names
from segtune.data.slices import Slice, SliceSet, collected
from segtune.errors import InputError

SUFFIXES = (".png", ".tif", ".tiff")
GREY = {"1", "L", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
MAX_PIXELS = 2**26  # of one image: 8192 x 8192
MAX_BYTES = 2**25  # of one file; what a TIFF says of itself, which Pillow reads whole, can be forty times as large in memory


def read(
    root: str | os.PathLike[str],
    *,
    target: str | int,
    pixel_mm: float | Sequence[float],
    gap_mm: float | None = None,
    patient: str | None = None,
    ed: Any = None,
    es: Any = None,
    empty: str = "keep",
) -> SliceSet:
    """Every pair; patients in natural order, each one's slices by what the pattern says of them, then by name.

    Frame and slice_index are those in the name, if the pattern has the group, else the pair's number among the patient's.

    A volume is what has the same patient, visit, phase and frame. But without a group `slice`, a number in each name may be
    that of an image within its only volume, whatever the pattern calls it: then frames are volumes only if some frame has
    several images, or if ed or es names frames.

    Args:
        root: the folder that holds images and masks. Nothing outside it is read.
        target: "foreground" (all but 0, of masks that hold a single other value), or the grey value of the structure.
        pixel_mm: distance of neighbouring pixel centres [mm]; one number, or two: rows, columns.
        gap_mm: distance of neighbouring slice centres [mm]; None: not known.
        patient: regular expression on the name with a group `patient` and, where they are, `visit`, `phase`, `frame`, `slice`.
        ed, es: which of a patient's (a visit's) volumes are end-diastole and end-systole, where names do not tell: a frame's
            number, the text of the group visit, or a list of these; or "largest" or "smallest". See cases.arrange.
        empty: "keep" or "drop" pairs on which the target is not.
    Raises: InputError naming the file or key for anything missing, damaged or contradictory.
    """
    spacing_mm = _spacing(pixel_mm)
    if gap_mm is not None and not (_is_number(gap_mm) and 0 < gap_mm < math.inf):
        raise InputError(f"data.gap_mm={gap_mm}: must be a distance in mm, or null if it is not known.")
    value = _value(target)
    folder = names.opened(root)
    parts = {path.name: path for path in names.entries(folder, folder) if path.is_dir()}
    for part in ("images", "masks"):
        if part not in parts:
            raise InputError(f"data.root={root}: there is no folder {part} in it. Give the folder that holds images and masks.")
    images, masks = (_files(parts[part], folder) for part in ("images", "masks"))
    for name in sorted(images.keys() ^ masks.keys()):
        there, part = (images[name], "masks") if name in images else (masks[name], "images")
        raise InputError(f"{there}: there is no file {name} in {parts[part]} to go with it. Add it.")
    if not images:
        raise InputError(f"{parts['images']}: no PNG or TIFF file in it. Add the images.")

    said = names.parse(images, patient, ("visit", "phase", "frame", "slice"))
    number = names.numbers(said)
    files = _by_volume(said, images, named=cases.name_frames(ed, es))
    values: dict[int, Path] = {}

    def slices(volume: cases.Volume) -> Iterator[Slice]:
        for name in files[volume]:
            image, mask = _pixels(images[name]), _pixels(masks[name], palette=True)
            if image.shape != mask.shape:
                sizes = [" x ".join(map(str, array.shape)) for array in (mask, image)]
                raise InputError(f"{masks[name]}: it has {sizes[0]} pixels, its image {sizes[1]}. Which mask belongs to it?")
            _finite(masks[name], mask)
            one = said[name]
            yield Slice(
                image=_finite(images[name], image),
                mask=mask == value if value is not None else _foreground(masks[name], mask, values),
                patient=one.patient,
                frame=number[name] if one.frame is None else one.frame,
                slice_index=number[name] if one.slice is None else one.slice,
                phase=one.phase,
                spacing_mm=spacing_mm,
                gap_mm=gap_mm,
            )

    return collected(cases.arrange({volume: volume for volume in files}, slices, ed=ed, es=es), empty=empty)


def _by_volume(said: Mapping[str, names.Name], images: Mapping[str, Path], *, named: bool) -> dict[cases.Volume, list[str]]:
    """Volume -> the names of its pairs, both in the order given. Raises: InputError for a slice that a volume has twice."""
    places = [(one.patient, one.visit, one.phase, one.frame) for one in said.values()]
    by_frame = named or len({*places}) < len(places) or any(one.slice is not None for one in said.values())
    found: dict[cases.Volume, list[str]] = {}
    at: dict[tuple[cases.Volume, int], str] = {}
    for name, one in said.items():
        volume = cases.Volume(one.patient, one.visit or "", one.phase, one.frame if by_frame else None)
        found.setdefault(volume, []).append(name)
        if one.slice is not None and (other := at.setdefault((volume, one.slice), name)) != name:
            raise InputError(
                f"{images[other]} and {images[name]} are both slice {one.slice} of one volume of patient {one.patient}. Tell "
                "volumes apart by a group visit or frame in data.patient, or move one elsewhere."
            )
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _spacing(pixel_mm: float | Sequence[float]) -> tuple[float, float]:
    values = [*pixel_mm] if isinstance(pixel_mm, Sequence) and not isinstance(pixel_mm, str) else [pixel_mm, pixel_mm]
    if len(values) != 2 or not all(_is_number(value) and 0 < value < math.inf for value in values):
        raise InputError(f"data.pixel_mm={pixel_mm}: must be the size of a pixel in mm, like 0.7 or [0.7,0.8] (rows, columns).")
    return float(values[0]), float(values[1])


def _value(target: str | int) -> int | None:
    """The grey value that is the structure; None: any but 0."""
    if target == "foreground":
        return None
    text = str(target)
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise InputError(f"data.target={target}: must be foreground or the structure's grey value in the masks, above 0.")
    return int(text)


def _files(folder: Path, root: Path) -> dict[str, Path]:
    """Name -> file: the path below the folder, without suffix."""
    found: dict[str, Path] = {}
    inside = [(path, names.entries(path, root) if path.is_dir() else [path]) for path in names.entries(folder, root)]
    for path in (path for _, paths in inside for path in paths):
        if not path.is_file() or path.suffix.lower() not in SUFFIXES:
            raise InputError(f"{path}: not a PNG or TIFF file. Convert it or move it elsewhere.")
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise InputError(f"{path} and {found[name]} have the same name: which one counts? Move one elsewhere.")
        found[name] = path
    return found


def _pixels(path: Path, *, palette: bool = False) -> NDArray[Any]:
    """The grey values (H, W) as stored; of an image with a palette (masks only) the numbers of its colours."""
    names.check_file(path, MAX_BYTES)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes are checked here, and a warning may quote what a file says of itself
            with Image.open(path, formats=("PNG", "TIFF")) as image:
                mode, (width, height) = image.mode, image.size
                small = width * height <= MAX_PIXELS
                if len(image.tile) > width * height:  # parts of the file to be pasted one after the other
                    raise ValueError("more parts than pixels")
                readable = small and (mode in GREY or (palette and mode == "P"))
                pixels = np.array(image) if readable else np.zeros((0, 0))
                several = readable and _has_another(image)
    except Image.DecompressionBombError:
        small, several, mode, width, height = False, False, "L", 0, 0
    except Exception as error:  # a damaged file makes Pillow fail in many ways, none of them a bug of ours
        raise InputError(f"{path}: damaged, cut off, or no PNG or TIFF file ({type(error).__name__}). Copy it again.") from None
    if not small:
        size = f" of {height} x {width}" if width else ""
        raise InputError(
            f"{path}: an image{size} is larger than {MAX_PIXELS / 1e6:.0f} million pixels. Crop or resample it first."
        )
    if several:
        raise InputError(f"{path}: several images in one file where one slice is expected. Store each in a file of its own.")
    if pixels.ndim != 2 or 0 in pixels.shape:
        raise InputError(f"{path}: its pixels are of the kind {mode}, not grey values. Convert it to grey.")
    return pixels


def _has_another(image: Image.Image) -> bool:
    """Whether a second image follows; to count them all may take hours."""
    try:
        image.seek(1)
    except EOFError:
        return False
    return True


def _finite(path: Path, pixels: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        image = pixels.astype(np.float32)
    if bad := int((~np.isfinite(image)).sum()):
        raise InputError(f"{path}: {bad} pixels are not finite numbers (NaN or infinite). Replace them.")
    return image


def _foreground(path: Path, mask: NDArray[Any], values: dict[int, Path]) -> NDArray[np.bool_]:
    """All but 0. Values: those seen so far, and where; a second one is another structure, or the edge of a smoothed drawing."""
    for value in np.unique(mask[mask != 0])[:2].tolist():
        values.setdefault(value, path)
        if len(values) > 1:
            (one, where), (other, _) = [*values.items()][:2]
            raise InputError(
                f"{path}: data.target=foreground, but masks hold the values {one:g} ({where.name}) and {other:g} beside 0. Say "
                "which is the structure, like data.target=1, or store masks of two values."
            )
    return mask != 0
