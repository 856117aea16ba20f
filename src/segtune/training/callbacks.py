"""Lightning callbacks of a run: write history and checkpoints after each epoch, and show a progress bar."""

import math
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from tqdm import tqdm

from segtune.errors import NotFiniteError
from segtune.runs import layout
from segtune.runs.result import check_history
from segtune.runs.tables import append_history
from segtune.training.checkpoints import best_of, stopped
from segtune.training.module import Segmenter

VALIDATION = [name.removeprefix("val_") for name in layout.HISTORY_COLUMNS if name.startswith("val_")]


class Keeper(pl.Callback):
    """After each epoch, writes first the row of history.csv and then last.ckpt.

    If the epoch is the best so far, best.ckpt is written after last.ckpt.

    `checkpoints.resume` relies on this order to repair a run that was interrupted between two of these files. The
    callback also does early stopping.
    """

    def __init__(self, folder: Path, patience: int | None = None) -> None:
        self.folder, self.patience = folder, patience

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Segmenter)
        if not (validates := bool(sum(trainer.num_val_batches))):
            pl_module.end_epoch(dict.fromkeys(VALIDATION, math.nan))
        row = pl_module.row
        append_history(self.folder, row)
        if not (math.isfinite(row["train_loss"]) and (math.isfinite(row["val_loss"]) or not validates)):
            raise NotFiniteError(
                f"the loss is not finite after epoch {row['epoch']} (training {row['train_loss']}, validation "
                f"{row['val_loss']}). Choose a lower optimizer.lr (now {row['lr']:g}), a weaker reg.lambda, or "
                "trainer.precision=32-true."
            )
        history = check_history(self.folder, int(row["epoch"]))
        folder = self.folder / layout.CHECKPOINTS
        trainer.save_checkpoint(folder / layout.LAST)
        if best_of(history["val_dice"]) == row["epoch"]:
            trainer.save_checkpoint(folder / layout.BEST, weights_only=True)
        trainer.should_stop = trainer.should_stop or stopped(self.folder, self.patience)


class RunBar(pl.Callback):
    """The progress bar of a whole run, which is shown only on a terminal.

    It shows the epoch, the last validation Dice and the remaining time.
    """

    def __init__(self, *, enabled: bool) -> None:
        self.bar = tqdm(disable=True)
        self.disable = None if enabled else True  # tqdm: None shows the bar only on a terminal

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        n_batches = len(data.train_dataloader()) + len(data.val_dataloader())
        total, before = (epochs * n_batches for epochs in (trainer.max_epochs or 0, trainer.current_epoch))
        self.bar = tqdm(total=total, initial=before, unit="batch", leave=False, disable=self.disable)

    def on_train_batch_end(self, *args: Any) -> None:
        self.bar.update()

    def on_validation_batch_end(self, *args: Any) -> None:
        self.bar.update()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Segmenter)
        epoch, dice = pl_module.row["epoch"], pl_module.row["val_dice"]
        reached = "" if math.isnan(dice) else f", Dice of validation slices {dice:.3f}"
        self.bar.set_description(f"epoch {epoch}/{trainer.max_epochs}{reached}")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.bar.close()
