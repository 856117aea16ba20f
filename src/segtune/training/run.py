"""One run, from top to bottom: resume, calibrate, train, score the best and the last epoch, write the result."""

import logging
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from segtune.runs import layout
from segtune.runs.result import check_history
from segtune.runs.tables import read_history
from segtune.training import lambda_search, outcome, provenance
from segtune.training.callbacks import Keeper, RunBar
from segtune.training.checkpoints import WholeFiles, attempts_of, best_of, drop_optimizer, resume, stopped
from segtune.training.experiment import Experiment

log = logging.getLogger(__name__)
warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning 2.6 uses what torch 2.13 deprecates
warnings.filterwarnings("ignore", message="The `srun` command is available")  # Slurm is installed, but this run may not use it


def train(experiment: Experiment, folder: Path, *, bar: bool = True) -> dict[str, Any]:
    """Train an experiment and write it to its folder; returns the content of result.json.

    A run that was cut off continues after its last epoch and ends, on a CPU to the bit, as if it had not been interrupted.

    Args: bar: show a progress bar. Raises: InputError, NotFiniteError; the folder then has no result.json.
    """
    started = time.perf_counter() - experiment.seconds
    trainer_settings = experiment.trainer
    done = resume(folder, experiment.run_id, experiment.inputs)
    before = sum(read_history(folder)["seconds"]) if done else 0.0
    best, last = (folder / layout.CHECKPOINTS / name for name in (layout.BEST, layout.LAST))
    attempts = [*(attempts_of(last) if done else []), provenance.attempt(done)]

    with experiment.threads():
        calibration = lambda_search.penalty_weight(experiment)
        pl.seed_everything(experiment.seed, verbose=False)
        data = experiment.datamodule()
        module = experiment.module(calibration["lambda"] if calibration else None)
        checkpoints = WholeFiles({"inputs": experiment.inputs, "attempts": attempts})
        trainer = experiment.make_trainer([Keeper(folder, trainer_settings.patience), RunBar(enabled=bar)], checkpoints)
        if done < trainer_settings.max_epochs and not (done and stopped(folder, trainer_settings.patience)):
            trainer.fit(module, datamodule=data, ckpt_path=last if done else None)
        predicted = {
            which: outcome.Predictions.of(trainer.predict(module, datamodule=data, ckpt_path=checkpoint) or [])
            for which, checkpoint in (("best", best), ("last", last))
        }
        scored = {which: outcome.score_predictions(experiment, predictions) for which, predictions in predicted.items()}

    history = check_history(folder, drop_optimizer(last))
    best_epoch = best_of(history["val_dice"])
    result = {
        **outcome.describe_experiment(experiment),
        "best": outcome.summary(history, best_epoch, scored["best"]),
        "last": outcome.summary(history, len(history["epoch"]), scored["last"]),
        "epochs_to_90": outcome.epochs_to_90(history["val_dice"]),
        "calibration": calibration,
        "weights": outcome.weight_sums(module),
        "seconds": before + time.perf_counter() - started,
        **provenance.of_this_process(),
        "attempts": attempts,
    }
    outcome.write(folder, experiment, result, history, scored, predicted["last"])
    log.info(
        "run %s: Dice %.3f, mean over %d validation patient%s, after the last epoch (%.3f after epoch %d, the best); "
        "%.0f s; %s",
        *(folder.name, result["last"]["patient_dice"], n := len(result["data"]["patients"]["val"]), "s" * (n > 1)),
        *(result["best"]["patient_dice"], best_epoch, result["seconds"], folder),
    )
    return result
