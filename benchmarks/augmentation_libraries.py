"""segtune's augmentation against kornia and batchgeneratorsv2: cost of a batch, import time, reproducibility.

    pip install --no-deps kornia kornia_rs batchgenerators batchgeneratorsv2
    python benchmarks/augmentation_libraries.py              batches of 10 images of 160 x 160, patches of 112 x 112
    python benchmarks/augmentation_libraries.py --batches 5  fewer batches

The libraries get transforms as near as they have to those of augment=full. Libraries that are not installed are left out. All
sides are measured in one go, alternating. Prints milliseconds per batch (median), seconds to import, and whether a seed gives
the same bits twice.
"""

import argparse
import functools
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch
from provenance import about
from torch import Tensor

from segtune.augment import patch_side
from segtune.config import entry
from segtune.training import build

Augment = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]  # image, mask, seed -> augmented image and mask
SIZE, N = 160, 10
PATCH = patch_side("auto", SIZE)


def ours() -> Augment:
    cfg = entry.compose(["recipe=strong"])
    augment = functools.partial(build._function(cfg.augment, "augment"), patch=PATCH)
    return lambda image, mask, seed: augment(image, mask, random=torch.Generator().manual_seed(seed))


def kornia() -> Augment:
    """Without a bias field and gamma, which needs images between 0 and 1, and with noise of one standard deviation."""
    import kornia.augmentation as K

    steps = K.AugmentationSequential(
        K.RandomAffine(30, translate=(0.1, 0.1), scale=(1 / 1.3, 1.3), shear=math.degrees(math.atan(0.1)), p=1.0),
        K.CenterCrop(PATCH),
        K.RandomContrast((0.75, 1.25), clip_output=False, p=0.5),
        K.RandomBrightness((0.75, 1.25), clip_output=False, p=0.5),
        K.RandomGaussianNoise(std=0.075, p=0.5),
        data_keys=["input", "mask"],
    )

    def augment(image: Tensor, mask: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        torch.manual_seed(seed)
        new, where = steps(image, mask.float())
        return new, where > 0.5

    return augment


def batchgeneratorsv2() -> Augment:
    """Image by image, as it works, in this process; without shear and bias field, which it does not have."""
    from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
    from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.random import RandomTransform

    steps = ComposeTransforms(
        [
            SpatialTransform(
                (PATCH, PATCH),
                patch_center_dist_from_border=0,
                random_crop=False,
                p_elastic_deform=0,
                p_rotation=1,
                rotation=(-math.radians(30), math.radians(30)),
                p_scaling=1,
                scaling=(1 / 1.3, 1.3),
                bg_style_seg_sampling=False,
            ),
            RandomTransform(GaussianNoiseTransform((0, 0.15)), 0.5),
            RandomTransform(MultiplicativeBrightnessTransform(BGContrast((0.75, 1.25)), False), 0.5),
            RandomTransform(ContrastTransform(BGContrast((0.75, 1.25)), True, False), 0.5),
            RandomTransform(GammaTransform(BGContrast((1 / 1.65, 1.65)), 0, False, 1, 1), 0.5),
        ]
    )

    def augment(image: Tensor, mask: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        torch.manual_seed(seed)
        np.random.seed(seed)
        found = [steps(image=one, segmentation=label) for one, label in zip(image, mask.to(torch.int16), strict=True)]
        return torch.stack([one["image"] for one in found]), torch.stack([one["segmentation"] for one in found]) > 0

    return augment


IMPORTS = {
    "segtune": "segtune.augment",
    "kornia": "kornia.augmentation",
    "batchgeneratorsv2": "batchgeneratorsv2.transforms.spatial.spatial",
}


def seconds_to_import(module: str) -> float:
    """Return the seconds that importing a module takes in a new process, beyond torch."""
    code = f"import torch, time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    times = [float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout) for _ in range(3)]
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batches", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(N, 1, SIZE, SIZE, generator=generator)
    mask = torch.rand(N, 1, SIZE, SIZE, generator=generator) > 0.9
    sides = {make.__name__: make() for make in (kornia, batchgeneratorsv2) if find_spec(make.__name__)} | {"segtune": ours()}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for seed in range(options.batches):
        for name, augment in sides.items():
            started = time.perf_counter()
            augment(image, mask, seed)
            times[name].append(time.perf_counter() - started)
    print("| | ms per batch | times ours | s to import beyond torch | same seed, same bits |\n|---|---|---|---|---|")
    own = statistics.median(times["segtune"])
    for name, augment in sides.items():
        cost, (one, _), (other, _) = statistics.median(times[name]), augment(image, mask, 7), augment(image, mask, 7)
        same = "yes" if torch.equal(one, other) else "no"
        print(f"| {name} | {1000 * cost:.1f} | {cost / own:.1f} | {seconds_to_import(IMPORTS[name]):.2f} | {same} |")
    print(about())


if __name__ == "__main__":
    main()
