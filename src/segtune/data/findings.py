"""What is wrong with a data set, or may be. Pure: from slices and contours, in memory, to findings.

An error would make results wrong: images or contours of one patient that are another's too, so that they are somebody
else's or lie on both sides of a split. A warning is to be looked at; a note says what the data cannot tell.
"""

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segtune.data import contours, splits
from segtune.data.slices import Slice, SliceSet
from segtune.data.splits import Split
from segtune.errors import InputError

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
KINDS = {  # what a finding is about
    "unreadable": "a file that the reader refuses",
    "outside_image": "a contour that leaves its image",
    "duplicate_image": "two frames with the same image",
    "duplicate_contour": "two frames with the same contour",
    "not_nested": "an endocardium that is not inside its epicardium",
    "self_crossing": "a contour that crosses itself",
    "tiny": "a structure of a few pixels",
    "polarity": "masks that may be inverted",
    "empty": "slices without the structure",
    "constant_image": "an image of a single grey value",
    "spacing": "spacing that changes within a patient",
    "stretched": "pixels that are far longer than wide",
    "strips": "planes that are strips beside those of others",
    "two_sides": "a patient who both trains and validates",
    "split": "a split that cannot be made",
    "phase": "frames that are neither end-diastole nor end-systole",
    "gap": "slices whose distance is not known",
    "cropped": "a structure that data.larger=crop cuts",
}
ALLOWABLE = (
    "duplicate_contour",
    "duplicate_image",
    "polarity",
)  # errors that data.allow can name: the others cannot be read

TINY_PX = 10  # pixels of a structure below which a single one changes its Dice by 0.05 and more
TELLING_PX = 100  # pixels from which on two masks are not equal by chance
NESTED_FRACTION = 0.99  # of the endocardium's pixels that must lie inside the epicardium: two contours may touch
SPACING_FRACTION = 0.001  # by which two statements of one spacing may differ
STRETCHED = 3.0  # longer to shorter side of a pixel, and of a plane in pixels, from which on a slice axis may be the wrong one
SHORTER = 4.0  # how many times shorter than another patient's a plane's shorter side is, if it is one of slices
BORDER_FRACTION = 0.5  # of the border's pixels, above which a structure is around the image and not in it
HALF = 0.5  # of an image, or of the slices
MOST_PX = 2048  # extent up to which contours are drawn; one that is larger lies outside its image anyway


@dataclass(frozen=True)
class Finding:
    """One thing to look at. kind: of KINDS. patient, frame, file (below data.root): None where it is about more than one.

    message: what it is, and the cure.
    """

    severity: Severity
    kind: str
    patient: str | None
    frame: int | None
    file: str | None
    message: str


@dataclass(frozen=True, eq=False)
class Outline:
    """One contour file's content. points: (N, 2) x y in the image's pixels, from 0; shape: (H, W) of its image, if known."""

    patient: str
    frame: int
    target: str
    file: str
    points: NDArray[np.float64]
    shape: tuple[int, int] | None


# What a run asks


def for_run(
    slices: SliceSet,
    sides: Split | None = None,
    *,
    allow: Collection[str] | None = None,
    of_contours: Iterable[Finding] = (),
) -> list[dict[str, Any]]:
    """The findings of a run's data, as dicts for JSON: those that check has.

    Args:
        slices: as read.
        sides: None where nobody trains.
        allow: kinds of errors (of ALLOWABLE) that the run is to go on with.
        of_contours: what the data set's contour files tell (outlines.find).
    Raises: InputError if there are errors of other kinds, or allow names something else.
    """
    found = joined(find(slices, sides), of_contours)
    if refused := not_allowed(found, allow):
        first, kinds = refused[0], sorted({one.kind for one in refused})
        others = f" It is the first of {len(refused)} errors." if len(refused) > 1 else ""
        on = f", or go on all the same with data.allow=[{','.join(kinds)}]" if {*kinds} <= {*ALLOWABLE} else ""
        raise InputError(f"{place(first)}: {first.message}{others} See all by python -m segtune.check{on}.")
    return [asdict(one) for one in found]


def joined(first: Iterable[Finding], second: Iterable[Finding]) -> list[Finding]:
    """All findings, errors first; of those that slices and contour files both tell (a kind, at one frame) the first's."""
    found = [*first]
    told = {(one.kind, one.patient, one.frame) for one in found}
    return ranked([*found, *(one for one in second if (one.kind, one.patient, one.frame) not in told)])


def warnings(found: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, str]]:
    """Of for_run's findings: kind -> how many warnings of it there are, and the first in words."""
    told: dict[str, tuple[int, str]] = {}
    for one in found:
        if one["severity"] == "warning":
            n, first = told.get(one["kind"], (0, f"{place(Finding(**one))}: {one['message']}"))
            told[one["kind"]] = (n + 1, first)
    return told


def not_allowed(found: Iterable[Finding], allow: Collection[str] | None) -> list[Finding]:
    """The errors whose kind is not allowed. Raises: InputError if allow names what is not in ALLOWABLE."""
    kinds = [] if allow is None else [*allow] if isinstance(allow, Collection) and not isinstance(allow, str) else [allow]
    for kind in kinds:
        if kind not in ALLOWABLE:
            raise InputError(
                f"data.allow={kind}: only {', '.join(ALLOWABLE[:-1])} and {ALLOWABLE[-1]} can be allowed, like "
                f"data.allow=[{ALLOWABLE[0]}]."
            )
    return [one for one in found if one.severity == "error" and one.kind not in kinds]


def place(finding: Finding) -> str:
    """Where it is, for a person: patient P01, frame 20 (P01-0020-icontour-manual.txt)."""
    named = [f"patient {finding.patient}"] if finding.patient is not None else []
    named += [f"frame {finding.frame}"] if finding.frame is not None else []
    where = ", ".join(named)
    if finding.file is None:
        return where or "all patients"
    return f"{where} ({finding.file})" if where else finding.file


def of_crop(fitted: SliceSet) -> list[dict[str, Any]]:
    """The slices whose structure the crop of module.fit has cut, as for_run's findings."""
    return [
        asdict(
            Finding(
                *("warning", "cropped", item.patient, item.frame, None),
                f"data.larger=crop cuts away {item.n_cut} of the structure's pixels; scores are of the rest. "
                "A larger data.size, or a wider data.spacing_mm, keeps them.",
            )
        )
        for item in fitted
        if item.n_cut
    ]


# Of slices


def find(slices: SliceSet, sides: Split | None = None) -> list[Finding]:
    """All that the slices tell, and the sides if they are given; errors first. About 0.05 ms per slice of 256 x 256."""
    return ranked(
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


def ranked(found: Iterable[Finding]) -> list[Finding]:
    """By severity, then by kind; what is alike in both stays in the data set's order."""
    kinds = list(KINDS)
    return sorted(found, key=lambda one: (SEVERITIES.index(one.severity), kinds.index(one.kind)))


def _alike(keys: Iterable[Hashable | None]) -> list[list[int]]:
    """Positions that share a key, two or more; None is no key."""
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


def _copied_images(slices: SliceSet) -> Iterator[Finding]:
    coarse = _alike((item.image.shape, item.image[::8, ::8].tobytes()) for item in slices)  # the whole only where these agree
    for candidates in coarse:
        varied = [slices[index] for index in candidates if not _is_constant(slices[index])]
        for group in _alike(item.image.tobytes() for item in varied):
            first, *others = (varied[index] for index in group)
            for item in others:
                yield _copied_image(first, item)


def _copied_image(first: Slice, item: Slice) -> Finding:
    same = f"the image of {_where(item)} is pixel for pixel that of "
    if item.patient == first.patient:
        message = f"{same}{_where(first)}. Is one a copy in the wrong place?"
        return Finding("warning", "duplicate_image", item.patient, item.frame, None, message)
    message = (
        f"{same}patient {first.patient}, {_where(first)}. If the two are one person, give them one name; if not, restore it."
    )
    return Finding("error", "duplicate_image", item.patient, item.frame, None, message)


def _copied_masks(slices: SliceSet) -> Iterator[Finding]:
    telling = [item for item in slices if np.count_nonzero(item.mask) >= TELLING_PX and not item.mask.all()]
    for group in _alike((item.mask.shape, np.packbits(item.mask).tobytes()) for item in telling):
        first, *others = (telling[index] for index in group)
        for item in others:
            same = f"the mask of {_where(item)} is pixel for pixel that of "
            if item.patient == first.patient:
                message = f"{same}{_where(first)}. Is one a copy?"
                yield Finding("warning", "duplicate_contour", item.patient, item.frame, None, message)
            else:
                message = f"{same}patient {first.patient}, {_where(first)}: one of the two is wrong. Restore or remove it."
                yield Finding("error", "duplicate_contour", item.patient, item.frame, None, message)


def _masks(slices: SliceSet) -> Iterator[Finding]:
    for item in slices:
        if _is_constant(item):
            message = f"the image of {_where(item)} has the single value {item.image.flat[0]:g}. Replace it by the original."
            yield Finding("warning", "constant_image", item.patient, item.frame, None, message)
        if 0 < (n := np.count_nonzero(item.mask)) < TINY_PX:
            message = f"on {_where(item)} the structure has {n} of {item.mask.size} pixels. Is it drawn as it should be?"
            yield Finding("warning", "tiny", item.patient, item.frame, None, message)


def _polarity(slices: SliceSet) -> Iterator[Finding]:
    """Masks whose structure looks like a background: it fills most of the image's border, and most of the image.

    A structure that images are cropped to fills most of them, and no more of the border than where it touches that. So what
    counts is the border; an image that is full of the structure may be a part of it, and is inverted only if most look so.
    """
    shown = [item for item in slices if item.mask.any()]
    border = np.array([_on_border(item.mask) for item in shown])
    area = np.array([item.mask.mean() for item in shown])
    around = border > BORDER_FRACTION
    if around.any():
        inverted = around & (area > HALF)
        severity: Severity = "error" if inverted.mean() >= HALF else "warning"
        at = [shown[index] for index in np.flatnonzero(around)]
        named = "; ".join(f"patient {item.patient}, {_where(item)}" for item in at[:3]) + ("; ..." if len(at) > 3 else "")
        message = (
            f"on {len(at)} of {len(shown)} slices the structure fills most of the image's border (on average "
            f"{border.mean():.0%} of all borders and {area.mean():.0%} of all images are structure; {named}). If its pixels "
            "are 0 there, invert these masks."
        )
        only = {item.patient for item in at}
        yield Finding(severity, "polarity", only.pop() if len(only) == 1 else None, None, None, message)
    elif len(shown) and (area > HALF).mean() > HALF:
        message = (
            f"on {np.count_nonzero(area > HALF)} of {len(shown)} slices the structure is more than half of the image (on "
            f"average {area.mean():.0%}), and less of its border ({border.mean():.0%}), as in images that are cropped to it."
        )
        yield Finding("note", "polarity", None, None, None, message)


def _on_border(mask: NDArray[np.bool_]) -> float:
    """The share of the pixels at the image's border that are in the structure."""
    return float(np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]]).mean())


def _patients(slices: SliceSet) -> Iterator[Finding]:
    """What concerns a patient as a whole: slices without the structure, spacing that changes."""
    of: dict[str, list[Slice]] = {}
    for item in slices:
        of.setdefault(item.patient, []).append(item)
    for patient, mine in of.items():
        if without := [item for item in mine if not item.mask.any()]:
            at = "; ".join(_where(item) for item in without[:5]) + ("; ..." if len(without) > 5 else "")
            frame = without[0].frame if len({item.frame for item in without}) == 1 else None
            message = (
                f"{len(without)} of {len(mine)} slices show no structure ({at}). If it should be there, draw it; "
                "data.empty=drop leaves such slices of volumes out."
            )
            yield Finding("warning", "empty", patient, frame, None, message)
        spacings = np.array([(*item.spacing_mm, item.gap_mm or 0.0) for item in mine])
        differing = np.ptp(spacings, axis=0) > SPACING_FRACTION * spacings.max(axis=0)
        if differing.any():
            column = int(np.argmax(differing))
            low, high = spacings[:, column].min(), spacings[:, column].max()
            name = ("rows", "columns", "slices")[column]
            message = (
                f"the distance of neighbouring {name} is from {low:g} to {high:g} mm. Are all files of one scan? Correct it."
            )
            yield Finding("warning", "spacing", patient, None, None, message)


def _planes(slices: SliceSet) -> Iterator[Finding]:
    """Pixels and planes that speak of a wrong slice axis: one of the sides of such a plane counts slices."""
    cure = "If the slices lie along another axis of the files, say which (data.slice_axis)"
    widest = max((min(item.image.shape) for item in slices), default=0)
    for mine in slices.by_patient():
        stretch, item = max(((max(one.spacing_mm) / min(one.spacing_mm), one) for one in mine), key=lambda pair: pair[0])
        if stretch > STRETCHED:
            sides = " x ".join(f"{mm:.4g}" for mm in item.spacing_mm)
            message = f"pixels of {sides} mm are stretched by {stretch:.3g} to 1. {cure}; if not, correct the spacing."
            yield Finding("warning", "stretched", item.patient, None, None, message)
        shape = min((one.image.shape for one in mine), key=min)
        if max(shape) >= STRETCHED * min(shape) and widest >= SHORTER * min(shape):
            message = (
                f"planes of {shape[0]} x {shape[1]} pixels are strips, while other patients' planes have {widest} and more on "
                f"their shorter side. {cure}."
            )
            yield Finding("warning", "strips", mine[0].patient, None, None, message)


def _two_sides(slices: SliceSet, sides: Split) -> Iterator[Finding]:
    for patient in splits.leaks(slices.patients, sides):
        message = "slices of this patient train and others validate, so that the validation flatters. Choose split.by=patient."
        yield Finding("warning", "two_sides", patient, None, None, message)


def _unknown(slices: SliceSet) -> Iterator[Finding]:
    """What the data do not say, once for all patients whom it concerns."""
    named = {phase: {item.patient for item in slices if item.phase == phase} for phase in ("ED", "ES")}
    for kind, is_missing, message in (
        (
            "phase",
            lambda item: item.phase is None and item.patient not in named["ED"] & named["ES"],
            "which frame is end-diastole or end-systole is not known: no ejection fraction",
        ),
        ("gap", lambda item: item.gap_mm is None, "the distance from slice to slice is not known: no volume in ml"),
    ):
        missing = [item for item in slices if is_missing(item)]
        if patients := list(dict.fromkeys(item.patient for item in missing)):
            cure = " data.ed and data.es say which." if kind == "phase" and any(item.volume for item in missing) else ""
            listed = ", ".join(patients[:5]) + (", ..." if len(patients) > 5 else "")
            only = patients[0] if len(patients) == 1 else None
            yield Finding("note", kind, only, None, None, f"{message} (patients: {len(patients)}, {listed}).{cure}")


# Of contours


def find_in_contours(outlines: Sequence[Outline]) -> list[Finding]:
    """All that contours tell, of both targets and whatever a run would segment; errors first."""
    outside = [_outside(one) for one in outlines]
    drawn = {index: _drawn(one) for index, one in enumerate(outlines) if outside[index] is None}
    nested = _nested(outlines, drawn)
    return ranked(
        [
            *(one for one in outside if one is not None),
            *_copied_contours(outlines, nested),
            *(one for index in nested for one in _not_nested(outlines[index], nested[index])),
            *(one for index, contour in drawn.items() for one in _shape(outlines[index], contour)),
        ]
    )


class _Drawn(NamedTuple):
    """How often a contour goes around each pixel centre, with its sign; and the row and column where that array begins."""

    winding: NDArray[np.int64]
    row: int
    column: int


def winding(points: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.int64]:
    """How often a polygon goes around each pixel centre; inside one that does not cross itself, 1 or -1, by its direction.

    Args: points: (N, 2) x y. shape: (H, W), the centre of the pixel in row r and column c is (c, r).
    """
    height, width = shape
    x, y = points.T
    next_x, next_y = np.roll(points, -1, axis=0).T
    rows = np.arange(height)[:, None]
    row, edge = np.nonzero((y <= rows) != (next_y <= rows))
    crossing = x[edge] + (row - y[edge]) * (next_x[edge] - x[edge]) / (next_y[edge] - y[edge])
    turns = np.zeros((height, width + 1), dtype=np.int64)
    np.add.at(turns, (row, np.clip(np.ceil(crossing).astype(int), 0, width)), np.where(next_y > y, 1, -1)[edge])
    return np.cumsum(turns[:, :width], axis=1)


def _drawn(outline: Outline) -> _Drawn | None:
    """The contour on the smallest part of its pixel grid; None if that would be of an extent that no image has."""
    low, high = np.floor(outline.points.min(axis=0)), np.ceil(outline.points.max(axis=0))
    if (high - low > MOST_PX).any() or (np.abs(low) > 2**31).any():
        return None
    width, height = (high - low).astype(int) + 1
    return _Drawn(winding(outline.points - low, (height, width)), int(low[1]), int(low[0]))


def _outside(outline: Outline) -> Finding | None:
    try:
        if outline.shape is not None:
            contours._check_inside(outline.points, outline.shape)
    except InputError as error:
        return Finding("error", "outside_image", outline.patient, outline.frame, outline.file, str(error))
    return None


def _nested(outlines: Sequence[Outline], drawn: dict[int, _Drawn | None]) -> dict[int, float]:
    """For each epicardium with an endocardium of the same frame: the share of the endocardium's pixels that lie inside."""
    inner = {(one.patient, one.frame): drawn.get(index) for index, one in enumerate(outlines) if one.target == "endocardium"}
    shares = {}
    for index, outer in drawn.items():
        one = outlines[index]
        within = inner.get((one.patient, one.frame))
        if one.target != "epicardium" or outer is None or within is None or not within.winding.any():
            continue
        rows, columns = np.nonzero(within.winding)
        rows, columns = rows + within.row - outer.row, columns + within.column - outer.column
        height, width = outer.winding.shape
        on = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        shares[index] = float(np.count_nonzero(outer.winding[rows[on], columns[on]]) / len(rows))
    return shares


def _not_nested(outer: Outline, share: float) -> Iterator[Finding]:
    if share < NESTED_FRACTION:
        message = (
            f"only {share:.0%} of the endocardium lies inside this epicardium. One of the two contours is of another frame or "
            "another heart: restore or draw it."
        )
        yield Finding("warning", "not_nested", outer.patient, outer.frame, outer.file, message)


def _copied_contours(outlines: Sequence[Outline], nested: dict[int, float]) -> Iterator[Finding]:
    """Of equal contours, the one that fits its endocardium best is taken for the original, else the first."""
    for group in _alike(_open(one.points).tobytes() for one in outlines):
        original, *copies = sorted(group, key=lambda index: -nested.get(index, 1.0))
        first = outlines[original]
        for one in (outlines[index] for index in copies):
            across = one.patient != first.patient
            other = f"patient {first.patient}, frame {first.frame}" if across else f"frame {first.frame}"
            message = (
                f"point for point the {first.target} of {other} ({first.file}): one of the two is wrong. Restore it, or remove "
                "it from the data."
            )
            yield Finding("error" if across else "warning", "duplicate_contour", one.patient, one.frame, one.file, message)


def _open(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The contour without a last point that repeats the first."""
    return points[:-1] if (points[0] == points[-1]).all() else points


def _shape(outline: Outline, contour: _Drawn | None) -> Iterator[Finding]:
    about = (outline.patient, outline.frame, outline.file)
    if contour is None:
        return
    n_inside = np.count_nonzero(contour.winding)
    if n_inside < TINY_PX:
        yield Finding("warning", "tiny", *about, f"the {outline.target} has {n_inside} pixels. Is it drawn as it should be?")
    plain = max(np.count_nonzero(contour.winding == 1), np.count_nonzero(contour.winding == -1))
    if n_inside > plain:
        message = (
            f"the {outline.target} crosses itself: it goes the other way, or twice, around {n_inside - plain} of {n_inside} "
            "pixels. Draw it anew."
        )
        yield Finding("warning", "self_crossing", *about, message)
