"""The provenance of a report: data, code, versions and machines of its runs."""

import math
from collections import Counter
from collections.abc import Callable, Mapping

from segtune.report.records import Record, Sweep

MOST = 12  # the most values that are listed for a fact


def provenance(sweep: Sweep) -> list[tuple[str, list[str]]]:
    """List each fact with its values, and the number of runs with each value."""
    facts: dict[str, Callable[[Record], str]] = {
        "data": _data,
        "leaks": lambda record: f"{len(record.result['data'].get('leaks') or ())} patients in both training and validation",
        "images": lambda record: _listed(record.result["data"].get("n_images"), "{1} {0}"),
        "code": _code,
        "versions": lambda record: _listed(record.result.get("versions"), "{0} {1}"),
        "machine": lambda record: _listed(record.result.get("machine"), "{0} {1}") or "not recorded",
    }
    return [
        *((name, _distinct(sweep, value)) for name, value in facts.items()),
        ("peak memory", [f"{max(_memory(record) for record in sweep.records):.0f} MB at most"]),
        ("commands", list(sweep.commands)),
    ]


def _distinct(sweep: Sweep, value: Callable[[Record], str]) -> list[str]:
    found = Counter(value(record) for record in sweep.records)
    return [text if n == len(sweep.records) else f"{text} ({n} runs)" for text, n in found.most_common(MOST)]


def _listed(items: Mapping[str, object] | None, form: str) -> str:
    return ", ".join(form.format(key, value) for key, value in (items or {}).items() if value is not None)


def _data(record: Record) -> str:
    reader = record.config["data"].get("reader") or {}
    about = record.result["data"]
    name = str(reader.get("_target_", "")).removesuffix(".read").rpartition(".")[2]
    patients = {p for side in about["patients"].values() for p in side}
    return f"{name}, {len(patients)} patients, fingerprint {about.get('fingerprint')}"


def _code(record: Record) -> str:
    git = record.result.get("git") or {}
    if not git.get("commit"):
        return "no checkout"
    return f"commit {git['commit']}{' with uncommitted changes' if git.get('dirty') else ''}"


def _memory(record: Record) -> float:
    found = record.result.get("peak_memory_mb")
    return float(found.get("process", math.nan)) if isinstance(found, Mapping) else math.nan
