"""Files in a data set's folders that its reader does not take: they are told, and no case among them is lost silently."""

import logging
import os
from collections.abc import Collection, Iterable
from pathlib import Path

from segtune.errors import printable

log = logging.getLogger(__name__)

COMPANIONS = ("readme", "license", "licence", "citation", "mandatory_citation", "changelog", "thumbs.db", "desktop.ini")
TEXTS = {  # endings of what is no image
    *(".cfg", ".csv", ".db", ".doc", ".docx", ".htm", ".html", ".ini", ".ipynb", ".json", ".log", ".md", ".md5", ".pdf", ".py"),
    *(".rtf", ".sh", ".sha1", ".sha256", ".sha512", ".toml", ".tsv", ".txt", ".xls", ".xlsx", ".xml", ".yaml", ".yml"),
    *(".bval", ".bvec"),
}
MOST_SHOWN = 5
DICOM_SUFFIXES = (".dcm", ".ima", ".dicom")


def is_companion(path: Path) -> bool:
    """Whether this is what comes with data and need not be told."""
    return path.name.lower().startswith(COMPANIONS)


def is_text(path: Path) -> bool:
    """Whether the name says that this is no image."""
    return is_companion(path) or path.suffix.lower() in TEXTS


def is_lost(path: Path, taken: Collection[str]) -> bool:
    """Whether this may be an image that would be lost: no text, and not beside one that is taken and is named like it.

    Args: taken: the names, without their endings, of the files that are read.
    """
    if path.is_dir():
        return any(not is_text(Path(name)) and not name.startswith(".") for _, _, names in os.walk(path) for name in names)
    parts = path.name.split(".")
    return not is_text(path) and not any(".".join(parts[:n]) in taken for n in range(1, len(parts)))


def tell(paths: Iterable[Path], root: Path) -> None:
    """A line of the log with the number of the files that are not taken, and the first few by name."""
    if left := [path for path in paths if not is_companion(path)]:
        listed = ", ".join(printable(path.relative_to(root).as_posix()) for path in left[:MOST_SHOWN])
        more = ", ..." if len(left) > MOST_SHOWN else ""
        log.warning("not read, %d %s: %s%s", len(left), "file" if len(left) == 1 else "files or folders", listed, more)


def below(folder: Path, taken: Collection[Path]) -> list[Path]:
    """The files below a folder that are neither taken, maybe by a link, nor hidden nor companions, in order; links to folders
    are not followed."""
    real = {os.path.realpath(path) for path in taken}
    found = []
    for directory, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(directory) / name for name in sorted(files) if not name.startswith(".")]
    return [path for path in found if not is_companion(path) and os.path.realpath(path) not in real]


def is_dicom(path: Path) -> bool:
    """Whether a file that is not taken is a DICOM image by its ending or its first bytes."""
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    try:
        if not path.is_file() or path.name.upper() == "DICOMDIR":  # to open a pipe may never end
            return False
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False
