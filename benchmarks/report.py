"""What reporting a thousand runs costs: reading, computing, drawing, and opening the page in a browser.

    python benchmarks/report.py [--cells 334]

Simulated runs (16 patients, 15 epochs, 3 seeds of each cell), reported in a process of its own: CPU and wall seconds, peak
memory. The page is opened from its file in headless Chromium, if chromedriver is there (pip install selenium): seconds until
it is loaded, median of five. Written to benchmarks/report.json.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from provenance import about

HERE = Path(__file__).resolve().parent


def write(root: Path, n_cells: int) -> Path:
    """A sweep of losses, shares and as many lambdas as it takes."""
    sys.path.append(str(HERE.parent / "tests"))
    import simulated

    random, runs = np.random.default_rng(0), []
    effects = random.normal(0, 0.08, len(simulated.PATIENTS))
    for i in range(n_cells):
        for seed in range(3):
            axes = {
                "loss": ("bce", "focal", "bce_dice")[i % 3],
                "share": (0.2, 0.4, 0.6, 0.8)[i // 3 % 4],
                "l2": 1e-5 * (1 + i // 12),
            }
            config = simulated.config(**axes, by="nested", seed=seed)
            dice = simulated.scores(0.5 + 0.1 * (i % 3), random, effects=effects)
            runs.append((simulated.write_run(root, config, dice, simulated.curves(15)), [f"seed={seed}"]))
    return simulated.write_sweep(root, "thousand", runs)


def opened(page: Path) -> float | None:
    """Median of five loads [s], or None without a browser."""
    if not shutil.which("chromedriver"):
        return None
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-background-networking"):
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    try:
        seconds = []
        for _ in range(5):
            driver.get(page.as_uri())
            seconds.append(driver.execute_script("return performance.getEntriesByType('navigation')[0].loadEventEnd / 1000"))
    finally:
        driver.quit()
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=334)
    n_cells = parser.parse_args().cells
    with tempfile.TemporaryDirectory() as folder:
        sweep = write(Path(folder), n_cells)
        load, started = os.getloadavg()[0], time.perf_counter()
        subprocess.run([sys.executable, "-m", "segtune.report", f"sweep={sweep}"], check=True)
        wall, used = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        found = {
            "runs": 3 * n_cells,
            "wall_s": round(wall, 1),
            "cpu_s": round(used.ru_utime + used.ru_stime, 1),
            "peak_mb": round(used.ru_maxrss * 1024 / 1e6),
            "page_mb": round((sweep / "report.html").stat().st_size / 1e6, 1),
            "open_s": opened(sweep / "report.html"),
            "load_before": load,
            **about(),
        }
    print(json.dumps(found, indent=2))
    (HERE / "report.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
