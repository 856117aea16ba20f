"""One run: read, split, fit, evaluate, write. Read it top to bottom as the experiment."""

import logging
import math
import platform
import resource
import subprocess
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from tqdm import tqdm

import segtune
from segtune import app, build, metrics, results
from segtune.data import splits
from segtune.data.slices import Slice, SliceSet
from segtune.data.splits import Split
from segtune.module import Segmenter
from segtune.report import figures

log = logging.getLogger(__name__)
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning 2.6 with torch 2.13: theirs to settle, noise here
LIBRARIES = ("torch", "pytorch-lightning", "torchmetrics", "hydra-core", "pydicom", "numpy")
Rows = list[dict[str, Any]]


def train(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """Train the run that cfg describes and write it to its folder; returns what result.json holds.

    Raises: InputError for data or settings that cannot be. Nothing then says that the run is done.
    """
    started = time.perf_counter()
    config = app.plain(cfg)
    log.info("run %s: %s", folder.name, results.label(config))
    slices = build.slices(cfg)
    sides = build.split(cfg, slices)
    results.begin(folder)

    pl.seed_everything(cfg.seed, verbose=False)
    threads = build.use_threads(cfg)
    try:
        data = build.datamodule(cfg, slices, sides)
        module = build.module(cfg, config)
        best, last = checkpoints(folder)
        trainer = build.trainer(cfg, [HistoryFile(folder), RunBar(), best, last])
        try:
            trainer.fit(module, datamodule=data)
        except SystemExit as error:  # Lightning makes a silent exit of Ctrl-C; a sweep must end, and say why
            raise KeyboardInterrupt from error

        validation = [slices[int(index)] for index in sides.val]
        rows: Rows = []
        for which, checkpoint in (("best", best), ("last", last)):
            batches = trainer.predict(module, datamodule=data, ckpt_path=checkpoint.best_model_path) or []
            soft_dice, predicted, true = (torch.cat(parts) for parts in zip(*batches, strict=True))
            rows += score(which, validation, soft_dice, predicted, true)
    finally:
        torch.set_num_threads(threads)

    history = results.read_history(folder)
    best_epoch = torch.load(best.best_model_path, weights_only=True)["epoch"] + 1
    drop_optimizer(Path(last.best_model_path))
    result: dict[str, Any] = {
        "run_id": results.run_id(config),
        "cell_id": results.cell_id(config),
        "config": config,
        "data": describe(slices, sides),
        "best": summary(history, best_epoch, rows, "best"),
        "last": summary(history, len(history["epoch"]), rows, "last"),
        "epochs_to_90": epochs_to_90(history["val_dice"]),
        "seconds": time.perf_counter() - started,
        "peak_memory_mb": peak_memory_mb(),
        "versions": versions(),
        "git": git(),
    }
    if cfg.figures:
        figures.save(figures.curves(history, best_epoch, title=results.label(config)), folder / results.CURVES)
    results.write(folder, result=result, slices=rows, pictures=pictures(validation, rows, predicted, true))
    log.info(
        "run %s: validation Dice %.3f (last), %.3f (best, epoch %d); %.0f s; %s",
        *(folder.name, result["last"]["val_dice"], result["best"]["val_dice"], best_epoch, result["seconds"], folder),
    )
    return result


class HistoryFile(pl.Callback):
    """Appends each epoch's row to history.csv as the epoch ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Segmenter)
        results.append_history(self.folder, pl_module.row)


def checkpoints(folder: Path) -> tuple[ModelCheckpoint, ModelCheckpoint]:
    """best.ckpt: the weights at the best validation Dice. last.ckpt: all that training needs to go on."""
    where = folder / results.CHECKPOINTS
    best = ModelCheckpoint(where, "best", monitor="val_dice", mode="max", save_weights_only=True, save_on_train_epoch_end=True)
    return best, ModelCheckpoint(where, "last", save_on_train_epoch_end=True)


class RunBar(pl.Callback):
    """One line for the whole run: the epoch, the last validation Dice, the time left. Silent without a terminal."""

    def __init__(self) -> None:
        self.bar = tqdm(disable=True)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        n_batches = len(data.train_dataloader()) + len(data.val_dataloader())
        self.bar = tqdm(total=(trainer.max_epochs or 0) * n_batches, unit="batch", leave=False, disable=None)

    def on_train_batch_end(self, *args: Any) -> None:
        self.bar.update()

    def on_validation_batch_end(self, *args: Any) -> None:
        self.bar.update()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Segmenter)
        epoch, dice = pl_module.row["epoch"], pl_module.row["val_dice"]
        self.bar.set_description(f"epoch {epoch}/{trainer.max_epochs}, validation Dice {dice:.3f}")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.bar.close()


def score(which: str, slices: list[Slice], soft_dice: Tensor, predicted: Tensor, true: Tensor) -> Rows:
    """The rows of slices.csv for one set of predictions: soft_dice (N,), predicted and true (N, 1, S, S) bool."""
    c = metrics.counts(predicted, true)
    columns = {"soft_dice": soft_dice, "dice": metrics.dice(c), "iou": metrics.iou(c), **c._asdict()}
    numbers = zip(*(values.tolist() for values in columns.values()), strict=True)
    about = ("patient", "phase", "slice_index", "frame")
    return [
        {"which": which, **{name: getattr(item, name) for name in about}, **dict(zip(columns, values, strict=True))}
        for item, values in zip(slices, numbers, strict=True)
    ]


def summary(history: dict[str, list[float]], epoch: int, rows: Rows, which: str) -> dict[str, Any]:
    """One epoch's history, its weighted penalties, and how many of its validation slices have no defined Dice."""
    at_epoch = {name: values[epoch - 1] for name, values in history.items()}
    return {
        **at_epoch,
        "epoch": epoch,
        "n_undefined": sum(math.isnan(row["dice"]) for row in rows if row["which"] == which),
    }


def epochs_to_90(val_dice: list[float]) -> int | None:
    """The first epoch (from 1) whose validation Dice reaches 90 % of the run's best; None if the best is 0 or undefined."""
    best = np.nanmax([0.0, *val_dice])
    return next((epoch for epoch, value in enumerate(val_dice, start=1) if value >= 0.9 * best), None) if best else None


def describe(slices: SliceSet, sides: Split) -> dict[str, Any]:
    """Which data, who is on which side, and how many patients lie on both."""
    names = np.asarray(slices.patients)
    leaks = splits.leaks(slices.patients, sides)
    return {
        "fingerprint": slices.fingerprint(),
        "patients": {"train": sorted(set(names[sides.train].tolist())), "val": sorted(set(names[sides.val].tolist()))},
        "n_images": {"train": len(sides.train), "val": len(sides.val)},
        "leaks": leaks,
        "n_leaks": len(leaks),
    }


def pictures(slices: list[Slice], rows: Rows, predicted: Tensor, true: Tensor) -> dict[str, NDArray[Any]]:
    """All slices of the best, the median and the worst validation patient, by mean Dice of the last epoch.

    Per patient: image (n, S, S) uint8, true and pred (n, S, S) bool, frame (n,), and the patient's label.
    """
    dice: dict[str, list[float]] = {}
    for row in rows:
        if row["which"] == "last" and not math.isnan(row["dice"]):
            dice.setdefault(row["patient"], []).append(row["dice"])
    ranked = sorted(dice or {item.patient: [0.0] for item in slices}, key=lambda name: (-np.mean(dice.get(name, 0)), name))
    chosen = {"best": ranked[0], "median": ranked[(len(ranked) - 1) // 2], "worst": ranked[-1]}
    found: dict[str, NDArray[Any]] = {}
    for name, patient in chosen.items():
        where = [index for index, item in enumerate(slices) if item.patient == patient]
        found[f"{name}_patient"] = np.array(patient)
        found[f"{name}_frame"] = np.array([slices[index].frame for index in where])
        found[f"{name}_image"] = np.stack([grey(slices[index].image, predicted.shape[-1]) for index in where])
        found[f"{name}_true"] = true[where, 0].numpy()
        found[f"{name}_pred"] = predicted[where, 0].numpy()
    return found


def grey(image: NDArray[np.float32], size: int) -> NDArray[np.uint8]:
    """The image with its 1st to 99th percentile on 0 ... 255, padded at bottom and right to size x size."""
    low, high = np.percentile(image, [1, 99])
    scaled = np.rint(255 * np.clip((image - low) / max(high - low, 1e-6), 0, 1)).astype(np.uint8)
    return np.pad(scaled, [(0, size - side) for side in image.shape])


def drop_optimizer(path: Path) -> None:
    """A finished run goes on no more: its last checkpoint keeps the weights and loses the optimiser's state."""
    checkpoint = torch.load(path, weights_only=True)
    for key in ("optimizer_states", "lr_schedulers"):
        checkpoint.pop(key, None)
    with results.replacing(path) as temporary:
        torch.save(checkpoint, temporary)


def versions() -> dict[str, str]:
    return {
        "segtune": segtune.__version__,
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }


def peak_memory_mb() -> dict[str, float]:
    """Peak memory [MB] of this process since its start (in a sweep: of all runs so far), and of the GPU in use."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6}
    if torch.cuda.is_available():
        peak["gpu"] = torch.cuda.max_memory_allocated() / 1e6
    return peak


def git() -> dict[str, Any] | None:
    """Commit of the checkout that this code runs from, and whether it has uncommitted changes; None outside a checkout."""
    top = Path(__file__).resolve().parents[2]
    if not (top / ".git").exists():
        return None

    def ask(*words: str) -> str:
        return subprocess.run(["git", "-C", str(top), *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
