"""The label of a run: the overrides that repeat this run if they are typed after `python -m segtune`."""

import functools
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from segtune.config.composing import Composed, Leaves, leaves
from segtune.config.overrides import dotted_keys, option_file
from segtune.runs.identity import AXES


class Labels:
    """Creates the labels of runs.

    The values that a run has changed are found by comparing its configuration with one that is composed from the run's
    options only. For each choice of options, the latter is composed only once.

    Args: compose: composes a configuration from overrides, as the command line would.
    """

    def __init__(self, compose: Callable[[list[str]], Composed]) -> None:
        self._compose = compose
        self._defaults: dict[str, dict[str, str]] = {}
        self._bare: dict[tuple[tuple[str, str], ...], Leaves] = {}

    def of(self, cfg: DictConfig, options: Mapping[str, str]) -> str:
        """Return the label of a run, for example loss=focal split=0.6 reg=none batch=15 optimizer.lr=0.001.

        The label contains the options of loss, split, reg and batch, and all other options that are not the default of
        their group. It also contains all values that differ from those of the options, whether they were set by a
        study, a grid or the user.
        """
        bare = self._leaves_of(options)
        own = leaves(cfg)
        values = {key: value for key, value in own.items() if key not in bare or not _same(bare[key], value)}
        removed = [key for key, value in bare.items() if key not in own and value is not None]
        words = [_word(key if key in bare else f"+{key}", value) for key, value in values.items() if value is not None]
        words += [f"{key}=null" for key, value in values.items() if value is None and key in bare]
        return " ".join([*self._chosen(options, values), *words, *(f"~{key}" for key in removed)])

    def _chosen(self, options: Mapping[str, str], values: Leaves) -> Iterator[str]:
        """Yield group=option for the axes (AXES), and for all other groups whose option is not the default."""
        defaults = self._defaults_of(options)
        for group in [*(axis for axis in AXES if axis in options), *(group for group in options if group not in AXES)]:
            is_default = defaults.get(group) == options[group]
            if is_default and (group not in AXES or _is_replaced(group, options[group], values)):
                continue
            yield shlex.quote(f"{group if group in defaults else f'+{group}'}={options[group]}")

    def _defaults_of(self, options: Mapping[str, str]) -> dict[str, str]:
        """Return the default option of every group. All of them except `recipe` depend on the chosen recipe."""
        if not self._defaults:
            self._defaults[""] = self._compose(["study=none"]).options
        usual = self._defaults[""]
        recipe = options.get("recipe", "")
        if recipe == usual.get("recipe"):
            return usual
        if recipe not in self._defaults:
            self._defaults[recipe] = self._compose(["study=none", f"recipe='{recipe}'"]).options
        return self._defaults[recipe] | {"recipe": usual["recipe"]}

    def _leaves_of(self, options: Mapping[str, str]) -> Leaves:
        """Return the values of a configuration composed from these options only."""
        key = tuple(sorted(options.items()))
        if key not in self._bare:
            defaults = self._defaults_of(options)
            chosen = [
                f"{group if group in defaults else f'+{group}'}='{option}'"
                for group, option in key
                if defaults.get(group) != option
            ]
            self._bare[key] = leaves(self._compose(["study=none", *chosen]).cfg)
        return self._bare[key]


def _same(one: Any, other: Any) -> bool:
    """Return whether two values are equal. 1 and true count as different, because Hydra distinguishes them."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _is_replaced(group: str, option: str, values: Leaves) -> bool:
    """Return whether `values` replaces every value in an option's file.

    The option is then left out of the label, because it would be misleading.
    """
    own = _own_keys(option_file(group, option))
    return bool(own) and all(f"{group}.{key}" in values for key in own)


@functools.cache
def _own_keys(path: Path | None) -> tuple[str, ...]:
    """Return the dotted keys in an option's file."""
    return tuple(dotted_keys(OmegaConf.load(path))) if path else ()


def _word(key: str, value: Any) -> str:
    """Return key=value in Hydra's grammar, quoted for the shell."""
    return shlex.quote(f"{key}={_written(value)}")


def _written(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_written, value)) + "]"
    if not isinstance(value, str):
        return {True: "true", False: "false"}[value] if isinstance(value, bool) else "null" if value is None else repr(value)
    try:
        is_plain = OverridesParser.create().parse_override(f"key={value}").value() == value
    except HydraException:
        is_plain = False
    escaped = value.replace("\\", "\\\\") if value.endswith("\\") else value
    return value if is_plain else "'" + escaped.replace("'", "\\'") + "'"
