"""A run's identity: run_id and cell_id, hashes of the configuration, and the words that name a run for a person."""

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

# keys that say where and how a run is made, not what it is
BOOKKEEPING = ("hydra", "outputs", "name", "figures", "on_failure", "dry_run", "trainer.devices")
PATHS = ("data.root", "data.reader.root")  # where the data are stored, which does not say what they are
REPLICATE = ("seed", "split.fold")  # keys in which replicates of one configuration differ

Config = Mapping[str, Any]


def run_id(config: Config) -> str:
    """12 hex digits of a SHA-256 over the configuration without bookkeeping and without null or empty keys.

    The order of keys and the way a number is written (1, 1.0) do not matter. A new option that defaults to null changes no
    run id.
    """
    return _hash(config, without=BOOKKEEPING)


def cell_id(config: Config, data: str | None = None) -> str:
    """A hash of the configuration without seed, fold and data folder: all replicates of a configuration share it.

    Args: data: the fingerprint of the data, which identifies them wherever they are stored.
    """
    return _hash({**config, "fingerprint": data}, without=(*BOOKKEEPING, *REPLICATE, *PATHS))


def placeless_id(config: Config) -> str:
    """A hash of the configuration without the data folder: runs on copies of the same data share it."""
    return _hash(config, without=(*BOOKKEEPING, *PATHS))


def axes(config: Config) -> dict[str, str]:
    """The run's value on each axis of a sweep: the names of its loss, split, regulariser and batch."""
    reg = config.get("reg") or {}
    lambdas = ",".join(
        f"{value:g}" if value != "auto" else f"auto {reg.get('ratio') or 1:g}"
        for key, value in reg.items()
        if key.startswith("lambda")
    )
    return {
        "loss": _called(config["loss"]["_target_"]),
        "split": f"{share:g}" if (share := config["split"].get("val_fraction")) is not None else config["split"]["by"],
        "reg": f"{_called(reg['penalty']['_target_'])}({lambdas})" if reg.get("penalty") else "none",
        "batch": str(config["batch"]["size"]),
    }


def _called(target: str) -> str:
    """The name of a function: short for segtune's own, the full path for others, because lab.bce is not bce."""
    return target.rpartition(".")[2] if target.startswith("segtune.") else target


def label(config: Config) -> str:
    """One line that names a run for a person: loss=focal split=0.6 reg=none batch=15."""
    return " ".join(f"{key}={value}" for key, value in axes(config).items())


def differences(configs: Sequence[Config]) -> list[str]:
    """For each configuration, the settings in which it differs from the others and that its label does not show."""
    named = (
        *(*BOOKKEEPING, "loss._target_", "loss._partial_", "reg.penalty", "reg.lambda", "reg.lambda_l1", "reg.lambda_l2"),
        *("reg.ratio", "batch.size", "split.val_fraction", "data.reader"),
    )
    flat = [_flat(config, without=named) for config in configs]
    values: dict[str, set[str]] = {key: set() for one in flat for key in one}
    for one in flat:
        for key in values:
            values[key].add(repr(one.get(key)))
    # a key that only some losses or regularisers have, with one value, adds nothing to the option's name
    alike = {key for key in values if key.startswith(("loss.", "reg.")) and len(values[key] - {"None"}) < 2}
    varying = sorted(key for key in values if len(values[key]) > 1 and key not in alike)
    return [", ".join(f"{key}={one[key]}" for key in varying if key in one) for one in flat]


def flat(config: Config, *, replicates: bool = True) -> dict[str, Any]:
    """Dotted keys and values as the run id hashes them; with replicates=False, as the cell id does."""
    return _flat(config, without=BOOKKEEPING if replicates else (*BOOKKEEPING, *REPLICATE, *PATHS))


def _hash(config: Config, *, without: tuple[str, ...]) -> str:
    return hashlib.sha256(json.dumps(_flat(config, without=without), sort_keys=True).encode()).hexdigest()[:12]


def _flat(config: Config, *, without: tuple[str, ...]) -> dict[str, Any]:
    """The configuration as dotted keys and values. Left out: null, empty values, and the keys `without`. 1.0 becomes 1."""
    found: dict[str, Any] = {}

    def visit(key: str, value: Any) -> None:
        if key in without or value is None or value == []:
            return
        if isinstance(value, Mapping):
            for name, item in value.items():
                visit(f"{key}.{name}" if key else str(name), item)
        else:
            found[key] = int(value) if isinstance(value, float) and value.is_integer() else value

    visit("", config)
    return found


def command(overrides: Sequence[str]) -> str:
    """The command that repeats one run, without the quotes that segtune itself puts around numbers."""
    return shlex.join(["python", "-m", "segtune", *(re.sub(r"^(\w+)='([\d.]+)'$", r"\1=\2", one) for one in overrides)])
