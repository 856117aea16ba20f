"""What a measurement is of, for its report: the code and the machine. No date, which would change a file that says the same."""

from typing import Any

from segtune import train


def about() -> dict[str, Any]:
    return {
        **{name: train.machine()[name] for name in ("processor", "cores", "gpu")},
        "git": train.git(),
        **{name: train.versions()[name] for name in ("python", "torch")},
    }
