import numpy as np

from segtune.data.display import grey


def test_the_first_and_the_ninety_ninth_percentile_are_black_and_white_and_what_is_beyond_too():
    image = np.arange(101, dtype=np.float32).reshape(1, 101)  # percentile p is the value p
    shown = grey(image)
    assert shown.dtype == np.uint8
    assert shown[0, [0, 1, 99, 100]].tolist() == [0, 0, 255, 255]
    assert shown[0, 50] == round(255 * 49 / 98)


def test_a_constant_image_is_black():
    assert not grey(np.full((4, 5), 7, np.float32)).any()
