"""Read the weights in the checkpoint of a finished run. Only tensors and plain values are loaded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from segtune.errors import InputError
from segtune.runs import archive, identity, layout

MOST_VALUES = 100_000  # limit on the configuration in a checkpoint, where one object can be referenced many times


def checkpoint_weights(path: Path, result: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the network's weights: name -> tensor. Raises: InputError if the file is not a checkpoint of this run."""
    try:
        checkpoint = torch.load(archive.checked(path), weights_only=True, map_location="cpu")
        weights = {str(name).removeprefix("net."): value for name, value in checkpoint["state_dict"].items()}
        if sum(_stored_bytes(value) for value in weights.values()) > path.stat().st_size:
            raise ValueError("the tensors are larger than the file")
        if not _is_bounded(checkpoint["hyper_parameters"]):
            raise ValueError("the configuration has too many values")
        other = identity.run_id(checkpoint["hyper_parameters"])
    except FileNotFoundError:
        raise InputError(f"{path}: this file is missing. Give the complete folder of the run.") from None
    except Exception:  # a truncated or different file can raise any exception
        raise InputError(f"{path}: damaged, or not a checkpoint of a run. Copy the run's folder again.") from None
    if other != result["run_id"]:
        raise InputError(
            f"{path} is from run {other}, but {layout.RESULT} is from run {result['run_id']}. Copy the folder again."
        )
    return weights


def _stored_bytes(value: Any) -> int:
    """Return the size in bytes of a plain tensor. Raises: ValueError for any other value."""
    if not (isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type == "cpu"):
        raise ValueError("the value is not a plain tensor")
    return value.numel() * value.element_size()


def _is_bounded(value: Any) -> bool:
    """Return whether a nested value has at most MOST_VALUES values, counting a shared object each time it occurs."""
    waiting, n = [value], 0
    while waiting and n <= MOST_VALUES:
        one, n = waiting.pop(), n + 1
        waiting += one.values() if isinstance(one, Mapping) else one if isinstance(one, list | tuple) else ()
    return n <= MOST_VALUES
