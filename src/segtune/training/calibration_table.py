"""The printed table of a calibration, with the measurements and the lambdas that were computed from them."""

import statistics
from typing import Any

from segtune.runs import words
from segtune.training.lambda_search import GRADIENT_SEEDS, SEEDS, STEPS


def table(record: dict[str, Any], config: dict[str, Any], label: str) -> str:
    """Return the text of the table. Args: record: the content of calibration.json."""
    at, penalty, free = record["start"], record["penalty"], record["trials"][0]
    closed = f", closed form {penalty['closed_form']:,.6g}" if penalty["closed_form"] else ""
    norms = f"loss {at['loss_gradient']:.3g}, penalty {at['penalty_gradient']:.3g}"
    after = f"loss {_late(free['loss']):.4g}, penalty {free['penalty'][-1]:,.6g}"
    lines = [
        title(config, label),
        f"penalty of a fresh network: {penalty['mean']:,.6g} +- {penalty['sd']:,.2g} ({penalty['n']} seeds{closed})",
        f"loss at the first step: {at['loss']:.4g} +- {at['loss_sd']:.2g} ({SEEDS} seeds; one run's ratio scatters so)",
        f"norm of the gradient there: {norms} ({GRADIENT_SEEDS} seeds)",
        f"after {STEPS} steps of one image without a penalty: {after}",
        "",
        f"what a lambda does, measured over {STEPS} steps:",
        *words.table(_trial_rows(record), numbers_from=0),
    ]
    given = config["reg"]["lambda"]
    if given != "auto":
        ratio, by_gradient = given * at["penalty"] / at["loss"], given * at["penalty_gradient"] / at["loss_gradient"]
        lines.append(f"reg.lambda={given:g} starts at a ratio of {ratio:.3g} (of gradients: {by_gradient:.3g})")
    asked = f"ratio {record['ratio']:g}: reg.lambda={record['lambda']:.6g}"
    return "\n".join([*lines, f"{asked} (by gradients: {record['lambda_by_gradient']:.6g})"])


def _trial_rows(record: dict[str, Any]) -> list[list[str]]:
    """Return the header and a row for each ratio of penalty to loss.

    The last columns are filled only for lambdas that were tried in a short training.
    """
    rows = [["ratio", "lambda", "by gradients", "loss after", "ratio after", "penalty left", ""]]
    trials = {trial["strength"]: trial for trial in record["trials"]}
    untouched = record["trials"][0]["penalty"][-1]
    for row in record["table"]:
        cells = [f"{row['ratio']:g}", f"{row['lambda']:.3g}", f"{row['lambda_by_gradient']:.3g}", "", "", "", ""]
        if trial := trials.get(row["lambda"]):
            loss, left = _late(trial["loss"]), trial["penalty"][-1]
            collapse = "the weights collapse" if trial["collapsed"] else ""
            cells[3:] = [f"{loss:.4g}", f"{trial['strength'] * left / loss:.3g}", f"{left / untouched:.0%}", collapse]
        rows.append(cells)
    return rows


def _late(values: list[float]) -> float:
    """The mean over the last third of the steps, because values of single small batches vary a lot."""
    return statistics.fmean(values[-len(values) // 3 :])


def title(config: dict[str, Any], label: str) -> str:
    """Return one line that names the calibrated run and its penalty."""
    name = str(config["reg"]["penalty"]["_target_"]).rpartition(".")[2]
    penalty = f"{name} of {config['reg']['on']}"
    return f"{label}: {penalty}"
