"""Find out what a finished run was trained on, in order to exclude its training patients from an evaluation."""

import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from segtune.data import readers, recognition
from segtune.data.readers import Reader
from segtune.data.slices import SliceSet
from segtune.errors import InputError, printable
from segtune.runs import identity as runs_identity
from segtune.runs import layout
from segtune.runs.result import verify_files
from segtune.runs.tables import read_table

if TYPE_CHECKING:  # torch takes seconds to import
    from segtune.inference.models import Trained

log = logging.getLogger(__name__)


class Origin(NamedTuple):
    """The data that a run was trained on.

    data: cfg.data of the run. fingerprint: a hash that identifies the data. trained: the training patients. codes: the
    recognition code and the patient of each training image. It is None if the run did not record the codes.
    """

    run_id: str
    cell_id: str
    label: str
    reader: Reader
    data: Mapping[str, Any]
    fingerprint: str
    trained: frozenset[str]
    codes: Sequence[tuple[str, str]] | None


def origin(model: "Trained") -> Origin:
    """Read from a run's folder what the run was trained on. Raises: InputError if its result.json is damaged."""
    result = model.result
    try:
        return Origin(
            run_id=str(result["run_id"]),
            cell_id=runs_identity.cell_id(result["config"], str(result["data"]["fingerprint"])),
            label=shlex.join(runs_identity.words(runs_identity.label_of(result), without=runs_identity.PATHS)),
            reader=readers.of(result["config"]["data"]),
            data=result["config"]["data"],
            fingerprint=str(result["data"]["fingerprint"]),
            trained=frozenset(map(str, result["data"]["patients"]["train"])),
            codes=_codes(model.folder, result),
        )
    except InputError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError):
        raise InputError(f"{model.folder / layout.RESULT}: damaged. Copy the run's folder again.") from None


def _codes(folder: Path, result: Mapping[str, Any]) -> list[tuple[str, str]] | None:
    """Read the recognition code and the patient of each training image. Raises: InputError for a damaged table."""
    if layout.IMAGES not in (result.get("files") or {}):
        return None
    verify_files(folder, result, [layout.IMAGES])
    rows = read_table(folder, layout.IMAGES)
    return [(row["code"], row["patient"]) for row in rows if row["side"] == "train"]


def comparable_data(data: Mapping[str, Any], origins: Sequence[Origin]) -> dict[str, Any]:
    """Choose the settings of cfg.data for evaluating the runs: the target and, for the phantom, the image size.

    If the user has set a target, it is kept. Otherwise, the first choice that is possible is used:
    1. The runs' target, if the evaluation data and the training data are of the same kind (Reader.kind).
    2. The same structure as the runs' target, under its name in the evaluation data.
    3. A structure with the same name as the runs' target. A warning says that it may be another structure.


    Args: data: cfg.data of the evaluation. origins: what each run was trained on.
    Raises: InputError if no structure matches. Also raised if the two data sets are of the same kind, but the user has
        set a target that is not the runs' target.
    """
    here, there, own, asked = readers.of(data), origins[0].reader, origins[0].data["target"], data["target"]
    run = f"run {origins[0].run_id} segments the {own}"
    if asked is None and not there.targets and str(own).isdigit():
        log.warning(
            "%s, which is the number of a label. In these data, label %s is evaluated, which may be another structure. To "
            "choose another label: data.target=...",
            *(printable(run), own),
        )
    if here.kind == there.kind:
        if here.targets and asked not in (None, own):
            raise InputError(
                f"data.target={asked}: {run}, and its training data are of the same kind as these data. Leave data.target out."
            )
        target = own if asked is None else asked
    elif asked is not None:
        target = asked
    elif same := there.same_structures.get(own, {}).get(here.kind):
        target = same
    elif own in here.targets:
        log.warning(
            "%s (%s). This name may mean another heart chamber in data=%s; it is evaluated nevertheless.",
            *map(printable, (run, there.name, here.name)),
        )
        target = own
    else:
        known = f"one of {', '.join(here.targets)}" if here.targets else "its name or value"
        raise InputError(
            f"data.target: {run} ({there.name}). Set data.target to the same structure in data={here.name} ({known})."
        )
    if not here.sizes:
        return {"target": target}
    low, high = here.sizes
    return {"target": target, "size": min(max([low, *(int(one.data["size"]) for one in origins)]), high)}


def trained_on(
    slices: SliceSet, fingerprint: str, data: Mapping[str, Any], origins: Sequence[Origin], *, which: str
) -> frozenset[str]:
    """Find the patients that at least one run was trained on. They must be excluded from the evaluation.

    A warning says how many patients are excluded. Another warning lists patients that have the same name as a training
    patient but are not excluded.

    Args: fingerprint: a hash that identifies the data set `slices`. data: cfg.data of the evaluation. which: "last" or
        "best".
    Raises: InputError if no patient remains.
    """
    patients = set(slices.patients)
    own = [one for one in origins if one.fingerprint == fingerprint or _is_same_folder(one, data)]
    seen = frozenset().union(*(one.trained for one in own)) & patients
    if own:
        told = ", ".join(one.run_id for one in own)
        if seen == patients:
            raise InputError(
                f"these are the data of run {told}, and all {len(patients)} patients were in its training, so no patient is "
                "left to evaluate. Give other data, or fewer runs."
            )
        chosen = (
            " Its best epoch was chosen on the remaining patients, so these scores are optimistic: use which=last."
            if which == "best"
            else ""
        )
        log.warning(
            "these are the data of run %s: %d of %d patients are excluded, because they were in its training.%s",
            *(told, len(seen), len(patients), chosen),
        )
    seen |= by_images(slices, seen, origins)
    others = [one for one in origins if one not in own and _may_be_alike(one, data)]
    if alike := sorted((patients - seen) & frozenset().union(*(one.trained for one in others))):
        log.warning(
            "%d of %d patients have names of training patients of run %s (%s). If they are the same persons, the scores are "
            "optimistic: remove their files from the data folder.",
            *(len(alike), len(patients), ", ".join(one.run_id for one in others if one.trained & patients)),
            printable(", ".join(alike[:5]) + (", ..." if len(alike) > 5 else "")),
        )
    return seen


def by_images(slices: SliceSet, seen: frozenset[str], origins: Sequence[Origin]) -> frozenset[str]:
    """Find the patients (except those in `seen`) whose images are recognised as training images of a run.

    The names of the patients do not matter.

    Raises: InputError if no patient remains.
    """
    for one in origins:
        if one.codes is None:
            log.warning(
                "run %s is from an earlier version of segtune without codes of its images, so its patients are recognised by "
                "name only.",
                one.run_id,
            )
    known = dict(pair for one in origins for pair in one.codes or ())
    others = [item for item in slices if item.patient not in seen]
    nearest = recognition.known_again(recognition.codes(others), list(known))
    names = list(known.values())
    found = {item.patient: names[index] for item, index in zip(others, nearest, strict=True) if index >= 0}
    if not found:
        return frozenset()
    told = ", ".join(f"{patient} (training patient {there})" for patient, there in sorted(found.items())[:5])
    told = printable(told + (", ..." if len(found) > 5 else ""))
    runs = ", ".join(one.run_id for one in origins)
    if {*found} | seen == {*slices.patients}:
        raise InputError(
            f"the images of all {len(found)} remaining patients were used to train run {runs}, some under other names: "
            f"{told}. No patient is left to evaluate. Give other data, or fewer runs."
        )
    log.warning(
        "%d of %d patients are excluded, because their images were in the training of run %s: %s.",
        *(len(found), len({*slices.patients}), runs, told),
    )
    return frozenset(found)


def _is_same_folder(one: Origin, data: Mapping[str, Any]) -> bool:
    """Return whether a run read its data from the same folder as the evaluation. Other settings may differ."""
    roots = [where.get("root") for where in (one.data, data)]
    return (
        one.reader.name == readers.of(data).name
        and None not in roots
        and len({os.path.realpath(str(root)) for root in roots}) == 1
    )


def _may_be_alike(one: Origin, data: Mapping[str, Any]) -> bool:
    """Return whether the data set of a run and the data set of the evaluation may share patients.

    This is possible if both are of the same kind (Reader.kind). Phantoms with different seeds do not share patients.
    """
    seeds = {one.data.get("seed"), data.get("seed")}
    return one.reader.kind == readers.of(data).kind and (None in seeds or len(seeds) == 1)
