"""segtune against the usual stack and the study's Keras network, in turn, in one go.

    python benchmarks/speed.py --quick              fewer and smaller images
    python benchmarks/speed.py                      everything
    python benchmarks/speed.py --part run --keras tfvenv/bin/python

Every side is a process of its own on the same images of the phantom, sides in turn (A B C A B C), medians of --repeats (by
default 3 of a single run, 1 of a sweep and of each size), with every repeat's values beside them. Per epoch: the
median over the epochs after each process's first, training and validation. Wall and CPU seconds are the whole command's, from
start to exit, peak memory its largest process's (os.wait4). Needs the packages of ".[dev]"; Keras runs if --keras names a
Python that has tensorflow-cpu. Prints tables and writes benchmarks/speed.json (quick: speed-quick.json), part by part.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from provenance import about

from segtune.config import entry
from segtune.runs.tables import read_history
from segtune.training import build

PARTS = {"run": 3, "sweep": 1, "growth": 1}  # and how often each is repeated unless --repeats says
HERE = Path(__file__).resolve().parent
FIXED = ["loss=bce_dice", "reg=none", "split=0.2", "batch=15", "figures=false", "trainer.accelerator=cpu"]


@dataclass
class Case:
    """Images to train on: what segtune is told, and the same as a file for the others."""

    overrides: list[str]
    file: Path
    n: int

    @classmethod
    def of(cls, folder: Path, patients: int, size: int) -> "Case":
        overrides = [f"data.n_patients={patients}", f"data.size={size}"]
        cfg = entry.compose([*FIXED, *overrides])
        slices = build.slices(cfg)
        sides = build.split(cfg, slices)
        arrays = {f"image{i}": item.image for i, item in enumerate(slices)}
        arrays |= {f"mask{i}": item.mask.astype(np.float32) for i, item in enumerate(slices)}
        file = folder / f"{patients}-{size}.npz"
        np.savez(file, size=size, patients=list(slices.patients), train=sides.train, val=sides.val, **arrays)
        return cls(overrides, file, len(slices))


def segtune(case: Case, epochs: int, *more: str) -> list[str]:
    return [sys.executable, "-m", "segtune", *FIXED, *case.overrides, f"trainer.max_epochs={epochs}", *more]


def usual(case: Case, epochs: int, *more: str) -> list[str]:
    return [sys.executable, str(HERE / "usual_stack.py"), "--data", str(case.file), "--epochs", str(epochs), *more]


def measure(command: list[str], folder: Path) -> dict[str, float]:
    """Run the command, in which {} stands for a new folder in this one, to its end."""
    new = Path(tempfile.mkdtemp(dir=folder))
    load = os.getloadavg()[0]
    begun = time.perf_counter()
    with (new / "output.log").open("w") as log:
        process = subprocess.Popen([part.format(new) for part in command], stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{(new / 'output.log').read_text()[-3000:]}")
    seconds = [json.loads(path.read_text()) for path in new.rglob("seconds.json")]
    seconds += [read_history(path.parent)["seconds"] for path in new.rglob("history.csv")]
    later = [value for epochs in seconds for value in epochs[1:]]
    return {
        "epoch_s": statistics.median(later) if later else float("nan"),
        "wall_s": wall,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss / 1024,
        "load_before": load,
    }


Repeats = dict[str, list[dict[str, float]]]  # side -> the measures of each repeat


def in_turn(sides: dict[str, list[list[str]]], repeats: int, folder: Path) -> Repeats:
    """Each side's commands one after another, the sides in turn."""
    found: Repeats = {name: [] for name in sides}
    for repeat in range(repeats):
        for name, commands in sides.items():
            parts = [measure(command, folder) for command in commands]
            total = {key: sum(part[key] for part in parts) for key in ("wall_s", "cpu_s")}
            found[name].append(
                total
                | {key: statistics.median(part[key] for part in parts) for key in ("epoch_s", "load_before")}
                | {"peak_mb": max(part["peak_mb"] for part in parts)}
            )
            print(
                f"  {repeat + 1}/{repeats} {name}: " + ", ".join(f"{k} {v:.2f}" for k, v in found[name][-1].items()), flush=True
            )
    return found


def medians(found: Repeats) -> dict[str, dict[str, float]]:
    return {name: {key: statistics.median(one[key] for one in ones) for key in ones[0]} for name, ones in found.items()}


def table(title: str, rows: dict[str, dict[str, float]], reference: str) -> str:
    """Markdown: each measure, and in brackets how many times segtune's it is."""
    columns = {"epoch_s": "s per epoch", "wall_s": "wall [s]", "cpu_s": "CPU [s]", "peak_mb": "peak memory [MB]"}
    lines = [f"\n{title}", "| | " + " | ".join(columns.values()) + " |", "|---" * (1 + len(columns)) + "|"]
    for name, row in rows.items():
        cells = [f"{row[key]:.1f} ({row[key] / rows[reference][key]:.2f}x)" for key in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parts(text: str) -> list[str]:
    names = text.split(",")
    if unknown := sorted({*names} - {*PARTS}):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: no such part; there are {', '.join(PARTS)}")
    return names


def at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number of at least 1")
    return int(text)


def with_tensorflow(python: str) -> str:
    """Asked first: the Keras sides come last."""
    try:
        found = subprocess.run([python, "-c", "import tensorflow"], capture_output=True, check=False).returncode == 0
    except OSError:
        found = False
    if not found:
        raise argparse.ArgumentTypeError(f"{python}: is no Python that has tensorflow-cpu")
    return python


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeats", type=at_least_one, help="of each part (default: 3 of a single run, 1 of the others)")
    parser.add_argument("--part", type=parts, default=list(PARTS), help="of run,sweep,growth (default: all)")
    parser.add_argument("--keras", type=with_tensorflow, help="a Python that has tensorflow-cpu")
    options = parser.parse_args()
    repeats = {part: options.repeats or usual for part, usual in PARTS.items()}
    out = HERE / ("speed-quick.json" if options.quick else "speed.json")
    report = json.loads(out.read_text()) if out.exists() else {}
    patients, size = (4, 256) if options.quick else (16, 256)

    def keep(part: str, title: str, found: Repeats) -> None:
        rows = medians(found)
        title += f", median of {n}" if (n := len(found["segtune"])) > 1 else ", once"
        print(table(title, rows, "segtune"), flush=True)
        command = " ".join(["python benchmarks/speed.py", *("PYTHON" if arg == options.keras else arg for arg in sys.argv[1:])])
        report[part] = {"title": title, "machine": about(), "command": command, "rows": rows, "repeats": found}
        out.write_text(json.dumps(report, indent=1))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case = Case.of(folder, patients, size)
        if "run" in options.part:
            epochs = 2
            sides = {
                "segtune": [segtune(case, epochs, "outputs={}")],
                "usual stack": [usual(case, epochs, "--folder", "{}")],
                "usual stack, memory setting": [usual(case, epochs, "--folder", "{}", "--memory")],
                "the same, channels last": [usual(case, epochs, "--folder", "{}", "--memory", "--channels-last")],
                "usual stack, 2 loader workers": [usual(case, epochs, "--folder", "{}", "--workers", "2")],
            }
            if options.keras:
                keras = [options.keras, str(HERE / "keras_unet.py"), "--data", str(case.file), "--folder", "{}"]
                for batch in (15, 1):
                    sides[f"Keras, batch {batch}"] = [[*keras, "--epochs", str(epochs), "--batch", str(batch)]]
            title = f"One run: {case.n} images of {size} x {size}, {epochs} epochs"
            keep("run", title, in_turn(sides, repeats["run"], folder))
        if "sweep" in options.part:
            small = Case.of(folder, 4, 128) if options.quick else case
            ours = segtune(small, 2, "seed=0,1,2,3,4,5,6,7", "outputs={}", "-m")
            many = [*ours, "hydra/launcher=local", "trainer.threads=1"]
            sides = {
                "segtune": [ours],
                "segtune, hydra/launcher=local": [many],
                "8 processes of the usual stack": [usual(small, 2, "--folder", "{}", "--seed", str(seed)) for seed in range(8)],
            }
            title = f"A sweep: 8 runs of 2 epochs, {small.n} images of {small.overrides[1]}"
            keep("sweep", title, in_turn(sides, repeats["sweep"], folder))
        if "growth" in options.part:
            grid = [(n, 256) for n in ((4, 8) if options.quick else (4, 8, 16, 32, 64))]
            grid += [(4 if options.quick else 16, side) for side in ((128, 192) if options.quick else (128, 192, 320, 384))]
            for n, side in grid:
                one = Case.of(folder, n, side)
                sides = {"segtune": [segtune(one, 2, "outputs={}")], "usual stack": [usual(one, 2, "--folder", "{}")]}
                found = in_turn(sides, repeats["growth"], folder)
                keep(f"growth {one.n} x {side}", f"Growth: {one.n} images of {side} x {side}", found)


if __name__ == "__main__":
    main()
