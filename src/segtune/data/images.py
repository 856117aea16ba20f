"""Images without labels, as a clinic has them: DICOM or NIfTI below one folder, or a single file. Nothing outside is read."""

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

MAGIC, MAGIC_AT = b"DICM", 128  # of a DICOM file, whatever its name


@dataclass(frozen=True)
class Found:
    """The images that were found: patients (DICOM) or volumes (NIfTI), never both.

    Attributes:
        left_out: kind of file -> number of files of that kind that are not read.
        put_together: sentences on which images belong to one patient, where the folders alone do not show it.
    """

    patients: Sequence[Patient]
    volumes: Sequence[VolumeFile]
    left_out: Mapping[str, int]
    put_together: Sequence[str] = ()


def find(source: str | os.PathLike[str]) -> Found:
    """The images below a folder, or of a single file. Reads DICOM and NIfTI headers, and no pixels.

    Raises: InputError if there is no image, if there are both DICOM and NIfTI files, for a link that leads out of the folder,
    and naming the file for what cannot be read.
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
            f"input={source}: it holds DICOM ({dicoms[0].name}) and NIfTI ({niftis[0].name}). Give the folder of one of them."
        )
    left_out = Counter({"neither DICOM nor NIfTI": len(others)})
    volumes = nifti_images.find(niftis, root, left_out)
    patients, put_together = dicom_images.find(dicoms, root, left_out)
    counts = {kind: n for kind, n in left_out.items() if n}
    if not volumes and not patients:
        others_told = f" ({', '.join(f'{n} {kind}' for kind, n in counts.items())})" if counts else ""
        raise InputError(
            f"input={source}: there is no image in it{others_told}. Give a folder of DICOM or NIfTI files, or one file."
        )
    return Found(patients, volumes, counts, put_together)


def _walk(folder: Path, root: Path, seen: set[str]) -> Iterator[Path]:
    """All files below a folder, in natural order. Raises: InputError as names.entries; also for a folder that is met twice."""
    real = os.path.realpath(folder)
    if real in seen:
        raise InputError(f"{folder}: this link leads to a folder that is read anyway. Remove it.")
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
        raise InputError(f"{path}: cannot be read ({error.strerror}). Restore it.") from error
