"""Pairs of images and masks as PNG files."""

import numpy as np
from PIL import Image

from segtune.data import folder

PATIENT = "(?P<patient>[^_/]+)[_/]"


def grey(seed, shape=(10, 12), dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)


def square(value=255, shape=(10, 12)):
    mask = np.zeros(shape, np.uint8)
    mask[1:5, 2:8] = value
    return mask


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write(root, names=("a_2.png", "b_1.png", "a_10.png"), value=255):
    for seed, name in enumerate(names):
        save(root / "images" / name, grey(seed))
        save((root / "masks" / name).with_suffix(".png"), square(value))
    return root


def read(root, **settings):
    return folder.read(root, **{"target": "foreground", "pixel_mm": 0.7, "patient": PATIENT, **settings})
