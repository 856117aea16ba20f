"""Estimates, confidence intervals and tests, as pure functions of scores.

The independent units are patients and runs, never slices or folds. A score is modelled as

    y[patient, run] = configuration + patient + run + residual,

where a run (its seed) shifts the scores of all its patients together. An interval that includes only the variance between
patients is therefore too narrow, and a test over patients alone finds differences that another seed would not confirm. For this
reason both sources of variance are included.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.stats

from segtune.report.scores import Block, Floats, Pooled, Scores

ALPHA = 0.05
LEAST_SEEDS = 3  # seeds that a configuration needs before a difference can be declared
LEAST_PATIENTS = next(n for n in itertools.count(1) if 2 / 2**n < ALPHA)  # 6; with fewer, a two-sided Wilcoxon never rejects
HINT = {  # an interval includes the variance between runs if the p of an F test is below this; simulated coverage:
    "mean": 0.4,  # 94 to 97 % (16 patients alike or not, 3 seeds, residual sd 0.05, run sd 0 to 0.03)
    "difference": 0.3,  # 95 to 96 %
}
EQUIVALENCE = 0.01  # Dice: smaller differences are of no practical importance


@dataclass(frozen=True)
class Estimate:
    """A mean or difference, its t intervals, and two tests against `null`. Values that are not available are NaN.

    Attributes:
        low, high: the 95 % interval.
        low90, high90: the 90 % interval.
        n_patients: number of patients; 0 for quantities of a run, such as roughness.
        n_seeds: smallest number of seeds of a configuration.
        n_runs: number of runs of all configurations.
        sd_patients: sd of the patients' values (or differences).
        p_patient: p value of Wilcoxon's signed-rank test over patients, two-sided.
        p_run: p value of Welch's t-test over runs.
        effect_size: Cohen's d_z (mean / sd_patients); for quantities of a run, estimate / sd of runs.
        run_variance: False if the interval lacks the variance between runs because a configuration has a single run.
        null: the value under the null hypothesis.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    low90: float = math.nan
    high90: float = math.nan
    n_patients: int = 0
    n_seeds: int = 0
    n_runs: int = 0
    sd_patients: float = math.nan
    p_patient: float = math.nan
    p_run: float = math.nan
    effect_size: float = math.nan
    run_variance: bool = True
    null: float = 0.0

    @property
    def p(self) -> float:
        """The larger p value of the two tests, because both must reject; NaN if one is missing."""
        return float(np.max([self.p_run, self.p_patient])) if self.n_patients else self.p_run

    @property
    def testable_p(self) -> float:
        """p, or NaN if this number of runs and patients cannot give a significant result.

        A test with NaN does not count in its family.
        """
        return self.p if not self.limit() and math.isfinite(self.p) else math.nan

    def limit(self) -> str:
        """The reason why no difference can be declared from this number of runs and patients; empty if one can."""
        if self.n_seeds < LEAST_SEEDS:
            return f"{self.n_seeds} seed{'s' * (self.n_seeds != 1)}, but {LEAST_SEEDS} are needed"
        if 0 < self.n_patients < LEAST_PATIENTS:
            smallest = 2 / 2**self.n_patients
            patients = f"{self.n_patients} patient{'s' * (self.n_patients != 1)}"
            return f"with {patients} no p below {smallest:.2g} is possible; {LEAST_PATIENTS} patients are needed"
        return ""

    def within(self, margin: float) -> bool:
        """Whether the estimate is equivalent to `null`: its 90 % interval is inside +/- margin (two one-sided tests at 5 %)."""
        return not self.limit() and -margin < self.low90 - self.null and self.high90 - self.null < margin


Pair = tuple[Scores, Scores | None]
Term = tuple[float, float]  # variance, degrees of freedom


def mean(cell: Scores) -> Estimate:
    """Estimate the mean of a configuration over patients."""
    return contrast([cell], None)


def contrast(plus: Sequence[Scores], minus: Sequence[Scores] | None) -> Estimate:
    """Estimate the mean difference plus[k] - minus[k] over patients and pairs k of configurations.

    Only patients that both configurations of a pair have scored are used.

    The variance of the estimate is s^2 / P, from the values of the P patients, plus a term for the variance between runs, which
    s^2 / P misses because a run shifts its patients together. For weights u of a block's patients and S runs, this term is
    P / (P - 1) * ((sum u)^2 - sum u^2) * run variance / S, by the method of moments. It is included if an F test gives a hint
    of it. Degrees of freedom are computed by Satterthwaite's formula. With one block of S runs and P patients, the result is
    that of a two-way analysis of variance. With folds of one patient, it is the t interval over patients. The test over runs
    may take the variance between runs from all configurations (see scores.pool).

    Args: minus: as many configurations as plus, paired with them; one configuration may be in several pairs. None: estimate the
        mean of plus instead of a difference.
    """
    others: Sequence[Scores | None] = minus or [None] * len(plus)
    pairs = list(zip(plus, others, strict=True))
    shared = _shared_patients(pairs)
    n = len(shared)
    if not n:
        return Estimate(math.nan, run_variance=False)
    cells = {id(cell): cell for pair in pairs for cell in pair if cell is not None}
    values, weights = _weigh(shared)
    runs = _RunTerms(n)
    for key, of_patient in weights.items():
        for block in cells[key].blocks:
            u = np.array([of_patient.get(patient, 0.0) for patient in block.patients])
            if u.any():
                runs.add(block, u, cells[key].pooled)
    value = float(values.mean())
    sd = float(values.std(ddof=1)) if n > 1 else math.nan
    terms: list[Term] = [(sd**2 / n, n - 1)] if n > 1 else []
    terms += runs.of_interval(HINT["mean" if minus is None else "difference"])
    most = max(cell.pooled.df for cell in cells.values()) or math.inf
    seeds = min(runs.seeds)
    return Estimate(
        value,
        *_interval(value, terms),
        n_patients=n,
        n_seeds=seeds,
        n_runs=sum(runs.seeds),
        sd_patients=sd,
        p_patient=_wilcoxon(values) if minus is not None else math.nan,
        p_run=math.nan if seeds < 2 else _t_test(value, runs.test, most=most),
        effect_size=value / sd if minus is not None and sd > 1e-12 else math.nan,
        run_variance=runs.complete,
    )


def _shared_patients(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Patient -> the pairs in which both configurations have scored the patient, sorted by patient."""
    means = {id(cell): cell.means for pair in pairs for cell in pair if cell is not None}
    shared: dict[str, list[Pair]] = defaultdict(list)
    for one, other in pairs:
        for patient in means[id(one)].keys() & means[id(one if other is None else other)].keys():
            shared[patient].append((one, other))
    return dict(sorted(shared.items()))


def _weigh(shared: Mapping[str, Sequence[Pair]]) -> tuple[Floats, dict[int, dict[str, float]]]:
    """Weigh the patients. Returns: their values (P,), and id of a configuration -> patient -> its weight in the estimate."""
    means = {id(cell): cell.means for pairs in shared.values() for pair in pairs for cell in pair if cell is not None}
    weights: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    values = np.zeros(len(shared))
    for i, (patient, pairs) in enumerate(shared.items()):
        for one, other in pairs:
            for cell, sign in ((one, 1.0), (other, -1.0)):
                if cell is not None:
                    values[i] += sign * means[id(cell)][patient] / len(pairs)
                    weights[id(cell)][patient] += sign / len(pairs) / len(shared)
    return values, weights


@dataclass
class _RunTerms:
    """The contributions of runs to the variance of a contrast, as terms (variance, degrees of freedom).

    Attributes:
        n_patients: number of patients of the whole contrast.
        interval: the variance between runs, for the interval.
        residual: the part of `interval` that is due to the residual.
        test: the variance between runs, for the test over runs.
        seeds: the number of runs of each block.
        complete: False if the variance between runs of a block is unknown, because it has one run, but belongs in the interval.
    """

    n_patients: int
    interval: list[Term] = field(default_factory=list)
    residual: list[Term] = field(default_factory=list)
    test: list[Term] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    complete: bool = True

    def add(self, block: Block, u: Floats, pooled: Pooled) -> None:
        """Add the terms of a block. Args: u: the weights of its patients."""
        n, (n_s, n_p) = self.n_patients, block.values.shape
        self.seeds.append(n_s)
        together = n / (n - 1) * (u.sum() ** 2 - (u**2).sum()) if n > 1 else 0.0
        if n_s < 2:
            self.complete = self.complete and abs(together) < 1e-12
            return
        variance, freedom = pooled.of(float((block.values @ u).var(ddof=1)), n_s - 1, float(u.sum()) ** 2)
        self.test.append((variance / n_s, freedom))
        if abs(together) > 1e-12:
            runs = block.values.mean(1)
            rest = block.values - runs[:, None] - block.values.mean(0) + block.values.mean()
            df = (n_s - 1) * (n_p - 1)
            self.interval.append((together * float(runs.var(ddof=1)) / n_s, n_s - 1))
            self.residual.append((together * float((rest**2).sum()) / df / n_p / n_s, df))

    def of_interval(self, hint: float) -> list[Term]:
        """The terms for the interval; empty unless an F test gives a hint (p < hint) of a variance between runs."""
        if not self.interval or not _exceeds(self.interval, self.residual, hint):
            return []
        return [*self.interval, *((-variance, df) for variance, df in self.residual)]


def run_contrast(groups: Sequence[tuple[float, Floats]], *, null: float = 0.0, resolution: float = 0.0) -> Estimate:
    """Estimate the sum of coefficient * mean over the groups, for a quantity of a run, with Welch's t interval and t-test.

    Args:
        groups: for each group a coefficient and the values of independent runs.
        null: the value under the null hypothesis.
        resolution: the step of values that are counts. Their variance is taken to be at least step^2 / 12, because runs with
            equal counts are not exactly equal.
    """
    value = sum(c * float(np.mean(v)) for c, v in groups)
    seeds = min(len(v) for _, v in groups)
    n_runs = sum(len(v) for _, v in groups)
    if seeds < 2 or not math.isfinite(value):
        return Estimate(value, n_seeds=seeds, n_runs=n_runs, null=null, run_variance=False)
    variances = [max(float(np.var(v, ddof=1)), resolution**2 / 12) for _, v in groups]
    terms = [(c**2 * s / len(v), len(v) - 1) for (c, v), s in zip(groups, variances, strict=True)]
    sd = math.sqrt(np.mean(variances))
    return Estimate(
        value,
        *_interval(value, terms),
        n_seeds=seeds,
        n_runs=n_runs,
        p_run=_t_test(value - null, terms),
        effect_size=(value - null) / sd if sd > 1e-12 else math.nan,
        null=null,
    )


def slope(x: Floats, y: Floats, n_seeds: int) -> Estimate:
    """Regress y on x over independent runs (least squares): the change of y over the whole range of x, and its t-test."""
    span = float(np.ptp(x))
    if len(y) < 3 or not span or not np.isfinite(y).all():
        return Estimate(math.nan, n_seeds=n_seeds, n_runs=len(y), run_variance=False)
    fit = scipy.stats.linregress(x, y)
    terms = [((float(fit.stderr) * span) ** 2, len(y) - 2)]
    value = float(fit.slope) * span
    return Estimate(
        value,
        *_interval(value, terms),
        n_seeds=n_seeds,
        n_runs=len(y),
        p_run=_t_test(value, terms),
        effect_size=float(fit.rvalue),
    )


def spread_ratio(plus: Sequence[Floats], minus: Sequence[Floats]) -> Estimate:
    """Estimate ln(sd in plus / sd in minus), with sds over seeds that are pooled over groups, and its interval and F test."""
    seeds, n_runs = min(len(v) for v in (*plus, *minus)), sum(len(v) for v in (*plus, *minus))
    if seeds < 2:
        return Estimate(math.nan, n_seeds=seeds, n_runs=n_runs, run_variance=False)
    (a, df_a), (b, df_b) = (
        (sum(((v - v.mean()) ** 2).sum() for v in side), sum(len(v) - 1 for v in side)) for side in (plus, minus)
    )
    if not a or not b:
        return Estimate(math.nan, n_seeds=seeds, n_runs=n_runs)
    ratio = (a / df_a) / (b / df_b)
    f = scipy.stats.f(df_a, df_b)
    low, high, low90, high90 = (math.log(ratio / f.ppf(q)) / 2 for q in (0.975, 0.025, 0.95, 0.05))
    p = 2 * min(float(f.sf(ratio)), float(f.cdf(ratio)))
    return Estimate(math.log(ratio) / 2, low, high, low90, high90, n_seeds=seeds, n_runs=n_runs, p_run=p)


def _freedom(terms: Sequence[Term]) -> Term:
    """The sum of independent variances, and its degrees of freedom (Satterthwaite 1946)."""
    variance = sum(v for v, _ in terms)
    return variance, variance**2 / below if (below := sum(v**2 / df for v, df in terms)) > 0 else 1.0


def _exceeds(runs: Sequence[Term], rest: Sequence[Term], hint: float) -> bool:
    """Whether runs vary more than the residual explains: whether the p value of an F test is below `hint`."""
    (above, df_above), (below, df_below) = _freedom(runs), _freedom(rest)
    return above > 0 and (below <= 0 or float(scipy.stats.f.sf(above / below, df_above, df_below)) < hint)


def _interval(value: float, terms: Sequence[Term]) -> tuple[float, float, float, float]:
    if not terms:
        return math.nan, math.nan, math.nan, math.nan
    variance, df = _freedom(terms)
    wide, narrow = (float(scipy.stats.t.ppf(q, df)) * math.sqrt(variance) for q in (0.975, 0.95))
    return value - wide, value + wide, value - narrow, value + narrow


def _t_test(value: float, terms: Sequence[Term], *, most: float = math.inf) -> float:
    variance, df = _freedom(terms)
    df = min(df, most)
    if variance <= 0:
        return 1.0 if abs(value) < 1e-15 else 0.0
    return 2 * float(scipy.stats.t.sf(abs(value) / math.sqrt(variance), df))


def _wilcoxon(differences: Floats) -> float:
    changed = differences[np.abs(differences) > 1e-15]
    return float(scipy.stats.wilcoxon(changed, method="auto" if len(changed) > 50 else "exact").pvalue) if len(changed) else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """Correct the p values of a family by Holm's step-down method (1979). NaN stays NaN and does not count in the family."""
    values = np.array(p, dtype=float)
    tested = np.flatnonzero(np.isfinite(values))
    order = tested[np.argsort(values[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    values[order] = np.minimum(1, np.maximum.accumulate(factors * values[order]))
    corrected: list[float] = values.tolist()
    return corrected
