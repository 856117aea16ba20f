"""Judge the claims of a published study: a sweep supports a claim, contradicts it, or leaves it undecided.

A claim consists of tests on the configurations of a sweep. The claim is supported if all its tests agree with it. A test agrees
if the expected difference is declared, or if the expected equivalence is shown (the 90 % interval lies inside the margin), or,
for "not lower", if the 90 % interval lies above minus the margin. The claim is contradicted if a difference is declared in the
opposite direction, or if equivalence is shown where a difference is expected. Otherwise it is undecided. The tests of all
claims of a study are one family for Holm's correction, separate from the sweep's comparisons.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from segtune.report import stats
from segtune.report.records import Cell, Facts
from segtune.report.stats import Estimate

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"
Group = tuple[str, list[float]]


@dataclass(frozen=True, eq=False)
class Contrast:
    """One test of a claim.

    Attributes:
        expect: the result that the claim predicts: "higher" or "lower" than `estimate.null`, "same" (within the margin), or
            "not lower" (not below minus the margin).
        margin: the margin of equivalence; None: equivalence is not tested.
        groups: (label, values of runs) for each compared group, for a figure.
        unit: the axis label of that figure.
    """

    name: str
    estimate: Estimate
    expect: str
    margin: float | None
    groups: tuple[Group, ...]
    unit: str

    def judge(self, p: float) -> str:
        """Return supported, contradicted or undecided. Args: p: the p value after Holm's correction."""
        e, shift = self.estimate, self.estimate.value - self.estimate.null
        if e.limit() or not math.isfinite(e.value):
            return UNDECIDED
        declared = p < stats.ALPHA
        equivalent = self.margin is not None and e.within(self.margin)
        if self.expect == "same":
            far = declared and self.margin is not None and abs(shift) > self.margin
            return SUPPORTED if equivalent else CONTRADICTED if far else UNDECIDED
        if self.expect == "not lower":
            assert self.margin is not None
            worse = declared and shift < 0
            return CONTRADICTED if worse and not equivalent else SUPPORTED if e.low90 > -self.margin else UNDECIDED
        if declared:
            return SUPPORTED if (shift > 0) == (self.expect == "higher") else CONTRADICTED
        return CONTRADICTED if equivalent else UNDECIDED


@dataclass(frozen=True)
class Found:
    """The tests of a claim that are possible with a set of configurations.

    Attributes:
        missing: configurations that are missing, without which the claim cannot be supported.
        consistent: False if the parts of a test have different directions.
        prefer: among sets of configurations with equally many tests, the one with the highest value is used.
    """

    tests: list[Contrast] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    consistent: bool = True
    prefer: float = 0.0

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
        find: function that makes the tests possible with a set of configurations.
        nested: whether only runs with nested splits are used.
    """

    number: int
    text: str
    needs: str
    study: str
    find: Callable[[Sequence[Cell]], Found]
    nested: bool = False

    def gather(self, cells: Sequence[Cell]) -> Found:
        """Return the tests in the context that allows most tests.

        Configurations have the same context if they differ only in settings that claims compare (see Facts).
        """
        contexts: dict[str, list[Cell]] = defaultdict(list)
        for cell in cells:
            if not self.nested or cell.facts.by == "nested":
                contexts[cell.facts.context].append(cell)
        found = [self.find(of) for of in contexts.values()]
        best = max(found, key=lambda one: one.weight, default=Found())
        return best if best.tests else Found(missing=best.missing or [self.needs])


@dataclass(frozen=True)
class Study:
    """A published study whose claims a report can judge.

    Attributes:
        sweeps: the named sweeps (study=NAME on the command line) that were made for this study.
        published: function that returns the curves that the study printed for these facts, as columns of a history; None if it
            printed none.
    """

    sweeps: frozenset[str]
    claims: tuple[Claim, ...]
    published: Callable[[Facts], Mapping[str, Sequence[float]] | None]


@dataclass(frozen=True, eq=False)
class Verdict:
    """The verdict on a claim.

    Attributes:
        p_holm: the p value of each test in `found` after Holm's correction.
        why: the reason why the claim is undecided; otherwise empty.
    """

    claim: Claim
    found: Found
    p_holm: tuple[float, ...]
    verdict: str
    why: str


def verdicts(claims: Sequence[Claim], cells: Sequence[Cell]) -> list[Verdict]:
    """Judge all claims. Their tests are one family for Holm's correction."""
    gathered = [(claim, claim.gather(cells)) for claim in claims]
    corrected = iter(stats.holm([test.estimate.testable_p for _, found in gathered for test in found.tests]))
    judged = []
    for claim, found in gathered:
        p_holm = tuple(next(corrected) for _ in found.tests)
        judged.append(Verdict(claim, found, p_holm, *decide(found, p_holm)))
    return judged


def decide(found: Found, p_holm: Sequence[float]) -> tuple[str, str]:
    """Return the verdict on a claim and, if it is undecided, the reason (otherwise an empty text)."""
    results = [test.judge(p) for test, p in zip(found.tests, p_holm, strict=True)]
    if CONTRADICTED in results:
        return CONTRADICTED, ""
    if not found.tests:
        return UNDECIDED, "needs " + "; ".join(found.missing)
    if all(one == SUPPORTED for one in results) and not found.missing and found.consistent:
        return SUPPORTED, ""
    limits = [f"{test.name}: {limit}" for test in found.tests if (limit := test.estimate.limit())]
    undefined = [f"{test.name}: undefined" for test in found.tests if not math.isfinite(test.estimate.value)]
    reasons = [f"missing: {', '.join(found.missing)}"] * bool(found.missing) + list(dict.fromkeys(limits + undefined))
    if not found.consistent:
        reasons.append("the direction is not the same in all parts")
    return UNDECIDED, "; ".join(reasons) or "the differences are within the variation between patients and runs"


NO_TEST: Mapping[str, Any] = dict.fromkeys(
    (
        *("test", "expected", "effect", "null", "low", "high", "margin"),
        *("n_patients", "n_seeds", "n_runs", "p_patient", "p_run", "p", "p_holm"),
    )
)


def claim_rows(verdict: Verdict) -> list[dict[str, Any]]:
    """Table rows of a claim: one row per test, or a single row with empty test columns if there are no tests."""
    about = {"claim": verdict.claim.number, "text": verdict.claim.text, "verdict": verdict.verdict, "why": verdict.why}
    rows = []
    for test, p_holm in zip(verdict.found.tests, verdict.p_holm, strict=True):
        e = test.estimate
        measured = {"effect": e.value, "null": e.null, "low": e.low, "high": e.high, "margin": test.margin}
        counts = {"n_patients": e.n_patients, "n_seeds": e.n_seeds, "n_runs": e.n_runs}
        p = {"n_folds": e.n_folds, "p": e.testable_p, "p_holm": p_holm}
        rows.append({**about, "test": test.name, "expected": test.expect, **measured, **counts, **p})
    return rows or [{**about, **NO_TEST}]
