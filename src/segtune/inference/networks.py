"""Build the network of a run's folder, which may come from an untrusted source.

Only listed classes are built. They are called directly, and their arguments must be plain values, which are checked
first. Hydra and OmegaConf are not used, because they run any code that is named in a `_target_` or in `${...}` of a
configuration, even deep inside an argument. A class that is not listed is imported and called only if the user names it
(trust).
"""

import importlib
import inspect
import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segtune.errors import InputError

Check = tuple[Callable[[Any], bool], str]  # a test of a value, and a description of valid values

MOST_CHANNELS = 4096
MOST_VALUES, DEEPEST = 1000, 8  # limits on all arguments of a trusted class: number of values, and depth of nesting
LARGEST_NUMBER = 1e6
NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)  # package.module.Class
KEY = re.compile(r"[A-Za-z]\w{0,63}", re.ASCII)  # excludes Hydra's keys, which begin with _
TEXT = re.compile(r"[A-Za-z0-9_+ -]{0,64}", re.ASCII)  # excludes paths, URLs, file names, modules and interpolations
FETCHES = {"pretrain", "pretrained", "download"}  # words in names of arguments that make a class download something
PLACES = {  # words in names of arguments that name a file or an address, unless their value is a number or a flag
    *("url", "urls", "uri", "href", "path", "paths", "file", "files", "filename", "filepath", "dir", "directory", "folder"),
    *("root", "checkpoint", "checkpoints", "ckpt", "cache", "hub", "repo", "repository", "weights"),
}


def _whole(low: int, high: int) -> Check:
    return lambda v: type(v) is int and low <= v <= high, f"a whole number from {low} to {high}"


def _exactly(number: int) -> Check:
    return lambda v: type(v) is int and v == number, str(number)


def _real(low: float, high: float) -> Check:
    return lambda v: _is_number(v) and low <= v <= high, f"a number from {low:g} to {high:g}"


def _wholes(n: int, low: int, high: int) -> Check:
    return (
        lambda v: isinstance(v, list) and len(v) == n and all(type(one) is int and low <= one <= high for one in v),
        f"a list of {n} whole numbers from {low} to {high}",
    )


def _either(*checks: Check) -> Check:
    return lambda v: any(fulfils(v) for fulfils, _ in checks), " or ".join(requirement for _, requirement in checks)


def _named(names: Collection[str], options: Mapping[str, Check]) -> Check:
    """Return the check for a setting that gives a layer type.

    A valid value is one of the names, or a list [name, options], where options is a mapping.
    """

    def fulfils(value: Any) -> bool:
        if isinstance(value, str):
            return value.lower() in names
        if not (isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], dict)):
            return False
        return value[0].lower() in names and all(key in options and options[key][0](one) for key, one in value[1].items())

    return fulfils, f"one of {', '.join(sorted(names))}"


FLAG: Check = (lambda v: isinstance(v, bool), "true or false")
DROPOUT: Check = (lambda v: _is_number(v) and 0 <= v < 1, "a number of at least 0 and below 1")
KERNEL = _either(_whole(1, 15), _wholes(2, 1, 15))
LISTED: dict[str, dict[str, Check]] = {  # the networks of conf/model and the valid values of their arguments
    "segtune.nets.UNet": {
        "width": _whole(1, MOST_CHANNELS // 4),
        "dropout": DROPOUT,
        "bn_momentum": _real(0, 1),
        "convolutions": _whole(1, 32),
    },
    "segtune.nets.PlainUNet": {
        "width": _whole(1, MOST_CHANNELS // 16),
        "convolutions": _whole(1, 16),
        "norm": (lambda v: v in ("batch", "instance"), "batch or instance"),
        "bn_momentum": _real(0, 1),
    },
    "monai.networks.nets.BasicUNet": {
        **{"spatial_dims": _exactly(2), "in_channels": _exactly(1), "out_channels": _exactly(1)},
        "features": _wholes(6, 1, MOST_CHANNELS),
        "act": _named(
            {"elu", "gelu", "leakyrelu", "mish", "prelu", "relu", "relu6", "selu", "swish"},
            {"inplace": FLAG, "negative_slope": _real(0, 1), "alpha": _real(0, 10)},
        ),
        "norm": _named({"batch", "instance"}, {"affine": FLAG, "eps": _real(0, 1), "momentum": _real(0, 1)}),
        "bias": FLAG,
        "dropout": DROPOUT,
        "upsample": (
            lambda v: isinstance(v, str) and v in ("deconv", "nontrainable", "pixelshuffle"),
            "deconv, nontrainable or pixelshuffle",
        ),
    },
    "monai.networks.nets.AttentionUnet": {
        **{"spatial_dims": _exactly(2), "in_channels": _exactly(1), "out_channels": _exactly(1)},
        "channels": _wholes(5, 2, MOST_CHANNELS),
        "strides": _wholes(4, 1, 2),
        **{"kernel_size": KERNEL, "up_kernel_size": KERNEL},
        "dropout": DROPOUT,
    },
}


def trusted(names: Any) -> tuple[str, ...]:
    """Check the user's value of trust= and return it as a tuple of class names.

    Raises: InputError if the value is not None, a class name or a list of class names.
    """
    given = [names] if isinstance(names, str) else names
    if given is None:
        return ()
    if not isinstance(given, list | tuple) or not all(isinstance(one, str) and NAME.fullmatch(one) for one in given):
        raise InputError("trust=: give the full names of network classes that you trust, like trust=[mypackage.nets.MyNet].")
    return tuple(given)


def checked(model: Any, source: Path, trust: Collection[str] = ()) -> tuple[str, dict[str, Any]]:
    """Check a network's configuration and return the name of its class and its arguments. Nothing is imported or called.

    Args:
        model: the part `model` of a run's configuration.
        source: the file that contains the configuration, for error messages.
        trust: names of classes that are allowed in addition to LISTED.
    Raises: InputError for a class that is neither listed nor trusted, and for arguments that are not valid plain values.
    """
    target = model.get("_target_") if isinstance(model, Mapping) else None
    is_name = isinstance(target, str) and len(target) < 200 and NAME.fullmatch(target) is not None
    if not is_name or (target not in LISTED and target not in trust):
        raise InputError(
            f"{source}: its network is {target if is_name else _shown(target)}. Building it would run code that this file "
            f"names, so only these networks are built from a run's folder: {', '.join(LISTED)}."
            + (f" If you trust this class, add trust=[{target}]." if is_name else "")
        )
    arguments = {key: value for key, value in model.items() if key != "_target_"}
    for key, value in arguments.items():
        if any(mark in json.dumps(value) for mark in ('"_target_"', "${")):
            raise InputError(f"{source}: model.{_shown(key)}={_shown(value)}. Using it would run code that this file names.")
    for key in arguments:
        if not (isinstance(key, str) and KEY.fullmatch(key)):
            raise InputError(f"{source}: its network has an argument named {_shown(key)}, which is not a valid name.")
    wrong = _wrong_of_listed(LISTED[target], arguments) if target in LISTED else _wrong_of_trusted(arguments)
    if wrong:
        raise InputError(f"{source}: model.{wrong}. Networks from a run's folder may only have plain arguments.")
    return str(target), arguments


def _wrong_of_listed(known: Mapping[str, Check], arguments: Mapping[str, Any]) -> str | None:
    """Describe the first invalid argument of a listed class; None if all are valid."""
    for key, value in arguments.items():
        if key not in known:
            return f"{key}: unknown argument. Known: {', '.join(known)}"
        fulfils, requirement = known[key]
        if not fulfils(value):
            return f"{key}={_shown(value)}: must be {requirement}"
    return None


def _wrong_of_trusted(arguments: Mapping[str, Any]) -> str | None:
    """Describe an invalid argument of a class that the user trusts; None if all are valid.

    Valid arguments are plain values that do not name a file or a web address.
    """
    waiting: list[tuple[str, Any, int]] = [(str(key), value, 1) for key, value in arguments.items()]
    n = 0
    while waiting:
        key, value, depth = waiting.pop()
        n += 1
        if n > MOST_VALUES or depth > DEEPEST:
            return f"{key[:64]}: too many values, or values nested too deeply"
        if leads_outside(key.rpartition(".")[2], value):
            return f"{key[:200]}={_shown(value)}: no file is read or downloaded, because the run's folder contains all weights"
        if isinstance(value, dict):
            inner = [(f"{key}.{one}", item, depth + 1) for one, item in value.items()]
            if not all(KEY.fullmatch(str(one)) for one in value):
                return f"{key[:200]}: contains a key that is not a valid name"
            waiting += inner
        elif isinstance(value, list):
            waiting += [(key, item, depth + 1) for item in value]
        elif isinstance(value, str):
            if not TEXT.fullmatch(value):
                return f"{key[:200]}={_shown(value)}: must be a word, not a path, address, file name or interpolation"
        elif not (value is None or isinstance(value, bool) or (_is_number(value) and abs(value) <= LARGEST_NUMBER)):
            return f"{key[:200]}={_shown(value)}: must be a finite number of at most {LARGEST_NUMBER:.0f}"
    return None


def leads_outside(name: str, value: Any) -> bool:
    """Return whether an argument makes a class read a file or download one, for example pretrained=true or weights_path=..."""
    words = {*re.split(r"[_\d]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower())}
    if words & FETCHES and value is not None and value is not False:
        return True
    return bool(words & PLACES) and isinstance(value, str | list | dict)


def build(target: str, arguments: Mapping[str, Any], *, device: str = "meta") -> nn.Module:
    """Build a network. Its class and arguments must be those that `checked` returned.

    Args: device: the device of the weights. On "meta", no memory is allocated. The weights are loaded from the
        checkpoint later.
    Raises: InputError if the class cannot be imported or is not a network. If the arguments are wrong, the class may
        raise any exception.
    """
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # the module of a trusted class may raise anything
        raise InputError(f"{target}: cannot be imported ({type(error).__name__}). Install its package.") from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise InputError(f"{target}: this is not a network class (a subclass of torch.nn.Module).")
    # Some classes download pretrained weights by default, which is useless: the checkpoint contains all weights.
    unset = {key: False for key in inspect.signature(found).parameters if key == "pretrained" and key not in arguments}
    with torch.device(device):
        return found(**arguments, **unset)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _shown(value: Any) -> str:
    """Return a value from a file as short text for an error message."""
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "a huge number"
    return text if len(text) <= 80 else f"{text[:77]}..."
