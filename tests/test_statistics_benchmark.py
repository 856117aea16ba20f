"""The benchmark of the statistics: every part runs, and its name hides no module of Python's own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def test_python_s_own_module_of_the_same_name_is_found_beside_it():
    code = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); import statistics; print(statistics.median([1, 2, 9]))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "2\n"


@pytest.mark.slow
def test_every_part_prints_and_keeps_its_rows(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "statistics.py"), "--sweeps", "2", "--out", str(tmp_path / "rows.json")]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert {*rows} == {"single", "power", "cross_validation", "looks", "winners", "detectable"}
    assert all(row["sweeps"] == 2 for of in rows.values() for row in of)
    assert len(rows["single"]) == 7 * 6 * 3 * 2
    assert ended.stdout.count("\n") > 100
