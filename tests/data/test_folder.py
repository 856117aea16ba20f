import re
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from layouts.folder import PATIENT, grey, read, save, square, write
from segtune.data import folder
from segtune.errors import InputError


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
    with pytest.raises(InputError, match=r"b_1.png: data.target=foreground.*\b2 \(a_2.png\) and 1\b"):
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
    with pytest.raises(InputError, match="a_2 and a_10 .*data.patient="):
        read(tmp_path, patient=None)
    assert read(write(tmp_path / "x", ("7.png", "8.png")), patient=None).patients == ["7", "8"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "heart"}, "data.target=heart: .*foreground"),
        ({"target": 0}, "data.target=0: .*foreground"),
        ({"target": "9" * 5000}, "data.target=9+: .*foreground"),
        ({"target": "²"}, "data.target=²: .*foreground"),
        ({"pixel_mm": 0}, "data.pixel_mm=0: "),
        ({"pixel_mm": [0.7]}, r"data.pixel_mm=\[0.7\]: "),
        ({"pixel_mm": [0.7, float("nan")]}, r"data.pixel_mm=\[0.7, nan\]: "),
        ({"pixel_mm": "wide"}, "data.pixel_mm=wide: "),
        ({"gap_mm": -1}, "data.gap_mm=-1: .*null"),
        ({"patient": "a"}, "data.patient=a: .*group"),
        ({"empty": None}, "data.empty=None: .*keep.*drop"),
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


def lossy_tiff(path):
    Image.fromarray(square()).save(path.with_suffix(".tif"), compression="jpeg")
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
        r"images/a_2.tif: .*TIFF.*\(ValueError\)",
    ),
    "no masks": (lambda i, m: shutil.rmtree(m.parent), r"data.root=\S+: [^.]*\bmasks\b"),
    "no images": (lambda i, m: shutil.rmtree(i.parent), r"data.root=\S+: [^.]*\bimages\b"),
    "no mask": (lambda i, m: m.unlink(), r"images/a_2.png: .*\ba_2\b.*/masks\b"),
    "no image": (lambda i, m: i.unlink(), r"masks/a_2.png: .*\ba_2\b.*/images\b"),
    "no files": (lambda i, m: [path.unlink() for path in i.parents[1].rglob("*.png")], "/images: .*PNG.*TIFF"),
    "another kind of file": (lambda i, m: i.rename(i.with_suffix(".bmp")), "a_2.bmp: .*PNG.*TIFF"),
    "no JPEG whatever its name": (lambda i, m: i.rename(i.with_suffix(".jpg")), r"a_2.jpg: .*JPEG.*\(\w+Error\)"),
    "a mask in a JPEG file": (
        lambda i, m: (m.unlink(), save(m.with_suffix(".jpg"), square())),
        "masks/a_2.jpg: .*JPEG.*lossy.*PNG",
    ),
    "a JPEG mask whatever its name": (lambda i, m: Image.fromarray(square()).save(m, "JPEG"), "masks/a_2.png: .*JPEG.*lossy"),
    "a JPEG in a TIFF mask": (lambda i, m: lossy_tiff(m), "masks/a_2.tif: .*JPEG.*lossy"),
    "a JPEG in colours": (
        lambda i, m: (i.unlink(), save(i.with_suffix(".jpg"), np.stack([grey(0)] * 3, axis=2))),
        r"a_2.jpg: .*\bRGB\b",
    ),
    "a JPEG whatever its name": (lambda i, m: Image.fromarray(grey(0)).save(i, "JPEG"), "images/a_2.png: .*JPEG.*[.]jpg"),
    "a name twice": (lambda i, m: shutil.copy(i, i.with_suffix(".TIF")), r"a_2\.\w+ and \S*a_2\.\w+ "),
    "folders in folders": (lambda i, m: (i.parent / "x" / "y").mkdir(parents=True), "x/y: .*PNG.*TIFF"),
    "colours": (lambda i, m: save(i, np.stack([grey(0)] * 3, axis=2)), r"images/a_2.png: .*\bRGB\b"),
    "a mask in two colours": (
        lambda i, m: save(m, np.stack([square(), square(9), 0 * square()], axis=2) + np.eye(10, 12, dtype=np.uint8)[..., None]),
        r"masks/a_2.png: data.target=foreground.*\b1 \(a_2.png\) and #000a01\b",
    ),
    "an image with a palette": (lambda i, m: Image.fromarray(grey(0)).convert("P").save(i), r"images/a_2.png: .*\bP\b"),
    "another shape": (lambda i, m: save(m, square(255, (10, 13))), "masks/a_2.png: .*10 x 13 .*10 x 12"),
    "a smoothed mask": (lambda i, m: save(m, grey(0)), r"masks/a_2.png: data.target=foreground.*\b1 \(a_2.png\) and 3\b"),
    "cut off": (lambda i, m: i.write_bytes(i.read_bytes()[:90]), r"images/a_2.png: .*\(\w+Error\)"),
    "empty": (lambda i, m: i.write_bytes(b""), r"images/a_2.png: .*\(\w+Error\)"),
    "a film": (lambda i, m: frames(i), "images/a_2.tif: .*several"),
    "NaN": (lambda i, m: nan(i), "images/a_2.tif: 1 .*NaN"),
    "NaN in a mask": (lambda i, m: nan(m), "masks/a_2.tif: 1 .*NaN"),
    "a large bomb": (lambda i, m: i.write_bytes(bomb(30000, 30000)), r"images/a_2.png: (?!.* x ).*\b67 million"),
    "a small bomb": (lambda i, m: i.write_bytes(bomb(10000, 10000)), r"images/a_2.png: .*10000 x 10000 .*\b67 million"),
    "an image elsewhere": (
        lambda i, m: (shutil.move(i, i.parents[2] / "x.png"), i.symlink_to(i.parents[2] / "x.png")),
        r"images/a_2.png: .*\blink\b",
    ),
    "a link to itself": (lambda i, m: (i.unlink(), i.symlink_to(i)), "images/a_2.png: .*neither"),
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
    with pytest.raises(InputError, match="images/a_2.tif: .*several"):
        read(root)


def palette(path, colours, mask=None):
    """A mask with these colours as numbers 0, 1, ...; the structure has the last number if no mask of numbers is given."""
    image = Image.fromarray((square() > 0).astype(np.uint8) if mask is None else mask)
    image.putpalette([value for colour in colours for value in colour])
    image.save(path)


BLACK, BRIGHT, RED, GREEN = (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0)


def test_a_colour_is_the_same_value_whatever_its_number_in_a_palette(tmp_path):
    write(tmp_path)
    palette(tmp_path / "masks" / "a_2.png", [BLACK, BRIGHT])
    palette(tmp_path / "masks" / "a_10.png", [BRIGHT, BLACK], (square() == 0).astype(np.uint8))
    for target in ("foreground", 255):
        assert [np.array_equal(item.mask, square() > 0) for item in read(tmp_path, target=target)] == [True] * 3


def test_palettes_in_which_the_target_has_other_colours_are_refused_by_name(tmp_path):
    write(tmp_path)
    palette(tmp_path / "masks" / "a_2.png", [BLACK, RED])
    palette(tmp_path / "masks" / "b_1.png", [BLACK, RED])
    palette(tmp_path / "masks" / "a_10.png", [RED, BLACK], (square() == 0).astype(np.uint8))
    assert [item.mask.sum() for item in read(tmp_path)] == [24] * 3  # by colour, their order does not matter
    with pytest.raises(InputError, match=r"a_10.png: .*palette.*/a_2.png: .*data.target=1\b.*\b0\b"):
        read(tmp_path, target=1)
    palette(tmp_path / "masks" / "a_10.png", [BLACK, GREEN])
    with pytest.raises(InputError, match=r"a_10.png: .*#ff0000 \(a_2.png\) and #00ff00\b"):
        read(tmp_path)
    with pytest.raises(InputError, match=r"a_10.png: .*palette.*/a_2.png: .*#00ff00.*#ff0000"):
        read(tmp_path, target=1)
    palette(tmp_path / "masks" / "a_10.png", [BLACK, BLACK])
    with pytest.raises(InputError, match=r"a_10.png: .*palette.*\b0 and 1\b.*, 0,"):
        read(tmp_path)
    palette(tmp_path / "masks" / "a_10.png", [BLACK, (2, 2, 2), (1, 1, 1)], square(1) + np.eye(10, 12, dtype=np.uint8))
    with pytest.raises(InputError, match=r"a_10.png: data.target=1\b.*\b2\b.*palette"):
        read(tmp_path, target=1)


def channels(kind):
    mask, full = square(), square() | 255
    return {
        "RGB": [mask] * 3,
        "RGBA": [mask, mask, mask, full],
        "LA": [mask, full],
        "cut out": [mask, mask, mask, mask],
        "red": [mask, 0 * mask, 0 * mask],
    }[kind]


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "LA", "cut out", "red"])
def test_a_mask_with_channels_is_read_by_what_it_shows(tmp_path, kind):
    write(tmp_path)
    for name in ("a_2", "a_10", "b_1"):
        save(tmp_path / "masks" / f"{name}.png", np.stack(channels(kind), axis=2))
    assert [np.array_equal(item.mask, square() > 0) for item in read(tmp_path)] == [True] * 3
    if kind != "red":
        assert read(tmp_path, target=255)[0].mask.sum() == 24
    else:
        with pytest.raises(InputError, match="a_2.png: .*#ff0000.*data.target=255"):
            read(tmp_path, target=255)


@pytest.mark.parametrize("kind", ["white behind", "half transparent", "black drawn"])
def test_transparency_that_contradicts_the_colours_is_refused(tmp_path, kind):
    full = square() | 255
    pixels = {"white behind": [full, square()], "half transparent": [square(), full // 2], "black drawn": [0 * full, square()]}
    write(tmp_path)
    save(tmp_path / "masks" / "a_2.png", np.stack(pixels[kind], axis=2))
    with pytest.raises(InputError, match="masks/a_2.png: .*transparency"):
        read(tmp_path)


def test_a_mask_of_one_bit_is_white_and_the_bit_1(tmp_path):
    write(tmp_path)
    save(tmp_path / "masks" / "a_2.png", square() > 0)
    for target, n in (("foreground", 24), (255, 24), (1, 24), (2, 0)):
        save(tmp_path / "masks" / "b_1.png", square(255 if target == "foreground" else target))
        assert read(tmp_path, target=target)[0].mask.sum() == n


def test_a_mask_of_16_bits_keeps_its_values(tmp_path):
    write(tmp_path)
    save(tmp_path / "masks" / "a_2.png", square(1).astype(np.uint16) * 300)
    assert read(tmp_path, target=300)[0].mask.sum() == 24
    assert not read(tmp_path, target=300)[1].mask.any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_whose_0_is_white_is_read_as_it_is_shown(tmp_path, dtype):
    path = tmp_path / "image.tif"
    save(path, grey(0).astype(dtype))
    black, white = (struct.pack("<HHIHH", 262, 3, 1, value, 0) for value in (1, 0))
    assert path.read_bytes().count(black) == 1
    path.write_bytes(path.read_bytes().replace(black, white))
    assert np.array_equal(folder._pixels(path), np.iinfo(dtype).max - grey(0).astype(dtype))


@pytest.mark.parametrize("array", [np.int8([[-5, 7]]), np.uint32([[7, 2**31 + 128]])], ids=["int8", "uint32"])
def test_a_tiff_keeps_the_signs_that_its_tags_tell(tmp_path, array):
    path = tmp_path / "image.tif"
    Image.fromarray(array.view(np.uint8 if array.itemsize == 1 else np.int32)).save(path, tiffinfo={339: 1})
    was, sign = (struct.pack("<HHIHH", 339, 3, 1, value, 0) for value in (1, 2))
    if array.itemsize == 1:
        path.write_bytes(path.read_bytes().replace(was, sign))
    else:
        path.write_bytes(path.read_bytes().replace(sign, was))
    assert folder._pixels(path).tolist() == array.tolist()


def test_colours_of_16_bits_and_files_stored_turned_are_refused(tmp_path):
    rows = b"".join(b"\0" + bytes([0, 1] * 12 * 3) for _ in range(10))  # a label 1 that 8 bits would make 0
    head = struct.pack(">IIBBBBB", 12, 10, 16, 2, 0, 0, 0)
    content = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    root = write(tmp_path)
    (root / "masks" / "a_2.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    with pytest.raises(InputError, match="masks/a_2.png: .*16 bits"):
        read(root)
    for suffix in (".png", ".jpg"):
        exif = Image.Exif()
        exif[274] = 3
        (root / "images" / "a_2.png").unlink()
        Image.fromarray(grey(0)).save(root / "images" / f"a_2{suffix}", exif=exif)
        with pytest.raises(InputError, match=f"images/a_2{suffix}: .*EXIF"):
            read(root)


def noisy(seed=0):
    """A mask of 255 that a JPEG file has held."""
    noise = np.random.default_rng(seed).integers(0, 6, (10, 12))
    return np.where(square() > 0, 255 - noise, noise // 2 * (noise < 6)).astype(np.uint8)


@pytest.mark.parametrize("target", ["foreground", 255, 1])
def test_the_traces_of_jpeg_in_a_mask_are_told_with_a_cure_that_cures(tmp_path, target):
    root = write(tmp_path)
    save(root / "masks" / "b_1.png", noisy())
    with pytest.raises(InputError, match="masks/b_1.png: .*lossy.*PNG") as told:
        read(root, target=target)
    assert "data.target=" not in str(told.value)


@pytest.mark.parametrize("quality", [10, 50, 75, 95])
def test_a_mask_that_a_jpeg_file_has_held_is_never_taken_for_labels(tmp_path, quality):
    rows, columns = np.mgrid[:64, :64]
    disc = (((rows - 30) ** 2 + (columns - 33) ** 2 < 300) * 255).astype(np.uint8)
    Image.fromarray(disc).save(tmp_path / "held.jpg", quality=quality)
    write(tmp_path)
    for name in ("a_2", "a_10", "b_1"):
        save(tmp_path / "images" / f"{name}.png", grey(len(name), disc.shape))
        save(tmp_path / "masks" / f"{name}.png", np.array(Image.open(tmp_path / "held.jpg")))
    (tmp_path / "held.jpg").unlink()
    with pytest.raises(InputError, match="masks/a_2.png: .*lossy.*PNG") as told:
        read(tmp_path)
    assert "data.target=1" not in str(told.value)


def test_labels_that_are_no_noise_are_read(tmp_path):
    root = write(tmp_path, value=1)
    labels = square(1) + 2 * np.eye(10, 12, dtype=np.uint8)
    labels[8] = 255  # to be ignored
    save(root / "masks" / "b_1.png", labels)
    assert [item.mask.sum() for item in read(root, target=1)] == [24, 24, (labels == 1).sum()]
    save(root / "masks" / "a_2.png", square(255))
    with pytest.raises(
        InputError, match=r"masks/a_10.png: data.target=foreground.*\b255 \(a_2.png\) and 1\b.*data.target"
    ) as told:
        read(root)
    assert "data.target=1" not in str(told.value)


def test_names_match_however_a_file_system_composes_their_letters(tmp_path):
    root = write(tmp_path, ("J\u00e4ger_1.png",))  # composed
    (root / "masks" / "J\u00e4ger_1.png").rename(root / "masks" / "Ja\u0308ger_1.png")
    assert read(root).patients == ["J\u00e4ger"]
    assert read(root, patient="(?P<patient>Ja\u0308ger)_").patients == ["J\u00e4ger"]


def test_masks_may_be_named_by_a_suffix_in_a_folder_of_their_own_or_beside_their_images(tmp_path):
    root = write(tmp_path / "two")
    for path in (root / "masks").iterdir():
        path.rename(path.with_stem(path.stem + "_mask"))
    with pytest.raises(InputError, match=r"images/a_10.png: .*\ba_10_mask\b.*data.mask_suffix=_mask\b"):
        read(root)
    found = read(root, mask_suffix="_mask")
    assert [(s.patient, s.mask.sum()) for s in found] == [("a", 24), ("a", 24), ("b", 24)]
    one = tmp_path / "one" / "study"
    shutil.copytree(root / "images", one)
    shutil.copytree(root / "masks", one, dirs_exist_ok=True)
    for folder_of_both in (one, one.parent):
        pattern = "(study/)?" + PATIENT
        assert read(folder_of_both, mask_suffix="_mask", patient=pattern).fingerprint() == found.fingerprint()
    (one / "b_1_mask.png").unlink()
    with pytest.raises(InputError, match=r"study/b_1.png: .*\bb_1_mask\b.*/study\b"):
        read(one, mask_suffix="_mask")
    with pytest.raises(InputError, match=r"data.mask_suffix=_mask\.png: "):
        read(root, mask_suffix="_mask.png")
    (root / "masks" / "c_1.png").touch()
    with pytest.raises(InputError, match=r"masks/c_1.png: .*\b_mask\b.*data.mask_suffix"):
        read(root, mask_suffix="_mask")


def test_images_may_be_grey_jpeg(tmp_path):
    root = write(tmp_path)
    for path in (root / "images").iterdir():
        with Image.open(path) as image:
            image.save(path.with_suffix(".jpeg"), quality=95)
        path.unlink()
    assert abs(read(root)[0].image - grey(0)).max() < 30


def test_what_is_not_taken_is_told_but_for_what_comes_with_data(tmp_path, caplog):
    root = write(tmp_path, ("readme_1.png", "a_2.png"))
    for name in ("README.md", "images/Thumbs.db", "masks/.DS_Store", "images/desktop.ini"):
        (root / name).touch()
    assert len(read(root)) == 2
    assert not caplog.text
    (root / "images" / "notes.txt").touch()
    (root / "preview").mkdir()
    read(root)
    assert re.search(r"\b2\b.*: images/notes.txt, preview$", caplog.messages[-1])
    (root / "images" / "x.bmp").touch()
    with pytest.raises(InputError, match="x.bmp: .*PNG.*TIFF"):
        read(root)
