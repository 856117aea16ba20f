"""The published right-ventricle study: its 16 claims with their tests, its named sweeps, and the curves that it printed.

Percentages such as 20 % are the share of images held out for validation. The modules training_claims and penalty_claims
contain the tests. If a contrast has several parts, joined by commas or "and", all of them must hold, and the largest p
value is used. With nested folds, each fold is used for validation in turn, so all 16 patients are scored, and the fold
is the unit of all tests. "Both arms" means that the test is made with the same number of epochs for all training sets,
and again with the same number of optimiser steps (for which smaller training sets need more epochs). "All parts agree"
means that the difference has the same direction in all parts of the contrast.

| # | claim | statistic | contrast | configurations needed | margin |
|---|---|---|---|---|---|
| 1 | batch 15 gives a steadier decay of the loss than batch 10 | roughness of val_loss, paired by seed | 15 - 10 < 0 | batch 10 and 15, otherwise equal | 10 % of the value at batch 10 |
| 2 | 90 % of the attainable Dice is reached in a short run | best of 15 epochs / best of 100 | mean over configurations > 0.9, all parts agree | runs of 100 epochs (study=long) | none |
| 3 | BCE: 20 and 40 % do clearly better than 60 and 80 % | last Dice | (20, 40) - (60, 80) > 0 in both arms, all parts agree | bce, nested, four shares, both arms | 0.01 |
| 4 | BCE: the smaller the training set, the more the loss fluctuates | roughness of val_loss at the same number of points of each curve | slope over the share held out > 0 in both arms | bce, nested, three shares or more, both arms | 10 % of the mean |
| 5 | focal: Dice grows most steadily, but saturates lower than with the other losses | roughness of val_dice; last Dice | focal - each other loss < 0, mean over shares | focal and the other losses, two shares or more | 10 % of the other loss's value; 0.01 |
| 6 | focal: training loss decays equally across splits, validation loss varies | variance of the curves (divided by their first value) that is due to the share: covariance over shares between two seeds | validation - training > 0 | focal, nested, two shares or more, two seeds of each fold | 10 % of their mean |
| 7 | BCE + Dice beats BCE and focal, even with 80 % held out | last Dice | > 0 at every share, against each other loss | the three losses, four shares | 0.01 |
| 8 | BCE + Dice at 20 % overfits; the gap is smaller at 40 % | training - validation Dice, averaged over all folds, so that both are of the same patients | gap at 20 % > 0.05, 20 % - 40 % > 0 | bce_dice, nested, 20 and 40 %, all folds | 0.01 |
| 9 | large lambda2 collapses the weights, Dice stalls | ln of the weights' norm; last Dice | each of 0.01 and 0.1 - no penalty: < ln 0.5 (norm at least halved), < 0 | l2 0.01 and 0.1, none | none; 0.01 |
| 10 | lambda2 in 0.0005 ... 0.001 reaches high Dice faster than none | epochs to 90 % of the best Dice without penalty in the same fold, censored; log-rank test (Peto-Peto weights) | each of 0.0005, 0.00075, 0.001 - no penalty < 0 | these lambdas, no penalty | 0.5 epochs |
| 11 | lambda2 < 0.0005 behaves like none | last Dice | each - no penalty within the margin | l2 below 0.0005, none | 0.01 |
| 12 | a good lambda gives a penalty of the loss's magnitude | last Dice; log10(weighted penalty / data loss), first epoch | best lambda - none > 0 (p times the number of lambdas), ratio of each lambda that may be the best within the margin of 0 | two lambdas or more, none | 1 |
| 13 | large lambda1 collapses; lambda1 near 5e-7 speeds Dice up | as claim 9 at 0.005 and 0.1, as claim 10 at 5e-7 | as claims 9 and 10 | l1 0.1, 0.005, 5e-7, none | as claims 9 and 10 |
| 14 | BCE becomes unreliable with less than about 70 % for training | absolute deviation of last Dice from its median over seeds (Brown-Forsythe) | (60, 80) - (20, 40) > 0 in both arms | bce, nested, four shares, both arms, 10 seeds | half the value at (20, 40) |
| 15 | once the loss has converged, Dice saturates too | first epoch from which val_dice stays close to its last value (within 2 % of its range), minus this epoch of val_loss; if Dice has not settled, the number of remaining epochs | mean over configurations < 2 epochs, all parts agree | no penalty, longest runs (15 epochs or more), loss settled in the first 80 % | none |
| 16 | batch 15 is good because a patient has about 15 images | last Dice | (batch equal to images per patient) - (other batches) > 0, mean over images per patient; (a patient's images as a batch) - (15 shuffled images) not within the margin | two or more of 8, 15, 30 images per patient with these batches and equally many images in all; batch patient and 15 (study=patient_batches) | 0.01 |

The verdict follows the rules in segtune.report.claims. Runs are compared only within a context. The runs of a context
may differ in loss, share, penalty, batch, seed and fold. For claims 3, 4 and 14 they may also differ in epochs, and for
claim 16 also in epochs and images per patient. If there are several contexts, the context with the most tests is used.
Ties are broken by the longest runs (claim 15), and then by the number of runs.
"""

import csv
import math
from collections import defaultdict
from functools import cache
from importlib import resources

from segtune.report.claims import Claim, Study
from segtune.report.records import FAMILY, Facts
from segtune.studies import penalty_claims as penalties
from segtune.studies import training_claims as training

NESTED = "study=nested"
EPOCHS, IMAGES = "trainer.max_epochs", "split.images_per_patient"
CLAIMS = (
    Claim(
        1,
        "Batch 15 gives a steadier decay of the loss than batch 10.",
        "batch 10 and 15, otherwise equal",
        "study=claims",
        training.batch_size,
    ),
    Claim(2, "90 % of the attainable Dice is reached in a short run.", "runs of 100 epochs", "study=long", training.short_run),
    Claim(
        3,
        "BCE: 20 % and 40 % held out do clearly better than 60 % and 80 %.",
        "bce, nested, four shares, as many epochs and as many updates of each",
        NESTED,
        training.share_matters,
        True,
        (EPOCHS,),
    ),
    Claim(
        4,
        "BCE: the smaller the training set, the more the loss fluctuates.",
        "bce, nested, three shares or more, as many epochs and as many updates of each",
        NESTED,
        training.fluctuation,
        True,
        (EPOCHS,),
    ),
    Claim(
        5,
        "Focal: steadiest growth across splits, but saturates lower than the others.",
        "focal, bce, bce_dice, two shares or more",
        NESTED,
        training.focal,
    ),
    Claim(
        6,
        "Focal: training loss decays alike across splits, validation loss varies.",
        "focal, nested, two shares or more, two seeds of each fold",
        NESTED,
        training.decay,
        True,
    ),
    Claim(
        7,
        "BCE + Dice beats BCE and focal, even with 80 % held out.",
        "bce_dice, bce, focal at four shares",
        NESTED,
        training.best_loss,
    ),
    Claim(
        8,
        "BCE + Dice at 20 % overfits; the gap is smaller at 40 %.",
        "bce_dice, nested, 20 and 40 % in all folds",
        NESTED,
        training.overfits,
        True,
    ),
    Claim(
        9,
        "A large lambda2 collapses the weights, and Dice stalls.",
        "l2 with 0.01 and 0.1, and none",
        "study=claims",
        penalties.best_series(penalties.l2_collapse),
    ),
    Claim(
        10,
        "lambda2 in 0.0005 ... 0.001 reaches a high Dice faster than none.",
        "l2 with 0.0005, 0.00075 and 0.001, and none",
        "study=claims",
        penalties.best_series(penalties.l2_faster),
    ),
    Claim(
        11,
        "lambda2 below 0.0005 behaves like none.",
        "l2 below 0.0005, and none",
        "study=claims",
        penalties.best_series(penalties.l2_small),
    ),
    Claim(
        12,
        "A good lambda gives a penalty of the loss's magnitude.",
        "two lambdas or more of l2 or l1, and none",
        "study=claims",
        penalties.magnitude,
    ),
    Claim(
        13,
        "A large lambda1 collapses the weights; lambda1 near 5e-7 speeds Dice up.",
        "l1 with 0.1, 0.005 and 5e-7, and none",
        "study=claims",
        penalties.best_series(penalties.l1_both),
    ),
    Claim(
        14,
        "BCE suits about 70 % training and becomes unreliable below.",
        "bce, nested, four shares, 10 seeds, as many epochs and as many updates of each",
        "study=spread",
        training.unreliable,
        True,
        (EPOCHS,),
    ),
    Claim(
        15,
        "Once the loss has converged, Dice saturates too.",
        "unpenalised runs of 15 epochs or more",
        "study=long",
        training.saturates,
    ),
    Claim(
        16,
        "Batch 15 is good because a patient has about 15 images.",
        "batches of 8, 15, 30 with as many images per patient, and batch patient",
        "study=patient_batches",
        training.patient_batches,
        False,
        (EPOCHS, IMAGES),
    ),
)

SWEEPS = frozenset(
    (
        *("published", "as_run", "batch_size", "losses", "l1", "l2", "l1l2"),
        *("claims", "nested", "spread", "long", "patient_batches", "leak"),
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
