"""Which samples scales are chosen on and weights fitted to, and which are held back: by turns, whatever their order."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["alternate", "held_back"]

HELD_SHARE = 4  # one in so many is held back from the fit where weights are rounded


def alternate(known: int) -> tuple[range, range]:
    """Return the numbers of the feeds that scales are chosen on, and of those between, which they are measured on."""
    return range(0, known, 2), range(1, known, 2)


def held_back(known: int) -> Sequence[int]:
    """Return the numbers of the feeds that nothing is fitted to, of those between; of a single feed it."""
    return range(HELD_SHARE - 1, known, HELD_SHARE) or alternate(known)[1][-1:] or range(known)
