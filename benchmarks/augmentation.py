"""What augmentation adds to a training step of recipe=strong: both sides in one go, alternating.

    python benchmarks/augmentation.py              images of 160 x 160, patches of 112 x 112, batches of 10
    python benchmarks/augmentation.py --steps 20   fewer steps

The step is forward, loss, backward and update of conf/model/unet_plain.yaml on random images. Prints milliseconds (median) and
the share of augmentation in the whole.
"""

import argparse
import functools
import statistics
import time

import torch
from provenance import about

from segtune import losses, optimizers
from segtune.augment import patch_side
from segtune.config import entry
from segtune.training import build


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    cfg = entry.compose(["recipe=strong"])
    size, n = cfg.data.size, cfg.batch.size
    augment = functools.partial(build._function(cfg.augment, "augment"), patch=patch_side(cfg.augment.patch, size))
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(n, 1, size, size, generator=generator)
    mask = torch.rand(n, 1, size, size, generator=generator) > 0.9
    net = build.network(cfg.model).train()
    optimizer = optimizers.adamw_on_weights(net.parameters(), fused=True)
    augmenting, training = [], []
    for step in range(options.steps):
        started = time.perf_counter()
        new, where = augment(image, mask, random=generator.manual_seed(step))
        between = time.perf_counter()
        losses.bce_dice(net(new), where.float()).backward()
        optimizer.step()
        optimizer.zero_grad()
        augmenting.append(between - started)
        training.append(time.perf_counter() - between)
    ours, theirs = (1000 * statistics.median(values[5:]) for values in (augmenting, training))
    print(f"augmentation {ours:.1f} ms, step {theirs:.1f} ms: {100 * ours / (ours + theirs):.1f} % of the whole; {about()}")


if __name__ == "__main__":
    main()
