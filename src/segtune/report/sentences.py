"""The sentences of a report: the result, what is missing, what to do next, and warnings."""

import math
from collections.abc import Sequence

from segtune.report.analysis import Analysis, kept
from segtune.report.groups import Group
from segtune.report.planning import GOAL, NextStep, final_command
from segtune.report.records import Record
from segtune.report.tables import finding_rows
from segtune.runs import identity
from segtune.runs.words import count, duration

MOST_NAMED = 6  # configurations that a sentence names


def sentences(analysis: Analysis) -> list[str]:
    """State the result, what limits it, and what to do next."""
    if not analysis.groups and all(record.facts.by == "all" for record in analysis.sweep.records):
        return [
            "There is nothing to compare: all runs were trained on all patients (split=all), and none is left to score them."
        ]
    if not analysis.groups:
        return ["There is no result, because no run has a patient with a defined Dice."]
    group = analysis.groups[0]
    found = [*_result(analysis, group), *_plan(analysis, group)]
    if failed := len(analysis.sweep.failures):
        found.append(
            f"{count(failed, 'run')} failed and {_are(failed)} left out of all numbers. Find out why before you choose a "
            "configuration."
        )
    found.append(_final(analysis, group))
    if len(analysis.groups) > 1:
        rest = analysis.groups[1:]
        n = sum(len(one.cells) for one in rest)
        found.append(
            f"{count(n, 'other configuration')} in {count(len(rest), 'more group')} {_are(n)} scored on other patients or "
            "data. Only configurations that are scored on the same patients are compared."
        )
        found += [f"Group {one.number}: {answer(one)}" for one in rest if len(one.cells) > 1]
    return [*filter(None, found)]


def _result(analysis: Analysis, group: Group) -> list[str]:
    first = int(group.verdicts.may_be_best.argmax())
    cell, e = group.cells[first], group.estimates[first]
    interval = f"95 % interval {e.low:.3f} to {e.high:.3f}" if math.isfinite(e.low) else "no interval from a single patient"
    units = count(e.n_folds, "fold") if e.n_folds else count(e.n_seeds, "seed")
    reached = f"a mean Dice of {e.value:.3f} after the last epoch ({interval}; {count(e.n_patients, 'patient')}, {units})"
    if len(group.cells) == 1:
        return [f"The only configuration, {cell.name}, reaches {reached}. There is nothing to compare it with."]
    so_far = "" if group.verdicts.n_reached else " so far"
    found = [answer(group), f"{cell.name} has the highest score{so_far}, {reached}."]
    honest = analysis.honest.get(group.number)
    if honest:
        found.append(
            "It was chosen on the same patients, so its score is optimistic: winners that are chosen on other patients and "
            f"runs reach {honest.score:.3f}."
        )
    return [*found, _clear(group)]


def _final(analysis: Analysis, group: Group) -> str:
    """Give the command that uses all patients to train the configuration with the highest score.

    The sentence is empty if nothing is decided.
    """
    cell = group.cells[int(group.verdicts.may_be_best.argmax())]
    command = final_command(cell, analysis.sweep)
    if not command or not group.verdicts.n_reached or analysis.sweep.failures:
        return ""
    return f"To train {cell.name} on all patients, for use on new ones: `{command}`."


def answer(group: Group) -> str:
    """State which configurations may be the best."""
    n, stay = len(group.cells), kept(group)
    if not group.verdicts.n_reached:
        return f"Nothing is decided yet among {n} configurations. The numbers are shown as they are."
    if len(stay) == n:
        return f"Any of the {n} configurations may be the best: there is not enough evidence to drop one."
    rest = n - len(stay)
    others = "The other one can be dropped." if rest == 1 else f"The other {rest} can be dropped."
    if len(stay) == 1:
        return f"{stay[0].name} is the best of {n} configurations (95 % sure). {others}"
    named = ", ".join(cell.name for cell in stay[:MOST_NAMED]) + (", ..." if len(stay) > MOST_NAMED else "")
    return f"These {len(stay)} of {n} may be the best (95 % sure that the best is among them): {named}. {others}"


def _are(n: int) -> str:
    return "is" if n == 1 else "are"


def _clear(group: Group) -> str:
    """State how many differences are clear, or what is missing before a difference can be called clear."""
    verdicts = group.verdicts
    if verdicts.n_reached and verdicts.lacking:
        return f"No difference can be called clear yet. Missing: {' and '.join(verdicts.lacking)}."
    if not verdicts.n_reached:
        return ""
    n_pairs = len(group.cells) * (len(group.cells) - 1) // 2
    return f"Clear differences between two configurations: {int(verdicts.worse.sum())} of {n_pairs}."


def _plan(analysis: Analysis, group: Group) -> list[str]:
    """State which runs are still missing, which runs were added, and what the next step is."""
    plan, verdicts, found = group.plan, group.verdicts, list[str]()
    unit = "folds" if group.has_folds else "seeds"
    if plan.looks:
        every = ", ".join(map(str, plan.looks))
        found.append(
            f"Plan: verdicts after {every} {unit} at {100 * 0.05 / len(plan.looks):.2g} % each; {verdicts.n_reached} of "
            f"{len(plan.looks)} looks are done."
        )
    elif plan.waiting:
        found.append(
            f"{count(len(plan.waiting), 'run')} of this sweep {_are(len(plan.waiting))} not finished. It is judged once, when "
            "all are done, because looking again and again finds differences that are not there. To look earlier, declare it "
            "before the start, like looks=[3,5,10]."
        )
    if plan.added:
        found.append(
            f"{count(len(plan.added), 'run')} came to configurations that had been judged before. They are shown, but decide "
            "nothing new. To be able to add runs, declare when to look before the start, like looks=[3,5,10]."
        )
    if len(verdicts.unjudged) < len(group.cells):  # if none is judged, the other sentences say what is missing
        found += [f"{group.cells[i].name} is not judged: {why}." for i, why in [*verdicts.unjudged.items()][:MOST_NAMED]]
    return [*found, next_sentence(analysis.next_step, unit)] if analysis.next_step and not plan.waiting else found


def next_sentence(step: NextStep, unit: str) -> str:
    """State the smallest difference that the sweep shows reliably, and the command that would show smaller ones."""
    known = math.isfinite(step.detectable)
    seen = f"This sweep could reliably see differences of about {step.detectable:.2g}." if known else ""
    if not step.command:
        return seen
    cost = f"`{step.command}` (about {duration(step.seconds)})"
    if step.n_folds:
        reason = f"More seeds help little, because {step.why}: add patients, or use folds" if step.why else "Use more folds"
        return f"{seen} {reason}: {cost}.".strip()
    needed = f"{step.n_seeds} {unit} are needed"
    goal = f"To see differences of {GOAL:g}, {needed}" if known else needed
    own = " This is a sweep of its own with new seeds, because this one has been judged." if step.of_its_own else ""
    return f"{seen} {goal}: {cost}.{own}".strip()


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
