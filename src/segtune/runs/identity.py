"""Identify runs: run_id and cell_id, which are hashes of the configuration, and readable labels."""

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

# keys that say where and how a run is executed, and do not change its result
BOOKKEEPING = ("hydra", "outputs", "name", "figures", "on_failure", "dry_run", "looks", "split.chosen_from", "trainer.devices")
PATHS = ("data.root", "data.reader.root")  # the location of the data, which may change while the data stay the same
REPLICATE = ("seed", "split.fold")  # the keys in which replicates of a configuration may differ
BATCHES = (1, 10, 15, "patient")  # the sizes that have an option of that name in conf/batch
LONGEST_LABEL = 10_000  # characters; a longer label counts as damaged
AXES = ("loss", "split", "reg", "batch")  # the config groups that a label always names

Config = Mapping[str, Any]


def run_id(config: Config) -> str:
    """Compute the id of a run: 12 hex digits of a SHA-256 over its configuration.

    Bookkeeping keys, null values and empty lists and mappings are excluded, so a new option that defaults to null does
    not change run ids. The order of keys and the notation of numbers (1, 1.0) do not matter.
    """
    return _hash(config, without=BOOKKEEPING)


def cell_id(config: Config, data: str | None = None) -> str:
    """Compute the id that all replicates of a configuration share.

    The id is a hash of the configuration without its seed, its fold and its data folder.

    Args: data: the fingerprint of the data, which identifies them independently of their folder.
    """
    return _hash({**config, "fingerprint": data}, without=(*BOOKKEEPING, *REPLICATE, *PATHS))


def placeless_id(config: Config) -> str:
    """Compute a hash of the configuration without the data folder. Runs on copies of the same data have the same hash."""
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
    """Return the short name of a segtune function, or the full dotted path of any other function.

    The path distinguishes, for example, a user's `lab.bce` from segtune's `bce`.
    """
    return target.rpartition(".")[2] if target.startswith("segtune.") else target


def label(config: Config) -> str:
    """Make a label for a run that did not record one.

    An example is `loss=focal split=0.6 reg=l2 reg.lambda=0.01 batch=15`.

    The label is made from the functions and values in the configuration, so it does not contain the names of a user's
    own options.
    """
    named, reg, size = axes(config), config.get("reg") or {}, config["batch"]["size"]
    penalty = f"reg={_called(reg['penalty']['_target_'])}" if reg.get("penalty") else "reg=none"
    lambdas = [f"reg.{key}={value:g}" for key, value in reg.items() if key.startswith("lambda") and value != "auto"]
    lambdas += ["reg.lambda=auto"] if reg.get("lambda") == "auto" else []
    lambdas += [f"reg.ratio={reg['ratio']:g}"] if reg.get("ratio") is not None else []
    batch = f"batch={size}" if size in BATCHES else f"batch.size={size}"
    return shlex.join([f"loss={named['loss']}", f"split={named['split']}", penalty, *lambdas, batch])


def label_of(result: Mapping[str, Any]) -> str:
    """Return the label that a run recorded (config/labels.py). If there is none, make it from the configuration."""
    said = result.get("label")
    is_one = isinstance(said, str) and said.isprintable() and 0 < len(said) <= LONGEST_LABEL
    return str(said) if is_one else label(result["config"])


def words(label: str, *, without: Sequence[str] = ()) -> list[str]:
    """Return the words of a label, except those that set one of the keys listed in `without`."""
    try:
        found = shlex.split(label)
    except ValueError:  # a closing quotation mark is missing
        found = label.split()
    return [word for word in found if key_of(word) not in without]


def key_of(word: str) -> str:
    """Return the key that a word of a label sets: reg.lambda for reg.lambda=0.1 or +reg.lambda=0.1."""
    return word.partition("=")[0].lstrip("+~")


def with_varied(labels: Sequence[Sequence[str]], configs: Sequence[Config]) -> list[list[str]]:
    """Add each key that is in some labels of a sweep to the labels of all other runs of the sweep.

    The label of a single run leaves out values that the chosen options already set. With optimizer.lr=1e-3,1e-4, for
    example, only the label of the second run contains the key optimizer.lr. This function adds the key, with the run's
    own value, to the label of the first run, so that the two labels can be compared.

    There is one exception: some keys are used instead of an option, for example batch.size=5 instead of batch=15.
    These keys are not added to other labels.
    """
    of = [{key_of(word): word for word in words} for words in labels]
    keys = dict.fromkeys(key for one in of for key in one)
    replacing = {key for one in of for key in one if (group := key.partition(".")[0]) in AXES and group not in one}
    found = []
    for one, config in zip(of, configs, strict=True):
        values = {key: _value(config, key) for key in keys if key not in one and key not in replacing}
        more = {key: f"{key}={_written(value)}" for key, value in values.items() if not isinstance(value, Mapping | list)}
        merged = one | more
        found.append([merged[key] for key in keys if key in merged])
    return found


def _value(config: Config, key: str) -> Any:
    """Return the value of a dotted key in a configuration, or an empty mapping if the key is missing."""
    node: Any = config
    for name in key.split("."):
        if not isinstance(node, Mapping) or name not in node:
            return {}
        node = node[name]
    return node


def _written(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def flat(config: Config, *, replicates: bool = True) -> dict[str, Any]:
    """Return the dotted keys and values that are hashed for the run id or, with replicates=False, for the cell id."""
    return _flat(config, without=BOOKKEEPING if replicates else (*BOOKKEEPING, *REPLICATE, *PATHS))


def _hash(config: Config, *, without: tuple[str, ...]) -> str:
    return hashlib.sha256(json.dumps(_flat(config, without=without), sort_keys=True).encode()).hexdigest()[:12]


def _flat(config: Config, *, without: tuple[str, ...]) -> dict[str, Any]:
    """Flatten the configuration to dotted keys.

    Null values, empty values and the keys in `without` are left out. 1.0 becomes 1.
    """
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
