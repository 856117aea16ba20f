"""A figure of augmented training images with the expert's contours."""

import math

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

MOST = 12  # number of images drawn
COLUMNS = 6


def augmented(images: NDArray[np.float32], masks: NDArray[np.bool_], *, title: str) -> Figure:
    """Draw the first images of a batch, with the contours of their masks.

    The grey values of each image range from its 1st to its 99th percentile.

    Args: images: (n, P, P). masks: (n, P, P).
    """
    images, masks = images[:MOST], masks[:MOST]
    rows = math.ceil(len(images) / COLUMNS)
    figure = Figure(figsize=(1.6 * COLUMNS, 1.65 * rows + 0.35), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes, image, mask in zip(panels, images, masks, strict=False):
        low, high = np.percentile(image, [1, 99])
        axes.imshow(image, cmap="gray", vmin=low, vmax=high if high > low else low + 1)
        if mask.any() and not mask.all():
            axes.contour(mask, levels=[0.5], colors="#ffb000", linewidths=1)
    for axes in panels:
        axes.set_axis_off()
    figure.suptitle(title, fontsize="medium")
    return figure
