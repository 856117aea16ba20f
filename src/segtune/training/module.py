"""The training step, which minimises loss(net(x), y) + lambda * penalty(parameters), and the rows of history.csv."""

import copy
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import get_ema_multi_avg_fn

from segtune import losses, nets
from segtune.data.tensors import Batch
from segtune.metrics import overlap

RAW = "raw."  # prefix of the weights that only a resumed run needs


class Segmenter(pl.LightningModule):
    """Trains a network that maps images to logits.

    Args:
        net: (B, 1, H, W) images to logits of the same shape.
        loss: (logits, target as float) -> scalar; a function or a module.
        optimizer: parameters -> optimiser.
        scheduler: optimiser -> learning rate scheduler; or None.
        scheduler_interval: when the scheduler is stepped: after each "epoch" or after each optimiser "step".
        augment: (image, mask, random=generator) -> augmented image and mask, for training; or None.
        average_decay: maximum decay of the exponential moving average of the weights; the averaged network is
            validated. None: no averaging.
        penalty: parameters -> scalar, or None.
        penalty_weight: lambda, the penalty's weight in the loss.
        regularized_parameters: the parameters that are passed to the penalty.
        seed: random seed of dropout and augmentation. Random numbers depend only on (seed, epoch, batch), so resuming a run
            does not change them.
        hyperparameters: a plain dict that is stored in the checkpoints.

    After each epoch, `row` contains the epoch's row of history.csv. Training values are means over the images of the
    epoch. As in the published study, they are computed during training, while the weights change and dropout is
    active. The training images are augmented. Validation values are computed at the end of the epoch, with the
    averaged weights if average_decay is set. train_penalty does not include lambda. The weighted penalty is the
    difference between train_loss and train_data_loss. Soft Dice and Dice are means over images.

    `net` is the network that is validated and saved for use. With averaging, `raw` is the network that is trained; its weights
    are needed only to resume the run. After step i = 0, 1, ... the average is d * average + (1 - d) * weights with
    d = min(average_decay, (1 + i) / (10 + i)), for weights and for the running statistics of batch norm.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        *,
        scheduler: Callable[[torch.optim.Optimizer], LRScheduler] | None = None,
        scheduler_interval: str = "epoch",
        augment: Callable[..., Batch] | None = None,
        average_decay: float | None = None,
        penalty: Callable[[Iterable[Tensor]], Tensor] | None = None,
        penalty_weight: float = 0.0,
        regularized_parameters: Sequence[nn.Parameter] = (),
        seed: int = 0,
        hyperparameters: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.net, self.loss, self.optimizer, self.scheduler = net, loss, optimizer, scheduler
        self.scheduler_interval, self.augment, self.average_decay = scheduler_interval, augment, average_decay
        self.raw: nn.Module | None = None
        if average_decay is not None:
            self.net, self.raw = copy.deepcopy(net).requires_grad_(False), net
        self.penalty, self.penalty_weight, self.regularized_parameters, self.seed = (
            penalty,
            penalty_weight,
            tuple(regularized_parameters),
            seed,
        )
        self.save_hyperparameters(hyperparameters or {})
        self.train_means, self.val_means = EpochMeans(), EpochMeans()
        self.row: dict[str, float] = {}
        self.tta = False  # whether `predict_step` averages over the views of nets.Views

    @property
    def trained(self) -> nn.Module:
        """The network whose weights the optimiser changes."""
        return self.net if self.raw is None else self.raw

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[Any]]:
        optimizer = self.optimizer(self.trained.parameters())
        schedulers = [self.scheduler(optimizer)] if self.scheduler else []
        return [optimizer], [{"scheduler": one, "interval": self.scheduler_interval} for one in schedulers]

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = (self.trained if self.training else self.net)(image)
        return logits.float()

    def penalties(self) -> tuple[Tensor, Tensor]:
        """Compute the penalty without and with the factor lambda; zeros if there is no penalty."""
        if self.penalty is None:
            zero = torch.zeros((), device=self.device)
            return zero, zero
        raw = self.penalty(self.regularized_parameters)
        return raw, self.penalty_weight * raw

    def on_train_epoch_start(self) -> None:
        self._started = time.perf_counter()
        self._lr = float(self.trainer.optimizers[0].param_groups[0]["lr"])  # the scheduler steps before the epoch's end
        torch.manual_seed(int(np.random.SeedSequence([self.seed, self.current_epoch]).generate_state(1)[0]))
        self._steps = self.trainer.global_step

    def augmented(self, batch: Batch, epoch: int, index: int) -> Batch:
        """Augment a training batch. The random numbers depend only on the seed, the epoch and the batch index."""
        if self.augment is None:
            return batch
        seed = np.random.SeedSequence([self.seed, epoch, index]).generate_state(1, np.uint64)[0]
        return self.augment(*batch, random=torch.Generator(batch[0].device).manual_seed(int(seed) >> 1))

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        image, mask = self.augmented(batch, self.current_epoch, batch_index)
        logits, target = self(image), mask.float()
        data_loss = self.loss(logits, target)
        penalty, weighted = self.penalties()
        loss = data_loss + weighted
        with torch.no_grad():
            soft_dice = losses.soft_dice(logits, target).mean()
            self.train_means.add(logits, mask, loss=loss, data_loss=data_loss, penalty=penalty, soft_dice=soft_dice)
        return loss

    def on_train_batch_end(self, *args: Any) -> None:
        if self.raw is None or self.trainer.global_step == self._steps:
            return
        self._steps = self.trainer.global_step
        assert self.average_decay is not None
        i = self._steps - 1
        average = get_ema_multi_avg_fn(min(self.average_decay, (1 + i) / (10 + i)))
        pairs = list(zip(self.net.state_dict().values(), self.raw.state_dict().values(), strict=True))
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        with torch.no_grad():
            average([mean for mean, _ in floats], [value for _, value in floats], 0)
            for mean, value in pairs:
                if not mean.is_floating_point():
                    mean.copy_(value)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the weights of `raw` to a checkpoint that does not contain them.

        A checkpoint that is not used for resuming is saved without these weights.
        """
        weights = checkpoint["state_dict"]
        if self.raw is not None:
            for name in self.raw.state_dict():
                weights.setdefault(f"{RAW}{name}", weights[f"net.{name}"])

    def _at_full_resolution(self, batch: Batch, *, tta: bool = False) -> tuple[Tensor, Tensor]:
        """Return the logits of a validation batch, interpolated to the resolution of its masks, and the masks."""
        image, mask = batch
        logits = nets.Views(self)(image) if tta else self(image)
        if logits.shape != mask.shape:
            logits = F.interpolate(logits, size=mask.shape[2:], mode="bilinear", align_corners=False)
        return logits, mask

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        logits, mask = self._at_full_resolution(batch)
        target = mask.float()
        soft_dice = losses.soft_dice(logits, target).mean()
        self.val_means.add(
            logits,
            mask,
            data_loss=self.loss(logits, target),
            bce=losses.bce(logits, target),
            focal=losses.focal(logits, target),
            dice_loss=1 - soft_dice,
            soft_dice=soft_dice,
        )

    def on_validation_epoch_end(self) -> None:
        val = self.val_means.take()
        self.end_epoch({**val, "loss": val["data_loss"] + float(self.penalties()[1])})
        self.log("val_dice", val["dice"])

    def end_epoch(self, val: dict[str, float]) -> None:
        """Set `row`. Args: val: the means over the validation images."""
        train = self.train_means.take()
        self.row = {
            "epoch": self.current_epoch + 1,
            "lr": self._lr,
            **{f"train_{name}": value for name, value in train.items()},
            **{f"val_{name}": value for name, value in val.items()},
            "seconds": time.perf_counter() - self._started,
        }

    def predict_step(self, batch: Batch, batch_index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return soft Dice (B,), predicted masks and true masks (B, 1, H, W) bool, on the CPU."""
        logits, mask = self._at_full_resolution(batch, tta=self.tta)
        return losses.soft_dice(logits, mask.float()).cpu(), (logits > 0).cpu(), mask.cpu()


class EpochMeans(nn.Module):
    """Accumulates means over the images of an epoch. Only `take` waits for the device; `add` does not."""

    def __init__(self) -> None:
        super().__init__()
        self.overlap = overlap.MeanOverlap()
        self._values: dict[str, list[Tensor]] = defaultdict(list)
        self._sizes: list[int] = []

    def add(self, logits: Tensor, mask: Tensor, **values: Tensor) -> None:
        """Add a batch. Args: logits, mask: (B, 1, H, W), the mask bool. values: scalar means over this batch's images."""
        self.overlap.update(logits > 0, mask)
        self._sizes.append(len(mask))
        for name, value in values.items():
            self._values[name].append(value.detach())

    def take(self) -> dict[str, float]:
        """Return the mean of each value and of Dice over the images added so far, and start again from zero."""
        weights = torch.tensor(self._sizes, dtype=torch.float64) / sum(self._sizes)
        means = {name: float(torch.stack(values).cpu().double() @ weights) for name, values in self._values.items()}
        means["dice"] = float(self.overlap.compute()["dice"])
        self.overlap.reset()
        self._values.clear()
        self._sizes.clear()
        return means
