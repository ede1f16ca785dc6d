"""Biases that layers get after all scales are chosen, where biases are corrected: they too keep within the limits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from equiquant.graph.query import nodes_by_name
from equiquant.numerics.affine import QuantParams
from equiquant.numerics.positions import FARTHEST
from equiquant.target.choosing.limits import Roles, Tensor
from equiquant.target.plan import QuantPlan
from equiquant.target.table.hardware import Shift

__all__ = ["LateBiases"]


class LateBiases:
    """The limits of a target on one plan, read once for all biases that are fitted to them.

    Args:
        model: The model; only read.
        plan: The plan; of a bias that is to be fitted the position alone may differ.
        shifts: The limits.
    """

    def __init__(self, model: ir.Model, plan: QuantPlan, shifts: Sequence[Shift]) -> None:
        self._shifts = shifts
        if not shifts:
            return
        activations = {name: Tensor(name, p, lambda _: 0.0) for name, p in plan.activations.items()}
        constants = {key: Tensor(key[0], p, lambda _: 0.0) for key, p in plan.constants.items()}
        tensors = [*activations.values(), *constants.values()]
        numbers = {tensor: index for index, tensor in enumerate(tensors)}
        self._variables = {key: numbers[tensor] for key, tensor in constants.items()}
        self._positions = np.array([tensor.position for tensor in tensors])
        self._roles = Roles(model, frozenset(plan.nodes), activations, constants, numbers)
        self._nodes = nodes_by_name(model)

    def fit(self, place: tuple[str, int], params: QuantParams) -> QuantParams:
        """Return the parameters of a bias that a layer gets, at the nearest position the limits allow.

        Args:
            place: (node name, input index) of the bias.
            params: Its parameters, best for itself.
        """
        if not self._shifts:
            return params
        variable, bias = self._variables[place], Tensor("bias", params, lambda _: 0.0)
        sites = self._roles.sites(self._nodes[place[0]], self._shifts)
        limits = [site.limit for site in sites if variable in site.limit.variables()]
        start = bias.position
        for step in sorted(range(-FARTHEST, FARTHEST + 1), key=lambda s: (abs(s), s)):
            self._positions[variable] = start + step
            if all(limit.holds(self._positions) for limit in limits):
                bias.move(start + step)
                break
        self._positions[variable] = bias.position
        return bias.params
