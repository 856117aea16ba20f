from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from segtune.data import splits
from segtune.errors import InputError

PATIENTS = [f"P{i:02}" for i in range(1, 17) for _ in range(15 + (i % 5 == 0))]  # 16 patients, 243 images
SHARES = [0.1, 0.2, 0.3, 0.4, 0.6, 0.8]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("rule", ["patient", "contiguous", "image"])
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
    with pytest.raises(InputError, match=r"split.val_fraction=0.1 [^,.]*\bvalidation\b.*\b0.25, 0.50, 0.75\b"):
        splits.by_patient(list("aabbccdd"), val_fraction=0.1, seed=0)
    with pytest.raises(InputError, match=r"split.val_fraction=0.95 [^,.]*\btraining\b"):
        splits.by_patient(list("aabbccdd"), val_fraction=0.95, seed=0)
    with pytest.raises(InputError, match=r"split.val_fraction=\S+ [^.]*\bvalidation\b"):
        splits.contiguous(list("ab"), val_fraction=np.nextafter(0, 1), seed=0)
    with pytest.raises(InputError, match=r"split.val_fraction=0.9 [^.]*\btraining\b"):
        splits.by_image(list("ab"), val_fraction=0.9, seed=0)


@st.composite
def patients(draw, least=2):
    """The patient of each slice of any data set: 2 to 30 patients of 1 to 40 slices, in the set's order."""
    counts = draw(st.lists(st.integers(1, 40), min_size=least, max_size=30))
    return [f"P{i:02}" for i, count in enumerate(counts) for _ in range(count)]


SEEDS = st.integers(0, 2**32 - 1)


@given(patients(), SEEDS, st.data())
def test_folds_partition_the_patients_and_each_slice_validates_exactly_once(names, seed, data):
    n_folds = data.draw(st.integers(2, len(set(names))))
    folds = [splits.kfold(names, n_folds=n_folds, fold=fold, seed=seed) for fold in range(n_folds)]
    assert sorted(i for split in folds for i in split.val) == list(range(len(names)))
    for split in folds:
        assert sorted([*split.train, *split.val]) == list(range(len(names)))
        assert splits.leaks(names, split) == []


@given(patients(), SEEDS, st.data())
def test_folds_differ_in_images_by_no_more_than_one_patient_has(names, seed, data):
    n_folds = data.draw(st.integers(2, len(set(names))))
    sizes = [len(splits.kfold(names, n_folds=n_folds, fold=fold, seed=seed).val) for fold in range(n_folds)]
    assert max(sizes) - min(sizes) <= max(names.count(name) for name in set(names))


@given(patients(least=6), SEEDS, st.floats(0.2, 0.99), st.floats(0.2, 0.99))
def test_nested_training_sides_are_nested_and_validate_on_the_same_patients(names, seed, one, other):
    try:
        larger, smaller = (splits.nested(names, val_fraction=share, seed=seed) for share in sorted((one, other)))
    except InputError:  # one patient has so many images that no cut is near 20 %
        assume(False)
    assert set(smaller.train) <= set(larger.train)
    assert smaller.val.tolist() == larger.val.tolist() == splits.by_patient(names, val_fraction=0.2, seed=seed).val.tolist()
    assert splits.leaks(names, smaller) == splits.leaks(names, larger) == []
    assert len(smaller.train) > 0
    assert len({*larger.train, *larger.val}) == len(larger.train) + len(larger.val) <= len(names)


@given(patients(least=5), SEEDS, st.data())
def test_nested_folds_validate_each_patient_once_and_grow_their_training_sets(names, seed, data):
    n_folds = data.draw(st.integers(2, len(set(names))))
    shares = sorted(data.draw(st.lists(st.floats(1 / n_folds, 0.99), min_size=2, max_size=2)))
    for fold in range(n_folds):
        at_fold = {"seed": seed, "n_folds": n_folds, "fold": fold}
        larger, smaller = (splits.nested(names, val_fraction=share, **at_fold) for share in shares)
        assert {*smaller.train} <= {*larger.train}
        assert len(smaller.train) > 0
        assert smaller.val.tolist() == larger.val.tolist() == splits.kfold(names, **at_fold).val.tolist()
        assert splits.leaks(names, larger) == []


@pytest.mark.parametrize(("n_folds", "share"), [(5, 0.2), (5, 0.4), (5, 0.6), (5, 0.8), (10, 0.1), (10, 0.4), (4, 0.25)])
def test_whole_nested_folds_train_every_patient_equally_often(n_folds, share):
    folds = [splits.nested(PATIENTS, val_fraction=share, seed=0, n_folds=n_folds, fold=fold) for fold in range(n_folds)]
    trained = [PATIENTS[i] for split in folds for i in split.train]
    times = round((1 - share) * n_folds)
    assert all(trained.count(name) == times * PATIENTS.count(name) for name in set(PATIENTS))


def test_nested_folds_refuse_to_train_on_their_test_fold_and_state_what_is_available():
    with pytest.raises(InputError, match=r"split.val_fraction=0.1 .*split.n_folds=5.*\b0.8 .*\b0.2\b.*0.2, 0.4, 0.6, 0.8"):
        splits.nested(PATIENTS, val_fraction=0.1, seed=0, n_folds=5, fold=0)


@given(patients(), SEEDS, st.integers(1, 40), st.integers(1, 40))
def test_thinned_training_sides_keep_so_many_images_of_each_patient_and_are_nested(names, seed, one, other):
    whole = splits.kfold(names, n_folds=2, fold=0, seed=seed)
    fewer, more = (splits.thin(names, whole, images_per_patient=n, seed=seed) for n in sorted((one, other)))
    assert {*fewer.train} <= {*more.train} <= {*whole.train}
    assert fewer.val.tolist() == whole.val.tolist()
    kept = [names[i] for i in more.train]
    assert all(kept.count(name) == min(names.count(name), max(one, other)) for name in {names[i] for i in whole.train})


@given(patients(), SEEDS, st.floats(0.01, 0.99), st.sampled_from(["patient", "image", "contiguous"]))
def test_whatever_the_patients_every_slice_is_once_on_one_side_where_there_is_such_a_split(names, seed, share, rule):
    try:
        split = splits.RULES[rule](names, val_fraction=share, seed=seed)
    except InputError:  # no cut leaves both sides a patient
        assume(False)
    assert sorted([*split.train, *split.val]) == list(range(len(names)))
    assert rule != "patient" or splits.leaks(names, split) == []


@pytest.mark.parametrize(("share", "n"), [(0.2, 194), (0.4, 146), (0.6, 97), (0.8, 49)])
def test_nested_trains_on_about_the_share_of_all_images(share, n):
    split = splits.nested(PATIENTS, val_fraction=share, seed=0)
    assert abs(len(split.train) - n) <= 8
    assert abs(len(split.val) - 49) <= 8


def test_nested_refuses_a_training_side_that_would_reach_into_its_test_patients():
    with pytest.raises(InputError, match=r"split.val_fraction=0.1 .*split.by=nested.*\b0.8\b"):
        splits.nested(PATIENTS, val_fraction=0.1, seed=0)


def test_folds_that_cannot_be_are_refused():
    with pytest.raises(InputError, match=r"split.n_folds=17: 16 .*\b2 to 16\b"):
        splits.kfold(PATIENTS, n_folds=17, fold=0, seed=0)
    with pytest.raises(InputError, match=r"split.fold=5: .*split.n_folds=5 .*\b0 to 4\b"):
        splits.kfold(PATIENTS, n_folds=5, fold=5, seed=0)


def test_folds_and_nested_subsets_are_fixed_once_and_for_all():
    """Golden, as below."""
    folds = [splits.kfold(PATIENTS, n_folds=5, fold=fold, seed=0).val for fold in range(5)]
    assert [sorted({PATIENTS[i] for i in fold}) for fold in folds] == GOLDEN_FOLDS
    assert sorted({PATIENTS[i] for i in splits.nested(PATIENTS, val_fraction=0.8, seed=0).train}) == GOLDEN_NESTED
    nested = [splits.nested(PATIENTS, val_fraction=0.8, seed=0, n_folds=5, fold=fold) for fold in range(5)]
    assert [sorted({PATIENTS[i] for i in split.val}) for split in nested] == GOLDEN_FOLDS
    assert [sorted({PATIENTS[i] for i in split.train}) for split in nested] == GOLDEN_FOLDS[1:] + GOLDEN_FOLDS[:1]


GOLDEN_FOLDS = [
    ["P01", "P05", "P14"],
    ["P08", "P09", "P15"],
    ["P02", "P06", "P10"],
    ["P03", "P04", "P13", "P16"],
    ["P07", "P11", "P12"],
]
GOLDEN_NESTED = ["P01", "P05", "P11"]


def test_splits_are_fixed_once_and_for_all():
    """A golden split: the same seed must give the same split on any machine and in any later version."""
    split = splits.by_patient(PATIENTS, val_fraction=0.2, seed=0)
    assert sorted({PATIENTS[i] for i in split.val}) == ["P03", "P04", "P12"]
