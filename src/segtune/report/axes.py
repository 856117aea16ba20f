"""Find the axes on which the runs of a sweep differ, name each run's values on them, and group runs into configurations.

An axis is a group of the configuration, such as `loss` or `split`, in which some runs differ.
"""

import json
import shlex
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from segtune.report.records import Cell, Record
from segtune.runs import identity

FIRST = identity.AXES  # the scientific axes, in the order in which they are shown; others follow
RECIPE = "recipe"  # the config group whose options set the options and values of other groups
LEAST_PARTS = 3  # number of axes from which configurations that each differ from one in a single axis are named by it
Words = dict[str, list[str]]  # config group -> the words of a label that belong to it


def with_levels(records: Sequence[Record]) -> tuple[tuple[Record, ...], tuple[str, ...]]:
    """Find the axes. Returns: the records with their values on the axes (levels), and the names of the axes."""
    keys = (str(key) for record in records for key in record.config if key not in identity.BOOKKEEPING)
    labels = [identity.words(record.label, without=(*identity.REPLICATE, *identity.PATHS)) for record in records]
    words = [_by_group(of) for of in identity.with_varied(labels, [record.config for record in records])]
    names = {group: of for group in dict.fromkeys([*FIRST, *keys]) if (of := _names(group, records, words))}
    recipes = [record.options.get(RECIPE, "") for record in records]
    if len({*recipes}) > 1 and all(recipes):
        names = {RECIPE: recipes} | {group: of for group, of in names.items() if _vary_within(recipes, of)}
    found = [replace(one, levels={group: of[i] for group, of in names.items()}) for i, one in enumerate(records)]
    return tuple(found), tuple(names)


def _vary_within(recipes: Sequence[str], names: Sequence[str]) -> bool:
    """Return whether the runs of one recipe differ in a group of the configuration."""
    return len({*zip(recipes, names, strict=True)}) > len({*recipes})


def typed(axis: str, level: str) -> str:
    """Return a value on an axis in the form in which it is typed on the command line.

    For example, `focal` becomes `loss=focal`, and `batch.size=5` is unchanged.
    """
    return level if identity.key_of(level).partition(".")[0] == axis and "=" in level else f"{axis}={level}"


def _by_group(words: Sequence[str]) -> Words:
    """Return the words of a label, collected for each config group."""
    found: Words = defaultdict(list)
    for word in words:
        found[identity.key_of(word).partition(".")[0]].append(word)
    return found


def _names(group: str, records: Sequence[Record], words: Sequence[Words]) -> list[str]:
    """Return a name for each run's settings in one config group. Seed and fold are ignored.

    The list is empty if all runs have the same settings.
    """
    settings = [{group: _settings(group, record.config.get(group))} for record in records]
    if group == "data":
        settings = _with_fingerprints(settings, records)
    texts = [json.dumps(identity.flat(one), sort_keys=True) for one in settings]
    if len({*texts}) < 2:
        return []
    of = [one.get(group) or _default(group, record) for one, record in zip(words, records, strict=True)]
    shared = {*of[0]}.intersection(*of)
    named: dict[str, str] = {}  # equal settings have one name, the shortest, however they were typed
    for text, mine in zip(texts, of, strict=True):
        # An option's name stays even if all runs have it, because its keys cannot be typed without it.
        shown = [word for word in mine if word not in shared or word.startswith(f"{group}=")]
        name = " ".join(shown or mine).removeprefix(f"{group}=")
        named[text] = min(named.get(text, name), name, key=len)
    return _distinct([named[text] for text in texts], texts, group)


def _default(group: str, record: Record) -> list[str]:
    """Return the word for a config group that does not occur in the label.

    The word contains the default option of the group, or the value if the group is a single setting.
    """
    value = record.config.get(group)
    option = record.options.get(group, "") if isinstance(value, Mapping) else "null" if value is None else str(value)
    return [f"{group}={option}"] if option else []


def _distinct(named: list[str], texts: list[str], group: str) -> list[str]:
    """Make names unique.

    If different settings have the same name, the keys in which these settings differ are added to the name. A key that
    is missing in some settings is shown there as null.
    """
    behind: dict[str, set[str]] = defaultdict(set)
    for name, text in zip(named, texts, strict=True):
        behind[name].add(text)
    found = []
    for name, text in zip(named, texts, strict=True):
        flats = [json.loads(one) for one in behind[name]]
        varying = sorted({key for one in flats for key in one if any(one.get(key) != other.get(key) for other in flats)})
        said = " ".join(f"{key}={json.loads(text).get(key, 'null')}" for key in varying)
        found.append(f"{name} {said}".strip().removeprefix(f"{group}=").replace("data.fingerprint=", "fingerprint "))
    return found


def _settings(group: str, value: Any) -> Any:
    """The settings of a config group.

    Data paths are left out. The seed and the fold are also left out, because they differ between replicates.
    """
    without = (*identity.REPLICATE, *identity.PATHS)
    if not isinstance(value, Mapping):
        return None if group in without else value
    return {key: _settings(f"{group}.{key}", item) for key, item in value.items() if f"{group}.{key}" not in without}


def _with_fingerprints(of: Sequence[Mapping[str, Any]], raw: Sequence[Record]) -> list[dict[str, Any]]:
    """The settings of each run's data. If different data have the same settings, the fingerprint is added."""
    texts = [json.dumps(identity.flat(one), sort_keys=True) for one in of]
    if len({*zip(texts, (record.fingerprint for record in raw), strict=True)}) == len({*texts}):
        return [dict(one) for one in of]
    return [{"data": {**one["data"], "fingerprint": record.fingerprint[:6]}} for one, record in zip(of, raw, strict=True)]


def _whole_label(record: Record) -> str:
    return shlex.join(identity.words(record.label, without=(*identity.REPLICATE, *identity.PATHS)))


def group(records: Sequence[Record]) -> tuple[Cell, ...]:
    """Group runs into configurations, named by their values on the axes.

    If every configuration differs from one common configuration in a single axis, each configuration is named after the
    value in which it differs. The common configuration is then named after its recipe.
    """
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[identity.cell_id(record.config, record.fingerprint)].append(record)
    several = len({record.fingerprint for record in records}) > 1
    parts = _single_parts([of[0] for of in groups.values()])
    return tuple(
        Cell(
            (
                parts.get(of[0].run_id)
                or " ".join(typed(axis, level) for axis, level in of[0].levels.items())
                or _whole_label(of[0])
            )
            + (f" of data {of[0].fingerprint[:6]}" if several and "data" not in of[0].levels else ""),
            tuple(sorted(of, key=lambda record: (record.seed, record.fold or 0))),
        )
        for of in groups.values()
    )


def _single_parts(firsts: Sequence[Record]) -> dict[str, str]:
    """Name configurations after the single axis in which each of them differs from a common configuration.

    Args: firsts: one run of each configuration. Returns: run id -> name. The result is empty if there are fewer than
    LEAST_PARTS axes, if a configuration differs in several axes, or if no run has the common configuration.
    """
    axes = list(firsts[0].levels) if firsts else []
    if len(axes) < LEAST_PARTS:
        return {}
    usual = {axis: Counter(record.levels[axis] for record in firsts).most_common(1)[0][0] for axis in axes}
    differing = [[typed(axis, level) for axis, level in one.levels.items() if level != usual[axis]] for one in firsts]
    if max(map(len, differing)) > 1 or sum(not words for words in differing) != 1:
        return {}
    names = [
        words[0] if words else f"{RECIPE}={one.options.get(RECIPE, '')}" for words, one in zip(differing, firsts, strict=True)
    ]
    return {one.run_id: name for one, name in zip(firsts, names, strict=True)}
