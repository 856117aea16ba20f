"""A synthetic RVSC-2012 training set of invented hearts, written as files like the real ones.

The images are those of phantom_images. Patients differ in their anatomy, and the same seed gives the same bytes.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from tqdm import tqdm

from segtune.data import phantom_images, rvsc
from segtune.data.phantom_images import Patient, acquire, contour, paint
from segtune.data.slices import SliceSet
from segtune.errors import InputError

SIZES = 32, 512  # smallest and largest long side of an image [pixels]
THICKNESS_MM, GAP_MM = 7.0, 8.4  # slice thickness, distance of slice centres [mm]


def write(folder: Path, *, seed: int, n_patients: int, size: int) -> None:
    """Write <folder>/TrainingSet/patient01 ... in the layout of RVSC 2012.

    Args:
        seed: the same seed, n_patients and size give the same bytes; fewer patients are the first of more.
        n_patients: 1 ... 99; 16 have 243 labelled frames.
        size: the image's long side [pixels], a multiple of 16 from 32 to 512.
    Raises: InputError naming the key that is out of range.
    """
    _check(seed=seed, n_patients=n_patients, size=size)
    for number in tqdm(range(1, n_patients + 1), desc="writing the phantom", unit="patient", disable=None):
        _write_patient(folder / "TrainingSet" / f"patient{number:02d}", Patient(seed, number, size))


def read(
    *, seed: int, n_patients: int, size: int, target: str, masks: str | None = None, cache: Path | None = None
) -> SliceSet:
    """The phantom's labelled slices, written into the cache folder on first use.

    Args: as in `write`; target: "endocardium" or "epicardium"; masks: see contours.RASTERISERS; cache: by default the user's
        cache folder for segtune.
    """
    _check(seed=seed, n_patients=n_patients, size=size)
    code = Path(__file__).read_bytes() + Path(phantom_images.__file__).read_bytes()
    source = hashlib.sha256(code).hexdigest()[:8]
    cache = cache or platformdirs.user_cache_path("segtune")
    whole = cache / f"phantom-{seed}-{n_patients}-{size}-{source}"
    if not whole.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f"{whole.name}.", dir=cache))
        try:
            write(part, seed=seed, n_patients=n_patients, size=size)
            part.rename(whole)
        except OSError:
            if not whole.is_dir():  # otherwise another process was faster and wrote the same data
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
    try:
        return rvsc.read(whole, target=target, masks=masks)
    except InputError as error:
        raise InputError(f"{error} The file belongs to the phantom: remove {whole}, and it is written again.") from error


def _check(*, seed: int, n_patients: int, size: int) -> None:
    if not isinstance(n_patients, int) or not 1 <= n_patients <= 99:
        raise InputError(f"data.n_patients={n_patients}: give a whole number from 1 to 99 (the study has 16).")
    if not isinstance(size, int) or size % 16 or not SIZES[0] <= size <= SIZES[1]:
        raise InputError(f"data.size={size}: give a multiple of 16 from 32 to 512 (the study has 256).")
    if not isinstance(seed, int) or seed < 0:
        raise InputError(f"data.seed={seed}: give a whole number, 0 or more.")


# Files


def _frames(p: Patient) -> Iterator[tuple[int, int, bool]]:
    """(slice, phase, labelled) of every frame that is written, in order; the full cine has more."""
    labelled = {(i, 0) for i in range(1, p.n_ed + 1)} | {(i, p.es_phase) for i in range(2, p.n_es + 2)}
    for index in range(p.n_ed + 2):
        between = [p.es_phase // 2] if index % 2 else []
        for phase in (0, *between, p.es_phase):
            yield index, phase, (index, phase) in labelled


def _write_patient(folder: Path, p: Patient) -> None:
    """One patient's images, contours and list file."""
    name = f"P{p.number:02d}"
    dicoms, contours = folder / f"{name}dicom", folder / f"{name}contours-manual"
    dicoms.mkdir(parents=True)
    contours.mkdir()
    listed = []
    for instance, (index, phase, labelled) in enumerate(_frames(p), start=1):
        frame = rvsc.PHASES_PER_SLICE * index + phase
        signal, distance = paint(p, index, phase)
        pixels = acquire(p, signal, np.random.default_rng([p.seed, p.number, 2, frame]))
        _dicom(p, pixels, index, phase, instance).save_as(dicoms / f"{name}-{frame:04d}.dcm", enforce_file_format=True)
        for letter, level_mm in (("i", 0.0), ("o", p.rv_wall)) if labelled else ():
            points = contour(distance, level_mm)
            points = points[:-1] if p.number % 3 == 0 else points  # some experts close their contours, some do not
            lines = (f"{column:.2f} {row:.2f}\n" for column, row in points)
            file = f"{name}-{frame:04d}-{letter}contour-manual.txt"
            (contours / file).write_bytes("".join(lines).encode())
            listed.append(f".\\{folder.name}\\{contours.name}\\{file}\r\n")
    (folder / f"{name}list.txt").write_bytes("".join(listed).encode())


def _dicom(p: Patient, pixels: NDArray[np.uint16], index: int, phase: int, instance: int) -> FileDataset:
    """The image as a DICOM file: uint16, uncompressed, with the tags of a short-axis cine scan."""
    about = [f"segtune phantom {p.seed} {p.number} {p.shape}"]
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[*about, f"image {instance}"])
    across = np.array([np.cos(p.turn), np.sin(p.turn) * 0.6, -np.sin(p.turn) * 0.8])
    down = np.array([-np.sin(p.turn), np.cos(p.turn) * 0.6, -np.cos(p.turn) * 0.8])
    height, width = p.shape
    corner = -p.pixel_mm / 2 * ((width - 1) * across + (height - 1) * down) + index * GAP_MM * np.cross(across, down)
    tags: dict[str, Any] = {
        "SOPClassUID": MRImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": generate_uid(entropy_srcs=[*about, "study"]),
        "SeriesInstanceUID": generate_uid(entropy_srcs=[*about, "series"]),
        "FrameOfReferenceUID": generate_uid(entropy_srcs=[*about, "frame of reference"]),
        "Modality": "MR",
        "PatientName": f"PHANTOM^P{p.number:02d}",
        "PatientID": f"PHANTOM-P{p.number:02d}",
        "SeriesDescription": "synthetic short-axis cine",
        "InstanceNumber": instance,
        "TriggerTime": 40 * phase,
        "SliceThickness": THICKNESS_MM,
        "SpacingBetweenSlices": GAP_MM,
        "PixelSpacing": [round(p.pixel_mm, 6)] * 2,
        "ImagePositionPatient": [round(float(value), 4) for value in corner],
        "ImageOrientationPatient": [round(float(value), 6) for value in (*across, *down)],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": height,
        "Columns": width,
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "PixelData": pixels.astype("<u2").tobytes(),
    }
    image = FileDataset("", {}, preamble=b"\0" * 128, file_meta=meta)
    for tag, value in tags.items():
        setattr(image, tag, value)
    return image


READER = replace(rvsc.READER, name="phantom", contour_files=None, sizes=SIZES, is_synthetic=True)
