"""The published right-ventricle study: its 16 claims with their tests, its named sweeps, and the curves that it printed.

This file is longer than others, so that the table of claims is beside the 16 tests. Percentages such as 20 % are the share of
images held out for validation. "All parts agree" means that the difference has the same direction in all parts of the contrast.

| # | claim | statistic | contrast | configurations needed | margin |
|---|---|---|---|---|---|
| 1 | batch 15 gives a steadier decay of the loss than batch 10 | roughness of val_loss, paired by seed | 15 - 10 < 0 | batch 10 and 15, otherwise equal | 10 % of the value at batch 10 |
| 2 | 90 % of the attainable Dice is reached in a short run | best of 15 epochs / best of 100 | mean over configurations > 0.9, all parts agree | runs of 100 epochs (study=long) | none |
| 3 | BCE: 20 and 40 % do clearly better than 60 and 80 % | last Dice | (20, 40) - (60, 80) > 0, all parts agree | bce, nested, four shares | 0.01 |
| 4 | BCE: the smaller the training set, the more the loss fluctuates | roughness of val_loss | slope over the share held out > 0 | bce, nested, three shares or more | 10 % of the mean |
| 5 | focal: Dice grows most steadily, but saturates lower than with the other losses | roughness of val_dice; last Dice | focal - each other loss < 0, mean over shares | focal and another loss, two shares or more | 10 % of the other loss's value; 0.01 |
| 6 | focal: training loss decays equally across splits, validation loss varies | sd across shares of the curves divided by their first value | validation - training > 0, by seed | focal, two shares or more | 10 % of their mean |
| 7 | BCE + Dice beats BCE and focal, even with 80 % held out | last Dice | > 0 at every share, against each other loss | the three losses, four shares | 0.01 |
| 8 | BCE + Dice at 20 % overfits; the gap is smaller at 40 % | training - validation Dice | gap at 20 % > 0.05; 20 % - 40 % > 0 | bce_dice, nested, 20 and 40 % | 0.01 |
| 9 | large lambda2 collapses the weights, Dice stalls | ln of the weights' norm; last Dice | each of 0.01 and 0.1 - no penalty < 0 | l2 0.01 and 0.1, none | ln 1.05; 0.01 |
| 10 | lambda2 in 0.0005 ... 0.001 reaches high Dice faster than none | epochs to 90 % of the best Dice without penalty | mean over 0.0005, 0.00075, 0.001 - no penalty < 0, all parts agree | these lambdas, no penalty | 0.5 epochs |
| 11 | lambda2 < 0.0005 behaves like none | last Dice | each - no penalty within the margin | l2 below 0.0005, none | 0.01 |
| 12 | a good lambda gives a penalty of the loss's magnitude | log10(weighted penalty / data loss), first epoch | value at the best lambda is within the margin of 0 | two lambdas or more of a penalty | 1 |
| 13 | large lambda1 collapses; lambda1 near 5e-7 speeds Dice up | as claim 9 at 0.005 and 0.1, as claim 10 at 5e-7 | < 0 | l1 0.1, 0.005, 5e-7, none | as claims 9 and 10 |
| 14 | BCE becomes unreliable with less than about 70 % for training | ln of the sd of last Dice over seeds | (60, 80) - (20, 40) > 0 | bce, nested, four shares | ln 1.5 |
| 15 | once the loss has converged, Dice saturates too | epoch from which val_dice stays within 2 % of its range of its last value, minus the same epoch of val_loss | mean over configurations < 2 epochs, all parts agree | no penalty, longest runs (15 epochs or more), loss converged in the first 80 % | none |
| 16 | batch 15 is good because a patient has about 15 images | last Dice | (a patient's images as a batch) - (15 shuffled images): not below minus the margin | batch 15 and patient (study=patient_batches) | 0.01 |

The verdict follows the rules in segtune.report.claims. Runs are compared only with runs of the same context, whose configurations
may differ only in loss, share, penalty and batch (and in seed and fold). If there are several contexts, the one with most tests
is used; in ties, the one with the longest runs (claim 15), and then the one with most runs.
"""

import csv
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources

import numpy as np

from segtune.report import curves, stats
from segtune.report.claims import Claim, Contrast, Found, Study
from segtune.report.formats import short_percent
from segtune.report.penalties import lambda_series
from segtune.report.records import FAMILY, Cell, Facts, Record
from segtune.report.stats import EQUIVALENCE
from segtune.studies.contrasts import at, dice_contrast, mean_of, over, paired, pick, plain, run_contrast

SHARES = (0.2, 0.4, 0.6, 0.8)


def _batch_size(cells: Sequence[Cell]) -> Found:
    differences, before, groups = [], [], []
    for fifteen in (cell for cell in cells if cell.facts.batch == "15"):
        f = fifteen.facts
        ten = pick(cells, loss=f.loss, share=f.share, l1=f.l1, l2=f.l2, batch="10")
        if ten:
            differences.append(paired(fifteen, ten, _loss_roughness))
            before.append(ten.by_seed(_loss_roughness).mean())
            groups += [(cell.name, list(cell.by_seed(_loss_roughness))) for cell in (ten, fifteen)]
    if not differences:
        return Found()
    n = min(len(of) for of in differences)
    estimate = stats.run_contrast(
        [(1.0, np.mean([of[:n] for of in differences], axis=0))] if n else [(1.0, np.array([np.nan]))]
    )
    return Found(
        [
            Contrast(
                "batch 15 - batch 10", estimate, "lower", 0.1 * float(np.mean(before)), tuple(groups), "roughness of val_loss"
            )
        ]
    )


def _loss_roughness(record: Record) -> float:
    return record.roughness("val_loss")


def _dice_roughness(record: Record) -> float:
    return record.roughness("val_dice")


def _short_run(cells: Sequence[Cell]) -> Found:
    def ratio(record: Record) -> float:
        curve = np.nan_to_num(np.asarray(record.history["val_dice"][:100]))
        return float(curve[:15].max() / curve.max()) if curve.max() > 0 else math.nan

    long = [cell for cell in cells if all(len(record.history["epoch"]) >= 100 for record in cell.records)]
    groups = over([cell for cell in long if not cell.facts.l1 and not cell.facts.l2], 1.0, ratio)
    if not groups:
        return Found()
    name = "best of 15 epochs / best of 100, mean over configurations"
    test = run_contrast(name, groups, "higher", null=0.9, margin=None, unit="best of 15 epochs / best of 100")
    return Found([test], consistent=all((values.mean() > 0.9) == (test.estimate.value > 0.9) for _, _, values in groups))


def _share_matters(cells: Sequence[Cell]) -> Found:
    bce = plain(cells, "bce")
    missing = [f"bce at {short_percent(share)}, nested" for share in SHARES if not at(bce, share)]
    if missing:
        return Found(missing=missing)
    s20, s40, s60, s80 = (bce[share] for share in SHARES)
    test = dice_contrast("bce: 20 and 40 % - 60 and 80 %", [s20, s40], [s60, s80], "higher")
    steps = [stats.contrast([a.scores], [b.scores]).value for a, b in itertools.product((s20, s40), (s60, s80))]
    return Found([test], consistent=all(np.sign(step) == np.sign(test.estimate.value) for step in steps))


def _fluctuation(cells: Sequence[Cell]) -> Found:
    bce = plain(cells, "bce")
    if len(bce) < 3:
        return Found()
    values = {share: cell.by_seed(_loss_roughness) for share, cell in bce.items()}
    x, y = np.repeat(list(values), [len(of) for of in values.values()]), np.concatenate(list(values.values()))
    estimate = stats.slope(x, y, min(len(cell.seeds) for cell in bce.values()))
    groups = tuple((short_percent(share), list(of)) for share, of in values.items())
    name = f"bce: roughness from {short_percent(min(bce))} to {short_percent(max(bce))} held out, by regression"
    return Found([Contrast(name, estimate, "higher", 0.1 * float(np.mean(y)), groups, "roughness of val_loss")])


def _focal(cells: Sequence[Cell]) -> Found:
    focal, tests, missing = plain(cells, "focal"), [], []
    for other in ("bce", "bce_dice"):
        its = plain(cells, other)
        shares = [share for share in focal if share in its]
        if len(shares) < 2:
            missing.append(f"focal and {other} at two shares or more")
            continue
        ours, theirs = [focal[share] for share in shares], [its[share] for share in shares]
        rough = over(theirs, -1.0, _dice_roughness)
        margin = 0.1 * mean_of(rough)
        tests.append(
            run_contrast(
                f"roughness, focal - {other}",
                over(ours, 1.0, _dice_roughness) + rough,
                "lower",
                margin=margin,
                unit="roughness of val_dice",
            )
        )
        tests.append(dice_contrast(f"Dice, focal - {other}", ours, theirs, "lower"))
    return Found(tests, missing)


def _decay(cells: Sequence[Cell]) -> Found:
    focal = plain(cells, "focal")
    if len(focal) < 2:
        return Found()
    seeds = sorted(set.intersection(*(set(cell.seeds) for cell in focal.values())))

    def spread(column: str, seed: int) -> float:
        of = [[r.history[column] for r in cell.records if r.seed == seed] for cell in focal.values()]
        n = min(len(curve) for curves in of for curve in curves)
        means = [np.mean([curve[:n] for curve in curves], axis=0) for curves in of]
        return float(np.std([curve / curve[0] for curve in means], axis=0, ddof=1).mean())

    train, val = (np.array([spread(column, seed) for seed in seeds]) for column in ("train_loss", "val_loss"))
    if not seeds:
        return Found()
    estimate = stats.run_contrast([(1.0, val - train)])
    groups = (("training", list(train)), ("validation", list(val)))
    margin = 0.1 * float(np.mean([train, val]))
    return Found(
        [Contrast("spread across shares, validation - training", estimate, "higher", margin, groups, "sd of loss / first")]
    )


def _best_loss(cells: Sequence[Cell]) -> Found:
    ours, tests, missing = plain(cells, "bce_dice"), [], []
    others = {name: plain(cells, name) for name in ("bce", "focal")}
    for share in sorted({*SHARES, *ours}):
        for name, its in others.items():
            one, other = at(ours, share), at(its, share)
            if one and other:
                tests.append(dice_contrast(f"{short_percent(share)}: BCE + Dice - {name}", [one], [other], "higher"))
            elif share in SHARES:
                missing.append(f"BCE + Dice and {name} at {short_percent(share)}")
    return Found(tests, missing)


def _overfits(cells: Sequence[Cell]) -> Found:
    both = plain(cells, "bce_dice")
    s20, s40 = at(both, 0.2), at(both, 0.4)
    if not s20 or not s40:
        return Found(missing=[f"bce_dice at {short_percent(share)}, nested" for share in (0.2, 0.4) if not at(both, share)])
    unit = "training - validation Dice"
    gap20, gap40 = s20.by_seed(lambda record: record.gap), s40.by_seed(lambda record: record.gap)
    return Found(
        [
            run_contrast("gap at 20 %", [(1.0, s20.name, gap20)], "higher", null=0.05, margin=None, unit=unit),
            run_contrast(
                "gap at 20 % - 40 %", [(1.0, s20.name, gap20), (-1.0, s40.name, gap40)], "higher", margin=EQUIVALENCE, unit=unit
            ),
        ]
    )


def _collapse(none: Cell, cells: dict[float, Cell], lambdas: Sequence[float], name: str) -> Found:
    """Test claims 9 and 13: at each of these lambdas, the weights shrink and Dice is lower than without penalty."""
    tests, missing = [], []
    for value in lambdas:
        cell = at(cells, value)
        if cell is None:
            missing.append(f"{name} {value:g}")
            continue
        groups = [(1.0, cell.name, cell.by_seed(_log_norm)), (-1.0, none.name, none.by_seed(_log_norm))]
        tests.append(run_contrast(f"{name} {value:g} - none: weights", groups, "lower", margin=math.log(1.05), unit="ln |w|"))
        tests.append(dice_contrast(f"{name} {value:g} - none: Dice", [cell], [none], "lower"))
    return Found(tests, missing)


def _log_norm(record: Record) -> float:
    return math.log(record.weight_norm) if record.weight_norm > 0 else math.nan


def _faster(none: Cell, cells: dict[float, Cell], lambdas: Sequence[float], name: str) -> Found:
    """Test claims 10 and 13: with these lambdas, 90 % of the best Dice without penalty is reached in fewer epochs."""
    goal = 0.9 * float(np.mean(none.by_seed(lambda record: float(np.nanmax([0.0, *record.history["val_dice"]])))))

    def epochs(record: Record) -> float:
        reached = curves.epochs_to(record.history["val_dice"], goal)
        # a run that stopped early without reaching the goal counts as if it had needed one epoch more than planned
        return reached if reached <= len(record.history["val_dice"]) else record.facts.epochs + 1.0

    found = [cell for value in lambdas if (cell := at(cells, value))]
    missing = [f"{name} {value:g}" for value in lambdas if not at(cells, value)]
    if not found:
        return Found(missing=missing)
    groups = [*over(found, 1.0, epochs), (-1.0, none.name, none.by_seed(epochs))]
    label = f"{name} {', '.join(f'{value:g}' for value in lambdas if at(cells, value))} - none: epochs"
    unit = f"epochs to a validation Dice of {goal:.3f}"
    test = run_contrast(label, groups, "lower", margin=0.5, unit=unit, resolution=1.0)
    steps = [of.mean() - groups[-1][2].mean() for _, _, of in groups[:-1]]
    return Found([test], missing, consistent=all(step * test.estimate.value >= 0 for step in steps))


def _best_series(rule: Callable[[Cell, dict[float, Cell], dict[float, Cell]], Found]) -> Callable[[Sequence[Cell]], Found]:
    """Make a claim's test from a rule: apply it to each series of configurations that differ only in lambda, and use the best one.

    The best one is the series with the largest Found.weight.
    """

    def find(cells: Sequence[Cell]) -> Found:
        found = [rule(none, l1, l2) for none, l1, l2 in lambda_series(cells) if none]
        return max(found, key=lambda one: one.weight, default=Found())

    return find


def _l2_faster(none: Cell, l1: dict[float, Cell], l2: dict[float, Cell]) -> Found:
    return _faster(none, l2, (0.0005, 0.00075, 0.001), "lambda2")


def _l2_collapse(none: Cell, l1: dict[float, Cell], l2: dict[float, Cell]) -> Found:
    return _collapse(none, l2, (0.01, 0.1), "lambda2")


def _l2_small(none: Cell, l1: dict[float, Cell], l2: dict[float, Cell]) -> Found:
    return Found(
        [
            dice_contrast(f"lambda2 {value:g} - none", [cell], [none], "same")
            for value, cell in l2.items()
            if value < 0.0005 * (1 - 1e-9)
        ]
    )


def _l1(none: Cell, l1: dict[float, Cell], l2: dict[float, Cell]) -> Found:
    collapse, faster = _collapse(none, l1, (0.005, 0.1), "lambda1"), _faster(none, l1, (5e-7,), "lambda1")
    return Found(collapse.tests + faster.tests, collapse.missing + faster.missing, collapse.consistent and faster.consistent)


def _magnitude(cells: Sequence[Cell]) -> Found:
    found = []
    for _, l1, l2 in lambda_series(cells):
        tests = []
        for name, of in (("lambda2", l2), ("lambda1", l1)):
            of = {strength: cell for strength, cell in of.items() if cell.scores.blocks}
            if len(of) < 2:
                continue
            value, best = max(of.items(), key=lambda item: stats.mean(item[1].scores).value)
            groups = [(1.0, best.name, best.by_seed(lambda record: math.log10(record.ratio) if record.ratio > 0 else math.nan))]
            tests.append(
                run_contrast(f"best {name}, {value:g}", groups, "same", margin=1.0, unit="log10(weighted penalty / loss)")
            )
        found.append(Found(tests))
    return max(found, key=lambda one: one.weight, default=Found())


def _unreliable(cells: Sequence[Cell]) -> Found:
    bce = plain(cells, "bce")
    missing = [f"bce at {short_percent(share)}, nested" for share in SHARES if not at(bce, share)]
    if missing:
        return Found(missing=missing)
    values = {share: bce[share].by_seed(lambda record: record.dice) for share in SHARES}
    estimate = stats.spread_ratio([values[0.6], values[0.8]], [values[0.2], values[0.4]])
    groups = tuple((short_percent(share), list(of)) for share, of in values.items())
    return Found(
        [Contrast("bce: spread at 60 and 80 % / at 20 and 40 %", estimate, "higher", math.log(1.5), groups, "last Dice")]
    )


def _saturates(cells: Sequence[Cell]) -> Found:
    def lag(record: Record) -> float:
        loss = curves.settled(record.history["val_loss"])
        return curves.settled(record.history["val_dice"]) - loss if loss <= 0.8 * len(record.history["epoch"]) else math.nan

    shown = [cell for cell in cells if not cell.facts.l1 and not cell.facts.l2 and cell.facts.epochs >= 15]
    if not shown:
        return Found()
    groups = over(shown, 1.0, lag)
    unit = "epochs from a settled loss to a settled Dice"
    test = run_contrast(
        "lag of Dice, mean over configurations", groups, "lower", null=2.0, margin=None, unit=unit, resolution=1.0
    )
    consistent = all((values.mean() < 2) == (test.estimate.value < 2) for _, _, values in groups)
    return Found([test], consistent=consistent, prefer=max(cell.facts.epochs for cell in shown))


def _patient_batches(cells: Sequence[Cell]) -> Found:
    tests = []
    for one in (cell for cell in cells if cell.facts.batch == "patient"):
        f = one.facts
        other = pick(cells, loss=f.loss, share=f.share, l1=f.l1, l2=f.l2, batch="15")
        if other and other.first.config["batch"].get("shuffle") is not False:
            tests.append(dice_contrast("a patient's images - 15 shuffled", [one], [other], "not lower"))
    return Found(tests)


NESTED = "study=nested"
CLAIMS = (
    Claim(
        1,
        "Batch 15 gives a steadier decay of the loss than batch 10.",
        "batch 10 and 15, otherwise equal",
        "study=claims",
        _batch_size,
    ),
    Claim(2, "90 % of the attainable Dice is reached in a short run.", "runs of 100 epochs", "study=long", _short_run),
    Claim(
        3,
        "BCE: 20 % and 40 % held out do clearly better than 60 % and 80 %.",
        "bce, nested, four shares",
        NESTED,
        _share_matters,
        True,
    ),
    Claim(
        4,
        "BCE: the smaller the training set, the more the loss fluctuates.",
        "bce, nested, three shares or more",
        NESTED,
        _fluctuation,
        True,
    ),
    Claim(
        5,
        "Focal: steadiest growth across splits, but saturates lower than the others.",
        "focal, bce, bce_dice, two shares or more",
        "study=claims",
        _focal,
    ),
    Claim(
        6,
        "Focal: training loss decays alike across splits, validation loss varies.",
        "focal, two shares or more",
        "study=claims",
        _decay,
    ),
    Claim(
        7,
        "BCE + Dice beats BCE and focal, even with 80 % held out.",
        "bce_dice, bce, focal at four shares",
        "study=claims",
        _best_loss,
    ),
    Claim(
        8, "BCE + Dice at 20 % overfits; the gap is smaller at 40 %.", "bce_dice, nested, 20 and 40 %", NESTED, _overfits, True
    ),
    Claim(
        9,
        "A large lambda2 collapses the weights, and Dice stalls.",
        "l2 with 0.01 and 0.1, and none",
        "study=claims",
        _best_series(_l2_collapse),
    ),
    Claim(
        10,
        "lambda2 in 0.0005 ... 0.001 reaches a high Dice faster than none.",
        "l2 with 0.0005, 0.00075 and 0.001, and none",
        "study=claims",
        _best_series(_l2_faster),
    ),
    Claim(11, "lambda2 below 0.0005 behaves like none.", "l2 below 0.0005, and none", "study=claims", _best_series(_l2_small)),
    Claim(
        12,
        "A good lambda gives a penalty of the loss's magnitude.",
        "two lambdas or more of l2 or l1",
        "study=claims",
        _magnitude,
    ),
    Claim(
        13,
        "A large lambda1 collapses the weights; lambda1 near 5e-7 speeds Dice up.",
        "l1 with 0.1, 0.005 and 5e-7, and none",
        "study=claims",
        _best_series(_l1),
    ),
    Claim(
        14, "BCE suits about 70 % training and becomes unreliable below.", "bce, nested, four shares", NESTED, _unreliable, True
    ),
    Claim(
        15,
        "Once the loss has converged, Dice saturates too.",
        "unpenalised runs of 15 epochs or more",
        "study=long",
        _saturates,
    ),
    Claim(
        16,
        "Batch 15 is good because a patient has about 15 images.",
        "batch 15 and batch patient",
        "study=patient_batches",
        _patient_batches,
    ),
)

SWEEPS = frozenset(
    (
        *("published", "as_run", "batch_size", "losses", "l1", "l2", "l1l2"),
        *("claims", "nested", "long", "patient_batches", "leak"),
    )
)
COLUMNS = {"epoch": "epoch", "train_loss": "loss_value", "train_dice": "dice", "val_loss": "val_loss", "val_dice": "val_dice"}


def published(facts: Facts) -> dict[str, list[float]] | None:
    """Return the curves that the study's notebook printed for this loss, share and lambdas; None if it printed none."""
    runs: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in _printed():
        same_loss = FAMILY.get(row["loss"], row["loss"]) == FAMILY.get(facts.loss, facts.loss)
        numbers = ((row["val_fraction"], facts.share), (row["lambda_l1"], facts.l1), (row["lambda_l2"], facts.l2))
        if same_loss and all(value is not None and math.isclose(float(text), value, rel_tol=1e-6) for text, value in numbers):
            runs[row["run"]].append(row)
    if not runs:
        return None
    first = next(iter(runs.values()))
    return {name: [float(row[column]) for row in first] for name, column in COLUMNS.items()}


@cache
def _printed() -> list[dict[str, str]]:
    text = resources.files("segtune.studies").joinpath("published.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


STUDY = Study(SWEEPS, CLAIMS, published)
