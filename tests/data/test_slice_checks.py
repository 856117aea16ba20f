import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from segtune.data import findings, slice_checks, splits
from segtune.data.findings import Finding
from segtune.data.formats import contours
from segtune.data.slices import Slice, SliceSet
from segtune.data.splits import Split
from segtune.errors import InputError

DISC = contours.mask(np.array([(20 + 8 * math.cos(t), 20 + 8 * math.sin(t)) for t in np.linspace(0, 6.2, 40)]), (48, 48))


def a_slice(patient="A", frame=1, index=0, **other) -> Slice:
    """A sound slice whose image and mask no other patient or frame has."""
    seed = [*patient.encode(), frame, index]
    mask = np.roll(DISC, np.random.default_rng(seed).integers(-8, 20, 2), axis=(0, 1))
    mask[0, seed[0] % 48] = mask[1, frame % 48] = mask[2, index] = True
    sound = Slice(
        image=np.random.default_rng(seed).integers(0, 400, (48, 48)).astype(np.float32),
        mask=mask,
        patient=patient,
        frame=frame,
        slice_index=index,
        phase="ED",
        spacing_mm=(0.7, 0.8),
        gap_mm=8.4,
    )
    return replace(sound, **other)


SOUND = [a_slice(patient, frame, index) for patient in "ABC" for frame in (1, 2) for index in range(3)]


def told(found) -> list[tuple[str, str, str | None, int | None]]:
    return [(one.severity, one.kind, one.patient, one.frame) for one in found]


def find(*changed: Slice, sides=None):
    """The findings of the sound slices after those with a changed one's patient, frame and index took its place."""
    key = {(one.patient, one.frame, one.slice_index): one for one in changed}
    return slice_checks.find(SliceSet(key.get((s.patient, s.frame, s.slice_index), s) for s in SOUND), sides)


def test_sound_slices_have_no_finding():
    assert find() == []
    assert slice_checks.find(SliceSet([])) == []


def test_an_image_of_two_patients_is_an_error_and_of_one_a_warning():
    (found,) = find(a_slice("B", image=SOUND[0].image.copy()))
    assert told([found]) == [("error", "duplicate_image", "B", 1)]
    assert re.search(r"\bimage .*\bpatient A, frame 1, slice 0\b", found.message)
    assert told(find(a_slice("A", 2, image=SOUND[0].image))) == [("warning", "duplicate_image", "A", 2)]


def test_images_that_differ_in_a_single_pixel_are_two():
    image = SOUND[0].image.copy()
    image[3, 5] += 1
    assert find(a_slice("B", image=image)) == []


def test_a_mask_of_two_patients_is_an_error_and_of_one_a_warning():
    (found,) = find(a_slice("C", 2, mask=SOUND[0].mask.copy()))
    assert told([found]) == [("error", "duplicate_contour", "C", 2)]
    assert re.search(r"\bmask .*\bpatient A, frame 1, slice 0\b", found.message)
    assert told(find(a_slice("A", 2, mask=SOUND[0].mask))) == [("warning", "duplicate_contour", "A", 2)]


def test_each_further_copy_is_a_finding_of_its_own():
    copies = [a_slice(patient, mask=DISC) for patient in "ABC"]
    assert told(find(*copies)) == [("error", "duplicate_contour", "B", 1), ("error", "duplicate_contour", "C", 1)]


def test_small_masks_may_be_equal_by_chance():
    small = np.zeros((48, 48), bool)
    small[:9, :11] = True
    assert find(a_slice("A", mask=small), a_slice("B", mask=small)) == []
    small[9, 0] = True
    assert told(find(a_slice("A", mask=small), a_slice("B", mask=small))) == [("error", "duplicate_contour", "B", 1)]


@pytest.mark.parametrize(("n", "kinds"), [(0, ["empty"]), (1, ["tiny"]), (9, ["tiny"]), (10, [])])
def test_a_structure_below_10_pixels_is_tiny_and_of_none_empty(n, kinds):
    mask = np.zeros((48, 48), bool)
    mask.flat[:n] = True
    assert [(one.severity, one.kind) for one in find(a_slice("B", mask=mask))] == [("warning", kind) for kind in kinds]


def test_empty_slices_are_one_finding_per_patient():
    none = np.zeros((48, 48), bool)
    first, second = find(*(a_slice("A", frame, mask=none) for frame in (1, 2)), a_slice("B", 2, 1, mask=none))
    assert told([first, second]) == [("warning", "empty", "A", None), ("warning", "empty", "B", 2)]
    assert re.search(r"\b2 of 6 .*\(frame 1, slice 0; frame 2, slice 0\)", first.message)


def test_a_constant_image_is_a_warning_and_no_duplicate():
    flat = np.full((48, 48), 7, np.float32)
    assert told(find(a_slice("A", image=flat), a_slice("B", image=flat))) == [
        ("warning", "constant_image", "A", 1),
        ("warning", "constant_image", "B", 1),
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"spacing_mm": (0.9, 0.8)}, r"\brows\b.*\b0.7 to 0.9 mm\b"),
        ({"spacing_mm": (0.7, 1.6)}, r"\bcolumns\b.*\b0.8 to 1.6 mm\b"),
        ({"gap_mm": 10.0}, r"\bslices\b.*\b8.4 to 10 mm\b"),
    ],
)
def test_spacing_that_changes_within_a_patient_is_a_warning(change, words):
    (found,) = find(a_slice("B", 2, 2, **change))
    assert told([found]) == [("warning", "spacing", "B", None)]
    assert re.search(words, found.message)


def inverted(items):
    return [replace(item, mask=~item.mask) for item in items]


@pytest.mark.parametrize(("n", "severity"), [(1, "warning"), (8, "warning"), (9, "error"), (18, "error")])
def test_inverted_masks_are_an_error_from_half_of_the_slices_on_and_a_warning_below(n, severity):
    (found,) = find(*inverted(SOUND[:n]))
    assert (found.severity, found.kind) == (severity, "polarity")
    assert re.search(rf"\b{n} of 18 .*\bborder\b.*\binvert\b", found.message)


def test_a_run_refuses_inverted_masks_unless_they_are_allowed():
    slices = SliceSet(inverted(SOUND))
    with pytest.raises(InputError, match=r"\b18 of 18 .*\b9\d% .*\b9\d% .*data.allow=\[polarity\]"):
        slice_checks.for_run(slices)
    assert slice_checks.for_run(slices, allow=["polarity"])[0]["kind"] == "polarity"


def test_slices_without_the_structure_that_are_inverted_are_no_copies_of_one_another():
    full = [replace(item, mask=np.ones((48, 48), bool)) for item in SOUND[:2] + SOUND[6:8]]
    assert told(find(*full)) == [("warning", "polarity", None, None)]


@pytest.mark.parametrize("radius", [6, 12, 20])
def test_images_cropped_to_the_structure_have_no_polarity_to_be_warned_of(radius):
    rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = rows**2 + columns**2 <= radius**2
    tight = [replace(item, mask=disc ^ (columns == n - 9) * (rows == 0), image=item.image[: len(disc), : len(disc)])
             for n, item in enumerate(SOUND)]  # fmt: skip
    (found,) = [one for one in slice_checks.find(SliceSet(tight)) if one.kind == "polarity"]
    assert found.severity == "note"
    assert re.search(r"\b18 of 18 .*\bimage\b.*\d%.*\bborder\b.*\d%", found.message)
    around = [replace(item, mask=np.pad(item.mask, radius // 3), image=np.pad(item.image, radius // 3)) for item in tight]
    assert not any(one.kind == "polarity" for one in slice_checks.find(SliceSet(around)))
    wall = [replace(item, mask=item.mask & (rows**2 + columns**2 > radius**2 / 3)) for item in tight]
    assert not any(one.severity != "note" for one in slice_checks.find(SliceSet(wall)) if one.kind == "polarity")


def test_spacing_may_differ_between_patients_and_in_the_last_digit():
    wider = [a_slice("B", s.frame, s.slice_index, spacing_mm=(1.4, 1.4), gap_mm=10.0) for s in SOUND if s.patient == "B"]
    assert find(*wider, a_slice("A", spacing_mm=(0.70001, 0.8))) == []


def test_a_patient_on_two_sides_is_a_warning():
    sides = Split(train=np.arange(9), val=np.arange(9, 18))
    assert told(find(sides=sides)) == [("warning", "two_sides", "B", None)]
    assert find(sides=splits.by_patient([s.patient for s in SOUND], val_fraction=0.3, seed=0)) == []


def test_what_the_data_do_not_tell_is_noted_once():
    unknown = SliceSet(replace(item, phase=None, gap_mm=None) for item in SOUND)
    first, second = slice_checks.find(unknown)
    assert told([first, second]) == [("note", "phase", None, None), ("note", "gap", None, None)]
    assert re.search(r"\b3, A, B, C\b", first.message)
    assert told(find(a_slice("C", phase=None))) == [("note", "phase", "C", None)]


def test_a_patient_whose_end_diastole_and_end_systole_are_named_may_have_other_volumes_and_the_others_learn_how_to_name_them():
    named = [a_slice("A", 1), a_slice("A", 2, phase="ES"), a_slice("A", 3, phase=None, volume="lge")]
    assert slice_checks.find(SliceSet(named)) == []
    (found,) = slice_checks.find(SliceSet(replace(item, phase=None, volume=f"frame {item.frame}") for item in named))
    assert all(key in found.message for key in ("data.ed", "data.es"))


def test_a_slice_of_one_of_several_volumes_is_named_with_its_volume():
    (found,) = slice_checks.find(SliceSet([a_slice(), a_slice(index=1, volume="visit 2", image=a_slice().image)]))
    assert found.kind == "duplicate_image"
    assert re.search(r"\bvisit 2, frame 1, slice 1 .*[^,] frame 1, slice 0\b", found.message)


def test_errors_come_first():
    mixed = find(a_slice("A", phase=None), a_slice("A", 2, gap_mm=9.0), a_slice("C", image=SOUND[0].image))
    assert [one.severity for one in mixed] == ["error", "warning", "note"]


# What a run asks

SIDES = Split(train=np.arange(12), val=np.arange(12, 18))
COPIED = SliceSet([*SOUND[:6], a_slice("B", image=SOUND[0].image, mask=SOUND[0].mask), *SOUND[7:]])


def test_a_run_records_findings_as_json():
    recorded = slice_checks.for_run(SliceSet([replace(SOUND[0], gap_mm=9.0), *SOUND[1:]]), SIDES)
    assert json.loads(json.dumps(recorded)) == recorded
    assert [{key: one[key] for key in ("severity", "kind", "patient", "frame", "file")} for one in recorded] == [
        {"severity": "warning", "kind": "spacing", "patient": "A", "frame": None, "file": None}
    ]


def test_a_run_refuses_errors_in_one_sentence_with_its_cure():
    with pytest.raises(InputError) as caught:
        slice_checks.for_run(COPIED, SIDES)
    message = str(caught.value)
    assert re.match(r"patient B, frame 1: .*\bimage\b.*\bpatient A, frame 1, slice 0\b.*\b2 errors\b", message)
    assert message.endswith("data.allow=[duplicate_contour,duplicate_image].")
    with pytest.raises(InputError, match=r"data.allow=\[duplicate_contour\]\.$"):
        slice_checks.for_run(COPIED, SIDES, allow=["duplicate_image"])


def test_a_run_goes_on_with_errors_that_are_allowed_and_records_them():
    recorded = slice_checks.for_run(COPIED, SIDES, allow=["duplicate_image", "duplicate_contour"])
    assert [one["severity"] for one in recorded] == ["error", "error"]
    assert len(slice_checks.for_run(SliceSet(SOUND), SIDES, allow="duplicate_image")) == 0


@pytest.mark.parametrize("allow", [["tiny"], "x", [5], 5, ["duplicate_image", "all"]])
def test_only_errors_of_a_run_can_be_allowed(allow):
    with pytest.raises(InputError, match="data.allow=.*: .*duplicate_contour, duplicate_image and polarity"):
        slice_checks.for_run(SliceSet(SOUND), SIDES, allow=allow)


def test_every_kind_is_explained():
    assert set(findings.ALLOWABLE) < findings.KINDS.keys()
    with pytest.raises(ValueError, match="in list"):
        findings.ranked([Finding("error", "nameless", None, None, None, "")])


def test_pixels_stretched_beyond_three_to_one_are_a_warning_and_ordinary_ones_are_not():
    changed = [a_slice("B", 1, index, spacing_mm=(8.0, 1.5)) for index in range(3)]
    found = [one for one in find(*changed) if one.kind == "stretched"]
    assert told(found) == [("warning", "stretched", "B", None)]
    assert re.search(r"\b8 x 1.5 mm\b.*\b5.33 to 1\b", found[0].message)
    assert "data.slice_axis" in found[0].message
    ordinary = [a_slice("B", frame, index, spacing_mm=(0.7, 2.0)) for frame in (1, 2) for index in range(3)]
    assert find(*ordinary) == []


def plane(patient, *shape):
    return a_slice(patient, image=np.random.default_rng(len(patient)).random(shape, np.float32), mask=np.ones(shape, bool))


def test_planes_that_are_strips_beside_other_patients_are_a_warning_and_acdc_s_variety_is_none():
    found = slice_checks.find(SliceSet([plane("A", 64, 64), plane("BB", 64, 4)]))
    assert [told([one])[0] for one in found if one.kind == "strips"] == [("warning", "strips", "BB", None)]
    shapes = [(154, 224), (154, 512), (428, 512), (256, 216), (216, 256), (428, 154)]
    variety = SliceSet(plane("x" * (n + 1), *shape) for n, shape in enumerate(shapes))
    assert not [one for one in slice_checks.find(variety) if one.kind in ("strips", "stretched")]
    crops = SliceSet([plane("A", 64, 64), plane("BB", 512, 512)])
    assert not [one for one in slice_checks.find(crops) if one.kind == "strips"]
