"""Settings of the process: memory, threads and signals. Imports no torch."""

import contextlib
import ctypes
import os
import platform
import signal
import threading
from collections.abc import Iterator
from typing import Any

from segtune.errors import Interrupted

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def settle_process() -> None:
    """Settings that speed up the process and change no result; call it before torch is imported. LOG.md has measurements.

    GOMP_SPINCOUNT (unless set by the user) limits busy waiting, which slows down processes that share cores by a factor of
    three. glibc is told to keep freed memory (unless SEGTUNE_MALLOC=default), because returning it to the kernel makes the
    kernel zero the pages of every new tensor.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    if platform.libc_ver()[0] == "glibc" and os.environ.get("SEGTUNE_MALLOC") != "default":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Turn Ctrl-C, SIGTERM and SIGUSR2 (a cluster's warning before the time limit) into Interrupted within the block."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread receives signals
        return

    def stop(number: int, frame: Any) -> None:
        for one in before:
            signal.signal(one, lambda number, frame: None)  # a second signal does not interrupt the final status
        raise Interrupted(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
