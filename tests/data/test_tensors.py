import re

import numpy as np
import pytest
import torch

from layouts.slices import slice_of
from segtune.data import slice_checks, tensors
from segtune.data.grid import resample_and_crop
from segtune.data.slices import Slice, SliceSet
from segtune.data.splits import Split
from segtune.errors import InputError


@pytest.fixture
def slices():
    rng = np.random.default_rng(0)
    return SliceSet(slice_of(rng.integers(0, 400, (24, 32) if i % 2 else (32, 24)), frame=i) for i in range(7))


def test_images_are_zero_padded_at_bottom_and_right(slices):
    images, masks = tensors.to_tensors(slices, size=48, normalize="divide255")
    assert images.shape == masks.shape == (7, 1, 48, 48)
    assert torch.equal(images[0, 0, :32, :24], torch.from_numpy(slices[0].image) / 255)
    assert torch.equal(masks[1, 0, :24, :32], torch.from_numpy(slices[1].mask))
    assert images[0, 0, 32:].abs().max() == images[0, 0, :, 24:].abs().max() == 0
    assert not masks[0, 0, 32:].any()


def test_zscore_is_per_image_before_padding(slices):
    images, _ = tensors.to_tensors(slices, size=48, normalize="zscore")
    own = images[0, 0, :32, :24].double()
    assert own.mean().item() == pytest.approx(0, abs=1e-6)
    assert own.std(correction=0).item() == pytest.approx(1, abs=1e-6)
    assert images[0, 0, 32:].abs().max() == 0


def test_a_constant_image_becomes_zero_not_nan():
    assert tensors.zscore(np.full((4, 4), 7, dtype=np.float32)).tolist() == [[0] * 4] * 4


def test_a_larger_image_is_refused_with_the_size_it_needs(slices):
    with pytest.raises(InputError, match=r"data.size=16: frame 0 .*\bP01 .*\b32 x 24 .*data.size=32\b"):
        tensors.to_tensors(slices, size=16, normalize="zscore")


# The network's grid


def scene(shape, spacing_mm, curve=lambda y, x: 3 * y - 2 * x):
    """A slice of a plane that is linear in mm about the image's centre, with a disc of 12 mm radius there."""
    y, x = ((np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing_mm, strict=True))
    image = np.asarray(curve(y[:, None], x[None]), dtype=np.float32)
    return Slice(image, np.hypot(y[:, None], x[None]) < 12, "P01", 4, 2, "ED", spacing_mm, 8.4)


def test_without_spacing_and_crop_the_set_is_as_it_is(slices):
    assert resample_and_crop(slices, size=16) is slices


@pytest.mark.parametrize("spacing_mm", [0.5, 0.8, 1.0, 1.6])
def test_resampling_keeps_a_linear_image_its_centre_and_the_structure_s_area_in_mm(spacing_mm):
    old = scene((60, 81), (1.0, 0.8))
    (new,) = resample_and_crop(SliceSet([old]), size=512, spacing_mm=spacing_mm)
    expected = scene(new.image.shape, (spacing_mm, spacing_mm))
    assert new.image.shape == tuple(round(n * mm / spacing_mm) for n, mm in ((60, 1.0), (81, 0.8)))
    assert new.image.dtype == np.float32
    assert np.allclose(new.image[1:-1, 1:-1], expected.image[1:-1, 1:-1], atol=1e-3)
    assert new.mask.sum() * spacing_mm**2 == pytest.approx(np.pi * 12**2, rel=0.05)
    assert (new.mask ^ expected.mask).sum() <= 0.12 * expected.mask.sum()
    assert (new.spacing_mm, new.gap_mm, new.patient, new.frame) == ((spacing_mm, spacing_mm), 8.4, "P01", 4)


def test_a_mask_is_resampled_to_the_nearest_pixel():
    item = slice_of([[0, 0, 8, 8]])
    (new,) = resample_and_crop(SliceSet([item]), size=16, spacing_mm=0.35)
    assert new.image.shape == (2, 8)
    assert new.image[0].tolist() == [0, 0, 0, 2, 6, 8, 8, 8]
    assert new.mask[0].tolist() == [False] * 4 + [True] * 4


def test_resampling_to_the_same_spacing_changes_nothing(slices):
    assert resample_and_crop(slices, size=48, spacing_mm=0.7).fingerprint() == slices.fingerprint()


def test_a_larger_image_is_cropped_about_its_centre_if_that_is_chosen():
    image = np.arange(40 * 21, dtype=np.float32).reshape(40, 21)
    item = slice_of(image)
    small = slice_of(image[:16, :16])
    new, same = resample_and_crop(SliceSet([item, small]), size=16, larger="crop")
    assert np.array_equal(new.image, image[12:28, 2:18])
    assert np.array_equal(new.mask, item.mask[12:28, 2:18])
    assert new.spacing_mm == item.spacing_mm
    assert same is small


def test_what_resampling_makes_larger_is_refused_or_cropped_as_chosen():
    item = scene((60, 60), (1.0, 1.0))
    with pytest.raises(InputError, match=r"data.size=64: frame 4 .*\bP01 .*\b120 x 120 .*data.spacing_mm.*data.size=128\b"):
        resample_and_crop(SliceSet([item]), size=64, spacing_mm=0.5)
    (whole,) = resample_and_crop(SliceSet([item]), size=128, spacing_mm=0.5)
    (cropped,) = resample_and_crop(SliceSet([item]), size=64, spacing_mm=0.5, larger="crop")
    assert np.array_equal(cropped.image, whole.image[28:92, 28:92])
    assert np.array_equal(cropped.mask, whole.mask[28:92, 28:92])


def test_a_tiny_spacing_needs_no_more_memory_than_what_is_kept():
    (new,) = resample_and_crop(SliceSet([scene((60, 60), (1.0, 1.0))]), size=32, spacing_mm=1e-9, larger="crop")
    assert new.image.shape == (32, 32)


def test_a_crop_that_cuts_the_structure_is_said(caplog):
    resample_and_crop(SliceSet([scene((60, 60), (1.0, 1.0))]), size=32, larger="crop")
    resample_and_crop(SliceSet([scene((61, 60), (1.0, 1.0))]), size=48, spacing_mm=4.7, larger="crop")
    assert caplog.text == ""
    item = scene((60, 60), (1.0, 1.0))
    (new,) = resample_and_crop(SliceSet([item]), size=16, larger="crop")
    assert new.n_cut == item.mask.sum() - new.mask.sum() > 0
    (found,) = slice_checks.of_crop(SliceSet([item, new]))
    assert (found.kind, found.patient, found.frame) == ("cropped", "P01", 4)
    assert re.search(rf"data.larger=crop .*\b{new.n_cut}\b", found.message)
    assert re.search(r"data.larger=crop .*\b1 of 1 .*\bslice 2 .*\bP01\b", caplog.text)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"larger": "pad"}, r"data.larger=pad: .*\bcrop\b.*\bnull\b"),
        ({"spacing_mm": 0}, r"data.spacing_mm=0: .*\bnull\b"),
        ({"spacing_mm": float("inf")}, r"data.spacing_mm=inf: .*\bnull\b"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(slices, settings, message):
    with pytest.raises(InputError, match=message):
        resample_and_crop(slices, size=32, **settings)


SPLIT = Split(train=np.array([0, 1, 2, 4, 6]), val=np.array([3, 5]))


def data(slices, seed=0, batch_size=2, split=SPLIT, **settings):
    return tensors.SliceData(slices, split, size=32, normalize="zscore", batch_size=batch_size, seed=seed, **settings)


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


@pytest.mark.parametrize(("batch_size", "n"), [(2, 4), (3, 7), (5, 2), (8, 3)])
def test_batches_of_a_run_in_steps_are_whole_and_cut_from_an_endless_sequence_of_passes(slices, batch_size, n):
    loader = data(slices, batch_size=batch_size, batches_per_epoch=n)
    shown = [batch for epoch in range(5) for batch in loader.train_batches(epoch)]
    assert {len(batch) for batch in shown} == {batch_size}
    assert len(shown) == 5 * n
    passes = np.concatenate(shown)[: 5 * n * batch_size // 5 * 5].reshape(-1, 5)
    assert all(sorted(one) == [0, 1, 2, 4, 6] for one in passes.tolist())
    assert len({tuple(one) for one in passes.tolist()}) > 1
    assert order(loader, 3) == order(data(slices, batch_size=batch_size, batches_per_epoch=n), 3)


def test_with_downsampling_only_the_masks_of_validation_keep_their_resolution(slices):
    whole, pooled = data(slices), data(slices, downsample=2)
    assert [part.shape[-1] for part in (*pooled._train, *pooled._val)] == [16, 16, 16, 32]
    assert torch.allclose(pooled._train[0][0, 0, 0, 0], whole._train[0][0, 0, :2, :2].mean(), atol=1e-6)
    assert torch.equal(pooled._train[1][0, 0, 0, 0], whole._train[1][0, 0, :2, :2].sum() >= 2)


def test_smoothing_before_an_image_shrinks_removes_what_a_new_pixel_cannot_show():
    stripes = scene((64, 64), (1.0, 1.0), curve=lambda y, x: np.where(np.floor(x) % 2, 1.0, -1.0) + 0 * y)
    plain, smooth = (
        resample_and_crop(SliceSet([stripes]), size=64, spacing_mm=2.2, antialias=antialias)[0] for antialias in (False, True)
    )
    assert smooth.image.shape == plain.image.shape
    assert smooth.image.std() < 0.35 * plain.image.std()
    assert np.array_equal(smooth.mask, plain.mask)
    (same,) = resample_and_crop(SliceSet([stripes]), size=160, spacing_mm=0.5, antialias=True)
    assert np.array_equal(same.image, resample_and_crop(SliceSet([stripes]), size=160, spacing_mm=0.5)[0].image)


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
