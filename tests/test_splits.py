from itertools import pairwise

import numpy as np
import pytest

from segtune.data import splits
from segtune.errors import InputError

PATIENTS = [f"P{i:02}" for i in range(1, 17) for _ in range(15 + (i % 5 == 0))]  # 16 patients, 243 images
SHARES = [0.1, 0.2, 0.3, 0.4, 0.6, 0.8]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("rule", splits.RULES)
def test_every_slice_is_on_exactly_one_side(rule, share):
    split = splits.RULES[rule](PATIENTS, val_fraction=share, seed=0)
    assert sorted([*split.train, *split.val]) == list(range(len(PATIENTS)))


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("seed", range(5))
def test_by_patient_nobody_is_on_two_sides_and_the_share_is_the_nearest(share, seed):
    split = splits.by_patient(PATIENTS, val_fraction=share, seed=seed)
    assert splits.leaks(PATIENTS, split) == []
    assert abs(len(split.val) / len(PATIENTS) - share) <= 16 / 243 / 2


def test_by_patient_shares_with_one_seed_are_nested():
    sides = [set(splits.by_patient(PATIENTS, val_fraction=share, seed=3).val) for share in SHARES]
    assert all(small < large for small, large in pairwise(sides))


@pytest.mark.parametrize("rule", ["patient", "image"])
def test_the_seed_decides(rule):
    first, same, other = (splits.RULES[rule](PATIENTS, val_fraction=0.4, seed=seed).val.tolist() for seed in (0, 0, 1))
    assert first == same != other


def test_contiguous_is_the_published_cut():
    split = splits.contiguous(PATIENTS, val_fraction=0.2, seed=0)
    assert (len(split.train), len(split.val)) == (194, 49)
    assert split.val.tolist() == list(range(194, 243))
    assert splits.leaks(PATIENTS, split) == ["P13"]


def test_by_image_leaks_nearly_every_patient():
    assert len(splits.leaks(PATIENTS, splits.by_image(PATIENTS, val_fraction=0.4, seed=0))) >= 14


def test_a_share_that_leaves_a_side_empty_is_refused_with_the_possible_ones():
    with pytest.raises(InputError, match=r"split.val_fraction=0.1 leaves the validation side empty.*0.25, 0.50, 0.75"):
        splits.by_patient(list("aabbccdd"), val_fraction=0.1, seed=0)
    with pytest.raises(InputError, match="leaves the training side empty"):
        splits.by_patient(list("aabbccdd"), val_fraction=0.95, seed=0)
    with pytest.raises(InputError, match="leaves the validation side empty"):
        splits.contiguous(list("ab"), val_fraction=np.nextafter(0, 1), seed=0)
    with pytest.raises(InputError, match="leaves the training side empty"):
        splits.by_image(list("ab"), val_fraction=0.9, seed=0)


def test_splits_are_fixed_once_and_for_all():
    """A golden split: the same seed must give the same split on any machine and in any later version."""
    split = splits.by_patient(PATIENTS, val_fraction=0.2, seed=0)
    assert sorted({PATIENTS[i] for i in split.val}) == ["P03", "P04", "P12"]
