"""Images are known again in other files, and other patients' images are not."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from conftest import TINY
from segtune import evaluate
from segtune.config import entry
from segtune.data import phantom, recognition, sunnybrook
from segtune.errors import InputError
from segtune.runs import identity
from segtune.runs.result import read_result
from segtune.training import build
from segtune.training.run import train

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "sunnybrook"


def to_8_bits(image, low=1, high=99):
    low, high = np.percentile(image, [low, high])
    return np.rint(255 * np.clip((image - low) / (high - low), 0, 1)).astype(np.uint8)


def jpeg(image):
    file = io.BytesIO()
    Image.fromarray(to_8_bits(image)).save(file, "JPEG", quality=75)
    return np.asarray(Image.open(file))


def smaller(image):
    height, width = image.shape
    return np.asarray(Image.fromarray(image.astype(np.float32)).resize((int(0.7 * width), int(0.7 * height)), Image.BILINEAR))


ELSEWHERE = {
    "as it is": lambda image: image,
    "another scale and offset": lambda image: image * 2.5 - 100,
    "8 bits of a window": to_8_bits,
    "8 bits of all": lambda image: to_8_bits(image, 0, 100),
    "padded": lambda image: np.pad(image, ((5, 40), (0, 20))),
    "transposed": lambda image: image.T,
    "upside down, in 8 bits": lambda image: to_8_bits(image)[::-1],
    "a quarter turn": np.rot90,
    "16 bits, padded, mirrored": lambda image: np.pad(image.astype(np.uint16), ((0, 30), (0, 0)))[:, ::-1],
    "JPEG": jpeg,
    "resampled": smaller,
    "rotated by 2 degrees": lambda image: ndimage.rotate(image, 2, reshape=False, order=1, mode="nearest"),
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        found = {
            "phantom": phantom.read(seed=0, n_patients=6, size=96, target="endocardium"),
            "another phantom": phantom.read(seed=1, n_patients=6, size=96, target="endocardium"),
        }
    return found | ({"real": sunnybrook.read(REAL, target="endocardium")} if REAL.is_dir() else {})


@pytest.mark.parametrize("name", ELSEWHERE)
def test_every_image_is_known_again_as_the_same_patients_in_another_form(name, sets):
    for slices in sets.values():
        known = recognition.codes(slices)
        seen = [recognition.code(np.asarray(ELSEWHERE[name](item.image), np.float32)) for item in slices]
        found = recognition.known_again(seen, known)
        assert all(index >= 0 and slices[index].patient == item.patient for index, item in zip(found, slices, strict=True))


@pytest.mark.slow
def test_no_patient_is_taken_for_another(sets):
    for one in sets.values():
        for other in sets.values():
            for patient in {*one.patients}:
                seen = recognition.codes(item for item in one if item.patient == patient)
                known = recognition.codes(item for item in other if one is not other or item.patient != patient)
                assert {*recognition.known_again(seen, known)} == {-1}


def test_images_with_nothing_in_them_have_no_code_and_are_known_as_nobodys():
    dark = np.zeros((64, 64), np.float32)
    spot = dark.copy()
    spot[30:34, 30:34] = 1
    assert [recognition.code(image) for image in (dark, dark + 7, spot, np.eye(10, dtype=np.float32))] == [""] * 4
    sound = recognition.code(np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32))
    assert recognition.known_again(["", "nonsense", sound], ["", "zz" * 72, sound]) == [-1, -1, 2]
    assert recognition.known_again([], []) == []


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run on a phantom of 64 pixels, and the slices that it read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        cfg = entry.compose([*TINY, "data.size=64", "trainer.max_epochs=1", "figures=false"])
        folder = tmp_path_factory.mktemp("runs") / identity.run_id(entry.plain(cfg))
        train(build.experiment(cfg), folder)
        return folder, phantom.read(seed=0, n_patients=4, size=64, target="endocardium")


def exported(slices, names):
    """The slices as PNG files, under other names and numbers, upside down."""
    for part in ("images", "masks"):
        Path("export", part).mkdir(parents=True)
    for number, item in enumerate(reversed(list(slices))):
        name = f"{names[item.patient]}_{number:03}.png"
        Image.fromarray(to_8_bits(item.image)[::-1]).save(Path("export/images", name))
        Image.fromarray(255 * item.mask[::-1].astype(np.uint8)).save(Path("export/masks", name))


def evaluated(folder):
    overrides = [f"run={folder}", "data=folder", "data.root=export", "data.pixel_mm=1", "data.target=foreground"]
    evaluate.evaluate(entry.compose([*overrides, "data.patient='(?P<patient>[^_]+)_'"], "evaluate"))


def test_patients_that_a_run_trained_on_are_left_out_in_other_files_under_other_names(run, caplog):
    folder, slices = run
    trained = read_result(folder)["data"]["patients"]["train"]
    exported(slices, {patient: f"case{number}" for number, patient in enumerate(dict.fromkeys(slices.patients))})
    evaluated(folder)
    assert re.search(rf"\b{len(trained)} of 4 .*\b{folder.name}\b", caplog.text)
    assert all(re.search(rf"\bpatient {patient}\b", caplog.text) for patient in trained)
    record = json.loads(next(Path("outputs/evaluate").glob("*/evaluation.json")).read_text())
    assert len(record["data"]["left_out"]) == len(trained) == 4 - record["data"]["n_patients"]


def test_patients_that_were_all_trained_on_leave_nobody_to_score(run):
    folder, slices = run
    trained = read_result(folder)["data"]["patients"]["train"]
    exported([item for item in slices if item.patient in trained], {patient: f"x{patient}" for patient in trained})
    with pytest.raises(InputError, match=rf"{folder.name}\b.*\bxP\d+ .*\bP\d+"):
        evaluated(folder)
