"""Execute all steps of one run: resume, calibrate lambda, train, score the best and the last epoch, write the result."""

import logging
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from segtune.runs import layout
from segtune.runs.result import check_history
from segtune.runs.tables import read_history
from segtune.training import lambda_search, outcome, predictions, provenance
from segtune.training.callbacks import Keeper, RunBar
from segtune.training.checkpoints import WholeFiles, attempts_of, best_of, drop_optimizer, resume, stopped
from segtune.training.experiment import Experiment

log = logging.getLogger(__name__)
warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning 2.6 uses what torch 2.13 deprecates
warnings.filterwarnings("ignore", message="The `srun` command is available")  # shown even if the run does not use Slurm


def train(experiment: Experiment, folder: Path, *, bar: bool = True) -> dict[str, Any]:
    """Train an experiment and write its results to the run's folder.

    An interrupted run continues after its last complete epoch. On a CPU, the result is bit-identical to that of an
    uninterrupted run.

    Args: bar: whether to show a progress bar.
    Returns: the content of result.json.
    Raises: InputError, NotFiniteError. The folder then has no result.json.
    """
    started = time.perf_counter() - experiment.seconds
    experiment.check_length()
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
        outcome.draw_augmented(folder, experiment, module, data.first_batch())
        predicted, processing = predictions.predict(experiment, trainer, module, data, {"best": best, "last": last})
        scored = {which: outcome.score_predictions(experiment, found) for which, found in predicted.items()}

    history = check_history(folder, drop_optimizer(last))
    best_epoch = best_of(history["val_dice"])
    result = {
        **outcome.describe_experiment(experiment),
        "best": outcome.summary(history, best_epoch, scored["best"]),
        "last": outcome.summary(history, len(history["epoch"]), scored["last"]),
        "epochs_to_90": outcome.epochs_to_90(history["val_dice"]),
        "calibration": calibration,
        **({"score": processing._asdict()} if any((experiment.config.get("score") or {}).values()) else {}),
        "weights": outcome.weight_sums(module),
        "seconds": before + time.perf_counter() - started,
        **provenance.of_this_process(),
        "attempts": attempts,
    }
    outcome.write(folder, experiment, result, history, scored, predicted["last"])
    log.info("run %s: %s; %.0f s; %s", folder.name, outcome.in_words(result), result["seconds"], folder)
    return result
