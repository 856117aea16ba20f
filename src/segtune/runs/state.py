"""Who works on a run and what became of it: status.json, the lock, the heartbeat."""

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
from typing import Any

from segtune.errors import InputError, printable
from segtune.runs import layout
from segtune.runs.files import (
    LARGEST_JSON,
    as_list,
    guards,
    open_regular,
    read_bytes,
    remove_if_stale,
    to_json,
    write_atomically,
)
from segtune.runs.result import is_done, read_result

BEAT_S = 10.0  # how often a working process touches status.json
STALE_S = 60.0  # after how long without a touch it is taken for dead, where its lock cannot be seen
STATES = ("queued", "running", "completed", "failed", "interrupted")  # that status.json may say
KINDS = {  # of what status.json may say; a value of another kind is as if it were not there
    **dict.fromkeys(("state", "since", "host", "job", "signal", "run_id", "attempt"), str),
    **{"pid": int, "overrides": list, "config": dict, "error": dict},
}


# Who works on a run, and what became of it


class BusyError(InputError):
    """Another process works on this run."""


class LostError(InputError):
    """This process does not own the run's folder any more, and must not write into it."""


@contextmanager
def lock(folder: Path, *, waiting: Callable[[BusyError], None] | None = None) -> Iterator[None]:
    """The sole right to write into a run's (or sweep's) folder. The kernel takes it from a process that dies.

    Args: waiting: called once if another process has it, which is then waited for. None: raise at once.

    Raises: BusyError, which names the other process.
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
        yield  # closing the file gives the lock back


def _occupied(folder: Path, file: int, kind: int) -> BusyError | None:
    """Take the lock, or say who has it. Some network file systems keep a lock to one machine: there the heartbeat counts."""
    status = read_status(folder) or {}
    host = printable(status.get("host", "another machine"))
    busy = BusyError(f"{folder}: process {status.get('pid', '?')} on {host} works on it.")
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return busy
    except OSError:  # a file system without locks
        return busy if _beats(folder, status) else None
    return busy if status.get("host") != socket.gethostname() and _beats(folder, status) else None


def _beats(folder: Path, status: Mapping[str, Any]) -> bool:
    """Whether its status was touched a moment ago; a time in the future, which a copied folder may have, is no such moment."""
    try:
        return status.get("state") == "running" and abs(time.time() - (folder / layout.STATUS).stat().st_mtime) < STALE_S
    except OSError:
        return False


def write_status(folder: Path, state: str, **about: Any) -> None:
    """status.json: the state, since when, and what else is known of this attempt."""
    status = {"state": state, "since": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **about}
    write_atomically(folder / layout.STATUS, to_json(status))


def write_queued(folder: Path, *, if_queued: bool = False, **about: Any) -> None:
    """Say that a run waits its turn, unless somebody works on it. if_queued: only where it already says so."""
    try:
        with lock(folder):
            if not if_queued or (read_status(folder) or {}).get("state") == "queued":
                write_status(folder, "queued", **{"host": socket.gethostname(), "pid": os.getpid(), **about})
    except (BusyError, OSError):
        pass  # it is running; or nothing can be written there, which the run itself will say


def read_status(folder: Path) -> dict[str, Any] | None:
    """status.json, or None where there is none that can be read: what it says can be found out without it.

    What is not of its kind (KINDS) is left out.
    """
    try:
        status = json.loads(read_bytes(folder / layout.STATUS, LARGEST_JSON))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(status, dict):
        return None
    if isinstance(error := status.get("error"), dict):
        texts = {key: value for key, value in error.items() if isinstance(value, str)}
        status["error"] = {"kind": "error", "message": "no message", "traceback": "", **texts}
    if not all(isinstance(one, str) for one in as_list(status.get("overrides"))):
        del status["overrides"]
    return {key: value for key, value in status.items() if isinstance(value, KINDS.get(key, object))}


@contextmanager
def working(folder: Path, **about: Any) -> Iterator[str]:
    """Say `running` in status.json and keep touching it, from a thread of its own, until the block ends.

    Within the block nothing is written into the folder once it is another process's (files.check_owner). Half-written files
    of a process that was killed here are removed; the lock must be held. Gives the attempt's name, for the status that ends it.
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
                continue  # a file system that is away for a moment; a longer absence shows as stale

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

    A process that was suspended may wake after another one took its run over, and a folder may have been removed: status.json
    then names another attempt, or is not there.
    """
    status = read_status(folder)
    if status is None or status.get("attempt") != attempt:
        why = "is gone" if status is None else "belongs to another process now"
        raise LostError(
            f"{folder}: this run's folder {why} (removed, or taken over while this process stood still), so nothing "
            "more is written here. Start its command again."
        )


def end_attempt(folder: Path, attempt: str, state: str, **about: Any) -> None:
    """An attempt's final status, unless the folder is gone or another process's by now."""
    if (read_status(folder) or {}).get("attempt") == attempt:
        write_status(folder, state, **about, attempt=attempt)


def state_of(folder: Path, run: str) -> tuple[str, dict[str, Any]]:
    """A run's state, and its status.json.

    completed (its result.json is there and whole), running (somebody works on it), stale (somebody did, and died),
    queued, failed, interrupted, or missing (never begun). The files decide, not what a dead process said of itself.
    """
    status = read_status(folder) or {}
    if is_done(folder, run):
        return "completed", status
    said = status.get("state")
    if said not in STATES:
        return "missing", status
    if said == "completed":  # its result has been damaged or removed since
        return "interrupted", status
    if (
        said == "queued"
        and "job" not in status
        and status.get("host") == socket.gethostname()
        and not _lives(status.get("pid", 0))
    ):
        begun = (folder / layout.CHECKPOINTS / layout.LAST).exists()  # whoever was to start it is gone
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
    """Raises: InputError if the folder holds another run than this one: it is never written into."""
    found = {(read_status(folder) or {}).get("run_id")}
    with suppress(InputError):  # no result, or a damaged one
        found.add(read_result(folder).get("run_id"))
    for other in found - {None, run}:
        raise InputError(
            f"{folder} holds run {other}, another configuration than this one ({run}). Name an empty folder, or leave "
            "hydra.run.dir out of the command."
        )


def _lives(pid: int) -> bool:
    if pid <= 0:  # which would be a group of processes
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # somebody else's
    return True


def epochs_done(folder: Path) -> int:
    """The number of epochs in history.csv."""
    try:
        return max(read_bytes(folder / layout.HISTORY, LARGEST_JSON).count(b"\n") - 1, 0)
    except (OSError, ValueError):
        return 0
