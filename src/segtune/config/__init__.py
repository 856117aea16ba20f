"""The command line and the configuration: overrides, validation rules, and errors in one sentence."""

from pathlib import Path

PACKAGED = Path(__file__).resolve().parents[1] / "conf"  # in a wheel
CONF = PACKAGED if PACKAGED.is_dir() else Path(__file__).resolve().parents[3] / "conf"  # in a checkout
