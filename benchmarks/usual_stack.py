"""The same run as a careful user of lightning-hydra-template and MONAI would write it: the other side of speed.py.

    python benchmarks/usual_stack.py --data data.npz --folder out --epochs 2

Lightning, MONAI's CacheDataset, transforms, losses and Dice, torchmetrics' means, CSVLogger, ModelCheckpoint (best and
last), a prediction of the validation images by both checkpoints, Dice per slice as CSV. Uses nothing of segtune.

setting                 value       why
network                 NCHW        PyTorch's default; the study's network with PyTorch's usual ConvTranspose2d(padding=1,
                                    output_padding=1), which is faster than Keras's crop
CacheDataset            all, copy_cache=False  every transform is deterministic; without copies is faster
SpatialPadd             method=end  the same zeros at bottom and right as segtune's
EnsureTyped             track_meta=False  no transform or metric reads where a tensor came from
DataLoader              0 workers   the cache is in memory: --workers 2 (persistent) is slower on two cores, 29.9 s per epoch
                                    against 28.4 s (benchmarks/speed.json)
zero_grad, Adam         defaults    PyTorch's, eps=1e-8
BatchNorm2d             eps=1e-3    Keras's, as in the study's network
metrics                 on device   reduced once per epoch, no .item() in a step
num_sanity_val_steps    0           segtune makes none either
log_every_n_steps       1000        no log within an epoch: segtune writes one row per epoch
progress bar, summary   off         so that neither side pays for printing
"""

# ruff: noqa: E402  (the memory setting comes before torch)
import argparse
import csv
import json
import time
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")


def keep_freed_memory() -> None:
    """glibc told to keep what is freed, as segtune does by itself."""
    import ctypes

    libc = ctypes.CDLL(None)
    libc.mallopt(-4, 0)  # M_MMAP_MAX
    libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD


parser = argparse.ArgumentParser()
parser.add_argument("--data", required=True)
parser.add_argument("--folder", required=True)
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--batch", type=int, default=15)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--workers", type=int, default=0)
parser.add_argument("--memory", action="store_true", help="with segtune's setting of glibc")
parser.add_argument("--channels-last", action="store_true")
options = parser.parse_args()
if options.memory:
    keep_freed_memory()

import numpy as np
import pytorch_lightning as pl
import torch
from monai.data import CacheDataset
from monai.losses import DiceLoss, FocalLoss
from monai.metrics import DiceMetric
from monai.transforms import Compose, EnsureChannelFirstd, EnsureTyped, NormalizeIntensityd, SpatialPadd
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric


def block(i: int, o: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o, eps=1e-3), nn.ReLU(inplace=True))


class UNet(nn.Module):
    def __init__(self, width: int = 16, dropout: float = 0.05) -> None:
        super().__init__()
        c = [width * 2**level for level in range(5)]
        self.down = nn.ModuleList(block(i, o) for i, o in zip([1, *c], c, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * o, o, 3, stride=2, padding=1, output_padding=1) for o in c[-2::-1])
        self.merge = nn.ModuleList(block(2 * o, o) for o in c[-2::-1])
        self.head, self.pool, self.dropout = nn.Conv2d(width, 1, 1), nn.MaxPool2d(2), nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        x = self.down[0](x)
        for level in self.down[1:]:
            skips.append(x)
            x = level(self.dropout(self.pool(x)))
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(self.dropout(torch.cat([up(x), skips.pop()], dim=1)))
        return self.head(x)


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        net = UNet()
        self.net = net.to(memory_format=torch.channels_last) if options.channels_last else net
        self.bce, self.dice_loss = nn.BCEWithLogitsLoss(), DiceLoss(sigmoid=True, smooth_nr=1e-5, smooth_dr=1e-5)
        self.focal = FocalLoss(gamma=2.0)
        names = ["train_loss", "train_soft_dice", "val_loss", "val_bce", "val_focal", "val_soft_dice"]
        self.means = nn.ModuleDict({name: MeanMetric() for name in names})
        self.dice = {"train": DiceMetric(reduction="mean"), "val": DiceMetric(reduction="mean")}

    def training_step(self, batch: dict, index: int) -> torch.Tensor:
        logits, mask = self.net(batch["image"]), batch["mask"]
        dice_loss = self.dice_loss(logits, mask)
        loss = self.bce(logits, mask) + dice_loss
        self.means["train_loss"].update(loss.detach(), len(mask))
        self.means["train_soft_dice"].update(1 - dice_loss.detach(), len(mask))
        self.dice["train"](logits.detach() > 0, mask)
        return loss

    def validation_step(self, batch: dict, index: int) -> None:
        logits, mask = self.net(batch["image"]), batch["mask"]
        bce, dice_loss = self.bce(logits, mask), self.dice_loss(logits, mask)
        values = {"loss": bce + dice_loss, "bce": bce, "focal": self.focal(logits, mask), "soft_dice": 1 - dice_loss}
        for name, value in values.items():
            self.means[f"val_{name}"].update(value, len(mask))
        self.dice["val"](logits > 0, mask)

    def on_validation_epoch_end(self) -> None:
        for side, metric in self.dice.items():
            self.log(f"{side}_dice", metric.aggregate().item())
            metric.reset()
        for name, metric in self.means.items():
            self.log(name, metric.compute())
            metric.reset()

    def predict_step(self, batch: dict, index: int) -> torch.Tensor:
        return (self.net(batch["image"]) > 0).cpu()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class Clock(Callback):
    """Seconds of each epoch, training and validation, as segtune's history has them."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, *_: object) -> None:
        self.started = time.perf_counter()

    def on_validation_end(self, *_: object) -> None:
        self.seconds.append(time.perf_counter() - self.started)


def main() -> None:
    pl.seed_everything(options.seed, workers=True)
    folder = Path(options.folder)
    with np.load(options.data) as data:
        size, sides = int(data["size"]), {"train": data["train"], "val": data["val"]}
        items = [{"image": data[f"image{i}"], "mask": data[f"mask{i}"]} for i in range(len(data["patients"]))]
    keys = ["image", "mask"]
    transforms = Compose(
        [
            EnsureChannelFirstd(keys, channel_dim="no_channel"),
            NormalizeIntensityd("image"),
            SpatialPadd(keys, (size, size), method="end"),
            EnsureTyped(keys, dtype=torch.float32, track_meta=False),
        ]
    )
    loaders = {
        side: DataLoader(
            CacheDataset([items[i] for i in index], transforms, progress=False, copy_cache=False),
            options.batch,
            shuffle=side == "train",
            num_workers=options.workers,
            persistent_workers=options.workers > 0,
        )
        for side, index in sides.items()
    }
    clock = Clock()
    keeper = ModelCheckpoint(folder / "checkpoints", monitor="val_dice", mode="max", save_last=True)
    trainer = pl.Trainer(
        max_epochs=options.epochs,
        accelerator="cpu",
        callbacks=[clock, keeper],
        logger=CSVLogger(folder),
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1000,
    )
    module = Module()
    trainer.fit(module, loaders["train"], loaders["val"])
    with (folder / "slices.csv").open("w", newline="") as file:
        table = csv.writer(file)
        for which, path in (("best", keeper.best_model_path), ("last", keeper.last_model_path)):
            predicted = torch.cat(trainer.predict(module, loaders["val"], ckpt_path=path))
            true = torch.cat([batch["mask"] for batch in loaders["val"]])
            for i, dice in zip(sides["val"], DiceMetric()(predicted, true)[:, 0].tolist(), strict=True):
                table.writerow([which, i, dice])
    (folder / "seconds.json").write_text(json.dumps(clock.seconds))


if __name__ == "__main__":
    main()
