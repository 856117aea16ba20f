"""Ask the OSV database whether a version in constraints.txt has a published hole; exit code 1 if one has.

Where the database cannot be reached this says so, and is no failure: nothing is known then, neither good nor bad.
"""

import json
import re
import sys
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

OSV = "https://api.osv.dev/v1/querybatch"
ACCEPTED: dict[str, str] = {}  # id of an advisory -> why it does not concern segtune
Ask = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def ask(question: Mapping[str, Any]) -> Mapping[str, Any]:
    request = urllib.request.Request(OSV, json.dumps(question).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def pinned(text: str) -> list[tuple[str, str]]:
    """Names and versions; a build's own mark (+cpu) is no part of a version."""
    return re.findall(r"^([\w.-]+)==([^\s+;#]+)", text, re.MULTILINE)


def found(packages: list[tuple[str, str]], ask: Ask) -> list[str]:
    """A line for each package with advisories that are not ACCEPTED."""
    queries = [{"package": {"name": name, "ecosystem": "PyPI"}, "version": version} for name, version in packages]
    answers = ask({"queries": queries})["results"]
    lines = []
    for (name, version), answer in zip(packages, answers, strict=True):
        if ids := sorted({one["id"] for one in answer.get("vulns") or ()} - {*ACCEPTED}):
            lines.append(f"{name}=={version}: {', '.join(ids)}")
    return lines


def main(path: Path, ask: Ask = ask) -> int:
    packages = pinned(path.read_text())
    try:
        lines = found(packages, ask)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        print(f"advisories: the list cannot be had ({OSV}: {error}), so {len(packages)} versions are NOT checked.")
        return 0
    print("\n".join([f"advisories: {len(packages)} versions checked, {len(lines)} with known holes.", *lines]))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parents[1] / "constraints.txt"))
