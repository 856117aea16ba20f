"""python -m segtune.predict run=outputs/runs/ID input=folder output=folder: contours and masks of images without labels.

    contours/P09-0020-icontour-auto.txt   DICOM: the outline as the RVSC's files have it (i: endocardium, o: epicardium); none
                                          where nothing is predicted
    masks/P09-0020.png                    DICOM: what the outline encloses, 0 and 255
    masks/CASE.nii.gz                     NIfTI: the network's mask, 0 and 1, on the image's own grid, a film's with its frames
    overlays/                             to look at: a picture per DICOM image; one of all slices per NIfTI volume, or, if they
                                          are more than 20, a folder of such pages; a folder per film
    slices.csv  volumes.csv  patients.csv       pixels and mm^2; ml; EDV, ESV, stroke volume, ejection fraction
    about.json                            which runs, which epoch, which versions

An outline is that of the largest component, its holes filled; what was dropped and filled is counted, and all numbers of
DICOM images are of what the outline encloses. Masks of NIfTI volumes, and their numbers, are the network's: nothing is
dropped or filled, so that a ring stays one. Of a file's header no text is written anywhere. Needs none of the training data.
"""

import dataclasses
import itertools
import math
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig
from PIL import Image as Picture
from PIL import ImageDraw
from tqdm import tqdm

import segtune
from segtune import app, results, volumes
from segtune.data import contours, images, nifti, rvsc, stacks
from segtune.data.images import Image
from segtune.data.slices import Slice
from segtune.errors import InputError, printable

if TYPE_CHECKING:
    from segtune.trained import Trained

Row = dict[str, Any]
Item = TypeVar("Item")
Key = TypeVar("Key")
Mask = NDArray[np.bool_]

THRESHOLD = 0.5  # a pixel belongs to the mask where its probability is above
RING = 0.2  # holes that are more of what the outlines enclose are told: the structure is likely a ring
CHUNK = 32  # images that are in memory with their probabilities at a time
CONTOURS, MASKS, OVERLAYS = "contours", "masks", "overlays"
VOLUMES, ABOUT = "volumes.csv", "about.json"
SLICE_COLUMNS = (
    *("file", "patient", "phase", "slice", "frame", "n_pixels", "n_dropped", "n_filled", "area_mm2", "mean_probability"),
)
VOLUME_COLUMNS = ("patient", "phase", "n_slices", "n_lacking", "volume_ml", "undefined")
PATIENT_COLUMNS = (
    *("patient", "n_phases", "ed_phase", "es_phase", "edv_ml", "esv_ml", "stroke_volume_ml", "ejection_fraction"),
    *("ed_es_by", "undefined"),
)
MOST_LINES = 20  # of patients that are printed
LIBRARIES = ("torch", "monai", "numpy", "pydicom", "nibabel")
RESEARCH = "For research use only."
NAMES = {"EDV": "edv_ml", "ESV": "esv_ml", "SV": "stroke_volume_ml"}
SIDES = (512, 1024)  # least and most pixels of the longer side of a picture, between which an image keeps its own
FINER = 2  # how much finer a picture is drawn than kept: smooth lines
TILES, GAP = 20, 4  # slices of one montage, and the pixels between them
COLOUR, SHADE = "#ffd000", "#101010"


def predict(cfg: DictConfig) -> None:
    """Predict every image below cfg.input, write what the head of this file lists to cfg.output, print a summary.

    The folder appears whole or not at all. Raises: InputError for a run, an image or a folder that cannot be.
    """
    config = app.plain(cfg)
    for key in ("input", "output"):
        if not isinstance(config[key], str | int):
            raise InputError(f"{key}={config[key]}: give a folder, like {key}={'scans' if key == 'input' else 'predicted'}.")
    source, output = (Path(str(config[key])).expanduser() for key in ("input", "output"))
    check_apart(source, output)
    found = images.find(source)
    from segtune import trained

    how = {key: config[key] for key in ("which", "accelerator", "trust")}
    models = trained.load_all(config["run"], **how)
    with results.new_folder(output) as folder:
        predicted = write_images(folder, models, found)
        of_volumes = volume_rows(predicted)
        of_patients = [patient_row(rows) for rows in grouped(of_volumes, lambda row: row["patient"]).values()]
        about = describe(models, found, predicted)
        tables = (
            (results.SLICES, SLICE_COLUMNS, [row for _, row in predicted]),
            (VOLUMES, VOLUME_COLUMNS, of_volumes),
            (results.PATIENTS, PATIENT_COLUMNS, of_patients),
        )
        for name, columns, rows in tables:
            (folder / name).write_text(results.csv_text(columns, rows), encoding="utf-8")
        (folder / ABOUT).write_bytes(results.json_text(about))
    trained.warn_of_other_scale(models, one_of_each_spacing(image.item for image, _ in predicted))
    told = [*summary(found, about, of_volumes, of_patients), f"written to {output}", RESEARCH]
    print("\n".join(map(printable, told)))
    sys.stdout.flush()


# Where it goes


def check_apart(source: Path, output: Path) -> None:
    """Raises: InputError if a folder is within the other."""
    here, there = (Path(os.path.realpath(path)) for path in (source, output))
    if here.is_relative_to(there) or there.is_relative_to(here):
        raise InputError(f"output={output}: it and input={source} lie within each other. Name a folder elsewhere.")


# From images to files


def write_images(folder: Path, models: Sequence["Trained"], found: images.Found) -> list[tuple[Image, Row]]:
    """Write contours, masks and overlays; returns each image, without its pixels, and its row of slices.csv."""
    predicted: list[tuple[Image, Row]] = []
    for name in (MASKS, OVERLAYS, *([CONTOURS] if found.patients else [])):
        (folder / name).mkdir()
    n = sum(len(patient.frames) for patient in found.patients) or len(found.volumes)
    with tqdm(total=n, desc="predict", unit="image" if found.patients else "volume", leave=False, disable=None) as bar:
        for patient in found.patients:
            for image, probability in with_probabilities(models, patient.images()):
                predicted.append(write_frame(folder, models[0].target, image, probability))
                bar.update()
        axis = nifti.slice_axes(((file.path, file.n_frames) for file in found.volumes), slice_axis_of(models))
        for file in found.volumes:
            predicted += write_volume(folder, models, file, axis[file.path])
            bar.update()
    return predicted


def slice_axis_of(models: Sequence["Trained"]) -> int | None:
    """The slice axis that the user gave for the volumes of the training (data.slice_axis), if there is one.

    Raises: InputError if the runs of an ensemble disagree.
    """
    first, *others = [model.config["data"].get("slice_axis") for model in models]
    for other in others:
        if other != first:
            raise InputError(f"run: one was trained with data.slice_axis={first}, one with {other}. Predict with each alone.")
    return first


def with_probabilities(models: Sequence["Trained"], read: Iterator[Image]) -> Iterator[tuple[Image, NDArray[np.float64]]]:
    """Each image and its probabilities (H, W), CHUNK images at a time."""
    from segtune import trained

    while chunk := list(itertools.islice(read, CHUNK)):
        yield from zip(chunk, trained.ensemble(models, [image.item for image in chunk]), strict=True)


def write_frame(folder: Path, target: str, image: Image, probability: NDArray[np.float64]) -> tuple[Image, Row]:
    """One DICOM image's contour, mask and overlay."""
    name = f"{image.item.patient}-{image.item.frame:04d}"
    mask, n_dropped, n_filled = contours.enclosed(probability > THRESHOLD)
    lines = contours.outlines(mask)
    for line in lines:  # one, or none
        kind = rvsc.TARGETS.get(target, "i")
        (folder / CONTOURS / f"{name}-{kind}contour-auto.txt").write_bytes(contours.text(line).encode())
    Picture.fromarray(np.where(mask, np.uint8(255), np.uint8(0))).save(folder / MASKS / f"{name}.png")
    overlay(image.item, lines).save(folder / OVERLAYS / f"{name}.png")
    return about_slice(image, mask, probability, n_dropped, n_filled)


def write_volume(
    folder: Path, models: Sequence["Trained"], file: images.VolumeFile, slice_axis: int
) -> list[tuple[Image, Row]]:
    """One NIfTI file's mask, and its overlays or those of its frames. Args: slice_axis: the stored axis of its slices."""
    predicted, masks = [], []
    for frame in file.frames():
        volume = frame.read(slice_axis)
        masks.append(np.zeros(volume.voxels.shape, dtype=bool))
        predicted += write_slices(folder, models, frame, volume, masks[-1])
    (path := folder / MASKS / f"{file.name}.nii.gz").parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(nifti.encode(np.stack(masks) if len(masks) > 1 else masks[0], volume.header, slice_axis))
    return predicted


def write_slices(
    folder: Path, models: Sequence["Trained"], frame: images.VolumeFile, volume: nifti.Volume, mask: Mask
) -> list[tuple[Image, Row]]:
    """One volume's overlays; fills the mask (K, H, W)."""
    rows, tiles, n_pages = [], [], 0
    name = f"{frame.name}/frame-{frame.frame:02}" if frame.n_frames > 1 else frame.name
    for index, (image, probability) in enumerate(with_probabilities(models, frame.images(volume))):
        mask[index] = probability > THRESHOLD
        rows.append(about_slice(image, mask[index], probability, 0, 0))
        tiles.append(overlay(image.item, contours.outlines(mask[index]), text=f"slice {index}"))
        if len(tiles) == TILES or index + 1 == len(mask):
            n_pages += 1
            page = f"/page-{n_pages}" if len(mask) > TILES else ""
            (path := folder / OVERLAYS / f"{name}{page}.png").parent.mkdir(parents=True, exist_ok=True)
            montage(tiles).save(path)
            tiles = []
    return rows


def about_slice(image: Image, mask: Mask, probability: NDArray[np.float64], n_dropped: int, n_filled: int) -> tuple[Image, Row]:
    """The image without its pixels, and its row."""
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


# What follows from the masks


def volume_rows(predicted: Sequence[tuple[Image, Row]]) -> list[Row]:
    """The rows of volumes.csv, one per patient and phase.

    n_lacking: slices of the patient that a phase has not. They are taken for empty, which is right where somebody chose the
    images that show the structure, as the RVSC did, and too small else.
    """
    rows: list[Row] = []
    for patient, mine in grouped(predicted, lambda pair: pair[0].item.patient).items():
        n_slices = len({image.item.slice_index for image, _ in mine if not image.undefined})
        for (phase, _), pairs in grouped(mine, lambda pair: (pair[0].phase, pair[0].undefined)).items():
            pairs = sorted(pairs, key=lambda pair: pair[0].item.slice_index)
            discs = [volumes.Disc(item.slice_index, item.image.shape, item.spacing_mm, item.gap_mm) for (item, *_), _ in pairs]
            why = pairs[0][0].undefined or volumes.why_undefined(discs)
            spacing_mm, gap_mm = discs[0].spacing_mm, discs[0].gap_mm or math.nan
            n_pixels = (row["n_pixels"] for _, row in pairs)
            volume_ml = math.nan if why else volumes.volume_ml(n_pixels, spacing_mm=spacing_mm, gap_mm=gap_mm)
            n_lacking = 0 if pairs[0][0].undefined else n_slices - len(pairs)
            about = {"patient": patient, "phase": phase, "n_slices": len(pairs), "n_lacking": n_lacking}
            rows.append({**about, "volume_ml": volume_ml, "undefined": why})
    return rows


def patient_row(rows: Sequence[Row]) -> Row:
    """A patient's row of patients.csv, from its rows of volumes.csv.

    ED and ES are those of Info.cfg; without it the phases of the largest and the smallest predicted volume, of all that lack no
    slice, or of the two that there are. EDV 0: nothing was found, and there is no ejection fraction.
    """
    rows = [row for row in rows if row["undefined"] != stacks.OTHERWISE]
    of_phase = {row["phase"]: row for row in rows}
    defined = [row for row in rows if not row["undefined"] and (len(rows) == 2 or not row["n_lacking"])]
    defined.sort(key=lambda row: -row["volume_ml"])
    by, why = "", ""
    if told := {"ED", "ES"} & of_phase.keys():
        by = "Info.cfg"
        why = next((f"{phase} is missing" for phase in ("ED", "ES") if phase not in told), "")
        ed, es = (of_phase.get(phase, {}) for phase in ("ED", "ES"))
    elif len(defined) > 1:
        without = f" ({len(rows) - len(defined)} without all slices)" if len(defined) < len(rows) else ""
        lacking = "".join(
            f"; {row['n_lacking']} slices of phase {row['phase']} taken for empty"
            for row in rows
            if not without and row["n_lacking"]
        )
        by = f"largest and smallest predicted volume of {len(defined)} phases{without}{lacking}"
        ed, es = defined[0], defined[-1]
    else:
        ed, es, why = {}, {}, "a single phase" if len(rows) == 1 else "fewer than two phases with all slices"
        if all(row["undefined"] for row in rows):
            why = rows[0]["undefined"]
    why = next((f"{row['phase']}: {row['undefined']}" for row in (ed, es) if row.get("undefined")), why)
    edv_ml, esv_ml = (row.get("volume_ml", math.nan) for row in (ed, es))
    return {
        **{"patient": rows[0]["patient"], "n_phases": len(rows), "edv_ml": edv_ml, "esv_ml": esv_ml, "ed_es_by": by},
        **{"ed_phase": ed.get("phase", ""), "es_phase": es.get("phase", "")},
        "stroke_volume_ml": volumes.stroke_volume_ml(edv_ml, esv_ml),
        "ejection_fraction": volumes.ejection_fraction(edv_ml, esv_ml),
        "undefined": why or ("the end-diastolic volume is 0" if edv_ml == 0 else ""),
    }


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """The items of each key, in order of first appearance."""
    found: dict[Key, list[Item]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


# Telling


def describe(models: Sequence["Trained"], found: images.Found, predicted: Sequence[tuple[Image, Row]]) -> Row:
    """What about.json says: no path, and nothing of a header but what the tables have."""
    rows = [row for _, row in predicted]
    return {
        "runs": [model.result["run_id"] for model in models],
        "which": models[0].which,
        "target": models[0].target,
        "threshold": THRESHOLD,
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
    """The lines that are printed: what was predicted and left out, and each patient's volumes."""
    what = several(about["n_images"], "image")
    if found.volumes:
        what = f"{several(about['n_volumes'], 'volume')} ({several(about['n_images'], 'slice')})"
    n_empty, whose = about["n_empty"], several(about["n_patients"], "patient")
    lines = [
        f"{about['target']} by {' + '.join(about['runs'])} ({about['which']} epoch): {what} of {whose}, "
        f"found on {about['n_images'] - n_empty}, nothing on {n_empty}"
    ]
    if found.patients:
        dropped, filled = (several(about[name], "pixel") for name in ("n_dropped", "n_filled"))
        lines.append(f"outside the largest component, dropped: {dropped}; holes filled: {filled}")
        if about["n_filled"] > RING * about["n_pixels"]:
            share = about["n_filled"] / about["n_pixels"]
            lines.append(f"{share:.0%} of what the outlines enclose is holes: of a ring, areas and volumes are with its cavity")
    lines += found.put_together
    lines += [f"left out, {kind}: {n}" for kind, n in about["left_out"].items()]
    folders = {patient.patient: f" = {patient.folder}" for patient in found.patients if patient.folder}
    if not sys.stdout.isatty():
        folders = {}  # a folder's name may be a person's: nothing but a screen says which is which
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
    return [*lines, f"... and {several(more, 'more patient')} in {results.PATIENTS}"] if more > 0 else lines


def several(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def one_of_each_spacing(slices: Iterable[Slice]) -> list[Slice]:
    return list({item.spacing_mm: item for item in slices}.values())


# Drawing


def overlay(item: Slice, lines: Sequence[NDArray[np.float64]], *, text: str = "") -> Picture.Image:
    """A slice, its 1st to 99th percentile from black to white, with the outlines (N, 2) [pixels] over it; to scale in mm."""
    low, high = np.percentile(item.image, [1, 99])
    grey = np.rint(255 * np.clip((item.image - low) / max(high - low, 1e-6), 0, 1)).astype(np.uint8)
    sides_mm = [n * mm for n, mm in zip(item.image.shape, item.spacing_mm, strict=True)]
    side = min(max(SIDES[0], max(sides_mm) / min(item.spacing_mm)), SIDES[1])
    height, width = (max(1, round(side * mm / max(sides_mm))) for mm in sides_mm)
    picture = Picture.fromarray(grey).resize((FINER * width, FINER * height), Picture.Resampling.BICUBIC).convert("RGB")
    draw = ImageDraw.Draw(picture)
    scale = np.array(picture.size) / grey.shape[::-1]
    for colour, thickness in ((SHADE, 6), (COLOUR, 4)):
        for line in lines:
            draw.line([tuple(point) for point in ((line + 0.5) * scale - 0.5).tolist()], colour, thickness, joint="curve")
    picture = picture.reduce(FINER)
    if text:
        ImageDraw.Draw(picture).text((6, 4), text, "white", stroke_width=1, stroke_fill="black")
    return picture


def montage(tiles: Sequence[Picture.Image]) -> Picture.Image:
    """Pictures of one size in rows, as near to a square as they go."""
    columns = math.ceil(math.sqrt(len(tiles)))
    width, height = (side + GAP for side in tiles[0].size)
    picture = Picture.new("RGB", (columns * width - GAP, math.ceil(len(tiles) / columns) * height - GAP), SHADE)
    for index, tile in enumerate(tiles):
        picture.paste(tile, (index % columns * width, index // columns * height))
    return picture


if __name__ == "__main__":
    app.entry("predict", predict)
