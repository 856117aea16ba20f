"""What a run of recipe=strong costs beside one of recipe=study on the same patients: steps of both in one go, alternating.

    python benchmarks/recipes.py                 16 patients of the phantom (243 images), 256 x 256, one thread
    python benchmarks/recipes.py --steps 3       fewer steps
    python benchmarks/recipes.py data=sunnybrook data.root=sunnybrook split=kfold

Prints milliseconds per training step and per validation (medians), and from them the seconds of a whole run, which for
recipe=study grow with the number of training images and for recipe=strong do not.
"""

import argparse
import statistics
import time

import pytorch_lightning as pl
import torch
from provenance import about

from segtune.config import entry
from segtune.training import build


class Side:
    """One recipe: its module, optimiser and batches."""

    def __init__(self, overrides: list[str]) -> None:
        self.experiment = build.experiment(entry.compose(overrides))
        pl.seed_everything(0, verbose=False)
        self.data, self.module = self.experiment.datamodule(), self.experiment.module()
        (self.optimizer,), _ = self.module.configure_optimizers()
        self.batch = self.data.first_batch()
        self.steps: list[float] = []
        self.validations: list[float] = []

    def step(self, index: int) -> None:
        started = time.perf_counter()
        self.module.train()
        image, mask = self.module.augmented(self.batch, 0, index)
        self.module.loss(self.module(image), mask.float()).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps.append(time.perf_counter() - started)

    def validate(self) -> None:
        started = time.perf_counter()
        self.module.eval()
        with torch.inference_mode():
            for batch in self.data.val_dataloader():
                self.module._at_full_resolution(batch)
        self.validations.append(time.perf_counter() - started)

    def seconds(self) -> float:
        """The time of a whole run [s]."""
        n_epochs = self.experiment.trainer.max_epochs
        return self.experiment.n_steps() * statistics.median(self.steps) + n_epochs * statistics.median(self.validations)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sides = {
        "study": Side(options.overrides),
        "strong": Side(["recipe=strong", *options.overrides]),
        "strong, half resolution": Side(["recipe=strong", "data.downsample=2", "trainer.max_steps=800", *options.overrides]),
    }
    for index in range(options.steps):
        for side in sides.values():
            side.step(index)
            if index < 3:
                side.validate()
    n = {name: len(side.experiment.split.train) for name, side in sides.items()}
    print(f"{n['study']} training images, one thread")
    print("| recipe | ms per step | steps | ms per validation | s per run | times study |\n|---|---|---|---|---|---|")
    for name, side in sides.items():
        step, validation = (1000 * statistics.median(times) for times in (side.steps, side.validations))
        ratio = side.seconds() / sides["study"].seconds()
        print(f"| {name} | {step:.0f} | {side.experiment.n_steps()} | {validation:.0f} | {side.seconds():.0f} | {ratio:.2f} |")
    print(about())


if __name__ == "__main__":
    main()
