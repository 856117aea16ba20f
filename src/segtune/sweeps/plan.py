"""Plan a sweep: compose its runs and find out which of them are done."""

import contextlib
import itertools
import json
import logging
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tqdm import tqdm

from segtune.config import entry, rules
from segtune.config.composing import Compose, Composed, Composer
from segtune.config.labels import Labels
from segtune.config.overrides import groups, has_key, quote_numbers
from segtune.errors import InputError
from segtune.runs import identity, inputs, layout
from segtune.runs.result import is_done, read_result, why_not_done
from segtune.runs.state import state_of

log = logging.getLogger(__name__)

MOST_FIGURES = 60  # larger sweeps draw no figure for each run (python -m segtune.report run=... draws one)


@dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
        overrides: the command-line overrides from which config is composed.
        folder: the run's folder.
        state: the state from state.state_of, or `changed` if the run was finished but its data or code have changed
            since.
        options: config group -> chosen option.
        label: the overrides that repeat the run (config/labels.py).
    """

    run_id: str
    overrides: list[str]
    config: dict[str, Any]
    folder: Path
    state: str
    options: dict[str, str] = field(default_factory=dict)
    label: str = ""

    def done_in(self, folder: Path) -> "Run":
        """Return this run, marked as completed in another folder. The name of the folder is used as the run id."""
        return replace(self, run_id=folder.name, folder=folder, state="completed")

    def about(self) -> dict[str, Any]:
        """Return the entries of status.json that identify the run."""
        return {
            "run_id": self.run_id,
            "overrides": self.overrides,
            "config": self.config,
            "options": self.options,
            "label": self.label,
        }


def combinations(grids: Sequence[Mapping[str, Any]], arguments: Sequence[str]) -> list[list[str]]:
    """Return the overrides of every run of a sweep: the union of the Cartesian products of all grids.

    Values given on the command line replace those of the same key in every grid.

    Args:
        grids: each grid maps keys to lists of values. Without grids, only the command line counts.
        arguments: the overrides of the command line, including sweeps such as seed=0,1.
    Raises: InputError for invalid grids and sweeps.
    """
    if isinstance(grids, str) or not all(isinstance(grid, Mapping) for grid in grids):
        raise InputError(f"hydra.sweeper.grids={grids}: must be a list of grids, like [{{loss: [bce, focal], seed: [0, 1]}}].")
    parser = OverridesParser.create()
    typed: dict[str, list[str]] = {}
    for override in parser.parse_overrides(list(arguments)):
        key = override.get_key_element()
        if key == "study" and override.is_sweep_override():
            raise InputError(
                f"{override.input_line}: a sweep can only have one study. Start each study with a separate command."
            )
        if key == "name" and override.is_sweep_override():
            raise InputError(f"{override.input_line}: this key names the folder of the sweep, so it must have a single value.")
        if not override.is_sweep_override():
            typed[key] = [override.input_line or ""]
        elif isinstance(override._value, Glob):
            raise InputError(f"{override.input_line}: patterns are not supported. List the options, like {key}=one,another.")
        elif override.is_discrete_sweep():
            typed[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise InputError(f"{override.input_line}: a grid needs a list of values, like {key}=1,2,3.")
    found = []
    for grid in grids or [{}]:
        axes = {key: [quote_numbers(f"{key}={value}") for value in _values(key, values)] for key, values in grid.items()}
        found += [list(combination) for combination in itertools.product(*(axes | typed).values())]
    return found


def _values(key: str, values: Any) -> list[Any]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise InputError(f"hydra.sweeper.grids: {key}: {values} must be a list, like {key}: [{values}].")
    if not values:
        raise InputError(f"hydra.sweeper.grids: {key}: [] has no values, so there would be no runs. Leave this key out.")
    return list(values)


class Changed:
    """Finds the inputs (data, modules and files) of a finished run that have changed since the run.

    Call an instance with the run's folder and configuration. It returns the names of the changed inputs. Each data set is read
    only once per instance. For results that recorded no inputs, only the data are compared. If the data cannot be read now, the
    reader's error is raised.
    """

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def __call__(self, folder: Path, config: Mapping[str, Any]) -> list[str]:
        result = read_result(folder)
        for target in inputs.missing_modules(config):
            raise InputError(
                f"{target}: this module is not on the Python path now, so it cannot be compared with the module that run "
                f"{folder.name} used. Start the command where the module can be imported."
            )
        now = {"data": self.fingerprint(config), **inputs.content_hashes(config)}
        before = result.get("inputs")
        if before is None:
            before = {**now, "data": result.get("data", {}).get("fingerprint", "")}
            if len(now) > 1:
                log.info("%s: its result does not record the code (%s), which is assumed unchanged", folder, ", ".join(now))
        return inputs.changed_inputs(before, now)

    def fingerprint(self, config: Mapping[str, Any]) -> str:
        """Read the data of this configuration and return their fingerprint."""
        reader = json.dumps(config["data"]["reader"], sort_keys=True)
        if reader not in self._known:
            self._known[reader] = instantiate(OmegaConf.create(reader)).fingerprint()
        return self._known[reader]


def plan(jobs: Sequence[list[str]], compose: Compose) -> list[Run]:
    """Compose and check all runs of a sweep, before the first one starts. Duplicates are removed.

    A finished run whose data or code have changed since gets the state `changed` and is run again. A run that was finished with
    a copy of the same data in another folder counts as done.

    Args: jobs: the overrides of each run. compose: composes a configuration from overrides.
    """
    from segtune.data import readers

    runs: dict[str, Run] = {}
    ignored: set[str] = set()
    changed, composer = Changed(), Composer(compose)
    labels = Labels(composer)
    for job in tqdm(jobs, desc="composing", leave=False, disable=None if len(jobs) > MOST_FIGURES else True):
        composed, overrides = _compose(job, composer, ignored)
        config = entry.plain(composed.cfg)
        rules.check(config)
        readers.check_target(config["data"])
        run_id = identity.run_id(config)
        if run_id in runs:
            continue
        folder = Path(composed.outputs) / "runs" / run_id
        state, _ = state_of(folder, run_id)
        if state == "completed":
            try:
                state = "changed" if changed(folder, config) else "completed"
            except (InputError, HydraException):  # the inputs cannot be read now; the run will report the reason
                state = "changed"
        elif (folder / layout.RESULT).exists() and (why := why_not_done(folder, run_id)):
            log.warning("run %s: %s", run_id, why)
        label = labels.of(composed.cfg, composed.options)
        runs[run_id] = Run(run_id, overrides, config, folder, state, composed.options, label)
    for line in sorted(ignored):
        log.info(line)
    found = list(runs.values())
    words = identity.with_varied([identity.words(run.label) for run in found], [run.config for run in found])
    return once([replace(run, label=shlex.join(of)) for run, of in zip(found, words, strict=True)], changed)


def once(runs: Sequence[Run], changed: Changed) -> list[Run]:
    """Remove each run that repeats another run with a copy of the same data in a different folder.

    The repeated run may be in this sweep, or may have been finished earlier. A finished run replaces the run that
    would repeat it. There is one exception: a finished run is not used if the data in its own data folder have changed
    since. In this case, starting the command of the finished run would move the finished result to another folder.

    Args: runs: the runs of a sweep. changed: finds changed inputs and caches the fingerprints of data.
    """
    finished: dict[Path, dict[str, list[Path]]] = {}
    found: dict[str, Run] = {}
    known: dict[tuple[str, str], Run] = {}
    alike = Counter(identity.placeless_id(run.config) for run in runs)
    for run in runs:
        if run.state != "completed" and run.config["data"].get("root") is not None:
            home, name = run.folder.parent, identity.placeless_id(run.config)
            finished.setdefault(home, _finished(home))
            others = (run.done_in(one) for one in finished[home].get(name, []) if one != run.folder)
            if other := next((one for one in others if not _differs(changed, one) and _stays(changed, one)), None):
                run = other
            elif alike[name] > 1 and (data := _fingerprint(changed, run)):
                run = known.setdefault((name, data), run)
        found.setdefault(run.run_id, run)
    return list(found.values())


def _stays(changed: Changed, run: Run) -> bool:
    """Return whether the data of a finished run are unchanged in their folder, or this folder no longer exists."""
    root = read_result(run.folder)["config"]["data"]["root"]
    if not isinstance(root, str) or "${" in root:
        return False
    data = {**run.config["data"], "root": root, "reader": {**run.config["data"]["reader"], "root": root}}
    try:
        return not changed(run.folder, {**run.config, "data": data})
    except (InputError, HydraException):
        return not Path(root).exists()


def _finished(home: Path) -> dict[str, list[Path]]:
    """Find the folders of the finished runs in `home`. Returns: identity.placeless_id -> the folders with this id."""
    found: dict[str, list[Path]] = {}
    for path in sorted(home.glob(f"*/{layout.RESULT}")):
        with contextlib.suppress(InputError, LookupError, TypeError, AttributeError):
            config = read_result(path.parent)["config"]
            if config["data"].get("root") is not None and is_done(path.parent, path.parent.name):
                found.setdefault(identity.placeless_id(config), []).append(path.parent)
    return found


def _differs(changed: Changed, run: Run) -> bool:
    try:
        return bool(changed(run.folder, run.config))
    except (InputError, HydraException):  # the data cannot be read now; the run will report the reason
        return True


def _fingerprint(changed: Changed, run: Run) -> str | None:
    try:
        return changed.fingerprint(run.config)
    except (InputError, HydraException):
        return None


def _compose(job: list[str], composer: Composer, ignored: set[str]) -> tuple[Composed, list[str]]:
    """Compose a job's configuration.

    Overrides that belong to an option that is not chosen, such as reg.lambda with reg=none, are removed.

    If these overrides were kept, the sweep `reg=none,l2 reg.lambda=1e-4,1e-3` would fail, or it would contain reg=none
    twice.

    Args: ignored: a set to which messages about removed overrides are added.
    Returns: the configuration and the remaining overrides.
    """
    overrides = list(job)
    while True:
        try:
            return composer(overrides), overrides
        except HydraException as error:
            message = str(error)
            key = message.split("'")[1] if message.startswith("Could not override '") else ""
            group, _, name = key.partition(".")
            kept = [override for override in overrides if not override.startswith(f"{key}=")]
            owners = [option for option in groups().get(group, []) if has_key(group, option, name)]
            if not owners or len(kept) == len(overrides):
                raise
            ignored.add(f"{key} belongs to {group}={','.join(owners)} and is ignored in runs with another {group}")
            overrides = kept
