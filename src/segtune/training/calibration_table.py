"""The printed table of a calibration: what was measured, and the lambdas that follow from it."""

import statistics
from typing import Any

from segtune.runs import identity
from segtune.training.lambda_search import GRADIENT_SEEDS, SEEDS, STEPS


def table(record: dict[str, Any], config: dict[str, Any]) -> str:
    """The lines of the table. record: the content of calibration.json."""
    at, penalty, free = record["start"], record["penalty"], record["trials"][0]
    closed = f", closed form {penalty['closed_form']:,.6g}" if penalty["closed_form"] else ""
    norms = f"loss {at['loss_gradient']:.3g}, penalty {at['penalty_gradient']:.3g}"
    after = f"loss {_late(free['loss']):.4g}, penalty {free['penalty'][-1]:,.6g}"
    lines = [
        title(config),
        f"penalty of a fresh network: {penalty['mean']:,.6g} +- {penalty['sd']:,.2g} ({penalty['n']} seeds{closed})",
        f"loss at the first step: {at['loss']:.4g} +- {at['loss_sd']:.2g} ({SEEDS} seeds; one run's ratio scatters so)",
        f"norm of the gradient there: {norms} ({GRADIENT_SEEDS} seeds)",
        f"after {STEPS} steps of one image without a penalty: {after}",
        "",
        f"{'':>6}  {'':>10}  {'lambda by':>10}  after {STEPS} steps with this lambda",
        f"{'ratio':>6}  {'lambda':>10}  {'gradients':>10}  {'loss':>7}  {'ratio':>7}  penalty left",
    ]
    trials = {trial["strength"]: trial for trial in record["trials"]}
    for row in record["table"]:
        line = f"{row['ratio']:>6g}  {row['lambda']:>10.3g}  {row['lambda_by_gradient']:>10.3g}"
        if trial := trials.get(row["lambda"]):
            loss, left = _late(trial["loss"]), trial["penalty"][-1]
            line += f"  {loss:>7.4g}  {trial['strength'] * left / loss:>7.3g}  {left / free['penalty'][-1]:.0%}"
            line += " (the weights collapse)" if trial["collapsed"] else ""
        lines.append(line)
    given = config["reg"]["lambda"]
    if given != "auto":
        ratio, by_gradient = given * at["penalty"] / at["loss"], given * at["penalty_gradient"] / at["loss_gradient"]
        lines.append(f"reg.lambda={given:g} starts at a ratio of {ratio:.3g} (of gradients: {by_gradient:.3g})")
    asked = f"ratio {record['ratio']:g}: reg.lambda={record['lambda']:.6g}"
    return "\n".join([*lines, f"{asked} (by gradients: {record['lambda_by_gradient']:.6g})"])


def _late(values: list[float]) -> float:
    """The mean of the last third of the steps, because single batches of a few images scatter."""
    return statistics.fmean(values[-len(values) // 3 :])


def title(config: dict[str, Any]) -> str:
    """The recipe that a calibration is for, in one line."""
    axes = identity.axes(config)
    name = str(config["reg"]["penalty"]["_target_"]).rpartition(".")[2]
    penalty = f"{name} of {config['reg']['on']}"
    return f"loss={axes['loss']} split={axes['split']} batch={axes['batch']}: {penalty}"
