"""Images for the eye: intensities as grey levels of a screen."""

import numpy as np
from numpy.typing import NDArray


def grey(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The image (H, W) with its 1st to 99th percentile on 0 ... 255."""
    low, high = np.percentile(image, [1, 99])
    scaled: NDArray[np.uint8] = np.rint(255 * np.clip((image - low) / max(high - low, 1e-6), 0, 1)).astype(np.uint8)
    return scaled
