"""Refine a quantization plan layer by layer: each layer sees the inputs that the refined ones before it give.

The result is a float model whose weights and biases lie on their grids already, so that inserting the plan writes
exactly the integers that were found.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant import qdq
from equiquant.graph.edit import Names, add_initializer, set_initializer, set_input
from equiquant.numerics.affine import QuantParams, dequantize, quantize
from equiquant.refine.layers import Layer, layers_of
from equiquant.refine.solve import Refinement, solve
from equiquant.refine.walk import Walk
from equiquant.target.plan import QuantPlan
from equiquant.target.targets import Target
from equiquant.target.weights import bias_params

__all__ = ["Refined", "refine"]

Array = npt.NDArray[Any]

MEMORY = 1 << 30  # bytes of activations held, of all samples and both networks; fixed, so that a run can be repeated


@dataclass(frozen=True, eq=False)
class Refined:
    """What was refined.

    Attributes:
        model: The float model with new weights and biases.
        plan: The plan for it: that of before, and the parameters of added biases.
        samples: Feeds that stayed within the memory limit to the end.
    """

    model: ir.Model
    plan: QuantPlan
    samples: int


def refine(
    model: ir.Model,
    plan: QuantPlan,
    target: Target,
    feeds: Iterable[Mapping[str, Array]],
    wanted: Refinement,
    progress: Callable[[int, int], None] | None = None,
) -> Refined:
    """Return the model and the plan with refined weights and biases; neither is changed.

    Scales stay those of the plan. A Conv, ConvTranspose or Gemm without a bias gets one where biases are corrected.

    Args:
        model: The float model.
        plan: How it is quantized.
        target: What it is quantized for.
        feeds: Samples to fit to.
        wanted: What to do.
        progress: Called with layers done and layers in all.

    Raises:
        ModelError: onnxruntime cannot run the model.
    """
    refined = model.clone()
    plan = _own_constants(refined, plan, target, wanted)
    quantized = refined.clone()
    qdq.insert(quantized, plan)
    places, twins, sources = (_nodes(m) for m in (refined, quantized, model))
    walk = Walk([model, quantized], feeds, MEMORY)
    layers, _ = layers_of(refined, plan)
    for index, layer in enumerate(layers):
        inputs = [nodes[layer.name].inputs[0] for nodes in (sources, twins)]
        solution = solve(layer, walk.read(inputs), walk.count, wanted)
        _store(places[layer.name], twins[layer.name], 1, solution.weight, layer.weight_params)
        if wanted.correct_bias and layer.takes_bias:
            bias = solution.bias.astype(np.float32)
            stored = bias if layer.bias_params is None else quantize(bias, layer.bias_params)
            _store(places[layer.name], twins[layer.name], 2, stored, layer.bias_params)
        if progress is not None:
            progress(index + 1, len(layers))
    return Refined(refined, plan, walk.count)


def _nodes(model: ir.Model) -> dict[str, ir.Node]:
    return {node.name or "": node for node in model.graph}


def _own_constants(model: ir.Model, plan: QuantPlan, target: Target, wanted: Refinement) -> QuantPlan:
    """Give every layer a weight of its own, and a bias of its own where it is to be corrected; return the plan."""
    nodes, names = _nodes(model), Names(model.graph)
    constants = dict(plan.constants)
    for layer in layers_of(model, plan)[0]:
        node = nodes[layer.name]
        base = f"{layer.name}_refined"
        set_input(node, 1, add_initializer(model.graph, names.fresh(f"{base}_weight"), layer.weight))
        if not (wanted.correct_bias and layer.takes_bias):
            continue
        given = len(node.inputs) > 2 and node.inputs[2] is not None
        bias = np.array(layer.bias, np.float32)
        set_input(node, 2, add_initializer(model.graph, names.fresh(f"{base}_bias"), bias))
        if layer.bias_params is not None or not given:
            constants[layer.name, 2] = layer.bias_params or _new_bias(layer, bias, target)
    return dataclasses.replace(plan, constants=constants)


def _new_bias(layer: Layer, bias: Array, target: Target) -> QuantParams:
    return bias_params(bias, float(layer.input_params.scale) * layer.form.gain, layer.weight_params, target)


def _store(place: ir.Node, twin: ir.Node, index: int, stored: Array, params: QuantParams | None) -> None:
    """Write a constant into the float model, and into the quantized one where the walk will read it."""
    value, seen = place.inputs[index], twin.inputs[index]
    assert value is not None and seen is not None
    set_initializer(value, stored if params is None else dequantize(stored, params))
    node = seen.producer()
    source = seen if node is None else node.inputs[0]
    assert source is not None
    set_initializer(source, stored)
