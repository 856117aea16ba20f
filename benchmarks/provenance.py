"""What a measurement is of, for its report: the code and the machine. No date, which would change a file that says the same."""

from typing import Any

from segtune.training import provenance


def about() -> dict[str, Any]:
    return {
        **{name: provenance.machine()[name] for name in ("processor", "cores", "gpu")},
        "git": provenance.git(),
        **{name: provenance.versions()[name] for name in ("python", "torch")},
    }
