"""The whole published study in one process: seconds with start-up, arithmetic, share of the device's peak.

    python benchmarks/study.py trainer.accelerator=gpu --peak-tflops 494       32 runs, 243 images of 256 x 256, TF32
    python benchmarks/study.py trainer.accelerator=gpu trainer.precision=bf16-mixed --peak-tflops 989
    python benchmarks/study.py data.size=64 model.width=4 trainer.max_epochs=1 trainer.accelerator=cpu     to see it work

Runs `python -m segtune study=published -m` with these overrides into a new folder, figures off, and counts the arithmetic of
its convolutions (multiplications and additions, 3 x the forward pass in training). Its rate is over the whole command's wall
time, start-up and evaluation included. Writes study-<device>.json to --out: outputs, unless it is worth keeping (benchmarks).
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from provenance import about
from torch.utils.flop_counter import FlopCounterMode

from segtune.config import entry, rules
from segtune.config.error_messages import explain
from segtune.runs import layout
from segtune.runs.result import read_result
from segtune.runs.tables import read_history
from segtune.training import build


def flop_per_image(overrides: list[str]) -> int:
    """Of one forward pass of the network."""
    cfg = entry.compose(overrides)
    rules.check(entry.plain(cfg))
    net = build.network(cfg.model).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        net(torch.zeros(1, 1, cfg.data.size, cfg.data.size))
    return counter.get_total_flops()


def above_0(text: str) -> float:
    if not (value := float(text)) > 0:
        raise argparse.ArgumentTypeError(f"{text}: must be above 0")
    return value


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--study", default="published")
    parser.add_argument("--peak-tflops", type=above_0, help="the device's, at the precision in use")
    parser.add_argument("--out", type=Path, help="the folder that the report goes to", default=Path("outputs"))
    options = parser.parse_args()
    chosen = [f"study={options.study}", *options.overrides]
    try:  # what can fail comes before the sweep
        flop = flop_per_image(chosen)
        options.out.mkdir(parents=True, exist_ok=True)
    except Exception as error:
        if (message := explain(error)) is None:
            raise
        sys.exit(f"study.py: {message}")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "segtune", *chosen, "figures=false", f"outputs={folder}", "-m"]
        begun = time.perf_counter()
        if code := subprocess.run(command, check=False).returncode:
            sys.exit(f"study.py: the sweep ended with exit code {code}, of which it says more above; nothing is written.")
        wall = time.perf_counter() - begun
        runs = [path.parent for path in Path(folder).glob(f"runs/*/{layout.RESULT}")]
        images = epochs_s = 0.0  # images: forward passes, of which a training image needs 3
        for run in runs:
            n, history = read_result(run)["data"]["n_images"], read_history(run)
            images += len(history["epoch"]) * (3 * n["train"] + n["val"])
            epochs_s += sum(history["seconds"])
    tflop = images * flop / 1e12
    on_gpu = torch.cuda.is_available() and "trainer.accelerator=cpu" not in options.overrides
    device = torch.cuda.get_device_name() if on_gpu else about()["processor"]
    report = {
        "device": device,
        "machine": about(),
        "command": " ".join(["python benchmarks/study.py", *sys.argv[1:]]),
        "runs": len(runs),
        "wall_s": round(wall, 1),
        "epochs_s": round(epochs_s, 1),  # of all runs: several at a time overlap
        "tflop": round(tflop, 2),
        "tflops": round(tflop / wall, 4),
        "share_of_peak": round(tflop / wall / options.peak_tflops, 6) if options.peak_tflops else None,
    }
    print(json.dumps(report, indent=1))
    (options.out / f"study-{re.sub('[^a-z0-9]+', '-', device.lower())}.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
