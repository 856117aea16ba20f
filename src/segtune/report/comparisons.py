"""Differences between configurations, and the verdicts on them within a family of comparisons."""

import math
from dataclasses import dataclass

from segtune.report.stats import ALPHA, EQUIVALENCE, Estimate

DECLARED, EQUIVALENT, CANNOT_TELL = "declared", "equivalent", "cannot tell"


@dataclass(frozen=True, eq=False)
class Comparison:
    """A difference between two values of an axis, or between the best configuration and another one.

    Attributes:
        kind: "axis" or "best".
        of: the axis, or the other configuration.
        selection: factor by which the p value is multiplied, because the best configuration was chosen from the same data.
    """

    kind: str
    of: str
    name: str
    estimate: Estimate
    selection: float = 1.0

    @property
    def p(self) -> float:
        """The p value after multiplication by `selection`.

        It is NaN, and the comparison is not in the family, if the difference is undefined or if no data with this number of
        runs and patients could make it significant.
        """
        return min(1.0, self.selection * self.estimate.testable_p) if math.isfinite(self.estimate.testable_p) else math.nan


@dataclass(frozen=True, eq=False)
class Judged:
    """A comparison with its verdict.

    Attributes:
        p_holm: p value after Holm's correction.
        verdict: DECLARED, EQUIVALENT or CANNOT_TELL.
        why: the direction of a declared difference, or the reason for another verdict.
    """

    comparison: Comparison
    p_holm: float
    verdict: str
    why: str


def judge(comparison: Comparison, p_holm: float, family: int) -> Judged:
    """Judge a comparison. Args: p_holm: p value after Holm's correction. family: number of comparisons in the family."""
    verdict, why = _verdict(comparison, p_holm, family)
    return Judged(comparison, p_holm, verdict, why)


def _verdict(comparison: Comparison, p_holm: float, family: int) -> tuple[str, str]:
    e = comparison.estimate
    if not e.n_runs:
        return CANNOT_TELL, "there is no patient that both sides have scored"
    if not math.isfinite(e.value):
        return CANNOT_TELL, "the value is undefined in a run"
    if limit := e.limit():
        return CANNOT_TELL, limit
    if p_holm < ALPHA:
        return DECLARED, "higher" if e.value > e.null else "lower"
    if e.n_patients and e.within(EQUIVALENCE):
        return EQUIVALENT, f"within +/- {EQUIVALENCE:g}"
    smallest = comparison.selection * 2 / 2**e.n_patients if e.n_patients else 0.0
    if smallest * family > ALPHA and e.p_run < ALPHA / family:
        needed = math.ceil(math.log2(2 * comparison.selection * family / ALPHA))
        return CANNOT_TELL, f"{e.n_patients} patients are too few for {family} comparisons ({needed} needed)"
    if comparison.p < ALPHA:
        return CANNOT_TELL, f"p = {comparison.p:.2g} is not small enough among {family} comparisons"
    return CANNOT_TELL, "within the variation between patients and runs"
