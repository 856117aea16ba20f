"""A difference that a report may declare, and the verdict on it within its family."""

import math
from dataclasses import dataclass

from segtune.report.stats import ALPHA, EQUIVALENCE, Estimate

DECLARED, EQUIVALENT, CANNOT_TELL = "declared", "equivalent", "cannot tell"


@dataclass(frozen=True, eq=False)
class Comparison:
    """A difference between two values of an axis, or between the best configuration and another one.

    Attributes:
        kind: "axis" or "best". of: the axis, or the other configuration.
        selection: factor of the p value, because the best configuration was chosen from the same data.
    """

    kind: str
    of: str
    name: str
    estimate: Estimate
    selection: float = 1.0

    @property
    def p(self) -> float:
        """NaN if the difference could not be declared whatever the data, or is undefined: it is not in the family then."""
        return min(1.0, self.selection * self.estimate.testable_p) if math.isfinite(self.estimate.testable_p) else math.nan


@dataclass(frozen=True, eq=False)
class Judged:
    """A comparison in its family: p after Holm's correction, the verdict, and its direction or reason."""

    comparison: Comparison
    p_holm: float
    verdict: str
    why: str


def judge(comparison: Comparison, p_holm: float, family: int) -> Judged:
    """Declared (higher or lower), equivalent, or cannot tell, with the reason."""
    verdict, why = _verdict(comparison, p_holm, family)
    return Judged(comparison, p_holm, verdict, why)


def _verdict(comparison: Comparison, p_holm: float, family: int) -> tuple[str, str]:
    e = comparison.estimate
    if not e.n_runs:
        return CANNOT_TELL, "no patient that both have scored"
    if not math.isfinite(e.value):
        return CANNOT_TELL, "undefined in a run"
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
