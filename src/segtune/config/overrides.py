"""Preprocessing of the command line for Hydra: flags, overrides, config groups, and option names that look like numbers."""

import argparse
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, QuotedString, RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from segtune.config import CONF, plugins
from segtune.config.option_rules import is_number
from segtune.errors import InputError


def expanded(text: str) -> str:
    """Replace a leading ~ or ~user by the home folder.

    Path.expanduser is not used, because it also changes texts without ~ and raises an error for unknown users.
    """
    return os.path.expanduser(text)  # noqa: PTH111


_searched: list[Path] = [CONF]  # the folders in which this command looks for config groups


def arguments(typed: Sequence[str]) -> list[str]:
    """Convert the command line to the form that Hydra accepts.

    Flags come first, wherever they were typed, and then the overrides. Options that look like numbers are put in quotes.
    Hydra's own parser decides which words are flags or their values.
    """
    parser = get_args_parser()
    said = parser.parse_intermixed_args(typed)
    said.multirun = said.multirun and not (said.cfg or said.info)  # Hydra can only show the configuration of one run
    overrides = [at_home(override) for override in said.overrides]
    _searched[:] = search_path(said, overrides)
    flags = []
    for action in parser._actions:
        value = getattr(said, action.dest, None)
        if action.option_strings and value not in (None, False, action.default):
            flags += [action.option_strings[0]] if value is True else [action.option_strings[0], value]
    overrides = [quote_numbers(override) for override in overrides]
    return [*flags, *(as_axes(overrides) if said.multirun else overrides)]


HOME = re.compile(r"""(^|[,\[(:]\s*)(["']?)(~[\w.-]*)(?=$|[/,"'\])])""")


def with_study_of_recipe(words: Sequence[str]) -> list[str]:
    """Add study=NAME to a command line with recipe=NAME but no study. Do nothing if the recipe has no such study."""
    chosen = dict(word.split("=", 1) for word in words if "=" in word and not word.startswith("-"))
    recipe = chosen.get("recipe", "").strip("'\"")
    return [*words, *([f"study={recipe}"] if "study" not in chosen and option_file("study", recipe) else [])]


def at_home(override: str) -> str:
    """Replace a leading ~ or ~user in the values of an override by the home folder, because Hydra's grammar has no ~."""
    key, sign, value = override.partition("=")
    return key + sign + HOME.sub(lambda match: match[1] + match[2] + expanded(match[3]), value)


def search_path(said: argparse.Namespace, overrides: Sequence[str]) -> list[Path]:
    """Return the folders where Hydra looks for options.

    These are the primary config folder, the folders of installed plug-ins, the folder given with --config-dir, and the
    folders in an override of hydra.searchpath.
    """
    installed = [f"pkg://{package.replace('.', '/')}" for package in plugins.packages().values()]
    places = [said.config_path or CONF, *installed, *([said.config_dir] if said.config_dir else [])]
    for override in overrides:
        key, _, value = override.partition("=")
        if key.lstrip("+") == "hydra.searchpath":
            places += re.split(r"[\[\],'\"\s]+", value)
    found = []
    for place in filter(None, map(str, places)):
        scheme, sign, rest = place.partition("://")
        if scheme == "pkg" and sign:
            spec = importlib.util.find_spec(rest.strip("/").replace("/", "."))
            found += [Path(folder) for folder in (spec and spec.submodule_search_locations) or []]
        else:
            found.append(Path(rest if sign else place))
    return found


def groups() -> dict[str, list[str]]:
    """Return the config groups with the names of their options, including those in the user's own config folders."""
    known = {path.parent.relative_to(_searched[0]) for path in _searched[0].rglob("*.yaml")} - {Path()}
    own = {path.relative_to(top) for top in _searched[1:] if top.is_dir() for path in top.iterdir() if path.is_dir()}
    found = {group.as_posix(): sorted({path.stem for top in _searched for path in (top / group).glob("*.yaml")})
             for group in sorted(known | own)}  # fmt: skip
    return {group: names for group, names in found.items() if names}


def option_file(group: str, option: str) -> Path | None:
    """Return the file of an option from the first search folder that contains it, as Hydra does, or None."""
    return next((path for top in _searched if (path := top / group / f"{option}.yaml").is_file()), None)


BARE = {ord(bracket): None for bracket in "[]"}


def quote_numbers(override: str) -> str:
    """Put option names that look like numbers in quotes, because Hydra reads split=0.6 as a number and rejects it.

    The override is parsed with Hydra's own parser. Overrides without such options are returned unchanged.

    Raises: InputError if the override cannot be parsed, if it deletes a config group, or if it gives a list in brackets for a
        config group.
    """
    try:
        parsed = OverridesParser.create().parse_override(override)
        if not parsed.key_or_group:
            raise ValueError("no key")
    except (HydraException, ValueError) as error:
        raise InputError(
            f"{override!r} is not of the form key=value or key=value,value. If the value contains brackets, commas or "
            f"spaces, put it in double quotes inside the single quotes of the shell: 'key=\"value\"'."
        ) from error
    options = groups().get(parsed.key_or_group)
    if parsed.is_delete() and options is not None:
        others = ", ".join(f"{parsed.key_or_group}={option}" for option in options)
        raise InputError(f"{override}: this config group cannot be removed. A run needs one of {others}.")
    if options is None or parsed.is_delete():
        return override
    value: Any = parsed._value
    if isinstance(value, ChoiceSweep) and not value.shuffle:
        values: list[Any] = value.list
    elif isinstance(value, RangeSweep) and not value.shuffle:
        values = list(value.range())
    elif isinstance(value, list):
        raise InputError(
            f"{override}: a list in brackets would merge the options into one configuration. To start one run per option, "
            f"write {override.translate(BARE)} -m."
        )
    else:
        values = [value]
    if not any(value is None or is_number(value) for value in values):
        return override
    return f"{parsed.get_key_element()}={','.join(quoted(value, options) for value in values)}"


def as_axes(arguments: Sequence[str]) -> list[str]:
    """Turn overrides of keys that only some options of a group have into sweep axes with a single value.

    For example, reg.lambda=auto becomes reg.lambda=choice(auto).

    Hydra first composes a configuration without the axes of the sweep. In that step, reg.lambda=auto would fail if reg=l2 is
    chosen only by the grid, because the default option of reg has no lambda.
    """
    chosen = {group: name.strip("'\"") for group, _, name in (arg.partition("=") for arg in arguments)}

    def as_axis(argument: str) -> str:
        key, _, value = argument.partition("=")
        group, _, name = key.partition(".")
        owners = [option for option in groups().get(group, []) if has_key(group, option, name)]
        if not owners or chosen.get(group) in owners or len(owners) == len(groups()[group]) or value in ("", "null"):
            return argument
        is_sweep = OverridesParser.create().parse_override(argument).is_sweep_override()
        return argument if is_sweep or "${" in value else f"{key}=choice({value})"

    return [as_axis(argument) for argument in arguments]


def quoted(value: Any, options: Sequence[str]) -> str:
    """Return an option's name in quotes. A number is replaced by the option of equal value, and null by 'none'."""
    text = "none" if value is None else value.text if isinstance(value, QuotedString) else str(value)
    number = as_number(text)
    if number is not None:
        text = next(
            (name for name in options if as_number(name) is not None and math.isclose(as_number(name) or 0, number)), text
        )
    return f"'{text}'"


def as_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def has_key(group: str, option: str, key: str) -> bool:
    """Return whether the file of an option contains the key. Args: key: dotted name without the group, like lambda."""
    path = option_file(group, option)
    return path is not None and key in dotted_keys(OmegaConf.load(path))


def dotted_keys(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, DictConfig):
        return []
    keys = [str(key) for key in node]
    return [f"{prefix}{k}" for k in keys] + [d for k in keys for d in dotted_keys(node._get_node(k), f"{prefix}{k}.")]
