"""Slices as tensors that live whole on the training device; a batch is an index."""

import dataclasses
import logging
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from segtune.data.slices import Slice, SliceSet
from segtune.data.splits import Split
from segtune.errors import InputError

log = logging.getLogger(__name__)

Batch = tuple[Tensor, Tensor]  # image (B, 1, S, S) float32, mask (B, 1, S, S) bool


def zscore(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """(image - mean) / standard deviation over this image's own pixels; a constant image becomes zero."""
    deviation = image.std(dtype=np.float64)
    return ((image - image.mean(dtype=np.float64)) / (deviation or 1.0)).astype(np.float32)


def divide255(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """image / 255, as published: 16-bit images end above 1."""
    return image / np.float32(255)


NORMALIZERS: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "zscore": zscore,
    "divide255": divide255,
}


def fit(slices: SliceSet, *, size: int, spacing_mm: float | None = None, larger: str | None = None) -> SliceSet:
    """The slices on the grid that the network sees, but for the padding, which is left to to_tensors.

    An image is first resampled to spacing_mm, about its own centre: linearly, the mask to the nearest pixel, without a filter
    when it becomes coarser. What is then larger than size is cropped about the centre. Both None: the set as it is.

    Args:
        size: side of the network's square images [pixels].
        spacing_mm: of the new pixels, in both directions [mm]; None: as stored.
        larger: "crop": keep the centre of what is larger than size, and warn if that cuts the structure. None: refuse it.
    Raises: InputError naming the first image that is larger than size, if larger is None.
    """
    if larger not in (None, "crop"):
        raise InputError(f"data.larger={larger}: choose crop (keep the centre of a larger image) or null (refuse it).")
    if spacing_mm is not None and not 0 < spacing_mm < math.inf:
        raise InputError(f"data.spacing_mm={spacing_mm}: must be a distance in mm, or null to leave images as they are.")
    if spacing_mm is None and larger is None:
        return slices
    fitted, cut = [], []
    for item in slices:
        new, n_cut = _fit(item, size, spacing_mm, larger)
        fitted.append(new)
        cut += [(n_cut, item)] if n_cut else []
    if cut:
        log.warning(
            "data.larger=crop cuts the structure on %d of %d slices, most on slice %d of patient %s; a larger data.size helps.",
            *(len(cut), len(slices), (worst := max(cut, key=lambda pair: pair[0])[1]).slice_index, worst.patient),
        )
    return SliceSet(fitted)


def _fit(item: Slice, size: int, spacing_mm: float | None, larger: str | None) -> tuple[Slice, int]:
    """One slice on its new grid, and how many pixels of its structure were cropped away (in the old pixels)."""
    new_mm = (spacing_mm, spacing_mm) if spacing_mm is not None else item.spacing_mm
    full = [max(1, round(n * old / new)) for n, old, new in zip(item.image.shape, item.spacing_mm, new_mm, strict=True)]
    if larger is None:
        _check_size(item, (full[0], full[1]), size)
    if spacing_mm is None and max(full) <= size:
        return item, 0
    lost, positions, nearest = item.mask.copy(), [], []
    kept: list[slice] = []
    for n, old, new, n_new in zip(item.image.shape, item.spacing_mm, new_mm, full, strict=True):
        at = _positions(n, old / new, n_new, min(n_new, size))
        half = new / old / 2
        kept.append(slice(max(0, math.ceil(at[0] - half)), math.floor(at[-1] + half) + 1) if n_new > size else slice(None))
        positions.append(at)
        nearest.append(np.clip(np.floor(at + 0.5), 0, n - 1).astype(int))
    lost[tuple(kept)] = False
    image = np.ascontiguousarray(_interpolate(_interpolate(item.image, positions[0]).T, positions[1]).T)
    return dataclasses.replace(item, image=image, mask=item.mask[np.ix_(*nearest)], spacing_mm=new_mm), int(lost.sum())


def _positions(n: int, ratio: float, n_new: int, n_kept: int) -> NDArray[np.float64]:
    """Where the n_kept middle pixels of a new axis lie on the old one [old pixels, from 0]. The centres of both coincide.

    Args: n, n_new: pixels of the old and the new axis. ratio: old spacing / new spacing.
    """
    first = (n_new - n_kept) // 2
    steps = np.arange(first, first + n_kept, dtype=np.float64) - (n_new - 1) / 2
    return steps / ratio + (n - 1) / 2


def _interpolate(image: NDArray[np.float32], at: NDArray[np.float64]) -> NDArray[np.float32]:
    """The image (H, W) at these rows, linearly between two rows; beyond the first and last one, these."""
    at = np.clip(at, 0, len(image) - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, len(image) - 1)
    share = (at - low).astype(np.float32)[:, None]
    return (image[low] * (1 - share) + image[high] * share).astype(np.float32)


def _check_size(item: Slice, shape: tuple[int, int], size: int) -> None:
    height, width = shape
    if max(shape) <= size:
        return
    stored = "" if shape == item.image.shape else " at this data.spacing_mm"
    raise InputError(
        f"data.size={size}: frame {item.frame} of patient {item.patient} has {height} x {width} pixels{stored}. "
        f"Choose data.size={-(-max(shape) // 16) * 16} or more, data.larger=crop (keep the centre) or a wider data.spacing_mm."
    )


def to_tensors(slices: SliceSet, *, size: int, normalize: str) -> Batch:
    """Images, normalised and then zero padded at bottom and right to size x size, and their masks.

    Raises: InputError naming the first image that is larger than size.
    """
    images = np.zeros((len(slices), 1, size, size), dtype=np.float32)
    masks = np.zeros((len(slices), 1, size, size), dtype=bool)
    for index, item in enumerate(slices):
        height, width = item.image.shape
        _check_size(item, (height, width), size)
        images[index, 0, :height, :width] = NORMALIZERS[normalize](item.image)
        masks[index, 0, :height, :width] = item.mask
    return torch.from_numpy(images), torch.from_numpy(masks)


class Batches:
    """One side of the split as an iterable of n batches; `plan()` gives the indices of each, anew at every pass."""

    def __init__(self, data: Batch, plan: Callable[[], list[NDArray[np.int64]]], n: int) -> None:
        self._images, self._masks = data
        self._plan, self._n = plan, n

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[Batch]:
        plan = self._plan()
        order = torch.from_numpy(np.concatenate(plan)).to(self._images.device)
        for index in order.split([len(indices) for indices in plan]):
            yield self._images[index], self._masks[index]


class SliceData(pl.LightningDataModule):
    """The two sides of a split, on the trainer's device.

    The batch order of an epoch derives from (seed, epoch) alone, so that a run that is resumed sees what it would have
    seen. The last batch of an epoch may be smaller; no image is left out.

    Args:
        size, normalize: see to_tensors.
        batch_size: images of a batch; None: all images of one patient.
        shuffle: False: every epoch in the data set's order, as the study's notebook had it.
        seed: of the order.
    """

    def __init__(
        self,
        slices: SliceSet,
        split: Split,
        *,
        size: int,
        normalize: str,
        batch_size: int | None,
        seed: int,
        shuffle: bool = True,
    ) -> None:
        super().__init__()
        self._split, self._batch_size, self._shuffle, self._seed = split, batch_size, shuffle, seed
        self._patients = np.asarray(slices.patients)
        self._data = to_tensors(slices, size=size, normalize=normalize)

    def setup(self, stage: str) -> None:
        assert self.trainer is not None
        device = self.trainer.strategy.root_device
        self._data = (self._data[0].to(device), self._data[1].to(device))

    def train_batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """Indices of the training slices of each batch of one epoch (counted from 0)."""
        random = np.random.default_rng([self._seed, epoch]) if self._shuffle else None
        if self._batch_size is None:
            patients = self._by_patient(self._split.train)
            return [patients[index] for index in random.permutation(len(patients))] if random else patients
        return self._cut(random.permutation(self._split.train) if random else self._split.train)

    def train_dataloader(self) -> Batches:
        assert self.trainer is not None
        trainer = self.trainer
        return Batches(self._data, lambda: self.train_batches(trainer.current_epoch), len(self.train_batches(0)))

    def val_dataloader(self) -> Batches:
        batches = self._by_patient(self._split.val) if self._batch_size is None else self._cut(self._split.val)
        return Batches(self._data, lambda: batches, len(batches))

    predict_dataloader = val_dataloader

    def _cut(self, order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        assert self._batch_size is not None
        return np.split(order, range(self._batch_size, len(order), self._batch_size))

    def _by_patient(self, side: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        patients = self._patients[side]
        return [side[patients == name] for name in dict.fromkeys(patients.tolist())]
