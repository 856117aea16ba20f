"""Checks that find possible faults in images, masks and splits that are in memory."""

from collections.abc import Collection, Hashable, Iterable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtune.data import findings, splits
from segtune.data.slices import Slice, SliceSet
from segtune.data.splits import Split
from segtune.errors import InputError, as_typed

TINY_PX = 10  # in a structure with fewer pixels, a single pixel changes its Dice by 0.05 or more
TELLING_PX = 100  # masks with at least this many pixels are not equal by coincidence
SPACING_FRACTION = 0.001  # relative difference up to which two spacings count as equal
STRETCHED = 3.0  # the slice axis may be wrong if the sides of a pixel, or of a plane in pixels, have a larger ratio
SHORTER = 4.0  # a plane's shorter side may count slices if another patient's shorter side is this many times as long
BORDER_FRACTION = 0.5  # a mask that covers more of the image's border than this may mark the background
HALF = 0.5  # half of an image, or of all masks


# For a run


def for_run(
    slices: SliceSet,
    sides: Split | None = None,
    *,
    allow: Collection[str] | None = None,
    of_contours: Iterable[findings.Finding] = (),
) -> list[dict[str, Any]]:
    """Check a run's data, and return the findings as dicts for JSON. segtune.check reports the same findings.

    Args:
        slices: the slices as read, before resampling and cropping.
        sides: the split; None if nothing is trained.
        allow: kinds of errors (from findings.ALLOWABLE) that do not stop the run.
        of_contours: the findings in the contour files, from contour_files.for_run.
    Raises: InputError if there are errors of other kinds, or if allow names a kind that cannot be allowed.
    """
    found = findings.joined(find(slices, sides), of_contours)
    if refused := findings.not_allowed(found, allow):
        first, kinds = refused[0], sorted({one.kind for one in refused})
        others = f" It is the first of {len(refused)} errors." if len(refused) > 1 else ""
        on = f", or continue in spite of them with data.allow=[{','.join(kinds)}]" if {*kinds} <= {*findings.ALLOWABLE} else ""
        check = as_typed("python -m segtune.check")
        raise InputError(f"{findings.place(first)}: {first.message}{others} List them all with {check}{on}.")
    return [asdict(one) for one in found]


def of_crop(fitted: SliceSet) -> list[findings.Finding]:
    """Return a warning for each slice in which grid.resample_and_crop cut off part of the structure."""
    return [
        findings.Finding(
            *("warning", "cropped", item.patient, item.frame, None),
            f"data.larger=crop cuts away {item.n_cut} of the structure's pixels, so scores refer to the rest only. "
            "To keep them, increase data.size or data.spacing_mm.",
        )
        for item in fitted
        if item.n_cut
    ]


# Of slices


def find(slices: SliceSet, sides: Split | None = None) -> list[findings.Finding]:
    """Check the slices, and the split if it is given. Return the findings, errors first.

    This takes about 0.05 ms per slice of 256 x 256 pixels.
    """
    return findings.ranked(
        [
            *_copied_images(slices),
            *_copied_masks(slices),
            *_masks(slices),
            *_polarity(slices),
            *_patients(slices),
            *_planes(slices),
            *(_two_sides(slices, sides) if sides is not None else ()),
            *_unknown(slices),
        ]
    )


def alike(keys: Iterable[Hashable | None]) -> list[list[int]]:
    """Return groups of positions. The keys at the positions of one group are equal.

    Keys that occur only once and keys that are None are left out.
    """
    groups: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        if key is not None:
            groups.setdefault(key, []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def _where(item: Slice) -> str:
    volume = f"{item.volume}, " if item.volume and item.volume != f"frame {item.frame}" else ""
    return f"{volume}frame {item.frame}, slice {item.slice_index}"


def _is_constant(item: Slice) -> bool:
    return bool(item.image.min() == item.image.max())


def _copied_images(slices: SliceSet) -> Iterator[findings.Finding]:
    coarse = alike(
        (item.image.shape, item.image[::8, ::8].tobytes()) for item in slices
    )  # comparing a coarse grid first is fast; only images that agree on it are compared completely
    for candidates in coarse:
        varied = [slices[index] for index in candidates if not _is_constant(slices[index])]
        for group in alike(item.image.tobytes() for item in varied):
            first, *others = (varied[index] for index in group)
            for item in others:
                yield _copied_image(first, item)


def _copied_image(first: Slice, item: Slice) -> findings.Finding:
    same = f"the image of {_where(item)} is identical to that of "
    if item.patient == first.patient:
        message = f"{same}{_where(first)}. Check whether one of them is a copy in the wrong place."
        return findings.Finding("warning", "duplicate_image", item.patient, item.frame, None, message)
    message = (
        f"{same}patient {first.patient}, {_where(first)}. If the two are one person, give them the same name; if not, replace "
        "the wrong image."
    )
    return findings.Finding("error", "duplicate_image", item.patient, item.frame, None, message)


def _copied_masks(slices: SliceSet) -> Iterator[findings.Finding]:
    telling = [item for item in slices if np.count_nonzero(item.mask) >= TELLING_PX and not item.mask.all()]
    for group in alike((item.mask.shape, np.packbits(item.mask).tobytes()) for item in telling):
        first, *others = (telling[index] for index in group)
        for item in others:
            same = f"the mask of {_where(item)} is identical to that of "
            if item.patient == first.patient:
                message = f"{same}{_where(first)}. Check whether one of them is a copy."
                yield findings.Finding("warning", "duplicate_contour", item.patient, item.frame, None, message)
            else:
                message = f"{same}patient {first.patient}, {_where(first)}, so one of the two is wrong. Replace or remove it."
                yield findings.Finding("error", "duplicate_contour", item.patient, item.frame, None, message)


def _masks(slices: SliceSet) -> Iterator[findings.Finding]:
    for item in slices:
        if _is_constant(item):
            message = f"the image of {_where(item)} has the single value {item.image.flat[0]:g}. Replace it with the original."
            yield findings.Finding("warning", "constant_image", item.patient, item.frame, None, message)
        if 0 < (n := np.count_nonzero(item.mask)) < TINY_PX:
            message = (
                f"on {_where(item)} the structure has {n} of {item.mask.size} pixels. Check whether it is drawn correctly."
            )
            yield findings.Finding("warning", "tiny", item.patient, item.frame, None, message)


def _polarity(slices: SliceSet) -> Iterator[findings.Finding]:
    """Find masks that may be inverted: they fill most of the image and most of its border.

    If an image is cropped to the structure, a correct mask also fills most of the image, but covers little of the
    border. Therefore the border is checked too. If a single image lies completely inside the structure, its correct
    mask looks inverted. Therefore the finding is an error only if at least half of the masks look inverted.
    """
    shown = [item for item in slices if item.mask.any()]
    border = np.array([_on_border(item.mask) for item in shown])
    area = np.array([item.mask.mean() for item in shown])
    around = border > BORDER_FRACTION
    if around.any():
        inverted = around & (area > HALF)
        severity: findings.Severity = "error" if inverted.mean() >= HALF else "warning"
        at = [shown[index] for index in np.flatnonzero(around)]
        named = "; ".join(f"patient {item.patient}, {_where(item)}" for item in at[:3]) + ("; ..." if len(at) > 3 else "")
        message = (
            f"on {len(at)} of {len(shown)} slices the structure fills most of the image's border ({named}). On average, the "
            f"structure is {border.mean():.0%} of all borders and {area.mean():.0%} of all images. If the value 0 marks the "
            "structure, invert these masks."
        )
        only = {item.patient for item in at}
        yield findings.Finding(severity, "polarity", only.pop() if len(only) == 1 else None, None, None, message)
    elif len(shown) and (area > HALF).mean() > HALF:
        message = (
            f"on {np.count_nonzero(area > HALF)} of {len(shown)} slices the structure is more than half of the image (on "
            f"average {area.mean():.0%}), but less of its border ({border.mean():.0%}), as in images that are cropped to the "
            "structure."
        )
        yield findings.Finding("note", "polarity", None, None, None, message)


def _on_border(mask: NDArray[np.bool_]) -> float:
    """The fraction of the border's pixels that belong to the structure."""
    return float(np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]]).mean())


def _patients(slices: SliceSet) -> Iterator[findings.Finding]:
    """Find slices without the structure, and spacing that changes within a patient."""
    of: dict[str, list[Slice]] = {}
    for item in slices:
        of.setdefault(item.patient, []).append(item)
    for patient, mine in of.items():
        if without := [item for item in mine if not item.mask.any()]:
            at = "; ".join(_where(item) for item in without[:5]) + ("; ..." if len(without) > 5 else "")
            frame = without[0].frame if len({item.frame for item in without}) == 1 else None
            message = (
                f"{len(without)} of {len(mine)} slices do not show the structure ({at}). If it should be there, draw it. "
                "For volumes, data.empty=drop leaves out such slices."
            )
            yield findings.Finding("warning", "empty", patient, frame, None, message)
        spacings = np.array([(*item.spacing_mm, item.gap_mm or 0.0) for item in mine])
        differing = np.ptp(spacings, axis=0) > SPACING_FRACTION * spacings.max(axis=0)
        if differing.any():
            column = int(np.argmax(differing))
            low, high = spacings[:, column].min(), spacings[:, column].max()
            name = ("rows", "columns", "slices")[column]
            message = (
                f"the distance of neighbouring {name} varies from {low:g} to {high:g} mm. Check whether all files belong to "
                "one scan, or correct the headers."
            )
            yield findings.Finding("warning", "spacing", patient, None, None, message)


def _planes(slices: SliceSet) -> Iterator[findings.Finding]:
    """Find pixels and planes that are very elongated. If there are any, the slice axis may be wrong."""
    cure = "If the slices lie along another axis of the files, name it with data.slice_axis"
    widest = max((min(item.image.shape) for item in slices), default=0)
    for mine in slices.by_patient():
        stretch, item = max(((max(one.spacing_mm) / min(one.spacing_mm), one) for one in mine), key=lambda pair: pair[0])
        if stretch > STRETCHED:
            sides = " x ".join(f"{mm:.4g}" for mm in item.spacing_mm)
            message = f"pixels of {sides} mm have sides in the ratio {stretch:.3g} to 1. {cure}; if not, correct the spacing."
            yield findings.Finding("warning", "stretched", item.patient, None, None, message)
        shape = min((one.image.shape for one in mine), key=min)
        if max(shape) >= STRETCHED * min(shape) and widest >= SHORTER * min(shape):
            message = (
                f"planes of {shape[0]} x {shape[1]} pixels are strips, but other patients' planes have up to {widest} pixels "
                f"on their shorter side. {cure}."
            )
            yield findings.Finding("warning", "strips", mine[0].patient, None, None, message)


def _two_sides(slices: SliceSet, sides: Split) -> Iterator[findings.Finding]:
    for patient in splits.leaks(slices.patients, sides):
        message = (
            "the patient has slices in both training and validation, so the validation scores are optimistic. Choose "
            "split.by=patient."
        )
        yield findings.Finding("warning", "two_sides", patient, None, None, message)


def _unknown(slices: SliceSet) -> Iterator[findings.Finding]:
    """Yield a note if phases are unknown, and a note if slice distances are unknown. Each note lists the patients."""
    named = {phase: {item.patient for item in slices if item.phase == phase} for phase in ("ED", "ES")}
    no_phase = [item for item in slices if item.phase is None and item.patient not in named["ED"] & named["ES"]]
    no_gap = [item for item in slices if item.gap_mm is None]
    for kind, missing, message in (
        (
            "phase",
            no_phase,
            "the frames of end-diastole and end-systole are unknown, so the ejection fraction cannot be computed",
        ),
        ("gap", no_gap, "the distance between slices is unknown, so volumes in ml cannot be computed"),
    ):
        if patients := list(dict.fromkeys(item.patient for item in missing)):
            cure = " Name them with data.ed and data.es." if kind == "phase" and any(item.volume for item in missing) else ""
            listed = ", ".join(patients[:5]) + (", ..." if len(patients) > 5 else "")
            only = patients[0] if len(patients) == 1 else None
            yield findings.Finding("note", kind, only, None, None, f"{message} (patients: {len(patients)}, {listed}).{cure}")
