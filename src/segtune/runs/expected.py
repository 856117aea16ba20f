"""Read the expected score of a configuration from the report of the sweep in which the configuration was chosen."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segtune.errors import InputError
from segtune.runs import identity, layout
from segtune.runs.result import read_result
from segtune.runs.schema import Result
from segtune.runs.tables import read_csv

CELLS = Path("tables") / "cells.csv"  # the report's table of configurations
NUMBERS = ("dice", "dice_low", "dice_high", "honest")  # its columns; honest: the score of a winner chosen on other patients
COUNTS = ("n_patients", "n_folds", "n_runs")
EXECUTION = ("trainer.threads", "trainer.accelerator", "trainer.compile")  # configuration keys that may differ from the sweep's
CURE = "Write the sweep's report again: python -m segtune.report sweep="


def score(sweep: str, config: Mapping[str, Any], fingerprint: str) -> dict[str, Any]:
    """Return the score of a configuration from a sweep's report. The split and the seed may differ.

    Args: sweep: the sweep's folder, which contains its report. config: the configuration. fingerprint: the fingerprint
        of the data.
    Returns: a dict with these entries.
        sweep: the name of the sweep's folder.
        may_be_best: whether the configuration is in the set that may be best.
        each key of NUMBERS and COUNTS: the value in the report. An undefined number is None.
        score: how most runs of the configuration processed their predictions.
        run_ids: the ids of these runs.
    Raises: InputError if the sweep has no report, or if no run in it has this configuration and these data.
    """
    folder = Path(sweep).expanduser()
    if not (folder / layout.SWEEP).exists():
        raise InputError(f"chosen_from={sweep}: this is not the folder of a sweep. Give a folder like outputs/strong.")
    if not (folder / CELLS).exists():
        raise InputError(f"chosen_from={sweep}: this sweep has no report yet. {CURE}{sweep}")
    wanted = _comparable(config)
    differing: set[str] | None = None
    rows = read_csv(folder / CELLS)
    if not rows or not all(row.get("run_ids") for row in rows):
        raise InputError(f"{folder / CELLS}: damaged, or without a configuration. {CURE}{folder}")
    for row in rows:
        results = [_result(folder, run) for run in row["run_ids"].split()]
        first = results[0]
        differs = {key for key, value in wanted.items() ^ _comparable(first["config"]).items()}
        differs |= {"the data"} if first["data"].get("fingerprint") != fingerprint else set()
        if not differs:
            return _about(folder, row, results)
        differing = differs if differing is None or len(differs) < len(differing) else differing
    told = f" The nearest configuration differs in {', '.join(sorted(differing)[:5])}." if differing else ""
    raise InputError(
        f"chosen_from={sweep}: this configuration is not in the sweep.{told} Copy the command from the sweep's report."
    )


def _about(folder: Path, row: Mapping[str, str], results: list[Result]) -> dict[str, Any]:
    try:
        numbers = {key: value if math.isfinite(value := float(row.get(key) or "nan")) else None for key in NUMBERS}
        counts = {key: int(row[key]) for key in COUNTS}
    except (KeyError, ValueError) as error:
        raise InputError(f"{folder / CELLS}: damaged. {CURE}{folder}") from error
    chosen = [result.get("score") or {} for result in results]
    majority = {key: 2 * sum(bool(one.get(key)) for one in chosen) > len(chosen) for key in ("tta", "largest_component")}
    return {
        "sweep": folder.resolve().name,
        "may_be_best": row.get("may_be_best") == "true",
        **numbers,
        **counts,
        "score": majority,
        "run_ids": row["run_ids"].split(),
    }


def _result(sweep: Path, run: str) -> Result:
    path = sweep.resolve().parent / "runs" / _name(run)
    if not (path / layout.RESULT).exists():
        raise InputError(
            f"chosen_from={sweep}: {path} is missing. The folder of runs must be beside the folder of the sweep; copy both."
        )
    return read_result(path)


def _name(run: str) -> str:
    """Check that a run id from a table is a plain name, so that it cannot lead out of the folder of runs."""
    if Path(run).name != run or run == "..":
        raise InputError(f"{CELLS}: damaged (a run's id is {run!r}). {CURE}<the sweep's folder>")
    return run


def _comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the dotted keys and values of a configuration.

    The split, the seed, the data folder, the keys of `score` and those of EXECUTION are left out.
    """
    flat = identity.flat(config, replicates=False)
    return {key: repr(value) for key, value in flat.items() if not key.startswith(("split.", "score.", *EXECUTION))}
