"""Split slices into training and validation. All splits are pure functions of the slices' patients and a seed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segtune.errors import InputError

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """The training and validation slices, as indices into a SliceSet in ascending order.

    With the split rules patient, kfold and nested, no patient is in both training and validation.
    """

    train: Indices
    val: Indices


def by_patient(patients: Sequence[str], *, val_fraction: float, seed: int) -> Split:
    """Assign whole patients to validation, in random order.

    The number of validation patients is chosen such that their share of all images is closest to val_fraction.

    Args: patients: the patient of each slice. val_fraction: in (0, 1). seed: seed of the random order.
    Raises: InputError if there would be no patient for training or for validation.
    """
    names, counts = np.unique(np.asarray(patients), return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    shares = np.concatenate([[0], np.cumsum(counts[order])]) / len(patients)
    n_val = int(np.argmin(np.abs(shares - val_fraction)))
    if n_val in (0, len(names)):
        side = "validation" if n_val == 0 else "training"
        possible = ", ".join(f"{share:.2f}" for share in shares[1:-1]) or "none with a single patient"
        raise InputError(
            f"split.val_fraction={val_fraction:g} leaves the {side} set empty, because no patient can be in both sets. "
            f"The possible validation fractions for these {len(names)} patients are: {possible}."
        )
    is_val = np.isin(np.asarray(patients), names[order[:n_val]])
    return Split(train=np.flatnonzero(~is_val), val=np.flatnonzero(is_val))


def kfold(patients: Sequence[str], *, n_folds: int, fold: int, seed: int) -> Split:
    """Split the patients into n_folds folds with similar numbers of images, and use one fold for validation.

    Each patient is in exactly one fold. Patients are sorted by number of images, largest first, and those with equal numbers
    are in random order. Each patient is assigned to the fold that has the fewest images so far.

    Args: patients: the patient of each slice. n_folds: from 2 to the number of patients. fold: the validation fold, from 0.
        seed: seed of the random order.
    Raises: InputError if there are too few patients, or no such fold.
    """
    names, fold_of = _folds(patients, n_folds=n_folds, fold=fold, seed=seed)
    is_val = np.isin(np.asarray(patients), names[fold_of == fold])
    return Split(train=np.flatnonzero(~is_val), val=np.flatnonzero(is_val))


def _folds(patients: Sequence[str], *, n_folds: int, fold: int, seed: int) -> tuple[NDArray[np.str_], Indices]:
    """Return the names of the patients and the fold of each. Args and errors: as in kfold."""
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
    return names, fold_of


TEST_FRACTION = 0.2  # fraction of the images on the validation side of `nested`


def nested(
    patients: Sequence[str], *, val_fraction: float, seed: int, n_folds: int | None = None, fold: int | None = None
) -> Split:
    """Split by patients such that the validation patients are the same for every val_fraction.

    The validation patients have about TEST_FRACTION of the images. The other patients are added to the training set in
    random order, until the share of training images is closest to 1 - val_fraction. The remaining patients are not
    used. Therefore each training set contains all smaller training sets. With by_patient, in contrast, the validation
    patients change with val_fraction.

    Args:
        patients, val_fraction, seed: as in by_patient, but val_fraction must be at least TEST_FRACTION.
        n_folds, fold: as in kfold. If they are given, this fold is used for validation (see _nested_fold).
    Raises: InputError if there would be no patient for training or for validation, or if val_fraction is too small.
    """
    if n_folds is not None and fold is not None:
        return _nested_fold(patients, val_fraction=val_fraction, seed=seed, n_folds=n_folds, fold=fold)
    if val_fraction < TEST_FRACTION:
        raise InputError(
            f"split.val_fraction={val_fraction:g} with split.by=nested: the validation set always has "
            f"{TEST_FRACTION:g} of the images, so at most {1 - TEST_FRACTION:g} can be used for training. "
            f"Choose {TEST_FRACTION:g} or more."
        )
    val = by_patient(patients, val_fraction=TEST_FRACTION, seed=seed).val
    names, counts = np.unique(np.asarray(patients), return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    others = order[~np.isin(names[order], np.asarray(patients)[val])]
    shares = np.cumsum(counts[others]) / len(patients)
    n_train = 1 + int(np.argmin(np.abs(shares - (1 - val_fraction))))
    is_train = np.isin(np.asarray(patients), names[others[:n_train]])
    return Split(train=np.flatnonzero(is_train), val=val)


def _nested_fold(patients: Sequence[str], *, val_fraction: float, seed: int, n_folds: int, fold: int) -> Split:
    """Use one fold of kfold for validation, and patients of the following folds for training.

    (1 - val_fraction) * n_folds folds are used for training. They are taken in cyclic order, beginning with the fold
    after the validation fold. The patients of a fold are in random order. If the number of training folds is not a
    whole number, only the first patients of the last fold are used. Their number is chosen such that their images are
    closest to the required fraction of this fold. If the number of training folds is a whole number, and each fold is
    used for validation once, all patients are used for training equally often.

    Raises: InputError that states the possible fractions, if val_fraction is below 1 / n_folds.
    """
    names, fold_of = _folds(patients, n_folds=n_folds, fold=fold, seed=seed)
    if val_fraction < 1 / n_folds - 1e-9:
        available = ", ".join(f"{1 - k / n_folds:.3g}" for k in range(n_folds - 1, 0, -1))  # from the largest
        raise InputError(
            f"split.val_fraction={val_fraction:g} with split.by=nested and split.n_folds={n_folds}: one fold is for "
            f"validation, so at most {1 - 1 / n_folds:.3g} of the images can be used for training. Choose at least "
            f"{1 / n_folds:.3g}. These fractions use whole folds for training: {available}."
        )
    order = np.random.default_rng(seed).permutation(len(names))
    others, folds_before = [], []
    for step in range(1, n_folds):
        members = order[fold_of[order] == (fold + step) % n_folds]
        images = np.array([np.count_nonzero(np.asarray(patients) == names[member]) for member in members])
        others += members.tolist()
        folds_before += (step - 1 + np.cumsum(images) / images.sum()).tolist()
    n_train = 1 + int(np.argmin(np.abs(np.array(folds_before) - (1 - val_fraction) * n_folds)))
    is_train, is_val = (np.isin(np.asarray(patients), names[of]) for of in (others[:n_train], fold_of == fold))
    return Split(train=np.flatnonzero(is_train), val=np.flatnonzero(is_val))


def thin(patients: Sequence[str], sides: Split, *, images_per_patient: int, seed: int) -> Split:
    """Keep at most images_per_patient random training images of each patient. The validation images do not change.

    The images that are kept for a patient do not depend on the other training patients. If images_per_patient is
    reduced, a subset of these images is kept.
    """
    names, rank = np.asarray(patients), np.zeros(len(patients), dtype=np.int64)
    random = np.random.default_rng(seed)
    for name in np.unique(names):
        of_patient = np.flatnonzero(names == name)
        rank[of_patient] = random.permutation(len(of_patient))
    return Split(train=sides.train[rank[sides.train] < images_per_patient], val=sides.val)


def contiguous(patients: Sequence[str], *, val_fraction: float, seed: int) -> Split:
    """Split the images without shuffling, as in the published study. A patient can be in both training and validation.

    The n images are in patient order. The first int(n - val_fraction * n) images are used for training, the others for
    validation.

    Args: as in by_patient, but seed has no effect.
    """
    n_train = _n_train(len(patients), val_fraction)
    return Split(train=np.arange(n_train), val=np.arange(n_train, len(patients)))


def by_image(patients: Sequence[str], *, val_fraction: float, seed: int) -> Split:
    """Split single images in random order. The training and validation sets have the same sizes as in `contiguous`.

    This split leaks on purpose: nearly all patients are in both training and validation.
    """
    n_train = _n_train(len(patients), val_fraction)
    order = np.random.default_rng(seed).permutation(len(patients))
    return Split(train=np.sort(order[:n_train]), val=np.sort(order[n_train:]))


def all_patients(patients: Sequence[str], *, seed: int) -> Split:
    """Use all slices for training and none for validation. Args: as in by_patient, but seed has no effect."""
    return Split(train=np.arange(len(patients)), val=np.arange(0))


RULES: dict[str, Callable[..., Split]] = {
    "all": all_patients,
    "patient": by_patient,
    "kfold": kfold,
    "nested": nested,
    "contiguous": contiguous,
    "image": by_image,
}


def leaks(patients: Sequence[str], split: Split) -> list[str]:
    """Return the sorted names of the patients that are in both training and validation."""
    names = np.asarray(patients)
    return sorted(str(name) for name in np.intersect1d(names[split.train], names[split.val]))


def _n_train(n: int, val_fraction: float) -> int:
    n_train = int(n - val_fraction * n)
    if n_train in (0, n):
        side = "training" if n_train == 0 else "validation"
        raise InputError(
            f"split.val_fraction={val_fraction:g} of {n} images leaves the {side} set empty. Choose another fraction."
        )
    return n_train
