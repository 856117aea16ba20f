"""What a measurement is of, for its report: the code and the machine. No date, which would change a file that says the same."""

import os
import platform
from pathlib import Path
from typing import Any

from segtune import train


def about() -> dict[str, Any]:
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "git": train.git(),
        **{name: train.versions()[name] for name in ("python", "torch")},
    }


def processor() -> str:
    """The model's name where the kernel tells it (Linux), else the kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
