"""A data set in the format of the example plug-in's own reader."""

import numpy as np


def write(root):
    """Write four patients of three slices, 32 x 32 pixels: bright discs on noise, each patient's at another place."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:32, :32]
    root.mkdir()
    for patient in range(4):
        masks = np.stack([np.hypot(rows - 12 - patient, columns - 12) < 5 + n for n in range(3)])
        images = 100 * masks + random.normal(50, 10, masks.shape)
        np.savez(root / f"P{patient}.npz", images=images, masks=masks.astype(np.uint8), spacing_mm=[1.2, 1.3, 8.0])
