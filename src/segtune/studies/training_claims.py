"""The tests of claims 1 to 8 and 14 to 16 of the right-ventricle study: losses, training sizes, batches and curves.

right_ventricle.py contains the table of all claims.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from segtune.report import curves, stats
from segtune.report.claims import Found
from segtune.report.formats import short_percent
from segtune.report.records import Cell, Record
from segtune.report.scores import Floats
from segtune.studies.contrasts import (
    Arm,
    Weighted,
    arms,
    at,
    dice_contrast,
    mean_of,
    over,
    pick,
    plain,
    run_contrast,
    spread,
    weighted,
)

SHARES = (0.2, 0.4, 0.6, 0.8)
LEAST_SEEDS = 10  # that claim 14 needs; a spread over few seeds says little
ALIKE = 0.15  # settings that should be equal may differ by this fraction, because patients and epochs are whole
LEVELS = (8, 15, 30)  # images per patient of claim 16


def loss_roughness(record: Record) -> float:
    return record.roughness("val_loss")


def dice_roughness(record: Record) -> float:
    return record.roughness("val_dice")


def batch_size(cells: Sequence[Cell]) -> Found:
    """Test claim 1."""
    pairs = []
    for fifteen in (cell for cell in cells if cell.facts.batch == "15"):
        f = fifteen.facts
        ten = pick(cells, loss=f.loss, share=f.share, l1=f.l1, l2=f.l2, batch="10")
        if ten:
            pairs.append((ten, fifteen))
    if not pairs:
        return Found()
    before = over([ten for ten, _ in pairs], -1.0, loss_roughness)
    groups = [*before, *over([fifteen for _, fifteen in pairs], 1.0, loss_roughness)]
    test = run_contrast(
        "batch 15 - batch 10", groups, "lower", unit="roughness of val_loss", margin=0.1 * mean_of(before), paired=True
    )
    return Found([test])


def short_run(cells: Sequence[Cell]) -> Found:
    """Test claim 2."""

    def ratio(record: Record) -> float:
        curve = np.nan_to_num(np.asarray(record.history["val_dice"][:100]))
        return float(curve[:15].max() / curve.max()) if curve.max() > 0 else math.nan

    long = [cell for cell in cells if all(len(record.history["epoch"]) >= 100 for record in cell.records)]
    groups = over([cell for cell in long if not cell.facts.l1 and not cell.facts.l2], 1.0, ratio)
    if not groups:
        return Found()
    name = "best of 15 epochs / best of 100, mean over configurations"
    unit = "best of 15 epochs / best of 100"
    test = run_contrast(name, groups, "higher", null=0.9, margin=None, unit=unit)
    return Found([test], consistent=all((group.mean > 0.9) == (test.estimate.value > 0.9) for group in groups))


def share_matters(cells: Sequence[Cell]) -> Found:
    """Test claim 3."""
    tests, missing, consistent = [], [], True
    for arm in arms(cells, "bce", SHARES):
        missing += arm.missing
        if arm.missing:
            continue
        s20, s40, s60, s80 = (arm.cells[share] for share in SHARES)
        test = dice_contrast(f"bce, {arm.name}: 20 and 40 % - 60 and 80 %", [s20, s40], [s60, s80], "higher")
        steps = [stats.contrast([a.scores], [b.scores]).value for a, b in itertools.product((s20, s40), (s60, s80))]
        consistent &= all(np.sign(step) == np.sign(test.estimate.value) for step in steps)
        tests.append(test)
    return Found(tests, missing, consistent)


def fluctuation(cells: Sequence[Cell]) -> Found:
    """Test claim 4: regress the roughness on the share held out, in each fold."""
    tests, missing = [], []
    for arm in arms(cells, "bce", SHARES):
        if len(arm.cells) < 3:
            missing += arm.missing
            continue
        shares = np.array([*arm.cells])
        slope = (shares - shares.mean()) / ((shares - shares.mean()) ** 2).sum() * np.ptp(shares)

        def roughness(record: Record, arm: Arm = arm) -> float:
            curve = record.history["val_loss"]
            at_updates = np.round(np.arange(1, arm.epochs + 1) * len(curve) / arm.epochs).astype(int) - 1
            return curves.roughness([curve[i] for i in np.unique(at_updates[at_updates >= 0])])

        groups = [weighted(cell, float(c), roughness) for c, cell in zip(slope, arm.cells.values(), strict=True)]
        name = f"bce, {arm.name}: roughness from {short_percent(shares.min())} to {short_percent(shares.max())} held out"
        tests.append(run_contrast(name, groups, "higher", margin=0.1 * mean_of(groups), unit="roughness of val_loss"))
    return Found(tests, missing)


def focal(cells: Sequence[Cell]) -> Found:
    """Test claim 5, with the mean over shares. All of its parts must hold."""
    ours, tests, missing = plain(cells, "focal"), [], []
    for other in ("bce", "bce_dice"):
        its = plain(cells, other)
        shares = [share for share in ours if share in its]
        if len(shares) < 2:
            missing.append(f"focal and {other} at two shares or more")
            continue
        mine, theirs = [ours[share] for share in shares], [its[share] for share in shares]
        rough = over(theirs, -1.0, dice_roughness)
        groups = [*over(mine, 1.0, dice_roughness), *rough]
        name, margin = f"roughness, focal - {other}", 0.1 * mean_of(rough)
        tests.append(run_contrast(name, groups, "lower", margin=margin, unit="roughness of val_dice"))
        tests.append(dice_contrast(f"Dice, focal - {other}", mine, theirs, "lower"))
    return Found(tests, missing)


def decay(cells: Sequence[Cell]) -> Found:
    """Test claim 6: compare training and validation curves by their variance due to the share.

    The variance due to the seed does not count.

    Each curve is divided by its first value.
    """
    ours = plain(cells, "focal")
    if len(ours) < 2:
        return Found()
    val, train = (_share_component(list(ours.values()), column) for column in ("val_loss", "train_loss"))
    if not val.values:
        return Found(missing=["two seeds of each share and fold"])
    groups = [val, replace(train, coefficient=-1.0)]
    margin = 0.1 * abs(mean_of(groups))
    name = "variance due to the share, validation - training"
    return Found([run_contrast(name, groups, "higher", margin=margin, unit="variance of loss / first", paired=True)])


def _share_component(cells: Sequence[Cell], column: str) -> Weighted:
    """Estimate the part of the curves' variance that is due to the share and not to the seed.

    There is one estimate for each fold, which is the mean over epochs.

    Noise of different seeds is independent, so the covariance over shares between the curves of two seeds is the variance due
    to the share, however noisy the curves are. On a single split, two consecutive seeds form a unit.
    """
    of: dict[tuple[int | None, int], list[list[float]]] = defaultdict(list)  # (fold, seed) -> a curve for each share
    for cell in cells:
        for record in cell.records:
            of[record.fold, record.seed].append(record.history[column])
    n = min(len(curve) for curves_of in of.values() for curve in curves_of)
    by_unit: dict[int, list[Floats]] = defaultdict(list)
    has_folds = any(fold is not None for fold, _ in of)
    for i, ((fold, _), curves_of) in enumerate(sorted(of.items(), key=lambda item: (item[0][0] or 0, item[0][1]))):
        if len(curves_of) == len(cells):
            relative = np.array([np.asarray(curve[:n]) / curve[0] for curve in curves_of])
            by_unit[(fold or 0) if has_folds else i // 2].append(relative - relative.mean(0))
    values = {}
    for unit, deviations in by_unit.items():
        pairs = list(itertools.combinations(deviations, 2))
        if pairs:
            values[unit] = float(np.mean([(one * other).sum(0) / (len(cells) - 1) for one, other in pairs]))
    return Weighted(1.0, "validation" if column == "val_loss" else "training", values, has_folds)


def best_loss(cells: Sequence[Cell]) -> Found:
    """Test claim 7."""
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


def overfits(cells: Sequence[Cell]) -> Found:
    """Test claim 8. Over all folds, each patient is used for training in several runs and for validation in one."""
    both = plain(cells, "bce_dice")
    found = {share: at(both, share) for share in (0.2, 0.4)}
    cells_of = {share: cell for share, cell in found.items() if cell and _has_same_patients(cell)}
    missing = [f"bce_dice at {short_percent(share)} in all nested folds" for share in found if share not in cells_of]
    tests = []
    if s20 := cells_of.get(0.2):
        gap = [weighted(s20, 1.0, _gap)]
        tests.append(run_contrast("gap at 20 %", gap, "higher", null=0.05, margin=0.01, unit="training - validation Dice"))
        if s40 := cells_of.get(0.4):
            groups = [*gap, weighted(s40, -1.0, _gap)]
            tests.append(run_contrast("gap, 20 - 40 %", groups, "higher", margin=0.01, unit="training - validation Dice"))
    return Found(tests, missing)


def _gap(record: Record) -> float:
    return record.gap


def _has_same_patients(cell: Cell) -> bool:
    """Return whether the training patients of all runs of a configuration are the same as their validation patients."""
    sides = [record.result["data"]["patients"] for record in cell.records]
    trained, validated = ({patient for of in sides for patient in of.get(side, ())} for side in ("train", "val"))
    return trained == validated


def unreliable(cells: Sequence[Cell]) -> Found:
    """Test claim 14: a Brown-Forsythe contrast of the absolute deviations of last Dice from the median over seeds."""
    tests, missing = [], []
    for arm in arms(cells, "bce", SHARES):
        missing += arm.missing
        if arm.missing:
            continue
        groups = [spread(arm.cells[share], 0.5 if share > 0.5 else -0.5, lambda record: record.dice) for share in SHARES]
        n = min(len(cell.records) // len({record.fold for record in cell.records}) for cell in arm.cells.values())
        if n < LEAST_SEEDS:
            missing.append(f"{LEAST_SEEDS} seeds, {arm.name} (there are {n})")
        margin = 0.5 * mean_of([group for group in groups if group.coefficient < 0])
        name = f"bce, {arm.name}: deviation from the median, 60 and 80 % - 20 and 40 %"
        test = run_contrast(name, groups, "higher", margin=margin, unit="absolute deviation of last Dice from its median")
        tests.append(test)
    return Found(tests, missing)


def saturates(cells: Sequence[Cell]) -> Found:
    """Test claim 15. Runs whose loss has not settled are left out.

    If the loss has settled but Dice has not, the lag is set to the number of remaining epochs, although the true lag
    may be larger.
    """

    def lag(record: Record) -> float:
        epochs = len(record.history["epoch"])
        loss, dice = (curves.settled(record.history[column]) for column in ("val_loss", "val_dice"))
        if loss > 0.8 * epochs:
            return math.nan
        return epochs - loss if dice > 0.8 * epochs else dice - loss

    shown = [cell for cell in cells if not cell.facts.l1 and not cell.facts.l2 and cell.facts.epochs >= 15]
    if not shown:
        return Found()
    groups = over(shown, 1.0, lag)
    name, unit = "lag of Dice, mean over configurations", "epochs from a settled loss to a settled Dice"
    test = run_contrast(name, groups, "lower", null=2.0, margin=None, unit=unit, resolution=1.0)
    consistent = all((group.mean < 2) == (test.estimate.value < 2) for group in groups)
    return Found([test], consistent=consistent, prefer=max(cell.facts.epochs for cell in shown))


def patient_batches(cells: Sequence[Cell]) -> Found:
    """Test claim 16: compare a batch size equal to the number of images per patient with other batch sizes."""
    tests, missing = [], []
    grid = _grid_of_batches(cells)
    levels = sorted({n for n, _ in grid})
    if len(levels) < 2:
        missing.append("batches of 8, 15 and 30 with split.images_per_patient=8, 15 and 30 (two of them that the data have)")
    else:
        others = [(n, batch) for n, batch in grid if batch != n]
        plus, minus = [grid[n, n] for n, _ in others], [grid[one] for one in others]
        name = f"batch equal to {', '.join(map(str, levels))} images per patient - other batches"
        tests.append(dice_contrast(name, plus, minus, "higher"))
    for one in (cell for cell in cells if cell.facts.batch == "patient"):
        kept = _kept(one)
        fifteen = [cell for cell in cells if _kept(cell) == kept and cell.facts.epochs == one.facts.epochs]
        f = one.facts
        other = pick(fifteen, loss=f.loss, share=f.share, l1=f.l1, l2=f.l2, batch="15")
        if other and other.first.config["batch"].get("shuffle") is not False:
            tests.append(dice_contrast("a patient's images - 15 shuffled", [one], [other], "different"))
    return Found(tests, missing)


def _kept(cell: Cell) -> int | None:
    """The value of split.images_per_patient in a configuration."""
    kept: int | None = cell.first.config["split"].get("images_per_patient")
    return kept


def _grid_of_batches(cells: Sequence[Cell]) -> dict[tuple[int, int], Cell]:
    """Return the configurations of a full grid, with the keys (images per patient, batch).

    Both axes of the grid have the same levels. Levels with missing configurations are left out.

    Only configurations that train on about the same total number of images are returned. Otherwise, configurations
    with fewer images per patient would have fewer updates, and smaller batches are better if there are few updates.
    """
    found: dict[tuple[int, int], Cell] = {}
    for cell in cells:
        n, batch = _kept(cell), cell.facts.batch
        if n in LEVELS and batch.isdigit() and int(batch) in LEVELS and abs(_images_per_patient(cell) / n - 1) <= ALIKE:
            key = n, int(batch)
            found[key] = max(cell, found.get(key, cell), key=lambda one: len(one.records))
    seen = {key: cell.facts.epochs * _images_per_patient(cell) for key, cell in found.items()}
    middle = float(np.median([*seen.values()])) if seen else 0.0
    found = {key: cell for key, cell in found.items() if abs(seen[key] / middle - 1) <= ALIKE}
    levels = {n for n, _ in found}
    while levels and (lacking := {n for n in levels if any((n, b) not in found or (b, n) not in found for b in levels)}):
        levels.remove(max(lacking, key=lambda n: (sum((n, b) not in found for b in levels), n)))
    return {(n, batch): found[n, batch] for n in sorted(levels) for batch in sorted(levels)}


def _images_per_patient(cell: Cell) -> float:
    """The mean number of training images per training patient, as recorded by the runs."""
    sides = [record.result["data"] for record in cell.records]
    return float(np.mean([of["n_images"].get("train", 0) / max(1, len(of["patients"].get("train", ()))) for of in sides]))
