"""Report the results of a sweep as one HTML page with tables and figures: python -m segtune.report sweep=outputs/grid.

Everything is read from disk, and the sweep may be unfinished. With run=outputs/runs/<id>, the curves of a single run are drawn.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, ListConfig

from segtune.config import entry
from segtune.errors import InputError, printable
from segtune.plots import curves, style
from segtune.runs import identity, layout
from segtune.runs.files import write_files
from segtune.runs.result import read_result
from segtune.runs.tables import read_history

if TYPE_CHECKING:
    from segtune.report.claims import Study
    from segtune.report.records import Sweep


def report(cfg: DictConfig) -> None:
    """Write the report, and print its main results and its path."""
    if bool(cfg.sweep) == bool(cfg.run):
        raise InputError(
            "say what to report: either sweep=outputs/grid, sweep=[outputs/claims,outputs/nested], or run=outputs/runs/<run "
            "id>."
        )
    _check_claims(cfg.claims)
    if cfg.run:
        print("\n".join(printable(str(path)) for path in draw_run(Path(str(cfg.run)))))
        return
    if isinstance(cfg.sweep, DictConfig):
        raise InputError(f"sweep={cfg.sweep}: must be a folder, or a list of folders in brackets.")
    given = cfg.sweep if isinstance(cfg.sweep, ListConfig) else [cfg.sweep]
    folders = [Path(folder) for folder in dict.fromkeys(str(folder) for folder in given)]
    print(report_sweeps(folders, claims=cfg.claims))


def report_sweeps(folders: list[Path], *, claims: str | None = None) -> Path:
    """Write the report of one or several sweeps, print its main results, and return the path of the page.

    The report of one sweep is written into its folder. The report of several sweeps is written into a new folder beside
    the first sweep. The name of this folder combines the names of all the sweeps.

    Args: claims: the name of the published study to judge. If it is "none", no claims are judged. If it is None, the
        study to which all sweeps belong is used, if there is one.
    """
    from segtune.report import analysis, page, reading, sentences

    _check_claims(claims)
    sweep = reading.read(folders)
    names = [folder.resolve().name for folder in folders]
    out = folders[0] if len(folders) == 1 else folders[0].resolve().parent / "+".join(names)
    left_out = [printable(f"{run} is left out: {why}") for run, why in sweep.left_out]
    if not sweep.records:
        print("\n".join(left_out))
        raise InputError(
            f"{folders[0]}: none of its {sweep.n_listed} runs has a complete result. Start the sweep's command again."
        )
    found = analysis.Analysis(sweep, study_of(sweep, claims))
    written = page.write(found, out, name=" + ".join(names))
    said = [*left_out, *sentences.alarms(found), *sentences.sentences(found)]
    print("\n".join(map(printable, said)))  # after writing, since printing into a closed pipe ends the program
    return written


def study_of(sweep: "Sweep", claims: str | None) -> "Study | None":
    """Return the study with the name `claims`. If `claims` is None, return the study to which all sweeps belong.

    The result is None if there is no such study.
    """
    studies = _studies()
    if claims is not None:
        return studies.get(claims)
    return next((study for study in studies.values() if study.sweeps.issuperset(sweep.studies)), None)


def _studies() -> "dict[str, Study]":
    from segtune.studies import right_ventricle

    return {"right_ventricle": right_ventricle.STUDY}


def _check_claims(claims: Any) -> None:
    if claims is None:
        return
    options = [*_studies(), "none"]
    if claims not in options:
        raise InputError(f"claims={claims}: must be {' or '.join(options)}. Without claims=, the study= of the sweeps is used.")


def draw_run(folder: Path) -> list[Path]:
    """Draw loss and Dice of one finished run. Returns: the paths of the figures."""
    result = read_result(folder)
    try:
        best_epoch, label = int(result["best"]["epoch"]), identity.label_of(result)
        augmented = bool(result["config"].get("augment"))
        figure = curves.curves(read_history(folder), best_epoch, title=label, augmented=augmented)
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{folder / layout.RESULT} or history.csv is damaged. Remove the file and start the run again."
        ) from error
    return write_files(folder / layout.CURVES, style.rendered(figure))


if __name__ == "__main__":
    entry.entry("report", report)
