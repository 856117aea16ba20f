import json
import shutil

import numpy as np
import pytest
from PIL import Image

import volumes
from segtune import metrics, results
from segtune.data import acdc, cases, folder, nnunet
from segtune.errors import InputError

FRAME = "(?P<patient>patient[0-9]+)_frame(?P<frame>[0-9]+)"
SHAPE = (24, 20, 4)
FRAMES = {"patient001": (1, 12), "patient002": (9, 3)}  # ED, ES


def labelled(radius, shape=SHAPE):
    """A disc of the right ventricle's label on all slices but the last."""
    x, y = np.indices(shape[:2])
    array = np.zeros(shape, np.uint8)
    array[np.hypot(x - 11, y - 9) < radius, : shape[2] - 1] = 1
    array[0, 0, 0] = 3
    return array


def as_acdc(root, frames=FRAMES):
    for number, (patient, (ed, es)) in enumerate(frames.items()):
        place = root / "training" / patient
        for frame, radius in ((ed, 7 - number), (es, 4 - number)):
            volumes.write(place / f"{patient}_frame{frame:02d}.nii.gz", volumes.pixels(100 * number + frame, SHAPE))
            volumes.write(place / f"{patient}_frame{frame:02d}_gt.nii.gz", labelled(radius))
        (place / "Info.cfg").write_text(f"ED: {ed}\nES: {es}\n")
    return root


def as_nnunet(root, files):
    """nnU-Net's layout of {case: (image, label)}."""
    for case, (image, label) in files.items():
        for path, source in ((root / "imagesTr" / f"{case}_0000.nii.gz", image), (root / "labelsTr" / f"{case}.nii.gz", label)):
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, path)
    about = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "rv": 1, "wall": 2, "lv": 3}, "numTraining": len(files)}
    (root / "dataset.json").write_text(json.dumps(about))
    return root


def same_as(root, place):
    """The images of an ACDC set under nnU-Net's own names, patient001_frame01."""
    images = list(root.rglob("*_frame[0-9][0-9].nii.gz"))
    stems = {path.name.removesuffix(".nii.gz"): path for path in images}
    return as_nnunet(place, {stem: (path, path.with_name(f"{stem}_gt.nii.gz")) for stem, path in stems.items()})


def made(root, radii, *, spacing=(0.7, 0.8, 9.0), shape=SHAPE):
    """nnU-Net's layout of {case: radius of its structure}."""
    sources = {}
    for number, (case, radius) in enumerate(radii.items()):
        image = volumes.write(root / "made" / f"{case}_image.nii.gz", volumes.pixels(number, shape), spacing)
        sources[case] = image, volumes.write(root / "made" / f"{case}.nii.gz", labelled(radius, shape), spacing)
    return as_nnunet(root / "set", sources)


def scored(slices):
    """The scores of a prediction that depends on nothing but the mask: one pixel too far to the right, and none on slice 0."""
    pairs = [
        metrics.Pair.of(item, np.roll(item.mask, 1, axis=1) & (item.slice_index > 0 or not item.mask.any()), item.mask)
        for item in slices
    ]
    return metrics.score(pairs, tolerance_mm=1.0)


def told(slices):
    """(patient, phase, volume) in order."""
    return list(dict.fromkeys((item.patient, item.phase, item.volume) for item in slices))


def same(rows, others):
    return results.csv_text(list(rows[0]), rows) == results.csv_text(list(rows[0]), others)


# nnU-Net's own names of ACDC


def test_the_frames_of_nnunet_s_acdc_are_scored_as_data_acdc_scores_the_same_images(tmp_path):
    known = scored(acdc.read(as_acdc(tmp_path / "acdc"), target="rv"))
    slices = nnunet.read(same_as(tmp_path / "acdc", tmp_path / "nnunet"), target="rv", patient=FRAME)
    assert told(slices) == [
        ("patient001", None, "frame 1"),
        ("patient001", None, "frame 12"),
        ("patient002", None, "frame 3"),
        ("patient002", None, "frame 9"),
    ]
    found = scored(slices).cases
    of_frame = {(row["patient"], row["volume"]): row for row in found}
    for row, frame in zip(known.cases, [frame for frames in FRAMES.values() for frame in frames], strict=True):
        twin = of_frame[row["patient"], f"frame {frame}"]
        assert same([row | {"phase": None, "volume": ""}], [twin | {"volume": ""}])
        assert not np.isnan([twin[name] for name in (*metrics.DISTANCES, "volume_true_ml", "volume_pred_ml")]).any()


@pytest.mark.parametrize(
    "phases", [{"ed": "largest", "es": "smallest"}, {"ed": [1, 9], "es": [3, 12]}, {"ed": "largest", "es": [12, 3]}]
)
def test_named_ed_and_es_the_frames_of_nnunet_s_acdc_have_equal_rows_in_all_three_tables(tmp_path, phases):
    known = scored(acdc.read(as_acdc(tmp_path / "acdc"), target="rv"))
    slices = nnunet.read(same_as(tmp_path / "acdc", tmp_path / "nnunet"), target="rv", patient=FRAME, **phases)
    for rows, others in zip(known, scored(slices), strict=True):
        assert same(rows, others)
    assert slices.fingerprint() == acdc.read(tmp_path / "acdc", target="rv").fingerprint()
    assert all(row["ejection_fraction_true"] > 0.4 for row in known.patients)
