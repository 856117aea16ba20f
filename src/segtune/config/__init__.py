"""The command line and the configuration: overrides, validation rules, and error messages for users."""

from pathlib import Path

PACKAGED = Path(__file__).resolve().parents[1] / "conf"  # if segtune is installed from a wheel
CONF = PACKAGED if PACKAGED.is_dir() else Path(__file__).resolve().parents[3] / "conf"  # in a git checkout
