"""python -m segtune.check data=rvsc data.root=...: list the content of a data set and the errors in it.

The result is printed, and written as an HTML page to outputs/check/<id>/check.html. The exit code is 1 if there is an
error of a kind that is not listed in data.allow. For data sets with contour files (RVSC, Sunnybrook), the contours of
both targets are checked, although a run uses only one.
"""

import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from segtune.config import entry, rules
from segtune.data import examination, findings, inspection, readers
from segtune.data.inspection import Patient
from segtune.data.slices import SliceSet
from segtune.errors import printable
from segtune.runs import identity, words
from segtune.runs.files import write_atomically


def check(cfg: DictConfig) -> None:
    """Read the data, print the findings and write the page. Exit with code 1 for errors not listed in data.allow."""
    from segtune.training import build

    config = entry.plain(cfg)
    rules.check(config)
    data, allowed = config["data"], config["data"]["allow"]
    findings.not_allowed([], allowed)  # raises for an unknown kind before the data are read
    slices, found = examination.examine(data, functools.partial(build.slices, cfg), functools.partial(build.split, cfg))
    refused = findings.not_allowed(found, allowed)
    patients = [inspection.row_of(mine) for mine in slices.by_patient()]
    shown = {key: value for key, value in data.items() if key not in inspection.UNUSED and value is not None}
    about = " ".join([f"data={readers.of(data).name}", *(f"data.{key}={value}" for key, value in shown.items())])
    name = f"{readers.of(data).name}-{identity.run_id({'data': shown, 'split': config['split']})}"
    page = Path(cfg.outputs) / "check" / name / inspection.PAGE
    page.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(page, inspection.render_page(about, slices, patients, found, refused).encode(errors="replace"))
    verdict = inspection.verdict(found, refused)
    lines = [about, "", *_table(slices, patients), "", *inspection.listing(found), verdict, str(page)]
    print("\n".join(map(printable, lines)), flush=True)
    if refused:
        sys.exit(1)


def _table(slices: SliceSet, patients: Sequence[Patient]) -> list[str]:
    """Return the lines of the table of patients, followed by an explanation of its columns."""
    if not patients:
        return ["The data could not be read as a whole; see the errors."]
    lines = words.table(inspection.patient_cells(slices, patients), numbers_from=len(inspection.HEADS))
    more = len(patients) - inspection.MOST_LINES
    return [*lines, *([f"... and {more} more patients on the page"] if more > 0 else []), inspection.MEANING]


if __name__ == "__main__":
    entry.entry("check", check)
