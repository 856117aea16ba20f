"""Predict the validation slices of a run, and choose how predictions are processed (score.*) on these slices."""

import itertools
import logging
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from segtune.data.slices import Slice
from segtune.data.tensors import SliceData
from segtune.metrics import overlap
from segtune.metrics.largest_component import largest_of_each
from segtune.training.checkpoints import load_weights
from segtune.training.experiment import Experiment
from segtune.training.module import Segmenter

log = logging.getLogger(__name__)


class Predictions(NamedTuple):
    """Predictions for the N validation slices, padded to S x S: soft Dice (N,), predicted and true masks (N, 1, S, S) bool."""

    soft_dice: Tensor
    predicted: Tensor
    true: Tensor

    @classmethod
    def of(cls, batches: Iterable[Sequence[Tensor]]) -> "Predictions":
        """Concatenate the batches that Trainer.predict returns."""
        return cls(*(torch.cat(parts) for parts in zip(*batches, strict=True)))

    def largest_component(self, slices: Sequence[Slice]) -> "Predictions":
        """Keep the largest component of each predicted volume. Args: slices: the N validation slices."""
        masks = largest_of_each(list(self.predicted[:, 0].numpy()), [item.place for item in slices])
        return self._replace(predicted=torch.from_numpy(np.stack(masks))[:, None])


class Processing(NamedTuple):
    """How predictions are processed: averaged over views of the image (tta), reduced to their largest component, or both."""

    tta: bool
    largest_component: bool


def validation_slices(experiment: Experiment) -> list[Slice]:
    """Return the validation slices, in the order of the validation batches."""
    return [experiment.slices[int(index)] for index in experiment.split.val]


def predict(
    experiment: Experiment, trainer: pl.Trainer, module: Segmenter, data: SliceData, checkpoints: Mapping[str, Path]
) -> tuple[dict[str, Predictions], Processing]:
    """Predict the validation slices with the weights of the checkpoints `best` and `last`.

    The keys of `score` (tta, largest_component) each name a processing step. If a key is "auto", predictions are scored
    with and without its step. The choice with the higher Dice after the last epoch is used for both checkpoints. If Dice
    is equal, the predictions are not processed.

    Returns: the processed predictions of each checkpoint, and how they were processed.
    """
    slices = validation_slices(experiment)
    if not slices:
        load_weights(module, checkpoints["last"])
        return _nothing(experiment, checkpoints)
    of_views: dict[bool, dict[str, Predictions]] = {}
    for tta in _values(experiment.tta):
        module.tta = tta
        of_views[tta] = {
            which: Predictions.of(trainer.predict(module, datamodule=data, ckpt_path=path) or [])
            for which, path in checkpoints.items()
        }
    tried: dict[Processing, dict[str, Predictions]] = {}
    for tta, component in itertools.product(of_views, _values(experiment.largest_component)):
        of_each = of_views[tta]
        if component:
            of_each = {which: predictions.largest_component(slices) for which, predictions in of_each.items()}
        tried[Processing(tta, component)] = of_each
    chosen = max(tried, key=lambda one: volume_dice(slices, tried[one]["last"])) if len(tried) > 1 else next(iter(tried))
    return tried[chosen], chosen


def _nothing(experiment: Experiment, checkpoints: Iterable[str]) -> tuple[dict[str, Predictions], Processing]:
    """Return empty predictions for a run without validation patients. For such a run, "auto" is false."""
    chosen = {key: getattr(experiment, key) is True for key in Processing._fields}
    for key in Processing._fields:
        if getattr(experiment, key) == "auto":
            log.warning(
                "run %s: score.%s=auto is false, because split=all has no validation patients. The command in a sweep's report "
                "says what the sweep chose.",
                *(experiment.run_id, key),
            )
    masks = torch.zeros(0, 1, experiment.image_size, experiment.image_size, dtype=torch.bool)
    return dict.fromkeys(checkpoints, Predictions(torch.zeros(0), masks, masks)), Processing(**chosen)


def _values(setting: bool | str) -> tuple[bool, ...]:
    return (False, True) if setting == "auto" else (bool(setting),)


def volume_dice(slices: Sequence[Slice], predictions: Predictions) -> float:
    """Compute the 3-D Dice of each volume, average it over each patient's volumes, and then average over patients.

    Volumes in which both masks are empty are left out. If no other volume exists, the result is 0.
    """
    counts = overlap.counts(predictions.predicted, predictions.true)
    totals: dict[str, dict[object, list[int]]] = {}
    for item, *numbers in zip(slices, *(of.tolist() for of in counts), strict=True):
        total = totals.setdefault(item.patient, {}).setdefault(item.place[0], [0, 0, 0])
        total[:] = [a + b for a, b in zip(total, numbers, strict=True)]
    dice = [
        [overlap.dice(overlap.Counts(*map(float, total))) for total in volumes.values() if any(total)]
        for volumes in totals.values()
    ]
    return statistics.fmean([statistics.fmean(values) for values in dice if values] or [0.0])
