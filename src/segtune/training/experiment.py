"""The typed objects that one run consists of. `build` makes them of a configuration; `run` trains them."""

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
from segtune.data.tensors import SliceData
from segtune.errors import InputError
from segtune.runs import identity
from segtune.training.module import Segmenter


@dataclass(frozen=True)
class Penalty:
    """A regulariser: a function of the network's parameters, which of them it sees, and its weight in the loss.

    weight: lambda; None if it is to be calibrated (reg.lambda=auto), such that lambda * penalty / loss is `ratio` at the first
    step. tunable: whether it has a single lambda; l1l2 has lambdas of its own. name: the function's, such as l2; on: the name
    of the set of parameters, kernels or all.
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
    """How the training loop runs. arguments: those of Lightning's Trainer; threads: of the CPU, None for all cores."""

    arguments: dict[str, Any]
    max_epochs: int
    patience: int | None
    threads: int | None
    compile: str | None


@dataclass(frozen=True)
class Experiment:
    """Everything that one run consists of, as typed objects.

    Args:
        config: the composed configuration as plain values; result.json and the checkpoints carry it.
        options: config group -> chosen option; label: the words that give the same run again (config/labels.py).
        slices: the data set on the network's grid, resampled and cropped.
        split: the indices of the slices that train and validate.
        calibration_split: the split on whose training side lambda is calibrated; of folds, that of fold 0, so that all folds
            share one lambda.
        findings: what was found in the data; errors are those that data.allow names.
        fingerprint: identifies the data exactly; inputs: the content hashes of the data and of the user's own code.
        codes: of each slice, a code by which its image is recognised in other files.
        network, loss: each call makes a new one, for both may have weights. They come from torch's global generator.
        optimizer, scheduler: functions of the parameters, and of the optimiser.
        batch_size: images, or None for all images of one patient.
        seed: of the weights, the order of the images and dropout.
        seconds: how long it took to read and check the data.
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
    scheduler: Callable[[torch.optim.Optimizer], LRScheduler] | None
    trainer: TrainerSettings
    image_size: int
    normalize: str
    batch_size: int | None
    shuffle: bool
    seed: int
    tolerance_mm: float
    figures: bool
    seconds: float

    @property
    def run_id(self) -> str:
        return identity.run_id(self.config)

    def for_calibration(self) -> "Experiment":
        """The experiment with seed 0, fold 0 and no compilation: all replicates of a configuration share one lambda."""
        return replace(self, seed=0, split=self.calibration_split, trainer=replace(self.trainer, compile=None))

    def datamodule(self) -> SliceData:
        """The data on their way to the network: batches of the training and the validation side."""
        return SliceData(
            self.slices,
            self.split,
            size=self.image_size,
            normalize=self.normalize,
            batch_size=self.batch_size,
            shuffle=self.shuffle,
            seed=self.seed,
        )

    def module(self, penalty_weight: float | None = None) -> Segmenter:
        """A new network with its loss, penalty and optimiser. Its weights come from torch's global generator.

        Args: penalty_weight: lambda, where it is not the configuration's but calibrated or tried.
        Raises: ValueError if lambda is neither given nor in the configuration (reg.lambda=auto).
        """
        penalty = self.penalty
        weight = penalty.weight if penalty and penalty_weight is None else penalty_weight
        if penalty and weight is None:
            raise ValueError("reg.lambda=auto: calibrate lambda first (lambda_search.penalty_weight)")
        net = self.network()
        if self.trainer.compile:
            torch.compiler.reset()  # torch compiles at most eight networks in a process; this starts the count anew
            net.compile(mode=self.trainer.compile, dynamic=False)
        return Segmenter(
            net,
            self.loss(),
            self.optimizer,
            scheduler=self.scheduler,
            penalty=penalty.function if penalty else None,
            penalty_weight=0.0 if weight is None else weight,
            regularized_parameters=penalty.parameters(net) if penalty else (),
            seed=self.seed,
            hyperparameters=self.config,
        )

    def make_trainer(self, callbacks: list[pl.Callback], checkpoint_io: CheckpointIO | None = None) -> pl.Trainer:
        """Lightning's Trainer. Logging, checkpoints, the progress bar and a cluster's requeue are segtune's own.

        Raises: InputError if Lightning refuses the settings.
        """
        plugins: list[Any] = [LightningEnvironment(), *([checkpoint_io] if checkpoint_io else [])]
        try:
            return pl.Trainer(
                **self.trainer.arguments,
                callbacks=callbacks,
                enable_progress_bar=False,
                logger=False,
                num_sanity_val_steps=0,
                enable_model_summary=False,
                enable_checkpointing=False,
                plugins=plugins,
            )
        except (TypeError, ValueError, ImportError, MisconfigurationException) as error:
            chosen = ", ".join(f"trainer.{key}={value}" for key, value in self.trainer.arguments.items())
            raise InputError(f"{chosen}: Lightning refuses this: {error}") from error

    @contextmanager
    def threads(self) -> Iterator[None]:
        """Within the block, this process uses the number of CPU threads that the experiment wants."""
        before = torch.get_num_threads()
        if self.trainer.threads is not None:
            torch.set_num_threads(self.trainer.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
