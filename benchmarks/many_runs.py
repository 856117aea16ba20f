"""What a sweep of many tiny runs costs beside training, and whether its memory grows.

    python benchmarks/many_runs.py --runs 1000

Runs `python -m segtune seed=range(N) ... -m` in one process on 8 images of 64 x 64 pixels with a network of width 2, one
epoch each. Overhead per run = (wall time of the whole command - the epochs' own seconds in history.csv) / N: start, imports,
composing, reading the data, building, checkpoints, evaluation, writing, status. Memory: resident size at every tenth of the
runs. Writes benchmarks/many_runs.json.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from segtune.data import phantom
from segtune.runs.tables import read_history

SETTINGS = [
    *("model.width=2", "data.size=64", "trainer.max_epochs=1", "trainer.accelerator=cpu", "trainer.threads=1", "batch=10"),
    *("loss=bce", "reg=none", "split=0.4"),
]


def eight_images(folder: Path) -> Path:
    """Two patients of the phantom with four labelled frames each: TrainingSet below folder."""
    os.environ["XDG_CACHE_HOME"] = str(folder)
    phantom.read(seed=0, n_patients=2, size=64, target="endocardium")
    root = next(folder.rglob("TrainingSet"))
    for listing in root.rglob("*list.txt"):
        lines = listing.read_text().splitlines(keepends=True)
        listing.write_text("".join(lines[:8]))  # an i and an o contour a frame
        kept = {line.strip().replace("\\", "/").rpartition("/")[2] for line in lines[:8]}
        for contour in listing.parent.rglob("*contour-manual.txt"):
            if contour.name not in kept:
                contour.unlink()
    return root


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=1000)
    n = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = eight_images(folder)
        command = [sys.executable, "-m", "segtune", "data=rvsc", f"data.root={root}", *SETTINGS]
        begun = time.perf_counter()
        process = subprocess.Popen(
            [*command, f"seed=range({n})", f"outputs={folder / 'o'}", "-m"], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout
        memory, done = [], 0
        for line in process.stdout:
            if "mean over" in line:  # the line that a finished run logs
                done += 1
                if done % max(1, n // 10) == 0:
                    memory.append((done, round(resident_mb(process.pid), 1)))
                    print(f"{done} runs, {time.perf_counter() - begun:.0f} s, {memory[-1][1]} MB", flush=True)
        assert process.wait() == 0
        wall = time.perf_counter() - begun
        assert done == n, "the finished runs were not seen in the output"
        epochs = sum(sum(read_history(path.parent)["seconds"]) for path in folder.glob("o/runs/*/result.json"))
        begun = time.perf_counter()
        status = subprocess.run(
            [sys.executable, "-m", "segtune.status", f"sweep={folder / 'o' / 'grid'}", "json=true"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        status_seconds = time.perf_counter() - begun
        assert json.loads(status.stdout)["states"]["completed"] == n
    found = {
        "command": f"python benchmarks/many_runs.py --runs {n}",
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "runs": n,
        "wall_s": round(wall, 1),
        "epochs_s": round(epochs, 1),
        "overhead_per_run_s": round((wall - epochs) / n, 4),
        "resident_mb": memory,
        "status_s": round(status_seconds, 2),
    }
    print(json.dumps(found, indent=2))
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
