"""Patients in the layout of the Sunnybrook Cardiac Data."""

from pathlib import Path

import numpy as np

from conftest import SQUARE, write_dicom
from segtune.data import sunnybrook
from segtune.data.slices import SliceSet

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "sunnybrook"
ED, ES = (20, 40), (27, 47)  # phases 19 and 6 of slices 0 to 2
LABEL = "SC-HF-I-1"


def write_patient(root: Path, number: int, inner, outer=(), *, scale=None, label: str | None = None, start=(0, 0)) -> None:
    """One patient and the line in link.csv. scale: frame -> size of its contours, which are in the files' coordinates."""
    scd, original = f"SCD{number:05}01", label or f"SC-HF-I-{number}"
    root.mkdir(exist_ok=True)
    with (root / "link.csv").open("a") as link:
        link.write(f"{scd},{original}\n" if link.tell() else f"patient_id,original_id\n{scd},{original}\n")
    for frame in sorted({*inner, *outer}):
        pixels = np.random.default_rng([number, frame]).integers(0, 400, (96, 64))
        write_dicom(root / "dicoms" / scd / f"{frame}.dcm", pixels, SpacingBetweenSlices=8)
    for kind, frames, grow in (("i", inner, 1.0), ("o", outer, 1.2)):
        folder = root / "contourfiles" / original / f"{kind}-contours"
        folder.mkdir(parents=True)
        for frame in frames:
            points = (np.array(SQUARE) - [20, 30]) * grow * (scale or {}).get(frame, 1.0) + [20, 30] + np.array(start)
            np.savetxt(folder / f"IM-0001-{frame:04}-{kind}contour-manual.txt", points, fmt="%.2f")


def read(root: Path, target: str = "endocardium", masks: str | None = None) -> SliceSet:
    return sunnybrook.read(root, target=target, masks=masks)
