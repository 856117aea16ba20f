"""python -m segtune.report sweep=outputs/grid: what a sweep proves, as one HTML page with its tables and figures.

Finished or not, of one run or a thousand; from what is on disk. run=outputs/runs/<id> draws one run's curves.
"""

from pathlib import Path

from omegaconf import DictConfig, ListConfig

from segtune.config import entry
from segtune.errors import InputError, printable
from segtune.plots import figures
from segtune.runs import identity, layout
from segtune.runs.files import write_files
from segtune.runs.result import read_result
from segtune.runs.tables import read_history


def report(cfg: DictConfig) -> None:
    """Write the report, and say where it is and what it says first."""
    if bool(cfg.sweep) == bool(cfg.run):
        raise InputError(
            "say what to report: sweep=outputs/grid, sweep=[outputs/claims,outputs/nested], or run=outputs/runs/<run id>."
        )
    if cfg.run:
        print("\n".join(printable(str(path)) for path in draw_run(Path(str(cfg.run)))))
        return
    if isinstance(cfg.sweep, DictConfig):
        raise InputError(f"sweep={cfg.sweep}: must be a folder, or a list of folders in brackets.")
    given = cfg.sweep if isinstance(cfg.sweep, ListConfig) else [cfg.sweep]
    folders = [Path(folder) for folder in dict.fromkeys(str(folder) for folder in given)]
    print(report_sweeps(folders))


def report_sweeps(folders: list[Path]) -> Path:
    """The report of one sweep, in its folder; of several together, beside the first, in a folder named after all of them."""
    from segtune.report import page, records, tables

    sweep = records.read(folders)
    names = [folder.resolve().name for folder in folders]
    out = folders[0] if len(folders) == 1 else folders[0].resolve().parent / "+".join(names)
    left_out = [printable(f"{run} is left out: {why}") for run, why in sweep.left_out]
    if not sweep.records:
        print("\n".join(left_out))
        raise InputError(f"{folders[0]}: none of its {sweep.n_listed} runs has a whole result. Start its command again.")
    analysis = tables.Analysis(sweep)
    written = page.write(analysis, out, name=" + ".join(names))
    print(
        "\n".join(map(printable, [*left_out, *page.alarms(analysis), *page.sentences(analysis)]))
    )  # after writing: a closed pipe ends here
    return written


def draw_run(folder: Path) -> list[Path]:
    """The study's figure of one finished run."""
    result = read_result(folder)
    try:
        best_epoch, label = int(result["best"]["epoch"]), identity.label(result["config"])
        figure = figures.curves(read_history(folder), best_epoch, title=label)
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{folder / layout.RESULT} or its history.csv is damaged. Remove it and start the run again."
        ) from error
    return write_files(folder / layout.CURVES, figures.rendered(figure))


if __name__ == "__main__":
    entry.entry("report", report)
