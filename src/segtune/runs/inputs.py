"""Hash the user's own code and files that a run uses in addition to its configuration and data.

A `_target_` outside segtune and the libraries below is the user's code. Three kinds of source files are hashed: the
file of the target's module, the files of the packages that contain this module, and the files of all imported modules
in the same package or folder. The files are found without importing or running any code. Modules in other folders of
the Python path, imports with a computed name, and data files that the code opens itself are not found.
"""

import ast
import functools
import hashlib
import importlib.machinery
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from segtune.errors import printable
from segtune.runs.files import sha256

# libraries that are identified by their versions
VERSIONED = {"segtune", "torch", "monai", "torchmetrics", "pytorch_lightning", "numpy", *sys.stdlib_module_names}
LIBRARIES = {"site-packages", "dist-packages"}  # in these folders, only imports within the same package are followed
STARTED_FROM = ("model", "loss", "reg", "optimizer", "scheduler")  # config groups whose values may be paths of files


def content_hashes(config: Mapping[str, Any]) -> dict[str, str]:
    """Hash each of the user's modules and each file that the configuration refers to.

    Returns: name -> SHA-256. A module is listed under its dotted name. A file, such as initial weights, is listed under
        its key in the configuration, such as model.weights.
    """
    found: dict[str, str] = {}
    for key, value in _leaves(config):
        if key.rpartition(".")[2] == "_target_":
            found |= modules(str(value))
        elif isinstance(value, str) and key.partition(".")[0] in STARTED_FROM and (path := _file(value)):
            found[key] = sha256(path)
    return dict(sorted(found.items()))


def missing_modules(config: Mapping[str, Any]) -> list[str]:
    """List the `_target_` values whose package is not on the Python path."""
    targets = [str(value) for key, value in _leaves(config) if key.rpartition(".")[2] == "_target_"]
    tops = {target: target.partition(".")[0] for target in targets}
    return [target for target, top in tops.items() if top and top not in VERSIONED and not _is_there(top)]


def changed_inputs(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the names of inputs that have changed, are missing or are new."""
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))


@functools.cache
def modules(target: str) -> dict[str, str]:
    """Hash the source files of a `_target_` and of the imported modules in the same package or folder.

    The result is cached, because a process imports a module only once and keeps using that version if the file changes.

    Returns: module -> SHA-256.
    """
    top = target.partition(".")[0]
    if top in VERSIONED or (root := _root(top)) is None:
        return {}
    if LIBRARIES & {*root.parts} and (version := _version(top)):
        return {top: hashlib.sha256(f"{top} {version}".encode()).hexdigest()}
    found: dict[str, str] = {}
    waiting = _existing(root, target)
    while waiting:
        name = waiting.pop()
        path = _source(root, name)
        if name in found or path is None:
            continue
        found[name] = sha256(path)
        waiting += [module for one in _imports(name, path) for module in _existing(root, one) if _is_beside(root, top, module)]
    return found


def describe_changes(names: list[str]) -> str:
    """Describe the changed inputs in words.

    Args: names: the result of `changed_inputs`. The names may come from an untrusted checkpoint, so they are made
        printable.
    """
    own = printable(", ".join(name for name in names if name != "data"))
    return " and ".join(
        (["its data have changed"] if "data" in names else []) + ([f"its code has changed ({own})"] if own else [])
    )


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of each leaf of a nested configuration."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{key}.{index}")
    else:
        yield key, value


def _file(value: str) -> Path | None:
    try:
        return Path(value) if ("/" in value or "." in value) and Path(value).is_file() else None
    except (OSError, ValueError):  # the value is too long for a path, or contains a null character
        return None


def _root(top: str) -> Path | None:
    """Return the folder on the Python path that contains a top-level module or package; None if it has no file."""
    try:
        spec = importlib.util.find_spec(top)  # finding a name without a dot imports nothing
    except (ImportError, ValueError):
        return None
    places = [*(spec.submodule_search_locations or [])] if spec else []
    if places:
        return Path(places[0]).resolve().parent
    return Path(spec.origin).resolve().parent if spec and spec.has_location and spec.origin else None


def _is_there(top: str) -> bool:
    try:
        return importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def _version(top: str) -> str | None:
    """Return the version of the installed library with the same name as the package; None if there is none."""
    try:
        return importlib.metadata.version(top)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None


def _existing(root: Path, dotted: str) -> list[str]:
    """List the existing packages and modules in a dotted name. For `lab.nets.Mine`, these are `lab` and `lab.nets`."""
    parts = dotted.split(".")
    names = [".".join(parts[: end + 1]) for end in range(len(parts))]
    return [name for name in names if _source(root, name) or (root / name.replace(".", "/")).is_dir()]


def _is_beside(root: Path, top: str, module: str) -> bool:
    """Return whether a module is in the package `top` or is one of the user's other modules in the same folder."""
    first = module.partition(".")[0]
    return first == top or (not LIBRARIES & {*root.parts} and first not in VERSIONED)


def _source(root: Path, name: str) -> Path | None:
    """Return the file of a module or package below the folder `root`; None if there is none."""
    place = root / name.replace(".", "/")
    candidates = [place / "__init__.py", place.with_name(f"{place.name}.py")]
    candidates += [place.with_name(place.name + suffix) for suffix in importlib.machinery.EXTENSION_SUFFIXES]
    return next((path for path in candidates if path.is_file()), None)


def _imports(name: str, path: Path) -> Iterator[str]:
    """Yield the absolute name of every import in a module's source file."""
    try:
        tree = ast.parse(path.read_bytes()) if path.suffix == ".py" else ast.Module([], [])
    except (SyntaxError, ValueError, RecursionError):  # Python reports such errors when it imports the module
        return
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" if base else alias.name for alias in node.names)
