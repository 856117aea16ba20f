"""Use several runs as one model: load them, average their predictions, and decide how these are processed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segtune.data.slices import Slice
from segtune.errors import InputError
from segtune.inference.models import Trained, load


def load_all(runs: Any, *, which: str, accelerator: str, trust: Any = None, tta: bool | None = None) -> list[Trained]:
    """Load one run, or the runs of an ensemble.

    Args: runs: a folder or a list of folders. The other arguments are the same as in `load`.
    Raises: InputError in the same cases as `load`, if a run is listed twice, and if the runs segment different
        structures.
    """
    folders = [runs] if isinstance(runs, str | int | float) else list(runs or [])  # a folder's name may look like a number
    if not folders:
        raise InputError("run=: give the folder of a run, run=outputs/runs/0123456789ab, or several, run=[a,b].")
    models = [load(str(folder), which=which, device=device(accelerator), trust=trust, tta=tta) for folder in folders]
    if len({model.result["run_id"] for model in models}) < len(models):
        raise InputError("run=: a run is listed twice. Name each run of an ensemble once.")
    targets = {(model.config["data"]["reader"]["_target_"], model.target) for model in models}
    if len(targets) > 1:
        told = ", ".join(sorted(f"{target} ({reader.split('.')[-2]})" for reader, target in targets))
        raise InputError(f"run=: these runs segment different structures ({told}). Choose runs that segment the same one.")
    return models


def ensemble(models: Sequence[Trained], slices: Sequence[Slice]) -> list[NDArray[np.float64]]:
    """Predict the probability of the structure for each pixel of each slice, (H, W), as the mean over the models."""
    of_models = [model.probabilities(slices) for model in models]
    return [np.mean(values, axis=0) for values in zip(*of_models, strict=True)]


def checked_score(score: Mapping[str, Any] | None) -> dict[str, bool | None]:
    """Check cfg.score of evaluate and predict.

    Returns: tta and largest_component; None: as in the run's own scores. Raises: InputError for any other value.
    """
    for key, value in (score or {}).items():
        if value is not None and not isinstance(value, bool):
            raise InputError(f"score.{key}={value}: must be true or false. Leave it out to do as in the run's own scores.")
    return {"tta": None, "largest_component": None} | dict(score or {})


def keeps_largest_component(models: Sequence[Trained], setting: bool | None) -> bool:
    """Return whether to keep only the largest component of each predicted volume.

    If the user's setting is None, the result is True if more than half of the runs kept only the largest component,
    otherwise False.
    """
    return sum(model.keeps_largest_component for model in models) * 2 > len(models) if setting is None else setting


def device(accelerator: str) -> torch.device:
    """Return the device to compute on. Args: accelerator: "auto" (a GPU if there is one), "cpu" or "gpu"."""
    if accelerator not in ("auto", "cpu", "gpu"):
        raise InputError(f"accelerator={accelerator}: choose auto (a GPU if there is one), cpu or gpu.")
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator == "gpu" and found is None:
        raise InputError("accelerator=gpu: PyTorch finds no GPU on this machine. Choose accelerator=cpu.")
    return torch.device("cpu") if found is None or accelerator == "cpu" else found
