"""All slices as tensors on the training device. A batch is selected by indices into these tensors."""

from collections.abc import Callable, Iterator

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
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


def pooled(images: Tensor, masks: Tensor, factor: int) -> Batch:
    """Combine each block of factor x factor pixels into one pixel.

    An image pixel is the mean of its block. A mask pixel is the majority of its block; in a tie, it is foreground.
    """
    return F.avg_pool2d(images, factor), F.avg_pool2d(masks.float(), factor) >= 0.5


class Batches:
    """An iterable of n training or validation batches. Each pass calls `plan()` to get the indices of each batch."""

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

    The batch order of an epoch depends on (seed, epoch) only, so a resumed run sees the same batches. By default, an
    epoch contains all training images, and its last batch may be smaller. With batches_per_epoch, an epoch contains
    this number of full batches, taken from an endless sequence of passes through the training images.

    With downsample, training images and masks are pooled. In validation batches only the images are pooled, so that
    predictions are compared with the masks at full resolution.

    Args:
        size, normalize: as in to_tensors.
        downsample: side length [pixels] of the blocks that are pooled into one pixel. None means 1 (no pooling).
        batches_per_epoch: number of training batches of an epoch; None: one pass through the training images.
        batch_size: number of images in a batch. If it is None, each batch consists of all images of one patient.
        seed: seed of the batch order.
        shuffle: whether the order is random. If False, every epoch uses the order of the data set, as in the notebook
            of the published study.
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
        downsample: int | None = None,
        batches_per_epoch: int | None = None,
    ) -> None:
        super().__init__()
        self._split, self._batch_size, self._shuffle, self._seed = split, batch_size, shuffle, seed
        self._patients = np.asarray(slices.patients)
        self._batches_per_epoch = batches_per_epoch
        images, masks = to_tensors(slices, size=size, normalize=normalize)
        self._train = self._val = images, masks
        if downsample:
            self._train = pooled(images, masks, downsample)
            self._val = self._train[0], masks

    def setup(self, stage: str) -> None:
        assert self.trainer is not None
        device = self.trainer.strategy.root_device
        images = self._train[0].to(device)
        is_pooled = self._train is not self._val
        masks = self._val[1].to(device)
        self._train, self._val = (images, self._train[1].to(device) if is_pooled else masks), (images, masks)

    def train_batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """The indices of the training slices in each batch of an epoch. Args: epoch: counted from 0."""
        if (n := self._batches_per_epoch) is None:
            order = self._pass(epoch)
            return order if self._batch_size is None else self._cut(np.concatenate(order))
        first, last = epoch * n, (epoch + 1) * n  # batches since the start of the run
        step = self._batch_size or 1
        per_pass = len(self._pass(0))
        passes = range(first * step // per_pass, (last * step - 1) // per_pass + 1)
        order = [one for number in passes for one in self._pass(number)][first * step - passes[0] * per_pass :][: n * step]
        return [np.concatenate(order[at : at + step]) for at in range(0, n * step, step)]

    def _pass(self, number: int) -> list[NDArray[np.int64]]:
        """Return the slice indices of one pass through the training images.

        Each array contains one image or, if batch_size is None, all images of one patient.
        """
        random = np.random.default_rng([self._seed, number]) if self._shuffle else None
        if self._batch_size is None:
            patients = self._by_patient(self._split.train)
            return [patients[index] for index in random.permutation(len(patients))] if random else patients
        order = random.permutation(self._split.train) if random else self._split.train
        return np.split(order, len(order))

    def train_dataloader(self) -> Batches:
        assert self.trainer is not None
        trainer = self.trainer
        return Batches(self._train, lambda: self.train_batches(trainer.current_epoch), len(self.train_batches(0)))

    def first_batch(self) -> Batch:
        """The first training batch of the run, without augmentation."""
        return next(iter(Batches(self._train, lambda: self.train_batches(0), 1)))

    def val_dataloader(self) -> Batches:
        if not len(self._split.val):
            return Batches(self._val, list, 0)
        batches = self._by_patient(self._split.val) if self._batch_size is None else self._cut(self._split.val)
        return Batches(self._val, lambda: batches, len(batches))

    predict_dataloader = val_dataloader

    def _cut(self, order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        assert self._batch_size is not None
        return np.split(order, range(self._batch_size, len(order), self._batch_size))

    def _by_patient(self, side: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        patients = self._patients[side]
        return [side[patients == name] for name in dict.fromkeys(patients.tolist())]
