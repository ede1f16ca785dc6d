"""The topologies equalization is proven on, one small model each."""

from tests.equalization.corpus import (
    blocks,
    constants,
    elementwise,
    linear,
    movement,
    refused,
    reshaping,
    residual,
    sharing,
    types,
)
from tests.equalization.support import Case

CASES: list[Case] = [
    case
    for module in (linear, constants, elementwise, residual, movement, reshaping, sharing, blocks, types, refused)
    for case in module.CASES
]


def named(name: str) -> Case:
    """Return the one topology of that name."""
    (found,) = [case for case in CASES if case.name == name]
    return found


__all__ = ["CASES", "named"]
