import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segtune.data import contour_checks, phantom, rvsc, slice_checks
from segtune.data.contour_checks import Outline
from segtune.data.formats import contours


def told(found) -> list[tuple[str, str, str | None, int | None]]:
    return [(one.severity, one.kind, one.patient, one.frame) for one in found]


def ring(radius, x=24.0, y=24.0, n=60) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.stack([x + radius * np.cos(t), y + radius * np.sin(t)], axis=1)


def pair(patient, inner, outer, frame=1, shape=(48, 48)) -> list[Outline]:
    return [
        Outline(patient, frame, target, f"{patient}-{frame}-{target}.txt", points, shape)
        for target, points in (("endocardium", inner), ("epicardium", outer))
    ]


def in_contours(*pairs):
    return contour_checks.find_in_contours([one for two in pairs for one in two])


def test_sound_contours_have_no_finding():
    assert in_contours(pair("A", ring(8), ring(11)), pair("B", ring(8.5), ring(12), shape=None)) == []
    assert contour_checks.find_in_contours([]) == []


def test_a_contour_of_another_patient_is_an_error_whoever_comes_first():
    for names in ("AB", "BA"):
        sound, wrong = (pair(names[0], ring(8), ring(11)), pair(names[1], ring(8, 30, 30), ring(11)))
        for order in ((sound, wrong), (wrong, sound)):
            first, second = in_contours(*order)
            assert told([first]) == [("error", "duplicate_contour", names[1], 1)]  # the one that does not fit its endocardium
            assert first.file == f"{names[1]}-1-epicardium.txt"
            assert re.search(rf"\bepicardium .*patient {names[0]}, frame 1\b", first.message)
            assert told([second]) == [("warning", "not_nested", names[1], 1)]


def test_a_contour_of_another_frame_is_a_warning():
    found = in_contours(pair("A", ring(8), ring(11)), pair("A", ring(8), ring(12), frame=2))
    assert [(*one, file) for one, file in zip(told(found), [one.file for one in found], strict=True)] == [
        ("warning", "duplicate_contour", "A", 2, "A-2-endocardium.txt")
    ]


def test_a_closed_contour_equals_an_open_one():
    closed = np.vstack([ring(8), ring(8)[:1]])
    assert told(in_contours(pair("A", ring(8), ring(11)), pair("B", closed, ring(12)))) == [
        ("error", "duplicate_contour", "B", 1)
    ]


@pytest.mark.parametrize(("shift", "is_told"), [(0, False), (2.9, False), (6, True), (24, True)])
def test_an_endocardium_that_leaves_its_epicardium_is_a_warning(shift, is_told):
    found = in_contours(pair("A", ring(8, 24 + shift), ring(11), shape=(96, 96)))
    assert told(found) == [("warning", "not_nested", "A", 1)] * is_told


def test_the_share_inside_is_counted_in_pixels():
    square = np.array([(0.0, 0.0), (10, 0), (10, 10), (0, 10)]) - 0.5 + 20
    (found,) = in_contours(pair("A", square + np.array([3, 0]), square))
    assert (found.kind, "70%" in found.message) == ("not_nested", True)


def test_a_contour_that_crosses_itself_is_a_warning():
    bow = np.array([(5.0, 5.0), (35, 30), (35, 5), (5, 30)])
    twice = np.vstack([ring(8), ring(5)])
    for points in (bow, twice):
        (found,) = in_contours([Outline("A", 1, "endocardium", "a.txt", points, (48, 48))])
        assert told([found]) == [("warning", "self_crossing", "A", 1)]
        assert "endocardium" in found.message


def test_a_contour_that_turns_back_on_itself_does_not_cross_itself():
    spur = np.vstack([ring(8), [(40.0, 24.0)]])
    assert contour_checks.find_in_contours([Outline("A", 1, "endocardium", "a.txt", spur, (48, 48))]) == []


def test_a_contour_of_a_few_pixels_is_a_warning():
    (found,) = contour_checks.find_in_contours([Outline("A", 1, "epicardium", "a.txt", ring(1.5, n=12), (48, 48))])
    assert told([found]) == [("warning", "tiny", "A", 1)]
    assert re.search(r"\bepicardium .*\b9 pixels\b", found.message)
    assert told(contour_checks.find_in_contours([Outline("A", 1, "epicardium", "", ring(0.2, 3.5, 3.5), None)])) == [
        ("warning", "tiny", "A", 1)
    ]


@pytest.mark.parametrize("points", [ring(8) + 100, ring(8) - [30, 0], ring(8) * 1e300, ring(1000)])
def test_a_contour_outside_its_image_is_an_error(points):
    (found,) = contour_checks.find_in_contours([Outline("A", 1, "endocardium", "a.txt", points, (48, 48))])
    assert told([found]) == [("error", "outside_image", "A", 1)]
    assert "48 columns" in found.message


@pytest.mark.parametrize("scale", [1e6, 1e300])
def test_a_contour_of_no_image_s_extent_takes_no_memory(scale):
    assert contour_checks.find_in_contours([Outline("A", 1, "endocardium", "a.txt", ring(8) * scale, None)]) == []


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(1, 9), min_size=5, max_size=20), st.booleans())
def test_inside_a_star_the_winding_is_one_and_the_mask_true(radii, backwards):
    t = np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    points = 10 + np.array(radii)[:, None] * np.stack([np.cos(t), np.sin(t)], axis=1)
    turns = contours.winding(points[::-1] if backwards else points, (20, 20))
    assert set(np.unique(turns)) <= {0, -1, 1}
    assert len({*np.unique(turns)} - {0}) <= 1
    assert np.array_equal(turns != 0, contours.mask(points, (20, 20)))


def test_the_phantom_has_no_finding(tmp_path):
    phantom.write(tmp_path, seed=0, n_patients=4, size=64)
    slices = {target: rvsc.read(tmp_path, target=target) for target in rvsc.TARGETS}
    shapes = {(item.patient, item.frame): item.image.shape for item in slices["endocardium"]}
    outlines = [
        Outline(patient, frame, target, path.name, contours.read(path), shapes[patient, frame])
        for patient, frame, target, path, _ in rvsc.contour_files(Path(tmp_path))
    ]
    assert len(outlines) == 2 * len(shapes) == 120
    assert [one for one in contour_checks.find_in_contours(outlines) if one.severity == "error"] == []
    for one in slices.values():
        assert [found for found in slice_checks.find(one) if found.severity == "error"] == []
