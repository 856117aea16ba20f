"""Error rates, power and coverage of a report's verdicts, by simulation: python benchmarks/statistics.py [--sweeps 500].

Scores are patient + run + configuration x patient + residual (tests/worlds.py); nothing is trained. Every row says how many
sweeps were simulated. Clear differences are counted as a report states them: from 5 seeds and 8 patients, or from 5 folds. A
rate of 5 % in 500 sweeps has a Monte Carlo standard error of 1 %, so limits are 5 % plus two of these.
"""

import argparse
import itertools
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.stats

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "tests"))

import worlds  # noqa: E402
from segtune.report import differences, planning  # noqa: E402
from segtune.report.decisions import decide  # noqa: E402
from segtune.report.scores import Block, Scores  # noqa: E402
from segtune.report.winner import honest_score  # noqa: E402

Rule = Callable[[np.ndarray], differences.Differences]


def of_runs(scores):
    return differences.of_runs(list(scores))


def of_folds(table):
    n = table.shape[1]
    return differences.of_folds(table, np.full(n, 1 / n), n_patients=n, n_runs=1)


def with_switch(scores):
    """The alternative that was rejected: one variance between runs for all configurations if Bartlett's p exceeds 0.5."""
    found, n, s = of_runs(scores), *scores.shape[:2]
    runs = scores.mean(2)
    if scipy.stats.bartlett(*runs).pvalue <= 0.5:
        return found
    r = 2 * runs.var(1, ddof=1).mean() / s
    p = scores.shape[2]
    x = found.variance * 0 + np.array([[(a - b).var(ddof=1) for b in scores.mean(1)] for a in scores.mean(1)]) / p
    upper = x[np.triu_indices(n, 1)]
    x = np.maximum(x, np.median(upper) * (p - 1) / scipy.stats.chi2.median(p - 1))
    e = 2 * np.mean([differences.residual_mean_square(of) for of in scores]) / (p * s)
    variance = np.maximum.reduce([x + r - e, x, np.full_like(x, r)])
    df = variance**2 / (r**2 / (n * (s - 1) / 2) + x**2 / (p - 1))
    return differences.Differences(found.means, variance, df, variance, df, found.run_part, p, s, 0)


def rates(make, rule: Rule, sweeps, *, best=0.0):
    """Simulate sweeps in which the first configuration is the best (by `best`; 0: all are equal).

    Returns: best lost, any false clear difference, others that left the set, coverage of single differences.
    """
    lost = false = 0
    left, covered = [], []
    for _ in range(sweeps):
        found = rule(make())
        decided = decide(found)
        in_set, worse = decided.may_be_best, decided.worse
        lost += not in_set[0]
        false += bool(worse[0].any() or worse[1:, 1:].any()) if best else bool(worse.any())
        left.append(1 - in_set[1:].mean())
        truth = np.r_[best, np.zeros(len(found.means) - 1)]
        pairs = np.triu_indices(len(truth), 1)
        off = np.abs(found.means[:, None] - found.means - (truth[:, None] - truth))[pairs]
        half = scipy.stats.t.ppf(0.975, np.maximum(found.own_df, 1)) * np.sqrt(found.own_variance)
        covered.append((off <= half[pairs]).mean())
    return {"lost": lost / sweeps, "false": false / sweeps, "power": float(np.mean(left)), "coverage": float(np.mean(covered))}


def single(sweeps):
    """Worlds A to G on a single split: errors with no effect, and with a best that is ahead by 0.1."""
    print(f"\nSingle split, 12 configurations, {sweeps} sweeps a row. Errors: the largest of 3, 5 and 10 seeds.")
    print("world  patients   nothing differs: lost  false  coverage   best by 0.1: lost  false")
    rows = []
    for name in worlds.WORLDS:
        for patients in (3, 6, 9, 12, 16, 30):
            found = []
            for seeds in (3, 5, 10):
                for best in (0.0, 0.1):
                    random = np.random.default_rng([ord(name), patients, seeds, int(10 * best)])
                    settings = {"seeds": seeds, "patients": patients, "best": best}
                    one = rates(lambda s=settings, r=random, w=name: worlds.runs(w, r, **s), of_runs, sweeps, best=best)
                    rows.append({"world": name, **settings, "sweeps": sweeps, **one})
                    found.append(rows[-1])
            none, some = ([one for one in found if bool(one["best"]) == flag] for flag in (False, True))
            print(
                f"{name:>5} {patients:>9} {max(r['lost'] for r in none):>22.3f} {max(r['false'] for r in none):>6.3f}"
                f" {min(r['coverage'] for r in none):>7.2f}-{max(r['coverage'] for r in none):.2f}"
                f" {max(r['lost'] for r in some):>12.3f} {max(r['false'] for r in some):>6.3f}"
            )
    return rows


def power(sweeps):
    """Power of the set for a true 0.1, and how stable verdicts are, beside the rule with a switch."""
    print(f"\nPower of the set for a true 0.1 at 16 patients and 5 seeds, {sweeps} sweeps; and the share in which a run of")
    print("one configuration that moves by 0.02 changes more than one verdict on the others.")
    print("world   power: ours  switch   unstable: ours  switch")
    rows = []
    for name in worlds.WORLDS:
        row = {"world": name, "sweeps": sweeps}
        for label, rule in (("ours", of_runs), ("switch", with_switch)):
            random = np.random.default_rng(ord(name))
            turns = iter(range(10**9))
            make = lambda r=random, w=name, t=turns: worlds.runs(w, r, best=0.1, turn=next(t) % 3)  # noqa: E731
            row |= {f"power_{label}": rates(make, rule, sweeps, best=0.1)["power"]}
            row |= {f"unstable_{label}": unstable(name, rule, sweeps)}
        rows.append(row)
        print(f"{name:>5} {row['power_ours']:>13.2f} {row['power_switch']:>7.2f}", end="")
        print(f" {row['unstable_ours']:>16.3f} {row['unstable_switch']:>7.3f}")
    return rows


def unstable(name, rule, sweeps):
    random, changed = np.random.default_rng(ord(name) + 1), 0
    for _ in range(sweeps):
        scores = worlds.runs(name, random) + random.choice([0, 0.05, 0.1], 12)[:, None, None]
        moved, one = scores.copy(), random.integers(12)
        moved[one, random.integers(5)] += random.choice([-0.02, 0.02])
        others = np.arange(12) != one
        before, after = decide(rule(scores)), decide(rule(moved))
        pairs = (before.worse != after.worse)[np.ix_(others, others)].sum()
        changed += max((before.may_be_best != after.may_be_best)[others].sum(), pairs) > 1
    return changed / sweeps


def cross_validation(sweeps):
    print(f"\nCross-validation, {sweeps} sweeps a row; residual and configuration x patient sd 0.05.")
    print("configurations folds x seeds  patients a fold  run sd  fold sd  noisy   lost  false  coverage")
    rows = []
    for n in (2, 3, 12):
        for n_folds, seeds in ((5, 1), (5, 3), (10, 1)):
            for patients, run_sd, fold_sd, noisy in ((4, 0.02, 0.0, 0), (4, 0.02, 0.05, 0), (20, 0.02, 0.05, 0), (4, 0.01,
                                                     0.0, 1), (20, 0.01, 0.03, 1)):  # fmt: skip
                settings = {
                    "n": n,
                    "n_folds": n_folds,
                    "seeds": seeds,
                    "patients": patients,
                    "run_sd": run_sd,
                    "fold_sd": fold_sd,
                }
                random = np.random.default_rng([n, n_folds, seeds, patients, noisy])
                make = lambda r=random, s=settings, z=noisy: worlds.folds(r, **s, noisy=bool(z))  # noqa: E731
                rows.append({**settings, "noisy": bool(noisy), "sweeps": sweeps, **rates(make, of_folds, sweeps)})
                print(
                    f"{n:>14} {n_folds:>7} x {seeds} {patients:>16} {run_sd:>8} {fold_sd:>7} {'yes' if noisy else 'no':>6}"
                    f" {rows[-1]['lost']:>7.3f} {rows[-1]['false']:>6.3f} {rows[-1]['coverage']:>7.3f}"
                )
    print("\nPower of the set for a true 0.1, 10 folds, one seed, 2 patients a fold")
    for n, run_sd in ((12, 0.02), (12, 0.05), (3, 0.02)):
        random = np.random.default_rng(n)
        make = lambda r=random, c=n, sd=run_sd: worlds.folds(r, n=c, run_sd=sd, best=0.1)  # noqa: E731
        rows.append({"n": n, "run_sd": run_sd, "sweeps": sweeps, **rates(make, of_folds, sweeps, best=0.1)})
        print(f"{n} configurations, run sd {run_sd}, fold sd 0.03: {rows[-1]['power']:.2f}")
    return rows


def looks(sweeps):
    """Three looks at 3, 5 and 10 seeds, each at a third of 5 %; what has left stays out."""
    print(f"\nThree looks at 3, 5 and 10 seeds, 16 patients, nothing differs, {sweeps} sweeps")
    rows = []
    for name in worlds.WORLDS:
        random, lost, false = np.random.default_rng(ord(name) + 2), 0, 0
        for _ in range(sweeps):
            scores, alive, wrong = worlds.runs(name, random, seeds=10), np.arange(12), False
            for seeds in (3, 5, 10):
                if len(alive) > 1:
                    decided = decide(of_runs(scores[alive, :seeds]), alpha=0.05 / 3, n_configurations=12)
                    alive, wrong = alive[decided.may_be_best], wrong or bool(decided.worse.any())
            lost += 0 not in alive
            false += wrong
        rows.append({"world": name, "sweeps": sweeps, "lost": lost / sweeps, "false": false / sweeps})
        print(f"{name}: best lost {lost / sweeps:.3f}, any false clear difference {false / sweeps:.3f}")
    return rows


def winners(sweeps):
    """The naive and the honest score of the chosen configuration, minus its true mean."""
    print(f"\nScore of the winner minus its true mean, 12 configurations whose means have this sd, {sweeps} sweeps")
    rows = []
    for name, (seeds, patients), sd in itertools.product("ABCDG", ((3, 6), (5, 16), (10, 16)), (0.0, 0.05)):
        random, naive, honest = np.random.default_rng([ord(name), seeds, patients]), [], []
        for _ in range(sweeps):
            effects = random.normal(0, sd, 12)
            scores = worlds.runs(name, random, seeds=seeds, patients=patients) + effects[:, None, None]
            names = tuple(map(str, range(patients)))
            found = honest_score([Scores((Block(names, of),)) for of in scores], seed=0, n=200)
            truth = 0.7 + effects[scores.mean((1, 2)).argmax()]
            naive.append(found.naive - truth)
            honest.append(found.score - truth)
        error = float(np.std(honest) / math.sqrt(sweeps))
        row = {"world": name, "seeds": seeds, "patients": patients, "sd": sd, "sweeps": sweeps}
        rows.append({**row, "naive": float(np.mean(naive)), "honest": float(np.mean(honest)), "standard_error": error})
        print(
            f"{name} {seeds:>2} seeds {patients:>2} patients, sd {sd:<4}: naive {np.mean(naive):+.3f}, "
            f"honest {np.mean(honest):+.3f} (standard error {error:.3f})"
        )
    return rows


def detectable(sweeps):
    """Whether configurations that are worse by the detectable difference leave the set in 80 % of sweeps, as a report says."""
    print(f"\nConfigurations that are worse by the difference that a report calls detectable leave in (80 %), {sweeps} sweeps")
    rows = []
    for name, seeds, patients in (("A", 5, 16), ("B", 3, 9), ("B", 5, 16), ("G", 5, 16), ("B", 10, 30)):
        random = np.random.default_rng([ord(name), seeds])
        typical = []
        for _ in range(100):
            found = of_runs(worlds.runs(name, random, seeds=seeds, patients=patients))
            parts = planning.parts(found)
            typical.append(planning.detectable_difference(parts[0], parts[1] / seeds, patients, seeds, 12))
        size = float(np.median(typical))
        make = lambda r=random, w=name, s=seeds, p=patients, d=size: worlds.runs(w, r, seeds=s, patients=p, best=d)  # noqa: E731
        rows.append({"world": name, "seeds": seeds, "patients": patients, "difference": size, "sweeps": sweeps})
        rows[-1]["left"] = rates(make, of_runs, sweeps, best=size)["power"]
        print(f"{name}, {seeds} seeds, {patients} patients: a difference of {size:.3f}: {rows[-1]['left']:.2f}")
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sweeps", type=int, default=500, help="simulated sweeps of each row")
    parser.add_argument("--out", type=Path, help="write the rows to this JSON file")
    given = parser.parse_args()
    parts = (single, power, cross_validation, looks, winners, detectable)
    report = {part.__name__: part(given.sweeps) for part in parts}
    if given.out:
        given.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
