"""Installed packages that bring options of their own: entry points of the group `segtune`."""

import functools
import importlib.metadata
import importlib.util

from segtune.errors import InputError

GROUP = "segtune"


@functools.cache
def packages() -> dict[str, str]:
    """Return the name of each plug-in and the package that holds its options: labkit -> labkit.conf.

    Raises: InputError if a package is registered but is not there.
    """
    found = {point.name: point.value for point in importlib.metadata.entry_points(group=GROUP)}
    for name, package in found.items():
        if not _is_there(package):
            raise InputError(
                f"the plug-in {name} says that its options are in the package {package}, which cannot be found. Install the "
                f"package that brings {name} again, or uninstall it."
            )
    return dict(sorted(found.items()))


def _is_there(package: str) -> bool:
    """Whether there is such a package; the package around it is imported to find it."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False
