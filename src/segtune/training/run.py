"""One run: read, split, fit, evaluate, write. Read it top to bottom as the experiment."""

import logging
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from segtune.config import entry
from segtune.data import contour_files, findings, recognition, slice_checks
from segtune.errors import printable
from segtune.metrics.score import TOLERANCE_MM, Scores
from segtune.plots import curves, style
from segtune.runs import identity, layout
from segtune.runs.files import write_atomically, write_files
from segtune.runs.inputs import content_hashes
from segtune.runs.result import check_history, write_result
from segtune.runs.tables import csv_text, read_history
from segtune.training import build, lambda_search, provenance
from segtune.training.callbacks import Keeper, RunBar
from segtune.training.checkpoints import WholeFiles, attempts_of, best_of, drop_optimizer, resume, stopped
from segtune.training.outcome import describe, epochs_to_90, pictures, score_predictions, summary, weight_sums

log = logging.getLogger(__name__)
warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning 2.6 with torch 2.13: theirs to settle, noise here
warnings.filterwarnings("ignore", message="The `srun` command is available")  # Slurm is here, and this run may not want it


def train(cfg: DictConfig, folder: Path, *, bar: bool = True) -> dict[str, Any]:
    """Train the run that cfg describes and write it to its folder; returns what result.json holds.

    A run that was cut off goes on from its last epoch and ends as if it had not been, to the bit on a CPU.

    Raises: InputError for data or settings that cannot be, NotFiniteError. Nothing then says that the run is done.
    """
    started = time.perf_counter()
    config = entry.plain(cfg)
    log.info("run %s: %s", folder.name, identity.label(config))
    slices = build.slices(cfg)
    sides = build.split(cfg, slices)
    drawn = contour_files.for_run(config["data"], slices)
    found = slice_checks.for_run(slices, sides, allow=config["data"].get("allow"), of_contours=drawn)
    for kind, (n, first) in findings.warnings(found).items():
        log.warning("run %s: %s (%d); the first: %s", folder.name, findings.KINDS[kind], n, printable(first))
    fingerprint = slices.fingerprint()
    inputs = {"data": fingerprint, **content_hashes(config)}
    codes = recognition.codes(slices)
    slices = build.fit(cfg, slices)
    found += slice_checks.of_crop(slices)  # of which build.fit has told
    done = resume(folder, identity.run_id(config), inputs)
    before = sum(read_history(folder)["seconds"]) if done else 0.0

    best, last = (folder / layout.CHECKPOINTS / name for name in (layout.BEST, layout.LAST))
    attempts = [*(attempts_of(last) if done else []), provenance.attempt(done)]
    with build.threads(cfg):
        calibration = (
            lambda_search.penalty_weight(cfg, slices, sides) if (cfg.get("reg") or {}).get("lambda") == "auto" else None
        )
        pl.seed_everything(cfg.seed, verbose=False)
        data = build.datamodule(cfg, slices, sides)
        module = build.module(cfg, config, strength=calibration["lambda"] if calibration else None)
        keeper = Keeper(folder, cfg.trainer.patience)
        trainer = build.trainer(cfg, [keeper, RunBar(enabled=bar)], WholeFiles({"inputs": inputs, "attempts": attempts}))
        if done < cfg.trainer.max_epochs and not (done and stopped(folder, cfg.trainer.patience)):
            trainer.fit(module, datamodule=data, ckpt_path=last if done else None)

        validation = [slices[int(index)] for index in sides.val]
        tolerance_mm = cfg.tolerance_mm or TOLERANCE_MM
        scored: dict[str, Scores] = {}
        for which, checkpoint in (("best", best), ("last", last)):
            batches = trainer.predict(module, datamodule=data, ckpt_path=checkpoint) or []
            soft_dice, predicted, true = (torch.cat(parts) for parts in zip(*batches, strict=True))
            scored[which] = score_predictions(validation, soft_dice, predicted, true, tolerance_mm=tolerance_mm)

    history = check_history(folder, drop_optimizer(last))
    best_epoch = best_of(history["val_dice"])
    result: dict[str, Any] = {
        "run_id": identity.run_id(config),
        "cell_id": identity.cell_id(config, fingerprint),
        "config": config,
        "inputs": inputs,
        "data": describe(slices, sides, fingerprint) | {"findings": found},
        "tolerance_mm": tolerance_mm,
        "best": summary(history, best_epoch, scored["best"]),
        "last": summary(history, len(history["epoch"]), scored["last"]),
        "epochs_to_90": epochs_to_90(history["val_dice"]),
        "calibration": calibration,
        "weights": weight_sums(module),
        "seconds": before + time.perf_counter() - started,
        "peak_memory_mb": provenance.peak_memory_mb(),
        "versions": provenance.versions(),
        "git": provenance.git(),
        "machine": provenance.machine(),
        "attempts": attempts,
    }
    if cfg.figures:
        drawing = curves.curves(history, best_epoch, title=identity.label(config))
        write_files(folder / layout.CURVES, style.rendered(drawing))
    tables = {
        name: [{"which": which, **row} for which, scores in scored.items() for row in getattr(scores, Path(name).stem)]
        for name in layout.TABLES
    }
    on_side = {int(index): side for side in ("train", "val") for index in getattr(sides, side)}
    images = [
        {"patient": item.patient, "side": on_side.get(index, "unused"), "code": code}
        for index, (item, code) in enumerate(zip(slices, codes, strict=True))
    ]
    write_atomically(folder / layout.IMAGES, csv_text(layout.IMAGE_COLUMNS, images).encode())
    write_result(folder, result=result, tables=tables, pictures=pictures(validation, scored["last"].slices, predicted, true))
    log.info(
        "run %s: Dice %.3f, mean over %d validation patient%s, after the last epoch (%.3f after epoch %d, the best); %.0f s; "
        "%s",
        *(folder.name, result["last"]["patient_dice"], n_val := len(result["data"]["patients"]["val"]), "s" * (n_val > 1)),
        *(result["best"]["patient_dice"], best_epoch, result["seconds"], folder),
    )
    return result
