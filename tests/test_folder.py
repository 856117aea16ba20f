import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from segtune.data import folder
from segtune.errors import InputError

PATIENT = "(?P<patient>[^_/]+)[_/]"


def grey(seed, shape=(10, 12), dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)


def square(value=255, shape=(10, 12)):
    mask = np.zeros(shape, np.uint8)
    mask[1:5, 2:8] = value
    return mask


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write(root, names=("a_2.png", "b_1.png", "a_10.png"), value=255):
    for seed, name in enumerate(names):
        save(root / "images" / name, grey(seed))
        save((root / "masks" / name).with_suffix(".png"), square(value))
    return root


def read(root, **settings):
    return folder.read(root, **{"target": "foreground", "pixel_mm": 0.7, "patient": PATIENT, **settings})


def test_pairs_are_read_in_natural_order_with_the_size_of_a_pixel_that_is_given(tmp_path):
    slices = read(write(tmp_path), pixel_mm=[0.7, 0.8], gap_mm=8)
    assert [(s.patient, s.frame, s.slice_index, s.phase) for s in slices] == [
        ("a", 0, 0, None),
        ("a", 1, 1, None),
        ("b", 0, 0, None),
    ]
    assert np.array_equal(slices[1].image, grey(2))
    assert slices[1].image.dtype == np.float32
    assert np.array_equal(slices[1].mask, square() > 0)
    assert {(s.spacing_mm, s.gap_mm) for s in slices} == {((0.7, 0.8), 8)}


def test_the_pattern_tells_phase_frame_and_slice(tmp_path):
    write(tmp_path, ("p1_ES_7_2.png", "p1_ed_3_2.png", "p1_ed_3_1.png"))
    pattern = "(?P<patient>p.)_(?P<phase>..)_(?P<frame>.)_(?P<slice>.)"
    found = [(s.phase, s.frame, s.slice_index) for s in read(tmp_path, patient=pattern)]
    assert found == [("ED", 3, 1), ("ED", 3, 2), ("ES", 7, 2)]


def test_folders_within_are_part_of_the_name_and_an_image_may_be_tiff(tmp_path):
    write(tmp_path, ("anna/1.tif", "anna/2.tiff", "bert/1.PNG"))
    (tmp_path / "images" / ".DS_Store").touch()
    assert read(tmp_path).patients == ["anna", "anna", "bert"]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, bool])
def test_grey_values_of_any_depth_are_kept(tmp_path, dtype):
    array = (grey(0).astype(np.float64) * (1 if dtype in (np.uint8, bool) else 300)).astype(dtype)
    write(tmp_path, ("a_1.tif",))
    save(tmp_path / "images" / "a_1.tif", array)
    assert np.array_equal(read(tmp_path)[0].image, array.astype(np.float32))


def test_the_target_is_the_foreground_or_a_grey_value(tmp_path):
    write(tmp_path, value=2)
    assert (
        read(tmp_path)[0].mask.sum() == read(tmp_path, target=2)[0].mask.sum() == read(tmp_path, target="2")[0].mask.sum() == 24
    )
    save(tmp_path / "masks" / "b_1.png", square(1))
    assert [item.mask.any() for item in read(tmp_path, target=1)] == [False, False, True]
    with pytest.raises(
        InputError, match=r"b_1.png: data.target=foreground, but masks hold the values 2 \(a_2.png\) and 1 beside"
    ):
        read(tmp_path)


def test_the_numbers_of_a_palette_are_labels(tmp_path):
    write(tmp_path)
    mask = Image.fromarray(square(3))
    mask.putpalette([value for index in range(256) for value in (255 - index, 7, index)])
    assert mask.mode == "P"
    mask.save(tmp_path / "masks" / "a_2.png")
    assert read(tmp_path, target=3)[0].mask.sum() == 24


def test_pairs_without_the_target_may_be_dropped(tmp_path):
    write(tmp_path)
    save(tmp_path / "masks" / "a_2.png", square(0))
    assert [item.frame for item in read(tmp_path)] == [0, 1, 0]
    assert [item.frame for item in read(tmp_path, empty="drop")] == [1, 0]


def test_names_that_look_grouped_are_refused_without_a_pattern(tmp_path):
    write(tmp_path)
    with pytest.raises(InputError, match="a_2 and a_10 look like the same patient"):
        read(tmp_path, patient=None)
    assert read(write(tmp_path / "x", ("7.png", "8.png")), patient=None).patients == ["7", "8"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "heart"}, "data.target=heart: must be foreground or the structure's grey value"),
        ({"target": 0}, "data.target=0: must be"),
        ({"target": "9" * 5000}, "must be foreground"),
        ({"target": "²"}, "must be foreground"),
        ({"pixel_mm": 0}, "data.pixel_mm=0: must be the size of a pixel in mm"),
        ({"pixel_mm": [0.7]}, "data.pixel_mm=.0.7.: must be"),
        ({"pixel_mm": [0.7, float("nan")]}, "data.pixel_mm=.*: must be"),
        ({"pixel_mm": "wide"}, "data.pixel_mm=wide: must be"),
        ({"gap_mm": -1}, "data.gap_mm=-1: must be a distance in mm, or null"),
        ({"patient": "a"}, "data.patient=a: it has no group named patient"),
        ({"empty": None}, "data.empty=None: choose keep or drop"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        read(write(tmp_path), **settings)


def chunk(kind, content):
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def bomb(width, height):
    """A PNG of a few hundred bytes that announces this many pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def frames(path):
    first = Image.fromarray(grey(0))
    first.save(path.with_suffix(".tif"), save_all=True, append_images=[first])
    path.unlink()


def nan(path):
    array = grey(0).astype(np.float32)
    array[3, 4] = np.nan
    save(path.with_suffix(".tif"), array)
    path.unlink()


def tiff(*tags, then=0, size=200):
    """A TIFF of 12 x 10 zeros with these tags (number, type, count, value) after its own, and a pointer to a further image."""
    own = [(256, 3, 1, 12), (257, 3, 1, 10), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    own += [tag for tag in ((273, 4, 1, 8), (278, 3, 1, 10), (279, 4, 1, 120)) if tag[0] not in {one[0] for one in tags}]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted([*own, *tags]))
    head = b"II*\0" + struct.pack("<I", 128) + bytes(120) + struct.pack("<H", len(entries) // 12) + entries
    return (head + struct.pack("<I", then)).ljust(size, b"\0")


def as_tiff(content):
    return lambda image, mask: image.rename(image.with_suffix(".tif")).write_bytes(content)


DAMAGE = {
    "a thousand strips for ten rows": (
        as_tiff(tiff((273, 4, 1000, 400), (278, 3, 1, 1), (279, 4, 1000, 400), size=9000)),
        r"a_2.tif: damaged, cut off, or no PNG or TIFF file .ValueError",
    ),
    "no masks": (lambda i, m: shutil.rmtree(m.parent), "there is no folder masks in it. Give the folder that holds images and"),
    "no images": (lambda i, m: shutil.rmtree(i.parent), "there is no folder images in it"),
    "no mask": (lambda i, m: m.unlink(), "images/a_2.png: there is no file a_2 in .*masks to go with it. Add it"),
    "no image": (lambda i, m: i.unlink(), "masks/a_2.png: there is no file a_2 in .*images"),
    "no files": (lambda i, m: [path.unlink() for path in i.parents[1].rglob("*.png")], "images: no PNG or TIFF file in it"),
    "another kind of file": (lambda i, m: i.rename(i.with_suffix(".jpg")), "a_2.jpg: not a PNG or TIFF file. Convert it"),
    "a JPEG whatever its name": (lambda i, m: Image.fromarray(grey(0)).save(i, "JPEG"), "a_2.png: damaged, cut off, or no PNG"),
    "a name twice": (lambda i, m: shutil.copy(i, i.with_suffix(".TIF")), "have the same name: which one counts"),
    "folders in folders": (lambda i, m: (i.parent / "x" / "y").mkdir(parents=True), "x/y: not a PNG or TIFF file"),
    "colours": (lambda i, m: save(i, np.stack([grey(0)] * 3, axis=2)), "a_2.png: its pixels are of the kind RGB, not grey"),
    "a mask in colours": (lambda i, m: save(m, np.stack([square()] * 3, axis=2)), "masks/a_2.png: its pixels are of the kind"),
    "an image with a palette": (lambda i, m: Image.fromarray(grey(0)).convert("P").save(i), "images/a_2.png: .* of the kind P"),
    "another shape": (lambda i, m: save(m, square(255, (10, 13))), "masks/a_2.png: it has 10 x 13 pixels, its image 10 x 12"),
    "a smoothed mask": (lambda i, m: save(m, grey(0)), "masks/a_2.png: data.target=foreground, but masks hold the values"),
    "cut off": (lambda i, m: i.write_bytes(i.read_bytes()[:90]), "a_2.png: damaged, cut off"),
    "empty": (lambda i, m: i.write_bytes(b""), "a_2.png: damaged, cut off"),
    "a film": (lambda i, m: frames(i), "a_2.tif: several images in one file where one slice is expected"),
    "NaN": (lambda i, m: nan(i), "a_2.tif: 1 pixels are not finite numbers"),
    "NaN in a mask": (lambda i, m: nan(m), "masks/a_2.tif: 1 pixels are not finite numbers"),
    "a large bomb": (lambda i, m: i.write_bytes(bomb(30000, 30000)), "a_2.png: an image .*is larger than 67 million pixels"),
    "a small bomb": (lambda i, m: i.write_bytes(bomb(10000, 10000)), "an image of 10000 x 10000 is larger than 67 million"),
    "an image elsewhere": (
        lambda i, m: (shutil.move(i, i.parents[2] / "x.png"), i.symlink_to(i.parents[2] / "x.png")),
        "a_2.png: this link leads out of",
    ),
    "a link to itself": (lambda i, m: (i.unlink(), i.symlink_to(i)), "a_2.png: neither a file nor a folder"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_data_are_refused_by_name(tmp_path, name):
    damage, message = DAMAGE[name]
    root = write(tmp_path / "data")
    assert len(read(root)) == 3
    damage(root / "images" / "a_2.png", root / "masks" / "a_2.png")
    with pytest.raises(InputError, match=message):
        read(root)


def test_a_tiff_written_by_hand_is_read_and_one_that_leads_to_a_further_image_is_not(tmp_path):
    """So that the damage above is what it seems to be."""
    root = write(tmp_path)
    path = (root / "images" / "a_2.png").rename(root / "images" / "a_2.tif")
    path.write_bytes(tiff())
    assert not read(root)[0].image.any()
    path.write_bytes(tiff(then=256, size=256) + tiff()[128:])
    with pytest.raises(InputError, match="a_2.tif: several images in one file"):
        read(root)
