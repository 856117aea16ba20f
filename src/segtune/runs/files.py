"""Write files atomically, without overwriting another process's work, and read files of limited size."""

import errno
import fcntl
import hashlib
import io
import json
import math
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from segtune.errors import InputError
from segtune.runs import layout

DAY_S = 86_400.0  # age at which a temporary file counts as abandoned where locks do not work [s]
LARGEST_JSON = 2**26  # largest size of a JSON file [bytes]


def open_regular(path: Path, mode: str = "rb") -> BinaryIO:
    """Open a regular file in the folder of a run or a sweep, which may come from an untrusted source.

    Links, pipes and devices are refused, because a link could lead to any of the user's files, and reading a pipe or device may
    never end.

    Args: mode: "rb" to read the file, or "ab" to append to it. With "ab", a missing file is created.
    Raises: OSError.
    """
    flags = os.O_RDONLY if mode == "rb" else os.O_WRONLY | os.O_APPEND | os.O_CREAT
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return cast(BinaryIO, os.fdopen(descriptor, mode))


def make_folder(path: Path) -> Path:
    """Create a folder inside the folder of a run or a sweep, unless it exists.

    Raises: InputError if the path is a link.
    """
    if path.is_symlink():
        raise InputError(f"{path}: this is a link, and segtune does not write through links. Remove it.")
    path.mkdir(exist_ok=True)  # without parents, so that a removed run's folder is not created again
    return path


def sha256(path: Path) -> str:
    """Compute the SHA-256 of a file's content, as hexadecimal digits. Raises: OSError."""
    with open_regular(path) as file:
        return hashlib.file_digest(cast(io.BufferedReader, file), "sha256").hexdigest()


# absolute folder -> a function that raises if this process may no longer write there
guards: dict[str, Callable[[], None]] = {}


def check_owner(path: Path) -> None:
    """Raise LostError if the file is in the folder of a run that this process started but no longer owns.

    The ownership is only checked while a block of state.working is active.
    """
    for folder in path.parent.resolve(), path.parent.resolve().parent:
        if (guard := guards.get(str(folder))) is not None:
            guard()


def as_list(value: Any) -> list[Any]:
    """Return the value if it is a list, otherwise an empty list."""
    return value if isinstance(value, list) else []


def write_atomically(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Write a file atomically: it is either complete or unchanged. Args: durable: wait until it is on the disk."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)
        if durable:
            sync(temporary)
    if durable:
        sync(path.parent)


def write_files(stem: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Write several files with the same stem, such as a figure as .svg and .png, and create their folder if necessary.

    Args: contents: suffix -> content.
    """
    check_owner(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(stem.name + suffix) for suffix in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        write_atomically(path, content)
    return paths


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of entries, is on the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the file's name to an OSError that the block raises.

    Without this, errors from write(), such as a full disk, would not contain the name of the file.
    """
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file in the folder of `path`.

    If the block succeeds, the temporary file replaces `path`. Otherwise, it is removed.

    Raises: LostError if `path` is in the folder of a run that another process has taken over.
    """
    check_owner(path)
    with _partial(path, is_folder=False) as temporary:
        with naming(path):
            yield temporary
        temporary.chmod(0o644)
        check_owner(path)
        temporary.replace(path)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder, which is renamed to `path` if the block succeeds and is removed otherwise.

    Raises: InputError, before or after the block, if `path` exists and is not an empty folder.
    """
    _refuse_existing(path)
    where = path.resolve()
    where.parent.mkdir(parents=True, exist_ok=True)
    with _partial(where, is_folder=True) as temporary:
        with naming(path):
            yield temporary
        temporary.chmod(0o755)
        _refuse_existing(path)
        temporary.replace(where)


@contextmanager
def _partial(path: Path, *, is_folder: bool) -> Iterator[Path]:
    """Yield a new, locked, temporary file or folder in the folder of `path`, and remove it at the end if it still exists.

    Temporary files of dead processes are removed first.
    """
    for stale in path.parent.glob(f".*{layout.PARTIAL}"):
        remove_if_stale(stale)
    start = path.name.encode()[:100].decode(errors="ignore")  # file systems limit the length in bytes
    while True:
        if is_folder:
            temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{start}.", suffix=layout.PARTIAL))
            handle = os.open(temporary, os.O_RDONLY)
        else:
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{start}.", suffix=layout.PARTIAL)
            temporary = Path(name)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        if temporary.exists():  # no other process removed it before it was locked
            break
        os.close(handle)
    try:
        yield temporary
    finally:
        _remove(temporary)
        os.close(handle)


def remove_if_stale(path: Path) -> None:
    """Remove a temporary file or folder if the process that created it has died.

    The process has died if the lock of the file is free. On a file system without locks, the process counts as dead if
    the file is a day old.
    """
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(path)
        except BlockingIOError:
            pass  # the process that writes it is alive
        except OSError:
            if time.time() - os.fstat(handle).st_mtime > DAY_S:
                _remove(path)
        finally:
            os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _refuse_existing(path: Path) -> None:
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"output={path}: this path already exists. Name a new folder, or remove this one.")


def to_json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def json_text(value: Any) -> bytes:
    """Encode a value as JSON, with NaN and infinity as null."""
    return to_json(_without_nan(value))


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def first_free(folder: Path, stem: str, suffix: str = "") -> Path:
    """Return the first path in the series stem-1, stem-2, ... that does not exist in the folder yet."""
    number = 1
    while (folder / f"{stem}-{number}{suffix}").exists():
        number += 1
    return folder / f"{stem}-{number}{suffix}"


def read_bytes(path: Path, most: int) -> bytes:
    """Read a file in the folder of a run or a sweep. Raises: OSError; ValueError if it is larger than `most` bytes."""
    with open_regular(path) as file:
        content = file.read(min(most, os.fstat(file.fileno()).st_size) + 1)  # read(n) reserves n bytes
    if len(content) > most:
        raise ValueError(f"larger than {most >> 20} MB")
    return content


def read_json(path: Path, cure: str) -> dict[str, Any]:
    try:
        return parse_json(read_bytes(path, LARGEST_JSON))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). {cure}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({error}). {cure}") from error


def parse_json(content: bytes) -> dict[str, Any]:
    found = json.loads(content)
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found
