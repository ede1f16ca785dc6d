"""A bias that a layer gets after all scales are chosen, where biases are corrected: it too keeps within the limits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from equiquant.numerics.affine import QuantParams
from equiquant.numerics.positions import FARTHEST
from equiquant.target.hardware import Shift
from equiquant.target.limits import Roles, Tensor
from equiquant.target.plan import QuantPlan

__all__ = ["fit_bias"]


def fit_bias(
    model: ir.Model, plan: QuantPlan, shifts: Sequence[Shift], place: tuple[str, int], params: QuantParams
) -> QuantParams:
    """Return the parameters of a bias that a layer gets later, at the nearest position the limits allow.

    Args:
        model: The model; only read.
        plan: The plan for everything else.
        shifts: The limits.
        place: (node name, input index) of the bias.
        params: Its parameters, best for itself.
    """
    if not shifts:
        return params
    bias = Tensor("bias", params, lambda _: 0.0)
    activations = {name: Tensor(name, p, lambda _: 0.0) for name, p in plan.activations.items()}
    constants = {key: Tensor(key[0], p, lambda _: 0.0) for key, p in plan.constants.items()} | {place: bias}
    numbers = {tensor: index for index, tensor in enumerate([*activations.values(), *constants.values()])}
    graph = Roles(model, frozenset(plan.nodes), activations, constants, numbers)
    node = next(node for node in model.graph if node.name == place[0])
    limits = [s.limit for s in graph.sites(node, shifts) if numbers[bias] in s.limit.variables()]
    positions = np.array([tensor.position for tensor in numbers])
    start = bias.position
    for step in sorted(range(-FARTHEST, FARTHEST + 1), key=lambda s: (abs(s), s)):
        positions[numbers[bias]] = start + step
        if all(limit.holds(positions) for limit in limits):
            bias.move(start + step)
            break
    return bias.params
