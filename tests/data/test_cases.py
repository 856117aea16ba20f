import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import volumes
from segtune.data import acdc, cases, folder, nnunet
from segtune.errors import InputError
from segtune.metrics.score import DISTANCES, Pair, score_pairs, summarize
from segtune.runs.tables import csv_text

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
        Pair.of(item, np.roll(item.mask, 1, axis=1) & (item.slice_index > 0 or not item.mask.any()), item.mask)
        for item in slices
    ]
    return score_pairs(pairs, tolerance_mm=1.0)


def told(slices):
    """(patient, phase, volume) in order."""
    return list(dict.fromkeys((item.patient, item.phase, item.volume) for item in slices))


def same(rows, others):
    return csv_text(list(rows[0]), rows) == csv_text(list(rows[0]), others)


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
        assert not np.isnan([twin[name] for name in (*DISTANCES, "volume_true_ml", "volume_pred_ml")]).any()


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


# Visits and sequences


def test_each_visit_is_a_case_with_its_own_ejection_fraction_and_the_patient_counts_once(tmp_path):
    radii = {"p1_v1_ED": 7, "p1_v1_ES": 4, "p1_v2_ED": 6, "p1_v2_ES": 5, "p2_v1_ED": 7, "p2_v1_ES": 5}
    pattern = "(?P<patient>p[0-9])_v(?P<visit>[0-9])_(?P<phase>E.)"
    slices = nnunet.read(made(tmp_path, radii), target="rv", patient=pattern)
    visits = (("p1", 1), ("p1", 2), ("p2", 1))
    places = [(patient, phase, f"visit {visit}") for patient, visit in visits for phase in ("ED", "ES")]
    assert told(slices) == places
    found = scored(slices)
    assert [(row["patient"], row["phase"], row["volume"]) for row in found.cases] == places
    ml = {(row["patient"], row["volume"], row["phase"]): row["volume_true_ml"] for row in found.cases}
    fractions = [1 - ml["p1", visit, "ES"] / ml["p1", visit, "ED"] for visit in ("visit 1", "visit 2")]
    assert found.patients[0]["ejection_fraction_true"] == pytest.approx(np.mean(fractions))
    assert [row["undefined"] for row in found.patients] == ["", ""]
    agreement = summarize(found)["agreement"]
    assert [agreement[name]["n"] for name in ("volume_ED_ml", "volume_ES_ml", "ejection_fraction")] == [2, 2, 2]
    errors = {}
    for row in found.cases:
        if row["phase"] == "ED":
            errors.setdefault(row["patient"], []).append(row["volume_error_ml"])
    assert agreement["volume_ED_ml"]["bias"] == pytest.approx(np.mean([np.mean(mine) for mine in errors.values()]))


def test_frames_of_visits_are_named_visit_by_visit(tmp_path):
    radii = {"p1_v1_f01": 4, "p1_v1_f02": 7, "p1_v1_f03": 5, "p1_v2_f01": 6, "p1_v2_f02": 3, "p1_v2_f03": 5}
    pattern = "(?P<patient>p[0-9])_v(?P<visit>[0-9])_f(?P<frame>[0-9]+)"
    slices = nnunet.read(made(tmp_path, radii), target="rv", patient=pattern, ed="largest", es="smallest")
    assert [(item.phase, item.volume, item.frame) for item in slices][::4] == [
        ("ED", "visit 1", 2),
        ("ES", "visit 1", 1),
        (None, "visit 1", 3),
        ("ED", "visit 2", 1),
        ("ES", "visit 2", 2),
        (None, "visit 2", 3),
    ]
    assert [row["n_slices"] for row in scored(slices).cases] == [4] * 6
    plain = nnunet.read(tmp_path / "set", target="rv", patient=pattern)
    assert [item.volume for item in plain][::4] == [f"visit {visit}, frame {frame}" for visit in (1, 2) for frame in (1, 2, 3)]


def test_a_visit_without_its_end_systole_leaves_the_ejection_fraction_undefined_and_says_which(tmp_path):
    radii = {"p1_v1_ED": 7, "p1_v1_ES": 4, "p1_v2_ED": 6}
    pattern = "(?P<patient>p[0-9])_v(?P<visit>[0-9])_(?P<phase>E.)"
    (row,) = scored(nnunet.read(made(tmp_path, radii), target="rv", patient=pattern)).patients
    assert re.search(r"\b2 ED\b.*\b1 ES\b.*\bvisit 2\b.*\bES$", row["undefined"])
    assert np.isnan(row["ejection_fraction_true"])


def test_sequences_of_a_patient_are_cases_called_by_the_rest_of_their_names(tmp_path):
    place = made(tmp_path, {"p1_cine": 7, "p1_lge": 4, "p1_t1-map": 5})
    slices = nnunet.read(place, target="rv", patient="(?P<patient>[^_]+)_")
    assert told(slices) == [("p1", None, "cine"), ("p1", None, "lge"), ("p1", None, "t1-map")]
    cases = scored(slices).cases
    assert [row["n_slices"] for row in cases] == [4, 4, 4]
    assert not np.isnan([row["hd_mm"] for row in cases]).any()
    assert len({row["volume_true_ml"] for row in cases}) == 3


def test_two_end_diastoles_that_no_visit_tells_apart_are_two_cases_without_an_ejection_fraction(tmp_path):
    radii = {"p1_ED_a": 7, "p1_ED_b": 6, "p1_ES_a": 4}
    scores = scored(nnunet.read(made(tmp_path, radii), target="rv", patient="(?P<patient>p1)_(?P<phase>E.)"))
    assert [(row["phase"], row["volume"], row["n_slices"]) for row in scores.cases] == [
        ("ED", "ED_a", 4),
        ("ED", "ED_b", 4),
        ("ES", "", 4),
    ]
    assert re.search(r"\b2 ED\b.*\b1 ES\b.*\bED_a\b.*\bES$", scores.patients[0]["undefined"])


def test_cases_whose_numbers_are_the_same_are_called_by_their_names(tmp_path):
    slices = nnunet.read(made(tmp_path, {"p1_1_a": 7, "p1_1_b": 4}), target="rv", patient="(?P<patient>p1)_(?P<frame>.)")
    assert told(slices) == [("p1", None, "1_a"), ("p1", None, "1_b")]


def test_a_patient_with_one_volume_has_no_text_for_it_and_the_set_its_old_fingerprint(tmp_path):
    place = made(tmp_path, {"p1_frame07": 7, "p2_frame02": 4})
    slices = nnunet.read(place, target="rv", patient="(?P<patient>p[0-9])_frame(?P<frame>[0-9]+)")
    assert told(slices) == [("p1", None, ""), ("p2", None, "")]
    assert slices.fingerprint() != nnunet.read(place, target="rv", patient="(?P<patient>p[0-9])").fingerprint()


def test_the_rest_of_a_name_is_what_follows_the_patient_or_else_what_stands_before():
    assert cases.rest("sub-01_ses-1", "01") == "ses-1"
    assert cases.rest("frame_1-anna", "anna") == "frame_1"
    assert cases.rest("anna", "anna") == ""


# Which is ED, which is ES

RADII = {"p1_frame01": 7, "p1_frame05": 5, "p1_frame12": 4, "p2_frame01": 7, "p2_frame05": 6, "p2_frame12": 3}
NAMED = "(?P<patient>p[0-9])_frame(?P<frame>[0-9]+)"


@pytest.mark.parametrize(
    ("ed", "es"),
    [
        (1, 12),
        ("1", "012"),
        ([1], [12]),
        ("largest", "smallest"),
        (1, "smallest"),
        ("largest", 12),
        ("frame01", "frame12"),
        ("Frame 1", "frame 12"),
        ([1, 99], ["frame12"]),
    ],
)
def test_a_frame_s_number_the_text_of_a_volume_or_its_size_names_ed_and_es(tmp_path, ed, es):
    slices = nnunet.read(made(tmp_path, RADII), target="rv", patient=NAMED, ed=ed, es=es)
    assert [(item.patient, item.phase, item.frame, item.volume) for item in slices][::4] == [
        *(("p1", "ED", 1, ""), ("p1", "ES", 12, ""), ("p1", None, 5, "")),
        *(("p2", "ED", 1, ""), ("p2", "ES", 12, ""), ("p2", None, 5, "")),
    ]
    assert [row["undefined"] for row in scored(slices).patients] == ["", ""]


def test_the_rest_of_a_name_names_a_phase_and_so_does_a_number_that_is_all_of_it(tmp_path):
    place = made(tmp_path / "a", {"p1_diastole": 7, "p1_systole": 4})
    slices = nnunet.read(place, target="rv", patient="(?P<patient>p1)", ed="Diastole", es="systole")
    assert told(slices) == [("p1", "ED", ""), ("p1", "ES", "")]
    slices = nnunet.read(made(tmp_path / "b", {"p1_0": 4, "p1_1": 7}), target="rv", patient="(?P<patient>p1)", ed=1, es=0)
    assert [(item.phase, item.frame) for item in slices][::4] == [("ED", 1), ("ES", 0)]


def test_the_largest_is_by_millilitres_and_not_by_pixels(tmp_path):
    for case, radius, spacing in (("p1_a", 7, (0.5, 0.5, 5.0)), ("p1_b", 5, (1.5, 1.5, 9.0))):
        volumes.write(tmp_path / f"{case}_image.nii.gz", volumes.pixels(1, SHAPE), spacing)
        volumes.write(tmp_path / f"{case}.nii.gz", labelled(radius), spacing)
    files = {case: (tmp_path / f"{case}_image.nii.gz", tmp_path / f"{case}.nii.gz") for case in ("p1_a", "p1_b")}
    slices = nnunet.read(as_nnunet(tmp_path / "set", files), target="rv", patient="(?P<patient>p1)", ed="largest")
    assert [(item.phase, item.spacing_mm[0]) for item in slices][::4] == [("ED", 1.5), (None, 0.5)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ed": 2}, r"data.ed=2: .*\bp1\b.* frame 1, frame 5, frame 12\b"),
        ({"es": [2, 3]}, r"data.es=\[2,3\]: .*\bp1\b.* frame 1, frame 5, frame 12\b"),
        ({"ed": "basal"}, r"data.ed=basal: .*\bp1\b.* frame 1, frame 5, frame 12\b"),
        ({"ed": [1, 5]}, r"data.ed=\[1,5\]: 2 .*\bp1\b.*\(frame 1, frame 5\)"),
        ({"ed": 1, "es": [1, 99]}, r"data.es=\[1,99\]: frame 1 .*\bp1\b.*\bED \(data.ed=1\)"),
        ({"ed": 1, "es": "largest"}, r"data.es=largest: frame 1 .*\bp1\b.*\bED \(data.ed=1\)"),
        ({"ed": "largest", "es": 1}, r"data.es=1: frame 1 .*\bp1\b.*\bED \(data.ed=largest\)"),
        ({"ed": ["largest", 1]}, r"data.ed=\['largest', 1\]: .*\blist\b.*\bsmallest\b"),
        ({"ed": True}, r"data.ed=True: .*\blist\b"),
        ({"ed": 0.5}, r"data.ed=0.5: .*\blist\b"),
        ({"es": []}, r"data.es=\[\]: .*\blist\b"),
        ({"es": " "}, r"data.es= : .*\blist\b"),
        ({"ed": 1, "patient": "(?P<patient>p[0-9])"}, r"data.ed=1: .*\bframe01, frame05, frame12\b.*\bgroup frame\b"),
        (
            {"es": 2, "patient": "(?P<patient>p)(?P<visit>.)_frame(?P<frame>..)"},
            r"data.es=2: .*\bp, visit 1\b.* frame 1, frame 5, frame 12\b",
        ),
        ({"ed": 12, "patient": "(?P<patient>p)._frame(?P<frame>..)"}, r"data.ed=12: 2 .*\bp\b.*\bgroup visit\b"),
    ],
)
def test_a_phase_that_no_single_volume_has_is_refused(tmp_path, settings, message):
    place = made(tmp_path, RADII)
    with pytest.raises(InputError, match=message):
        nnunet.read(place, **{"target": "rv", "patient": NAMED, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ed": "ES_2"}, r"data.ed=ES_2: ES_2 .*\bp1\b.*\bES \(.*name"),
        ({"ed": "largest"}, r"data.ed=largest: .*\bname.*\bED_1 .*\bp1\b.*\bED, .*\bED_3\b"),
    ],
)
def test_a_key_that_contradicts_the_phase_in_the_name_is_refused(tmp_path, settings, message):
    place = made(tmp_path, {"p1_ED_1": 6, "p1_ES_2": 4, "p1_ED_3": 7})
    with pytest.raises(InputError, match=message):
        nnunet.read(place, target="rv", patient="(?P<patient>p1)_(?P<phase>E.)", **settings)


def test_a_key_that_agrees_with_the_name_changes_nothing(tmp_path):
    place, pattern = made(tmp_path, {"p1_ED": 6, "p1_ES": 4}), "(?P<patient>p1)_(?P<phase>E.)"
    expected = nnunet.read(place, target="rv", patient=pattern).fingerprint()
    assert nnunet.read(place, target="rv", patient=pattern, ed="largest", es="smallest").fingerprint() == expected


@pytest.mark.parametrize(
    ("radii", "settings", "message"),
    [
        ({"p1_1": 6, "p1_2": 6, "p1_3": 4}, {"ed": "largest"}, r"data.ed=largest: 1 and 2 .*\bp1\b.*\bsize\b"),
        ({"p1_1": 6, "p1_2": 4, "p1_3": 4}, {"es": "smallest"}, r"data.es=smallest: 2 and 3 .*\bp1\b.*\bsize\b"),
        ({"p1_1": 6, "p1_2": 0}, {"es": "smallest"}, r"data.es=smallest: 2 .*\bp1\b.*\bstructure\b"),
        ({"p1_1": 6}, {"ed": "largest", "es": "smallest"}, r"data.es=smallest: 1 .*\bp1\b.*\bED \(data.ed=largest\)"),
    ],
)
def test_sizes_that_tell_no_phase_are_refused(tmp_path, radii, settings, message):
    with pytest.raises(InputError, match=message):
        nnunet.read(made(tmp_path, radii), target="rv", patient="(?P<patient>p[0-9])_", **settings)


def test_numbers_are_refused_before_anything_is_read():
    found = {name: cases.Volume(name[:2], frame=int(name[3:])) for name in ("p1_1", "p1_2", "p2_1")}
    with pytest.raises(InputError, match=r"data.es=2: .*\bp2\b.* frame 1\b"):
        next(cases.arrange(found, lambda _: pytest.fail("a file was read"), ed=1, es=2))


# Pairs of images


def images(root, names, radius=lambda name: 5):
    for number, name in enumerate(names):
        for part in ("images", "masks"):
            (root / part).mkdir(parents=True, exist_ok=True)
        Image.fromarray(volumes.pixels(number, (24, 20)).astype(np.uint8)).save(root / "images" / f"{name}.png")
        Image.fromarray(labelled(radius(name), (24, 20, 2))[:, :, 0] & 1).save(root / "masks" / f"{name}.png")
    return root


def pairs(root, pattern, **settings):
    return folder.read(root, target="foreground", **{"pixel_mm": 1, "gap_mm": 8, "patient": pattern, **settings})


def test_images_of_one_visit_and_frame_are_a_volume(tmp_path):
    names = [f"p1_v{visit}_f{frame}_s{index}" for visit in (1, 2) for frame in (1, 8) for index in (3, 4, 5)]
    size = {"v1_f1": 7, "v1_f8": 4, "v2_f1": 3, "v2_f8": 6}
    pattern = "(?P<patient>p1)_v(?P<visit>.)_f(?P<frame>.)_s(?P<slice>.)"
    place = images(tmp_path, names, lambda name: size[name[3:8]])
    assert told(pairs(place, pattern)) == [("p1", None, f"visit {v}, frame {f}") for v in (1, 2) for f in (1, 8)]
    slices = pairs(place, pattern, ed="largest", es="smallest")
    assert [(item.phase, item.volume, item.frame, item.slice_index) for item in slices][::3] == [
        ("ED", "visit 1", 1, 3),
        ("ES", "visit 1", 8, 3),
        ("ED", "visit 2", 8, 3),
        ("ES", "visit 2", 1, 3),
    ]
    found = scored(slices)
    assert [(row["n_slices"], row["undefined"]) for row in found.cases] == [(3, "")] * 4
    assert found.patients[0]["undefined"] == ""


def test_numbers_that_only_count_the_images_of_a_volume_make_one_volume_even_if_they_are_called_frames(tmp_path):
    place = images(tmp_path, [f"p1_frame{number}" for number in (1, 2, 3)])
    slices = pairs(place, "(?P<patient>p1)_frame(?P<frame>.)")
    assert [(item.volume, item.frame, item.slice_index) for item in slices] == [("", 1, 0), ("", 2, 1), ("", 3, 2)]
    assert [(row["n_slices"], row["undefined"]) for row in scored(slices).cases] == [(3, "")]


@pytest.mark.parametrize("pattern", ["(?P<patient>p1)_frame(?P<frame>.)", "(?P<patient>p1)_(?P<visit>[^_]+)_"])
def test_frames_or_visits_with_several_images_are_volumes_without_a_group_slice(tmp_path, pattern):
    place = images(tmp_path, [f"p1_frame{frame}_{letter}" for frame in (1, 2) for letter in "abc"])
    slices = pairs(place, pattern)
    assert len(told(slices)) == 2
    assert [(row["n_slices"], row["undefined"]) for row in scored(slices).cases] == [(3, "")] * 2


def test_frames_that_are_named_by_number_are_volumes_of_one_image(tmp_path):
    place = images(tmp_path, ["p1_frame1", "p1_frame2", "p1_frame3"])
    slices = pairs(place, "(?P<patient>p1)_frame(?P<frame>.)", ed=1, es=3, gap_mm=None)
    assert [(item.phase, item.frame) for item in slices] == [("ED", 1), ("ES", 3), (None, 2)]
    assert [row["n_slices"] for row in scored(slices).cases] == [1, 1, 1]


def test_what_the_pattern_calls_visits_may_be_the_phases(tmp_path):
    names = [f"p1_{phase}_{number}" for phase in ("systole", "diastole") for number in (1, 2, 3)]
    pattern = "(?P<patient>p1)_(?P<visit>[a-z]+)_(?P<frame>.)"
    slices = pairs(images(tmp_path, names), pattern, ed="diastole", es="systole")
    assert [(item.phase, item.volume, item.frame) for item in slices][::3] == [("ED", "", 1), ("ES", "", 1)]
    assert scored(slices).patients[0]["undefined"] == ""


def test_frames_of_what_the_pattern_calls_visits_are_told_apart_by_both(tmp_path):
    names = [f"p1_{volume}_s{number}" for volume in ("ed_f1", "mid_f1", "mid_f2", "late_f1") for number in (1, 2)]
    pattern = "(?P<patient>p1)_(?P<visit>[a-z]+)_f(?P<frame>.)_s(?P<slice>.)"
    slices = pairs(images(tmp_path, names), pattern, ed="ed")
    assert [item.volume for item in slices][::2] == ["", "late, frame 1", "mid, frame 1", "mid, frame 2"]


def test_a_slice_that_a_volume_has_twice_is_refused_with_both_files(tmp_path):
    place = images(tmp_path, ["p1_cine_s1", "p1_cine_s2", "p1_lge_s1"])
    with pytest.raises(InputError, match=r"p1_cine_s1.png and \S*p1_lge_s1.png .*\bslice 1\b.*\bp1\b.*data.patient"):
        pairs(place, "(?P<patient>p1).*_s(?P<slice>.)")
    slices = pairs(place, "(?P<patient>p1)_(?P<visit>.*)_s(?P<slice>.)")
    assert told(slices) == [("p1", None, "visit cine"), ("p1", None, "visit lge")]
