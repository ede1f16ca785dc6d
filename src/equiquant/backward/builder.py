"""Build the backward graph: the model, the gradients of every seeded value, and their sums a channel as outputs.

Forward and backward run in one session; the weights are shared, not copied, save those onnxruntime transposes ahead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.backward.excess import Ends, excess_sums
from equiquant.backward.forward import Feed, forward_copy
from equiquant.backward.layout import Layout
from equiquant.backward.rules import rule_of
from equiquant.backward.tape import Tape, shape
from equiquant.backward.weights import weight_energy
from equiquant.graph import edit
from equiquant.graph.query import reads

__all__ = ["BackwardGraph", "build", "carriers", "is_float", "walk_back"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class BackwardGraph:
    """A graph that computes channel sums of gradients for feeds of one shape.

    Attributes:
        model: The graph. Inputs: those of the model, and the seeds. Outputs: two a tensor, in the order of `tensors`:
            Σ g² and Σ g over all positions of a sample, (samples, channels) both; two for each of `ranged`, see
            `excess_sums`; one a layer, see `weight_energy`; then, where only one value is seeded, that value.
        seeds: Name of each value that acts as an output, with the name and the shape of the input of its seed.
        tensors: Tensors a gradient reaches, in order.
        ranged: Those of them with ends of their own, in order.
        layers: Those of them that a Conv makes whose weight has an output, in order.
    """

    model: ir.Model
    seeds: dict[str, tuple[str, tuple[int, ...]]]
    tensors: tuple[str, ...]
    ranged: tuple[str, ...]
    layers: tuple[str, ...]


def build(
    model: ir.Model,
    feed: Feed,
    tensors: Mapping[str, int],
    means: Mapping[str, Array] | None = None,
    ends: Mapping[str, Ends] | None = None,
) -> BackwardGraph:
    """Return the backward graph of a model for feeds like this one.

    Args:
        model: The float model; it is not changed.
        feed: A feed of float32 and integer arrays.
        tensors: Name and channel axis of the tensors wanted.
        means: Mean of each channel of what Convs read, by name, for the gains of their weights.
        ends: What is cut off of each tensor, by name, where it is looked at.
    """
    copy = forward_copy(model, feed)
    graph = copy.graph
    nodes = list(graph)
    values = {v.name: v for v in graph.inputs} | {v.name: v for node in nodes for v in node.outputs}
    wanted = {name: values[name] for name in tensors if name in values and is_float(values[name])}
    inputs = [v for v in graph.inputs if v.name in feed]
    tape = Tape(graph, carriers(nodes, set(wanted.values())))
    batch = _batch([*inputs, *(v for v in graph.outputs if isinstance(v.type, ir.TensorType))])
    tape.stop(*_float_ends(graph.outputs))
    walk_back(tape, nodes)
    outputs: list[ir.Value] = []
    cut: dict[str, tuple[ir.Value, ir.Value]] = {}
    reached = []
    for name, value in wanted.items():
        gradient = tape.gradient(value)
        if gradient is None or 0 in shape(value):
            continue
        reached.append(name)
        layout = Layout.of(value, tensors[name], batch)
        gradient = layout.laid(tape, gradient)
        outputs += _sums(tape, gradient, layout)
        place = (ends or {}).get(name)
        if place is not None and place.high.size == layout.sizes[layout.axis]:
            cut[name] = excess_sums(tape, layout.laid(tape, value), gradient, layout, place)
    outputs += [value for pair in cut.values() for value in pair]
    layers = []
    for node in nodes:
        name = node.outputs[0].name or ""
        energy = weight_energy(tape, node, means or {}) if name in reached else None
        if energy is not None:
            layers.append(name)
            outputs.append(energy)
    for value in outputs:
        value.type = ir.TensorType(ir.DataType.FLOAT)
    # Before what nothing reads any more loses its name: an optional output of an LSTM does.
    seeds = {value.name or "": (seed.name or "", shape(seed)) for value, seed in tape.seeded.items()}
    graph.outputs.clear()
    graph.outputs.extend(outputs)
    if len(tape.seeded) == 1:
        graph.outputs.extend(tape.seeded)
    edit.remove_dead(copy)
    return BackwardGraph(copy, seeds, tuple(reached), tuple(cut), tuple(layers))


def walk_back(tape: Tape, nodes: Sequence[ir.Node]) -> None:
    """Send the gradients of every node's outputs on to its inputs, the last node first."""
    for node in reversed(nodes):
        _visit(tape, node)


def _visit(tape: Tape, node: ir.Node) -> None:
    if not any(tape.wants(v) for v in reads(node)):
        return None
    rule = rule_of(node)
    if rule is None:
        return tape.stop(*reads(node))
    gradients = [tape.gradient(v) for v in node.outputs]
    if any(g is not None for g in gradients):
        rule(tape, node, gradients)
    return None


def is_float(value: ir.Value) -> bool:
    """True for a float32 tensor."""
    return isinstance(value.type, ir.TensorType) and value.dtype == ir.DataType.FLOAT


def carriers(nodes: Iterable[ir.Node], wanted: set[ir.Value]) -> set[ir.Value]:
    """Return the float values that depend on a wanted one."""
    found = set(wanted)
    for node in nodes:
        if any(v in found for v in reads(node)):
            found.update(v for v in node.outputs if is_float(v))
    return found


def _float_ends(outputs: Iterable[ir.Value]) -> Iterator[ir.Value]:
    """Yield the float outputs and, for those of other types, the float values they were computed from."""
    stack, seen = list(outputs), set()
    while stack:
        value = stack.pop()
        if value in seen:
            continue
        seen.add(value)
        producer = value.producer()
        if is_float(value):
            yield value
        elif producer is not None and producer.op_type not in ("Shape", "Size"):
            stack += reads(producer)


def _batch(values: Iterable[ir.Value]) -> int:
    """Return the size of axis 0 where all inputs and outputs share it, else 1.

    Taking a batch for one sample is harmless: seeds of different samples are independent, so products between samples
    vanish in the mean.
    """
    sizes = {shape(v)[0] if shape(v) else 1 for v in values}
    return sizes.pop() if len(sizes) == 1 else 1


def _sums(tape: Tape, g: ir.Value, layout: Layout) -> tuple[ir.Value, ir.Value]:
    """Append Σ g² and Σ g over the positions of each sample, (samples, channels)."""
    return layout.sum(tape, tape.op("Mul", g, g)), layout.sum(tape, g)
