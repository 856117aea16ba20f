"""Group the volumes of each patient, and find those at end-diastole and end-systole.

A case is one volume of a patient. Its patient, visit, phase and frame are parsed from the file name (names.parse). If
file names do not contain the phase, the user selects the end-diastolic and end-systolic volumes with data.ed and
data.es: by frame number, by a text in the file name, or by the size of the expert's mask. Each visit of a patient has
its own end-diastole and end-systole.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from segtune.data.slices import Phase, Slice
from segtune.errors import InputError

Key = TypeVar("Key")
Wanted = tuple[int | str, ...]

SEPARATORS = "_-./ "
SIZES = {"largest": max, "smallest": min}
MOST_SHOWN = 10  # the most volumes that a message lists


class Volume(NamedTuple):
    """One volume as described by its file name.

    `phase` and `frame` are defined in names.Name. `text` is the rest of the name. `visit` and `text` may be empty.
    """

    patient: str
    visit: str = ""
    phase: Phase | None = None
    frame: int | None = None
    text: str = ""

    @property
    def number(self) -> int | None:
        """The number that selects this volume in data.ed and data.es; None if it has no number."""
        return int(self.text) if self.frame is None and re.fullmatch("[0-9]{1,9}", self.text) else self.frame


def rest(name: str, patient: str) -> str:
    """Return the part of a name after the patient (sub-01_frame12 -> frame12).

    If nothing follows the patient, return the part before the patient.
    """
    before, _, after = name.partition(patient)
    return after.strip(SEPARATORS) or before.strip(SEPARATORS)


def name_frames(*given: Any) -> bool:
    """Return whether any of these values of data.ed or data.es selects a frame by number or by size, not by a text."""
    return any(isinstance(one, int) or one in SIZES for value in given for one in _wanted("data.ed, data.es", value))


def arrange(
    volumes: Mapping[Key, Volume], read: Callable[[Key], Iterable[Slice]], *, ed: Any = None, es: Any = None
) -> Iterator[Slice]:
    """Yield the slices of all volumes, each with its phase and the text that distinguishes its volume (Slice.volume).

    Patients and volumes keep the given order. If ed or es is given, the volumes of each visit are reordered: ED first, then
    ES, then the others.

    Args:
        read: function that returns the slices of one volume.
        ed, es: the values of data.ed and data.es. Each may be None, a frame's number, the text of a volume, or a list
            of numbers and texts. Exactly one volume must fit in each visit of each patient. The values "largest" and
            "smallest" select a volume by the size of the expert's mask.
    Raises: InputError that names the key and the patient if no volume or several volumes fit, or if one volume would be
        both ED and ES. This is checked before any volume is read, except for "largest" and "smallest".
    """
    wanted: dict[Phase, Wanted] = {"ED": _wanted("data.ed", ed), "ES": _wanted("data.es", es)}
    volumes = _visits_are_phases(volumes, wanted)
    patients: dict[str, dict[Key, Volume]] = {}
    for key, volume in volumes.items():
        patients.setdefault(volume.patient, {})[key] = volume
    for mine in patients.values():
        _phases(mine, wanted, None)
    by_size = any(value in SIZES for values in wanted.values() for value in values)
    for mine in patients.values():
        slices = {key: list(read(key)) for key in mine} if by_size else {}
        phases = _phases(mine, wanted, {key: _size(items) for key, items in slices.items()} if by_size else None)
        mine = {key: volume._replace(phase=phases[key]) for key, volume in mine.items()}
        volume_texts = _distinguished(mine)
        for key in _in_order(mine) if any(wanted.values()) else mine:
            for item in slices.pop(key) if by_size else read(key):
                yield dataclasses.replace(item, phase=phases[key], volume=volume_texts[key])


def _wanted(name: str, value: Any) -> Wanted:
    """The value of data.ed or data.es as a tuple of numbers and texts. Raises: InputError for values of other types."""
    values = [*value] if isinstance(value, Sequence) and not isinstance(value, str) else [] if value is None else [value]
    is_one = [isinstance(one, int | str) and not isinstance(one, bool) and str(one).strip() for one in values]
    if not all(is_one) or (value is not None and not values) or (len(values) > 1 and SIZES.keys() & {*values}):
        raise InputError(
            f"{name}={value}: must be a frame's number, the text that names a volume, a list of these, or largest or smallest."
        )
    return tuple(int(one) if re.fullmatch("[0-9]{1,9}", str(one)) else str(one) for one in values)


def _visits_are_phases(volumes: Mapping[Key, Volume], wanted: Mapping[Phase, Wanted]) -> dict[Key, Volume]:
    """If data.ed or data.es is the name of a visit (such as "diastole"), turn visits into volumes.

    All volumes of a patient then belong to the same visit, and the former visit becomes the text of the volume.
    """
    texts = {value.casefold() for values in wanted.values() for value in values if isinstance(value, str)}
    if not any(volume.visit.casefold() in texts for volume in volumes.values()):
        return dict(volumes)
    return {key: volume._replace(visit="", text=volume.visit) for key, volume in volumes.items()}


def _phases(
    mine: Mapping[Key, Volume], wanted: Mapping[Phase, Wanted], sizes: Mapping[Key, float] | None
) -> dict[Key, Phase | None]:
    """Return the phase of each volume of one patient.

    Args: sizes: the size of each volume's mask (see _size); None if the masks have not been read yet.
    """
    found = {key: volume.phase for key, volume in mine.items()}
    for visit in dict.fromkeys(volume.visit for volume in mine.values()):
        at = {key: volume for key, volume in mine.items() if volume.visit == visit}
        for phase, values in wanted.items():
            if not values or (values[0] in SIZES and sizes is None):
                continue
            setting = f"data.{phase.lower()}={_shown(values)}"
            chosen = _by_size(setting, values[0], at, sizes) if sizes and values[0] in SIZES else _by_name(setting, values, at)
            if found[chosen] not in (None, phase):
                also = found[chosen]
                by = "by its name" if mine[chosen].phase else f"data.{str(also).lower()}={_shown(wanted[also])}"  # type: ignore[index]
                raise InputError(
                    f"{setting}: {_name(mine, chosen)} of {_owner(mine[chosen])} is also {also} ({by}), but a "
                    "volume cannot be both ED and ES. Correct one of the two."
                )
            if other := [key for key, volume in at.items() if volume.phase == phase and key != chosen]:
                raise InputError(
                    f"{setting}: according to the file names, {_name(mine, other[0])} of {_owner(mine[chosen])} is {phase}, "
                    f"not {_name(mine, chosen)}. Remove this key, or remove the group phase from data.patient."
                )
            found[chosen] = phase
    return found


def _by_name(setting: str, values: Wanted, at: Mapping[Key, Volume]) -> Key:
    fits = [key for key, volume in at.items() if any(_is_called(volume, value) for value in values)]
    if len(fits) == 1:
        return fits[0]
    patient = _owner(next(iter(at.values())))
    all_names = ", ".join([_name(at, key) for key in fits or at][:MOST_SHOWN])
    if fits:
        raise InputError(
            f"{setting}: {len(fits)} volumes of {patient} have this name ({all_names}). Name one of them. If they belong to "
            "several visits, add a group visit to data.patient."
        )
    hint = (
        ""
        if any(volume.number is not None for volume in at.values())
        else " To name volumes by number, add a group frame to data.patient."
    )
    more = f", ... ({len(at)})" if len(at) > MOST_SHOWN else ""
    raise InputError(
        f"{setting}: no volume of {patient} has this name; its volumes are {all_names}{more}.{hint} Name one of them "
        "(if the names differ between patients, give a list), or move the patient's files elsewhere."
    )


def _by_size(setting: str, which: int | str, at: Mapping[Key, Volume], sizes: Mapping[Key, float]) -> Key:
    extreme = SIZES[str(which)](sizes[key] for key in at)
    first, *ties = [key for key in at if sizes[key] == extreme]
    if ties:
        raise InputError(
            f"{setting}: {_name(at, first)} and {_name(at, ties[0])} of {_owner(at[first])} have masks of the same size. "
            "Give the number of the frame instead."
        )
    if not extreme:
        raise InputError(
            f"{setting}: {_name(at, first)} of {_owner(at[first])} does not show the structure, so its phase cannot be found "
            "by size. Give the number of the frame instead, or move the volume elsewhere."
        )
    return first


def _is_called(volume: Volume, value: int | str) -> bool:
    if isinstance(value, int):
        return volume.number == value
    return value.casefold() in (volume.text.casefold(), f"frame {volume.frame}")


def _shown(values: Wanted) -> str:
    return str(values[0]) if len(values) == 1 else f"[{','.join(map(str, values))}]"


def _owner(volume: Volume) -> str:
    return f"patient {volume.patient}" + (f", visit {volume.visit}" if volume.visit else "")


def _name(volumes: Mapping[Key, Volume], key: Key) -> str:
    """Return the name of a volume in messages, for example "frame 12"."""
    volume = volumes[key]
    return f"frame {volume.frame}" if volume.frame is not None else volume.text or volume.phase or "its only volume"


def _distinguished(mine: Mapping[Key, Volume]) -> dict[Key, str]:
    """Return Slice.volume for each volume of one patient.

    It contains the visit. If the visit has several volumes of the same phase, it also contains the frame or the text.
    """
    found: dict[Key, str] = {}
    for group in _grouped(mine, lambda volume: (volume.visit, volume.phase)):
        frames = ["" if (frame := mine[key].frame) is None else f"frame {frame}" for key in group]
        rests = [mine[key].text for key in group]
        both = [f"{rest}, {frame}" for rest, frame in zip(rests, frames, strict=True)]
        ways = (frames, rests, both, [str(key) for key in group])
        texts = next(texts for texts in ways if all(texts) and len({*texts}) == len(group)) if len(group) > 1 else [""]
        for key, text in zip(group, texts, strict=True):
            visit = f"visit {mine[key].visit}" if mine[key].visit else ""
            found[key] = ", ".join(part for part in (visit, text) if part)
    return found


def _grouped(mine: Mapping[Key, Volume], by: Callable[[Volume], Any]) -> list[list[Key]]:
    groups: dict[Any, list[Key]] = {}
    for key, volume in mine.items():
        groups.setdefault(by(volume), []).append(key)
    return list(groups.values())


def _in_order(mine: Mapping[Key, Volume]) -> list[Key]:
    """The volumes of one patient, visit by visit: ED first, then ES, then the others."""
    order: dict[Phase | None, int] = {"ED": 0, "ES": 1, None: 2}
    visits = _grouped(mine, lambda volume: volume.visit)
    return [key for visit in visits for key in sorted(visit, key=lambda key: order[mine[key].phase])]


def _size(slices: Iterable[Slice]) -> float:
    """Return the volume of the expert's mask [ml].

    If the distance between slices is unknown, return the total area of the mask [mm^2 / 1000].
    """
    return sum(
        int(item.mask.sum()) * item.spacing_mm[0] * item.spacing_mm[1] * (1.0 if item.gap_mm is None else item.gap_mm) / 1000
        for item in slices
    )
