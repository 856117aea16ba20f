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
    """What has to be set before torch is imported and allocates; LOG.md has the measurements. Changes no number.

    Threads that spin long while they wait make processes on the same cores slow each other down threefold:
    GOMP_SPINCOUNT, unless the user has set it. glibc gives each freed tensor back to the kernel, which then has to zero
    the pages of the next one: it is told to keep them, unless SEGTUNE_MALLOC=default.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    if platform.libc_ver()[0] == "glibc" and os.environ.get("SEGTUNE_MALLOC") != "default":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGUSR2 (a cluster's word that time is nearly up) end the block as Interrupted."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals go to the main thread alone
        return

    def stop(number: int, frame: Any) -> None:
        for one in before:
            signal.signal(one, lambda number, frame: None)  # a second signal does not cut the last words short
        raise Interrupted(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
