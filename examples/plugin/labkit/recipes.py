"""A loss, a penalty and a reader of one's own. What segtune expects of each stands in its docstring."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from segtune.data.slices import Slice, SliceSet
from segtune.errors import InputError


def power_jaccard(logits: Tensor, target: Tensor, *, power: float) -> Tensor:
    """A loss maps logits and masks, both (B, 1, H, W), to one number that training makes small.

    1 - sum pt / (sum p^k + sum t^k - sum pt) with p = sigmoid(logits), t = target, k = power, summed over each image's pixels,
    then the mean over images. Source: Duque-Arias et al. 2021, On power Jaccard losses for semantic segmentation.
    """
    p, t = logits.sigmoid().flatten(1), target.flatten(1)
    overlap = (p * t).sum(1)
    return (1 - (overlap + 1) / ((p**power + t**power).sum(1) - overlap + 1)).mean()


def huber(parameters: Iterable[Tensor], *, delta: float) -> Tensor:
    """A penalty maps the regularised parameters to one number; segtune multiplies it by reg.lambda.

    The sum of w^2 / 2 where |w| <= delta, and of delta (|w| - delta / 2) elsewhere: L2 for small weights, L1 for large ones.
    """
    zero = torch.zeros(())
    return sum((torch.nn.functional.huber_loss(w, zero.expand_as(w), reduction="sum", delta=delta) for w in parameters), zero)


def read(root: str, target: str) -> SliceSet:
    """A reader returns the slices of all patients. Here root holds one file <patient>.npz per patient.

    Each file has images (n, H, W), masks (n, H, W) with one label per structure, and spacing_mm (3,): of rows, columns and
    slices. All images are of end-diastole.
    """
    paths = sorted(Path(root).glob("*.npz"))
    if not paths:
        raise InputError(f"data.root={root}: it has no file <patient>.npz.")
    return SliceSet(item for path in paths for item in _slices(path, int(target)))


def _slices(path: Path, label: int) -> list[Slice]:
    with np.load(path, allow_pickle=False) as stored:
        height_mm, width_mm, gap_mm = map(float, stored["spacing_mm"])
        return [
            Slice(
                image=image.astype(np.float32),
                mask=labels == label,
                patient=path.stem,
                frame=index,
                slice_index=index,
                phase="ED",
                spacing_mm=(height_mm, width_mm),
                gap_mm=gap_mm,
            )
            for index, (image, labels) in enumerate(zip(stored["images"], stored["masks"], strict=True))
        ]
