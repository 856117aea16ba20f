"""Predict images without labels and write contours, masks and overlays, for `segtune.predict`."""

import dataclasses
import itertools
import math
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from tqdm import tqdm

import segtune
from segtune.data import images, rvsc
from segtune.data.formats import contours, nifti
from segtune.data.nifti_images import VolumeFile
from segtune.data.slices import Slice
from segtune.data.unlabelled import Image
from segtune.errors import InputError
from segtune.inference.overlays import TILES, montage, overlay
from segtune.inference.phases import Row, grouped
from segtune.metrics.largest_component import largest_of_each
from segtune.runs import layout

if TYPE_CHECKING:
    from segtune.inference.models import Trained

Mask = NDArray[np.bool_]

THRESHOLD = 0.5  # pixels with a higher probability belong to the mask
RING = 0.2  # if holes are a larger share of the enclosed area, the structure is probably a ring, and the user is told
CHUNK = 32  # number of images in memory at a time
CONTOURS, MASKS, OVERLAYS = "contours", "masks", "overlays"
VOLUMES, ABOUT = "volumes.csv", "about.json"
SLICE_COLUMNS = (
    *(
        "file",
        "structure",
        "patient",
        "phase",
        "slice",
        "frame",
        "n_pixels",
        "n_dropped",
        "n_filled",
        "area_mm2",
        "mean_probability",
    ),
)
MOST_LINES = 20  # largest number of patients that are printed
LIBRARIES = ("torch", "monai", "numpy", "pydicom", "nibabel")
RESEARCH = "For research use only."
NAMES = {"EDV": "edv_ml", "ESV": "esv_ml", "SV": "stroke_volume_ml"}


def check_apart(source: Path, output: Path) -> None:
    """Check that the two folders do not overlap.

    Raises: InputError if they are the same folder, or if one folder is inside the other.
    """
    here, there = (Path(os.path.realpath(path)) for path in (source, output))
    if here.is_relative_to(there) or there.is_relative_to(here):
        raise InputError(
            f"output={output}: the output folder must not contain input={source} or be inside it. Name another folder."
        )


def write_images(
    folder: Path, models: Sequence["Trained"], found: images.Found, *, largest_component: bool = False
) -> list[tuple[Image, Row]]:
    """Predict all images and write contours, masks and overlays.

    Args: largest_component: whether to keep only the largest 3-D component of each volume.
    Returns: each image without its pixels, and its row of slices.csv.
    """
    predicted: list[tuple[Image, Row]] = []
    for name in (MASKS, OVERLAYS, *([CONTOURS] if found.patients else [])):
        (folder / name).mkdir()
    n = sum(len(patient.frames) for patient in found.patients) or len(found.volumes)
    with tqdm(total=n, desc="predict", unit="image" if found.patients else "volume", leave=False, disable=None) as bar:
        for patient in found.patients:
            for one in predictions(models, patient.images(), largest_component=largest_component):
                predicted.append(write_frame(folder, models[0].target, one))
                bar.update()
        axis = nifti.slice_axes(((file.path, file.n_frames) for file in found.volumes), slice_axis_of(models))
        for file in found.volumes:
            predicted += write_volume(folder, models, file, axis[file.path], largest_component=largest_component)
            bar.update()
    return predicted


def slice_axis_of(models: Sequence["Trained"]) -> int | None:
    """Return the setting data.slice_axis with which the runs were trained; None if it was not set.

    This is the axis of the stored arrays along which slices are taken.

    Raises: InputError if the runs of an ensemble have different values.
    """
    axes: list[int | None] = [model.config["data"].get("slice_axis") for model in models]
    first, *others = axes
    for other in others:
        if other != first:
            raise InputError(
                f"run: one run was trained with data.slice_axis={first}, another with {other}. Use each run separately."
            )
    return first


def with_probabilities(models: Sequence["Trained"], read: Iterator[Image]) -> Iterator[tuple[Image, NDArray[np.float64]]]:
    """Yield each image with its probabilities (H, W), which are the mean over the models.

    At most CHUNK images are in memory at the same time.
    """
    from segtune.inference.ensembles import ensemble

    while chunk := list(itertools.islice(read, CHUNK)):
        yield from zip(chunk, ensemble(models, [image.item for image in chunk]), strict=True)


class Prediction(NamedTuple):
    """The prediction for one image: probabilities (H, W), the mask (H, W), and the number of pixels removed from the mask."""

    image: Image
    probability: NDArray[np.float64]
    mask: Mask
    n_dropped: int


def predictions(models: Sequence["Trained"], read: Iterator[Image], *, largest_component: bool) -> Iterator[Prediction]:
    """Yield the prediction for each image of a patient or a volume.

    If largest_component is true, all images are in memory at the same time, because the largest component of each phase
    is determined from all slices.
    """
    found = with_probabilities(models, read)
    if not largest_component:
        yield from (Prediction(image, probability, probability > THRESHOLD, 0) for image, probability in found)
        return
    of_all = list(found)
    masks = [probability > THRESHOLD for _, probability in of_all]
    places = [(image.phase, None if image.undefined else image.item.slice_index) for image, _ in of_all]
    for (image, probability), mask, kept in zip(of_all, masks, largest_of_each(masks, places), strict=True):
        yield Prediction(image, probability, kept, int(np.count_nonzero(mask & ~kept)))


def write_frame(folder: Path, target: str, predicted: Prediction) -> tuple[Image, Row]:
    """Write contour, mask and overlay of one DICOM image. Returns: the image without its pixels, and its row of slices.csv."""
    image = predicted.image
    name = f"{image.item.patient}-{image.item.frame:04d}"
    mask, n_dropped, n_filled = contours.enclosed(predicted.mask)
    lines = contours.outlines(mask)
    for line in lines:  # enclosed() leaves at most one outline
        kind = rvsc.TARGETS.get(target, "i")
        (folder / CONTOURS / f"{name}-{kind}contour-auto.txt").write_bytes(contours.text(line).encode())
    Picture.fromarray(np.where(mask, np.uint8(255), np.uint8(0))).save(folder / MASKS / f"{name}.png")
    overlay(image.item, lines).save(folder / OVERLAYS / f"{name}.png")
    return about_slice(image, mask, predicted.probability, predicted.n_dropped + n_dropped, n_filled)


def write_volume(
    folder: Path, models: Sequence["Trained"], file: VolumeFile, slice_axis: int, *, largest_component: bool
) -> list[tuple[Image, Row]]:
    """Write the mask and the overlays of one NIfTI file, for all of its frames.

    Args: slice_axis: the array axis in the file along which slices are taken. largest_component: as in `write_images`.
    Returns: each slice without its pixels, and its row of slices.csv.
    """
    predicted, masks = [], []
    for frame in file.frames():
        volume = frame.read(slice_axis)
        masks.append(np.zeros(volume.voxels.shape, dtype=bool))
        found = predictions(models, frame.images(volume), largest_component=largest_component)
        predicted += write_slices(folder, frame, found, masks[-1])
    (path := folder / MASKS / f"{file.name}.nii.gz").parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(nifti.encode(np.stack(masks) if len(masks) > 1 else masks[0], volume.header, slice_axis))
    return predicted


def write_slices(folder: Path, frame: VolumeFile, found: Iterable[Prediction], mask: Mask) -> list[tuple[Image, Row]]:
    """Write the overlays of one volume from the predictions for its slices, and fill `mask` (K, H, W) in place."""
    rows, tiles, n_pages = [], [], 0
    name = f"{frame.name}/frame-{frame.frame:02}" if frame.n_frames > 1 else frame.name
    for index, (image, probability, predicted, n_dropped) in enumerate(found):
        mask[index] = predicted
        rows.append(about_slice(image, mask[index], probability, n_dropped, 0))
        tiles.append(overlay(image.item, contours.outlines(mask[index]), text=f"slice {index}"))
        if len(tiles) == TILES or index + 1 == len(mask):
            n_pages += 1
            page = f"/page-{n_pages}" if len(mask) > TILES else ""
            (path := folder / OVERLAYS / f"{name}{page}.png").parent.mkdir(parents=True, exist_ok=True)
            montage(tiles).save(path)
            tiles = []
    return rows


def about_slice(image: Image, mask: Mask, probability: NDArray[np.float64], n_dropped: int, n_filled: int) -> tuple[Image, Row]:
    """Return the image without its pixels, and its row of slices.csv."""
    item, n_pixels = image.item, int(np.count_nonzero(mask))
    row = {
        **{"file": image.file, "patient": item.patient, "phase": image.phase, "frame": item.frame},
        **{"slice": "" if image.undefined else item.slice_index},
        **{"n_pixels": n_pixels, "n_dropped": n_dropped, "n_filled": n_filled},
        "area_mm2": n_pixels * item.spacing_mm[0] * item.spacing_mm[1],
        "mean_probability": float(probability[mask].mean()) if n_pixels else math.nan,
    }
    shape = item.image.shape
    without = dataclasses.replace(item, image=np.broadcast_to(np.float32(0), shape), mask=np.broadcast_to(False, shape))
    return image._replace(item=without), row


def describe(
    models: Sequence["Trained"], found: images.Found, predicted: Sequence[tuple[Image, Row]], *, largest_component: bool
) -> Row:
    """Return the content of about.json. It contains no paths, and only those header entries that the tables contain."""
    rows = [row for _, row in predicted]
    return {
        "runs": [model.result["run_id"] for model in models],
        "which": models[0].which,
        "target": models[0].target,
        "threshold": THRESHOLD,
        "score": {"largest_component": largest_component, "tta": [model.tta for model in models]},
        "kind": "DICOM" if found.patients else "NIfTI",
        "n_patients": len({row["patient"] for row in rows}),
        "n_volumes": sum(file.n_frames for file in found.volumes),
        "n_images": len(rows),
        "n_empty": sum(row["n_pixels"] == 0 for row in rows),
        **{name: sum(row[name] for row in rows) for name in ("n_pixels", "n_dropped", "n_filled")},
        "left_out": dict(found.left_out),
        "put_together": list(found.put_together),
        "versions": {
            "segtune": segtune.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
        },
        "use": RESEARCH,
    }


def summary(found: images.Found, about: Row, of_volumes: Sequence[Row], of_patients: Sequence[Row]) -> list[str]:
    """Return the lines to print: how many images were predicted, which were excluded, and the volumes of each patient."""
    what = several(about["n_images"], "image")
    if found.volumes:
        what = f"{several(about['n_volumes'], 'volume')} ({several(about['n_images'], 'slice')})"
    n_empty, whose = about["n_empty"], several(about["n_patients"], "patient")
    lines = [
        f"{about['target']} by {' + '.join(about['runs'])} ({about['which']} epoch): {what} of {whose}, "
        f"structure found on {about['n_images'] - n_empty}, not found on {n_empty}"
    ]
    if found.patients:
        dropped, filled = (several(about[name], "pixel") for name in ("n_dropped", "n_filled"))
        lines.append(f"removed outside the largest component: {dropped}; holes filled: {filled}")
        if about["n_filled"] > RING * about["n_pixels"]:
            share = about["n_filled"] / about["n_pixels"]
            lines.append(f"holes: {share:.0%} of the enclosed area; areas and volumes of a ring include its cavity")
    elif about["score"]["largest_component"]:
        lines.append(f"removed outside the largest 3-D component: {several(about['n_dropped'], 'pixel')}")
    lines += found.put_together
    lines += [f"left out, {kind}: {n}" for kind, n in about["left_out"].items()]
    folders = {patient.patient: f" = {patient.folder}" for patient in found.patients if patient.folder}
    if not sys.stdout.isatty():
        folders = {}  # a folder's name may be a person's name, so it is only shown on a terminal
    most = len(of_patients) if folders else MOST_LINES
    volumes_of = grouped(of_volumes, lambda row: row["patient"])
    for row in of_patients[:most]:
        told = [f"{name} {row[key]:.1f} ml" for name, key in NAMES.items() if not math.isnan(row[key])]
        if not told:
            told = [f"{one['volume_ml']:.1f} ml" for one in volumes_of[row["patient"]] if not one["undefined"]]
        share = row["ejection_fraction"]
        told += [] if math.isnan(share) else [f"EF {share:.0%}"]
        told += [f"({row['undefined'] or row['ed_es_by']})"]
        lines.append(f"{row['patient']}{folders.get(row['patient'], '')}  {' '.join(told)}")
    more = len(of_patients) - most
    return [*lines, f"... and {several(more, 'more patient')} in {layout.PATIENTS}"] if more > 0 else lines


def several(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def one_of_each_spacing(slices: Iterable[Slice]) -> list[Slice]:
    return list({item.spacing_mm: item for item in slices}.values())
