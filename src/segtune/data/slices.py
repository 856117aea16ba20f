"""What a reader returns: an ordered collection of labelled slices, in memory."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

Phase = Literal["ED", "ES"]


@dataclass(frozen=True, eq=False)
class Slice:
    """One labelled image of one patient.

    image: (H, W) float32, intensities as stored [arbitrary units].
    mask: (H, W) bool, True inside the target structure.
    patient: the patient's label, never a name.
    frame: the frame's number in its file name.
    slice_index: position along the heart's axis, counted as the data set counts it.
    phase: end-diastole, end-systole, or None where the data do not tell.
    spacing_mm: distance of neighbouring pixel centres [mm], (along rows' direction of change, along columns').
    gap_mm: distance of neighbouring slice centres [mm], None where the data do not tell.
    """

    image: NDArray[np.float32]
    mask: NDArray[np.bool_]
    patient: str
    frame: int
    slice_index: int
    phase: Phase | None
    spacing_mm: tuple[float, float]
    gap_mm: float | None


class SliceSet(Sequence[Slice]):
    """Slices in patient order; the order is the data set's and the index into it is what splits speak of."""

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

    def fingerprint(self) -> str:
        """16 hex digits of a SHA-256 over everything in the set: pixels, masks, patients, frames, phases, spacings."""
        digest = hashlib.sha256()
        for item in self._slices:
            about = (item.patient, item.frame, item.slice_index, item.phase, item.spacing_mm, item.gap_mm)
            digest.update(repr((about, item.image.shape)).encode())
            digest.update(item.image.astype("<f4").tobytes())
            digest.update(np.packbits(item.mask).tobytes())
        return digest.hexdigest()[:16]
