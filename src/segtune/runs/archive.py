"""Check the zip archive of a checkpoint from an untrusted source before PyTorch reads it.

Two programs can read different contents from the same zip file. Therefore, PyTorch never reads the file itself. It
reads a new archive in memory, which contains only the checked entries. This module does not import torch.
"""

import io
import re
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

from segtune.runs import pickles
from segtune.runs.files import open_regular

ENTRY = re.compile(  # entries written by torch.save: the pickle, one entry for each storage, and small entries on the format
    r"([^/\x00]+)/(data\.pkl|byteorder|version|\.format_version|\.storage_alignment|\.data/serialization_id|data/\d+)", re.ASCII
)
START = b"PK\x03\x04"
# The records at the end of the file. torch.save writes all three, zipfile only the last one (END). END_64 and END contain the
# size and the start of the directory; LOCATOR contains the position of END_64.
END_64, LOCATOR, END = struct.Struct("<4s36xQQ"), struct.Struct("<4s4xQI"), struct.Struct("<4s8xIIH")
LARGEST_DIRECTORY = 2**23  # bytes; an entry needs about 70
LARGEST_PICKLE = 2**22  # bytes; a checkpoint needs about 150 for each tensor


def checked(path: Path) -> io.BytesIO:
    """Check a checkpoint and return it as a new archive in memory, for torch.load(..., weights_only=True).

    A valid file is an uncompressed archive in the format of torch.save. Its pickle contains only plain values and
    tensors that lie within their storages.

    Raises: ValueError for any other file. A truncated file can also raise zipfile.BadZipFile, struct.error and other
        errors.
    """
    with open_regular(path) as file:
        size = _check_ends(file)
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _check_entries(entries, size)
            storages = {entry.filename.rpartition("/")[2]: entry.file_size for entry in entries if "/data/" in entry.filename}
            (pickle,) = (entry for entry in entries if entry.filename.endswith("/data.pkl"))
            if pickle.file_size > LARGEST_PICKLE:
                raise ValueError(f"data.pkl has {pickle.file_size} bytes, more than {LARGEST_PICKLE}")
            pickles.check(archive.read(pickle), storages)
            copy = io.BytesIO()
            with zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as new:
                for entry in entries:
                    new.writestr(entry.filename, archive.read(entry))
    copy.seek(0)
    return copy


def _check_ends(file: BinaryIO) -> int:
    """Return the file's size in bytes. Raises: ValueError if bytes precede or follow the zip archive."""
    size = file.seek(0, io.SEEK_END)
    n_last = min(size, END_64.size + LOCATOR.size + END.size)
    file.seek(size - n_last)
    last = file.read()
    file.seek(0)
    if n_last < END.size or file.read(len(START)) != START:
        raise ValueError("the file does not begin like a zip archive")
    signature, directory, start, comment = END.unpack(last[-END.size :])
    end = size - END.size
    if signature != b"PK\x05\x06" or comment:
        raise ValueError("the file does not end like a zip archive")
    if last[-END.size - LOCATOR.size :].startswith(b"PK\x06\x07"):
        end -= LOCATOR.size + END_64.size
        _, record, _ = LOCATOR.unpack(last[-END.size - LOCATOR.size : -END.size])
        signature, directory, start = END_64.unpack(last[: END_64.size])
        if signature != b"PK\x06\x06" or record != end:
            raise ValueError("the archive's records contradict each other")
    if directory > LARGEST_DIRECTORY or start + directory != end:
        raise ValueError("the archive's directory is not at its end")
    return size


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    """Check that the entries are those of one checkpoint, each present once and uncompressed. Raises: ValueError."""
    found = [ENTRY.fullmatch(entry.filename) for entry in entries]
    folders, names = {match and match[1] for match in found}, [match and match[2] for match in found]
    if None in names or len(folders) != 1 or len(set(names)) < len(names) or "data.pkl" not in names:
        raise ValueError("the entries of the archive are not those of a checkpoint")
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size for entry in entries):
        raise ValueError("an entry of the archive is compressed")
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError("the entries of the archive are larger than the file")
