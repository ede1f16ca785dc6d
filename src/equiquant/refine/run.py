"""Refine a quantization plan layer by layer: each layer sees the inputs that the refined ones before it give.

The result is a float model whose weights and biases lie on their grids already, so that inserting the plan writes
exactly the integers that were found.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from threadpoolctl import threadpool_limits

from equiquant import qdq
from equiquant.graph.edit import Names, own_constant, set_initializer
from equiquant.graph.query import nodes_by_name, static_shape
from equiquant.numerics.affine import QuantParams, dequantize, quantize
from equiquant.refine.layers import Layer, layers_of
from equiquant.refine.means import ChannelMeans, OutputMeans, output_means
from equiquant.refine.solve import Refinement, Solution, correct, recentre, solve
from equiquant.refine.walk import Walk
from equiquant.target.choosing.late_bias import LateBiases
from equiquant.target.choosing.weights import bias_params
from equiquant.target.plan import QuantPlan
from equiquant.target.table.targets import Target

__all__ = ["Original", "Refined", "refine", "refine_by_means"]

Array = npt.NDArray[Any]
Feeds = Iterable[Mapping[str, Array]]

MEMORY = 1 << 27  # bytes of activations held, of all samples and both networks; fixed, so that a run can be repeated
MOST_MEMORY = 1 << 30  # bytes that as few as `ENOUGH` samples may hold
ENOUGH = 16


@dataclass(frozen=True, eq=False)
class Original:
    """The network to aim at where the one to quantize computes something else.

    Attributes:
        model: It; its layers have the names of those to refine.
        factors: What its tensors are multiplied by to be those of the model to quantize, by name; arrays that
            broadcast.
    """

    model: ir.Model
    factors: Mapping[str, Array]


@dataclass(frozen=True, eq=False)
class Refined:
    """What was refined.

    Attributes:
        model: The float model with new weights and biases.
        plan: The plan for it: that of before, and the parameters of added biases.
        samples: Feeds that the last layer was fitted to.
    """

    model: ir.Model
    plan: QuantPlan
    samples: int


def refine(
    model: ir.Model,
    plan: QuantPlan,
    target: Target,
    feeds: Feeds,
    wanted: Refinement,
    original: Original | None = None,
    progress: Callable[[int, int], None] | None = None,
    means: OutputMeans | None = None,
) -> Refined:
    """Return the model and the plan with refined weights and biases; neither is changed.

    Scales stay those of the plan, but for an int8 bias that no longer fits. Where biases are corrected, a Conv,
    ConvTranspose or Gemm without one gets it.

    Args:
        model: The float model.
        plan: How it is quantized.
        target: What it is quantized for.
        feeds: Samples to fit to; read more than once.
        wanted: What to do.
        original: The network to aim at; None for `model` itself.
        progress: Called with layers done and layers in all.
        means: Mean outputs of the original's layers on the samples, if known; of use where only biases are corrected.

    Raises:
        ModelError: onnxruntime cannot run the model.
    """
    refined = model.clone()
    plan, added = _own_constants(refined, plan, target, wanted)
    quantized = refined.clone()
    qdq.insert(quantized, plan)
    original = original or Original(model, {})
    places, twins = nodes_by_name(refined), nodes_by_name(quantized)
    layers = [dataclasses.replace(x, late_bias=x.name in added) for x in layers_of(refined, plan)[0]]
    if wanted.round_weights:
        solved = _rounding(layers, original, quantized, feeds, wanted)
    else:
        solved = _correction(layers, original, quantized, feeds, means)
    late, constants = LateBiases(refined, plan, target.shifts), dict(plan.constants)
    samples = 0
    for index, (layer, solution, fitted) in enumerate(solved):
        samples = fitted
        if wanted.round_weights:
            weight = dequantize(solution.weight, layer.weight_params)
            _store(places[layer.name], twins[layer.name], 1, weight, layer.weight_params)
        if wanted.correct_bias and layer.takes_bias:
            params = _store_bias(late, target, layer, solution, (places[layer.name], twins[layer.name]))
            if params is not None:
                constants[layer.name, 2] = params
        if progress is not None:
            progress(index + 1, len(layers))
    return Refined(refined, dataclasses.replace(plan, constants=constants), samples)


def refine_by_means(
    model: ir.Model, plan: QuantPlan, target: Target, means: Mapping[str, ChannelMeans]
) -> Refined | None:
    """Return the model and the plan with biases that make up for rounded weights, found without a sample.

    Args:
        model: The float model; not changed.
        plan: How it is quantized.
        target: What it is quantized for.
        means: Those of tensors in the float model, by name; layers with another input stay as they are.

    Returns:
        What was refined; None if that is nothing.
    """
    refined = model.clone()
    nodes = nodes_by_name(refined)
    columns = {
        layer.name: column
        for layer in layers_of(refined, plan)[0]
        if layer.takes_bias and (column := _even_column(layer, _data(nodes[layer.name]), means)) is not None
    }
    if not columns:
        return None
    plan, added = _own_constants(refined, plan, target, Refinement(correct_bias=True, round_weights=False), columns)
    late, constants = LateBiases(refined, plan, target.shifts), dict(plan.constants)
    for layer in layers_of(refined, plan)[0]:
        if layer.name in columns:
            layer = dataclasses.replace(layer, late_bias=layer.name in added)
            solution = recentre(layer, columns[layer.name])
            params = _store_bias(late, target, layer, solution, (nodes[layer.name], None))
            if params is not None:
                constants[layer.name, 2] = params
    return Refined(refined, dataclasses.replace(plan, constants=constants), 0)


def _even_column(layer: Layer, source: ir.Value, means: Mapping[str, ChannelMeans]) -> Array | None:
    """Return the layer's mean column from the means of its input's channels; None where they do not tell it."""
    known = means.get(source.name or "")
    if known is None or known.mean.size != layer.form.channels:
        return None
    rank = 0 if layer.form.patches is None else len(layer.form.patches.kernel)
    return layer.form.even_column(known.mean, known.sizes((static_shape(source) or (None,) * (rank + 2))[2:]))


def _store_bias(
    late: LateBiases, target: Target, layer: Layer, solution: Solution, nodes: tuple[ir.Node, ir.Node | None]
) -> QuantParams | None:
    """Write a corrected bias as `_store` does, and return its parameters: a late one's scale is chosen only now."""
    bias, params = solution.bias.astype(np.float32), solution.bias_params
    if layer.late_bias:
        params = late.fit((layer.name, 2), _new_bias(layer, bias, target))
    _store(*nodes, 2, bias, params)
    return params


def _rounding(
    layers: Sequence[Layer], original: Original, quantized: ir.Model, feeds: Feeds, wanted: Refinement
) -> Iterator[tuple[Layer, Solution, int]]:
    """Walk both networks and solve for each layer; it is to be stored before the next is asked for."""
    walk = Walk([original.model, quantized], feeds, MEMORY, ENOUGH, MOST_MEMORY)
    sources, twins = nodes_by_name(original.model), nodes_by_name(quantized)
    for layer in layers:
        inputs = [_data(nodes[layer.name]) for nodes in (sources, twins)]
        pairs = list(walk.read(inputs))
        factor = original.factors.get(inputs[0].name or "")
        with threadpool_limits(1, user_api="blas"):  # many small products: two threads wait for each other, spinning
            solution = solve(layer, pairs, wanted, factor)
        yield layer, solution, walk.count


def _correction(
    layers: Sequence[Layer], original: Original, quantized: ir.Model, feeds: Feeds, means: OutputMeans | None
) -> Iterator[tuple[Layer, Solution, int]]:
    """Walk the quantized network alone and set biases; each is to be stored before the next is asked for."""
    taking = [layer for layer in layers if layer.takes_bias]
    means = means or output_means(original.model, [layer.name for layer in taking], feeds)
    walk = Walk([quantized], feeds, MEMORY, ENOUGH, MOST_MEMORY)
    sources, twins = nodes_by_name(original.model), nodes_by_name(quantized)
    for layer in taking:
        integers = [array for (array,) in walk.read([_data(twins[layer.name])])]
        factor = original.factors.get(sources[layer.name].outputs[0].name or "")
        target = means.of(layer.name, walk.count)
        yield layer, correct(layer, integers, target if factor is None else target * factor.ravel()), walk.count


def _data(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value


def _own_constants(
    model: ir.Model, plan: QuantPlan, target: Target, wanted: Refinement, biased: Collection[str] | None = None
) -> tuple[QuantPlan, frozenset[str]]:
    """Give every layer a weight of its own where it is to be rounded, and a bias where it is to be corrected.

    Args:
        model: The model; changed.
        plan: How it is quantized.
        target: What it is quantized for.
        wanted: What to do.
        biased: Names of the layers whose biases are corrected; None for all.

    Returns:
        The plan with parameters for added biases, those of a bias of 0 until it is known; and the layers whose bias was
        0, or that had none.
    """
    nodes, names = nodes_by_name(model), Names(model.graph)
    constants = dict(plan.constants)
    added = []
    for layer in layers_of(model, plan)[0]:
        node = nodes[layer.name]
        if wanted.round_weights:
            own_constant(node, 1, layer.weight, f"{layer.name}_weight", names)
        if not (wanted.correct_bias and layer.takes_bias) or (biased is not None and layer.name not in biased):
            continue
        bias = np.array(layer.bias, np.float32)
        if not bias.any():  # a scale chosen for zeros would hold nothing else
            constants[layer.name, 2] = _new_bias(layer, bias, target)
            added.append(layer.name)
        elif (given := constants.get((layer.name, 2))) is not None and given.axis is not None:
            constants[layer.name, 2] = dataclasses.replace(given, axis=0)  # (1, N) becomes (N,)
        own_constant(node, 2, bias, f"{layer.name}_bias", names)
    return dataclasses.replace(plan, constants=constants), frozenset(added)


def _new_bias(layer: Layer, bias: Array, target: Target) -> QuantParams:
    """Return the parameters of an added bias, best for itself."""
    step = float(layer.input_params.scale) * abs(layer.form.gain)
    return bias_params(bias, step, layer.weight_params, target)


def _store(place: ir.Node, twin: ir.Node | None, index: int, array: Array, params: QuantParams | None) -> None:
    """Write a constant, on its grid, into the float model, and into the quantized one where a walk will read it."""
    places = [node.inputs[index] for node in (place, twin) if node is not None]
    value, seen = places[0], places[-1]
    assert value is not None
    assert seen is not None
    if params is None:
        set_initializer(value, array)
        set_initializer(seen, array)
        return
    integers = quantize(array, params)
    set_initializer(value, dequantize(integers, params))
    if twin is None:
        return
    node = seen.producer()
    assert node is not None
    for source, numbers in zip(node.inputs, (integers, params.scale), strict=False):
        assert source is not None
        set_initializer(source, numbers)
