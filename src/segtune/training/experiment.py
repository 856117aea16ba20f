"""Experiment: the typed objects of one run. `build` creates them from a configuration, and `run` trains them."""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from segtune.data.slices import SliceSet
from segtune.data.splits import Split
from segtune.data.tensors import Batch, SliceData
from segtune.errors import InputError
from segtune.runs import identity
from segtune.training.module import Segmenter


@dataclass(frozen=True)
class Penalty:
    """A regulariser, which adds weight * function(parameters(net)) to the loss.

    Attributes:
        function: the penalty function.
        parameters: a function that selects the regularised parameters of a network.
        weight: lambda. None means reg.lambda=auto: lambda is calibrated.
        ratio: the value of lambda * penalty / loss at the first step, if lambda is calibrated.
        tunable: whether the penalty has a single lambda. This is false for l1l2, whose function includes its two
            lambdas.
        name: the name of the function, such as l2.
        on: which parameters are regularised: "kernels" or "all".
    """

    function: Callable[[Iterable[Tensor]], Tensor]
    parameters: Callable[[nn.Module], Sequence[nn.Parameter]]
    weight: float | None
    ratio: float
    tunable: bool
    name: str
    on: str


@dataclass(frozen=True)
class TrainerSettings:
    """Settings of the training loop.

    Attributes:
        arguments: the arguments that are passed to Lightning's Trainer.
        max_epochs: the number of epochs.
        steps_per_epoch: the number of optimiser steps in an epoch. None: an epoch is a pass through all training
            images.
        patience: training stops after this number of epochs without a new minimum of the validation loss. None: no
            early stopping.
        threads: the number of CPU threads. None: all cores.
        compile: the mode of torch.compile. None: no compilation.
    """

    arguments: dict[str, Any]
    max_epochs: int
    steps_per_epoch: int | None
    patience: int | None
    threads: int | None
    compile: str | None


@dataclass(frozen=True)
class Experiment:
    """All objects of one run.

    Args:
        config: the composed configuration as plain values; it is stored in result.json and the checkpoints.
        options: config group -> chosen option.
        label: the overrides that repeat the run (config/labels.py).
        slices: the data set, resampled and cropped for the network.
        split: the indices of the training and validation slices.
        calibration_split: the split whose training slices are used to calibrate lambda. In cross-validation it is that of
            fold 0, so that all folds share one lambda.
        findings: problems found in the data. Errors among them are allowed by data.allow.
        fingerprint: a hash that identifies the data.
        inputs: content hashes of the data and of the user's code.
        codes: for each slice, a code by which its image can be recognised in other files.
        network, loss: functions that return a new object at each call, because both objects may have weights. torch's
            global random generator initialises these weights.
        penalty: the regulariser, or None.
        optimizer: parameters -> optimiser.
        scheduler: (optimiser, n_steps=number of steps of the run) -> learning rate scheduler, or None.
        scheduler_interval: when the scheduler is stepped, after each "epoch" or after each optimiser "step".
        augment: (image, mask, random=generator) -> augmented image and mask, or None.
        average_decay: maximum decay of the exponential moving average of the weights; None: no averaging.
        image_size: side of the padded images [pixels].
        downsample: side of the square blocks of pixels that are pooled into one pixel for the network. None means 1.
        normalize: name of the intensity normalisation.
        batch_size: number of images, or None for all images of one patient.
        shuffle: whether the order of the training images is random.
        seed: random seed of the weights, the order of the images and dropout.
        tta: whether predictions are averaged over views (nets.Views) before the run scores them. With "auto", they are
            averaged only if this gives better scores on the validation patients.
        largest_component: whether only the largest component of each predicted volume is kept; or "auto".
        tolerance_mm: tolerance of surface Dice [mm].
        figures: whether to draw the learning curves.
        expected: the score of this configuration in the sweep that it was chosen from (runs/expected.py), or None.
        seconds: time spent reading and checking the data [s].
    """

    config: dict[str, Any]
    options: Mapping[str, str]
    label: str
    slices: SliceSet
    split: Split
    calibration_split: Split
    findings: list[dict[str, Any]]
    fingerprint: str
    inputs: dict[str, str]
    codes: Sequence[str]
    network: Callable[[], nn.Module]
    loss: Callable[[], Callable[[Tensor, Tensor], Tensor]]
    penalty: Penalty | None
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    scheduler: Callable[..., LRScheduler] | None
    scheduler_interval: str
    augment: Callable[..., Batch] | None
    average_decay: float | None
    trainer: TrainerSettings
    image_size: int
    downsample: int | None
    normalize: str
    batch_size: int | None
    shuffle: bool
    seed: int
    tta: bool | str
    largest_component: bool | str
    tolerance_mm: float
    figures: bool
    expected: dict[str, Any] | None
    seconds: float

    @property
    def run_id(self) -> str:
        return identity.run_id(self.config)

    def for_calibration(self) -> "Experiment":
        """Return the experiment with seed 0, fold 0 and no compilation, so that all replicates get the same lambda."""
        return replace(self, seed=0, split=self.calibration_split, trainer=replace(self.trainer, compile=None))

    def datamodule(self) -> SliceData:
        """Return the data module, which provides the training and validation batches."""
        steps = self.trainer.steps_per_epoch
        return SliceData(
            self.slices,
            self.split,
            size=self.image_size,
            normalize=self.normalize,
            batch_size=self.batch_size,
            shuffle=self.shuffle,
            seed=self.seed,
            downsample=self.downsample,
            batches_per_epoch=steps and steps * self._batches_per_step,
        )

    @property
    def _batches_per_step(self) -> int:
        return int(self.trainer.arguments.get("accumulate_grad_batches") or 1)

    def n_steps(self) -> int:
        """The number of optimiser steps of the whole run."""
        if self.trainer.steps_per_epoch is not None:
            return self.trainer.max_epochs * self.trainer.steps_per_epoch
        if self.batch_size is None:
            n_batches = len({self.slices.patients[index] for index in self.split.train})
        else:
            n_batches = math.ceil(len(self.split.train) / self.batch_size)
        return self.trainer.max_epochs * math.ceil(n_batches / self._batches_per_step)

    def check_length(self) -> None:
        """Check that the warm-up of the learning rate is shorter than the run. Raises: InputError."""
        warmup_steps = (self.config.get("scheduler") or {}).get("warmup_steps")
        if isinstance(warmup_steps, int) and warmup_steps >= (n_steps := self.n_steps()):
            raise InputError(
                f"scheduler.warmup_steps={warmup_steps}: must be below the number of optimiser steps of this run, {n_steps}. "
                "Choose a shorter warm-up or a longer run."
            )

    def module(self, penalty_weight: float | None = None) -> Segmenter:
        """Build a new network with its loss, penalty and optimiser. torch's global generator initialises the weights.

        Args: penalty_weight: lambda, if it differs from the configuration because it is calibrated or tried.
        Raises: ValueError if lambda is neither given nor in the configuration (reg.lambda=auto).
        """
        penalty = self.penalty
        weight = penalty.weight if penalty and penalty_weight is None else penalty_weight
        if penalty and weight is None:
            raise ValueError("reg.lambda=auto: calibrate lambda first (lambda_search.penalty_weight)")
        net = self.network()
        if self.trainer.compile:
            torch.compiler.reset()  # torch compiles at most eight networks per process; this resets the count
            net.compile(mode=self.trainer.compile, dynamic=False)
        return Segmenter(
            net,
            self.loss(),
            self.optimizer,
            scheduler=functools.partial(self.scheduler, n_steps=self.n_steps()) if self.scheduler else None,
            scheduler_interval=self.scheduler_interval,
            augment=self.augment,
            average_decay=self.average_decay,
            penalty=penalty.function if penalty else None,
            penalty_weight=0.0 if weight is None else weight,
            regularized_parameters=penalty.parameters(net) if penalty else (),
            seed=self.seed,
            hyperparameters=self.config,
        )

    def make_trainer(self, callbacks: list[pl.Callback], checkpoint_io: CheckpointIO | None = None) -> pl.Trainer:
        """Create Lightning's Trainer without its logging, checkpoints, progress bar and Slurm support.

        segtune has its own versions of these. Raises: InputError if Lightning rejects the settings.
        """
        plugins: list[Any] = [LightningEnvironment(), *([checkpoint_io] if checkpoint_io else [])]
        try:
            return pl.Trainer(
                **self.trainer.arguments,
                callbacks=callbacks,
                limit_val_batches=1.0 if len(self.split.val) else 0,
                enable_progress_bar=False,
                logger=False,
                num_sanity_val_steps=0,
                enable_model_summary=False,
                enable_checkpointing=False,
                plugins=plugins,
            )
        except (TypeError, ValueError, ImportError, MisconfigurationException) as error:
            chosen = ", ".join(f"trainer.{key}={value}" for key, value in self.trainer.arguments.items())
            raise InputError(f"{chosen}: Lightning rejects these settings: {error}") from error

    @contextmanager
    def threads(self) -> Iterator[None]:
        """Within the block, use the number of CPU threads in the experiment's settings."""
        before = torch.get_num_threads()
        if self.trainer.threads is not None:
            torch.set_num_threads(self.trainer.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
