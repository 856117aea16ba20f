"""python -m segtune.report sweep=outputs/grid: the figures of a sweep, or of one run, from what is on disk."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from tqdm import tqdm

from segtune import app, results
from segtune.errors import InputError
from segtune.report import figures


def report(cfg: DictConfig) -> None:
    """Draw what is missing, and say where it is."""
    if bool(cfg.sweep) == bool(cfg.run):
        raise InputError("say what to draw: sweep=outputs/grid, or run=outputs/runs/<run id>.")
    written = draw_run(Path(str(cfg.run))) if cfg.run else draw_sweep(Path(str(cfg.sweep)))
    print("\n".join(str(path) for path in written))


def draw_run(folder: Path) -> list[Path]:
    """The study's figure of one finished run."""
    result = results.read_result(folder)
    try:
        best_epoch, label = int(result["best"]["epoch"]), results.label(result["config"])
        figure = figures.curves(results.read_history(folder), best_epoch, title=label)
    except (LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{folder / results.RESULT} or its history.csv is damaged. Remove it and start the run again."
        ) from error
    return figures.save(figure, folder / results.CURVES)


def draw_sweep(folder: Path) -> list[Path]:
    """Every finished run's figure, where there is none yet, and the sweep's overview; prints a line per run.

    A run whose files are damaged is named and left out.
    """
    runs = [folder.resolve().parent / "runs" / run["run_id"] for run in results.read_sweep(folder)["runs"]]
    done: list[tuple[Path, dict[str, Any], dict[str, list[float]]]] = []
    for run in tqdm([run for run in runs if results.is_done(run, run.name)], desc="figures", disable=None):
        try:
            if not (run / f"{results.CURVES}.svg").exists():
                draw_run(run)
            result, history = results.read_result(run), results.read_history(run)
            results.label(result["config"]), history["epoch"][int(result["best"]["epoch"]) - 1], result["last"]["val_dice"]
        except (InputError, LookupError, TypeError, ValueError, AttributeError) as error:
            why = str(error) if isinstance(error, InputError) else "its result.json or history.csv is damaged."
            print(f"{run} is left out: {why}")
            continue
        done.append((run, result, history))
    if not done:
        raise InputError(f"{folder}: none of its {len(runs)} runs has a whole result. Start its command again.")
    others = results.differences([result["config"] for _, result, _ in done])
    panels = {}
    for (run, result, history), other in zip(done, others, strict=True):
        axes = results.axes(result["config"])
        row = ", ".join(filter(None, [axes["loss"], axes["reg"], other]))
        column = f"validation {axes['split']}, batch {axes['batch']}"
        panels[row, column] = (history, int(result["best"]["epoch"]))
        name = " ".join(filter(None, [results.label(result["config"]), other]))
        print(f"last Dice {_number(result['last']['val_dice'])}, best {_number(result['best']['val_dice'])}  {name}  {run}")
    name = folder.resolve().name
    title = f"{name}: {len(done)} of {len(runs)} runs (each loss over its panel's maximum)"
    written = figures.save(figures.overview(panels, title=title), folder / results.CURVES)
    splits = {_split(result["config"]["split"]): result["data"]["patients"] for _, result, _ in done}
    return written + figures.save(
        figures.sides(dict(sorted(splits.items())), title=f"{name}: who is where"), folder / results.SIDES
    )


def _split(config: dict[str, Any]) -> str:
    """A name for a split: patient 0.2 seed 0."""
    number = config.get("val_fraction", f"fold {config.get('fold')}")
    return f"{config['by']} {number} seed {config['seed']}"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    app.entry("report", report)
