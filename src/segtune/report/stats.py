"""Estimates, intervals and tests. Pure functions of arrays, independent of the rest of segtune.

The independent units are patients and runs, never slices and never folds. A score is modelled as

    y[patient, run] = configuration + patient + run + residual,

where a run (its seed) moves all patients that it scores together. An interval from patients alone is therefore too narrow,
and a test over patients alone finds differences that another seed would not confirm. Both sources of variance count here.
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
LEAST_SEEDS = 3  # of a configuration, before a difference can be declared
LEAST_PATIENTS = next(n for n in itertools.count(1) if 2 / 2**n < ALPHA)  # a two-sided Wilcoxon can then reject at all: 6
HINT = {  # an interval carries the variance between runs if the p of an F test is below this; simulated coverage:
    "mean": 0.4,  # 94 to 97 % (16 patients alike or not, 3 seeds, residual sd 0.05, run sd 0 to 0.03)
    "difference": 0.3,  # 95 to 96 %
}
EQUIVALENCE = 0.01  # Dice: smaller differences are of no practical importance


@dataclass(frozen=True)
class Estimate:
    """A mean or difference, its t intervals (95 and 90 %), and the two tests against `null`. NaN: not available.

    Attributes:
        n_patients: 0 for quantities of a run, such as roughness.
        n_seeds: of the configuration that has fewest. n_runs: of all.
        sd_patients: sd of the patients' values (or differences).
        p_patient: Wilcoxon's signed-rank test over patients, two-sided.
        p_run: Welch's t-test over runs.
        effect_size: Cohen's d_z (mean / sd_patients); for quantities of a run, the estimate / the sd of runs.
        run_variance: False if the interval lacks the variance between runs because a configuration has a single run.
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
        """The larger p of the two tests, since both must reject; NaN if one is missing."""
        return float(np.max([self.p_run, self.p_patient])) if self.n_patients else self.p_run

    @property
    def testable_p(self) -> float:
        """p, or NaN if no difference could be declared whatever the data: such a test does not count in its family."""
        return self.p if not self.limit() and math.isfinite(self.p) else math.nan

    def limit(self) -> str:
        """Why no difference can be declared from this many runs and patients; empty if one can."""
        if self.n_seeds < LEAST_SEEDS:
            return f"{self.n_seeds} seed{'s' * (self.n_seeds != 1)}, {LEAST_SEEDS} needed"
        if 0 < self.n_patients < LEAST_PATIENTS:
            smallest = 2 / 2**self.n_patients
            patients = f"{self.n_patients} patient{'s' * (self.n_patients != 1)}"
            return f"{patients}: no p below {smallest:.2g} is possible, {LEAST_PATIENTS} patients needed"
        return ""

    def within(self, margin: float) -> bool:
        """Equivalence with `null`: the 90 % interval lies inside +/- margin (two one-sided tests at 5 %)."""
        return not self.limit() and -margin < self.low90 - self.null and self.high90 - self.null < margin


Pair = tuple[Scores, Scores | None]
Term = tuple[float, float]  # variance, degrees of freedom


def mean(cell: Scores) -> Estimate:
    """The mean of a configuration over patients."""
    return contrast([cell], None)


def contrast(plus: Sequence[Scores], minus: Sequence[Scores] | None) -> Estimate:
    """The mean over patients of plus[k] - minus[k], over the patients that both have scored and the pairs k that have them.

    The variance of the estimate is s^2 / P, from the values of the P patients, plus what that misses because a run moves its
    patients together: for weights u of a block's patients, P / (P - 1) * ((sum u)^2 - sum u^2) * run variance / S, by the
    method of moments, if an F test gives a hint of it; degrees of freedom by Satterthwaite. With one block of S runs and
    P patients that is the two-way analysis of variance, with folds of one patient it is the t interval over patients. The
    test over runs may take the variance between runs from all configurations (pool).

    Args: minus: as many configurations as plus, paired with them; one may stand in several pairs. None: the mean of plus.
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
    """Patient -> the pairs in which both configurations have scored the patient; patients in order."""
    means = {id(cell): cell.means for pair in pairs for cell in pair if cell is not None}
    shared: dict[str, list[Pair]] = defaultdict(list)
    for one, other in pairs:
        for patient in means[id(one)].keys() & means[id(one if other is None else other)].keys():
            shared[patient].append((one, other))
    return dict(sorted(shared.items()))


def _weigh(shared: Mapping[str, Sequence[Pair]]) -> tuple[Floats, dict[int, dict[str, float]]]:
    """The patients' values (P,), and by id of a configuration the weight of each patient's mean in the estimate."""
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
    """What the runs of a contrast's blocks add to its variance, as terms (variance, degrees of freedom).

    Attributes:
        n_patients: of the whole contrast.
        interval: the variance between runs, for the interval; `residual`: the part of it that is due to the residual.
        test: for the test over runs.
        seeds: the number of runs of each block.
        complete: False if a block of one run hides a variance between runs that the interval should carry.
    """

    n_patients: int
    interval: list[Term] = field(default_factory=list)
    residual: list[Term] = field(default_factory=list)
    test: list[Term] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    complete: bool = True

    def add(self, block: Block, u: Floats, pooled: Pooled) -> None:
        """Add a block. Args: u: the weights of its patients."""
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
        """The terms that the interval carries: none unless an F test gives a hint (p < hint) of a variance between runs."""
        if not self.interval or not _exceeds(self.interval, self.residual, hint):
            return []
        return [*self.interval, *((-variance, df) for variance, df in self.residual)]


def run_contrast(groups: Sequence[tuple[float, Floats]], *, null: float = 0.0, resolution: float = 0.0) -> Estimate:
    """Sum of coefficient * mean over runs, for a quantity of a run: Welch's t interval and test against `null`.

    Args:
        groups: (coefficient, values of independent runs).
        resolution: the step of values that are counts. Their variance is at least step^2 / 12, since equal counts do not
            mean equal runs.
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
    """Least squares of y on x over independent runs: the change of y over the whole range of x, and its t test."""
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
    """ln(sd over seeds in plus / sd in minus), each pooled within its groups; interval and test by the F distribution."""
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
    """The sum of independent mean squares, and its degrees of freedom (Satterthwaite 1946)."""
    variance = sum(v for v, _ in terms)
    return variance, variance**2 / below if (below := sum(v**2 / df for v, df in terms)) > 0 else 1.0


def _exceeds(runs: Sequence[Term], rest: Sequence[Term], hint: float) -> bool:
    """Whether an F test gives a p value below `hint`: runs then vary more than the residual explains."""
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
    """Holm's (1979) step-down correction of a family's p values; NaN stays NaN and does not count in the family."""
    values = np.array(p, dtype=float)
    tested = np.flatnonzero(np.isfinite(values))
    order = tested[np.argsort(values[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    values[order] = np.minimum(1, np.maximum.accumulate(factors * values[order]))
    corrected: list[float] = values.tolist()
    return corrected
