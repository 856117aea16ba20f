"""Load a finished run from its folder as a model: its network, and the preprocessing of its images.

A run's folder may come from an untrusted source. Its checkpoint is read as tensors and plain values only, and its
configuration is neither resolved nor instantiated. The network must be one of networks.LISTED, or a class that the user names
(trust).
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

from segtune import nets
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
MULTIPLE = 16  # the networks need images whose sides are multiples of this
PIXELS = 2**20  # largest number of pixels in a batch: 16 images of 256 x 256
LARGEST = 4096  # largest side [pixels] of an image at the network's input
COPIES = 6  # estimate of the memory for one image, as a multiple of the output of the largest layer
OTHER_SCALE = 1.25  # warn if pixel sizes differ from those of the training images by more than this factor


@dataclass(frozen=True, eq=False)
class Trained:
    """The trained network of one run.

    which: "last" or "best", the epoch of the weights. result: the content of result.json. tta: whether `net` averages
    over views of the image. pixel_bytes: estimated memory per image pixel during inference [bytes]; 0 if unknown.
    """

    folder: Path
    which: str
    result: Mapping[str, Any]
    net: nn.Module
    device: torch.device
    tta: bool = False
    pixel_bytes: float = 0.0

    @property
    def config(self) -> Mapping[str, Any]:
        config: Mapping[str, Any] = self.result["config"]
        return config

    @property
    def keeps_largest_component(self) -> bool:
        """Whether the run's own scores were computed from only the largest component of each predicted volume."""
        return recorded_score(self.result)["largest_component"]

    @property
    def target(self) -> str:
        """The structure that the network was trained to segment."""
        return str(self.config["data"]["target"])

    def probabilities(self, slices: Sequence[Slice]) -> list[NDArray[np.float64]]:
        """Predict the probability of the structure for each pixel of each slice: (H, W) float64, on the slice's original grid.

        Images are resampled, cropped, normalised and padded as in training. An image larger than data.size is accepted
        even if images were not cropped in training. In this case it is padded to the next multiple of 16.
        """
        data = self.config["data"]
        slices = [dataclasses.replace(item, mask=np.zeros_like(item.mask)) for item in slices]  # without the expert's mask
        sizes = [self._size(item) for item in slices]
        values: list[NDArray[np.float64]] = [np.empty(0)] * len(slices)
        for size in dict.fromkeys(sizes):
            of_size = [index for index, other in enumerate(sizes) if other == size]
            antialias = bool(data.get("antialias"))
            fitted = resample_and_crop(
                SliceSet(slices[index] for index in of_size), size=size, **self._grid, antialias=antialias
            )
            images, _ = tensors.to_tensors(fitted, size=size, normalize=data["normalize"])
            answers = np.concatenate([self._answers(batch) for batch in images.split(max(1, PIXELS // size**2))])
            for index, answer in zip(of_size, answers, strict=True):
                values[index] = restore(answer, slices[index], **self._grid)
        return values

    @property
    def _grid(self) -> dict[str, Any]:
        return {key: self.config["data"].get(key) for key in ("spacing_mm", "larger")}

    def _answers(self, images: torch.Tensor) -> NDArray[np.float64]:
        """Compute the probabilities (B, S, S) for images (B, 1, S, S).

        The probabilities are float64. In this precision, a probability is above 0.5 if and only if its logit is above 0.
        """
        with torch.inference_mode():
            logits = self.net(images.to(self.device)).float().cpu().double()
        if not logits.isfinite().all():
            raise InputError(
                f"{self.folder}: the output of this network is not finite on these images. Check that these "
                "images are of the same kind as the training images."
            )
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
                f"an image of {' x '.join(map(str, item.image.shape))} pixels of {_range(*sorted(item.spacing_mm))} mm "
                f"would have a side of {longest} pixels after resampling for run {self.folder.name}, which was trained "
                f"on pixels of {data.get('spacing_mm') or 'any'} mm. The limit is {LARGEST} pixels. "
                "Check the pixel spacing of the image."
            )
        multiple = MULTIPLE * (data.get("downsample") or 1)
        side = size if longest <= size else math.ceil(longest / multiple) * multiple
        if _is_too_much(needed := self.pixel_bytes * side**2):
            raise InputError(
                f"an image of {' x '.join(map(str, item.image.shape))} pixels needs about {needed / 1e9:.1f} GB with the "
                f"network of run {self.folder.name}, more than {MEMORY_FRACTION:.0%} of this machine's memory. "
                "Use a machine with more memory."
            )
        return side


def load(
    folder: str | Path,
    *,
    which: str = "last",
    device: torch.device | None = None,
    trust: Any = None,
    tta: bool | None = None,
) -> Trained:
    """Load the run in this folder.

    Args:
        which: "last" for the weights of the last epoch, "best" for the weights of the epoch with the best validation
            Dice.
        device: the device to compute on; None for the CPU.
        trust: names of network classes that may be built in addition to networks.LISTED.
        tta: whether to average over views of the image (nets.Views); None: as in the run's own scores.
    Raises: InputError if the folder has no finished run, if the run is damaged, or if its network may not be built.
    """
    folder, trust = Path(folder).expanduser(), networks.trusted(trust)
    if which not in WHICH:
        raise InputError(f"which={which}: choose {' or '.join(WHICH)}, the epoch whose weights are used.")
    if not folder.is_dir():
        raise InputError(f"run={folder}: there is no such folder. Give a run's folder, like run=outputs/runs/0123456789ab.")
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
        log.warning("run %s is from an earlier version of segtune without file hashes; damage cannot be detected.", folder.name)
    weights = checkpoint_weights(path, result)
    pixel_bytes = 0.0
    try:
        net = _network(target, arguments, weights)
        if target in networks.LISTED:
            pixel_bytes = _pixel_bytes(net)
    except InputError:
        raise
    except Exception:
        raise InputError(f"{path}: its weights do not fit the network in {source}. Copy the run's folder again.") from None
    size = result["config"]["data"]["size"]
    if _is_too_much(needed := pixel_bytes * size**2):
        raise InputError(
            f"{source}: data.size={size}: one image needs about {needed / 1e9:.1f} GB with this network, more than "
            f"{MEMORY_FRACTION:.0%} of this machine's memory. Use a machine with more memory."
        )
    tta = recorded_score(result)["tta"] if tta is None else tta
    net = nets.Views(net).eval() if tta else net
    net = nets.Downsampled(net, factor).eval() if (factor := result["config"]["data"].get("downsample")) else net
    device = device or torch.device("cpu")
    return Trained(folder, which, result, net.to(device), device, tta, pixel_bytes)


def recorded_score(result: Mapping[str, Any]) -> dict[str, bool]:
    """Return the settings `tta` and `largest_component` with which a run's own predictions were scored."""
    return {"tta": False, "largest_component": False} | (result.get("score") or {})


def _check_code(target: str, result: Mapping[str, Any], source: Path) -> None:
    """Check that the code of a user-defined network is the same as in training. Raises: InputError if it has changed."""
    recorded = result["inputs"] if isinstance(result.get("inputs"), Mapping) else {}
    changed = [name for name, digest in inputs.modules(target).items() if recorded.get(name, digest) != digest]
    if changed:
        raise InputError(
            f"{source}: the code of its network {printable(target)} has changed since the run was trained "
            f"({', '.join(changed)}), so this is no longer the trained network. Go back to the earlier code, or train again."
        )


# Checks of a run's folder, which may come from an untrusted source


def _check_own(folder: Path, path: Path) -> None:
    """If the path exists, check that it is a regular file inside the run's folder.

    A link is refused if it leads out of the folder, because it could point to a private file.

    Raises: InputError if the check fails.
    """
    if not path.exists():
        return
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{path}: this is a link to a file outside the run's folder. Copy the folder with its files (cp -RL).")
    if not stat.S_ISREG(path.stat().st_mode):
        raise InputError(f"{path}: this is not a regular file. Copy the run's folder again.")


def _well_formed(result: Mapping[str, Any], path: Path) -> None:
    """Check that the entries of result.json that preprocessing needs exist and have valid values. Raises: InputError."""
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
            and data.get("antialias") in (None, False, True)
            and ((factor := data.get("downsample")) is None or _is_factor(factor, size))
            and (pixel_mm is None or (len(pixel_mm) == 2 and all(map(_is_spacing, pixel_mm))))
            and all(type(value) is bool for value in recorded_score(result).values())
            and networks.NAME.fullmatch(data["reader"]["_target_"]) is not None
        )
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError):
        sound = False
    if not sound:
        run = str(result.get("run_id"))[:80]
        raise InputError(
            f"{path}: damaged (its configuration is incomplete or does not belong to run {run}). Copy this file again."
        )
    if not (MULTIPLE <= size <= LARGEST and size % MULTIPLE == 0):
        raise InputError(f"{path}: data.size={size}: must be a multiple of {MULTIPLE} from {MULTIPLE} to {LARGEST}.")


def _is_label(value: Any) -> bool:
    """Return whether a value is a valid name or label number of a structure. Text that OmegaConf would resolve is not valid."""
    if isinstance(value, str):
        return 0 < len(value) <= 200 and "${" not in value and "}" not in value
    return type(value) is int and abs(value) < 2**31


def _is_factor(value: Any, size: int) -> bool:
    return type(value) is int and 2 <= value <= 8 and size % (MULTIPLE * value) == 0


def _is_spacing(value: Any) -> bool:
    return type(value) in (int, float) and SPACINGS_MM[0] <= value <= SPACINGS_MM[1]


def _network(target: str, arguments: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> nn.Module:
    """Build the network and load its weights. Raises: any exception, if the arguments or the weights do not fit."""
    net = None
    if target not in networks.LISTED:  # its constructor may compute with values, which fails on the meta device
        with contextlib.suppress(NotImplementedError, RuntimeError):
            net = networks.build(target, arguments)
        if net is not None and {k: v.shape for k, v in net.state_dict().items()} != {k: v.shape for k, v in weights.items()}:
            raise ValueError("the names or shapes of the weights differ from those of the network")
        net = networks.build(target, arguments, device="cpu")
    net = net or networks.build(target, arguments)
    net.load_state_dict(weights, assign=True)
    return net.float().eval().requires_grad_(False)


def _pixel_bytes(net: nn.Module) -> float:
    """Estimate the memory per image pixel during inference [bytes], from the layer outputs for a small image.

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
        raise ValueError("the output does not have one value for each pixel")
    return COPIES * image.element_size() * widest / image.numel()


def _is_too_much(n_bytes: float) -> bool:
    return n_bytes > MEMORY_FRACTION * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def warn_of_other_scale(models: Sequence[Trained], slices: Sequence[Slice]) -> None:
    """Warn if the pixel sizes of slices and training images differ by more than the factor OTHER_SCALE."""
    for model in models:
        known = model.result["data"].get("pixel_mm")
        if model.config["data"].get("spacing_mm") is not None or not known or not slices:
            continue
        seen = [mm for item in slices for mm in item.spacing_mm]
        if min(seen) * OTHER_SCALE < known[0] or max(seen) > OTHER_SCALE * known[1]:
            log.warning(
                "The images have pixels of %s mm, but run %s was trained on pixels of %s mm, so structures appear in another "
                "size. A run with data.spacing_mm=%.2g would resample all images to the same pixel size.",
                *(_range(min(seen), max(seen)), printable(model.folder.name), _range(*known), sum(known) / 2),
            )


def _range(low: float, high: float) -> str:
    return f"{low:.3g}" if math.isclose(low, high, rel_tol=1e-3) else f"{low:.3g} to {high:.3g}"
