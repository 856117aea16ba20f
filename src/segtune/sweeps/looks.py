"""The plan of a sweep: at which numbers of seeds or folds it may be judged, and which runs were added too late.

If a sweep were judged after every seed and stopped at the first clear difference, 11 to 43 % of sweeps would state a false
difference. So a sweep is judged only once, when all its runs are done, or at the looks that were declared before it started.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from segtune.errors import InputError
from segtune.runs import identity
from segtune.runs.schema import Sweep
from segtune.sweeps.plan import Run

LEAST_SEEDS, LEAST_FOLDS = 2, 5  # of a configuration, with fewer of which a report decides nothing (report/decisions.py)


def positions(runs: Sequence[Run]) -> dict[str, int]:
    """Return the index (from 0) of each run's seed among the seeds of its configuration.

    In cross-validation, the index is that of the run's fold among the folds of its configuration.
    """
    units: dict[str, list[int]] = defaultdict(list)
    found: dict[str, int] = {}
    for run in runs:
        of = units[identity.cell_id(run.config)]
        unit = run.config["seed"] if (fold := _fold(run)) is None else fold
        if unit not in of:
            of.append(unit)
        found[run.run_id] = of.index(unit)
    return found


def check(looks: Sequence[int], runs: Sequence[Run]) -> None:
    """Check that verdicts are possible at the first look. Raises: InputError if it has too few seeds or folds."""
    least, unit = (LEAST_FOLDS, "folds") if any(_fold(run) is not None for run in runs) else (LEAST_SEEDS, "seeds")
    if looks and looks[0] < least:
        raise InputError(
            f"looks={list(looks)}: nothing can be decided from fewer than {least} {unit}. Start with {least} or more."
        )


def added(runs: Sequence[Run], looks: Sequence[int], earlier: Iterable[Sweep], position: Mapping[str, int]) -> list[str]:
    """Return the runs that were added to configurations after an earlier sweep was judged.

    An earlier sweep with the same looks is ignored.

    Args: earlier: the sweeps that were declared before this sweep. position: the result of `positions`.
    """
    finished = {run.run_id for run in runs if run.state == "completed"}
    cells: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        cells[identity.cell_id(run.config)].append(run)
    found = set[str]()
    for sweep in earlier:
        if looks and list(looks) == sweep.get("looks"):
            continue
        listed = {run["run_id"] for run in sweep["runs"]}
        for of in cells.values():
            old = [run for run in of if run.run_id in listed]
            least = LEAST_SEEDS if _fold(of[0]) is None else LEAST_FOLDS
            if len({position[run.run_id] for run in old}) >= least and finished.issuperset(run.run_id for run in old):
                found |= {run.run_id for run in of if run.run_id not in listed}
    return [run.run_id for run in runs if run.run_id in found]


def _fold(run: Run) -> int | None:
    fold: int | None = run.config["split"].get("fold")
    return fold
