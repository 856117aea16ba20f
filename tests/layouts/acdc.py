"""Patients in ACDC's layout."""

from pathlib import Path

import volumes

INFO = "ED: 1\nES: 12\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n"


def write_patient(root: Path, number: int, *, info=INFO, frames=(1, 12), shape=(12, 10, 3)) -> Path:
    folder = root / f"patient{number:03}"
    for frame in frames:
        stem = folder / f"{folder.name}_frame{frame:02}"
        volumes.write(stem.with_suffix(".nii.gz"), volumes.pixels(100 * number + frame, shape))
        volumes.write(folder / f"{stem.name}_gt.nii.gz", volumes.labels(shape))
    volumes.write(folder / f"{folder.name}_4d.nii.gz", volumes.pixels(0, (2, 2, 2, 2)))
    (folder / "Info.cfg").write_text(info)
    return folder


def write_acdc(folder, ed=1, es=12):
    for frame in (ed, es):
        volumes.write(folder / f"{folder.name}_frame{frame:02}.nii.gz", volumes.pixels(frame))
        volumes.write(folder / f"{folder.name}_frame{frame:02}_gt.nii.gz", volumes.labels())
    volumes.write(folder / f"{folder.name}_4d.nii.gz", volumes.pixels(1, (12, 10, 3, 2)))
    (folder / "Info.cfg").write_text(f"ED: {ed}\nES: {es}\nGroup: DCM\n")
