"""Give memory back once a model or a session is done with.

A graph is full of reference cycles, so its weights stay until the collector runs; and glibc keeps what a session freed
for later, hundreds of megabytes after a large model, unless it is asked to trim (malloc_trim(3)).
"""

from __future__ import annotations

import ctypes
import gc
import sys

__all__ = ["release_memory"]


def release_memory() -> None:
    """Collect cycles, and on Linux with glibc hand freed memory back to the system."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
