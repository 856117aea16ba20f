"""Calibrate lambda: find the value at which lambda * penalty / loss has a chosen ratio at the first training step."""

import logging
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from segtune import nets
from segtune.data.tensors import Batch, to_tensors
from segtune.errors import InputError
from segtune.training.experiment import Experiment, Penalty
from segtune.training.module import Segmenter

log = logging.getLogger(__name__)
PENALTY_SEEDS = 100  # number of fresh networks whose penalty is measured
SEEDS, GRADIENT_SEEDS = 20, 5  # number of fresh networks whose loss, and whose gradients, are measured
LEAST_IMAGES = 15  # smallest number of images per network for measuring the loss
STEPS = 100  # number of steps of a short training, with one image per step
RATIOS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # ratios of penalty to loss in the table
TRIED = (0.01, 0.1, 1.0, 10.0)  # ratios whose lambda is used in a short training
ALONE = 1e4  # a ratio so large that only the penalty determines the weights
COLLAPSED = 0.8  # the weights collapse if they shrink faster than this fraction of the rate with ratio ALONE


@dataclass(frozen=True)
class Start:
    """Measurements at the first training step. They are means over new networks with different training images.

    Losses and penalties are means over SEEDS networks. Gradient norms are means over GRADIENT_SEEDS networks.

    Attributes:
        loss: the data loss.
        loss_sd: the standard deviation of the loss over networks. It shows how much lambda * penalty / loss can differ
            between runs.
        penalty: the penalty without lambda.
        loss_gradient, penalty_gradient: the Euclidean norms of the gradients with respect to the regularised
            parameters.
    """

    loss: float
    loss_sd: float
    penalty: float
    loss_gradient: float
    penalty_gradient: float

    def penalty_weight(self, ratio: float) -> float:
        """Return the lambda at which lambda * penalty / loss equals the ratio."""
        return ratio * self.loss / self.penalty

    def penalty_weight_by_gradient(self, ratio: float) -> float:
        """Return the lambda at which lambda * |gradient of the penalty| / |gradient of the loss| equals the ratio."""
        return ratio * self.loss_gradient / self.penalty_gradient


def penalty_weight(experiment: Experiment) -> dict[str, float] | None:
    """Calibrate lambda for reg.lambda=auto.

    Returns: lambda, the ratio and the measurements of Start; None if the configuration has no penalty or has a fixed
        lambda.
    """
    penalty = experiment.penalty
    if penalty is None or penalty.weight is not None:
        return None
    found = start(experiment)
    log.info(
        "reg.lambda=%.6g: at the first step the loss is %.4g and the penalty %.6g, so that lambda * penalty / loss = %g",
        *(found.penalty_weight(penalty.ratio), found.loss, found.penalty, penalty.ratio),
    )
    return {"lambda": found.penalty_weight(penalty.ratio), "ratio": penalty.ratio, **asdict(found)}


def start(experiment: Experiment) -> Start:
    """Measure loss, penalty and gradients at the first training step.

    The seeds and the fold are not those of the run, so all replicates of a configuration get the same lambda.

    Raises: InputError if there is no penalty with a single lambda, or if a measurement is not positive and finite.
    """
    _tunable(experiment)
    experiment = experiment.for_calibration()
    return _start(experiment, *_data(experiment))


def _tunable(experiment: Experiment) -> Penalty:
    if experiment.penalty is None or not experiment.penalty.tunable:
        raise InputError("reg: there is no lambda to calibrate. Choose a penalty with a single lambda: reg=l1 or reg=l2.")
    return experiment.penalty


def _start(experiment: Experiment, data: Batch, batches: Sequence[Any], device: torch.device) -> Start:
    values, norms = [], []
    n = -(-LEAST_IMAGES // len(batches[0]))
    for seed in range(SEEDS):
        module = _module(experiment, seed, device)
        for index in (batches[(seed * n + i) % len(batches)] for i in range(n)):
            with torch.set_grad_enabled(seed < GRADIENT_SEEDS):
                loss, penalty = _loss(module, data, index), module.penalties()[0]
            values.append(torch.stack([loss, penalty]).detach())
            if seed < GRADIENT_SEEDS:
                norms.append(torch.stack([_norm(loss, module), _norm(penalty, module)]))
    loss, penalty = torch.stack(values).double().view(SEEDS, n, 2).mean(1).T
    found = Start(loss.mean().item(), loss.std().item(), penalty.mean().item(), *torch.stack(norms).double().mean(0).tolist())
    if not all(math.isfinite(value) and value > 0 for value in asdict(found).values()):
        raise InputError(
            f"reg.lambda cannot be calibrated: at the first step the loss is {found.loss:g} and the penalty {found.penalty:g}, "
            f"their gradient norms are {found.loss_gradient:g} and {found.penalty_gradient:g}; all must be above 0. "
            "Set reg.lambda to a number."
        )
    return found


def _data(experiment: Experiment) -> tuple[Batch, Sequence[Any], torch.device]:
    """Return images and masks, the indices of each training batch in the order of epoch 0, and the device of the run."""
    device = experiment.make_trainer([]).strategy.root_device
    images, masks = to_tensors(experiment.slices, size=experiment.image_size, normalize=experiment.normalize)
    return (images.to(device), masks.to(device)), experiment.datamodule().train_batches(0), device


def _module(experiment: Experiment, seed: int, device: torch.device, weight: float = 0.0) -> Segmenter:
    """Build a newly initialised network. Args: seed: seed of the weights. weight: lambda."""
    torch.manual_seed(seed)
    return experiment.module(weight).to(device).train()


def _loss(module: Segmenter, data: Batch, index: Any) -> Tensor:
    image, mask = (part[index] for part in data)
    value: Tensor = module.loss(module(image), mask.float())
    return value


def _norm(value: Tensor, module: Segmenter) -> Tensor:
    """Compute the Euclidean norm of a value's gradient with respect to the regularised parameters."""
    gradients = torch.autograd.grad(value, module.regularized_parameters)
    norm: Tensor = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    return norm


@dataclass(frozen=True)
class Trial:
    """A short training with seed 0 and one lambda.

    penalty_weight: lambda. loss, penalty: the data loss and the penalty (without lambda) at each step.
    """

    penalty_weight: float
    loss: list[float]
    penalty: list[float]

    def record(self) -> dict[str, Any]:
        """Return the trial as it is stored in calibration.json."""
        return {"strength": self.penalty_weight, "loss": self.loss, "penalty": self.penalty}


def try_out(
    experiment: Experiment, data: Batch, order: Any, device: torch.device, weight: float
) -> Iterator[tuple[float, float]]:
    """Train a new network for STEPS steps of one image each.

    Args: data: images and masks. order: the order of the images, as indices. weight: lambda.
    Yields: the data loss and the penalty (without lambda) of each step.
    """
    module = _module(experiment, 0, device, weight)
    optimizer = module.optimizer(module.net.parameters())
    for step in range(STEPS):
        loss, (penalty, weighted) = _loss(module, data, order[step % len(order)][None]), module.penalties()
        optimizer.zero_grad()
        (loss + weighted).backward()
        optimizer.step()
        yield loss.item(), penalty.item()


def penalties(experiment: Experiment) -> list[float]:
    """Compute the penalty (without lambda) of PENALTY_SEEDS newly initialised networks."""
    cpu = torch.device("cpu")
    return [_module(experiment, seed, cpu).penalties()[0].item() for seed in range(PENALTY_SEEDS)]


def measure(experiment: Experiment) -> dict[str, Any]:
    """Make all measurements for calibration.json. Raises: InputError as `start` does."""
    penalty = _tunable(experiment)
    experiment = experiment.for_calibration()
    data, batches, device = _data(experiment)
    fresh = penalties(experiment)
    found = _start(experiment, data, batches, device)
    trials = []
    weights = (0.0, *(found.penalty_weight(tried) for tried in (*TRIED, ALONE)))
    with tqdm(total=len(weights) * STEPS, unit="step", leave=False, disable=None) as bar:
        for weight in weights:
            trial = Trial(weight, [], [])
            for step_loss, step_penalty in try_out(experiment, data, np.concatenate(batches), device, weight):
                trial.loss.append(step_loss)
                trial.penalty.append(step_penalty)
                bar.update()
            trials.append(trial)
    module = _module(experiment, 0, device)
    return {
        "ratio": penalty.ratio,
        "lambda": found.penalty_weight(penalty.ratio),
        "lambda_by_gradient": found.penalty_weight_by_gradient(penalty.ratio),
        "start": asdict(found),
        "penalty": {
            "n": len(fresh),
            "mean": statistics.fmean(fresh),
            "sd": statistics.stdev(fresh),
            "closed_form": nets.expected_sums(module.net, module.regularized_parameters).get(penalty.name),
        },
        "table": [
            {"ratio": r, "lambda": found.penalty_weight(r), "lambda_by_gradient": found.penalty_weight_by_gradient(r)}
            for r in RATIOS
        ],
        "trials": [trial.record() | {"collapsed": collapsed(trial, trials[0], trials[-1])} for trial in trials[:-1]],
        "penalty_alone": trials[-1].record(),
    }


def collapsed(trial: Trial, free: Trial, alone: Trial) -> bool:
    """Return whether the weights shrink with this lambda nearly as fast as if only the penalty were minimised.

    The rate of shrinking is log(penalty after the training / penalty after a training without regularisation).

    Args: trial: the training with the lambda in question. free: the training with lambda = 0. alone: the training with
        the lambda for which lambda * penalty / loss equals ALONE.
    """
    rate, fastest = (math.log(one.penalty[-1] / free.penalty[-1]) for one in (trial, alone))
    return rate < COLLAPSED * fastest < 0
