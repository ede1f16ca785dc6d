"""Give memory back once a model or a session is done with.

A graph is full of reference cycles, so its weights stay until the collector runs; and glibc keeps what a session freed
for later, hundreds of megabytes after a large model, unless it is asked to trim (malloc_trim(3)). A full collection
looks at every object of the process, which takes longer than quantizing a small model: it runs only where the process
has grown since the last one. For the same reason the interpreter's own collections, which millions of short-lived graph
objects would set off all the time, pause during a run.

glibc also gives threads heaps of their own, up to eight a core, each of which keeps what it freed: activations come and
go in all of them, and a process holds a third more than with a single heap (docs/calibration.md), which is no slower.
The setting, M_ARENA_MAX of mallopt(3), holds for the process, and for heaps that are not there yet.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["memory_managed", "release_memory"]

M_ARENA_MAX = -8  # malloc.h
WORTHWHILE = 16_000_000  # bytes the process must have grown by
STATM = Path("/proc/self/statm")


class _Baseline:
    """The least that the process has held since the last collection, as far as was seen, in bytes."""

    resident = 0


@contextlib.contextmanager
def memory_managed() -> Iterator[None]:
    """Let cycles be collected by `release_memory` alone, which does not look at what was there before.

    It has the last word, so that what follows, the writing of a result, finds what the run left behind gone.
    """
    _glibc("mallopt", M_ARENA_MAX, 1)
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
    now = _resident()
    _Baseline.resident = min(_Baseline.resident, now)
    if now and max(known, now - _Baseline.resident) < WORTHWHILE:
        return
    gc.collect()
    _glibc("malloc_trim", 0)
    _Baseline.resident = _resident()


def _glibc(function: str, *arguments: int) -> None:
    """Call a function of glibc; elsewhere there is none of its name."""
    called = getattr(ctypes.CDLL(None), function, None) if sys.platform == "linux" else None
    if called is not None:
        called(*arguments)


def _resident() -> int:
    """Return the bytes of memory the process holds, 0 where the system does not say."""
    if not STATM.exists():
        return 0
    return int(STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
