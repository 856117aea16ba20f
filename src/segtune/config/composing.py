"""Compose the configurations of a sweep. Hydra composes each option only once; the results are then combined."""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, Node, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segtune.config.overrides import groups
from segtune.runs.identity import BOOKKEEPING

Compose = Callable[[list[str]], DictConfig]  # composition by Hydra: overrides -> a configuration with a `hydra` node
Leaves = dict[str, Any]  # dotted key -> value, before interpolations are resolved
MOST_KEPT = 500  # largest number of configurations in one cache, about 100 KB each


class Composed(NamedTuple):
    """One composed configuration.

    Attributes:
        cfg: the configuration without its `hydra` node.
        options: dict from each config group to the chosen option.
        outputs: the output folder of a sweep with this configuration.
    """

    cfg: DictConfig
    options: dict[str, str]
    outputs: str

    @classmethod
    def of(cls, cfg: DictConfig) -> "Composed":
        """Convert a configuration that Hydra has composed. Its `hydra` node is removed."""
        own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
        return cls(own, options_of(cfg.hydra.runtime.choices), str(cfg.hydra.sweep.dir))


class Composer:
    """Composes many configurations that differ in options and values, faster than Hydra alone.

    Hydra takes about 0.1 s per configuration, even if configurations differ only slightly. This class lets Hydra
    compose each option only once, separately. It then combines the sections of the chosen options, and sets plain
    values as Hydra would. Hydra composes the whole configuration if an override does more than choose an option or set
    an existing key, or if an option also changes other groups.
    """

    def __init__(self, compose: Compose) -> None:
        self._compose = compose
        self._groups = frozenset(groups())
        self._kinds: dict[str, str] = {}
        self._by_hydra: dict[tuple[str, ...], Composed] = {}
        self._bases: dict[tuple[str, ...], Composed] = {}
        self._refused: dict[tuple[tuple[str, ...], str], HydraException] = {}

    def __call__(self, overrides: Sequence[str]) -> Composed:
        """Return the configuration for these overrides. Raises: the errors that Hydra raises for them."""
        others = tuple(override for override in overrides if self._kind(override) != "value")
        base = self._base(others)
        cfg = copy.deepcopy(base.cfg)
        for override in (_parsed(override) for override in overrides if self._kind(override) == "value"):
            key = override.get_key_element()
            if not _has(cfg, key):
                return self._refuse(overrides, others, key)
            try:
                OmegaConf.update(cfg, key, override.value(), merge=True)
            except OmegaConfBaseException:  # let Hydra explain why this value cannot be set
                return Composed.of(self._compose(list(overrides)))
        return base._replace(cfg=cfg)

    def _base(self, overrides: tuple[str, ...]) -> Composed:
        """Return the configuration for overrides that set no values, combined from single options if possible."""
        if overrides not in self._bases:
            chosen = [override for override in overrides if self._kind(override) == "option"]
            others = tuple(override for override in overrides if self._kind(override) == "other")
            together = self._together(others, chosen) if len(chosen) > 1 else None
            if together is None:
                return self._whole(overrides)
            _keep(self._bases, overrides, together)
        return self._bases[overrides]

    def _together(self, others: tuple[str, ...], chosen: Sequence[str]) -> Composed | None:
        """Combine the configurations of single options. Return None if the result would differ from what Hydra composes."""
        named = [_parsed(override).get_key_element() for override in chosen]
        try:
            plain, parts = self._whole(others), [self._whole((*others, override)) for override in chosen]
        except HydraException:  # an override needs one of the options, or is wrong; Hydra composes the whole or says why
            return None
        if len({*named}) < len(named) or any(_reaches_beyond(of, part, plain) for of, part in zip(named, parts, strict=True)):
            return None
        cfg = copy.deepcopy(plain.cfg)
        OmegaConf.set_struct(cfg, False)
        for group, part in zip(named, parts, strict=True):
            cfg[group] = copy.deepcopy(part.cfg[group])
        OmegaConf.set_struct(cfg, True)
        changed = [(key, option) for part in parts for key, option in part.options.items() if plain.options.get(key) != option]
        return plain._replace(cfg=cfg, options=plain.options | dict(changed))

    def _whole(self, overrides: tuple[str, ...]) -> Composed:
        """Return what Hydra composes from these overrides."""
        if overrides not in self._by_hydra:
            _keep(self._by_hydra, overrides, Composed.of(self._compose(list(overrides))))
        return self._by_hydra[overrides]

    def _refuse(self, overrides: Sequence[str], others: tuple[str, ...], key: str) -> Composed:
        """Raise Hydra's error for an unknown key. The error is cached for each choice of options."""
        if (others, key) not in self._refused:
            try:
                return Composed.of(self._compose(list(overrides)))
            except HydraException as error:
                self._refused[others, key] = error
        raise self._refused[others, key].with_traceback(None)

    def _kind(self, override: str) -> str:
        """Return the kind of an override: "value" (like optimizer.lr=1e-3), "option" (like loss=focal), or "other".

        Overrides of `outputs` and `recipe` are of the kind "other", because `outputs` also changes the output folder of
        a sweep in the `hydra` node, and `recipe` changes many groups.
        """
        if override not in self._kinds:
            parsed = _parsed(override)
            key = parsed.key_or_group
            is_usual = parsed.type == OverrideType.CHANGE and parsed.package is None and not parsed.is_sweep_override()
            is_usual = is_usual and "/" not in key and "${" not in override and key not in ("outputs", "study", "recipe")
            if not is_usual or key.startswith("hydra"):
                kind = "other"
            elif key in self._groups:
                kind = "option" if isinstance(parsed.value(), str | QuotedString) else "other"
            else:
                kind = "value"
            self._kinds[override] = kind
        return self._kinds[override]


def options_of(choices: Mapping[str, Any] | DictConfig) -> dict[str, str]:
    """Return the chosen option of every config group that describes a run, from Hydra's `hydra.runtime.choices`."""
    return {
        str(group): str(option)
        for group, option in choices.items()
        if option is not None and group != "study" and not str(group).startswith("hydra/")
    }


def leaves(cfg: DictConfig) -> Leaves:
    """Return a dict from the dotted keys of a configuration to their values.

    Keys that do not describe a run (see BOOKKEEPING) are left out.
    """
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


def _reaches_beyond(group: str, part: Composed, plain: Composed) -> bool:
    """Return whether an option changes more than its own group, or fails to create a config node named after the group."""
    if not isinstance(part.cfg.get(group), DictConfig) or not isinstance(plain.cfg.get(group), DictConfig):
        return True
    beyond = [{key: value for key, value in leaves(one.cfg).items() if key.partition(".")[0] != group} for one in (part, plain)]
    return beyond[0] != beyond[1] or part.outputs != plain.outputs


def _keep(kept: dict[tuple[str, ...], Composed], overrides: tuple[str, ...], composed: Composed) -> None:
    if len(kept) == MOST_KEPT:
        kept.clear()
    kept[overrides] = composed


@functools.lru_cache(maxsize=10_000)
def _parsed(override: str) -> Override:
    return OverridesParser.create().parse_override(override)


def _has(cfg: DictConfig, key: str) -> bool:
    """Return whether the configuration has this dotted key, whatever its value."""
    parent, _, name = key.rpartition(".")
    try:
        node = OmegaConf.select(cfg, parent) if parent else cfg
    except OmegaConfBaseException:
        return False
    return isinstance(node, DictConfig) and name in list(node.keys())  # `name in node` is False for a missing value
