"""The sentences of a report: the result, the power of the sweep, and warnings."""

import math
from collections.abc import Sequence

from segtune.report import stats
from segtune.report.analysis import Analysis
from segtune.report.comparisons import CANNOT_TELL, DECLARED, Judged
from segtune.report.records import Record
from segtune.report.tables import finding_rows
from segtune.runs import identity
from segtune.runs.words import count


def sentences(analysis: Analysis) -> list[str]:
    """State the result: the best configuration, the configurations that are not declared worse, and the axes that matter."""
    if not analysis.best:
        return ["There is no result, because no run has a patient with a defined Dice."]
    cell, e = analysis.cells[0]
    interval = f"95 % interval {e.low:.3f} to {e.high:.3f}" if math.isfinite(e.low) else "no interval from a single patient"
    sample = f"{count(e.n_patients, 'validation patient')}, {count(e.n_seeds, 'seed')}"
    n_others = len(analysis.cells) - 1
    if not n_others:
        only = f"The only configuration, {cell.name}, reaches a mean Dice of {e.value:.3f} after the last epoch"
        return [f"{only} ({interval}; {sample}).", "There is nothing to compare it with.", _obstacle(analysis)]
    first = f"{cell.name} has the highest mean Dice after the last epoch, {e.value:.3f} ({interval}; {sample})."
    return [first, _others(analysis, n_others), _influences(analysis)]


def _others(analysis: Analysis, n_others: int) -> str:
    same = len(analysis.not_worse) - 1
    if same < n_others:
        worse = n_others - same
        return f"{worse} of the other {n_others} configurations are declared worse, and {same} are not."
    if n_others == 1:
        return f"The other configuration is not declared worse. {_obstacle(analysis)}"
    return f"None of the other {n_others} configurations is declared worse. {_obstacle(analysis)}"


def _influences(analysis: Analysis) -> str:
    """State the share of the variance due to the most important axis, or else the largest declared difference."""
    declared = [one for one in analysis.judged if one.comparison.kind == "axis" and one.verdict == DECLARED]
    if analysis.variance:
        source, _, _, share = analysis.variance[0]
        _, freedom, _, residual = analysis.variance[-1]
        replicates = f"{100 * residual:.0f} % is between replicates" if freedom else "there are no replicates"
        said = f"Of the variance between runs, {100 * share:.0f} % is due to {source}; {replicates}."
        return said + (f" Differences declared between values of an axis: {len(declared)}." if declared else "")
    if not declared:
        return "No difference between the values of an axis could be declared."
    largest = max((one.comparison for one in declared), key=lambda one: abs(one.estimate.value))
    e = largest.estimate
    return (
        f"The largest declared difference between values of an axis is {largest.of}: {largest.name}, {e.value:+.3f} "
        f"(95 % interval {e.low:+.3f} to {e.high:+.3f})."
    )


def _obstacle(analysis: Analysis) -> str:
    """State why a difference cannot be declared, for the undecided comparison with the largest difference."""
    undecided = [one for one in analysis.judged if one.verdict == CANNOT_TELL]
    if undecided:
        return f"The reason: {max(undecided, key=_size).why}."
    limit = stats.mean(analysis.best.scores).limit() if analysis.best else ""
    return f"No comparison would be possible: {limit}." if limit else ""


def _size(one: Judged) -> float:
    value = one.comparison.estimate.value
    return abs(value) if math.isfinite(value) else -1.0


def power_sentence(analysis: Analysis) -> str:
    """State the power to declare a true difference of 0.05; empty if it is unknown."""
    power, sd, run = analysis.power
    if not math.isfinite(power):
        return ""
    if power == 0 and analysis.family == 0:
        return "With so few seeds or patients, no difference could be declared, even if it were large."
    if not math.isfinite(run):
        return ""  # with folds of one patient, the variances of runs and of patients cannot be separated
    pooled = analysis.cells[0][0].pooled
    if pooled.df:
        shared = f"is shared by all configurations ({pooled.df} degrees of freedom)"
    else:
        shared = "is estimated for each configuration separately"
    return (
        f"The variance between runs {shared}. Power: with the variation measured here (sd of patients' differences {sd:.3f}, "
        f"sd of runs {run:.3f}) and the same numbers of seeds and patients, a true difference of 0.05 between two "
        "configurations would "
        f"be declared in {100 * power:.0f} % of such sweeps."
    )


def alarms(analysis: Analysis) -> list[str]:
    """The warnings at the top of the page: unverified files, different code, and errors in the data that were allowed."""
    records = analysis.sweep.records
    unverified = sum(not record.result.get("files") for record in records)
    found = []
    if unverified:
        found.append(
            f"{unverified} runs were made by an earlier version of segtune that recorded no hashes, so changes of their files "
            "cannot be detected."
        )
    found += unlike_code(records)
    for row in finding_rows(records):
        if row["severity"] == "error":
            found.append(
                f"Errors in the data were allowed (data.allow): {row['kind']}, up to {row['n_most']} per run, in "
                f"{row['n_runs']} of the {row['n_recorded']} runs on data {row['data'][:6]}. The first error: {row['first']}"
            )
    return found


def unlike_code(records: Sequence[Record]) -> list[str]:
    """Warn if the compared runs, or the attempts of one run, were computed with different code."""
    made: dict[str, dict[str, set[str]]] = {"segtune": {}, "torch": {}, "commit": {}}
    dirty = set()
    for record in records:
        attempts = record.result.get("attempts")
        for one in attempts if isinstance(attempts, list) and attempts else [record.result]:
            versions, git = (one.get(key) or {} for key in ("versions", "git"))
            for name in ("segtune", "torch"):
                if name in versions:
                    made[name].setdefault(str(versions[name]), set()).add(record.run_id)
            if git.get("commit"):
                made["commit"].setdefault(str(git["commit"])[:10], set()).add(record.run_id)
            if git.get("dirty"):
                dirty.add(record.run_id)
    found = []
    for name, runs_of in made.items():
        if len(runs_of) > 1:
            each = ", ".join(f"{version} ({len(runs)} runs)" for version, runs in sorted(runs_of.items()))
            found.append(f"Runs of more than one {name} are compared: {each}. A difference may be due to the code.")
    found += _unlike_inputs(records)
    if dirty:
        found.append(
            f"{len(dirty)} of {len(records)} runs come from a checkout with uncommitted changes, so their exact code is "
            "unknown."
        )
    return found


def _unlike_inputs(records: Sequence[Record]) -> list[str]:
    """Warn if runs of one configuration were made with different versions of the user's own code or files."""
    versions: dict[tuple[str, str], dict[str, int]] = {}
    for record in records:
        inputs = record.result.get("inputs")
        for name, digest in inputs.items() if isinstance(inputs, dict) else ():
            if name != "data":
                of = versions.setdefault((identity.cell_id(record.config, record.fingerprint), str(name)), {})
                of[str(digest)] = of.get(str(digest), 0) + 1
    unlike = {name: sorted(of.values(), reverse=True) for (_, name), of in versions.items() if len(of) > 1}
    return [
        f"Runs of one configuration were made with {len(counts)} versions of {name} ({', '.join(map(str, counts))} runs). They "
        "are not replicates of each other, although they are pooled here. Start the older runs again."
        for name, counts in sorted(unlike.items())
    ]
