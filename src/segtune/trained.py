"""A finished run as a model, from its folder alone: its network, and how it wants its images. Needs none of its data.

A run's folder may come from anybody: checkpoints are read with weights_only, and of its configuration only a network of
NETWORKS is built, for a `_target_` is a function that would be called.
"""

import dataclasses
import importlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from segtune import build, results
from segtune.data import module as data_module
from segtune.data.slices import Slice, SliceSet
from segtune.errors import InputError

log = logging.getLogger(__name__)

NETWORKS = ("segtune.nets", "monai.networks.nets")  # the modules of which a run's folder may name a class
WHICH = ("last", "best")
MULTIPLE = 16  # of the side of an image that every network here takes
PIXELS = 2**20  # that a network is given at a time: 16 images of 256 x 256
LARGEST = 4096  # pixels of the side of an image as the network sees it, unless its training had larger ones
OTHER_SCALE = 1.25  # from this factor on, pixels of another size than those of the training are told


@dataclass(frozen=True, eq=False)
class Trained:
    """One run's network, ready to be used. result: its result.json, whose config says what its images must be."""

    folder: Path
    which: str
    result: Mapping[str, Any]
    net: nn.Module
    device: torch.device

    @property
    def config(self) -> Mapping[str, Any]:
        return self.result["config"]

    @property
    def target(self) -> str:
        """The structure it was trained to find."""
        return str(self.config["data"]["target"])

    def probabilities(self, slices: Sequence[Slice]) -> list[NDArray[np.float64]]:
        """Each slice's probability of the structure, on the slice's own grid: (H, W) float64.

        Images are resampled, cropped, normalised and padded as in the training. One that is larger than data.size where the
        training had no crop is not refused: the network takes it whole, padded to the next multiple of 16.
        """
        data = self.config["data"]
        slices = [dataclasses.replace(item, mask=np.zeros_like(item.mask)) for item in slices]  # it sees no expert's mask
        sizes = [self._size(item) for item in slices]
        values: list[NDArray[np.float64]] = [np.empty(0)] * len(slices)
        for size in dict.fromkeys(sizes):
            of_size = [index for index, other in enumerate(sizes) if other == size]
            fitted = data_module.fit(SliceSet(slices[index] for index in of_size), size=size, **self._grid)
            images, _ = data_module.to_tensors(fitted, size=size, normalize=data["normalize"])
            answers = np.concatenate([self._answers(batch) for batch in images.split(max(1, PIXELS // size**2))])
            for index, answer in zip(of_size, answers, strict=True):
                values[index] = data_module.restore(answer, slices[index], **self._grid)
        return values

    @property
    def _grid(self) -> dict[str, Any]:
        return {key: self.config["data"].get(key) for key in ("spacing_mm", "larger")}

    def _answers(self, images: torch.Tensor) -> NDArray[np.float64]:
        """(B, 1, S, S) to (B, S, S): in float64, so that a probability is above 0.5 where the logit is above 0."""
        with torch.inference_mode():
            logits = self.net(images.to(self.device)).float().cpu().double()
        if not logits.isfinite().all():
            raise InputError(f"{self.folder}: its network's output is not finite on these images. Are they of another kind?")
        return torch.sigmoid(logits)[:, 0].numpy()

    def _size(self, item: Slice) -> int:
        data = self.config["data"]
        size = int(data["size"])
        if data.get("larger") is not None:
            return size
        ratios = [1.0 if (mm := data.get("spacing_mm")) is None else own / mm for own in item.spacing_mm]
        longest = max(round(n * ratio) for n, ratio in zip(item.image.shape, ratios, strict=True))
        if longest > max(size, LARGEST):
            raise InputError(
                f"an image of {' x '.join(map(str, item.image.shape))} pixels of {_range(*sorted(item.spacing_mm))} mm has a "
                f"side of {longest} pixels for run {self.folder.name}, which was trained on pixels of "
                f"{data.get('spacing_mm') or 'any'} mm; more than {LARGEST} are not tried. Is its spacing right?"
            )
        return size if longest <= size else math.ceil(longest / MULTIPLE) * MULTIPLE


def load(folder: str | Path, *, which: str = "last", device: torch.device | None = None) -> Trained:
    """The run in this folder. Args: which: its last epoch, which decides, or its best, which flatters. device: None: CPU.

    Raises: InputError for a folder without a finished run, a damaged one, or one with a network that is not of NETWORKS.
    """
    folder = Path(folder).expanduser()
    if which not in WHICH:
        raise InputError(f"which={which}: choose {' or '.join(WHICH)}, the epoch whose weights are used.")
    if not folder.is_dir():
        raise InputError(f"run={folder}: there is no such folder. Give a run's, like run=outputs/runs/0123456789ab.")
    result = results.read_result(folder)
    path = folder / results.CHECKPOINTS / {"last": results.LAST, "best": results.BEST}[which]
    _well_formed(result, folder / results.RESULT)
    results.verify(folder, result, [path.relative_to(folder).as_posix()])
    if not result.get("files"):
        log.warning("run %s is of an earlier segtune, which recorded no hashes: damage would not be seen.", folder.name)
    device = device or torch.device("cpu")
    try:
        checkpoint = torch.load(path, weights_only=True, map_location="cpu")
        weights = {name.removeprefix("net."): value for name, value in checkpoint["state_dict"].items()}
        other = results.run_id(checkpoint["hyper_parameters"])
    except FileNotFoundError:
        raise InputError(f"{path}: the file is not there. Give the run's whole folder.") from None
    except Exception:  # whatever half a file, or a file of another kind, makes of torch.load
        raise InputError(f"{path}: damaged, or no checkpoint of a run. Copy the run's folder again.") from None
    if other != result["run_id"]:
        raise InputError(
            f"{path} is of run {other}, but {results.RESULT} beside it is of {result['run_id']}. Which one counts?"
        )
    try:
        with torch.device("meta"):  # no memory: a configuration may say any width, and the weights there are decide
            net = build.network(dict(result["config"]["model"]))
        net.load_state_dict(weights, assign=True)
    except Exception:
        raise InputError(f"{path}: its weights do not fit the network of {folder / results.RESULT}.") from None
    return Trained(folder, which, result, net.float().eval().requires_grad_(False).to(device), device)


def _well_formed(result: Mapping[str, Any], path: Path) -> None:
    """Raises: InputError unless the result holds what a model needs, and nothing that would be called but a network."""
    try:
        config = result["config"]
        data, model = config["data"], config["model"]
        sound = results.run_id(config) == result["run_id"] and isinstance(data["size"], int) and 0 < data["size"] <= 2**14
        sound = sound and data["normalize"] in data_module.NORMALIZERS and isinstance(data["target"], str | int)
        targets = list(_targets(model))
    except (LookupError, TypeError, AttributeError, ValueError):
        sound, targets = False, []
    if not sound or not targets:
        raise InputError(f"{path}: damaged (its configuration is not that of run {result.get('run_id')}). Copy it again.")
    for target in targets:
        if not _is_network(target):
            raise InputError(
                f"{path}: its network is {str(target)[:80]!r}. Building it would run code that this file names, so only "
                f"networks of {' and '.join(NETWORKS)} are taken from a run's folder."
            )


def _is_network(target: Any) -> bool:
    """Whether this names a network of NETWORKS itself, and not what such a module has imported."""
    module, _, name = str(target).rpartition(".")
    found = getattr(importlib.import_module(module), name, None) if module in NETWORKS else None
    return isinstance(found, type) and issubclass(found, nn.Module)


def _targets(value: Any) -> Iterator[Any]:
    """All that Hydra would call for this part of a configuration."""
    if isinstance(value, Mapping):
        yield from ([value["_target_"]] if "_target_" in value else [])
        for one in value.values():
            yield from _targets(one)
    elif isinstance(value, list):
        for one in value:
            yield from _targets(one)


def load_all(runs: Any, *, which: str, accelerator: str) -> list[Trained]:
    """The runs of an ensemble: a folder or a list of them. Raises: InputError; also if they look for different structures."""
    folders = [runs] if isinstance(runs, str | int | float) else list(runs or [])  # a name may look like a number
    if not folders:
        raise InputError("run=: give the folder of a run, run=outputs/runs/0123456789ab, or several, run=[a,b].")
    models = [load(str(folder), which=which, device=device(accelerator)) for folder in folders]
    if len({model.result["run_id"] for model in models}) < len(models):
        raise InputError("run=: a run is there twice; in an ensemble it would count twice.")
    targets = {(model.config["data"]["reader"]["_target_"], model.target) for model in models}
    if len(targets) > 1:
        told = ", ".join(sorted(f"{target} ({reader.split('.')[-2]})" for reader, target in targets))
        raise InputError(f"run=: these runs look for different structures ({told}); an ensemble needs runs that look for one.")
    return models


def ensemble(models: Sequence[Trained], slices: Sequence[Slice]) -> list[NDArray[np.float64]]:
    """Each slice's probability of the structure, (H, W): the mean over the models."""
    of_models = [model.probabilities(slices) for model in models]
    return [np.mean(values, axis=0) for values in zip(*of_models, strict=True)]


def device(accelerator: str) -> torch.device:
    """Args: accelerator: auto (a GPU if there is one), cpu or gpu."""
    if accelerator not in ("auto", "cpu", "gpu"):
        raise InputError(f"accelerator={accelerator}: choose auto (a GPU if there is one), cpu or gpu.")
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator == "gpu" and found is None:
        raise InputError("accelerator=gpu: PyTorch finds no GPU here. Choose accelerator=cpu.")
    return torch.device("cpu") if found is None or accelerator == "cpu" else found


def warn_of_other_scale(models: Sequence[Trained], slices: Sequence[Slice]) -> None:
    """Say so if pixels, as the network sees them, are of a size that its training did not have."""
    for model in models:
        known = model.result["data"].get("pixel_mm")
        if model.config["data"].get("spacing_mm") is not None or not known or not slices:
            continue
        seen = [mm for item in slices for mm in item.spacing_mm]
        if min(seen) * OTHER_SCALE < known[0] or max(seen) > OTHER_SCALE * known[1]:
            log.warning(
                "pixels of %s mm; run %s was trained on %s mm, so that structures look of another size to it. A run with "
                "data.spacing_mm=%.2g would not care.",
                *(_range(min(seen), max(seen)), model.folder.name, _range(*known), sum(known) / 2),
            )


def _range(low: float, high: float) -> str:
    return f"{low:.3g}" if math.isclose(low, high, rel_tol=1e-3) else f"{low:.3g} to {high:.3g}"
