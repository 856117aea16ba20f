"""Settings of the process: memory allocation, threads and signals. This module does not import torch."""

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
    """Apply settings that make the process faster and change no result. Call this before torch is imported.

    GOMP_SPINCOUNT is set (unless the user has set it) to limit busy waiting, because busy waiting makes processes that
    share cores three times slower.
    glibc is set to keep freed memory, unless SEGTUNE_MALLOC=default. Otherwise the kernel would have to zero memory pages again
    for every new tensor. LOG.md has measurements.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    if platform.libc_ver()[0] == "glibc" and os.environ.get("SEGTUNE_MALLOC") != "default":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise the exception Interrupted on Ctrl-C, SIGTERM and SIGUSR2 while the `with` block runs.

    Clusters send SIGUSR2 as a warning before the time limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread receives signals
        return

    def stop(number: int, frame: Any) -> None:
        for one in before:
            signal.signal(one, lambda number, frame: None)  # a second signal must not prevent writing the final status
        raise Interrupted(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
