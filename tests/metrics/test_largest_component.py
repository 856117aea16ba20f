import numpy as np
import pytest

from segtune.metrics.largest_component import largest, largest_of_each


def drawn(shape, *boxes):
    mask = np.zeros(shape, bool)
    for box in boxes:
        mask[box] = True
    return mask


HEART, STOMACH = np.s_[2:6, 2:6], np.s_[9:12, 9:12]


def test_the_largest_component_is_kept_and_the_others_are_removed():
    assert (largest(drawn((16, 16), HEART, STOMACH)) == drawn((16, 16), HEART)).all()


def test_pixels_that_touch_at_a_corner_are_one_component():
    mask = drawn((16, 16), np.s_[2:4, 2:4], np.s_[4:6, 4:6], np.s_[10:12, 10:13])
    assert (largest(mask) == drawn((16, 16), np.s_[2:4, 2:4], np.s_[4:6, 4:6])).all()


@pytest.mark.parametrize("mask", [drawn((16, 16)), drawn((16, 16), HEART)])
def test_a_mask_with_at_most_one_component_is_unchanged(mask):
    assert (largest(mask) == mask).all()


def test_components_are_those_of_the_volume_and_not_of_the_slice():
    """The stomach is the larger on one slice, but the heart is the larger in the volume."""
    large = np.s_[8:14, 8:14]
    masks = [drawn((16, 16), HEART), drawn((16, 16), HEART, large), drawn((16, 16), HEART), drawn((16, 16), HEART)]
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        kept = largest_of_each([masks[index] for index in order], [("ED", index) for index in order])
        assert all((mask == masks[0]).all() for mask in kept)


def test_volumes_are_treated_apart():
    masks = [drawn((16, 16), HEART), drawn((16, 16), STOMACH)]
    kept = largest_of_each(masks, [("ED", 0), ("ES", 1)])
    assert all((a == b).all() for a, b in zip(kept, masks, strict=True))


@pytest.mark.parametrize(
    "places", [[("x", None), ("x", None)], [("x", 0), ("x", 0)]], ids=["unknown position", "same position"]
)
def test_slices_without_a_position_are_treated_alone(places):
    masks = [drawn((16, 16), HEART, STOMACH), drawn((16, 16), STOMACH)]
    kept = largest_of_each(masks, places)
    assert (kept[0] == drawn((16, 16), HEART)).all()
    assert (kept[1] == masks[1]).all()


def test_slices_of_different_shapes_are_treated_alone():
    kept = largest_of_each([drawn((16, 16), HEART, STOMACH), drawn((16, 20), STOMACH)], [("x", 0), ("x", 1)])
    assert (kept[0] == drawn((16, 16), HEART)).all()
    assert (kept[1] == drawn((16, 20), STOMACH)).all()
