"""Installed packages that provide their own options, registered as entry points of the group `segtune`."""

import functools
import importlib.metadata
import importlib.util

from segtune.errors import InputError

GROUP = "segtune"


@functools.cache
def packages() -> dict[str, str]:
    """Return a dict from the name of each plug-in (labkit) to the package that contains its options (labkit.conf).

    Raises: InputError if a registered package cannot be found.
    """
    found = {point.name: point.value for point in importlib.metadata.entry_points(group=GROUP)}
    for name, package in found.items():
        if not _is_there(package):
            raise InputError(
                f"the plug-in {name} says that its options are in the package {package}, which cannot be found. "
                f"Reinstall or uninstall the package that provides {name}."
            )
    return dict(sorted(found.items()))


def _is_there(package: str) -> bool:
    """Return whether a package exists. This imports its parent package."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False
