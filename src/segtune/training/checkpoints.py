"""Checkpoints of a run: write them atomically, resume from them, find the best epoch, decide on early stopping."""

import io
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from segtune.errors import InputError
from segtune.runs import archive, identity, layout
from segtune.runs.files import check_owner, make_folder, write_atomically
from segtune.runs.inputs import changed_inputs, describe_changes
from segtune.runs.result import set_aside
from segtune.runs.tables import cut_history, read_history
from segtune.training.module import RAW, Segmenter

log = logging.getLogger(__name__)
OPTIMIZER = ("optimizer_states", "lr_schedulers")
ONLY_LAST = (*OPTIMIZER, "callbacks")


def attempts_of(last: Path) -> list[dict[str, Any]]:
    """Read the records of attempts from the last checkpoint, which `resume` has already checked.

    Checkpoints of early versions contain no records.
    """
    return list(torch.load(last, weights_only=True, map_location="cpu").get("attempts", []))


def _load_checked(path: Path) -> dict[str, Any]:
    """Load a checkpoint that may come from an untrusted source.

    Links, pipes and any content that torch.save does not write are refused.

    Raises: any exception, if the file is not a checkpoint.
    """
    checkpoint: dict[str, Any] = torch.load(archive.checked(path), weights_only=True, map_location="cpu")
    return checkpoint


def resume(folder: Path, run: str, inputs: dict[str, str]) -> int:
    """Prepare a run's folder for resuming or starting.

    A checkpoint that is damaged, or that was trained with other data or code, is not deleted but moved to another
    folder. Both checkpoints are checked here, because the folder may come from an untrusted source. Code that loads
    the checkpoints later relies on this check.

    Args: run: the run's id. inputs: content hashes of the data and of the user's code.
    Returns: the number of epochs already trained.
    Raises: InputError if the checkpoint belongs to another configuration.
    """
    check_owner(folder / layout.RESULT)  # if the folder was removed during this attempt, do not create it again
    folder.mkdir(parents=True, exist_ok=True)
    last, best = (folder / layout.CHECKPOINTS / name for name in (layout.LAST, layout.BEST))
    if not last.exists():
        set_aside(folder, "interrupted")
        return 0
    try:
        checkpoint = _load_checked(last)
        epochs, other = int(checkpoint["epoch"]) + 1, identity.run_id(checkpoint["hyper_parameters"])
        legacy = {**inputs, "data": checkpoint.get("data_fingerprint")}  # checkpoints of early versions record only the data
        changed = changed_inputs(checkpoint.get("inputs", legacy), inputs)
    except Exception:  # torch.load can raise any exception for a truncated file
        return _anew(folder, run, "damaged", "its last checkpoint is damaged")
    if other != run:
        raise InputError(f"{last} belongs to run {other}, not to run {run}. Give this run another folder.")
    if changed:
        return _anew(folder, run, "other-data" if "data" in changed else "other-code", describe_changes(changed))
    if not cut_history(folder, epochs):
        return _anew(folder, run, "damaged", "its history is damaged")
    best_epoch = best_of(read_history(folder)["val_dice"])
    if best_epoch == epochs:  # the run may have been interrupted between writing last.ckpt and best.ckpt
        save(for_use(checkpoint), best)
    else:
        try:
            whole = _load_checked(best)["epoch"] + 1 == best_epoch
        except Exception:
            whole = False
        if not whole:
            return _anew(folder, run, "damaged", "its best checkpoint is damaged")
    log.info("run %s: resuming after epoch %d", run, epochs)
    return epochs


def _anew(folder: Path, run: str, name: str, why: str) -> int:
    log.warning("run %s: %s. Its files were moved to %s, and it starts again.", run, why, set_aside(folder, name))
    return 0


def best_of(val_dice: list[float]) -> int:
    """Return the first epoch (counted from 1) with the highest validation Dice; an undefined Dice counts as the lowest.

    If Dice is undefined in all epochs (there are no validation patients), return the last epoch.
    """
    if all(map(math.isnan, val_dice)):
        return len(val_dice)
    return 1 + int(np.argmax([-1.0 if math.isnan(value) else value for value in val_dice]))


def stopped(folder: Path, patience: int | None) -> bool:
    """Return whether to stop training early.

    Training stops if the validation loss in history.csv had no new minimum for `patience` epochs.
    """
    if patience is None:
        return False
    val_loss = read_history(folder)["val_loss"]
    return len(val_loss) - 1 - int(np.argmin(val_loss)) >= patience


class WholeFiles(TorchCheckpointIO):
    """Lightning's checkpoint writer, changed to write atomically and to add the entries `about` to each checkpoint."""

    def __init__(self, about: dict[str, Any] | None = None) -> None:
        self.about = about or {}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        checkpoint = checkpoint | self.about
        save(for_use(checkpoint) if Path(path).name == layout.BEST else checkpoint, Path(path))


def for_use(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint without the entries that are only needed to resume the run.

    These are the states of optimiser, scheduler and callbacks, and the weights before averaging.
    """
    kept = {key: value for key, value in checkpoint.items() if key not in ONLY_LAST}
    return kept | {"state_dict": without_raw(checkpoint)}


def without_raw(checkpoint: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in checkpoint["state_dict"].items() if not name.startswith(RAW)}


def save(checkpoint: dict[str, Any], path: Path) -> None:
    """Save a checkpoint atomically. It is built in memory, so a full disk raises OSError and leaves no damaged file."""
    check_owner(path)
    make_folder(path.parent)
    content = io.BytesIO()
    torch.save(checkpoint, content)
    write_atomically(path, content.getvalue())


def load_weights(module: Segmenter, path: Path) -> None:
    """Load the weights of a checkpoint into a module. The file must be trusted: written by this run, or checked by `resume`."""
    checkpoint = torch.load(path, weights_only=True, map_location="cpu")
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"])


def drop_optimizer(path: Path) -> int:
    """Remove the optimiser state and the weights before averaging from the checkpoint of a finished run.

    Returns: the number of epochs trained.
    """
    checkpoint = torch.load(path, weights_only=True)
    for key in OPTIMIZER:
        checkpoint.pop(key, None)
    save({**checkpoint, "state_dict": without_raw(checkpoint)}, path)
    return int(checkpoint["epoch"]) + 1
