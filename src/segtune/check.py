"""python -m segtune.check data=rvsc data.root=...: what a data set holds, and what is wrong with it.

Printed, and written as one page to outputs/check/<id>/check.html. Exit code 1 if there is an error that data.allow does not
name. Of data sets with contour files (RVSC, Sunnybrook) the contours of both targets are checked, whichever a run would use.
"""

import sys
from pathlib import Path

from hydra.errors import InstantiationException
from omegaconf import DictConfig

from segtune.config import entry, rules
from segtune.data import contour_files, findings, inspection, slice_checks
from segtune.data.findings import Finding
from segtune.data.slices import SliceSet
from segtune.errors import InputError, printable
from segtune.runs import identity
from segtune.runs.files import write_atomically


def check(cfg: DictConfig) -> None:
    """Look at the data, print what was found, write the page; exit code 1 for errors that are not allowed."""
    config = entry.plain(cfg)
    rules.check(config)
    data = config["data"]
    findings.not_allowed([], data["allow"])  # a wrong kind is told before the work
    slices, found = examine(cfg)
    shown = {key: value for key, value in data.items() if key not in inspection.UNUSED and value is not None}
    reader = data["reader"]["_target_"].split(".")[-2]
    refused = findings.not_allowed(found, data["allow"])
    patients = [inspection.row_of(mine) for mine in slices.by_patient()]
    folder = Path(cfg.outputs) / "check" / f"{reader}-{identity.run_id({'data': shown, 'split': config['split']})}"
    folder.mkdir(parents=True, exist_ok=True)
    about = f"data={reader} " + " ".join(f"data.{key}={value}" for key, value in shown.items())
    write_atomically(
        folder / inspection.PAGE, inspection.render_page(about, slices, patients, found, refused).encode(errors="replace")
    )
    lines = [
        about,
        "",
        *inspection.patient_table(slices, patients),
        "",
        *inspection.listing(found),
        inspection.verdict(found, refused),
        str(folder / inspection.PAGE),
    ]
    print("\n".join(map(printable, lines)))
    sys.stdout.flush()
    if refused:
        sys.exit(1)


# Looking


def examine(cfg: DictConfig) -> tuple[SliceSet, list[Finding]]:
    """The data set and all findings. Where its reader refuses it, it is empty, and every contour file was looked at.

    Raises: InputError if there is nothing that could be looked at one by one.
    """
    from segtune.training import build

    has_contours = bool(contour_files.listed(cfg.data))
    refusal, slices = None, SliceSet(())
    try:
        slices = build.slices(cfg)
    except InstantiationException as error:  # in which Hydra wraps what a reader raises
        if not has_contours or not isinstance(error.__cause__, InputError):
            raise
        refusal = str(error.__cause__)
    found = contour_files.find(cfg.data, slices, with_folders=True)
    told = {place for one in found for place in (one.file, one.message) if one.severity == "error" and place}
    if refusal and not any(place in refusal for place in told):
        found.append(Finding("error", "unreadable", None, None, None, refusal))
    if len(slices):
        sides = None
        try:
            sides = build.split(cfg, slices)
        except InputError as error:
            found.append(Finding("warning", "split", None, None, None, str(error)))
        return slices, findings.joined(found, slice_checks.find(slices, sides))
    return slices, findings.ranked(found)


if __name__ == "__main__":
    entry.entry("check", check)
