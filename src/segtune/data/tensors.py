"""All slices as tensors on the training device. A batch is selected by indices into these tensors."""

from collections.abc import Callable, Iterator

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from segtune.data.grid import check_size
from segtune.data.slices import SliceSet
from segtune.data.splits import Split

Batch = tuple[Tensor, Tensor]  # image (B, 1, S, S) float32, mask (B, 1, S, S) bool


def zscore(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """(image - mean) / standard deviation, both over this image's own pixels. A constant image becomes zero."""
    deviation = image.std(dtype=np.float64)
    scaled: NDArray[np.float32] = ((image - image.mean(dtype=np.float64)) / (deviation or 1.0)).astype(np.float32)
    return scaled


def divide255(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """image / 255, as in the published study. Values of 16-bit images can exceed 1."""
    return image / np.float32(255)


NORMALIZERS: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "zscore": zscore,
    "divide255": divide255,
}


def to_tensors(slices: SliceSet, *, size: int, normalize: str) -> Batch:
    """Convert slices to tensors: normalise the images, and pad images and masks with 0 at bottom and right to size x size.

    Args: normalize: a key of NORMALIZERS.
    Raises: InputError that names the first image larger than size.
    """
    images = np.zeros((len(slices), 1, size, size), dtype=np.float32)
    masks = np.zeros((len(slices), 1, size, size), dtype=bool)
    for index, item in enumerate(slices):
        height, width = item.image.shape
        check_size(item, (height, width), size)
        images[index, 0, :height, :width] = NORMALIZERS[normalize](item.image)
        masks[index, 0, :height, :width] = item.mask
    return torch.from_numpy(images), torch.from_numpy(masks)


class Batches:
    """One side of the split as an iterable of n batches. Each pass calls `plan()`, which returns the indices of each batch."""

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
    """Training and validation data on the trainer's device.

    The batch order of an epoch depends on (seed, epoch) only, so a resumed run sees the same batches. The last batch of an
    epoch may be smaller, because no image is left out.

    Args:
        size, normalize: as in to_tensors.
        batch_size: number of images in a batch; None: a batch is all images of one patient.
        seed: seed of the batch order.
        shuffle: False: use the data set's order in every epoch, as in the published study's notebook.
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
        """The indices of the training slices in each batch of an epoch. Args: epoch: counted from 0."""
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
