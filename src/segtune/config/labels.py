"""The label of a run: the words that give the same run again when they are typed after `python -m segtune`."""

import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, Node, OmegaConf

from segtune.config.overrides import dotted_keys, option_file
from segtune.runs.identity import AXES, BOOKKEEPING

Leaves = dict[str, Any]  # dotted key -> value, as a configuration holds it before interpolations are resolved


def options_of(choices: Mapping[str, Any]) -> dict[str, str]:
    """Return the chosen option of every config group that describes a run, from Hydra's `hydra.runtime.choices`."""
    return {
        group: str(option)
        for group, option in choices.items()
        if option is not None and group != "study" and not group.startswith("hydra/")
    }


class Labels:
    """Gives runs their labels. Configurations of bare options, with which a run is compared, are composed once each.

    Args: compose: composes a configuration from overrides, as the command line would.
    """

    def __init__(self, compose: Callable[[list[str]], DictConfig]) -> None:
        self._compose = compose
        self._defaults: dict[str, str] | None = None
        self._bare: dict[tuple[tuple[str, str], ...], Leaves] = {}

    def of(self, cfg: DictConfig, options: Mapping[str, str]) -> str:
        """Return the label of a composed configuration: loss=focal split=0.6 reg=none batch=15 optimizer.lr=0.001.

        It names loss, split, reg and batch, every other group whose option is not the default, and every value that differs
        from those of the options, whether a study, a grid or a person has set it.
        """
        if self._defaults is None:
            self._defaults = options_of(self._compose(["study=none"]).hydra.runtime.choices)
        bare = self._leaves_of(options)
        own = leaves(cfg)
        values = {key: value for key, value in own.items() if key not in bare or not _same(bare[key], value)}
        removed = [key for key, value in bare.items() if key not in own and value is not None]
        words = [_word(key if key in bare else f"+{key}", value) for key, value in values.items() if value is not None]
        words += [f"{key}=null" for key, value in values.items() if value is None and key in bare]
        return " ".join([*self._chosen(options, values), *words, *(f"~{key}" for key in removed)])

    def _chosen(self, options: Mapping[str, str], values: Leaves) -> Iterator[str]:
        """Yield group=option for the axes and for the options that are not the default ones."""
        defaults = self._defaults or {}
        for group in [*(axis for axis in AXES if axis in options), *(group for group in options if group not in AXES)]:
            is_default = defaults.get(group) == options[group]
            if is_default and (group not in AXES or _is_replaced(group, options[group], values)):
                continue
            yield shlex.quote(f"{group if group in defaults else f'+{group}'}={options[group]}")

    def _leaves_of(self, options: Mapping[str, str]) -> Leaves:
        """Return the values of a configuration in which nothing but these options is chosen."""
        key = tuple(sorted(options.items()))
        if key not in self._bare:
            defaults = self._defaults or {}
            chosen = [
                f"{group if group in defaults else f'+{group}'}='{option}'"
                for group, option in key
                if defaults.get(group) != option
            ]
            self._bare[key] = leaves(self._compose(["study=none", *chosen]))
        return self._bare[key]


def leaves(cfg: DictConfig) -> Leaves:
    """Return the values of a configuration by dotted key, without Hydra's own and without those that are no part of a run."""
    found: Leaves = {}

    def visit(node: DictConfig, prefix: str) -> None:
        for name in map(str, node):
            key, value = prefix + name, node._get_node(name)
            if key in BOOKKEEPING:
                continue
            if isinstance(value, DictConfig) and not value._is_none() and not value._is_interpolation() and len(value):
                visit(value, f"{key}.")
            elif isinstance(value, DictConfig | ListConfig):
                found[key] = None if value._is_none() else OmegaConf.to_container(value)
            elif isinstance(value, Node):
                found[key] = value._value()

    visit(cfg, "")
    return found


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal and, since Hydra tells 1 from true, of one kind."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _is_replaced(group: str, option: str, values: Leaves) -> bool:
    """Whether every value in the option's own file is replaced, so that naming the option would mislead."""
    path = option_file(group, option)
    own = dotted_keys(OmegaConf.load(path)) if path else []
    return bool(own) and all(f"{group}.{key}" in values for key in own)


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
