"""Leave the nodes that join a network's results float where one scale for all of them would lose one.

A detector that returns boxes in pixels and scores in one tensor is the usual case: with 8 bits for 0 to 640 every score
rounds to 0. Nothing computes with the joined tensor, so it costs no accuracy to join in float what was quantized apart.
Another is the mask of an agent, -10000 added to the logit of every move that is not legal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from equiquant import target
from equiquant.calibrate import SampleView
from equiquant.calibrate.data.feeds import told_runs
from equiquant.decisions import Decision
from equiquant.graph.query import origin, values_by_name
from equiquant.io import Runner
from equiquant.numerics.affine import fake_quantize, params_from_range
from equiquant.numerics.statistics.histogram import DyadicHistogram
from equiquant.numerics.statistics.masks import masked
from equiquant.numerics.statistics.sqnr import decibels
from equiquant.pipeline.network.proving import proof_feeds
from equiquant.pipeline.state import RunState
from equiquant.recipe import Recipe

__all__ = ["join_in_float"]

LOST_DB = 20.0  # where less is left of an input, it is lost


def join_in_float(state: RunState, model: ir.Model) -> None:
    """Add the Concats and masks that would lose one of their inputs to the nodes the recipe excludes, and say so.

    Args:
        state: The run; its recipe is replaced.
        model: The model that will be quantized; only read.

    Raises:
        ModelError: Nothing can be quantized.
    """
    joins = target.final_joins(model, target.survey(model, state.recipe))
    names = sorted({name for join in joins for name in join.inputs})
    if not names:
        return
    values = (_recalled(state, model, names) if state.stream.synthetic else {}) or _measured(state, model, names)
    apart: dict[ir.Node, str] = {}
    for join in joins:
        parts = {name: values[name] for name in join.inputs if values[name].total}
        if not parts or (
            join.node.op_type == "Add" and all(masked(p.occupied()[0], p.low) is None for p in parts.values())
        ):
            continue
        name, left = _worst(parts, join.position, state.recipe)
        if left < LOST_DB:
            apart[join.node] = why = (
                f"its inputs cannot share a scale: {left:.1f} dB of '{name}' would be left; nothing computes with the"
                " result, so they are joined in float"
            )
            state.decisions.append(Decision("target", "join_in_float", join.node.name or "", True, why))
        elif any(origin(value, target.moves_data) in apart for value in join.node.inputs):
            apart[join.node] = "one of its inputs is joined in float"
    state.joined = {node.name or "": why for node, why in apart.items()}
    state.recipe = state.recipe.replace(nodes_to_exclude=(*state.recipe.nodes_to_exclude, *state.joined))


def _recalled(state: RunState, model: ir.Model, names: Sequence[str]) -> dict[str, DyadicHistogram]:
    """Return how the tensors are distributed by the statistics of a file; nothing where it does not tell of all.

    Of a tensor that was only moved it tells what was moved. Results have no class: equalization left them as they are.
    """
    stats, found = state.recalled, dict[str, DyadicHistogram]()
    if stats is None:
        return found
    values = values_by_name(model)
    for name in names:
        value = values.get(name)
        while value is not None and value.name not in stats.tensors:
            node = value.producer()
            value = node.inputs[0] if node is not None and target.moves_data(node) else None
        counts = None if value is None else stats.histogram(value.name or "")
        if counts is None:
            return {}
        found[name] = counts
    return found


def _measured(state: RunState, model: ir.Model, names: Sequence[str]) -> dict[str, DyadicHistogram]:
    """Return how the tensors are distributed on the first samples."""
    runner = Runner(model, names)
    results = list(told_runs(runner.run, SampleView(state.stream, 0, proof_feeds(model))))
    return {name: DyadicHistogram.merged(DyadicHistogram.of(r[i]) for r in results) for i, name in enumerate(names)}


def _worst(parts: Mapping[str, DyadicHistogram], position: int | None, recipe: Recipe) -> tuple[str, float]:
    """Return the input that suffers most from a scale for all, and its signal-to-noise ratio under it in dB.

    Args:
        parts: How every input is distributed, by name.
        position: The shared scale is 2**−position at most; None for no limit.
        recipe: How they will be quantized.
    """
    goal = target.target_of(recipe)
    low, high = min(part.low for part in parts.values()), max(part.high for part in parts.values())
    if position is not None:
        reach = (goal.activation.qmax - goal.activation.center) * 2.0**-position
        low, high = max(low, -reach), min(high, reach)
    params = params_from_range(low, high, goal.activation, symmetric=goal.activation_symmetric)
    left = {}
    for name, part in parts.items():
        x, counts = part.occupied()
        error = x - fake_quantize(x.astype(np.float32), params)
        left[name] = decibels(float(counts @ np.square(x)), float(counts @ np.square(error)))
    worst = min(left, key=lambda name: left[name])
    return worst, left[worst]
