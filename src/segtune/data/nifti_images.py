"""Find NIfTI images without labels. Each file is a volume of a patient with the file's name.

If all names end in _0000, as in nnU-Net, that ending is removed: CASE_0000.nii.gz is patient CASE. If a file has a
fourth axis, this axis is time. Each frame along it is one volume and one phase of the patient. Frames are counted from
0.

A folder with a file Info.cfg has ACDC's layout: the folder is the patient, frames are counted from 1, and Info.cfg says which
frames are ED and ES. A film is the 4-D file of a cine series, with a name like `patient001_4d`. The folder may also
contain single frames of the film, with names like `patient001_frame01`. Then only the film or only the single frames
are read, so that no frame is read twice.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from segtune.data import acdc, names, nnunet
from segtune.data.formats import nifti
from segtune.data.slices import Phase
from segtune.data.unlabelled import Image, slice_without_label
from segtune.errors import InputError

LABEL_FOLDERS = (nnunet.LABELS, "labelsTs")
IMAGE_FOLDERS = (nnunet.IMAGES, "imagesTs")
FIRST_CHANNEL, SECOND_CHANNEL = "_0000", "_0001"
FILM = "_4d"  # the ending of the names of ACDC's films
FRAME = re.compile("_frame([0-9]{1,4})$")


@dataclass(frozen=True)
class VolumeFile:
    """One NIfTI file, or one frame of a film (4-D file).

    Attributes:
        name: the unique name of the file in results; it may contain folders.
        n_frames: number of volumes along the fourth axis.
        index: index of this volume along the fourth axis.
        first: number of the film's first frame.
        phases: frame number -> ED or ES, for the frames that are listed in Info.cfg.
    """

    path: Path
    name: str
    patient: str
    frame: int
    phase: str
    n_frames: int = 1
    index: int = 0
    first: int = 0
    phases: Mapping[int, str] = field(default_factory=dict)

    def frames(self) -> list["VolumeFile"]:
        """Return one VolumeFile for each frame of a film; [self] if the file is a single volume."""
        if self.n_frames == 1:
            return [self]
        return [
            replace(self, index=index, frame=number, phase=self.phases.get(number, str(number)))
            for index, number in enumerate(range(self.first, self.first + self.n_frames))
        ]

    def read(self, slice_axis: int | None = None) -> nifti.Volume:
        """Read the volume. Args: slice_axis: as in nifti.read. Raises: InputError that names the file."""
        return nifti.read(self.path, channel=self.index, n_channels=self.n_frames, slice_axis=slice_axis)

    def images(self, volume: nifti.Volume) -> Iterator[Image]:
        """Yield the slices of a volume returned by `read`. Raises: InputError for pixels that are not finite."""
        known: dict[str, Phase] = {"ED": "ED", "ES": "ES"}
        for index, plane in enumerate(volume.voxels):
            item = slice_without_label(
                nifti.finite(self.path, index, plane),
                patient=self.patient,
                frame=self.frame,
                slice_index=index,
                phase=known.get(self.phase),
                spacing_mm=volume.spacing_mm,
                gap_mm=volume.gap_mm,
            )
            yield Image(item, self.path.name, self.phase, "")


class _Folder(NamedTuple):
    """The NIfTI files of one folder.

    Attributes:
        files: the files by their names without ending.
        phases: frame number -> ED or ES, from Info.cfg; None if there is no such file.
    """

    path: Path
    files: Mapping[str, Path]
    phases: Mapping[int, str] | None


def find(files: Sequence[Path], root: Path, left_out: Counter[str]) -> list[VolumeFile]:
    """Find the volumes in these files.

    Label images are left out. Films and single frames are left out if their content is read from another file. All
    files that are left out are counted in left_out.

    Raises: InputError with the path of the file, if two files contain the same volume, if images have several channels,
        or if Info.cfg lists a frame that the film does not have.
    """
    folders = _folders(files, root)
    images = [(folder, stem) for folder in folders for stem in _images(folder, left_out)]
    is_nnunet = all(stem.endswith(FIRST_CHANNEL) and stem != FIRST_CHANNEL for _, stem in images)
    cases = [stem.removesuffix(FIRST_CHANNEL) if is_nnunet else stem for _, stem in images]
    long = [f"{names.relative(folder.path, root)}/{case}" for case, (folder, _) in zip(cases, images, strict=True)]
    called = _distinct(cases, [name.removeprefix("./") for name in long])
    hearts = [folder.path for folder in folders if folder.phases is not None]
    patients = _distinct([path.resolve().name for path in hearts], [names.relative(path, root) for path in hearts])
    patient_of = dict(zip(hearts, patients, strict=True))
    return [
        _volume(folder, folder.files[stem], name, patient_of.get(folder.path, name), case)
        for name, case, (folder, stem) in zip(called, cases, images, strict=True)
    ]


def _folders(files: Sequence[Path], root: Path) -> list[_Folder]:
    inside: dict[Path, list[Path]] = {}
    for path in files:
        inside.setdefault(path.parent, []).append(path)
    return [_Folder(path, nifti.by_stem(of), _phases(path) if root.is_dir() else None) for path, of in inside.items()]


def _phases(folder: Path) -> dict[int, str] | None:
    """Read the folder's Info.cfg. Returns: frame number -> ED or ES; None if there is no such file."""
    info = folder / "Info.cfg"
    return {frame: phase for phase, frame in acdc.read_info(info).items()} if info.is_file() else None


def _images(folder: _Folder, left_out: Counter[str]) -> list[str]:
    """Return the stems (names without ending) of the images to be read. Other files are counted in left_out."""
    _check_one_channel(folder)
    read_elsewhere = _read_elsewhere(folder)
    kept = []
    for stem in folder.files:
        if _is_label(folder, stem):
            left_out["label images"] += 1
        elif stem in read_elsewhere:
            left_out["films (_4d)" if stem.endswith(FILM) else "frames of films (_4d)"] += 1
        else:
            kept.append(stem)
    return kept


def _is_label(folder: _Folder, stem: str) -> bool:
    is_beside_image = folder.phases is not None or stem.removesuffix("_gt") in folder.files
    return folder.path.name in LABEL_FOLDERS or (stem.endswith("_gt") and is_beside_image)


def _read_elsewhere(folder: _Folder) -> set[str]:
    """Return the stems of files that are not read because other files contain the same frames.

    If the single frames include ED and ES, the films (4-D files) are not read. Otherwise, the films are read, and their
    single frames are not.
    """
    found: set[str] = set()
    for film in (stem for stem in folder.files if stem.endswith(FILM)):
        frames = {
            int(match[1]): stem for stem in folder.files if (match := FRAME.search(stem)) and FRAME.sub(FILM, stem) == film
        }
        n = nifti.n_frames(folder.files[film]) if frames else 0
        if frames and folder.phases is not None and (folder.phases.keys() <= frames.keys() or n < max(folder.phases)):
            found.add(film)
        elif n > 1:
            found.update(frames.values())
    return found


def _check_one_channel(folder: _Folder) -> None:
    if folder.path.name not in IMAGE_FOLDERS:
        return
    for stem, path in folder.files.items():
        if stem.endswith(FIRST_CHANNEL) and stem.removesuffix(FIRST_CHANNEL) + SECOND_CHANNEL in folder.files:
            raise InputError(
                f"{path}: this case has several channels (there is also a file {SECOND_CHANNEL}). Give a folder with a single "
                "channel."
            )


def _volume(folder: _Folder, path: Path, name: str, patient: str, case: str) -> VolumeFile:
    """Describe one file as a VolumeFile.

    Raises: InputError if the fourth axis counts channels, or if Info.cfg lists a frame that the film does not have.
    """
    n_frames = nifti.n_frames(path)
    if n_frames > 1 and folder.path.name in IMAGE_FOLDERS:
        raise InputError(
            f"{path}: in a folder named {folder.path.name}, the fourth axis (of length {n_frames}) counts channels, not time. "
            "Give a folder with a single channel. If the file is a film, put it into a folder with another name."
        )
    if folder.phases is None:
        return VolumeFile(path, name, patient, frame=0, phase="", n_frames=n_frames)
    if n_frames > 1 and (beyond := max(folder.phases)) > n_frames:
        raise InputError(
            f"{path}: it has {n_frames} frames, but Info.cfg says that frame {beyond} is {folder.phases[beyond]}. "
            "Correct Info.cfg, or replace the file."
        )
    match = FRAME.search(case)
    frame = int(match[1]) if match else 0
    phase = str(folder.phases.get(frame, frame))
    return VolumeFile(path, name, patient, frame, phase, n_frames, first=1, phases=folder.phases)


def _distinct(short: list[str], long: list[str]) -> list[str]:
    """Return the short names if they are all different; otherwise, return the long names."""
    return short if len({*short}) == len(short) else long
