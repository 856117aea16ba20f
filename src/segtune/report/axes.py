"""The axes on which the runs of a sweep differ, the name of each run's value on them, and its configurations."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from segtune.report.records import Cell, Record
from segtune.report.scores import pool
from segtune.runs import identity

FIRST = ("loss", "split", "reg", "batch")  # the scientific axes, in the order in which they are shown; others follow


def with_levels(records: Sequence[Record]) -> tuple[tuple[Record, ...], tuple[str, ...]]:
    """The records with their values on the axes, and the axes: the groups of the configuration in which they differ."""
    keys = (str(key) for record in records for key in record.config if key not in identity.BOOKKEEPING)
    names = {group: of for group in dict.fromkeys([*FIRST, *keys]) if (of := _names(group, records))}
    found = [replace(one, levels={group: of[i] for group, of in names.items()}) for i, one in enumerate(records)]
    return tuple(found), tuple(names)


def _names(group: str, records: Sequence[Record]) -> list[str]:
    """A name for each run's settings of this group (beyond seed and fold); empty if all runs have the same settings."""
    settings = [{group: _settings(group, record.config.get(group))} for record in records]
    if group == "data":
        settings = _with_fingerprints(settings, records)
    texts = [json.dumps(identity.flat(one), sort_keys=True) for one in settings]
    distinct = dict(zip(texts, settings, strict=True))
    if len(distinct) < 2:
        return []
    differences = dict(zip(distinct, identity.differences(list(distinct.values())), strict=True))
    named = [_name(group, record, differences[text]) for record, text in zip(records, texts, strict=True)]
    return _distinct(named, texts, group)


def _name(group: str, record: Record, difference: str) -> str:
    """The short name of a group's settings (focal, l2(0.01)) followed by what differs besides: gamma=3."""
    short = identity.axes(record.config).get(group, "")
    words = [word.removeprefix(f"{group}.").removeprefix("fingerprint=") for word in difference.split(", ")]
    return " ".join(filter(None, [short, ", ".join(words)])) or str(record.config.get(group))


def _distinct(named: list[str], texts: list[str], group: str) -> list[str]:
    """Add the settings that differ (null included) to names that different settings share."""
    behind: dict[str, set[str]] = defaultdict(set)
    for name, text in zip(named, texts, strict=True):
        behind[name].add(text)
    found = []
    for name, text in zip(named, texts, strict=True):
        flats = [json.loads(one) for one in behind[name]]
        varying = sorted({key for one in flats for key in one if any(one.get(key) != other.get(key) for other in flats)})
        said = ", ".join(f"{key.removeprefix(f'{group}.')}={json.loads(text).get(key, 'null')}" for key in varying)
        found.append(f"{name} {said}".strip())
    return found


def _settings(group: str, value: Any) -> Any:
    """A group of a configuration, without what differs between replicates (seed, fold) and without paths of data."""
    without = (*identity.REPLICATE, *identity.PATHS)
    if not isinstance(value, Mapping):
        return None if group in without else value
    return {key: _settings(f"{group}.{key}", item) for key, item in value.items() if f"{group}.{key}" not in without}


def _with_fingerprints(of: Sequence[Mapping[str, Any]], raw: Sequence[Record]) -> list[dict[str, Any]]:
    """The settings of each run's data, with the fingerprint if different data have the same settings."""
    texts = [json.dumps(identity.flat(one), sort_keys=True) for one in of]
    if len({*zip(texts, (record.fingerprint for record in raw), strict=True)}) == len({*texts}):
        return [dict(one) for one in of]
    return [{"data": {**one["data"], "fingerprint": record.fingerprint[:6]}} for one, record in zip(of, raw, strict=True)]


def group(records: Sequence[Record]) -> tuple[Cell, ...]:
    """The configurations of these runs, named by their values on the axes."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[identity.cell_id(record.config, record.fingerprint)].append(record)
    several = len({record.fingerprint for record in records}) > 1
    cells = [
        Cell(
            (" ".join(f"{axis}={level}" for axis, level in of[0].levels.items()) or identity.label(of[0].config))
            + (f" of data {of[0].fingerprint[:6]}" if several and "data" not in of[0].levels else ""),
            tuple(sorted(of, key=lambda record: (record.seed, record.fold or 0))),
        )
        for of in groups.values()
    ]
    pooled = pool([cell.scores for cell in cells])
    return tuple(replace(cell, pooled=pooled) for cell in cells)
