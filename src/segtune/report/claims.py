"""Judge the claims of a published study: a sweep supports a claim, contradicts it, or leaves it undecided.

A claim consists of tests on the configurations of a sweep, and holds only if all tests have the predicted result. It
has one p value. If all differences have the predicted direction, this is the largest p value of the tests. Otherwise it
is the smallest p value of the tests with the opposite direction, times the number of tests. Holm's correction is
applied to the p values of all claims, separately from the sweep's comparisons. Equivalence is tested at 5 % for each
claim alone.

A claim is supported if all differences have the predicted direction, the claim's corrected p value is below 5 %, and
all predicted equivalences are shown (the 90 % interval lies inside the margin). A claim is contradicted if a difference
has the opposite direction and the claim's corrected p value is below 5 %, or if equivalence is shown where a difference
is predicted. Otherwise it is undecided.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from segtune.report import stats
from segtune.report.records import Cell, Facts
from segtune.report.stats import Estimate

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"
Group = tuple[str, list[float]]


@dataclass(frozen=True, eq=False)
class Contrast:
    """One test of a claim.

    Attributes:
        expect: the result that the claim predicts:
            "higher" or "lower": the value is higher or lower than `estimate.null`;
            "same": the 90 % interval lies within the margin around `estimate.null`. A 95 % interval outside the margin
                contradicts the claim;
            "within": the same as "same", except that a 95 % interval outside the margin does not contradict the claim;
            "different": the value differs from `estimate.null`. This test cannot support a claim. If equivalence is
                shown instead, the claim is contradicted.
        margin: the margin of equivalence; None: equivalence is not tested.
        groups: (label, values of runs) for each compared group, for a figure.
        unit: the axis label of that figure.
        own_p: two-sided p value of another test, which replaces the p value of the estimate. If it is None, the p value
            of the estimate is used.
        premise: whether this test is a precondition. If a precondition does not have the predicted result, the claim is
            undecided.
    """

    name: str
    estimate: Estimate
    expect: str
    margin: float | None
    groups: tuple[Group, ...]
    unit: str
    own_p: float | None = None
    premise: bool = False

    @property
    def p(self) -> float:
        """The two-sided p value; NaN if there are too few runs, patients or folds for a verdict."""
        p = self.estimate.testable_p
        return self.own_p if self.own_p is not None and math.isfinite(p) else p

    @property
    def is_difference(self) -> bool:
        return self.expect in ("higher", "lower")

    @property
    def agrees(self) -> bool:
        """Whether the difference has the predicted direction."""
        return (self.estimate.value > self.estimate.null) == (self.expect == "higher")

    @property
    def is_equivalent(self) -> bool:
        return self.margin is not None and self.estimate.within(self.margin)

    @property
    def is_far(self) -> bool:
        """Whether the 95 % interval lies outside the margin."""
        e, margin = self.estimate, self.margin or 0.0
        return not e.limit() and (e.low - e.null > margin or e.high - e.null < -margin)

    @property
    def p_for(self) -> float:
        """The p value of the predicted result; NaN if the result cannot be tested.

        If the claim predicts equivalence, the value is 0 if equivalence is shown, and 1 otherwise.
        """
        if math.isnan(self.p):
            return math.nan
        if self.is_difference:
            return self.p if self.agrees else 1.0
        return float(not self.is_equivalent) if self.expect in ("same", "within") else 0.0

    @property
    def p_against(self) -> float:
        """The p value of a result that contradicts the claim; 1 if the result does not contradict it.

        A difference contradicts the claim if it has the opposite direction, or if the claim predicts "same" and the
        95 % interval lies outside the margin.
        """
        against = not self.agrees if self.is_difference else self.expect == "same" and self.is_far
        return self.p if against and math.isfinite(self.p) else 1.0


@dataclass(frozen=True)
class Found:
    """The tests of a claim that are possible with a set of configurations.

    Attributes:
        missing: configurations that the sweep lacks, and that are needed to support the claim.
        consistent: False if the parts of a test have different directions.
        prefer: the priority of this set of configurations. If several sets allow the same number of tests, the set with
            the highest priority is used.
    """

    tests: list[Contrast] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    consistent: bool = True
    prefer: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether the claim can be supported: nothing is missing, and all parts have the same direction."""
        return not self.missing and self.consistent

    @property
    def has_differences(self) -> bool:
        return any(test.is_difference for test in self.tests)

    @property
    def weight(self) -> tuple[int, float, int]:
        """A sort key: the set of configurations with the largest weight is used to judge the claim."""
        return len(self.tests), self.prefer, sum(test.estimate.n_runs for test in self.tests)


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        needs: the configurations that the claim needs, in words.
        study: the named sweep that contains these configurations.
        find: function that takes a set of configurations and returns the tests that are possible with it.
        nested: whether only runs with nested splits are used.
        across: further keys of the configuration in which the compared configurations may differ.
    """

    number: int
    text: str
    needs: str
    study: str
    find: Callable[[Sequence[Cell]], Found]
    nested: bool = False
    across: tuple[str, ...] = ()

    def gather(self, cells: Sequence[Cell]) -> Found:
        """Group the configurations by context. Return the tests in the context that allows the largest number of them.

        Configurations have the same context if they differ only in settings that claims compare (see Facts) and in the
        settings of `across`.
        """
        contexts: dict[str, list[Cell]] = defaultdict(list)
        for cell in cells:
            if not self.nested or cell.facts.by == "nested":
                contexts[self._context(cell.facts)].append(cell)
        found = [self.find(of) for of in contexts.values()]
        best = max(found, key=lambda one: one.weight, default=Found())
        return best if best.tests else Found(missing=best.missing or [self.needs])

    def _context(self, facts: Facts) -> str:
        if not self.across:
            return facts.context
        settings = json.loads(facts.context)
        return json.dumps({key: value for key, value in settings.items() if key not in self.across}, sort_keys=True)


@dataclass(frozen=True)
class Study:
    """A published study whose claims a report can judge.

    Attributes:
        sweeps: the named sweeps (study=NAME on the command line) that were made for this study.
        published: function that takes the facts of a run and returns the curves that the study printed for this kind of
            run. The curves have the columns of a history. The result is None if the study printed no curves.
    """

    sweeps: frozenset[str]
    claims: tuple[Claim, ...]
    published: Callable[[Facts], Mapping[str, Sequence[float]] | None]


@dataclass(frozen=True, eq=False)
class Verdict:
    """The verdict on a claim.

    Attributes:
        p, p_holm: the p value of the claim, before and after Holm's correction; NaN if no difference can be tested.
        why: the reason why the claim is undecided; otherwise empty.
    """

    claim: Claim
    found: Found
    p: float
    p_holm: float
    verdict: str
    why: str


def verdicts(claims: Sequence[Claim], cells: Sequence[Cell]) -> list[Verdict]:
    """Judge all claims. Holm's correction is applied to the p values of all claims together."""
    gathered = [(claim, claim.gather(cells)) for claim in claims]
    own = [p_of(found) for _, found in gathered]
    corrected = stats.holm(own)
    return [
        Verdict(claim, found, p, p_holm, *decide(found, p_holm))
        for (claim, found), p, p_holm in zip(gathered, own, corrected, strict=True)
    ]


def p_of(found: Found) -> float:
    """Return a claim's p value: the smaller of the p values for and against the claim; NaN if no test has a p value."""
    if not any(math.isfinite(test.p) for test in found.tests):
        return math.nan
    values = [p for p in (_p_for(found), _p_against(found)) if math.isfinite(p)]
    return min(values, default=math.nan)


def _p_for(found: Found) -> float:
    """The largest value of Contrast.p_for among the tests; NaN if the value of any test is NaN."""
    return float(np.max([test.p_for for test in found.tests]))


def _p_against(found: Found) -> float:
    """The smallest p value against the claim, times the number of tests.

    If a premise has a larger p value, the p value of the premise is returned instead.
    """
    premises = [test.p_for for test in found.tests if test.premise]
    others = [test.p_against for test in found.tests if not test.premise]
    return float(np.max([min(1.0, len(others) * min(others, default=1.0)), *premises]))


def decide(found: Found, p_holm: float) -> tuple[str, str]:
    """Return the verdict on a claim, and the reason if the claim is undecided. Otherwise the reason is empty."""
    if not found.tests:
        return UNDECIDED, "needs " + "; ".join(found.missing)
    declared, for_it, against = p_holm < stats.ALPHA, _p_for(found), _p_against(found)
    shown_equal = any(test.is_equivalent for test in found.tests if test.expect == "different")
    if found.complete and not shown_equal and for_it < stats.ALPHA and (declared or not found.has_differences):
        return SUPPORTED, ""
    if declared and against < stats.ALPHA and against <= p_of(found):
        return CONTRADICTED, ""
    no_difference = any(test.is_equivalent for test in found.tests if test.is_difference and not test.premise)
    if shown_equal or (no_difference and not any(test.premise for test in found.tests)):
        return CONTRADICTED, ""
    limits = [f"{test.name}: {limit}" for test in found.tests if (limit := test.estimate.limit())]
    undefined = [f"{test.name}: undefined" for test in found.tests if not math.isfinite(test.estimate.value)]
    reasons = [f"missing: {', '.join(found.missing)}"] * bool(found.missing) + list(dict.fromkeys(limits + undefined))
    if not found.consistent:
        reasons.append("the direction is not the same in all parts")
    return UNDECIDED, "; ".join(reasons) or "the differences are within the variation between patients and runs"


NO_TEST: Mapping[str, Any] = dict.fromkeys(
    (
        *("test", "expected", "effect", "null", "low", "high", "margin"),
        *("n_patients", "n_folds", "n_seeds", "n_runs", "p", "p_claim", "p_holm"),
    )
)


def claim_rows(verdict: Verdict) -> list[dict[str, Any]]:
    """Table rows of a claim: one row per test, or a single row with empty test columns if there are no tests.

    p is the p value of the test. p_claim and p_holm (corrected) belong to the claim and are the same in all its rows.
    """
    about = {"claim": verdict.claim.number, "text": verdict.claim.text, "verdict": verdict.verdict, "why": verdict.why}
    rows = []
    for test in verdict.found.tests:
        e = test.estimate
        measured = {"effect": e.value, "null": e.null, "low": e.low, "high": e.high, "margin": test.margin}
        counts = {"n_patients": e.n_patients, "n_folds": e.n_folds, "n_seeds": e.n_seeds, "n_runs": e.n_runs}
        p = {"p": test.p, "p_claim": verdict.p, "p_holm": verdict.p_holm}
        rows.append({**about, "test": test.name, "expected": test.expect, **measured, **counts, **p})
    return rows or [{**about, **NO_TEST}]
