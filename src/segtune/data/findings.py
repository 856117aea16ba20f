"""Findings: possible faults in a data set.

An error would make results wrong. For example, if two patients have the same image, one of them has the wrong image, or
the image would be used for both training and validation. A warning is something that the user should look at. A note
says what the data do not contain.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from segtune.errors import InputError

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
KINDS = {  # the kinds of findings, with descriptions
    "unreadable": "a file that the reader refuses",
    "outside_image": "a contour that leaves its image",
    "duplicate_image": "two frames with the same image",
    "duplicate_contour": "two frames with the same contour",
    "not_nested": "an endocardium that is not inside its epicardium",
    "self_crossing": "a contour that crosses itself",
    "tiny": "a structure of a few pixels",
    "polarity": "masks that may be inverted",
    "empty": "slices without the structure",
    "constant_image": "an image of a single grey value",
    "spacing": "spacing that changes within a patient",
    "stretched": "pixels that are far longer than wide",
    "strips": "planes much narrower than those of other patients",
    "two_sides": "a patient on both sides of the split",
    "split": "a split that cannot be made",
    "phase": "frames that are neither end-diastole nor end-systole",
    "gap": "an unknown distance between slices",
    "cropped": "a structure that data.larger=crop cuts",
}
ALLOWABLE = (
    "duplicate_contour",
    "duplicate_image",
    "polarity",
)  # errors that data.allow may name; data with other errors cannot be read


@dataclass(frozen=True)
class Finding:
    """One observation about the data.

    Attributes:
        kind: a key of KINDS.
        patient, frame, file: where the fault is. The file is a path relative to data.root. An attribute is None if
            several patients, frames or files are affected.
        message: what was found, and how to correct it.
    """

    severity: Severity
    kind: str
    patient: str | None
    frame: int | None
    file: str | None
    message: str


def joined(first: Iterable[Finding], second: Iterable[Finding]) -> list[Finding]:
    """Return both lists as one, errors first.

    A finding of the second list is left out if the first list has a finding of the same kind, patient and frame.
    """
    found = [*first]
    known = {(one.kind, one.patient, one.frame) for one in found}
    return ranked([*found, *(one for one in second if (one.kind, one.patient, one.frame) not in known)])


def warnings(found: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, str]]:
    """Return a dict from each kind to the number of warnings of this kind and the text of the first warning.

    Args: found: the findings, as returned by slice_checks.for_run.
    """
    by_kind: dict[str, tuple[int, str]] = {}
    for one in found:
        if one["severity"] == "warning":
            n, first = by_kind.get(one["kind"], (0, f"{place(Finding(**one))}: {one['message']}"))
            by_kind[one["kind"]] = (n + 1, first)
    return by_kind


def not_allowed(found: Iterable[Finding], allow: Collection[str] | None) -> list[Finding]:
    """The errors whose kind is not in `allow`. Raises: InputError if `allow` names a kind that is not in ALLOWABLE."""
    kinds = [] if allow is None else [*allow] if isinstance(allow, Collection) and not isinstance(allow, str) else [allow]
    for kind in kinds:
        if kind not in ALLOWABLE:
            raise InputError(
                f"data.allow={kind}: only {', '.join(ALLOWABLE[:-1])} and {ALLOWABLE[-1]} can be allowed, like "
                f"data.allow=[{ALLOWABLE[0]}]."
            )
    return [one for one in found if one.severity == "error" and one.kind not in kinds]


def place(finding: Finding) -> str:
    """Return the place of a finding as text, for example: patient P01, frame 20 (P01-0020-icontour-manual.txt)."""
    named = [f"patient {finding.patient}"] if finding.patient is not None else []
    named += [f"frame {finding.frame}"] if finding.frame is not None else []
    where = ", ".join(named)
    if finding.file is None:
        return where or "all patients"
    return f"{where} ({finding.file})" if where else finding.file


def ranked(found: Iterable[Finding]) -> list[Finding]:
    """Sort findings by severity, then by kind. Findings of the same severity and kind keep their order."""
    kinds = list(KINDS)
    return sorted(found, key=lambda one: (SEVERITIES.index(one.severity), kinds.index(one.kind)))
