"""Weights alone: store them in blocks, rounded for the inputs they meet where held-back samples measure better.

The second moments of the inputs come from the float network, in one pass. Without data weights are rounded to nearest.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant import qdq, target
from equiquant.calibrate import SampleView
from equiquant.calibrate.data.feeds import told_feeds
from equiquant.decisions import Decision
from equiquant.graph.query import attribute, constant, label, name_of, nodes_by_name, stored
from equiquant.io import Runner, release_memory
from equiquant.pipeline.measuring.judging import MOST_FITTED, MOST_HELD, Yardstick
from equiquant.pipeline.measuring.loud_samples import loud_samples
from equiquant.pipeline.measuring.splitting import NOTHING_HELD, held_back
from equiquant.pipeline.state import RunState
from equiquant.refine.layers import LARGEST
from equiquant.target import BlockPlan

__all__ = ["store_weights"]

Array = npt.NDArray[Any]

MOMENTS_BYTES = 4 << 30  # of all second moments together
CORNER = 8  # elements along each axis
NEAREST, OPTIMAL = "none", "rounding"


def store_weights(state: RunState, model: ir.Model) -> tuple[ir.Model, list[dict[str, Any]]]:
    """Return a copy of the model whose weights are stored in blocks, and the report's rows of them.

    Args:
        state: The run; gets the decisions and the report's section on refinement.
        model: The folded float model; not changed.
    """
    with state.stages("choose"):
        plan = target.plan_blocks(model, state.recipe)
    state.decisions += [Decision("target", "keep_float", node, False, why) for node, why in plan.kept_float.items()]
    with state.stages("insert"):
        nearest = model.clone()
        rows = qdq.insert_blocks(nearest, plan)
    state.decisions += _stored_twice(model, nearest, plan)
    if state.recipe.weight_rounding == "nearest":
        return nearest, rows
    if state.stream.synthetic:
        reason = "weights are rounded to nearest: rounding for the inputs they meet needs real samples"
        state.decisions.append(Decision("refine", "weight_rounding", "whole network", False, reason))
        return nearest, rows
    with state.stages("refine"):
        fitted, held = _split(state)
        apart = fitted.number(0) != held.number(0)
        if not apart:
            state.decisions.append(NOTHING_HELD)
        moments = _moments(state, model, plan, fitted)
        optimal = model.clone()
        rows = qdq.insert_blocks(optimal, plan, moments)
        done = len(moments)
        del moments
        release_memory()
        yardstick = Yardstick(model, held, weighed=True)
        measured = {NEAREST: yardstick.quantized_sqnr_db(nearest), OPTIMAL: yardstick.quantized_sqnr_db(optimal)}
    state.decisions += loud_samples("refine", yardstick)
    kept = OPTIMAL if measured[OPTIMAL] > measured[NEAREST] else NEAREST
    state.refinement = {
        "trials": [{"name": name, "sqnr_db": sqnr} for name, sqnr in measured.items()],
        "kept": kept,
        "layers": done,
        "refined": ["weights"],
        "inputs": "float",
        "fitted": len(fitted),
        "held": len(held),
        "apart": apart,
    }
    return (optimal if kept == OPTIMAL else nearest), rows


def _split(state: RunState) -> tuple[SampleView, SampleView]:
    """Return the feeds to fit to, and those held back; of a single one both."""
    known = state.stream.count_up_to(MOST_FITTED + MOST_HELD)
    held = held_back(known)[:MOST_HELD]
    fitted = [number for number in range(known) if number not in held] or held
    return SampleView.picked(state.stream, fitted), SampleView.picked(state.stream, held)


def _moments(state: RunState, model: ir.Model, plan: BlockPlan, samples: SampleView) -> dict[tuple[str, int], Array]:
    """Return E[x xᵀ] of the inputs of the weights in blocks, by the weight's name and the axis that is summed over."""
    nodes = nodes_by_name(model)
    readers: dict[tuple[str, int], list[ir.Node]] = {}
    used = 0
    for planned in plan.weights:
        node = nodes[planned.node]
        weight = node.inputs[planned.index]
        array = constant(weight)
        if planned.block is None or weight is None or array is None:
            continue
        size = array.shape[planned.axis]
        used += 8 * size**2
        if size > LARGEST or used > MOMENTS_BYTES:
            reason = f"rounded to nearest: the second moments of its {size} inputs would take too much memory"
            state.decisions.append(Decision("refine", "weight_rounding", planned.node, False, reason))
            used -= 8 * size**2
            continue
        readers.setdefault((weight.name or "", planned.axis), []).append(node)
    names = sorted({_input(node) for node in itertools.chain(*readers.values())})
    if not names:
        return {}
    runner = Runner(model, names, optimize=False)
    sums: dict[tuple[str, int], Array] = {}
    broken: dict[str, int] = {}
    for done, feed in enumerate(samples):
        state.progress("refine", done, len(samples))
        with told_feeds(samples.number(done)):
            values = dict(zip(names, runner.run(feed), strict=True))
        for key, found in readers.items():
            for node in found:
                vectors = _vectors(node, values)
                finite = np.isfinite(vectors).all(axis=1)
                broken[label(node)] = broken.get(label(node), 0) + int(np.count_nonzero(~finite))
                sums[key] = sums.get(key, 0.0) + vectors[finite].T @ vectors[finite]
    reason = "of the vectors it is multiplied with {} are not finite: it is not rounded for these"
    state.decisions += [
        Decision("refine", "weight_rounding", node, True, reason.format(count))
        for node, count in broken.items()
        if count
    ]
    return sums


def _input(node: ir.Node) -> str:
    return name_of(node.inputs[0])


def _vectors(node: ir.Node, values: Mapping[str, Array]) -> Array:
    """Return the vectors of one feed that a node's weight is multiplied with, (vectors, K)."""
    array = values[_input(node)]
    transposed = node.op_type == "Gemm" and attribute(node, "transA", 0)
    return (array.T if transposed else array.reshape(-1, array.shape[-1])).astype(np.float64)


def _stored_twice(float_model: ir.Model, model: ir.Model, plan: BlockPlan) -> list[Decision]:
    """Return the weights whose floats stay in the file, as they are or transposed, for one that reads no integers."""
    nodes = nodes_by_name(float_model)
    left = [(v, t) for graph in model.graphs() for v, t in stored(graph) if t.dtype.is_floating_point()]
    found = []
    for planned in plan.weights:
        array = constant(nodes[planned.node].inputs[planned.index])
        assert array is not None
        for value, tensor in left:
            if tensor.size != array.size or not _same(array, tensor.numpy()):
                continue
            readers = [f"'{label(node)}'" for node in value.consumers()] or ["a graph output"]
            reason = (
                f"its weight is stored in few bits, and in float as well for {' and '.join(readers)}: the file has both"
            )
            found.append(Decision("target", "stored_twice", planned.node, True, reason))
    return found


def _same(first: Array, second: Array) -> bool:
    """True if two arrays of one size hold the same numbers, one of them transposed or not.

    A corner of them tells others apart; what lies in files is not read for that.
    """
    corner = (slice(CORNER),) * first.ndim
    return any(
        first.shape == other.shape and np.array_equal(first[corner], other[corner]) and np.array_equal(first, other)
        for other in (second, second.T)
    )
