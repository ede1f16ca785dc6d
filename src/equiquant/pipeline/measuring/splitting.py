"""Which samples scales are chosen on and weights fitted to, and which are held back: of every four, two and one.

Samples come in turns too, an image and its mirror image, the cameras of a rig: which of a pair is fitted to, and which
of four held back, is drawn by lot, so that neither half goes without one of them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from equiquant.decisions import Decision

__all__ = ["NOTHING_HELD", "alternate", "held_back"]

NOTHING_HELD = Decision(
    "refine",
    "held_back",
    "whole network",
    False,
    "there is a single feed, so it is measured on what it was fitted to; give samples one at a time",
)

DRAW = 2254  # of the first 3000 the one in which turns of two to eight samples fall most evenly


def alternate(known: int) -> tuple[list[int], list[int]]:
    """Return the numbers of the feeds that scales are chosen on, and of the others, which they are measured on."""
    fitted = {n for n in range(known) if n % 2 == _drawn("pair", n // 2) or n ^ 1 >= known}
    return sorted(fitted), [n for n in range(known) if n not in fitted]


def held_back(known: int) -> Sequence[int]:
    """Return the numbers of the feeds that nothing is fitted to, of those others; of a single feed it."""
    others = alternate(known)[1]
    return [n for n in others if n // 2 % 2 == _drawn("four", n // 4)] or others[-1:] or range(known)


def _drawn(what: str, number: int) -> int:
    """Return 0 or 1, always the same for one of a kind."""
    return random.Random(f"{DRAW} {what} {number}").getrandbits(1)
