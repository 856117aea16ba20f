"""Record the provenance of a run's results: software versions, git commit, machine and memory."""

import functools
import os
import platform
import resource
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import segtune

LIBRARIES = ("torch", "pytorch-lightning", "torchmetrics", "hydra-core", "pydicom", "nibabel", "numpy")


def attempt(done: int) -> dict[str, Any]:
    """Return the record of a new attempt at a run. Args: done: the number of epochs that earlier attempts have trained."""
    return {"first_epoch": done + 1, "versions": versions(), "git": git(), "machine": machine()}


def of_this_process() -> dict[str, Any]:
    """Return the entries of result.json that describe the software and the machine that produced the result."""
    return {"peak_memory_mb": peak_memory_mb(), "versions": versions(), "git": git(), "machine": machine()}


@functools.cache
def versions() -> dict[str, str]:
    return {
        "segtune": segtune.__version__,
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }


def peak_memory_mb() -> dict[str, float]:
    """Return the peak memory [MB] of this process and of the GPU in use.

    The peak of the process is measured since its start. In a sweep, it therefore covers all runs so far.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6}
    if torch.cuda.is_available():
        peak["gpu"] = torch.cuda.max_memory_allocated() / 1e6
    return peak


@functools.cache
def machine() -> dict[str, Any]:
    """Describe the machine by processor, cores, GPU and system. The host name is not recorded."""
    model = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"processor": model, "cores": os.cpu_count(), "gpu": gpu, "system": platform.platform()}


@functools.cache
def git() -> dict[str, Any] | None:
    """Return the commit of segtune's git checkout and whether it has uncommitted changes; None outside a checkout."""
    top = Path(__file__).resolve().parents[3]
    if not (top / ".git").exists():
        return None

    def ask(*words: str) -> str:
        return subprocess.run(["git", "-C", str(top), *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
