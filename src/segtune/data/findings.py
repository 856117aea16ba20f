"""What is wrong with a data set, or may be. Pure: from slices and contours, in memory, to findings.

An error would make results wrong: images or contours of one patient that are another's too, so that they are somebody
else's or lie on both sides of a split. A warning is to be looked at; a note says what the data cannot tell.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from segtune.errors import InputError

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
KINDS = {  # what a finding is about
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
    "strips": "planes that are strips beside those of others",
    "two_sides": "a patient who both trains and validates",
    "split": "a split that cannot be made",
    "phase": "frames that are neither end-diastole nor end-systole",
    "gap": "slices whose distance is not known",
    "cropped": "a structure that data.larger=crop cuts",
}
ALLOWABLE = (
    "duplicate_contour",
    "duplicate_image",
    "polarity",
)  # errors that data.allow can name: the others cannot be read


@dataclass(frozen=True)
class Finding:
    """One thing to look at. kind: of KINDS. patient, frame, file (below data.root): None where it is about more than one.

    message: what it is, and the cure.
    """

    severity: Severity
    kind: str
    patient: str | None
    frame: int | None
    file: str | None
    message: str


def joined(first: Iterable[Finding], second: Iterable[Finding]) -> list[Finding]:
    """All findings, errors first; of those that slices and contour files both tell (a kind, at one frame) the first's."""
    found = [*first]
    told = {(one.kind, one.patient, one.frame) for one in found}
    return ranked([*found, *(one for one in second if (one.kind, one.patient, one.frame) not in told)])


def warnings(found: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, str]]:
    """Of for_run's findings: kind -> how many warnings of it there are, and the first in words."""
    told: dict[str, tuple[int, str]] = {}
    for one in found:
        if one["severity"] == "warning":
            n, first = told.get(one["kind"], (0, f"{place(Finding(**one))}: {one['message']}"))
            told[one["kind"]] = (n + 1, first)
    return told


def not_allowed(found: Iterable[Finding], allow: Collection[str] | None) -> list[Finding]:
    """The errors whose kind is not allowed. Raises: InputError if allow names what is not in ALLOWABLE."""
    kinds = [] if allow is None else [*allow] if isinstance(allow, Collection) and not isinstance(allow, str) else [allow]
    for kind in kinds:
        if kind not in ALLOWABLE:
            raise InputError(
                f"data.allow={kind}: only {', '.join(ALLOWABLE[:-1])} and {ALLOWABLE[-1]} can be allowed, like "
                f"data.allow=[{ALLOWABLE[0]}]."
            )
    return [one for one in found if one.severity == "error" and one.kind not in kinds]


def place(finding: Finding) -> str:
    """Where it is, for a person: patient P01, frame 20 (P01-0020-icontour-manual.txt)."""
    named = [f"patient {finding.patient}"] if finding.patient is not None else []
    named += [f"frame {finding.frame}"] if finding.frame is not None else []
    where = ", ".join(named)
    if finding.file is None:
        return where or "all patients"
    return f"{where} ({finding.file})" if where else finding.file


def ranked(found: Iterable[Finding]) -> list[Finding]:
    """By severity, then by kind; what is alike in both stays in the data set's order."""
    kinds = list(KINDS)
    return sorted(found, key=lambda one: (SEVERITIES.index(one.severity), kinds.index(one.kind)))
