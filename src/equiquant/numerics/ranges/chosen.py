"""Ranges that a solver chose together with the scales, as the quantizer takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = ["ChosenRanges"]


@dataclass(frozen=True, eq=False)
class ChosenRanges:
    """Ranges chosen together with the scales.

    Attributes:
        ends: Ends of each range per side of 0, by (kind, name), in the units of the scaled tensor.
        costs: Noise of each tensor with steps 2^e around the chosen one, by (kind, name) and e; empty where steps are
            no powers of two.
        gains: Noise gain at the network's output of each channel of a bias, by (kind, name), in the same units.
    """

    ends: Mapping[tuple[str, str], tuple[float, ...]]
    costs: Mapping[tuple[str, str], Mapping[int, float]] = field(default_factory=dict)
    gains: Mapping[tuple[str, str], tuple[float, ...]] = field(default_factory=dict)

    def without(self, drop: Callable[[tuple[str, str]], bool]) -> ChosenRanges:
        """Return the ranges whose (kind, name) is not to be dropped, with their costs and gains."""
        ends = {key: end for key, end in self.ends.items() if not drop(key)}
        costs = {key: cost for key, cost in self.costs.items() if not drop(key)}
        return ChosenRanges(ends, costs, {key: gain for key, gain in self.gains.items() if not drop(key)})
