"""Splits into training and validation slices: pure functions of the slices' patients; the same seed gives the same split."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segtune.errors import InputError

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """Indices into a SliceSet, each side in the set's order. With patient, kfold and nested no patient is on both sides."""

    train: Indices
    val: Indices


def by_patient(patients: Sequence[str], *, val_fraction: float, seed: int) -> Split:
    """Patients in random order, cut where the validation images are nearest to val_fraction of all images.

    Args: patients: the patient of each slice. val_fraction: in (0, 1). seed: of the order.
    Raises: InputError if that leaves one side without a patient.
    """
    names, counts = np.unique(np.asarray(patients), return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    shares = np.concatenate([[0], np.cumsum(counts[order])]) / len(patients)
    n_val = int(np.argmin(np.abs(shares - val_fraction)))
    if n_val in (0, len(names)):
        side = "validation" if n_val == 0 else "training"
        possible = ", ".join(f"{share:.2f}" for share in shares[1:-1]) or "none with a single patient"
        raise InputError(
            f"split.val_fraction={val_fraction:g} leaves the {side} side empty: patients stay together, and the possible "
            f"validation shares of these {len(names)} patients are: {possible}."
        )
    is_val = np.isin(np.asarray(patients), names[order[:n_val]])
    return Split(train=np.flatnonzero(~is_val), val=np.flatnonzero(is_val))


def kfold(patients: Sequence[str], *, n_folds: int, fold: int, seed: int) -> Split:
    """One of n_folds folds is the validation side. Each patient is in exactly one fold; folds are balanced in images.

    Patients are sorted by number of images, largest first, those with equal numbers in random order; each goes to the fold
    that has the fewest images so far.

    Args: patients: the patient of each slice. n_folds: from 2 to the number of patients. fold: from 0. seed: of the order.
    Raises: InputError if there are too few patients, or no such fold.
    """
    names, counts = np.unique(np.asarray(patients), return_counts=True)
    if not 2 <= n_folds <= len(names):
        raise InputError(f"split.n_folds={n_folds}: {len(names)} patients can be split into 2 to {len(names)} folds.")
    if not 0 <= fold < n_folds:
        raise InputError(f"split.fold={fold}: the folds of split.n_folds={n_folds} are 0 to {n_folds - 1}.")
    order = np.random.default_rng(seed).permutation(len(names))
    images = np.zeros(n_folds, dtype=np.int64)
    fold_of = np.zeros(len(names), dtype=np.int64)
    for patient in order[np.argsort(-counts[order], kind="stable")]:
        fold_of[patient] = np.argmin(images)
        images[fold_of[patient]] += counts[patient]
    is_val = np.isin(np.asarray(patients), names[fold_of == fold])
    return Split(train=np.flatnonzero(~is_val), val=np.flatnonzero(is_val))


TEST_FRACTION = 0.2  # of the images, on the validation side of `nested`


def nested(patients: Sequence[str], *, val_fraction: float, seed: int) -> Split:
    """The validation patients are the same for every val_fraction, with about TEST_FRACTION of the images.

    The other patients, in random order, train up to the one where their images are nearest to 1 - val_fraction of all images;
    the rest is unused. A smaller training side is therefore part of every larger one. With by_patient, in contrast, the
    validation patients change with the size of the training side.

    Args: as in by_patient; val_fraction is at least TEST_FRACTION.
    Raises: InputError if a side would have no patient.
    """
    if val_fraction < TEST_FRACTION:
        raise InputError(
            f"split.val_fraction={val_fraction:g} with split.by=nested: its validation side is always {TEST_FRACTION:g} of "
            f"the images, so at most {1 - TEST_FRACTION:g} can train. Choose {TEST_FRACTION:g} or more."
        )
    val = by_patient(patients, val_fraction=TEST_FRACTION, seed=seed).val
    names, counts = np.unique(np.asarray(patients), return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    others = order[~np.isin(names[order], np.asarray(patients)[val])]
    shares = np.cumsum(counts[others]) / len(patients)
    n_train = 1 + int(np.argmin(np.abs(shares - (1 - val_fraction))))
    is_train = np.isin(np.asarray(patients), names[others[:n_train]])
    return Split(train=np.flatnonzero(is_train), val=val)


def contiguous(patients: Sequence[str], *, val_fraction: float, seed: int) -> Split:
    """As published: in patient order, the first int(n - val_fraction * n) images train. One patient can be on both sides.

    Args: as in by_patient; seed has no effect.
    """
    n_train = _n_train(len(patients), val_fraction)
    return Split(train=np.arange(n_train), val=np.arange(n_train, len(patients)))


def by_image(patients: Sequence[str], *, val_fraction: float, seed: int) -> Split:
    """Images in random order, cut as in `contiguous`. Leaks on purpose: nearly every patient is on both sides."""
    n_train = _n_train(len(patients), val_fraction)
    order = np.random.default_rng(seed).permutation(len(patients))
    return Split(train=np.sort(order[:n_train]), val=np.sort(order[n_train:]))


RULES: dict[str, Callable[..., Split]] = {
    "patient": by_patient,
    "kfold": kfold,
    "nested": nested,
    "contiguous": contiguous,
    "image": by_image,
}


def leaks(patients: Sequence[str], split: Split) -> list[str]:
    """The patients on both sides, sorted."""
    names = np.asarray(patients)
    return sorted(str(name) for name in np.intersect1d(names[split.train], names[split.val]))


def _n_train(n: int, val_fraction: float) -> int:
    n_train = int(n - val_fraction * n)
    if n_train in (0, n):
        side = "training" if n_train == 0 else "validation"
        raise InputError(
            f"split.val_fraction={val_fraction:g} of {n} images leaves the {side} side empty; choose another share."
        )
    return n_train
