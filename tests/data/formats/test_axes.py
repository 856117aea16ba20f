"""Which axis counts the slices: the same heart gives the same slices, whichever way its file stores it."""

import json
import logging
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import binary_dilation

import volumes
from segtune.config import entry
from segtune.data import acdc, images, nnunet
from segtune.data.formats import axes, label_images, nifti
from segtune.data.formats.axes import Axis, Grid
from segtune.errors import InputError
from segtune.metrics.score import Pair, score_pairs

SHAPE, SPACING = (64, 56, 4), (1.5, 1.4, 8.0)
LABELS = label_images.Labels(frozenset(range(4)), frozenset({1}), "ACDC")


def moved(array, spacing, axis):
    """The array with its last axis at another place, as np.moveaxis stores it, and its spacing."""
    order = np.insert([0, 1], axis, 2)
    return array.transpose(order), tuple(spacing[one] for one in order)


def heart(folder: Path, axis=2, shape=SHAPE, spacing=SPACING) -> Path:
    """A patient of ACDC whose slices lie along this axis of the stored arrays."""
    truth = np.zeros(shape, np.uint8)
    truth[20:40, 10:30, 1:3] = 1
    for frame, drawn in ((1, truth), (12, np.where(np.arange(shape[0])[:, None, None] < 32, truth, 0).astype(np.uint8))):
        stem = f"{folder.name}_frame{frame:02}"
        volumes.write(folder / f"{stem}.nii.gz", *moved(volumes.pixels(frame, shape), spacing, axis))
        volumes.write(folder / f"{stem}_gt.nii.gz", *moved(drawn, spacing, axis))
    (folder / "Info.cfg").write_text("ED: 1\nES: 12\n")
    return folder


def grid(*numbers):
    return Grid(numbers[:3], numbers[3:])


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((256, 216, 10, 1.4, 1.4, 10), (2, "spacing")),
        ((10, 256, 216, 10, 1.4, 1.4), (0, "spacing")),
        ((256, 10, 216, 0.7, 9, 0.8), (1, "spacing")),
        ((15, 512, 512, 4.4, 0.6, 0.6), (0, "spacing")),  # a spine, sagittal
        ((320, 320, 130, 1.25, 1.25, 1.37), (2, "spacing")),  # the MSD's left atrium
        ((130, 320, 320, 1.37, 1.25, 1.25), (0, "spacing")),
        ((512, 512, 400, 0.9, 0.9, 0.6), (2, "spacing")),  # slices that are nearer than pixels
        ((400, 512, 512, 0.6, 0.9, 0.9), (0, "spacing")),
        ((240, 240, 155, 1, 1, 1), (2, "nothing")),
        ((35, 51, 35, 1, 1, 1), (2, "nothing")),
        ((40, 50, 60, 0.7, 0.8, 0.9), (2, "nothing")),
        ((4, 64, 64, 1, 1, 1), (0, "shape")),
        ((64, 4, 64, 1, 1, 1), (1, "shape")),
        ((64, 64, 4, 1, 1, 1), (2, "nothing")),
        ((1, 64, 64, 1, 1, 1), (0, "shape")),
        ((256, 256, 1, 3, 1, 1), (2, "shape")),
        ((428, 512, 18, 0.7, 0.7, 5), (2, "spacing")),
        ((12, 10, 45, 0.7, 0.8, 9), (2, "spacing")),
    ],
)
def test_spacing_tells_the_slice_axis_then_shape_and_the_last_is_taken_where_nothing_does(numbers, expected):
    assert axes.of_volume(Path("a.nii"), grid(*numbers)) == Axis(*expected)


@pytest.mark.parametrize(
    "numbers",
    [(64, 64, 4, 8, 1.5, 1.5), (4, 64, 64, 1.5, 1.5, 8), (64, 4, 64, 1.5, 1.5, 8)],  # one was permuted without the other
)
def test_spacing_and_shape_that_contradict_each_other_are_refused_with_the_key_that_helps(numbers):
    with pytest.raises(InputError, match=r"a.nii: .*\bspacing\b.*\bshape\b.*data.slice_axis"):
        axes.of_volume(Path("a.nii"), grid(*numbers))
    assert axes.of_set({Path("a.nii"): grid(*numbers)}, 0) == {Path("a.nii"): 0}


def test_volumes_that_tell_nothing_go_with_the_others_of_their_set_and_are_refused_if_those_disagree(caplog):
    cubes, first, last = grid(40, 40, 40, 1, 1, 1), grid(4, 64, 64, 8, 1, 1), grid(64, 64, 4, 1, 1, 8)
    a, b, c = (Path(f"{name}.nii") for name in "abc")
    with caplog.at_level(logging.WARNING):
        assert axes.of_set({a: cubes, b: last}) == {a: 2, b: 2}
        assert re.search(r"\b1 of 2 .*\ba.nii\b.*\baxis 2\b.*data.slice_axis", caplog.messages[-1])
        assert axes.of_set({a: cubes, b: first}) == {a: 0, b: 0}
        assert re.search(r"\b2 of 2 .*\ba.nii\b.*\baxis 0\b.*data.slice_axis", caplog.messages[-1])
    with pytest.raises(InputError, match=r"a.nii: .*\bspacing\b.*\b0 or 2\b.*data.slice_axis"):
        axes.of_set({a: cubes, b: first, c: last})


@pytest.mark.parametrize("axis", [0, 1])
def test_a_heart_stored_along_another_axis_has_the_same_slices_spacing_ml_and_distances(tmp_path, axis, caplog):
    expected = acdc.read(heart(tmp_path / "a/patient001").parent, target="rv")
    found = acdc.read(heart(tmp_path / "b/patient001", axis).parent, target="rv")
    assert found.fingerprint() == expected.fingerprint()
    assert [(s.image.shape, s.spacing_mm, s.gap_mm) for s in found] == [((56, 64), pytest.approx((1.4, 1.5)), 8.0)] * 8
    assert re.search(rf"\b2 of 2 .*\bpatient001_frame01.nii.gz, axis {axis}\b", caplog.text)


def test_what_as_closest_canonical_saves_of_a_sagittal_heart_has_its_slices_and_volume(tmp_path):
    folder = tmp_path / "a/patient001"
    heart(folder)
    other = tmp_path / "b/patient001"
    other.mkdir(parents=True)
    (other / "Info.cfg").write_text("ED: 1\nES: 12\n")
    sagittal = np.array([[0, 0, 8, 0], [-1.5, 0, 0, 0], [0, -1.4, 0, 0], [0, 0, 0, 1.0]])
    for path in folder.glob("*.nii.gz"):
        array = np.asarray(nib.load(path).dataobj)
        nib.Nifti1Image(array, sagittal).to_filename(path)
        nib.as_closest_canonical(nib.Nifti1Image(array, sagittal)).to_filename(other / path.name)
    expected, found = (acdc.read(tmp_path / name, target="rv") for name in "ab")
    assert nib.load(other / "patient001_frame01.nii.gz").shape == (4, 64, 56)
    for there, here in zip(expected, found, strict=True):
        assert here.image.shape == there.image.shape
        assert np.array_equal(np.sort(here.image, axis=None), np.sort(there.image, axis=None))
        assert (here.spacing_mm, here.gap_mm, here.mask.sum()) == (there.spacing_mm, there.gap_mm, there.mask.sum())
    scores = [score_pairs(pairs(slices), tolerance_mm=2.0) for slices in (expected, found)]
    for there, here in zip(scores[0].cases + scores[0].patients, scores[1].cases + scores[1].patients, strict=True):
        assert here == pytest.approx(there, nan_ok=True)
    assert scores[0].cases[0]["volume_true_ml"] == pytest.approx(2 * 400 * 1.5 * 1.4 * 8 / 1000)


def pairs(slices):
    """Each mask and a prediction that is larger by a pixel all around."""
    return [Pair.of(item, binary_dilation(item.mask), item.mask) for item in slices]


def write_nnunet(root, array, spacing, drawn):
    for case in ("la_003", "la_010"):
        volumes.write(root / "imagesTr" / f"{case}_0000.nii.gz", array, spacing)
        volumes.write(root / "labelsTr" / f"{case}.nii.gz", drawn, spacing)
    about = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "LA": 1}, "numTraining": 2}
    (root / "dataset.json").write_text(json.dumps(about))
    return root


def test_the_user_s_axis_is_taken_in_both_readers_and_one_that_is_none_is_refused(tmp_path):
    cube = volumes.pixels(1, (20, 24, 28))
    root = write_nnunet(tmp_path / "n", cube, (1.0, 1.0, 1.0), (cube > 200).astype(np.uint8))
    for axis in range(3):
        slices = nnunet.read(root, target="LA", slice_axis=axis)
        assert len(slices) == 2 * cube.shape[axis]
        assert np.array_equal(slices[3].image, np.take(cube, 3, axis).T)
    assert nnunet.read(root, target="LA").fingerprint() == nnunet.read(root, target="LA", slice_axis=2).fingerprint()
    assert len(acdc.read(heart(tmp_path / "a/patient001").parent, target="rv", slice_axis=1)) == 2 * 56
    for axis in (3, -1, True, "0"):
        with pytest.raises(InputError, match=f"data.slice_axis={axis}: .*0, 1 or 2"):
            nnunet.read(root, target="LA", slice_axis=axis)


def test_the_key_is_checked_by_name_and_leaves_run_ids_as_they_were(tmp_path):
    from segtune.config import rules
    from segtune.runs import identity

    ids = []
    for axis in (None, 0):
        config = entry.plain(entry.compose(["data=acdc", "data.root=d"]))
        assert config["data"]["slice_axis"] is None
        config["data"]["slice_axis"] = config["data"]["reader"]["slice_axis"] = axis
        rules.check(config)
        ids.append(identity.run_id(config))
    del config["data"]["slice_axis"], config["data"]["reader"]["slice_axis"]
    assert identity.run_id(config) == ids[0] != ids[1]
    with pytest.raises(InputError, match="data.slice_axis=3: "):
        rules.check({"data": {"reader": {"_target_": "segtune.data.acdc.read"}, "slice_axis": 3}})


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_predicted_mask_goes_back_to_the_axes_of_its_file(tmp_path, axis):
    array, spacing = moved(volumes.pixels(1, SHAPE), SPACING, axis)
    path = volumes.write(tmp_path / "a.nii.gz", array, spacing)
    (file,) = images.find(path).volumes
    volume = nifti.read(path)
    items = [image.item for image in file.images(volume)]
    assert [(item.image.shape, item.gap_mm) for item in items] == [((56, 64), 8.0)] * 4
    masks = np.stack([item.image > 200 for item in items])
    (tmp_path / "mask.nii.gz").write_bytes(nifti.encode(masks, volume.header, volume.slice_axis))
    stored = nib.load(tmp_path / "mask.nii.gz")
    assert np.array_equal(stored.get_fdata(), array > 200)
    assert np.array_equal(stored.affine, nib.load(path).affine)
