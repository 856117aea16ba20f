"""One run: read, split, fit, evaluate, write. Read it top to bottom as the experiment."""

import functools
import io
import logging
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor
from tqdm import tqdm

import segtune
from segtune import app, build, calibrate, metrics, nets, regularizers, results, sources
from segtune.data import findings, outlines, recognition, splits
from segtune.data.slices import Slice, SliceSet
from segtune.data.splits import Split
from segtune.errors import InputError, NotFiniteError, printable
from segtune.module import Segmenter
from segtune.report import figures

log = logging.getLogger(__name__)
warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning 2.6 with torch 2.13: theirs to settle, noise here
warnings.filterwarnings("ignore", message="The `srun` command is available")  # Slurm is here, and this run may not want it
LIBRARIES = ("torch", "pytorch-lightning", "torchmetrics", "hydra-core", "pydicom", "nibabel", "numpy")
OPTIMIZER = ("optimizer_states", "lr_schedulers")
ONLY_LAST = (*OPTIMIZER, "callbacks")


def train(cfg: DictConfig, folder: Path, *, bar: bool = True) -> dict[str, Any]:
    """Train the run that cfg describes and write it to its folder; returns what result.json holds.

    A run that was cut off goes on from its last epoch and ends as if it had not been, to the bit on a CPU.

    Raises: InputError for data or settings that cannot be, NotFiniteError. Nothing then says that the run is done.
    """
    started = time.perf_counter()
    config = app.plain(cfg)
    log.info("run %s: %s", folder.name, results.label(config))
    slices = build.slices(cfg)
    sides = build.split(cfg, slices)
    drawn = outlines.for_run(config["data"], slices)
    found = findings.for_run(slices, sides, allow=config["data"].get("allow"), of_contours=drawn)
    for kind, (n, first) in findings.warnings(found).items():
        log.warning("run %s: %s (%d); the first: %s", folder.name, findings.KINDS[kind], n, printable(first))
    fingerprint = slices.fingerprint()
    inputs = {"data": fingerprint, **sources.of(config)}
    codes = recognition.codes(slices)
    slices = build.fit(cfg, slices)
    found += findings.of_crop(slices)  # of which build.fit has told
    done = resume(folder, results.run_id(config), inputs)
    before = sum(results.read_history(folder)["seconds"]) if done else 0.0

    best, last = (folder / results.CHECKPOINTS / name for name in (results.BEST, results.LAST))
    attempts = [*(attempts_of(last) if done else []), attempt(done)]
    with build.threads(cfg):
        calibration = calibrate.strength(cfg, slices, sides) if (cfg.get("reg") or {}).get("lambda") == "auto" else None
        pl.seed_everything(cfg.seed, verbose=False)
        data = build.datamodule(cfg, slices, sides)
        module = build.module(cfg, config, strength=calibration["lambda"] if calibration else None)
        keeper = Keeper(folder, cfg.trainer.patience)
        trainer = build.trainer(cfg, [keeper, RunBar(enabled=bar)], WholeFiles({"inputs": inputs, "attempts": attempts}))
        if done < cfg.trainer.max_epochs and not (done and stopped(folder, cfg.trainer.patience)):
            trainer.fit(module, datamodule=data, ckpt_path=last if done else None)

        validation = [slices[int(index)] for index in sides.val]
        tolerance_mm = cfg.tolerance_mm or metrics.TOLERANCE_MM
        scored: dict[str, metrics.Scores] = {}
        for which, checkpoint in (("best", best), ("last", last)):
            batches = trainer.predict(module, datamodule=data, ckpt_path=checkpoint) or []
            soft_dice, predicted, true = (torch.cat(parts) for parts in zip(*batches, strict=True))
            scored[which] = score(validation, soft_dice, predicted, true, tolerance_mm=tolerance_mm)

    history = results.check_history(folder, drop_optimizer(last))
    best_epoch = best_of(history["val_dice"])
    result: dict[str, Any] = {
        "run_id": results.run_id(config),
        "cell_id": results.cell_id(config, fingerprint),
        "config": config,
        "inputs": inputs,
        "data": describe(slices, sides, fingerprint) | {"findings": found},
        "tolerance_mm": tolerance_mm,
        "best": summary(history, best_epoch, scored["best"]),
        "last": summary(history, len(history["epoch"]), scored["last"]),
        "epochs_to_90": epochs_to_90(history["val_dice"]),
        "calibration": calibration,
        "weights": weights(module),
        "seconds": before + time.perf_counter() - started,
        "peak_memory_mb": peak_memory_mb(),
        "versions": versions(),
        "git": git(),
        "machine": machine(),
        "attempts": attempts,
    }
    if cfg.figures:
        drawing = figures.curves(history, best_epoch, title=results.label(config))
        results.write_files(folder / results.CURVES, figures.rendered(drawing))
    tables = {
        name: [{"which": which, **row} for which, scores in scored.items() for row in getattr(scores, Path(name).stem)]
        for name in results.TABLES
    }
    on_side = {int(index): side for side in ("train", "val") for index in getattr(sides, side)}
    images = [
        {"patient": item.patient, "side": on_side.get(index, "unused"), "code": code}
        for index, (item, code) in enumerate(zip(slices, codes, strict=True))
    ]
    results.write_atomically(folder / results.IMAGES, results.csv_text(results.IMAGE_COLUMNS, images).encode())
    results.write(folder, result=result, tables=tables, pictures=pictures(validation, scored["last"].slices, predicted, true))
    log.info(
        "run %s: Dice %.3f, mean over %d validation patient%s, after the last epoch (%.3f after epoch %d, the best); %.0f s; "
        "%s",
        *(folder.name, result["last"]["patient_dice"], n_val := len(result["data"]["patients"]["val"]), "s" * (n_val > 1)),
        *(result["best"]["patient_dice"], best_epoch, result["seconds"], folder),
    )
    return result


def attempt(done: int) -> dict[str, Any]:
    """What one attempt at a run is made with. first_epoch: the first that it trains."""
    return {"first_epoch": done + 1, "versions": versions(), "git": git(), "machine": machine()}


def attempts_of(last: Path) -> list[dict[str, Any]]:
    """The attempts so far, by the last checkpoint; those of before have recorded none."""
    return list(torch.load(last, weights_only=True, map_location="cpu").get("attempts", []))


def resume(folder: Path, run: str, inputs: dict[str, str]) -> int:
    """How many epochs this run has behind it; makes its folder ready to go on after them, or to start from nothing.

    What cannot be gone on with (a damaged checkpoint, other data or code) is moved aside, not deleted.

    Raises: InputError if the checkpoint is of another configuration.
    """
    results.check_attempt(folder / results.RESULT)  # a folder that was removed since this attempt began stays so
    folder.mkdir(parents=True, exist_ok=True)
    last, best = (folder / results.CHECKPOINTS / name for name in (results.LAST, results.BEST))
    if not last.exists():
        results.set_aside(folder, "interrupted")
        return 0
    try:
        checkpoint = torch.load(last, weights_only=True, map_location="cpu")
        epochs, other = int(checkpoint["epoch"]) + 1, results.run_id(checkpoint["hyper_parameters"])
        legacy = {**inputs, "data": checkpoint.get("data_fingerprint")}  # of checkpoints that knew of nothing else
        changed = sources.changed(checkpoint.get("inputs", legacy), inputs)
    except Exception:  # whatever half a file makes of torch.load
        return _anew(folder, run, "damaged", "its last checkpoint is damaged")
    if other != run:
        raise InputError(f"{last} is of run {other}, not of {run}: give this run a folder of its own.")
    if changed:
        return _anew(folder, run, "other-data" if "data" in changed else "other-code", sources.told(changed))
    if not results.cut_history(folder, epochs):
        return _anew(folder, run, "damaged", "its history is damaged")
    best_epoch = best_of(results.read_history(folder)["val_dice"])
    if best_epoch == epochs:  # it may have been cut off between the last and the best checkpoint
        save({key: checkpoint[key] for key in checkpoint if key not in ONLY_LAST}, best)
    else:
        try:
            whole = torch.load(best, weights_only=True, map_location="cpu")["epoch"] + 1 == best_epoch
        except Exception:
            whole = False
        if not whole:
            return _anew(folder, run, "damaged", "its best checkpoint is damaged")
    log.info("run %s: goes on after epoch %d", run, epochs)
    return epochs


def _anew(folder: Path, run: str, name: str, why: str) -> int:
    log.warning("run %s: %s; what it left is in %s, and it starts anew", run, why, results.set_aside(folder, name))
    return 0


def best_of(val_dice: list[float]) -> int:
    """The epoch (from 1) of the highest validation Dice, the first of several; undefined is below all."""
    return 1 + int(np.argmax([-1.0 if math.isnan(value) else value for value in val_dice]))


def stopped(folder: Path, patience: int | None) -> bool:
    """Whether the validation loss has not fallen below its lowest for this many epochs. The history alone decides."""
    if patience is None:
        return False
    val_loss = results.read_history(folder)["val_loss"]
    return len(val_loss) - 1 - int(np.argmin(val_loss)) >= patience


class Keeper(pl.Callback):
    """At each epoch's end: its row of history.csv, then last.ckpt (all that going on needs), then, if it is, best.ckpt.

    In this order, so that a run that is cut off in between can be put right from what is there (resume). Then it stops
    the run, if patience has run out.
    """

    def __init__(self, folder: Path, patience: int | None = None) -> None:
        self.folder, self.patience = folder, patience

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Segmenter)
        row = pl_module.row
        results.append_history(self.folder, row)
        if not (math.isfinite(row["train_loss"]) and math.isfinite(row["val_loss"])):
            raise NotFiniteError(
                f"the loss is not finite after epoch {row['epoch']} (training {row['train_loss']}, validation "
                f"{row['val_loss']}). Choose a lower optimizer.lr (now {row['lr']:g}), a weaker reg.lambda, or "
                "trainer.precision=32-true."
            )
        history = results.check_history(self.folder, int(row["epoch"]))
        folder = self.folder / results.CHECKPOINTS
        trainer.save_checkpoint(folder / results.LAST)
        if best_of(history["val_dice"]) == row["epoch"]:
            trainer.save_checkpoint(folder / results.BEST, weights_only=True)
        trainer.should_stop = trainer.should_stop or stopped(self.folder, self.patience)


class WholeFiles(TorchCheckpointIO):
    """Lightning's checkpoints with what else is known of a run (about), of which no half one can be left behind."""

    def __init__(self, about: dict[str, Any] | None = None) -> None:
        self.about = about or {}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        save(checkpoint | self.about, Path(path))


def save(checkpoint: dict[str, Any], path: Path) -> None:
    """torch.save through memory, so that a full disk is an OSError and not a damaged archive."""
    results.check_attempt(path)
    path.parent.mkdir(exist_ok=True)  # without its parents: a run's folder that was removed stays so
    content = io.BytesIO()
    torch.save(checkpoint, content)
    results.write_atomically(path, content.getvalue())


class RunBar(pl.Callback):
    """One line for the whole run: the epoch, the last validation Dice, the time left. Silent without a terminal."""

    def __init__(self, *, enabled: bool) -> None:
        self.bar = tqdm(disable=True)
        self.disable = None if enabled else True  # None: if this is no terminal

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
        self.bar.set_description(f"epoch {epoch}/{trainer.max_epochs}, Dice of validation slices {dice:.3f}")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.bar.close()


def score(slices: list[Slice], soft_dice: Tensor, predicted: Tensor, true: Tensor, *, tolerance_mm: float) -> metrics.Scores:
    """One set of predictions, on the network's grid: soft_dice (N,), predicted and true (N, 1, S, S) bool."""
    masks = zip(slices, predicted[:, 0].numpy(), true[:, 0].numpy(), strict=True)
    scores = metrics.score([metrics.Pair.of(item, pred, mask) for item, pred, mask in masks], tolerance_mm=tolerance_mm)
    about = zip(slices, soft_dice.tolist(), scores.slices, strict=True)
    return scores._replace(slices=[{**row, "frame": item.frame, "soft_dice": value} for item, value, row in about])


def summary(history: dict[str, list[float]], epoch: int, scores: metrics.Scores) -> dict[str, Any]:
    """One epoch's history, its weighted penalties, how many of its validation slices have no defined Dice, and all metrics."""
    at_epoch = {name: values[epoch - 1] for name, values in history.items()}
    return {
        **at_epoch,
        "epoch": epoch,
        "train_weighted_penalty": at_epoch["train_loss"] - at_epoch["train_data_loss"],
        "val_weighted_penalty": at_epoch["val_loss"] - at_epoch["val_data_loss"],
        "n_undefined": sum(math.isnan(row["dice"]) for row in scores.slices),
        "patient_dice": patient_dice(scores.slices),
        "metrics": metrics.overview(scores),
    }


def patient_dice(rows: Iterable[metrics.Row]) -> float:
    """The mean over patients of each one's mean Dice over its slices, as the report has it; NaN if none is defined."""
    of: dict[str, list[float]] = {}
    for row in rows:
        if not math.isnan(row["dice"]):
            of.setdefault(row["patient"], []).append(row["dice"])
    return statistics.fmean(statistics.fmean(of[patient]) for patient in sorted(of)) if of else math.nan


def epochs_to_90(val_dice: list[float]) -> int | None:
    """The first epoch (from 1) whose validation Dice reaches 90 % of the run's best; None if the best is 0 or undefined."""
    best = np.nanmax([0.0, *val_dice])
    return next((epoch for epoch, value in enumerate(val_dice, start=1) if value >= 0.9 * best), None) if best else None


def describe(slices: SliceSet, sides: Split, fingerprint: str) -> dict[str, Any]:
    """Which data, who is on which side, how many patients lie on both; smallest and largest pixel of the training side [mm]."""
    names = np.asarray(slices.patients)
    leaks = splits.leaks(slices.patients, sides)
    on = {"train": set(names[sides.train].tolist()), "val": set(names[sides.val].tolist())}
    pixel_mm = [mm for index in sides.train for mm in slices[int(index)].spacing_mm]
    return {
        "fingerprint": fingerprint,
        "pixel_mm": [min(pixel_mm), max(pixel_mm)],
        "patients": {
            "train": sorted(on["train"]),
            "val": sorted(on["val"]),
            "unused": sorted(set(names.tolist()) - on["train"] - on["val"]),
        },
        "n_images": {"train": len(sides.train), "val": len(sides.val)},
        "leaks": leaks,
        "n_leaks": len(leaks),
    }


def pictures(slices: list[Slice], rows: list[metrics.Row], predicted: Tensor, true: Tensor) -> dict[str, NDArray[Any]]:
    """All slices of the best, the median and the worst validation patient, by mean Dice of the last epoch.

    Per patient: image (n, S, S) uint8, true and pred (n, S, S) bool, frame (n,), and the patient's label.
    """
    dice: dict[str, list[float]] = {}
    for row in rows:
        if not math.isnan(row["dice"]):
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


def weights(module: Segmenter) -> dict[str, float]:
    """How large the kernels are after the last epoch, with a penalty or without: n, sum |w|, and sum w^2."""
    values = regularizers.vector(nets.PENALISED["kernels"](module.net)).detach().double()
    return {"n": len(values), "l1": values.abs().sum().item(), "l2": values.square().sum().item()}


def drop_optimizer(path: Path) -> int:
    """Drop the optimiser's state, for finished runs are never resumed; returns the number of epochs that were trained."""
    checkpoint = torch.load(path, weights_only=True)
    for key in OPTIMIZER:
        checkpoint.pop(key, None)
    save(checkpoint, path)
    return int(checkpoint["epoch"]) + 1


@functools.cache
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


@functools.cache
def machine() -> dict[str, Any]:
    """What the run was computed on: processor, cores, GPU, system. Not its name."""
    model = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"processor": model, "cores": os.cpu_count(), "gpu": gpu, "system": platform.platform()}


@functools.cache
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
