"""Reader of PNG or TIFF files in pairs: images/NAME.png and masks/NAME.png.

Each pair contains one slice and its mask.

Both folders may contain subfolders, one level deep. The name then includes the subfolder: anna/01 for
images/anna/01.png. PNG and TIFF files do not contain the patient or the pixel size, so the user sets data.patient (see
names.parse) and data.pixel_mm.

Images may also be grey JPEG files. Masks must not be JPEG files, because JPEG compression changes values at every edge.
The structure in a mask is found by its colour (see colours.Structure).
"""

import math
import os
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

from segtune.data import cases, names
from segtune.data.formats import colours
from segtune.data.formats.files import is_text, log_not_read
from segtune.data.readers import Reader
from segtune.data.slices import Slice, SliceSet, collected
from segtune.errors import InputError

SUFFIXES = (".png", ".tif", ".tiff")
JPEG_SUFFIXES = (".jpg", ".jpeg")
JPEG_MAGIC = b"\xff\xd8\xff"
LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp")  # Pillow's names of compressions
PHOTOMETRIC, SAMPLE_FORMAT, BITS, ORIENTATION = 262, 339, 258, 274  # tags of TIFF and EXIF
GREY = {"1", "L", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
MAX_PIXELS = 2**26  # of one image: 8192 x 8192
MAX_BYTES = 2**25  # of one file; a TIFF file's tags, all of which Pillow reads, can need forty times as much memory


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
    mask_suffix: str | None = None,
) -> SliceSet:
    """Read every pair of an image and its mask.

    Patients are in natural order. The slices of each patient are sorted by the groups of the pattern in `patient`, and
    then by name.

    frame and slice_index are taken from the name if the pattern has groups for them. Otherwise the pairs of each
    patient are numbered.

    Pairs with the same patient, visit, phase and frame form one volume. If the pattern has no group `slice`, the
    numbers in the group `frame` are treated as slice numbers, so that all frames of a visit and phase form one volume.
    However, the numbers are treated as frame numbers if a frame has several images, or if ed or es selects frames.

    Args:
        root: the folder that holds images and masks. Nothing outside it is read.
        target: "foreground" (all pixels that are not black, which must have a single colour), or the structure's grey
            value. For masks with a palette, a palette index is also accepted, if it stands for the same colour in all
            files.
        pixel_mm: distance of neighbouring pixel centres [mm]; one number, or two numbers for rows and columns.
        gap_mm: distance of neighbouring slice centres [mm]; None: unknown.
        patient: regular expression for the name with a group `patient` and optional groups `visit`, `phase`, `frame`, `slice`.
        ed, es: the end-diastolic and the end-systolic volume of each visit, if names do not give the phase. Each may be
            a frame's number, the text of the group `visit`, a list of numbers and texts, "largest" or "smallest" (see
            cases.arrange).
        empty: "keep" or "drop" pairs without the target.
        mask_suffix: the text that follows the image's name in the name of its mask. With "_mask", x_mask.png is the
            mask of x.png. Images and masks may then also be in the same folder, which is data.root or a folder in it.
    Raises: InputError naming the file or key for anything missing, damaged or contradictory.
    """
    spacing_mm = _spacing(pixel_mm)
    if gap_mm is not None and not (_is_number(gap_mm) and 0 < gap_mm < math.inf):
        raise InputError(f"data.gap_mm={gap_mm}: must be a distance in mm, or null if it is not known.")
    value = _value(target)
    folder = names.opened(root)
    images, masks = _pairs(folder, mask_suffix)
    if not images:
        raise InputError(f"{folder / 'images'}: this folder contains no PNG or TIFF file. Add the images.")

    parsed = names.parse(images, patient, ("visit", "phase", "frame", "slice"))
    number = names.numbers(parsed)
    files = _by_volume(parsed, images, named=cases.name_frames(ed, es))
    structure = colours.Structure(value)

    def slices(volume: cases.Volume) -> Iterator[Slice]:
        for name in files[volume]:
            image, (mask, palette) = _pixels(images[name]), _drawing(masks[name])
            if image.shape != mask.shape:
                sizes = [" x ".join(map(str, array.shape)) for array in (mask, image)]
                raise InputError(
                    f"{masks[name]}: it has {sizes[0]} pixels, but its image has {sizes[1]}. Replace the wrong file."
                )
            _finite(masks[name], mask)
            one = parsed[name]
            yield Slice(
                image=_finite(images[name], image),
                mask=structure.mask(masks[name], mask, palette),
                patient=one.patient,
                frame=number[name] if one.frame is None else one.frame,
                slice_index=number[name] if one.slice is None else one.slice,
                phase=one.phase,
                spacing_mm=spacing_mm,
                gap_mm=gap_mm,
            )

    return collected(cases.arrange({volume: volume for volume in files}, slices, ed=ed, es=es), empty=empty)


def _by_volume(parsed: Mapping[str, names.Name], images: Mapping[str, Path], *, named: bool) -> dict[cases.Volume, list[str]]:
    """Map each volume to the names of its pairs, keeping the given order. Raises: InputError for duplicate slices."""
    places = [(one.patient, one.visit, one.phase, one.frame) for one in parsed.values()]
    by_frame = named or len({*places}) < len(places) or any(one.slice is not None for one in parsed.values())
    found: dict[cases.Volume, list[str]] = {}
    at: dict[tuple[cases.Volume, int], str] = {}
    for name, one in parsed.items():
        volume = cases.Volume(one.patient, one.visit or "", one.phase, one.frame if by_frame else None)
        found.setdefault(volume, []).append(name)
        if one.slice is not None and (other := at.setdefault((volume, one.slice), name)) != name:
            raise InputError(
                f"{images[other]} and {images[name]} are both slice {one.slice} of one volume of patient {one.patient}. If "
                "they belong to several volumes, add a group visit or frame to data.patient. If not, move one of them "
                "elsewhere."
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
    """Return the structure's grey value; None if the structure is all values except 0."""
    if target == "foreground":
        return None
    text = str(target)
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise InputError(f"data.target={target}: must be foreground or the structure's grey value in the masks, above 0.")
    return int(text)


def _pairs(folder: Path, mask_suffix: str | None) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return two dicts with the same names as keys: the files of the images and of the masks. Log other files."""
    suffix = "" if mask_suffix is None else names.normal(str(mask_suffix))
    if "/" in suffix or suffix.lower().endswith((*SUFFIXES, *JPEG_SUFFIXES)):
        raise InputError(f"data.mask_suffix={mask_suffix}: must be the end of a name without .png, like _mask.")
    parts = {path.name: path for path in names.entries(folder, folder) if path.is_dir()}
    left: list[Path] = []
    if suffix and not {"images", "masks"} & parts.keys():
        together = _files(folder, folder, left)
        masks = {name: path for name, path in together.items() if name.endswith(suffix)}
        images = {name: path for name, path in together.items() if name not in masks}
    else:
        for part in ("images", "masks"):
            if part not in parts:
                raise InputError(
                    f"data.root={folder}: there is no folder {part} in it. Set data.root to the folder that "
                    "holds images and masks."
                )
        images, masks = (_files(parts[part], folder, left) for part in ("images", "masks"))
        left += [path for path in names.entries(folder, folder) if path.name not in ("images", "masks")]
    for name, path in masks.items():
        if path.suffix.lower() in JPEG_SUFFIXES:
            raise _jpeg_mask(path)
        if not name.endswith(suffix):
            raise InputError(f"{path}: its name does not end in {suffix} (data.mask_suffix). Rename it or move it elsewhere.")
    masks = {name.removesuffix(suffix): path for name, path in masks.items()}
    for name in sorted(images.keys() ^ masks.keys()):
        there, part = (images[name], "masks") if name in images else (masks[name], "images")
        raise InputError(
            f"{there}: the file {name}{suffix if name in images else ''} in {parts.get(part, folder)} is missing. "
            f"{_ending(images, masks) or 'Add it.'}"
        )
    log_not_read(left, folder)
    return images, masks


def _ending(images: Mapping[str, Path], masks: Mapping[str, Path]) -> str:
    """Suggest a value of data.mask_suffix if every mask has the name of its image plus the same suffix.

    Otherwise return an empty text.
    """
    first = min(masks, default="")
    for end in {first.removeprefix(name) for name in images if name and first.startswith(name)} - {""}:
        if {name + end for name in images} == masks.keys():
            return f"If {first} is the mask of {first.removesuffix(end)}, set data.mask_suffix={end}."
    return ""


def _files(folder: Path, root: Path, left: list[Path]) -> dict[str, Path]:
    """Map names to files. A name is the path relative to the folder, without file extension, in Unicode form NFC.

    Args: left: a list to which the ignored text files are added.
    """
    found: dict[str, Path] = {}
    inside = [(path, names.entries(path, root) if path.is_dir() else [path]) for path in names.entries(folder, root)]
    for path in (path for _, paths in inside for path in paths):
        if not path.is_file() or path.suffix.lower() not in (*SUFFIXES, *JPEG_SUFFIXES):
            if path.is_file() and is_text(path):
                left.append(path)
                continue
            raise InputError(f"{path}: not a PNG or TIFF file. Convert it or move it elsewhere.")
        name = names.normal(path.relative_to(folder).with_suffix("").as_posix())
        if name in found:
            raise InputError(f"{path} and {found[name]} have the same name. Move one of them elsewhere.")
        found[name] = path
    return found


def _jpeg_mask(path: Path) -> InputError:
    return InputError(
        f"{path}: this mask is a JPEG file, whose lossy compression changes values at every edge. Store masks as PNG with two "
        "values, made from the original drawing, because converting the JPEG file would keep the changes."
    )


def _pixels(path: Path) -> NDArray[Any]:
    """The grey values (H, W) of an image as stored."""
    return np.asarray(_loaded(path, GREY)[0])


def _drawing(path: Path) -> tuple[NDArray[Any], dict[int, int]]:
    """Return the pixels (H, W) of a mask, and its palette.

    For a coloured mask, these are returned by colours.coded. For a grey mask, they are the stored grey values and an
    empty palette.
    """
    pixels, image = _loaded(path, GREY | colours.COLOURED, is_mask=True)
    return colours.coded(path, image) if image.mode in colours.COLOURED else (pixels, {})


def _loaded(path: Path, modes: Collection[str], *, is_mask: bool = False) -> tuple[NDArray[Any], Image.Image]:
    """Return the values (H, W, ...) of an image, and the image itself. Grey values are returned as stored.

    Args: modes: the Pillow modes that are accepted.
    """
    names.check_file(path, MAX_BYTES)
    formats = ("JPEG",) if path.suffix.lower() in JPEG_SUFFIXES else ("PNG", "TIFF")
    wrong = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes are checked here, and a warning may quote the file
            with Image.open(path, formats=formats) as image:
                mode, (width, height) = image.mode, image.size
                small = width * height <= MAX_PIXELS
                if len(image.tile) > width * height:  # parts that Pillow would paste one after the other
                    raise ValueError("more tiles than pixels")
                readable = small and mode in modes
                wrong = _why_not_as_it_is(image) if readable else ""
                is_lossy = image.info.get("compression") in LOSSY_TIFF
                whole = image.copy() if readable else Image.new("L", (0, 0))
                pixels = _as_stored(image, np.array(whole)) if mode in GREY else np.array(whole)
                several = readable and _has_another(image)
    except Image.DecompressionBombError:
        small, several, mode, width, height = False, False, "L", 0, 0
    except Exception as error:  # a damaged file makes Pillow fail in many ways, none of them a bug of ours
        is_jpeg = "PNG" in formats and _begins(path, JPEG_MAGIC)
        if is_jpeg and is_mask:
            raise _jpeg_mask(path) from None
        why, cure = ("it is a JPEG file", "Rename it to .jpg") if is_jpeg else (type(error).__name__, "Copy it again")
        raise InputError(f"{path}: damaged, truncated, or not a {' or '.join(formats)} file ({why}). {cure}.") from None
    if not small:
        size = f" of {height} x {width}" if width else ""
        raise InputError(
            f"{path}: the image{size} has more than {MAX_PIXELS / 1e6:.0f} million pixels. Crop or resample it first."
        )
    if several:
        raise InputError(f"{path}: the file contains several images instead of one. Store each in its own file.")
    if wrong:
        raise InputError(f"{path}: {wrong}")
    if not readable or 0 in pixels.shape:
        raise InputError(f"{path}: its pixels have the mode {mode}, not grey values. Convert the image to grey.")
    if is_mask and is_lossy:
        raise _jpeg_mask(path)
    return pixels, whole


def _why_not_as_it_is(image: ImageFile) -> str:
    """Return why Pillow reads wrong pixel values from this image, and what to do. Return "" if the values are right."""
    raw = {str(tile.args if isinstance(tile.args, str) else (tile.args or [""])[0]) for tile in image.tile}
    if image.mode in colours.COLOURED and any(";16" in one for one in raw):
        return "its colours have 16 bits, and 8 of them would be lost. Store it as grey, or with 8 bits."
    if image.format != "TIFF" and image.getexif().get(ORIENTATION, 1) not in (0, 1):  # Pillow applies it to TIFF files itself
        return "it is stored rotated, with an EXIF orientation that turns it upright. Store it upright, without that tag."
    tags = getattr(image, "tag_v2", {})
    if image.format == "TIFF" and tags.get(PHOTOMETRIC) == 0 and image.mode in ("F", "I"):
        return "its values count from white to black, and the value of black is unknown. Store it with 0 as black."
    return ""


def _as_stored(image: ImageFile, pixels: NDArray[Any]) -> NDArray[Any]:
    """Apply the TIFF tags that Pillow ignores.

    They say whether values are signed, and whether 0 is white in a 16-bit image.
    """
    if image.format != "TIFF":
        return pixels
    tags = getattr(image, "tag_v2", {})
    if image.mode == "L" and tags.get(SAMPLE_FORMAT) == (2,):
        return pixels.view(np.int8)
    if image.mode == "I" and tags.get(SAMPLE_FORMAT, (1,)) == (1,) and tags.get(BITS) == (32,):
        return pixels.view(np.uint32)
    if image.mode.startswith("I;16") and tags.get(PHOTOMETRIC) == 0:
        return np.iinfo(np.uint16).max - pixels
    return pixels


def _begins(path: Path, magic: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError:
        return False


def _has_another(image: Image.Image) -> bool:
    """Return whether the file contains a second image. The images are not counted, because that could take hours."""
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


READER = Reader(name="folder", kind="folder", image_code="np.asarray(PIL.Image.open(path))")
