"""Which slices train and which validate. Pure functions of the slices' patients; the same seed gives the same split."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segtune.errors import InputError

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """Indices into a SliceSet, each side in the set's order. by_patient promises that no patient lies on both sides."""

    train: Indices
    val: Indices


def by_patient(patients: Sequence[str], *, val_fraction: float, seed: int) -> Split:
    """Patients in random order, cut where the share of validation IMAGES is nearest to val_fraction.

    Args: patients: the patient of each slice. val_fraction: in (0, 1). seed: of the order.
    Raises: InputError when that cut leaves a side without a patient.
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


def contiguous(patients: Sequence[str], *, val_fraction: float, seed: int) -> Split:
    """As published: in patient order, the first int(n - val_fraction * n) images train. One patient can lie on both sides.

    Args: as in by_patient; seed plays no part.
    """
    n_train = _n_train(len(patients), val_fraction)
    return Split(train=np.arange(n_train), val=np.arange(n_train, len(patients)))


def by_image(patients: Sequence[str], *, val_fraction: float, seed: int) -> Split:
    """Images in random order, cut as in `contiguous`. Leaks on purpose: nearly every patient lies on both sides."""
    n_train = _n_train(len(patients), val_fraction)
    order = np.random.default_rng(seed).permutation(len(patients))
    return Split(train=np.sort(order[:n_train]), val=np.sort(order[n_train:]))


RULES: dict[str, Callable[..., Split]] = {"patient": by_patient, "contiguous": contiguous, "image": by_image}


def leaks(patients: Sequence[str], split: Split) -> list[str]:
    """Patients that lie on both sides, sorted."""
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
