"""The tables and the page of segtune.check: the patients of a data set, and the findings in it."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

import segtune
from segtune.data import findings
from segtune.data.findings import Finding
from segtune.data.slices import Slice, SliceSet

UNUSED = ("reader", "allow", "spacing_mm", "larger", "normalize")  # keys without effect, because data are checked as stored
MOST_LINES = 20  # largest number of patients, and of findings of each kind, in the printed text; the page lists all
PAGE = "check.html"


class Patient(NamedTuple):
    """One row of the table of patients. It contains numbers of slices, and ranges of values as text."""

    patient: str
    slices: int
    ED: int
    ES: int
    other: int
    empty: int
    pixels: str
    spacing_mm: str
    gap_mm: str
    intensity: str
    foreground: str


HEADS = {  # of the table of patients
    **{"patient": "patient", "slices": "slices", "ED": "ED", "ES": "ES", "other": "other", "empty": "empty"},
    **{"pixels": "pixels", "spacing_mm": "pixel [mm]", "gap_mm": "gap [mm]", "intensity": "intensity"},
    "foreground": "foreground [%]",
}
MEANING = (
    "slices: number of slices; ED, ES, other: at end-diastole, at end-systole, at neither or unknown; empty: without the "
    "structure; gap: distance between slices; intensity: 1st, 50th and 99th percentile; foreground: pixels of the "
    "structure, in the slices that show it."
)


def row_of(mine: Sequence[Slice], name: str | None = None) -> Patient:
    """Return the row of one patient or, if a name is given, of several patients together."""
    phases = [item.phase for item in mine]
    shares = [100 * share for item in mine if (share := item.mask.mean())]
    values = np.concatenate([item.image[::4, ::4].ravel() for item in mine])  # enough for percentiles
    return Patient(
        patient=name or mine[0].patient,
        slices=len(mine),
        ED=phases.count("ED"),
        ES=phases.count("ES"),
        other=phases.count(None),
        empty=len(mine) - len(shares),
        pixels=_several(f"{item.image.shape[0]} x {item.image.shape[1]}" for item in mine),
        spacing_mm=_several(" x ".join(f"{mm:.4g}" for mm in dict.fromkeys(item.spacing_mm)) for item in mine),
        gap_mm=_several("?" if item.gap_mm is None else f"{item.gap_mm:.4g}" for item in mine),
        intensity=" / ".join(f"{value:.4g}" for value in np.percentile(values, [1, 50, 99])),
        foreground=f"{min(shares):.2f} to {max(shares):.2f}" if shares else "none",
    )


def _several(values: Iterator[str]) -> str:
    """Return the distinct values as text, at most three of them."""
    different = list(dict.fromkeys(values))
    return ", ".join(different[:3]) + (f", ... ({len(different)})" if len(different) > 3 else "")


def total(slices: SliceSet, patients: Sequence[Patient]) -> Patient:
    """The row of all patients together."""
    return row_of(list(slices), f"all {len(patients)}")


def patient_cells(slices: SliceSet, patients: Sequence[Patient]) -> list[list[str]]:
    """Return the rows of the printed table: column heads, the row of all patients, and at most MOST_LINES patients."""
    return [[*HEADS.values()], *([str(value) for value in row] for row in [total(slices, patients), *patients[:MOST_LINES]])]


def listing(found: Sequence[Finding]) -> list[str]:
    """Return the findings as lines of text, at most MOST_LINES of each kind."""
    lines: list[str] = []
    for severity in findings.SEVERITIES:
        for kind in dict.fromkeys(one.kind for one in found if one.severity == severity):
            mine = [one for one in found if (one.severity, one.kind) == (severity, kind)]
            lines.append(f"{severity}: {kind}, {findings.KINDS[kind]} ({len(mine)})")
            lines += [f"  {findings.place(one)}: {one.message}" for one in mine[:MOST_LINES]]
            lines += [f"  ... and {len(mine) - MOST_LINES} more on the page"] if len(mine) > MOST_LINES else []
    return [*lines, ""] if lines else lines


def verdict(found: Sequence[Finding], refused: Sequence[Finding]) -> str:
    """Say how many findings there are of each severity, and what to do about errors that would stop a run."""
    counts = {severity: sum(one.severity == severity for one in found) for severity in findings.SEVERITIES}
    counted = ", ".join(f"{n} {severity}{'s' * (n != 1)}" for severity, n in counts.items())
    if not refused:
        return f"{counted}." + (" All errors are allowed (data.allow)." if counts["error"] else "")
    kinds = sorted({one.kind for one in refused})
    if any(kind not in findings.ALLOWABLE for kind in kinds):
        return f"{counted}. Correct the errors first."
    return f"{counted}. Correct the errors, or continue in spite of them with data.allow=[{','.join(kinds)}]."


def render_page(
    about: str, slices: SliceSet, patients: Sequence[Patient], found: Sequence[Finding], refused: Sequence[Finding]
) -> str:
    """The page as one self-contained HTML file. All text from the data is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("segtune.data", "."), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.get_template(PAGE).render(
        about=about,
        version=segtune.__version__,
        heads=list(HEADS.values()),
        rows=[total(slices, patients), *patients] if patients else [],
        meaning=MEANING,
        found=found,
        kinds=findings.KINDS,
        verdict=verdict(found, refused),
    )
