"""Identify runs: run_id and cell_id, which are hashes of the configuration, and readable labels."""

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

# keys on where and how a run is executed; they do not change its result
BOOKKEEPING = ("hydra", "outputs", "name", "figures", "on_failure", "dry_run", "trainer.devices")
PATHS = ("data.root", "data.reader.root")  # the location of the data, which may change while the data stay the same
REPLICATE = ("seed", "split.fold")  # the keys in which replicates of a configuration may differ

Config = Mapping[str, Any]


def run_id(config: Config) -> str:
    """Compute the id of a run: 12 hex digits of a SHA-256 over its configuration.

    Bookkeeping keys, null values and empty lists and mappings are excluded, so a new option that defaults to null changes no
    run id. The order of keys and the notation of numbers (1, 1.0) do not matter.
    """
    return _hash(config, without=BOOKKEEPING)


def cell_id(config: Config, data: str | None = None) -> str:
    """Compute the id that all replicates of a configuration share: a hash without seed, fold and data folder.

    Args: data: the fingerprint of the data, which identifies them independently of their folder.
    """
    return _hash({**config, "fingerprint": data}, without=(*BOOKKEEPING, *REPLICATE, *PATHS))


def placeless_id(config: Config) -> str:
    """Compute a hash of the configuration without the data folder, which runs on copies of the same data share."""
    return _hash(config, without=(*BOOKKEEPING, *PATHS))


def axes(config: Config) -> dict[str, str]:
    """Return the run's value on each axis of a sweep: the names of its loss, split, regulariser and batch."""
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
    """Return the short name of a function of segtune, or the full path of any other, so that lab.bce differs from bce."""
    return target.rpartition(".")[2] if target.startswith("segtune.") else target


def label(config: Config) -> str:
    """Return a readable label of a run, like loss=focal split=0.6 reg=none batch=15."""
    return " ".join(f"{key}={value}" for key, value in axes(config).items())


def differences(configs: Sequence[Config]) -> list[str]:
    """For each configuration, list the settings in which it differs from the others and which its label does not show."""
    named = (
        *(*BOOKKEEPING, "loss._target_", "loss._partial_", "reg.penalty", "reg.lambda", "reg.lambda_l1", "reg.lambda_l2"),
        *("reg.ratio", "batch.size", "split.val_fraction", "data.reader"),
    )
    flat = [_flat(config, without=named) for config in configs]
    values: dict[str, set[str]] = {key: set() for one in flat for key in one}
    for one in flat:
        for key in values:
            values[key].add(repr(one.get(key)))
    # a key that only some losses or regularisers have, always with the same value, is implied by the option's name
    alike = {key for key in values if key.startswith(("loss.", "reg.")) and len(values[key] - {"None"}) < 2}
    varying = sorted(key for key in values if len(values[key]) > 1 and key not in alike)
    return [", ".join(f"{key}={one[key]}" for key in varying if key in one) for one in flat]


def flat(config: Config, *, replicates: bool = True) -> dict[str, Any]:
    """Return the dotted keys and values that the run id hashes or, with replicates=False, those that the cell id hashes."""
    return _flat(config, without=BOOKKEEPING if replicates else (*BOOKKEEPING, *REPLICATE, *PATHS))


def _hash(config: Config, *, without: tuple[str, ...]) -> str:
    return hashlib.sha256(json.dumps(_flat(config, without=without), sort_keys=True).encode()).hexdigest()[:12]


def _flat(config: Config, *, without: tuple[str, ...]) -> dict[str, Any]:
    """Flatten the configuration to dotted keys, except null and empty values and the keys `without`. 1.0 becomes 1."""
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
    """Return the command that repeats a run, without the quotes that segtune adds around numbers."""
    return shlex.join(["python", "-m", "segtune", *(re.sub(r"^(\w+)='([\d.]+)'$", r"\1=\2", one) for one in overrides)])
