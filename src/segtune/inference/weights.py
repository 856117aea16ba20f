"""The weights in a checkpoint of a finished run, read as tensors and plain values only."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from segtune.errors import InputError
from segtune.runs import archive, identity, layout

MOST_VALUES = 100_000  # of the configuration in a checkpoint, where one value can stand in a thousand places


def checkpoint_weights(path: Path, result: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The network's weights, by name. Raises: InputError for a file that is no checkpoint of this run."""
    try:
        checkpoint = torch.load(archive.checked(path), weights_only=True, map_location="cpu")
        weights = {str(name).removeprefix("net."): value for name, value in checkpoint["state_dict"].items()}
        if sum(_stored_bytes(value) for value in weights.values()) > path.stat().st_size:
            raise ValueError("tensors that the file does not hold")
        if not _is_bounded(checkpoint["hyper_parameters"]):
            raise ValueError("a configuration without end")
        other = identity.run_id(checkpoint["hyper_parameters"])
    except FileNotFoundError:
        raise InputError(f"{path}: the file is not there. Give the run's whole folder.") from None
    except Exception:  # half a file, or a file of another kind, can raise anything
        raise InputError(f"{path}: damaged, or no checkpoint of a run. Copy the run's folder again.") from None
    if other != result["run_id"]:
        raise InputError(f"{path} is of run {other}, but {layout.RESULT} beside it is of {result['run_id']}. Which one counts?")
    return weights


def _stored_bytes(value: Any) -> int:
    """The bytes of a plain tensor. Raises: ValueError for any other value."""
    if not (isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type == "cpu"):
        raise ValueError("no plain tensor")
    return value.numel() * value.element_size()


def _is_bounded(value: Any) -> bool:
    """Whether a value holds at most MOST_VALUES values, each counted in every place where it stands."""
    waiting, n = [value], 0
    while waiting and n <= MOST_VALUES:
        one, n = waiting.pop(), n + 1
        waiting += one.values() if isinstance(one, Mapping) else one if isinstance(one, list | tuple) else ()
    return n <= MOST_VALUES
