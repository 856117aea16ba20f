import gzip
import logging
import re
import struct
import tracemalloc

import nibabel as nib
import numpy as np
import pytest

import volumes
from segtune.data.formats import label_images, nifti
from segtune.errors import InputError

LABELS = label_images.Labels(frozenset({0, 1, 2, 3}), frozenset({1}), "dataset.json")


def slices(image, label, **settings):
    return label_images.read_slices(image, label, **{"labels": LABELS, "patient": "P1", "phase": "ED", "frame": 4, **settings})


@pytest.fixture
def pair(tmp_path):
    return volumes.write(tmp_path / "a.nii.gz", volumes.pixels(1)), volumes.write(tmp_path / "a_gt.nii.gz", volumes.labels())


def test_an_image_is_a_plane_of_the_stored_array_transposed_and_spacing_goes_with_its_rows_and_columns(pair):
    found = slices(*pair)
    stored = nib.load(pair[0]).get_fdata()
    assert [item.slice_index for item in found] == [0, 1, 2]
    for index, item in enumerate(found):
        assert item.image.dtype == np.float32
        assert np.array_equal(item.image, stored[:, :, index].T)
        assert item.spacing_mm == pytest.approx((0.8, 0.7))
        assert (item.gap_mm, item.patient, item.phase, item.frame) == (9.0, "P1", "ED", 4)
    rows, columns = np.nonzero(found[1].mask)
    assert not found[0].mask.any()
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (1, 4, 2, 3)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">i2", "<u2", "u1", "i1", "<i4", "<i8", "<u8"])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_any_plain_number_in_either_byte_order_is_read_as_nibabel_reads_it(tmp_path, dtype, name):
    path = tmp_path / name
    nib.Nifti1Image(volumes.pixels(1).astype(dtype), np.eye(4), dtype=np.dtype(dtype)).to_filename(path)
    found = nifti.read(path)
    assert np.array_equal(found.voxels.T, nib.load(path).get_fdata())


def test_the_header_s_scaling_is_applied(tmp_path):
    path = volumes.write(tmp_path / "a.nii.gz", volumes.pixels(1), scl_slope=0.5, scl_inter=-10)
    assert np.allclose(nifti.read(path).voxels.T, volumes.pixels(1) * 0.5 - 10)


def test_a_nifti_2_file_a_single_slice_and_axes_of_length_one_are_read(tmp_path):
    nib.Nifti2Image(volumes.pixels(1), np.diag([2, 3, 4, 1])).to_filename(tmp_path / "a.nii.gz")
    assert nifti.read(tmp_path / "a.nii.gz").spacing_mm == (3, 2)
    flat = nifti.read(volumes.write(tmp_path / "b.nii", volumes.pixels(1, (12, 10)), (0.7, 0.8)))
    assert (flat.voxels.shape, flat.gap_mm) == ((1, 10, 12), None)
    assert nifti.read(volumes.write(tmp_path / "c.nii", volumes.pixels(1, (12, 10, 3, 1)))).voxels.shape == (3, 10, 12)


def test_metres_and_micrometres_become_millimetres(tmp_path):
    path = volumes.write(tmp_path / "a.nii", volumes.pixels(1), (0.001, 0.002, 0.009), xyzt_units=1)
    assert nifti.read(path).spacing_mm == pytest.approx((2, 1))
    assert nifti.read(path).gap_mm == pytest.approx(9)
    path = volumes.write(tmp_path / "b.nii", volumes.pixels(1), (700.0, 800.0, 9000.0), xyzt_units=3)
    assert nifti.read(path).spacing_mm == pytest.approx((0.8, 0.7))


def test_without_an_affine_the_spacing_is_pixdim_s_and_labels_fit_any_affine(tmp_path, pair):
    label = volumes.write(tmp_path / "b.nii.gz", volumes.labels(), sform=False)
    assert nifti.read(label).affine is None
    assert len(slices(pair[0], label)) == 3


def test_one_channel_of_a_fourth_axis_is_read_where_it_is_announced(tmp_path):
    array = volumes.pixels(1, (12, 10, 3, 2))
    path = volumes.write(tmp_path / "a.nii.gz", array)
    for channel in (0, 1):
        assert np.array_equal(nifti.read(path, channel=channel, n_channels=2).voxels.T, array[..., channel])
    with pytest.raises(InputError, match="a.nii.gz: .*12 x 10 x 3 x 2, .*dataset.json.* 3 channels"):
        nifti.read(path, n_channels=3)


def test_slices_do_not_keep_their_volume_in_memory(pair):
    item = slices(*pair)[0]
    for array in (item.image, item.mask):
        assert array.base is None or array.base.size == array.size


def test_labels_stored_as_floating_numbers_are_labels(tmp_path, pair):
    label = volumes.write(tmp_path / "b.nii.gz", volumes.labels().astype(np.float32))
    assert np.array_equal(slices(pair[0], label)[1].mask, slices(*pair)[1].mask)


def rounded(slope):
    """Labels as a program leaves them that stores fractions: whole numbers times a slope that does not give whole ones."""
    return np.rint(volumes.labels() / slope).astype(np.uint8)


@pytest.mark.parametrize(
    ("array", "fields"),
    [
        (volumes.labels() * np.float32(0.99999994), {}),
        (volumes.labels() * (1 + 1e-7), {}),
        (rounded(0.1), {"scl_slope": 0.1, "scl_inter": 0}),
        (volumes.labels() * np.uint8(85), {"scl_slope": 3 / 255, "scl_inter": 0}),
        (
            np.rint(volumes.labels() * 21845.0 - 32768).astype(np.int16),
            {"scl_slope": 3 / 65535, "scl_inter": 32768 * 3 / 65535},
        ),
    ],
)
def test_a_label_that_rounding_moved_from_its_whole_number_is_that_number(tmp_path, pair, array, fields):
    label = volumes.write(tmp_path / "b.nii.gz", array, **fields)
    assert not np.array_equal(nifti.read(label).voxels.T, volumes.labels()) or fields
    for value in (1, 2, 3):
        wanted = label_images.Labels(LABELS.known, frozenset({value}), "dataset.json")
        for found, expected in zip(slices(pair[0], label, labels=wanted), slices(*pair, labels=wanted), strict=True):
            assert np.array_equal(found.mask, expected.mask)


def test_labels_that_the_header_scales_to_fractions_are_refused_with_the_slope_and_the_cure_that_helps(tmp_path, pair):
    label = volumes.write(tmp_path / "b.nii.gz", rounded(0.0275), scl_slope=0.0275, scl_inter=0)
    with pytest.raises(InputError, match=r"b.nii.gz: .*\b0.99\b.*\(scl_slope 0.0275, .*\bintegers\b") as caught:
        slices(pair[0], label)
    assert "data.target" not in str(caught.value)
    label = volumes.write(tmp_path / "c.nii.gz", volumes.labels(), scl_slope=2, scl_inter=0)
    with pytest.raises(InputError, match=r"c.nii.gz: .*\blabel 4\b.*\(scl_slope 2, .*\bintegers\b"):
        slices(pair[0], label)


def test_several_values_may_be_the_structure(pair):
    both = label_images.Labels(frozenset(range(4)), frozenset({1, 3}), "dataset.json")
    assert slices(*pair, labels=both)[1].mask.sum() == 16


def test_an_origin_that_differs_is_said_and_does_not_matter(tmp_path, pair, caplog):
    label = volumes.write(tmp_path / "b.nii.gz", volumes.labels(), qoffset_x=50, srow_x=[-0.7, 0, 0, 50])
    with caplog.at_level(logging.WARNING):
        assert len(slices(pair[0], label)) == 3
    assert re.search(r"b.nii.gz: .*\borigin\b.*\b50.0 mm\b", caplog.text)


def with_nan(shape=(12, 10, 3)):
    array = volumes.pixels(1, shape).astype(np.float32)
    array[3, 4, 2] = np.nan
    return array


IMAGES = {  # array, settings, message
    "four axes": (volumes.pixels(1, (12, 10, 3, 2)), {}, r"a.nii.gz: .*\b12 x 10 x 3 x 2\b.*\b4 axes\b"),
    "NaN": (with_nan(), {}, r"a.nii.gz: 1 .*\bslice 2\b.*NaN"),
    "beyond float32": (np.full((12, 10, 3), 1e300), {}, r"a.nii.gz: 120 .*\bslice 0\b.*NaN"),
    "scaled to infinity": (volumes.pixels(1) + 1.0, {"scl_slope": 3e38, "scl_inter": 0}, r"a.nii.gz: 120 .*\bslice 0\b.*NaN"),
    "complex": (np.ones((12, 10, 3), np.complex64), {}, "a.nii.gz: .*complex64"),
    "colours": (np.zeros((12, 10, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")]), {}, "a.nii.gz: .*'R'.*'G'.*'B'"),
    "no spacing": (volumes.pixels(1), {"pixdim": [1, 0, 0.8, 9, 0, 0, 0, 0]}, r"\b0 x 0.8 x 9 mm \(pixdim\)"),
    "negative spacing": (volumes.pixels(1), {"pixdim": [1, 0.7, 0.8, -9, 0, 0, 0, 0]}, r"\b0.7 x 0.8 x -9 mm \(pixdim\)"),
    "NaN spacing": (volumes.pixels(1), {"pixdim": [1, 0.7, np.nan, 9, 0, 0, 0, 0]}, r"\b0.7 x nan x 9 mm \(pixdim\)"),
    "another affine": (volumes.pixels(1), {"srow_x": [-5, 0, 0, 0]}, "affine .* 5 x 0.8 x 9 mm.*pixdim .*0.7 x 0.8 x 9"),
    "NaN affine": (volumes.pixels(1), {"srow_x": [np.nan, 0, 0, 0]}, r"\baffine\b.*\bspan\b"),
    "sheared affine": (volumes.pixels(1), {"srow_x": [-0.7, 0, 5.2, 0], "srow_z": [0, 0, 7.35, 0]}, "sheared"),
    "infinite affine": (volumes.pixels(1), {"srow_x": [np.inf, 0, 0, 0]}, r"\baffine\b.*\bspan\b"),
    "an infinite origin": (volumes.pixels(1), {"srow_x": [-0.7, 0, 0, np.inf]}, r"\baffine\b.*\bspan\b"),
    "pixels of a metre": (volumes.pixels(1), {"pixdim": [1, 0.7, 1001, 9, 0, 0, 0, 0]}, r"\b0.7 x 1001 x 9 mm \(pixdim\)"),
    "pixels of a cell": (volumes.pixels(1), {"pixdim": [1, 0.7, 1e-4, 9, 0, 0, 0, 0]}, r"\b0.7 x 0.0001 x 9 mm \(pixdim\)"),
    "flat affine": (volumes.pixels(1), {"srow_y": [0, 0, 0, 0]}, r"\baffine\b.*\bspan\b"),
    "equal axes": (volumes.pixels(1), {"srow_x": [0, 0, 0, 0], "srow_y": [0.7, 0.8, 0, 0]}, r"\baffine\b.*\bspan\b"),
    "a quaternion that is none": (volumes.pixels(1), {"sform_code": 0, "quatern_b": 5}, r"NIfTI header \(\w+Error\)"),
    "no axes": (volumes.pixels(1), {"dim": [0] * 8}, r"\b0 pixels\b.*\bempty\b"),
    "an empty axis": (volumes.pixels(1), {"dim": [3, 12, 0, 3, 1, 1, 1, 1]}, r"\b12 x 0 x 3 pixels\b.*\bempty\b"),
    "a negative axis": (volumes.pixels(1), {"dim": [3, 12, -10, 3, 1, 1, 1, 1]}, r"\b12 x -10 x 3 pixels\b.*\bempty\b"),
    "too many axes": (volumes.pixels(1), {"dim": [99, 12, 10, 3, 1, 1, 1, 1]}, r"(\b7 axes\b|NIfTI header \()"),
    "an unknown dtype": (volumes.pixels(1), {"datatype": 999}, r"NIfTI header \(\w+Error\)"),
    "pixels before the header's end": (volumes.pixels(1), {"vox_offset": 0}, r"\bbyte 0\b"),
    "pixels far away": (volumes.pixels(1), {"vox_offset": 1e9}, r"\bbyte 1000000000\b"),
    "pixels nowhere": (volumes.pixels(1), {"vox_offset": np.nan}, r"NIfTI header \(\w+Error\)"),
    "a header of a pair": (volumes.pixels(1), {"magic": b"ni1"}, r"\bsingle [.]nii\b"),
    "fewer pixels than announced": (volumes.pixels(1), {"dim": [3, 12, 10, 4, 1, 1, 1, 1]}, r"\bends\b.*\bpixel\b"),
    "more pixels than announced": (volumes.pixels(1), {"dim": [3, 12, 10, 2, 1, 1, 1, 1]}, r"\bmore\b.*\b12 x 10 x 2 pixels\b"),
    "units of time": (volumes.pixels(1), {"xyzt_units": 7}, r"NIfTI header \(\w+Error\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_that_cannot_be_is_refused_by_name(tmp_path, name):
    array, fields, message = IMAGES[name]
    image = volumes.write(tmp_path / "a.nii.gz", array, **fields)
    with pytest.raises(InputError, match=f"a.nii.gz: .*{message.removeprefix('a.nii.gz: ')}") as caught:
        slices(image, volumes.write(tmp_path / "b.nii.gz", volumes.labels()))
    assert "Secret" not in str(caught.value)


TRUTHS = {
    "an unknown value": (volumes.labels() * 2, {}, r"b.nii.gz: .*\blabel 4\b.*dataset.json"),
    "a negative value": (-volumes.labels().astype(np.int8), {}, r"b.nii.gz: .*\blabel -3\b.*dataset.json"),
    "a huge value": (volumes.labels().astype(np.float64) * 1e30, {}, r"b.nii.gz: .*\blabel 1000.*dataset.json"),
    "fractions": (volumes.labels() / np.float32(2), {}, r"b.nii.gz: .*\bwhole\b.*\(0.5, 1.5\)"),
    "NaN": (with_nan(), {}, "b.nii.gz: .*NaN"),
    "another shape": (volumes.labels((12, 10, 4)), {}, r"b.nii.gz: .*\b12 x 10 x 4 .*\ba.nii.gz .*\b12 x 10 x 3\b"),
    "transposed": (volumes.labels((10, 12, 3)), {}, r"b.nii.gz: .*\b10 x 12 x 3 .*\ba.nii.gz .*\b12 x 10 x 3\b"),
    "another spacing": (
        volumes.labels(),
        {"pixdim": [1, 1.4, 0.8, 9, 0, 0, 0, 0], "srow_x": [-1.4, 0, 0, 0]},
        r"b.nii.gz: .*\b0.8 x 1.4 x 9 mm\b.*\ba.nii.gz .*\b0.8 x 0.7 x 9 mm\b",
    ),
    "a mirrored axis": (volumes.labels(), {"srow_y": [0, 0.8, 0, 0]}, r"b.nii.gz: .*\ba.nii.gz .*\bdirections\b"),
}


@pytest.mark.parametrize("name", TRUTHS)
def test_labels_that_do_not_fit_are_refused_by_name(tmp_path, pair, name):
    array, fields, message = TRUTHS[name]
    with pytest.raises(InputError, match=message):
        slices(pair[0], volumes.write(tmp_path / "b.nii.gz", array, **fields))


@pytest.mark.parametrize("n_bytes", [0, 3, 10, 200, 400, -1, -4, -9])
def test_a_file_that_was_cut_off_is_refused_wherever_it_was(pair, n_bytes):
    pair[0].write_bytes(pair[0].read_bytes()[:n_bytes])
    with pytest.raises(InputError, match=r"a.nii.gz: .*\b(damaged|NIfTI)\b"):
        slices(*pair)


def test_a_changed_byte_of_a_compressed_file_is_found_by_its_checksum(pair):
    content = bytearray(pair[0].read_bytes())
    content[-6] ^= 1
    pair[0].write_bytes(bytes(content))
    with pytest.raises(InputError, match="a.nii.gz: .*CRC"):
        slices(*pair)


def test_what_is_no_nifti_is_refused(tmp_path):
    for content in (b"\x89PNG\r\n\x1a\n" + bytes(999), gzip.compress(b"hello world"), bytes(400), b"\x1f\x8b" + bytes(50)):
        (tmp_path / "a.nii.gz").write_bytes(content)
        with pytest.raises(InputError, match=r"a.nii.gz: .*\b(damaged|NIfTI)\b"):
            nifti.read(tmp_path / "a.nii.gz")
    (tmp_path / "b.nii").mkdir()
    with pytest.raises(InputError, match=r"b.nii: .*\(.*\bfile\)"):
        nifti.read(tmp_path / "b.nii")


def peak_mb(path):
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            nifti.read(path)
        return str(caught.value), tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


def test_a_header_that_announces_more_than_the_bound_is_refused_before_a_pixel_is_read(tmp_path):
    path = volumes.write(tmp_path / "a.nii.gz", volumes.pixels(1), dim=[3, 32000, 32000, 3000, 1, 1, 1, 1])
    message, megabytes = peak_mb(path)
    assert re.search(r"a.nii.gz: .*\b32000 x 32000 x 3000 pixels of int16\b.*\b1 GiB\b", message)
    assert megabytes < 5


def test_a_zip_bomb_is_not_unpacked_beyond_what_its_header_announces(tmp_path):
    header = nib.Nifti1Image(volumes.pixels(1), np.eye(4)).to_bytes()
    path = tmp_path / "a.nii.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(header)
        for _ in range(64):
            file.write(bytes(2**20))
    message, megabytes = peak_mb(path)
    assert re.search(r"a.nii.gz: .*\bmore\b.*\b12 x 10 x 3 pixels\b", message)
    assert megabytes < 5


def test_members_of_gzip_are_one_file_and_what_follows_them_is_looked_at_no_further_than_needed(tmp_path):
    path = volumes.write(tmp_path / "a.nii.gz", volumes.pixels(1))
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:400]) + gzip.compress(content[400:]) + bytes(512))
    assert np.array_equal(nifti.read(path).voxels.T, volumes.pixels(1))
    for rest, message in ((b"more", r"\bdamaged\b"), (gzip.compress(b"more"), r"\bmore\b.*\b12 x 10 x 3\b")):
        path.write_bytes(gzip.compress(content) + rest)
        with pytest.raises(InputError, match=f"a.nii.gz: .*{message}"):
            nifti.read(path)
    path.write_bytes(gzip.compress(content))
    with path.open("ab") as file:
        file.truncate(2**30)  # of zeros, which gzip takes for padding and reads one by one
    with pytest.raises(InputError, match=r"a.nii.gz: .*\bmore\b.*\b12 x 10 x 3 pixels\b"):
        nifti.read(path)


def test_many_labels_make_no_endless_message(pair):
    many = label_images.Labels(frozenset(range(10, 60000)), frozenset({11}), "dataset.json")
    with pytest.raises(InputError, match=r"a_gt.nii.gz: .*\blabel 0\b.* \(only 10, 11, .*, 29, ...\)"):
        slices(*pair, labels=many)


def test_an_extension_is_passed_over_unread(tmp_path):
    image = nib.Nifti1Image(volumes.pixels(1), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Secret^Name"))
    image.to_filename(tmp_path / "a.nii.gz")
    assert np.array_equal(nifti.read(tmp_path / "a.nii.gz").voxels.T, volumes.pixels(1))


def test_the_sizes_of_a_header_are_what_struct_says(tmp_path):
    """The bytes that the tests above change are those of the format, and not of a class that may be wrong on both sides."""
    content = volumes.write(tmp_path / "a.nii", volumes.pixels(1)).read_bytes()
    assert struct.unpack("<i", content[:4]) == (348,)
    assert struct.unpack("<4h", content[40:48]) == (3, 12, 10, 3)
    assert struct.unpack("<f", content[108:112]) == (352,)


def test_files_are_found_by_their_names_without_ending(tmp_path):
    paths = [tmp_path / name for name in ("a.nii", "b.nii.gz", "c.txt", "D.NII.GZ")]
    for path in paths:
        path.touch()
    assert nifti.by_stem(paths) == {"a": paths[0], "b": paths[1], "D": paths[3]}
    (tmp_path / "a.nii.gz").touch()
    with pytest.raises(InputError, match=r"a.nii.gz and \S+/a.nii "):
        nifti.by_stem([*paths, tmp_path / "a.nii.gz"])
    (tmp_path / "e.nii").mkdir()
    with pytest.raises(InputError, match=r"e.nii: .*\bfolder\b"):
        nifti.by_stem([tmp_path / "e.nii"])


GRIDS = {
    "a volume": (volumes.pixels(1), {}),
    "big endian": (volumes.pixels(1).astype(">f4"), {}),
    "one slice without a third axis": (volumes.pixels(1, (12, 10)), {"spacing": (0.7, 0.8)}),
    "axes of length one": (volumes.pixels(1, (12, 10, 3, 1, 1)), {}),
    "no affine": (volumes.pixels(1), {"sform": False}),
    "a qform alone": (volumes.pixels(1), {"sform_code": 0, "qform_code": 3}),
    "metres": (volumes.pixels(1), {"spacing": (0.0007, 0.0008, 0.009), "xyzt_units": 1}),
    "a scale": (volumes.pixels(1), {"scl_slope": 2, "scl_inter": 5}),
    "codes and an origin": (volumes.pixels(1), {"sform_code": 4, "qform_code": 2, "srow_x": [-0.7, 0, 0, 55.5]}),
}


@pytest.mark.parametrize("name", GRIDS)
def test_a_mask_is_stored_on_its_image_s_grid_and_nothing_else_of_the_header_with_it(tmp_path, name):
    array, fields = GRIDS[name]
    secret = dict.fromkeys(("descrip", "aux_file", "db_name", "intent_name"), b"Secret^Name")
    path = volumes.write(tmp_path / "a.nii.gz", array, **{"sform": True, **secret, **fields})
    volume = nifti.read(path)
    mask = np.random.default_rng(0).random(volume.voxels.shape) < 0.5
    (tmp_path / "mask.nii.gz").write_bytes(nifti.encode(mask, volume.header))
    image, stored = nib.load(path), nib.load(tmp_path / "mask.nii.gz")
    assert stored.shape == image.shape
    assert stored.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(stored.dataobj).reshape(mask.shape[::-1]), mask.T)
    assert np.array_equal(stored.affine, image.affine)
    for field in ("dim", "pixdim", "xyzt_units", "quatern_b", "quatern_d", "qoffset_x", "srow_x", "qform_code", "sform_code"):
        assert np.array_equal(stored.header[field], image.header[field]), field
    assert stored.header.get_zooms() == image.header.get_zooms()
    assert b"Secret" not in gzip.decompress((tmp_path / "mask.nii.gz").read_bytes())


def test_a_mask_of_a_nifti_2_file_is_one(tmp_path):
    nib.Nifti2Image(volumes.pixels(1), np.diag([2, 3, 4, 1])).to_filename(tmp_path / "a.nii.gz")
    volume = nifti.read(tmp_path / "a.nii.gz")
    (tmp_path / "mask.nii.gz").write_bytes(nifti.encode(volume.voxels > 200, volume.header))
    stored = nib.load(tmp_path / "mask.nii.gz")
    assert isinstance(stored, nib.Nifti2Image)
    assert np.array_equal(stored.affine, np.diag([2, 3, 4, 1]))
    assert np.array_equal(stored.get_fdata(), volumes.pixels(1) > 200)


def test_the_same_mask_gives_the_same_bytes(pair):
    volume = nifti.read(pair[0])
    assert nifti.encode(volume.voxels > 9, volume.header) == nifti.encode(volume.voxels > 9, volume.header)
