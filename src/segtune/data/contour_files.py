"""All contour files of a data set (RVSC, Sunnybrook): findings in them concern runs on either target."""

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
    """The contour files of the data that cfg.data names; an empty list for readers without contour files."""
    files = readers.of(data).contour_files
    return list(files(data["root"])) if files and "root" in data else []


def for_run(data: Mapping[str, Any], slices: Iterable[Slice]) -> list[Finding]:
    """The findings in the contour files of a run's data, errors first.

    An error in a contour that the run does not read cannot make its results wrong, so it becomes a warning.
    """
    read = {(patient, frame, path.name) for patient, frame, target, path, _ in listed(data) if target == data["target"]}
    return findings.ranked(
        replace(one, severity="warning") if one.severity == "error" and (one.patient, one.frame, one.file) not in read else one
        for one in find(data, slices)
    )


def find(data: Mapping[str, Any], slices: Iterable[Slice], *, with_folders: bool = False) -> list[Finding]:
    """The findings in the contour files of both targets, errors first; a file that cannot be read is an error.

    Args:
        slices: the slices as read; their images are not read again.
        with_folders: whether files are named with their folders below data.root, for display. Stored findings have no
            folders, because these may contain a patient's name.
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
    """(H, W) of an image; None if it is missing, or damaged, which the reader reports."""
    try:
        return dicom.read(image)[0].shape if image else None
    except InputError:
        return None
