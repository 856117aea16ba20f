import numpy as np
import pytest
import torch

from segtune.data import module
from segtune.data.slices import Slice, SliceSet
from segtune.data.splits import Split
from segtune.errors import InputError


def slice_of(image, patient="P01", frame=20):
    image = np.asarray(image, dtype=np.float32)
    return Slice(image, image > image.mean(), patient, frame, frame // 20, "ED", (0.7, 0.7), 8.4)


@pytest.fixture
def slices():
    rng = np.random.default_rng(0)
    return SliceSet(slice_of(rng.integers(0, 400, (24, 32) if i % 2 else (32, 24)), frame=i) for i in range(7))


def test_images_are_zero_padded_at_bottom_and_right(slices):
    images, masks = module.to_tensors(slices, size=48, normalize="divide255")
    assert images.shape == masks.shape == (7, 1, 48, 48)
    assert torch.equal(images[0, 0, :32, :24], torch.from_numpy(slices[0].image) / 255)
    assert torch.equal(masks[1, 0, :24, :32], torch.from_numpy(slices[1].mask))
    assert images[0, 0, 32:].abs().max() == images[0, 0, :, 24:].abs().max() == 0
    assert not masks[0, 0, 32:].any()


def test_zscore_is_per_image_before_padding(slices):
    images, _ = module.to_tensors(slices, size=48, normalize="zscore")
    own = images[0, 0, :32, :24].double()
    assert own.mean().item() == pytest.approx(0, abs=1e-6)
    assert own.std(correction=0).item() == pytest.approx(1, abs=1e-6)
    assert images[0, 0, 32:].abs().max() == 0


def test_a_constant_image_becomes_zero_not_nan():
    assert module.zscore(np.full((4, 4), 7, dtype=np.float32)).tolist() == [[0] * 4] * 4


def test_a_larger_image_is_refused_with_the_size_it_needs(slices):
    with pytest.raises(
        InputError, match="data.size=16: frame 0 of patient P01 has 32 x 24 pixels. Choose data.size=32 or more"
    ):
        module.to_tensors(slices, size=16, normalize="zscore")


SPLIT = Split(train=np.array([0, 1, 2, 4, 6]), val=np.array([3, 5]))


def data(slices, seed=0, batch_size=2, split=SPLIT, **settings):
    return module.SliceData(slices, split, size=32, normalize="zscore", batch_size=batch_size, seed=seed, **settings)


def order(loader, epoch):
    return np.concatenate(loader.train_batches(epoch)).tolist()


def test_each_epoch_shows_every_training_slice_once_in_an_order_of_its_own(slices):
    orders = [order(data(slices), epoch) for epoch in range(3)]
    assert all(sorted(order) == [0, 1, 2, 4, 6] for order in orders)
    assert orders[0] != orders[1] != orders[2]


def test_the_order_derives_from_seed_and_epoch_alone(slices):
    assert order(data(slices), 5) == order(data(slices), 5)
    assert order(data(slices), 5) != order(data(slices, seed=1), 5)


def test_without_shuffling_every_epoch_is_in_the_data_set_s_order(slices):
    loader = data(slices, shuffle=False)
    assert [batch.tolist() for batch in loader.train_batches(0)] == [[0, 1], [2, 4], [6]]
    assert order(loader, 7) == [0, 1, 2, 4, 6]


def test_a_batch_of_a_patient_is_all_of_its_training_slices_and_patients_come_in_an_order_of_the_epoch():
    image = np.eye(32)
    names = [name for name in "ABCDEFGH" for _ in range(3)]
    slices = SliceSet(slice_of(image, patient=name, frame=i) for i, name in enumerate(names))
    split = Split(train=np.arange(18), val=np.arange(18, 24))
    loader = data(slices, batch_size=None, split=split)
    first, second = ([batch.tolist() for batch in loader.train_batches(epoch)] for epoch in (0, 1))
    assert sorted(first) == sorted(second) == [[3 * i, 3 * i + 1, 3 * i + 2] for i in range(6)]
    assert first != second
    assert [batch.tolist() for batch in data(slices, batch_size=None, split=split, shuffle=False).train_batches(1)] == sorted(
        first
    )
    assert [len(images) for images, _ in loader.val_dataloader()] == [3, 3]


def test_the_last_batch_may_be_smaller_and_validation_keeps_its_order(slices):
    loader = data(slices)
    assert [len(batch) for batch in loader.train_batches(0)] == [2, 2, 1]
    ((image, mask),) = loader.val_dataloader()
    assert torch.equal(mask[0, 0, :24, :32], torch.from_numpy(slices[3].mask))
    assert image.shape == (2, 1, 32, 32)


def test_the_fingerprint_changes_with_any_pixel_mask_or_label(slices):
    first = slices[0]
    changed_mask = first.mask.copy()
    changed_mask[0, 0] ^= True
    others = [
        slice_of(first.image + np.eye(32, 24, dtype=np.float32), frame=0),
        Slice(first.image, changed_mask, "P01", 0, 0, "ED", (0.7, 0.7), 8.4),
        Slice(first.image, first.mask, "P02", 0, 0, "ED", (0.7, 0.7), 8.4),
        Slice(first.image, first.mask, "P01", 0, 0, "ES", (0.7, 0.7), 8.4),
    ]
    prints = {SliceSet([item, *slices[1:]]).fingerprint() for item in [first, *others]}
    assert len(prints) == 5
    assert SliceSet(list(slices)).fingerprint() in prints
