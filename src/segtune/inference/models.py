"""A finished run as a model, from its folder alone: its network and the preparation of its images.

A run's folder may come from anybody. Its checkpoint is read as tensors and plain values, and nothing of its configuration is
resolved or instantiated: the network is built from a list (networks.LISTED), or is one that the user names (trust).
"""

import contextlib
import dataclasses
import logging
import math
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from segtune.data import tensors
from segtune.data.grid import resample_and_crop, restore
from segtune.data.slices import MEMORY_FRACTION, SPACINGS_MM, Slice, SliceSet
from segtune.errors import InputError, printable
from segtune.inference import networks
from segtune.inference.weights import checkpoint_weights
from segtune.runs import identity, inputs, layout
from segtune.runs.result import read_result, verify_files

log = logging.getLogger(__name__)

WHICH = ("last", "best")
MULTIPLE = 16  # the sides of an image must be multiples of this for every network here
PIXELS = 2**20  # the most that a network gets at a time: 16 images of 256 x 256
LARGEST = 4096  # pixels of the side of an image as the network sees it
COPIES = 6  # of a network's widest layer that its answer to an image may take in memory
OTHER_SCALE = 1.25  # pixel sizes that differ from the training's by this factor cause a warning


@dataclass(frozen=True, eq=False)
class Trained:
    """One run's network, ready to be used. result: its result.json, whose config says what its images must be.

    pixel_bytes: memory per pixel of an image while the network computes [bytes]; 0 if unknown.
    """

    folder: Path
    which: str
    result: Mapping[str, Any]
    net: nn.Module
    device: torch.device
    pixel_bytes: float = 0.0

    @property
    def config(self) -> Mapping[str, Any]:
        config: Mapping[str, Any] = self.result["config"]
        return config

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
            fitted = resample_and_crop(SliceSet(slices[index] for index in of_size), size=size, **self._grid)
            images, _ = tensors.to_tensors(fitted, size=size, normalize=data["normalize"])
            answers = np.concatenate([self._answers(batch) for batch in images.split(max(1, PIXELS // size**2))])
            for index, answer in zip(of_size, answers, strict=True):
                values[index] = restore(answer, slices[index], **self._grid)
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
        if longest > LARGEST:
            raise InputError(
                f"an image of {' x '.join(map(str, item.image.shape))} pixels of {_range(*sorted(item.spacing_mm))} mm has a "
                f"side of {longest} pixels for run {self.folder.name}, which was trained on pixels of "
                f"{data.get('spacing_mm') or 'any'} mm; more than {LARGEST} are not tried. Is its spacing right?"
            )
        side = size if longest <= size else math.ceil(longest / MULTIPLE) * MULTIPLE
        if _is_too_much(needed := self.pixel_bytes * side**2):
            raise InputError(
                f"an image of {' x '.join(map(str, item.image.shape))} pixels takes about {needed / 1e9:.1f} GB with the "
                f"network of run {self.folder.name}: more than {MEMORY_FRACTION:.0%} of this machine's memory."
            )
        return side


def load(folder: str | Path, *, which: str = "last", device: torch.device | None = None, trust: Any = None) -> Trained:
    """The run in this folder.

    Args:
        which: last, the weights of the last epoch, or best, those of the epoch with the best validation Dice.
        device: None: the CPU.
        trust: names of further network classes that may be built, beside those of networks.LISTED.
    Raises: InputError for a folder without a finished run, a damaged one, or one with a network that may not be built.
    """
    folder, trust = Path(folder).expanduser(), networks.trusted(trust)
    if which not in WHICH:
        raise InputError(f"which={which}: choose {' or '.join(WHICH)}, the epoch whose weights are used.")
    if not folder.is_dir():
        raise InputError(f"run={folder}: there is no such folder. Give a run's, like run=outputs/runs/0123456789ab.")
    source = folder / layout.RESULT
    path = folder / layout.CHECKPOINTS / {"last": layout.LAST, "best": layout.BEST}[which]
    for own in (source, path, *(folder / name for name in (layout.STATUS, layout.HISTORY, *layout.TABLES))):
        _check_own(folder, own)
    result = read_result(folder)
    _well_formed(result, source)
    target, arguments = networks.checked(result["config"]["model"], source, trust)
    if target not in networks.LISTED:
        _check_code(target, result, source)
    verify_files(folder, result, [path.relative_to(folder).as_posix()])
    if not result.get("files"):
        log.warning("run %s is of an earlier segtune, which recorded no hashes: damage would not be seen.", folder.name)
    weights = checkpoint_weights(path, result)
    pixel_bytes = 0.0
    try:
        net = _network(target, arguments, weights)
        if target in networks.LISTED:
            pixel_bytes = _pixel_bytes(net)
    except InputError:
        raise
    except Exception:
        raise InputError(f"{path}: its weights do not fit the network of {source}.") from None
    size = result["config"]["data"]["size"]
    if _is_too_much(needed := pixel_bytes * size**2):
        raise InputError(
            f"{source}: data.size={size}: one image would take about {needed / 1e9:.1f} GB with this network, more than "
            f"{MEMORY_FRACTION:.0%} of this machine's memory."
        )
    device = device or torch.device("cpu")
    return Trained(folder, which, result, net.to(device), device, pixel_bytes)


def _check_code(target: str, result: Mapping[str, Any], source: Path) -> None:
    """Raises: InputError if the code of a user's own network is not what it was when the run was trained."""
    recorded = result["inputs"] if isinstance(result.get("inputs"), Mapping) else {}
    changed = [name for name, digest in inputs.modules(target).items() if recorded.get(name, digest) != digest]
    if changed:
        raise InputError(
            f"{source}: the code of its network {printable(target)} has changed since the run was trained "
            f"({', '.join(changed)}), so its scores would be of another network. Restore that code, or train again."
        )


# Checks of a run's folder, which may come from anybody


def _check_own(folder: Path, path: Path) -> None:
    """Raises: InputError if the path is no regular file, or leads out of the run's folder, perhaps to a private file."""
    if not path.exists():
        return
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{path}: a link that leads out of the run's folder. Copy the folder with its files (cp -RL).")
    if not stat.S_ISREG(path.stat().st_mode):
        raise InputError(f"{path}: is no file. Copy the run's folder again.")


def _well_formed(result: Mapping[str, Any], path: Path) -> None:
    """Raises: InputError unless the result holds, of the right kinds, what a model needs beside its network."""
    size: Any = None
    try:
        config, data = result["config"], result["config"]["data"]
        size, pixel_mm = data["size"], result["data"].get("pixel_mm")
        sound = (
            identity.run_id(config) == result["run_id"]
            and type(size) is int
            and data["normalize"] in tensors.NORMALIZERS
            and _is_label(data["target"])
            and data.get("larger") in (None, "crop")
            and (data.get("spacing_mm") is None or _is_spacing(data["spacing_mm"]))
            and (pixel_mm is None or (len(pixel_mm) == 2 and all(map(_is_spacing, pixel_mm))))
            and networks.NAME.fullmatch(data["reader"]["_target_"]) is not None
        )
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError):
        sound = False
    if not sound:
        run = str(result.get("run_id"))[:80]
        raise InputError(f"{path}: damaged (its configuration is not that of run {run}, or is not whole). Copy it again.")
    if not (MULTIPLE <= size <= LARGEST and size % MULTIPLE == 0):
        raise InputError(f"{path}: data.size={size}: must be a multiple of {MULTIPLE} from {MULTIPLE} to {LARGEST}.")


def _is_label(value: Any) -> bool:
    """Whether this can be the name or the value of a structure. Text that OmegaConf would resolve is refused."""
    if isinstance(value, str):
        return 0 < len(value) <= 200 and "${" not in value and "}" not in value
    return type(value) is int and abs(value) < 2**31


def _is_spacing(value: Any) -> bool:
    return type(value) in (int, float) and SPACINGS_MM[0] <= value <= SPACINGS_MM[1]


def _network(target: str, arguments: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> nn.Module:
    """The network with its weights. Raises: any exception, if the arguments or the weights do not fit."""
    net = None
    if target not in networks.LISTED:  # it may compute on what it is built with, which the meta device does not have
        with contextlib.suppress(NotImplementedError, RuntimeError):
            net = networks.build(target, arguments)
        if net is not None and {k: v.shape for k, v in net.state_dict().items()} != {k: v.shape for k, v in weights.items()}:
            raise ValueError("other weights than these")
        net = networks.build(target, arguments, device="cpu")
    net = net or networks.build(target, arguments)
    net.load_state_dict(weights, assign=True)
    return net.float().eval().requires_grad_(False)


def _pixel_bytes(net: nn.Module) -> float:
    """Memory per pixel while this network computes [bytes], estimated from its layers on a small image.

    Raises: ValueError if the output does not have one value for each pixel.
    """
    widest = 0

    def note(layer: nn.Module, given: Any, answer: Any) -> None:
        nonlocal widest
        widest = max(widest, answer.numel() if isinstance(answer, torch.Tensor) else 0)

    image = torch.zeros(1, 1, 2 * MULTIPLE, 2 * MULTIPLE)
    hooks = [layer.register_forward_hook(note) for layer in net.modules()]
    with torch.inference_mode():
        answer = net(image)
    for hook in hooks:
        hook.remove()
    if answer.shape != image.shape:
        raise ValueError("no value for each pixel")
    return COPIES * image.element_size() * widest / image.numel()


def _is_too_much(n_bytes: float) -> bool:
    return n_bytes > MEMORY_FRACTION * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


# Several runs


def load_all(runs: Any, *, which: str, accelerator: str, trust: Any = None) -> list[Trained]:
    """The runs of an ensemble: a folder or a list of them. Raises: InputError; also if they look for different structures."""
    folders = [runs] if isinstance(runs, str | int | float) else list(runs or [])  # a name may look like a number
    if not folders:
        raise InputError("run=: give the folder of a run, run=outputs/runs/0123456789ab, or several, run=[a,b].")
    models = [load(str(folder), which=which, device=device(accelerator), trust=trust) for folder in folders]
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
    """Warn if the pixels that the network sees have a size that did not occur in its training."""
    for model in models:
        known = model.result["data"].get("pixel_mm")
        if model.config["data"].get("spacing_mm") is not None or not known or not slices:
            continue
        seen = [mm for item in slices for mm in item.spacing_mm]
        if min(seen) * OTHER_SCALE < known[0] or max(seen) > OTHER_SCALE * known[1]:
            log.warning(
                "pixels of %s mm; run %s was trained on %s mm, so that structures look of another size to it. A run with "
                "data.spacing_mm=%.2g would not care.",
                *(_range(min(seen), max(seen)), printable(model.folder.name), _range(*known), sum(known) / 2),
            )


def _range(low: float, high: float) -> str:
    return f"{low:.3g}" if math.isclose(low, high, rel_tol=1e-3) else f"{low:.3g} to {high:.3g}"
