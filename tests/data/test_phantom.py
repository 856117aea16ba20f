"""The phantom is what RVSC 2012 is: the same files, the same counts, and hearts that differ."""

import itertools
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from scipy import ndimage

from segtune.data import phantom
from segtune.data.formats import contours
from segtune.data.slices import SliceSet
from segtune.errors import InputError


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that holds the study's 16 patients at 64 pixels."""
    folder = tmp_path_factory.mktemp("cache")
    phantom.read(seed=0, n_patients=16, size=64, target="endocardium", cache=folder)
    return folder


@pytest.fixture(scope="module")
def endocardium(cache: Path) -> SliceSet:
    return phantom.read(seed=0, n_patients=16, size=64, target="endocardium", cache=cache)


@pytest.fixture(scope="module")
def training_set(cache: Path) -> Path:
    (whole,) = cache.iterdir()
    return whole / "TrainingSet"


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_sixteen_patients_have_243_labelled_frames(endocardium: SliceSet) -> None:
    assert len(endocardium) == 243
    assert sorted(set(endocardium.patients)) == [f"P{number:02d}" for number in range(1, 17)]


def test_list_files_have_windows_lines_with_i_and_o_in_turn(training_set: Path) -> None:
    lists = sorted(training_set.glob("patient*/P*list.txt"))
    assert len(lists) == 16
    for path in lists:
        lines = path.read_bytes().decode("ascii").split("\r\n")
        assert lines.pop() == ""
        assert all(line.startswith(f".\\{path.parent.name}\\") and "/" not in line for line in lines)
        assert all((training_set / line.replace("\\", "/")).is_file() for line in lines)
        letters = [line.removesuffix("contour-manual.txt")[-1] for line in lines]
        assert letters == ["i", "o"] * (len(lines) // 2)


def test_some_frames_have_no_labels(training_set: Path) -> None:
    images = len(list(training_set.rglob("*.dcm")))
    assert 1.5 * 243 <= images <= 2 * 243


def test_portrait_and_landscape_images_occur(endocardium: SliceSet) -> None:
    assert {item.image.shape for item in endocardium} == {(64, 54), (54, 64)}


def test_headers_are_those_of_a_short_axis_cine(training_set: Path) -> None:
    paths = sorted((training_set / "patient01" / "P01dicom").iterdir())
    headers = {int(path.stem[-4:]): pydicom.dcmread(path) for path in paths}
    for frame, header in headers.items():
        assert header.pixel_array.dtype == np.uint16
        assert header.BitsStored == 16
        assert 100 < header.pixel_array.max() < 1500
        assert header.PixelSpacing == [2.8, 2.8]
        assert header.InstanceNumber != frame
        assert "PHANTOM" in str(header.PatientName)
        assert header.SOPInstanceUID.is_valid
    assert len({header.SOPInstanceUID for header in headers.values()}) == len(headers)
    first, second = (np.array(headers[frame].ImagePositionPatient, dtype=float) for frame in (0, 20))
    assert np.linalg.norm(second - first) == pytest.approx(8.4, abs=1e-3)


def test_end_diastole_is_larger_than_end_systole_in_every_patient(endocardium: SliceSet) -> None:
    areas = defaultdict(list)
    for item in endocardium:
        areas[item.patient, item.phase].append(item.mask.sum())
        assert (item.phase == "ED") == (item.frame % 20 == 0)
    for patient in set(endocardium.patients):
        assert sum(areas[patient, "ED"]) > 1.4 * sum(areas[patient, "ES"])
        assert len(areas[patient, "ED"]) > len(areas[patient, "ES"])


def test_the_endocardium_lies_inside_the_epicardium(cache: Path, endocardium: SliceSet) -> None:
    epicardium = phantom.read(seed=0, n_patients=16, size=64, target="epicardium", cache=cache)
    for inner, outer in zip(endocardium, epicardium, strict=True):
        assert 4 <= inner.mask.sum() < outer.mask.sum()
        assert not (inner.mask & ~outer.mask).any()


def test_no_contour_crosses_itself(training_set: Path) -> None:
    for path in sorted(training_set.glob("patient0[1-3]/P*contours-manual/*.txt"))[::4]:
        points = np.unique(contours.read(path), axis=0, return_index=True)[1]
        start = contours.read(path)[np.sort(points)]
        way = np.roll(start, -1, axis=0) - start
        between = start[None] - start[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            parallel = way[:, None, 0] * way[None, :, 1] - way[:, None, 1] * way[None, :, 0]
            here = (between[..., 0] * way[None, :, 1] - between[..., 1] * way[None, :, 0]) / parallel
            there = (between[..., 0] * way[:, None, 1] - between[..., 1] * way[:, None, 0]) / parallel
        crossing = (here > 1e-6) & (here < 1 - 1e-6) & (there > 1e-6) & (there < 1 - 1e-6)
        assert not crossing.any(), path


def test_the_contour_lies_on_the_steepest_edge(tmp_path: Path) -> None:
    items = phantom.read(seed=0, n_patients=1, size=256, target="endocardium", cache=tmp_path)
    profiles = []
    for item in items:
        outside, inside = (ndimage.distance_transform_edt(mask) for mask in (~item.mask, item.mask))
        # from 3 pixels inside to 4 outside; the edge lies between the 4th and the 5th ring
        rings = [(inside > d) & (inside <= d + 1) for d in (3, 2, 1, 0)] + [
            (outside > d) & (outside <= d + 1) for d in range(4)
        ]
        profiles.append([item.image[ring].mean() if ring.any() else np.nan for ring in rings])
    drop = -np.diff(np.nanmean(profiles, axis=0))
    assert np.argmax(drop) == 3


def test_patients_differ_more_than_the_slices_of_one(endocardium: SliceSet) -> None:
    rows = defaultdict(list)
    for item in endocardium:
        centre = np.argwhere(item.mask).mean(axis=0) - np.array(item.mask.shape) / 2
        rows[item.patient].append((item.image[item.mask].mean(), *centre))
    between = np.std([np.mean(values, axis=0) for values in rows.values()], axis=0)
    within = np.mean([np.std(values, axis=0) for values in rows.values()], axis=0)
    assert (between > 1.5 * within).all()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        phantom.write(tmp_path / name, seed=seed, n_patients=2, size=64)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert files(tmp_path / "a") != files(tmp_path / "c")


@pytest.mark.parametrize("size", [32, 48, 144])
def test_every_size_can_be_written_and_read(tmp_path: Path, size: int) -> None:
    items = phantom.read(seed=1, n_patients=2, size=size, target="endocardium", cache=tmp_path)
    assert {max(item.image.shape) for item in items} == {size}
    assert all(item.spacing_mm == pytest.approx((179.2 / size, 179.2 / size), abs=1e-5) for item in items)


def test_fewer_patients_are_the_first_of_more(tmp_path: Path, training_set: Path) -> None:
    phantom.write(tmp_path, seed=0, n_patients=2, size=64)
    few, many = files(tmp_path / "TrainingSet"), files(training_set)
    assert few == {name: content for name, content in many.items() if name < "patient03"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_patients": 0}, r"data\.n_patients=0: .*\b1 to 99\b"),
        ({"n_patients": 100}, r"data\.n_patients=100"),
        ({"n_patients": 2.5}, r"data\.n_patients=2\.5"),
        ({"size": 16}, r"data\.size=16: .*\b16\b.*\b32 to 512\b"),
        ({"size": 100}, r"data\.size=100"),
        ({"size": 528}, r"data\.size=528"),
        ({"seed": -1}, r"data\.seed=-1: .*\b0\b"),
    ],
)
def test_bad_arguments_are_refused_with_the_cure(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    arguments = {"seed": 0, "n_patients": 1, "size": 64} | wrong
    with pytest.raises(InputError, match=message):
        phantom.write(tmp_path / "set", **arguments)
    with pytest.raises(InputError, match=message):
        phantom.read(**arguments, target="endocardium", cache=tmp_path / "cache")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paint, painted = phantom.paint, itertools.count()

    def failing(*arguments: Any) -> Any:
        if next(painted) == 30:
            raise KeyboardInterrupt
        return paint(*arguments)

    wanted: dict[str, Any] = {"seed": 0, "n_patients": 2, "size": 32, "target": "endocardium", "cache": tmp_path}
    monkeypatch.setattr(phantom, "paint", failing)
    with pytest.raises(KeyboardInterrupt):
        phantom.read(**wanted)
    assert not list(tmp_path.iterdir())
    assert len(phantom.read(**wanted)) == 29


def test_of_two_processes_the_slower_uses_the_other_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = phantom.write
    wanted: dict[str, Any] = {"seed": 0, "n_patients": 1, "size": 32, "target": "endocardium", "cache": tmp_path}

    def overtaken(folder: Path, **arguments: int) -> None:
        monkeypatch.setattr(phantom, "write", write)
        phantom.read(**wanted)
        write(folder, **arguments)

    monkeypatch.setattr(phantom, "write", overtaken)
    assert len(phantom.read(**wanted)) == 15
    assert len(list(tmp_path.iterdir())) == 1
