"""What rounding a network's weights costs, in multiplications: counted, so that a decision on it can be repeated."""

from __future__ import annotations

from collections.abc import Iterable

from equiquant.numerics.layers.lattice_search import width
from equiquant.refine.layers import Layer
from equiquant.refine.solve import positions

__all__ = ["rounding_cost"]


def rounding_cost(layers: Iterable[Layer]) -> float:
    """Return the multiplications that rounding the layers takes, besides running the network.

    For K inputs, M outputs and P positions: P·K² moments, 2·P·K·M drift, K³ to factorize and invert, M·K² to regress
    and, for every candidate, to round.
    """
    total = 0.0
    for layer in layers:
        k, groups = layer.form.inputs, layer.form.groups
        m = layer.form.outputs // groups
        if layer.roundable:
            rounding = (1 + width(groups, m, k)) * m * k**2
            total += groups * (positions(k) * k * (k + 2 * m) + k**3 + rounding)
    return total
