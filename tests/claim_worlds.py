"""Simulated sweeps of 16 patients, in memory, in which a claim of the right-ventricle study is true, false or neither.

Each has the configurations, seeds, folds and validation patients of the named study that the claim needs. An effect of 1 makes
the claim true, -1 plants the opposite, and 0 puts its decisive difference at the value at which the claim is neither true nor
false. In a conjunction, this is one of its parts and the others are true, which is the hardest case.
"""

import functools
import itertools
import math
from collections import Counter

import numpy as np

import simulated
from segtune.data import splits
from segtune.report import claims
from segtune.report.records import Cell
from segtune.studies import right_ventricle

LOSSES, SHARES = ("bce", "focal", "bce_dice"), (0.2, 0.4, 0.6, 0.8)
IMAGES = [name for i, name in enumerate(simulated.PATIENTS) for _ in range(15 + (i % 5 == 4))]  # 243 of 16


@functools.cache
def sides(by, share, n_folds, fold):
    """The training and the validation patients, and the number of training images."""
    settings = {"n_folds": n_folds, "fold": fold} if fold is not None else {}
    settings |= {"val_fraction": share} if by != "kfold" else {}
    split = splits.RULES[by](IMAGES, seed=0, **settings)
    train, val = ({IMAGES[i] for i in side} for side in (split.train, split.val))
    return train, val, len(split.train)


class World:
    """A sweep. Scores are patient + configuration x patient + run + residual; `calm` divides the last three."""

    def __init__(self, seed, *, calm=1.0, replicates=None):
        self.random, self.calm, self.cells, self.replicates = np.random.default_rng(seed), calm, [], replicates
        self.patients = dict(zip(simulated.PATIENTS, self.random.normal(0, 0.07, 16), strict=True))

    def cell(
        self, dice=0.7, *, seeds=1, folds=None, by="patient", share=0.2, run_sd=0.02, curve=None, columns=None, **settings
    ):
        """Add a configuration.

        Args:
            curve: arguments of simulated.curves, called with the World's random generator if they are functions.
            columns: function (random, columns) that changes the curves of a run.
        """
        norm, images = settings.pop("norm", None), settings.get("split__images_per_patient")
        suits = dict(zip(simulated.PATIENTS, self.random.normal(0, 0.02, 16), strict=True))
        records, facts = [], None
        units = [*itertools.product(range(seeds), range(folds) if folds else [None])][: self.replicates]
        for seed, fold in units:
            more = {} if images is None else {"split__images_per_patient": images}
            plain = {key: value for key, value in settings.items() if key != "split__images_per_patient"}
            config = simulated.config(by=by, share=share, seed=seed, fold=fold, n_folds=folds, **plain)
            config["split"] |= {key.removeprefix("split__"): value for key, value in more.items()}
            train, val, n_train = sides(by, share, folds, fold)
            run = self.random.normal(0, run_sd / self.calm)
            own = {name: suits[name] + self.random.normal(0, 0.04) for name in sorted(val)}
            scores = {name: dice + self.patients[name] + run + value / self.calm for name, value in own.items()}
            scores = {name: float(np.clip(value, 0.02, 0.98)) for name, value in scores.items()}
            shape = {name: value(self.random) if callable(value) else value for name, value in (curve or {}).items()}
            table = simulated.curves(config["trainer"]["max_epochs"], **{"last": float(np.mean([*scores.values()]))} | shape)
            if columns:
                columns(self.random, table)
            own_norm = None if norm is None else norm * math.exp(self.random.normal(0, 0.05))
            one = simulated.record(
                *(config, scores, table),
                facts=facts,
                train=train,
                n_train=n_train if images is None else images * len(train),
                norm=own_norm,
            )
            facts = one.facts
            records.append(one)
        self.cells.append(Cell(f"configuration {len(self.cells)}", tuple(records)))

    def verdict(self, number):
        (claim,) = (one for one in right_ventricle.CLAIMS if one.number == number)
        return claims.verdicts([claim], self.cells)[0]


def noise(column, sd):
    """Add noise to a column of the curves, but not to its first value."""

    def change(random, columns):
        columns[column] = columns[column] + np.concatenate([[0], random.normal(0, sd, len(columns[column]) - 1)])

    return change


def both_arms(w, dice=lambda share: 0.6, *, columns=lambda share: None, run_sd=lambda share: 0.02, **settings):
    """BCE at four shares, with as many epochs and with as many updates of each."""
    for share, epochs in [(share, 15) for share in SHARES] + [(0.4, 20), (0.6, 30), (0.8, 60)]:
        shown = {"columns": columns(share), "run_sd": run_sd(share)}
        w.cell(dice(share), loss="bce", by="nested", share=share, epochs=epochs, **shown, **settings)


def batch_size(w, effect):
    fine, coarse = (0.03, 0.4) if effect else (0.4, 0.4)
    for batch, sd in ((15, coarse if effect < 0 else fine), (10, fine if effect < 0 else coarse)):
        w.cell(batch=batch, share=0.1, epochs=5, seeds=20, columns=noise("val_loss", sd))


def short_run(w, effect):
    ratio = {1: 0.99, 0: 0.9, -1: 0.5}[effect]
    for loss in LOSSES:
        w.cell(loss=loss, epochs=100, by="kfold", folds=10, curve={"dice_settles": lambda r: 15 / (ratio + r.normal(0, 0.02))})


def share_matters(w, effect):
    both_arms(w, lambda share: 0.6 + effect * 0.4 * (0.5 - share), folds=5, seeds=2)


def fluctuation(w, effect):
    both_arms(w, columns=lambda share: noise("val_loss", 0.05 * math.exp(6 * effect * (share - 0.5))), folds=5, seeds=2)


def focal(w, effect):
    for loss, share in itertools.product(LOSSES, SHARES):
        is_focal = loss == "focal"
        sd = 0.05 * math.exp(-1.5 * is_focal * abs(effect or 1) * (1 if effect >= 0 else -1))
        dice = 0.7 - 0.15 * is_focal * effect  # at 0, focal is the steadiest but as good as the others
        w.cell(dice, loss=loss, share=share, by="nested", folds=5, seeds=2, columns=noise("val_dice", sd))


def decay(w, effect):
    for share in SHARES:

        def change(random, columns, share=share):
            for name, tilt, sd in (("val_loss", share * (effect > 0), 0.08), ("train_loss", share * (effect < 0), 0.02)):
                epochs = len(columns["epoch"])
                columns[name] = columns[name] * (1 + 2 * tilt * np.arange(epochs) / epochs)
                noise(name, sd)(random, columns)

        w.cell(loss="focal", share=share, by="nested", folds=5, seeds=2, columns=change)


def best_loss(w, effect):
    for loss, share in itertools.product(LOSSES, SHARES):
        better = 0.2 * (loss == "bce_dice") * (1 if share != 0.8 else effect)  # one share decides
        w.cell(0.55 + better, loss=loss, share=share, by="nested", folds=5, seeds=2)


def overfits(w, effect):
    for share, gap in ((0.2, 0.25), (0.4, 0.25 - 0.15 * effect)):
        w.cell(by="nested", share=share, folds=5, seeds=2, curve={"gap": lambda r, gap=gap: gap + r.normal(0, 0.02)})


FOLDS = {"by": "nested", "share": 0.4, "folds": 10}


def collapse(w, effect, name="l2", lambdas=(0.01, 0.1)):
    if name == "l2":
        w.cell(0.7, norm=40.0, **FOLDS)
    for value in lambdas:
        w.cell({1: 0.3, 0: 0.3, -1: 0.85}[effect], norm={1: 5.0, 0: 20.0, -1: 60.0}[effect], **{name: value}, **FOLDS)


def reach(mean):
    return {"reach": lambda random: max(1, round(random.normal(mean, 1)))}


def faster(w, effect):
    w.cell(0.7, curve=reach(9), seeds=2, **FOLDS)
    for value in (0.0005, 0.00075, 0.001):
        w.cell(0.7, l2=value, curve=reach(9 - 5 * (effect if value == 0.001 else 1)), seeds=2, **FOLDS)


def small_lambda(w, effect):
    w.calm = 6  # an equivalence within 0.01 cannot be shown with runs that vary as much as in the other worlds
    w.cell(0.7, run_sd=0.01, seeds=2, **FOLDS)
    w.cell({1: 0.7, 0: 0.69, -1: 0.6}[effect], l2=0.00005, run_sd=0.01, seeds=2, **FOLDS)


def magnitude(w, effect):
    w.cell(0.6, **FOLDS)
    lambdas = {"l2": (0.1, 0.01, 0.001, 0.00075, 0.0005, 0.00005), "l1": (0.1, 0.005, 1e-5, 1e-6, 5e-7)}
    for name, value in [(name, value) for name, of in lambdas.items() for value in of]:
        good = name == "l2" and value in (0.001, 0.00075)
        ratio = value * (1000 if effect >= 0 else 1e6) * (1 if name == "l2" else 40)
        curve = {"ratio": lambda random, ratio=ratio: ratio * math.exp(random.normal(0, 0.05))}
        w.cell(0.6 + 0.2 * (good and effect != 0), curve=curve, **{name: value}, **FOLDS)


def lambda1(w, effect):
    w.cell(0.7, norm=40.0, curve=reach(9), seeds=2, **FOLDS)
    collapse(w, effect, "l1", (0.005, 0.1))
    w.cell(0.7, l1=5e-7, norm=40.0, curve=reach(9 - 5 * effect), seeds=2, **FOLDS)


def unreliable(w, effect):
    both_arms(w, run_sd=lambda share: 0.04 * math.exp(1.4 * effect * math.copysign(1, share - 0.5)), seeds=10)


def saturates(w, effect):
    lag = {1: 0, 0: 2, -1: 30}[effect]
    for loss in LOSSES:
        settles = {"loss_settles": 20, "dice_settles": lambda random: 20 + lag + random.integers(-2, 3)}
        w.cell(loss=loss, epochs=100, by="kfold", folds=10, curve=settles)


def patient_batches(w, effect):
    folds = {"by": "kfold", "folds": 10}
    for images, epochs in ((8, 28), (15, 15), (30, 8)):
        for batch in (8, 15, 30):
            dice = 0.6 + 0.12 * effect * (batch == images) + 0.02 * (batch == 15)
            w.cell(dice, batch=batch, epochs=epochs, split__images_per_patient=images, **folds)
    w.cell(0.62 + 0.15 * effect, batch="patient", split__images_per_patient=15, **folds)


PLANTS = dict(
    enumerate(
        (
            *(batch_size, short_run, share_matters, fluctuation, focal, decay, best_loss, overfits, collapse, faster),
            *(small_lambda, magnitude, lambda1, unreliable, saturates, patient_batches),
        ),
        start=1,
    )
)


def judged(number, effect, seed=0, **settings):
    """The verdict on a claim in a world. Args: effect: 1 (true), 0 (neither) or -1 (opposite). settings: of the World."""
    world = World((seed, number, effect + 1), **settings)
    PLANTS[number](world, effect)
    return world.verdict(number)


def rates(number, effect, n):
    """Count the verdicts in n worlds.

    "decided" counts those that stand if the claim is one of 16, "declared" the contradictions by a difference (the other ones
    are equivalences).
    """
    found = Counter()
    for seed in range(n):
        one = judged(number, effect, seed)
        found[one.verdict] += 1
        found["declared"] += one.verdict == claims.CONTRADICTED and one.p < 0.05
        found["decided"] += one.verdict != claims.UNDECIDED and (one.p < 0.05 / 16 or not one.found.has_differences)
    return found


if __name__ == "__main__":
    import sys

    for asked in map(int, sys.argv[2:] or PLANTS):
        for planted in (1, 0, -1):
            print(asked, PLANTS[asked].__name__, planted, dict(rates(asked, planted, int(sys.argv[1]))), flush=True)
