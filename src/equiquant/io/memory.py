"""Give memory back once a model or a session is done with.

A graph is full of reference cycles, so its weights stay until the collector runs; and glibc keeps what a session freed
for later, hundreds of megabytes after a large model, unless it is asked to trim (malloc_trim(3)). A full collection
looks at every object of the process, which takes longer than quantizing a small model: it runs only where the process
has grown since the last one. For the same reason the interpreter's own collections, which millions of short-lived graph
objects would set off all the time, pause during a run.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["collector_paused", "release_memory"]

WORTHWHILE = 32_000_000  # bytes the process must have grown by
STATM = Path("/proc/self/statm")


class _Baseline:
    """What the process held after the last collection, in bytes."""

    resident = 0


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Let cycles be collected by `release_memory` alone, which does not look at what was there before.

    It has the last word, so that what follows, the writing of a result, finds what the run left behind gone.
    """
    enabled, freezes = gc.isenabled(), gc.get_freeze_count() == 0
    gc.disable()
    if freezes:
        gc.freeze()
    try:
        yield
    finally:
        release_memory()
        if freezes:
            gc.unfreeze()
        if enabled:
            gc.enable()


def release_memory(known: int = 0) -> None:
    """Collect cycles if that is worth it, and on Linux with glibc hand freed memory back to the system.

    Args:
        known: Bytes of what was just let go, which may have been there at the last collection; 0 leaves it to how much
            the process has grown since.
    """
    grown = (now := _resident()) - _Baseline.resident
    if now and max(known, grown) < WORTHWHILE:
        return
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
    _Baseline.resident = _resident()


def _resident() -> int:
    """Return the bytes of memory the process holds, 0 where the system does not say."""
    if not STATM.exists():
        return 0
    return int(STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
