"""Check all contour files of a data set (RVSC, Sunnybrook), both endocardial and epicardial."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from segtune.data import contour_checks, findings, readers
from segtune.data.contour_checks import Outline
from segtune.data.findings import Finding
from segtune.data.formats import contours, dicom
from segtune.data.readers import ContourFile
from segtune.data.slices import Slice
from segtune.errors import InputError


def listed(data: Mapping[str, Any]) -> list[ContourFile]:
    """List the contour files of a data set. The list is empty if its format has no such files. Args: data: cfg.data."""
    files = readers.of(data).contour_files
    return list(files(data["root"])) if files and "root" in data else []


def for_run(data: Mapping[str, Any], slices: Iterable[Slice]) -> list[Finding]:
    """Check the contour files of a run's data, and return the findings, errors first.

    Errors become warnings if they are in contours that the run does not read, because its target is another one.
    """
    read = {(patient, frame, path.name) for patient, frame, target, path, _ in listed(data) if target == data["target"]}
    return findings.ranked(
        replace(one, severity="warning") if one.severity == "error" and (one.patient, one.frame, one.file) not in read else one
        for one in find(data, slices)
    )


def find(data: Mapping[str, Any], slices: Iterable[Slice], *, with_folders: bool = False) -> list[Finding]:
    """Check the contour files of both targets, and return the findings, errors first. An unreadable file is an error.

    Args:
        slices: the slices that were already read from these data. The images of these slices are not read again.
        with_folders: True: findings contain file paths relative to data.root, for display. False: they contain only
            file names, for storage, because a folder's name may contain a patient's name.
    """
    files = listed(data)
    if not files:
        return []
    root, first_px = Path(str(data["root"])).expanduser(), readers.of(data).first_px
    shapes: dict[tuple[str, int], tuple[int, ...]] = {(item.patient, item.frame): item.image.shape for item in slices}
    drawn: list[Outline] = []
    found: list[Finding] = []
    for patient, frame, target, path, image in tqdm(files, desc="contours", unit="file", leave=False, disable=None):
        name = path.relative_to(root).as_posix() if with_folders else path.name
        try:
            points = contours.read(path) - first_px
        except InputError as error:
            found.append(Finding("error", "unreadable", patient, frame, name, str(error).replace(str(path), name)))
            continue
        shape = shapes.get((patient, frame)) or _shape(image)
        drawn.append(Outline(patient, frame, target, name, points, (shape[0], shape[1]) if shape else None))
    return findings.ranked([*found, *contour_checks.find_in_contours(drawn)])


def _shape(image: Path | None) -> tuple[int, ...] | None:
    """The shape (H, W) of an image; None if it is missing or damaged (the reader reports damaged images)."""
    try:
        return dicom.read(image)[0].shape if image else None
    except InputError:
        return None
