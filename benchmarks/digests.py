"""Whether a change of the code leaves every result the same to the bit: digests of 8 small runs, of two versions in one go.

    python benchmarks/digests.py                  print the digests of this checkout's 8 runs
    python benchmarks/digests.py --against v0.1   also run another commit's code here, and exit with 1 where they differ
    python benchmarks/digests.py --write          store this checkout's digests, the machine and the commit in digests.json
    python benchmarks/digests.py --stored         compare with digests.json, which is of one kind of processor

Each run is trained for two epochs on the phantom with figures off, in a process of its own. Its digest is a SHA-256 over the
tensors of its last and best checkpoint, history.csv without the seconds, slices.csv, cases.csv, patients.csv, images.csv and
the name of its folder, which is the run id. On another processor the arithmetic may differ in the last bit, so --stored can
only be trusted on the kind of machine that digests.json names; --against runs both sides here.
"""

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from provenance import about

ROOT = Path(__file__).resolve().parents[1]
STORED = Path(__file__).with_name("digests.json")
ALONE = """
import runpy, sys
sys.path[:] = [sys.argv[1], *(path for path in sys.path if not path.endswith("/src"))]  # without an editable installation
sys.argv[:] = ["segtune", *sys.argv[2:]]
runpy.run_module("segtune", run_name="__main__", alter_sys=True)
"""
SMALL = [
    "data.n_patients=6",
    "data.size=32",
    "model.width=4",
    "trainer.max_epochs=2",
    "trainer.accelerator=cpu",
    "figures=false",
]
RUNS = {
    "default": [],
    "focal, a share of 0.6": ["loss=focal", "split=0.6"],
    "l1 with the study's lambda": ["reg=l1", "reg.lambda=5e-7"],
    "l2 with a calibrated lambda": ["reg=l2", "reg.lambda=auto", "reg.ratio=0.3", "loss=bce"],
    "a patient a batch, second fold": ["batch=patient", "split=kfold", "split.fold=1", "loss=tversky"],
    "resampled and cropped": ["data.spacing_mm=1.7", "data.larger=crop", "batch=1", "loss=boundary"],
    "dropout and a schedule": ["model=unet_double", "model.dropout=0.3", "scheduler=cosine", "optimizer=adamw", "seed=3"],
    "images cut at random, unshuffled": [
        "split.by=image",
        "batch.shuffle=false",
        "optimizer=keras_adam",
        "data.normalize=divide255",
    ],
}
TABLES = ("history.csv", "slices.csv", "cases.csv", "patients.csv", "images.csv")


def digest(run: Path) -> str:
    """The SHA-256 of everything in a run's folder that must not depend on when or how fast it was made."""
    total = hashlib.sha256(run.name.encode())
    for name in ("last.ckpt", "best.ckpt"):
        weights = torch.load(run / "checkpoints" / name, weights_only=True, map_location="cpu")["state_dict"]
        for key, value in sorted(weights.items()):
            total.update(key.encode() + value.contiguous().numpy().tobytes())
    for name in TABLES:
        with (run / name).open(newline="") as file:
            for row in csv.DictReader(file):
                total.update(json.dumps({key: value for key, value in row.items() if key != "seconds"}).encode())
    return total.hexdigest()[:16]


def digests(source: Path) -> dict[str, str]:
    """The digests of all RUNS, made by the code in the `src` folder of this checkout."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, overrides) in enumerate(RUNS.items()):
            outputs = Path(folder) / str(number)
            command = [sys.executable, "-c", ALONE, str(source / "src"), *SMALL, *overrides, f"outputs={outputs}"]
            ended = subprocess.run(
                command,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(source / "src")},
                capture_output=True,
                text=True,
                check=False,
            )
            if ended.returncode:
                sys.exit(f"digests.py: {name}: {ended.stdout}{ended.stderr}")
            (result,) = outputs.glob("runs/*/result.json")
            found[name] = digest(result.parent)
    return found


def of_commit(commit: str) -> dict[str, str]:
    """The digests that another commit's code gives here."""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
        return digests(Path(folder))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--against", metavar="COMMIT")
    parser.add_argument("--stored", action="store_true")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    here = digests(ROOT)
    others = {options.against: of_commit(options.against)} if options.against else {}
    if options.stored:
        others["digests.json"] = json.loads(STORED.read_text())["digests"]
    for name, value in here.items():
        print(f"{value}  {name}")
    if options.write:
        STORED.write_text(json.dumps({"machine": about(), "digests": here}, indent=1) + "\n")
    for other, theirs in others.items():
        differing = [name for name in RUNS if here[name] != theirs.get(name)]
        print(f"the same as {other}" if not differing else f"not the same as {other}: {'; '.join(differing)}")
        if differing:
            sys.exit(1)


if __name__ == "__main__":
    main()
