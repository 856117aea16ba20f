"""Handle the files in a data set's folders that are not read.

Such files are logged. If one of them may be an image, an error is raised, so that no image is left out unnoticed.
"""

import logging
import os
from collections.abc import Collection, Iterable
from pathlib import Path

from segtune.errors import printable

log = logging.getLogger(__name__)

COMPANIONS = ("readme", "license", "licence", "citation", "mandatory_citation", "changelog", "thumbs.db", "desktop.ini")
TEXTS = {  # endings of files that are not images
    *(".cfg", ".csv", ".db", ".doc", ".docx", ".htm", ".html", ".ini", ".ipynb", ".json", ".log", ".md", ".md5", ".pdf", ".py"),
    *(".rtf", ".sh", ".sha1", ".sha256", ".sha512", ".toml", ".tsv", ".txt", ".xls", ".xlsx", ".xml", ".yaml", ".yml"),
    *(".bval", ".bvec"),
}
MOST_SHOWN = 5
DICOM_SUFFIXES = (".dcm", ".ima", ".dicom")


def is_companion(path: Path) -> bool:
    """Return whether the file commonly accompanies data, like a README, so that it need not be logged."""
    return path.name.lower().startswith(COMPANIONS)


def is_text(path: Path) -> bool:
    """Return whether the file's name shows that it is not an image."""
    return is_companion(path) or path.suffix.lower() in TEXTS


def is_lost(path: Path, taken: Collection[str]) -> bool:
    """Return whether this may be an image that would be left out by mistake.

    A file may be such an image if it is not a text file, and if no file with the same name is read. A folder may
    contain such images if a file in it is not a text file.

    Args: taken: the names, without endings, of the files that are read.
    """
    if path.is_dir():
        return any(not is_text(Path(name)) and not name.startswith(".") for _, _, names in os.walk(path) for name in names)
    parts = path.name.split(".")
    return not is_text(path) and not any(".".join(parts[:n]) in taken for n in range(1, len(parts)))


def log_not_read(paths: Iterable[Path], root: Path) -> None:
    """Log the number of files that are not read, and the names of the first few."""
    if left := [path for path in paths if not is_companion(path)]:
        listed = ", ".join(printable(path.relative_to(root).as_posix()) for path in left[:MOST_SHOWN])
        more = ", ..." if len(left) > MOST_SHOWN else ""
        log.warning("not read, %d %s: %s%s", len(left), "file" if len(left) == 1 else "files or folders", listed, more)


def below(folder: Path, taken: Collection[Path]) -> list[Path]:
    """List the files below a folder that are not read, except hidden files and companions (see is_companion).

    Links to folders are not followed.

    Args: taken: the files that are read. A file that is read through a link counts as read.
    """
    real = {os.path.realpath(path) for path in taken}
    found = []
    for directory, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(directory) / name for name in sorted(files) if not name.startswith(".")]
    return [path for path in found if not is_companion(path) and os.path.realpath(path) not in real]


def is_dicom(path: Path) -> bool:
    """Return whether a file's ending or its first bytes show that it is a DICOM file."""
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    try:
        if not path.is_file() or path.name.upper() == "DICOMDIR":  # opening a pipe may block forever
            return False
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False
