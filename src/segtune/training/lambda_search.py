"""Calibrate lambda: the weight at which penalty and loss are of one size, by measurement."""

import logging
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from segtune.config import entry
from segtune.errors import InputError
from segtune.runs import identity

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from segtune.data.slices import SliceSet
    from segtune.data.splits import Split
    from segtune.data.tensors import Batch
    from segtune.training.module import Segmenter

log = logging.getLogger(__name__)
PENALTY_SEEDS = 100  # fresh networks whose penalty is measured
SEEDS, GRADIENT_SEEDS = 20, 5  # of them, those whose loss, and whose gradients are measured too
LEAST_IMAGES = 15  # that a measurement of the loss sees per seed
STEPS = 100  # of a short training, of one image each
RATIOS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # of the table
TRIED = (0.01, 0.1, 1.0, 10.0)  # those whose lambda is tried in a short training
ALONE = 1e4  # the ratio at which the loss has no say
COLLAPSED = 0.8  # weights collapse that shrink at more than this share of the rate at which they do under the penalty alone
FILE = "calibration.json"


@dataclass(frozen=True)
class Start:
    """What the first step of a run sees: means over SEEDS fresh networks, each on training images of its own.

    loss: the data loss; loss_sd: its standard deviation over the networks, which a single run's ratio shares. penalty:
    without lambda. loss_gradient, penalty_gradient: Euclidean norms, with respect to the penalised parameters.
    """

    loss: float
    loss_sd: float
    penalty: float
    loss_gradient: float
    penalty_gradient: float

    def strength(self, ratio: float) -> float:
        """The lambda at which lambda * penalty / loss is this ratio."""
        return ratio * self.loss / self.penalty

    def strength_by_gradient(self, ratio: float) -> float:
        """The lambda at which lambda * |gradient of the penalty| / |gradient of the loss| is this ratio."""
        return ratio * self.loss_gradient / self.penalty_gradient


def start(cfg: DictConfig, slices: "SliceSet", sides: "Split") -> Start:
    """Measure the first step of the run that cfg describes, but for its seed and fold: replicates of a cell get one lambda.

    Raises: InputError if there is no penalty with a single lambda, or loss or penalty are not positive and finite.
    """
    return _start(cfg, *_data(cfg, slices, sides))


def penalty_weight(cfg: DictConfig, slices: "SliceSet", sides: "Split") -> dict[str, float]:
    """For reg.lambda=auto: the lambda at which weighted penalty / loss is reg.ratio at the first step, and why."""
    ratio = float(cfg.reg.get("ratio") or 1.0)
    found = start(cfg, slices, sides)
    log.info(
        "reg.lambda=%.6g: at the first step the loss is %.4g and the penalty %.6g, so that lambda * penalty / loss = %g",
        *(found.strength(ratio), found.loss, found.penalty, ratio),
    )
    return {"lambda": found.strength(ratio), "ratio": ratio, **asdict(found)}


def _start(cfg: DictConfig, data: "Batch", batches: "Sequence[Any]", device: "torch.device") -> Start:
    import torch

    values, norms = [], []
    n = -(-LEAST_IMAGES // len(batches[0]))
    for seed in range(SEEDS):
        module = _module(cfg, seed, device)
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
            f"their gradients {found.loss_gradient:g} and {found.penalty_gradient:g}; all must be above 0. Choose it yourself."
        )
    return found


def _data(cfg: DictConfig, slices: "SliceSet", sides: "Split") -> "tuple[Batch, Sequence[Any], torch.device]":
    """The tensors, the training side's batches in one order that seed 0 gives, and the device of the run.

    Of folds, the training side of fold 0: nearly the others' images, and one lambda for all.
    """
    from pytorch_lightning.plugins.io import TorchCheckpointIO

    from segtune.data.tensors import to_tensors
    from segtune.training import build

    reg = cfg.get("reg") or {}
    if "lambda" not in reg:
        raise InputError("nothing to calibrate: choose a penalty that has one lambda, reg=l1 or reg=l2.")
    device = build.trainer(cfg, [], TorchCheckpointIO()).strategy.root_device
    images, masks = to_tensors(slices, size=cfg.data.size, normalize=cfg.data.normalize)
    if cfg.split.get("fold"):
        sides = build.split(OmegaConf.create({**cfg, "split": {**cfg.split, "fold": 0}}), slices)
    unseeded = OmegaConf.create({**cfg, "seed": 0})
    batches = build.datamodule(unseeded, slices, sides).train_batches(0)
    return (images.to(device), masks.to(device)), batches, device


def _module(cfg: DictConfig, seed: int, device: "torch.device", strength: float = 0.0) -> "Segmenter":
    import torch

    from segtune.training import build

    torch.manual_seed(seed)
    eager = OmegaConf.create({**cfg, "trainer": {**cfg.trainer, "compile": None}})  # a few steps do not repay compiling
    return build.module(eager, {}, strength=strength).to(device).train()


def _loss(module: "Segmenter", data: "Batch", index: Any) -> "Tensor":
    image, mask = (part[index] for part in data)
    value: Tensor = module.loss(module(image), mask.float())
    return value


def _norm(value: "Tensor", module: "Segmenter") -> "Tensor":
    import torch

    gradients = torch.autograd.grad(value, module.penalised)
    return torch.cat([gradient.flatten() for gradient in gradients]).norm()


@dataclass(frozen=True)
class Trial:
    """A short training of seed 0 with one lambda: the data loss and the penalty (without lambda) of each step."""

    strength: float
    loss: list[float]
    penalty: list[float]


def try_out(
    cfg: DictConfig, data: "Batch", order: Any, device: "torch.device", strength: float
) -> Iterator[tuple[float, float]]:
    """Train STEPS steps of one image with this lambda; yields each step's data loss and penalty."""
    module = _module(cfg, 0, device, strength)
    optimizer = module.optimizer(module.net.parameters())
    for step in range(STEPS):
        loss, (penalty, weighted) = _loss(module, data, order[step % len(order)][None]), module.penalties()
        optimizer.zero_grad()
        (loss + weighted).backward()
        optimizer.step()
        yield loss.item(), penalty.item()


def penalties(cfg: DictConfig) -> list[float]:
    """The penalty (without lambda) of PENALTY_SEEDS fresh networks."""
    import torch

    cpu = torch.device("cpu")
    return [_module(cfg, seed, cpu).penalties()[0].item() for seed in range(PENALTY_SEEDS)]


def measure(cfg: DictConfig, slices: "SliceSet", sides: "Split") -> dict[str, Any]:
    """All that calibration.json holds but for the configuration and the data's fingerprint."""
    import numpy as np

    from segtune import nets

    data, batches, device = _data(cfg, slices, sides)
    ratio = float(cfg.reg.get("ratio") or 1.0)
    fresh = penalties(cfg)
    found = _start(cfg, data, batches, device)
    trials = []
    strengths = (0.0, *(found.strength(tried) for tried in (*TRIED, ALONE)))
    with tqdm(total=len(strengths) * STEPS, unit="step", leave=False, disable=None) as bar:
        for value in strengths:
            trial = Trial(value, [], [])
            for loss, penalty in try_out(cfg, data, np.concatenate(batches), device, value):
                trial.loss.append(loss)
                trial.penalty.append(penalty)
                bar.update()
            trials.append(trial)
    module = _module(cfg, 0, device)
    return {
        "ratio": ratio,
        "lambda": found.strength(ratio),
        "lambda_by_gradient": found.strength_by_gradient(ratio),
        "start": asdict(found),
        "penalty": {
            "n": len(fresh),
            "mean": statistics.fmean(fresh),
            "sd": statistics.stdev(fresh),
            "closed_form": nets.expected_sums(module.net, module.penalised).get(_penalty_name(entry.plain(cfg))),
        },
        "table": [
            {"ratio": r, "lambda": found.strength(r), "lambda_by_gradient": found.strength_by_gradient(r)} for r in RATIOS
        ],
        "trials": [asdict(trial) | {"collapsed": collapsed(trial, trials[0], trials[-1])} for trial in trials[:-1]],
        "penalty_alone": asdict(trials[-1]),
    }


def collapsed(trial: Trial, free: Trial, alone: Trial) -> bool:
    """Whether the weights shrink with this lambda nearly as fast as under the penalty alone: the data no longer hold them.

    Rates are logarithms of the penalty after the training over what it is without a lambda.
    """
    rate, fastest = (math.log(one.penalty[-1] / free.penalty[-1]) for one in (trial, alone))
    return rate < COLLAPSED * fastest < 0


def table(record: dict[str, Any], config: dict[str, Any]) -> str:
    """What was measured and the lambdas that follow, for a person."""
    at, penalty, free = record["start"], record["penalty"], record["trials"][0]
    closed = f", closed form {penalty['closed_form']:,.6g}" if penalty["closed_form"] else ""
    norms = f"loss {at['loss_gradient']:.3g}, penalty {at['penalty_gradient']:.3g}"
    after = f"loss {_late(free['loss']):.4g}, penalty {free['penalty'][-1]:,.6g}"
    lines = [
        _title(config),
        f"penalty of a fresh network: {penalty['mean']:,.6g} +- {penalty['sd']:,.2g} ({penalty['n']} seeds{closed})",
        f"loss at the first step: {at['loss']:.4g} +- {at['loss_sd']:.2g} ({SEEDS} seeds; one run's ratio scatters so)",
        f"norm of the gradient there: {norms} ({GRADIENT_SEEDS} seeds)",
        f"after {STEPS} steps of one image without a penalty: {after}",
        "",
        f"{'':>6}  {'':>10}  {'lambda by':>10}  after {STEPS} steps with this lambda",
        f"{'ratio':>6}  {'lambda':>10}  {'gradients':>10}  {'loss':>7}  {'ratio':>7}  penalty left",
    ]
    trials = {trial["strength"]: trial for trial in record["trials"]}
    for row in record["table"]:
        line = f"{row['ratio']:>6g}  {row['lambda']:>10.3g}  {row['lambda_by_gradient']:>10.3g}"
        if trial := trials.get(row["lambda"]):
            loss, left = _late(trial["loss"]), trial["penalty"][-1]
            line += f"  {loss:>7.4g}  {trial['strength'] * left / loss:>7.3g}  {left / free['penalty'][-1]:.0%}"
            line += " (the weights collapse)" if trial["collapsed"] else ""
        lines.append(line)
    given = config["reg"]["lambda"]
    if given != "auto":
        ratio, by_gradient = given * at["penalty"] / at["loss"], given * at["penalty_gradient"] / at["loss_gradient"]
        lines.append(f"reg.lambda={given:g} starts at a ratio of {ratio:.3g} (of gradients: {by_gradient:.3g})")
    asked = f"ratio {record['ratio']:g}: reg.lambda={record['lambda']:.6g}"
    return "\n".join([*lines, f"{asked} (by gradients: {record['lambda_by_gradient']:.6g})"])


def _late(values: list[float]) -> float:
    """The mean of the last third, for single batches of a few images scatter."""
    return statistics.fmean(values[-len(values) // 3 :])


def _penalty_name(config: dict[str, Any]) -> str:
    return str(config["reg"]["penalty"]["_target_"]).rpartition(".")[2]


def _title(config: dict[str, Any]) -> str:
    axes = identity.axes(config)
    penalty = f"{_penalty_name(config)} of {config['reg']['on']}"
    return f"loss={axes['loss']} split={axes['split']} batch={axes['batch']}: {penalty}"
