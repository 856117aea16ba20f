"""Manage the state of a run (status.json) and the ownership of its folder (lock and heartbeat)."""

import fcntl
import functools
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from segtune.errors import InputError, printable
from segtune.runs import layout, schema
from segtune.runs.files import (
    LARGEST_JSON,
    guards,
    open_regular,
    read_bytes,
    remove_if_stale,
    to_json,
    write_atomically,
)
from segtune.runs.result import is_done, read_result
from segtune.runs.schema import Status

BEAT_S = 10.0  # interval at which a working process touches status.json
STALE_S = 60.0  # if its lock cannot be tested, a process counts as dead after this long without a touch
STATES = ("queued", "running", "completed", "failed", "interrupted")  # possible values of `state` in status.json


class BusyError(InputError):
    """Another process is working on this run."""


class LostError(InputError):
    """This process no longer owns the run's folder and must not write into it."""


@contextmanager
def lock(folder: Path, *, waiting: Callable[[BusyError], None] | None = None) -> Iterator[None]:
    """Hold the exclusive lock on a run's or a sweep's folder. The kernel releases it if the process dies.

    Args: waiting: a function that is called once if another process holds the lock, before this process waits for the
        lock. If it is None, BusyError is raised instead.

    Raises: BusyError if another process holds the lock; OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open_regular(folder / layout.LOCK, "ab") as file:
        while (busy := _occupied(folder, file.fileno(), fcntl.LOCK_EX)) is not None:
            if waiting is None:
                raise busy
            waiting(busy)
            while _occupied(folder, file.fileno(), fcntl.LOCK_EX) is not None:
                time.sleep(0.5)
            break
        yield  # closing the file releases the lock


def _occupied(folder: Path, file: int, kind: int) -> BusyError | None:
    """Try to take the lock. If another process owns the folder, return an error that names this process.

    If the owner is on a machine that does not share locks with this one, the heartbeat shows whether the owner is
    alive.

    Args: file: the descriptor of the lock file. kind: fcntl.LOCK_EX or fcntl.LOCK_SH.
    """
    status = read_status(folder) or {}
    host = printable(status.get("host", "another machine"))
    busy = BusyError(f"{folder}: process {status.get('pid', '?')} on {host} is working in this folder.")
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return busy
    except OSError:  # a file system without locks
        return busy if _beats(folder, status) else None
    return busy if status.get("host") != socket.gethostname() and _beats(folder, status) else None


def _beats(folder: Path, status: Mapping[str, Any]) -> bool:
    """Return whether a running process touched status.json within the last STALE_S. Times far in the future do not count."""
    try:
        return status.get("state") == "running" and abs(time.time() - (folder / layout.STATUS).stat().st_mtime) < STALE_S
    except OSError:
        return False


def write_status(folder: Path, state: str, **about: Any) -> None:
    """Write status.json: the state, the current time, and the entries `about`."""
    status = {"schema": schema.VERSION, "state": state, "since": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **about}
    write_atomically(folder / layout.STATUS, to_json(status))


def write_queued(folder: Path, *, if_queued: bool = False, **about: Any) -> None:
    """Mark a run as queued, unless a process is working on it. Args: if_queued: only update a run that is already queued."""
    try:
        with lock(folder):
            if not if_queued or (read_status(folder) or {}).get("state") == "queued":
                write_status(folder, "queued", **{"host": socket.gethostname(), "pid": os.getpid(), **about})
    except (BusyError, OSError):
        pass  # it is running, or the folder is not writable, which the run itself will report


def read_status(folder: Path) -> Status | None:
    """Read status.json and drop entries of a wrong type. Return None if the file cannot be read."""
    try:
        status = json.loads(read_bytes(folder / layout.STATUS, LARGEST_JSON))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(status, dict):
        return None
    if isinstance(error := status.get("error"), dict):
        texts = {key: value for key, value in error.items() if isinstance(value, str)}
        status["error"] = {"kind": "error", "message": "no message", "traceback": "", **texts}
    return cast(Status, schema.of_known_types(status, Status))


@contextmanager
def working(folder: Path, **about: Any) -> Iterator[str]:
    """Mark a run as running and touch status.json from a thread until the block ends. The caller must hold the lock.

    Within the block, files.check_owner raises an error as soon as another process owns the folder. Temporary files that a
    killed process left in the folder are removed.

    Yields: the id of this attempt, for end_attempt.
    """
    for path in [*folder.glob(f".*{layout.PARTIAL}"), *(folder / layout.CHECKPOINTS).glob(f".*{layout.PARTIAL}")]:
        remove_if_stale(path)
    attempt, place = secrets.token_hex(8), str(folder.resolve())
    about = {"host": socket.gethostname(), "pid": os.getpid(), **about, "attempt": attempt}
    write_status(folder, "running", **about)
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT_S):
            try:
                if (read_status(folder) or {}).get("attempt") == attempt:
                    os.utime(folder / layout.STATUS)
            except OSError:
                continue  # the file system may be unavailable for a moment; after a longer time the run shows as stale

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    guards[place] = functools.partial(_check_attempt, folder, attempt)
    try:
        yield attempt
    finally:
        guards.pop(place, None)
        over.set()
        thread.join()


def _check_attempt(folder: Path, attempt: str) -> None:
    """Raise LostError unless status.json still names this attempt.

    While this process was suspended, another process may have taken over its run, or the folder may have been removed.
    """
    status = read_status(folder)
    if status is None or status.get("attempt") != attempt:
        why = "is gone" if status is None else "belongs to another process now"
        raise LostError(
            f"{folder}: this run's folder {why} (it was removed, or taken over while this process was suspended), so "
            "this process stops writing to it. Start the run's command again."
        )


def end_attempt(folder: Path, attempt: str, state: str, **about: Any) -> None:
    """Write an attempt's final status, unless the folder was removed or another process owns it."""
    if (read_status(folder) or {}).get("attempt") == attempt:
        write_status(folder, state, **about, attempt=attempt)


def state_of(folder: Path, run: str) -> tuple[str, Status]:
    """Determine the state of a run and read its status.json.

    The state is `completed` (result.json exists and matches its files), `running`, `stale` (its process has died),
    `queued`, `failed`, `interrupted`, or `missing` (the run was never started). The state is derived from all files,
    because a process that died could not update status.json.

    Returns: the state, and the content of status.json.
    """
    status = read_status(folder) or {}
    if is_done(folder, run):
        return "completed", status
    said = status.get("state")
    if said not in STATES:
        return "missing", status
    if said == "completed":  # its result was damaged or removed later
        return "interrupted", status
    if (
        said == "queued"
        and "job" not in status
        and status.get("host") == socket.gethostname()
        and not _lives(status.get("pid", 0))
    ):
        begun = (folder / layout.CHECKPOINTS / layout.LAST).exists()  # the process that queued it has ended
        return "interrupted" if begun else "missing", status
    if said == "running":
        return ("running" if _alive(folder, status) else "stale"), status
    return said, status


def _alive(folder: Path, status: Mapping[str, Any]) -> bool:
    if status.get("host") != socket.gethostname():
        return _beats(folder, status)
    try:
        with open_regular(folder / layout.LOCK) as file:
            return _occupied(folder, file.fileno(), fcntl.LOCK_SH) is not None
    except OSError:
        return _beats(folder, status)


def refuse_another(folder: Path, run: str) -> None:
    """Raise InputError if the folder contains a different run, because that run must not be overwritten."""
    found = {(read_status(folder) or {}).get("run_id")}
    with suppress(InputError):  # result.json is missing or damaged
        found.add(read_result(folder).get("run_id"))
    for other in found - {None, run}:
        raise InputError(
            f"{folder} contains run {other}, whose configuration differs from that of this run ({run}). Name an empty "
            "folder, or leave hydra.run.dir out of the command."
        )


def _lives(pid: int) -> bool:
    if pid <= 0:  # os.kill takes 0 and negative numbers for groups of processes
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # the process exists but belongs to another user
    return True


def epochs_done(folder: Path) -> int:
    """Return the number of epochs in history.csv; 0 if it cannot be read."""
    try:
        return max(read_bytes(folder / layout.HISTORY, LARGEST_JSON).count(b"\n") - 1, 0)
    except (OSError, ValueError):
        return 0
