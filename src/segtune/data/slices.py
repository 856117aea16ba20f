"""Labelled slices in memory. Every reader returns a SliceSet."""

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

from segtune.errors import InputError

log = logging.getLogger(__name__)

Phase = Literal["ED", "ES"]
SPACINGS_MM = (1e-3, 1e3)  # smallest and largest plausible spacing of pixels and slices [mm]
MEMORY_FRACTION = 0.5  # largest fraction of the machine's memory for images and masks; their tensors need the rest


@dataclass(frozen=True, eq=False)
class Slice:
    """One labelled image of one patient.

    image: (H, W) float32, intensities as stored [arbitrary units].
    mask: (H, W) bool, True inside the target structure.
    patient: the patient's label, never a person's name.
    frame: the number of the frame, usually from its file name.
    slice_index: position along the heart's axis, in the data set's own order.
    phase: end-diastole (ED), end-systole (ES), or None if it is neither or unknown.
    spacing_mm: distance of neighbouring pixel centres [mm], from row to row and from column to column.
    gap_mm: distance of neighbouring slice centres [mm], None if unknown.
    n_cut: number of the structure's stored pixels that grid.resample_and_crop cut away. The mask does not contain them.
    volume: text that distinguishes this volume from other volumes of the same patient and phase, for example the name
        of a visit, a frame or a sequence. Empty if the phase alone is enough. ED and ES of one visit have the same
        text.
    """

    image: NDArray[np.float32]
    mask: NDArray[np.bool_]
    patient: str
    frame: int
    slice_index: int
    phase: Phase | None
    spacing_mm: tuple[float, float]
    gap_mm: float | None
    n_cut: int = 0
    volume: str = ""

    @property
    def place(self) -> tuple[tuple[str, Phase | None, str], int]:
        """The slice's volume, as (patient, phase, volume), and the position of the slice in this volume."""
        return (self.patient, self.phase, self.volume), self.slice_index


class SliceSet(Sequence[Slice]):
    """The slices of a data set in its own order, patient by patient. Splits are indices into this sequence."""

    def __init__(self, slices: Iterable[Slice]) -> None:
        self._slices = tuple(slices)

    def __len__(self) -> int:
        return len(self._slices)

    @overload
    def __getitem__(self, index: int) -> Slice: ...
    @overload
    def __getitem__(self, index: slice) -> "SliceSet": ...
    def __getitem__(self, index: int | slice) -> "Slice | SliceSet":
        return SliceSet(self._slices[index]) if isinstance(index, slice) else self._slices[index]

    def __iter__(self) -> Iterator[Slice]:
        return iter(self._slices)

    def __repr__(self) -> str:
        return f"SliceSet({len(self)} slices of {len(set(self.patients))} patients)"

    @property
    def patients(self) -> list[str]:
        """The patient of each slice, in the set's order (length: number of slices)."""
        return [item.patient for item in self._slices]

    def by_patient(self) -> list[list[Slice]]:
        """The slices of each patient. Patients and slices are in the same order as in the set."""
        of: dict[str, list[Slice]] = {}
        for item in self._slices:
            of.setdefault(item.patient, []).append(item)
        return list(of.values())

    def fingerprint(self) -> str:
        """16 hex digits of a SHA-256 over all content: pixels, masks, patients, frames, phases, volumes and spacings."""
        digest = hashlib.sha256()
        for item in self._slices:
            about: tuple[object, ...] = (
                *(item.patient, item.frame, item.slice_index, item.phase, item.spacing_mm, item.gap_mm),
                *([item.volume] if item.volume else []),  # left out if empty, which keeps older fingerprints valid
            )
            digest.update(repr((about, item.image.shape)).encode())
            digest.update(item.image.astype("<f4").tobytes())
            digest.update(np.packbits(item.mask).tobytes())
        return digest.hexdigest()[:16]


def collected(slices: Iterable[Slice], *, empty: str) -> SliceSet:
    """Collect all slices from a reader of whole volumes, or only the slices that show the structure.

    Args: empty: "keep" to keep the slices with an empty mask, "drop" to leave them out.
    Raises: InputError if no slice shows the structure, if a patient would have no slice left, or if the slices need too much
        memory.
    """
    if empty not in ("keep", "drop"):
        raise InputError(
            f"data.empty={empty}: choose keep or drop. This decides whether slices without the structure are kept."
        )
    limit = MEMORY_FRACTION * _memory_bytes()
    found: list[Slice] = []
    shown: dict[str, bool] = {}
    n_read, n_bytes = 0, 0
    for item in slices:
        n_read += 1
        is_shown = bool(item.mask.any())
        shown[item.patient] = shown.get(item.patient, False) or is_shown
        if not (is_shown or empty == "keep"):
            continue
        found.append(item)
        n_bytes += item.image.nbytes + item.mask.nbytes
        if n_bytes > limit:
            cure = " data.empty=drop leaves out slices without the structure." if empty == "keep" else ""
            raise InputError(
                f"the slices up to patient {item.patient} alone need {n_bytes / 1e9:.1f} GB, which is more than "
                f"{MEMORY_FRACTION:.0%} of this machine's memory, and all data are kept in memory. "
                f"Use fewer patients.{cure}"
            )
    if not any(shown.values()):
        raise InputError(
            f"data.target: none of the {n_read} slices shows the structure. Choose another structure, or check the labels."
        )
    if without := [patient for patient, is_shown in shown.items() if not is_shown] if empty == "drop" else []:
        raise InputError(
            f"data.empty=drop leaves no slice of patient {', '.join(without[:5])}, because none shows the structure. Choose "
            "keep, or move the patient's files elsewhere."
        )
    if len(found) < n_read:
        log.info("%d of %d slices do not show the structure and are left out (data.empty=drop).", n_read - len(found), n_read)
    return SliceSet(found)


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
