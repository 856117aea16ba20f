"""python -m segtune.report sweep=outputs/grid: the figures of a sweep, or of one run, from what is on disk."""

from pathlib import Path

from omegaconf import DictConfig
from tqdm import tqdm

from segtune import app, results
from segtune.errors import InputError
from segtune.report import figures


def report(cfg: DictConfig) -> None:
    """Draw what is missing, and say where it is."""
    if bool(cfg.sweep) == bool(cfg.run):
        raise InputError("say what to draw: sweep=outputs/grid, or run=outputs/runs/<run id>.")
    written = draw_run(Path(cfg.run)) if cfg.run else draw_sweep(Path(cfg.sweep))
    print("\n".join(str(path) for path in written))


def draw_run(folder: Path) -> list[Path]:
    """The study's figure of one finished run."""
    result = results.read_result(folder)
    figure = figures.curves(results.read_history(folder), result["best"]["epoch"], title=results.label(result["config"]))
    return figures.save(figure, folder / results.CURVES)


def draw_sweep(folder: Path) -> list[Path]:
    """Every finished run's figure, where there is none yet, and the sweep's overview; prints a line per run."""
    runs = [folder.parent / "runs" / run["run_id"] for run in results.read_sweep(folder)["runs"]]
    done = [run for run in runs if results.is_done(run, run.name)]
    if not done:
        raise InputError(f"{folder}: none of its {len(runs)} runs has finished yet. Start its command again.")
    found = [results.read_result(run) for run in done]
    others = results.differences([result["config"] for result in found])
    panels = {}
    for run, result, other in zip(tqdm(done, desc="figures", disable=None), found, others, strict=True):
        if not (run / f"{results.CURVES}.svg").exists():
            draw_run(run)
        axes = results.axes(result["config"])
        row = ", ".join(filter(None, [axes["loss"], axes["reg"], other]))
        column = f"validation {axes['split']}, batch {axes['batch']}"
        panels[row, column] = (results.read_history(run), int(result["best"]["epoch"]))
        name = " ".join(filter(None, [results.label(result["config"]), other]))
        print(f"last Dice {result['last']['val_dice']:.3f}, best {result['best']['val_dice']:.3f}  {name}  {run}")
    assert len(panels) == len(done)
    title = f"{folder.name}: {len(done)} of {len(runs)} runs (each loss over its panel's maximum)"
    return figures.save(figures.overview(panels, title=title), folder / results.CURVES)


if __name__ == "__main__":
    app.entry("report", report)
