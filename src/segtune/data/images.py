"""Find images without labels, as in clinical use: DICOM or NIfTI files below one folder, or a single file.

Files outside the folder are not read.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segtune.data import dicom_images, names, nifti_images
from segtune.data.dicom_images import Patient
from segtune.data.formats import nifti
from segtune.data.formats.files import is_text, log_not_read
from segtune.data.nifti_images import VolumeFile
from segtune.errors import InputError

MAGIC, MAGIC_AT = b"DICM", 128  # the bytes that identify a DICOM file, and their position


@dataclass(frozen=True)
class Found:
    """The images that were found: either patients (DICOM) or volumes (NIfTI).

    Attributes:
        left_out: dict from each kind of file to the number of files of this kind that are not read.
        put_together: sentences that say which images were combined, if the folders do not already show it.
    """

    patients: Sequence[Patient]
    volumes: Sequence[VolumeFile]
    left_out: Mapping[str, int]
    put_together: Sequence[str] = ()


def find(source: str | os.PathLike[str]) -> Found:
    """Find the images below a folder, or in a single file. Only DICOM and NIfTI headers are read, no pixels.

    Raises: InputError if there is no image, if there are both DICOM and NIfTI files, if a link leads out of the folder, or if
        a file cannot be read.
    """
    root = Path(source).expanduser()
    if not root.exists():
        raise InputError(f"input={source}: there is no such folder or file.")
    files = [root] if root.is_file() else list(_walk(root, root, set()))
    niftis = [path for path in files if nifti.stem(path) is not None]
    dicoms = [path for path in files if nifti.stem(path) is None and (root == path or _is_dicom(path))]
    others = [path for path in files if path not in {*niftis, *dicoms}]
    log_not_read([path for path in others if not is_text(path)], root)
    if niftis and dicoms:
        raise InputError(
            f"input={source}: it holds both DICOM ({dicoms[0].name}) and NIfTI ({niftis[0].name}) files. Give a folder with "
            "only one of the two formats."
        )
    left_out = Counter({"neither DICOM nor NIfTI": len(others)})
    volumes = nifti_images.find(niftis, root, left_out)
    patients, put_together = dicom_images.find(dicoms, root, left_out)
    counts = {kind: n for kind, n in left_out.items() if n}
    if not volumes and not patients:
        others_told = f" ({', '.join(f'{n} {kind}' for kind, n in counts.items())})" if counts else ""
        raise InputError(
            f"input={source}: it contains no image{others_told}. Give a folder of DICOM or NIfTI files, or one file."
        )
    return Found(patients, volumes, counts, put_together)


def _walk(folder: Path, root: Path, seen: set[str]) -> Iterator[Path]:
    """Yield all files below a folder in natural order.

    Raises: InputError as in names.entries, and if a link leads to a folder that is read anyway.
    """
    real = os.path.realpath(folder)
    if real in seen:
        raise InputError(f"{folder}: this link leads to a folder that is read anyway. Remove the link.")
    seen.add(real)
    for path in names.entries(folder, root):
        if path.is_dir():
            yield from _walk(path, root, seen)
        else:
            yield path


def _is_dicom(path: Path) -> bool:
    if path.suffix.lower() == ".dcm":
        return True
    try:
        with path.open("rb") as file:
            return file.read(MAGIC_AT + len(MAGIC))[MAGIC_AT:] == MAGIC
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}). Make it readable, or replace it with the original copy."
        ) from error
