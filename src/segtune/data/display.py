"""Convert images to grey levels for display."""

import numpy as np
from numpy.typing import NDArray


def grey(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Convert an image (H, W) to grey levels.

    The 1st percentile of the image becomes 0, and the 99th percentile becomes 255. Values beyond them are clipped.
    """
    low, high = np.percentile(image, [1, 99])
    scaled: NDArray[np.uint8] = np.rint(255 * np.clip((image - low) / max(high - low, 1e-6), 0, 1)).astype(np.uint8)
    return scaled
