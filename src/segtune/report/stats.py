"""What can be concluded from runs: estimates, intervals, tests. Pure functions of arrays; knows nothing of segtune.

The independent units are patients and runs, never slices and never folds. A score is modelled as

    y[patient, run] = cell + patient + run + residual,

where a run (its seed) moves all patients that it scores together. So an interval from patients alone is too narrow and a
test over patients alone finds differences that another seed would not; here both sources count.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ALPHA = 0.05
LEAST_SEEDS = 3  # that a cell needs before a difference can be declared
LEAST_PATIENTS = next(n for n in itertools.count(1) if 2 / 2**n < ALPHA)  # a two-sided Wilcoxon can then reject at all: 6
HINT = {  # p of the F test below which an interval carries the variance between runs: so that, by simulation, it covers
    "mean": 0.4,  # 94 to 97 % (16 patients alike or not, 3 seeds, residual sd 0.05, run sd 0 to 0.03)
    "difference": 0.3,  # 95 to 96 %
}
ALIKE = 0.5  # Bartlett's p above which cells share one variance between runs
EQUIVALENCE = 0.01  # Dice: differences within +/- this make no practical difference


@dataclass(frozen=True, eq=False)
class Block:
    """Runs that scored the same patients (one fold, one cell): values (S runs, n patients), columns as `patients`."""

    patients: tuple[str, ...]
    values: Floats


@dataclass(frozen=True)
class Pooled:
    """The variance between runs that all cells of a sweep share, and its degrees of freedom (none: each has its own)."""

    variance: float = math.nan
    df: int = 0

    def of(self, own: float, df: int, scale: float = 1.0) -> tuple[float, float]:
        """The variance to go by, and its degrees of freedom. Args: own: a block's own. scale: of the shared one."""
        return (self.variance * scale, self.df) if self.df else (own, df)


UNLIKE = Pooled()


@dataclass(frozen=True, eq=False)
class Scores:
    """One cell: its blocks, each patient in one of them (folds do not overlap), and the sweep's variance between runs."""

    blocks: tuple[Block, ...]
    pooled: Pooled = UNLIKE

    @property
    def means(self) -> dict[str, float]:
        """Each patient's mean over the runs that scored it."""
        return {p: float(v) for b in self.blocks for p, v in zip(b.patients, b.values.mean(0), strict=True)}


@dataclass(frozen=True)
class Estimate:
    """A mean or difference, its t intervals (95 and 90 %), and the two tests against `null`; NaN is what cannot be had.

    n_patients: 0 for what a run has and a patient has not (roughness). n_seeds: of the cell that has fewest; n_runs: all.
    sd_patients: of the patients' values (of their differences), over n_patients. p_patient: Wilcoxon's signed-rank test over
    patients, two-sided. p_run: Welch's t-test over runs. effect_size: Cohen's d_z, the mean over sd_patients; of runs,
    the estimate over their sd. run_variance: False if the interval lacks it, for there was one run of a kind.
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
        """Both tests have to reject, so the larger p of the two; NaN where one is missing."""
        return float(np.max([self.p_run, self.p_patient])) if self.n_patients else self.p_run

    def limit(self) -> str:
        """Why no difference could ever be declared from this many runs and patients; empty if one could."""
        if self.n_seeds < LEAST_SEEDS:
            return f"{self.n_seeds} seed{'s' * (self.n_seeds != 1)}, {LEAST_SEEDS} needed"
        if 0 < self.n_patients < LEAST_PATIENTS:
            smallest = 2 / 2**self.n_patients
            patients = f"{self.n_patients} patient{'s' * (self.n_patients != 1)}"
            return f"{patients}: no p below {smallest:.2g} is possible, {LEAST_PATIENTS} patients needed"
        return ""

    def within(self, margin: float) -> bool:
        """Practical equivalence with `null`: the 90 % interval lies inside +/- margin (two one-sided tests at 5 %)."""
        return not self.limit() and -margin < self.low90 - self.null and self.high90 - self.null < margin


def pool(cells: Sequence[Scores]) -> Pooled:
    """One variance of run means for all cells, if there is no hint that theirs differ (Bartlett's test, p > ALIKE).

    Three seeds tell little of a cell's own variance, twelve cells of three a lot of a common one. Where variances differ,
    pooling would declare differences of noisy cells that are none, so a hint suffices to leave each cell its own.
    """
    blocks = [block.values.mean(1) for cell in cells for block in cell.blocks if len(block.values) > 1]
    if len(blocks) < 2 or any(np.ptp(runs) < 1e-12 for runs in blocks) or scipy.stats.bartlett(*blocks).pvalue <= ALIKE:
        return UNLIKE
    df = sum(len(runs) - 1 for runs in blocks)
    return Pooled(sum(float(((runs - runs.mean()) ** 2).sum()) for runs in blocks) / df, df)


def mean(cell: Scores) -> Estimate:
    """A cell's mean over patients."""
    return contrast([cell], None)


def contrast(plus: Sequence[Scores], minus: Sequence[Scores] | None) -> Estimate:
    """The mean over patients of plus[k] - minus[k], over the patients that both have scored and the pairs k that have them.

    Args: minus: as many cells as plus, paired with them; one cell may stand in several pairs. None: the mean of plus.

    The variance of the estimate is s^2 / P, from the P patients' values, plus what it misses because a run moves patients
    together: for weights u of a block's patients, P / (P - 1) * ((sum u)^2 - sum u^2) * run variance / S, by the
    method of moments, where an F test gives a hint of it; degrees of freedom by Satterthwaite. With one block of S runs and
    P patients that is the two-way analysis of variance, with folds of one patient it is the t interval over patients. The
    test over runs may take the variance between runs from all cells (pool).
    """
    others: Sequence[Scores | None] = minus or [None] * len(plus)
    pairs = list(zip(plus, others, strict=True))
    means = {id(cell): cell.means for pair in pairs for cell in pair if cell is not None}
    shared: dict[str, list[tuple[Scores, Scores | None]]] = defaultdict(list)
    for one, other in pairs:
        for patient in means[id(one)].keys() & (means[id(other)].keys() if other is not None else means[id(one)].keys()):
            shared[patient].append((one, other))
    patients = sorted(shared)
    n = len(patients)
    if not n:
        return Estimate(math.nan, run_variance=False)
    weights: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    cells = {id(cell): cell for pair in pairs for cell in pair if cell is not None}
    values = np.zeros(n)
    for i, patient in enumerate(patients):
        for one, other in shared[patient]:
            for cell, sign in ((one, 1.0), (other, -1.0)):
                if cell is not None:
                    values[i] += sign * means[id(cell)][patient] / len(shared[patient])
                    weights[id(cell)][patient] += sign / len(shared[patient]) / n
    value = float(values.mean())
    sd = float(values.std(ddof=1)) if n > 1 else math.nan
    terms: list[tuple[float, float]] = [(sd**2 / n, n - 1)] if n > 1 else []
    run_terms: list[tuple[float, float]] = []  # of the interval: variance of runs, degrees of freedom
    rest_terms: list[tuple[float, float]] = []  # what of it is the residual's
    test_terms: list[tuple[float, float]] = []  # of the test over runs
    seeds, n_runs, whole = [], 0, True
    for key, of_patient in weights.items():
        for block in cells[key].blocks:
            u = np.array([of_patient.get(patient, 0.0) for patient in block.patients])
            if not u.any():
                continue
            n_s, n_p = block.values.shape
            seeds.append(n_s)
            n_runs += n_s
            together = n / (n - 1) * (u.sum() ** 2 - (u**2).sum()) if n > 1 else 0.0
            if n_s < 2:
                whole = whole and abs(together) < 1e-12
                continue
            pooled = cells[key].pooled
            variance, freedom = pooled.of(float((block.values @ u).var(ddof=1)), n_s - 1, float(u.sum()) ** 2)
            test_terms.append((variance / n_s, freedom))
            if abs(together) > 1e-12:
                runs = block.values.mean(1)
                rest = block.values - runs[:, None] - block.values.mean(0) + block.values.mean()
                df = (n_s - 1) * (n_p - 1)
                run_terms.append((together * float(runs.var(ddof=1)) / n_s, n_s - 1))
                rest_terms.append((together * float((rest**2).sum()) / df / n_p / n_s, df))
    if run_terms and _exceeds(run_terms, rest_terms, HINT["mean" if minus is None else "difference"]):
        terms += [*run_terms, *((-variance, df) for variance, df in rest_terms)]
    low, high, low90, high90 = _interval(value, terms)
    most = max(cell.pooled.df for cell in cells.values()) or math.inf
    p_run = math.nan if min(seeds) < 2 else _t_test(value, test_terms, most=most)
    p_patient = _wilcoxon(values) if minus is not None else math.nan
    size = value / sd if minus is not None and sd > 1e-12 else math.nan
    return Estimate(value, low, high, low90, high90, n, min(seeds), n_runs, sd, p_patient, p_run, size, run_variance=whole)


def run_contrast(groups: Sequence[tuple[float, Floats]], *, null: float = 0.0, resolution: float = 0.0) -> Estimate:
    """sum of coefficient * mean over runs, for what a run has one value of: Welch's t interval and test against `null`.

    Args: groups: (coefficient, values of independent runs). resolution: the step of values that are counts, whose variance
        is taken to be at least step^2 / 12, for equal counts do not mean equal runs.
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
    """Least squares of y on x over independent runs: the change of y along x's whole range, and its t test."""
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
    """ln of sd over seeds in plus / in minus, each pooled within its groups: interval and test from the F distribution."""
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


def _freedom(terms: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """A sum of independent mean squares: its value, and its degrees of freedom after Satterthwaite (1946)."""
    variance = sum(v for v, _ in terms)
    return variance, variance**2 / below if (below := sum(v**2 / df for v, df in terms)) > 0 else 1.0


def _exceeds(runs: Sequence[tuple[float, float]], rest: Sequence[tuple[float, float]], hint: float) -> bool:
    """Whether runs vary by more than the residual lets expect: a hint suffices (F test, p < hint)."""
    (above, df_above), (below, df_below) = _freedom(runs), _freedom(rest)
    return above > 0 and (below <= 0 or float(scipy.stats.f.sf(above / below, df_above, df_below)) < hint)


def _interval(value: float, terms: Sequence[tuple[float, float]]) -> tuple[float, float, float, float]:
    if not terms:
        return math.nan, math.nan, math.nan, math.nan
    variance, df = _freedom(terms)
    wide, narrow = (float(scipy.stats.t.ppf(q, df)) * math.sqrt(variance) for q in (0.975, 0.95))
    return value - wide, value + wide, value - narrow, value + narrow


def _t_test(value: float, terms: Sequence[tuple[float, float]], *, most: float = math.inf) -> float:
    variance, df = _freedom(terms)
    df = min(df, most)
    if variance <= 0:
        return 1.0 if abs(value) < 1e-15 else 0.0
    return 2 * float(scipy.stats.t.sf(abs(value) / math.sqrt(variance), df))


def _wilcoxon(differences: Floats) -> float:
    changed = differences[np.abs(differences) > 1e-15]
    return float(scipy.stats.wilcoxon(changed, method="auto" if len(changed) > 50 else "exact").pvalue) if len(changed) else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down correction of a family's p values; NaN stays NaN and is not of the family."""
    from statsmodels.stats.multitest import multipletests  # a second of import

    values = np.array(p, dtype=float)
    tested = np.isfinite(values)
    if tested.any():
        values[tested] = multipletests(values[tested], ALPHA, "holm")[1]
    return values.tolist()


def power(
    sd_patients: float,
    sd_run: float,
    n_patients: int,
    n_seeds: int,
    family: int,
    *,
    effect: float,
    pooled: Pooled,
    seed: int,
    n: int = 2000,
) -> float:
    """The share of simulated comparisons of two cells, truly `effect` apart, that would be declared.

    Args: sd_patients: of the patients' differences. sd_run: of runs, moving all patients. family: tests on the page;
        Holm's first step, so a lower bound. n: simulations.
    """
    if n_seeds < LEAST_SEEDS or n_patients < LEAST_PATIENTS or not math.isfinite(sd_patients + sd_run):
        return 0.0
    random = np.random.default_rng(seed)
    residual = sd_patients * math.sqrt(n_seeds / 2)
    sides = random.normal(0, sd_run, (2, n, n_seeds, 1)) + random.normal(0, residual, (2, n, n_seeds, n_patients))
    differences = effect + sides[0].mean(1) - sides[1].mean(1)
    by_patient = scipy.stats.wilcoxon(differences, axis=1, method="exact" if n_patients <= 50 else "auto").pvalue
    variances = sides.mean(3).var(2, ddof=1)
    if pooled.df:
        of_run = np.full((2, n), (sd_run**2 + residual**2 / n_patients) / n_seeds)
        df = np.full(n, pooled.df)
    else:
        of_run = variances / n_seeds
        df = of_run.sum(0) ** 2 / (of_run**2).sum(0) * (n_seeds - 1)
    by_run = 2 * scipy.stats.t.sf(np.abs(differences.mean(1)) / np.sqrt(of_run.sum(0)), df)
    return float(np.mean(np.maximum(by_patient, by_run) <= ALPHA / max(family, 1)))


def run_sd(cells: Sequence[Scores]) -> float:
    """The standard deviation by which a run moves all its patients, pooled over cells (method of moments; NaN: one seed)."""
    total, freedom = 0.0, 0
    for block in (block for cell in cells for block in cell.blocks):
        n_s, n_p = block.values.shape
        if n_s < 2 or n_p < 2:
            continue
        runs = block.values.mean(1)
        rest = block.values - runs[:, None] - block.values.mean(0) + block.values.mean()
        total += (n_s - 1) * (float(runs.var(ddof=1)) - float((rest**2).sum()) / ((n_s - 1) * (n_p - 1)) / n_p)
        freedom += n_s - 1
    return math.sqrt(max(total / freedom, 0)) if freedom else math.nan


def rank_stability(cells: Sequence[Scores], *, seed: int, n: int = 1000) -> tuple[Floats, NDArray[np.int64]]:
    """How sure the ranking is: patients, and runs within each fold, drawn again with replacement, n times.

    Returns: for each cell how often it ranks first (ties shared by order), and the 2.5th and 97.5th percentile of its
        rank, (C, 2), 1 = best. A draw in which a cell has no patient leaves it last.
    """
    random = np.random.default_rng(seed)
    patients = sorted({patient for cell in cells for block in cell.blocks for patient in block.patients})
    column = {patient: i for i, patient in enumerate(patients)}
    drawn = random.multinomial(len(patients), np.full(len(patients), 1 / len(patients)), size=n).astype(float)
    means = np.empty((len(cells), n))
    for i, cell in enumerate(cells):
        above, below = np.zeros(n), np.zeros(n)
        for block in cell.blocks:
            n_s = len(block.values)
            counts = random.multinomial(n_s, np.full(n_s, 1 / n_s), size=n) / n_s
            weights = drawn[:, [column[patient] for patient in block.patients]]
            above += ((counts @ block.values) * weights).sum(1)
            below += weights.sum(1)
        means[i] = np.divide(above, below, out=np.full(n, -np.inf), where=below > 0)
    ranks = np.empty((len(cells), n), dtype=np.int64)
    np.put_along_axis(ranks, np.argsort(-means, axis=0, kind="stable"), np.arange(1, len(cells) + 1)[:, None], axis=0)
    limits = np.percentile(ranks, [2.5, 97.5], axis=1, method="inverted_cdf")
    return (ranks == 1).mean(1), limits.T.astype(np.int64)


def decompose(levels: Mapping[str, Sequence[str]], values: Sequence[float]) -> list[tuple[str, int, float, float]] | None:
    """The exact analysis of variance of a full grid: which axis, and which interaction, moves the values.

    Args: levels: axis -> its level in each run. values: of each run.
    Returns: (axes joined by ' x ', degrees of freedom, sum of squares, eta^2 = its share of the total), largest
        first, the residual (between replicates) last; None if the runs are no full grid with equally many of each.
    """
    names = [name for name, of in levels.items() if len(set(of)) > 1]
    order = {name: list(dict.fromkeys(levels[name])) for name in names}
    found: dict[tuple[int, ...], list[float]] = defaultdict(list)
    for i, value in enumerate(values):
        found[tuple(order[name].index(levels[name][i]) for name in names)].append(value)
    shape = tuple(len(order[name]) for name in names)
    replicates = {len(of) for of in found.values()}
    if (
        not names
        or np.ptp(list(values)) < 1e-15
        or len(found) != math.prod(shape)
        or len(replicates) != 1
        or not np.isfinite(list(values)).all()
    ):
        return None
    n = replicates.pop()
    cells = np.empty((*shape, n))
    for place, of in found.items():
        cells[place] = of
    means = cells.mean(-1)
    total = float(((cells - cells.mean()) ** 2).sum())
    effects: dict[tuple[int, ...], Floats] = {(): np.full([1] * len(shape), means.mean())}
    rows = []
    for size in range(1, len(names) + 1):
        for axes in itertools.combinations(range(len(names)), size):
            others = tuple(i for i in range(len(names)) if i not in axes)
            effect = means.mean(others, keepdims=True)
            for fewer in range(size):
                for below in itertools.combinations(axes, fewer):
                    effect = effect - effects[below]
            effects[axes] = effect
            squares = n * math.prod(shape[i] for i in others) * float((effect**2).sum())
            freedom = math.prod(shape[i] - 1 for i in axes)
            rows.append((" x ".join(names[i] for i in axes), freedom, squares, squares / total if total else math.nan))
    rows.sort(key=lambda row: -row[2])
    residual = float(((cells - means[..., None]) ** 2).sum())
    return [*rows, ("residual", math.prod(shape) * (n - 1), residual, residual / total if total else math.nan)]


# Of one run's curves


def roughness(values: Sequence[float]) -> float:
    """Mean |second difference| of a curve over its range (study's claims 1, 4, 5); NaN below three epochs or if it is flat."""
    curve = np.asarray(values, dtype=float)
    span = np.ptp(curve) if len(curve) else 0.0
    return float(np.abs(np.diff(curve, 2)).mean() / span) if len(curve) > 2 and span > 0 else math.nan


def epochs_to(values: Sequence[float], threshold: float) -> float:
    """The first epoch (from 1) at which a curve reaches the threshold; one more than there are if it never does."""
    reached = np.flatnonzero(np.asarray(values, dtype=float) >= threshold)
    return float(reached[0] + 1 if len(reached) else len(values) + 1)


def settled(values: Sequence[float], share: float = 0.02) -> float:
    """The first epoch (from 1) from which on a curve stays within this share of its range about its last value."""
    curve = np.asarray(values, dtype=float)
    away = np.flatnonzero(~(np.abs(curve - curve[-1]) <= share * np.ptp(curve)))
    return float(away[-1] + 2 if len(away) else 1)
