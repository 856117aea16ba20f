"""Examine a data set for segtune.check: read, split and crop it as a run would, and collect all findings.

If the reader refuses the data set, its contour files are still checked one by one.
"""

from collections.abc import Callable, Mapping
from typing import Any

from segtune.data import contour_files, findings, slice_checks
from segtune.data.findings import Finding
from segtune.data.grid import resample_and_crop
from segtune.data.slices import SliceSet
from segtune.data.splits import Split
from segtune.errors import InputError


def examine(
    data: Mapping[str, Any], read: Callable[[], SliceSet], split: Callable[[SliceSet], Split]
) -> tuple[SliceSet, list[Finding]]:
    """Return the slices of a data set and all findings. If the reader refuses the data set, there are no slices.

    Args:
        data: cfg.data as a mapping.
        read: function that reads the data set.
        split: function that splits the slices as a run would.

    Raises: InputError if the reader refuses the data set, and the data set has no contour files that could be checked.
    """
    slices, refusal = SliceSet(()), ""
    try:
        slices = read()
    except InputError as error:
        if not contour_files.listed(data):
            raise
        refusal = str(error)
    found = contour_files.find(data, slices, with_folders=True)
    known = {place for one in found for place in (one.file, one.message) if one.severity == "error" and place}
    if refusal and not any(place in refusal for place in known):
        found.append(Finding("error", "unreadable", None, None, None, refusal))
    if not len(slices):
        return slices, findings.ranked(found)
    sides = None
    try:
        sides = split(slices)
    except InputError as error:
        found.append(Finding("warning", "split", None, None, None, str(error)))
    found = findings.joined(found, slice_checks.find(slices, sides))
    if data.get("larger") is None:
        return slices, found
    fitted = resample_and_crop(slices, size=data["size"], spacing_mm=data.get("spacing_mm"), larger=data["larger"])
    return slices, findings.joined(found, slice_checks.of_crop(fitted))
