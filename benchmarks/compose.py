"""How long a sweep's configurations take to compose: all of them by Hydra, and each option once.

python benchmarks/compose.py [--most 200]

Both sides compose the same combinations in one process, in turn; printed are CPU seconds of each and their ratio.
"""

import argparse
import itertools
import time

import hydra

from segtune.config import CONF, entry
from segtune.config.composing import Composed, Composer
from segtune.config.overrides import quote_numbers

AXES = {
    "loss": ("bce", "focal", "dice", "bce_dice", "tversky"),
    "split": ("0.2", "0.4", "0.6", "0.8"),
    "reg": ("none", "l1", "l2"),
    "batch": ("1", "10", "15"),
    "optimizer.lr": ("1e-3", "1e-4", "1e-5"),
    "seed": tuple(map(str, range(10))),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=200, help="number of combinations that Hydra composes, of 5,400")
    most = parser.parse_args().most
    jobs = [
        [quote_numbers(f"{key}={value}") for key, value in zip(AXES, values, strict=True)]
        for values in itertools.product(*AXES.values())
    ]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):

        def compose(overrides: list[str]):
            return hydra.compose("config", overrides, return_hydra_config=True)

        every = max(1, len(jobs) // most)
        started = time.process_time()
        by_hydra = [entry.plain(Composed.of(compose(job)).cfg) for job in jobs[::every]]
        hydra_s = (time.process_time() - started) / len(by_hydra)
        composer = Composer(compose)
        started = time.process_time()
        together = [entry.plain(composer(job).cfg) for job in jobs]
        together_s = (time.process_time() - started) / len(together)
    assert together[::every] == by_hydra
    print(f"by Hydra:     {1000 * hydra_s:6.1f} ms CPU a combination ({len(by_hydra)} of {len(jobs)})")
    print(f"put together: {1000 * together_s:6.1f} ms CPU a combination (all {len(jobs)})")
    print(f"ratio: {hydra_s / together_s:.1f}")


if __name__ == "__main__":
    main()
