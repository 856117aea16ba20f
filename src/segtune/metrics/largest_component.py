"""Keep only the largest connected component of each predicted structure, in 3-D where the slices form a volume."""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def largest(mask: Mask) -> Mask:
    """Return the largest connected component of a mask of any dimension; pixels that touch at a corner are connected.

    Of several largest components, the one that comes first in the array is kept.
    """
    from scipy import ndimage  # takes a quarter of a second to import

    labels, n = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    if n < 2:
        return mask
    kept: Mask = labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1
    return kept


def largest_of_each(masks: Sequence[Mask], places: Sequence[tuple[Hashable, int | None]]) -> list[Mask]:
    """Keep the largest component of each volume.

    The slices of a volume are stacked in the order of their positions. The slices on both sides of a missing slice are
    treated as neighbours. Each slice of a volume is treated separately if a position is unknown, if two slices have the
    same position, or if the shapes of the slices differ.

    Args: masks: (H, W) bool, in any order. places: for each mask, its volume and its position in this volume (None if
    the position is unknown).
    Returns: the masks in the given order.
    """
    volumes: dict[Hashable, list[int]] = {}
    for index, (volume, _) in enumerate(places):
        volumes.setdefault(volume, []).append(index)
    kept = list(masks)
    for indices in volumes.values():
        positions, shapes = ({places[index][1] for index in indices}, {masks[index].shape for index in indices})
        if None not in positions and len(positions) == len(indices) and len(shapes) == 1:
            indices = sorted(indices, key=lambda index: places[index][1] or 0)
            planes = list(largest(np.stack([masks[index] for index in indices])))
        else:
            planes = [largest(masks[index]) for index in indices]
        for index, plane in zip(indices, planes, strict=True):
            kept[index] = plane
    return kept
