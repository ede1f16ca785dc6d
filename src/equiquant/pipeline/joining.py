"""Leave the Concats that join a network's results float where one scale for all of them would lose one.

A detector that returns boxes in pixels and scores in one tensor is the usual case: with 8 bits for 0 to 640 every score
rounds to 0. Nothing computes with the joined tensor, so it costs no accuracy to join in float what was quantized apart.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant import target
from equiquant.decisions import Decision
from equiquant.io import Runner
from equiquant.numerics.affine import fake_quantize, params_from_range
from equiquant.pipeline.equalizing import proof_feeds
from equiquant.pipeline.state import RunState
from equiquant.recipe import Recipe

__all__ = ["join_in_float"]

LOST = 0.01  # of the power of a tensor is noise: 20 dB are left


def join_in_float(state: RunState, model: ir.Model) -> None:
    """Add the Concats that would lose one of their inputs to the nodes the recipe excludes, and say so.

    Args:
        state: The run; its recipe is replaced.
        model: The model that will be quantized; only read.

    Raises:
        ModelError: Nothing can be quantized.
    """
    concats = target.final_concats(model, target.survey(model, state.recipe))
    names = sorted({name for concat in concats for name in concat.inputs})
    if not names:
        return
    runner = Runner(model, names)
    results = [runner.run(feed) for feed in state.stream.first(proof_feeds(model))]
    values = {name: np.concatenate([r[i].ravel() for r in results]) for i, name in enumerate(names)}
    apart: list[ir.Node] = []
    for concat in concats:
        name, share = _worst({name: values[name] for name in concat.inputs}, concat.position, state.recipe)
        lost = share > LOST
        if lost:
            why = (
                f"its inputs cannot share a scale: {share:.0%} of '{name}' would be noise; nothing computes with the"
                " result, so they are joined in float"
            )
            state.decisions.append(Decision("target", "join_in_float", concat.node.name or "", True, why))
        if lost or any(_origin(value) in apart for value in concat.node.inputs):
            apart.append(concat.node)
    excluded = (*state.recipe.nodes_to_exclude, *(node.name or "" for node in apart))
    state.recipe = state.recipe.replace(nodes_to_exclude=excluded)


def _worst(parts: Mapping[str, npt.NDArray[np.float32]], position: int | None, recipe: Recipe) -> tuple[str, float]:
    """Return the input that suffers most from a scale for all, and the share of noise in it.

    Args:
        parts: The values of every input, by name.
        position: The shared scale is 2**−position at most; None for no limit.
        recipe: How they will be quantized.
    """
    goal = target.target_of(recipe)
    low, high = min(float(x.min()) for x in parts.values()), max(float(x.max()) for x in parts.values())
    if position is not None:
        reach = (goal.activation.qmax - goal.activation.center) * 2.0**-position
        low, high = max(low, -reach), min(high, reach)
    params = params_from_range(low, high, goal.activation, symmetric=goal.activation_symmetric)
    shares = {}
    for name, x in parts.items():
        power = float(np.square(x, dtype=np.float64).sum())
        noise = float(np.square(fake_quantize(x, params) - x, dtype=np.float64).sum())
        shares[name] = noise / power if power > 0 else 0.0
    worst = max(shares, key=lambda name: shares[name])
    return worst, shares[worst]


def _origin(value: ir.Value | None) -> ir.Node | None:
    """Return the node that computed what ops that move data handed on as this value."""
    node = None if value is None else value.producer()
    while node is not None and target.moves_data(node) and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node
