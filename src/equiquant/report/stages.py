"""Time and memory of every stage of a run.

Memory is the high-water mark of the process's resident set when the stage ends: it never falls, so the stage that
raised it is the one that needed it. The mark is read, never reset: whoever measures the process from outside sees the
truth.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["StageCost", "Stages", "peak_memory"]


@dataclass(frozen=True)
class StageCost:
    """What one stage took.

    Attributes:
        name: The stage.
        seconds: Wall-clock time.
        peak_bytes: Highest resident memory of the process up to the stage's end; None where the system has no such
            figure.
    """

    name: str
    seconds: float
    peak_bytes: int | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def peak_memory() -> int | None:
    """Return the process's highest resident memory so far in bytes, None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB elsewhere


class Stages:
    """Measures named stages, in order; entering a name again adds to it.

    >>> stages = Stages()
    >>> with stages("load"):
    ...     pass
    >>> [cost.name for cost in stages.costs]
    ['load']
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._peaks: dict[str, int | None] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure what runs inside the `with` block, also if it raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start
            self._peaks[name] = peak_memory()

    @property
    def costs(self) -> tuple[StageCost, ...]:
        """The stages so far, in the order they first ran."""
        return tuple(StageCost(name, seconds, self._peaks[name]) for name, seconds in self._seconds.items())
