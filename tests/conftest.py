"""Files in RVSC's format with known content, and settings that make a run tiny."""

import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from pydicom.dataset import FileDataset, FileMetaDataset

torch.set_num_threads(1)  # the networks here are tiny

TINY = ["data.n_patients=4", "data.size=32", "model.width=2", "trainer.max_epochs=2", "trainer.accelerator=cpu"]
SQUARE = [(10.0, 20.0), (30.0, 20.0), (30.0, 40.0), (10.0, 40.0)]  # x from 10 to 30, y from 20 to 40


@pytest.fixture(autouse=True)
def everything_in_a_temporary_folder(tmp_path, monkeypatch, tmp_path_factory):
    """Runs write below the current folder, the phantom into the user's cache: neither outlives the session."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """The folder of a finished run on the phantom, which nobody may change, and its configuration."""
    from segtune.config import entry
    from segtune.runs import identity
    from segtune.training import build
    from segtune.training.run import train

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        cfg = entry.compose([*TINY, "figures=false"])
        folder = tmp_path_factory.mktemp("runs") / identity.run_id(entry.plain(cfg))
        train(build.experiment(cfg), folder)
        return folder, cfg


def resign(folder: Path) -> None:
    """Make result.json fit what lies in a run's folder now, as somebody could who forges it."""
    from segtune.runs import layout
    from segtune.runs.files import json_text
    from segtune.runs.result import listed_files, signed

    result = {**json.loads((folder / layout.RESULT).read_text()), "files": listed_files(folder)}
    (folder / layout.RESULT).write_bytes(json_text(signed({k: v for k, v in result.items() if k != "sha256"})))


def unsign(folder: Path) -> None:
    """Take the hashes out of result.json, as whoever forges a run's folder can: what else protects must hold without them."""
    path = folder / "result.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in result.items() if key not in ("files", "sha256")}))


def write_dicom(path: Path, image: np.ndarray, **tags) -> None:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.MRImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[str(path)])
    header = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    header.PatientName = "Secret^Name"
    header.Rows, header.Columns = image.shape
    header.SamplesPerPixel, header.PhotometricInterpretation, header.PixelRepresentation = 1, "MONOCHROME2", 0
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 16, 15
    header.PixelSpacing, header.SliceThickness, header.InstanceNumber = [0.7, 0.8], 7, 99
    for name, value in tags.items():
        setattr(header, name, value)
    header.PixelData = image.astype("<u2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    header.save_as(path, enforce_file_format=True)


def write_enhanced(path: Path, frames: list[np.ndarray], groups: list[dict], *, shared: dict | None = None, **tags) -> None:
    """An Enhanced MR file: a group of tags for each frame and those that they share, functional group -> its tags."""

    def sequences(of: dict) -> pydicom.Dataset:
        found = pydicom.Dataset()
        for name, about in of.items():
            item = pydicom.Dataset()
            for keyword, value in about.items():
                setattr(item, keyword, value)
            setattr(found, name, pydicom.Sequence([item]))
        return found

    about = {
        "NumberOfFrames": len(frames),
        "Rows": frames[0].shape[0],
        "SharedFunctionalGroupsSequence": pydicom.Sequence([sequences(shared or {})]),
        "PerFrameFunctionalGroupsSequence": pydicom.Sequence([sequences(group) for group in groups]),
        "PixelSpacing": None,
    }
    write_dicom(path, np.concatenate(frames), **{**about, **tags})
    dataset = pydicom.dcmread(path)
    dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.EnhancedMRImageStorage
    dataset.save_as(path)


def write_patient(root: Path, number: int, contoured, *, n_frames=24, start=20, flat=False, listed=None, scale=None) -> None:
    """Frames start ... start + n_frames - 1 of one patient in RVSC's layout; `contoured` of them with i and o contours.

    scale: frame -> size of its contours. listed: the frames in the list file (default: the contoured ones).
    """
    name = f"P{number:02}"
    base = root / "TrainingSet" if flat else root / "TrainingSet" / f"patient{number:02}"
    dicoms, outlines = (base, base) if flat else (base / f"{name}dicom", base / f"{name}contours-manual")
    outlines.mkdir(parents=True, exist_ok=True)
    for frame in range(start, start + n_frames):
        image = np.random.default_rng([number, frame]).integers(0, 400, (96, 64))
        write_dicom(dicoms / f"{name}-{frame:04}.dcm", image, ImagePositionPatient=[0, 0, 8.4 * (frame // 20)],
                    ImageOrientationPatient=[1, 0, 0, 0, 1, 0])  # fmt: skip
    lines = []
    for frame in contoured:
        for kind, grow in (("i", 1.0), ("o", 1.2)):
            points = (np.array(SQUARE) - [20, 30]) * grow * (scale or {}).get(frame, 1.0) + [20, 30]
            np.savetxt(outlines / f"{name}-{frame:04}-{kind}contour-manual.txt", points, fmt="%.2f", newline="\r\n")
    for frame in contoured if listed is None else listed:
        lines += [f".\\patient{number:02}\\{name}contours-manual\\{name}-{frame:04}-{k}contour-manual.txt\r\n" for k in "io"]
    (base / f"{name}list.txt").write_bytes("".join(lines).encode())
