"""Slices in memory."""

import numpy as np

from segtune.data.slices import Slice


def slice_of(image, patient="P01", frame=20):
    image = np.asarray(image, dtype=np.float32)
    return Slice(image, image > image.mean(), patient, frame, frame // 20, "ED", (0.7, 0.7), 8.4)
