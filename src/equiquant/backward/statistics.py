"""Build the graph of the statistics that BatchNormalizations see, and of their gradients at the model's inputs.

A function of the mean and the mean square of a channel has at each of its values a the derivative u + v·a, u and v the
same at all positions of all samples. They are inputs of the graph, a vector for each BatchNormalization; so samples can
be run one at a time, whatever function of their common statistics is to fall.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.backward.builder import carriers, is_float, walk_back
from equiquant.backward.forward import Feed, forward_copy
from equiquant.backward.tape import Tape, operand, shape
from equiquant.graph import edit, query

__all__ = ["StatisticsGraph", "Stored", "build_statistics"]


@dataclass(frozen=True, eq=False)
class Stored:
    """What a BatchNormalization was trained on, and the inputs of the graph for the derivatives at its input.

    Attributes:
        mean: (C,) float64.
        variance: (C,) float64, the operator's epsilon included.
        positions: Values of a channel in one feed.
        constant: Name of the input for u, (C,) float32.
        slope: Name of the input for v, (C,) float32.
    """

    mean: npt.NDArray[np.float64]
    variance: npt.NDArray[np.float64]
    positions: int
    constant: str
    slope: str


@dataclass(frozen=True, eq=False)
class StatisticsGraph:
    """A graph for feeds of one shape.

    Attributes:
        model: The graph. Inputs: those of the model, then u and v of each BatchNormalization. Outputs: the gradients at
            `inputs`, then Σ a and Σ a² over a feed at the input of each BatchNormalization, (C,) both.
        inputs: The model's inputs that a gradient reaches.
        layers: The BatchNormalizations, in order.
    """

    model: ir.Model
    inputs: tuple[str, ...]
    layers: tuple[Stored, ...]


class _Silent(Tape):
    """A tape on which outputs send no gradient of their own."""

    def stop(self, *values: ir.Value | None) -> None:
        """Leave values alone that no gradient comes back from."""


def build_statistics(model: ir.Model, feed: Feed) -> StatisticsGraph | None:
    """Return the graph for feeds like this one; None where no BatchNormalization with stored statistics sees an input.

    Args:
        model: The float model, opset 13 or later; it is not changed.
        feed: A feed of float32 and integer arrays.
    """
    copy = forward_copy(model, feed)
    graph = copy.graph
    nodes = list(graph)
    sources = {v for v in graph.inputs if v.name in feed and is_float(v)}
    moving = carriers(nodes, sources)
    tape = _Silent(graph, moving)
    layers: list[Stored] = []
    sums: list[ir.Value] = []
    for node in nodes:
        if _has_statistics(node) and operand(node, 0) in moving:
            layers.append(_inject(tape, node))
            sums += _sums(tape, operand(node, 0))
    walk_back(tape, nodes)
    reached = [v for v in graph.inputs if v in sources and tape.gradient(v) is not None]
    if not reached:
        return None
    graph.outputs.clear()
    for value in [*(tape.gradient(v) for v in reached), *sums]:
        assert value is not None
        value.type = ir.TensorType(ir.DataType.FLOAT)
        graph.outputs.append(value)
    edit.remove_dead(copy)
    return StatisticsGraph(copy, tuple(v.name or "" for v in reached), tuple(layers))


def _has_statistics(node: ir.Node) -> bool:
    return (
        (node.domain, node.op_type) == ("", "BatchNormalization")
        and not query.attribute(node, "training_mode", 0)
        and all(query.constant(v) is not None for v in node.inputs[3:5])
    )


def _inject(tape: Tape, node: ir.Node) -> Stored:
    """Send u + v·a to the input a of a BatchNormalization."""
    value = operand(node, 0)
    sizes = shape(value)
    mean, variance = (np.asarray(query.constant(v), dtype=np.float64) for v in node.inputs[3:5])
    ends = [tape.input([mean.size]) for _ in ("constant", "slope")]
    constant, slope = (tape.reshape(end, [-1] + [1] * (len(sizes) - 2)) for end in ends)
    tape.send(value, tape.op("Add", tape.op("Mul", value, slope), constant))
    positions = int(np.prod([d for axis, d in enumerate(sizes) if axis != 1]))
    epsilon = float(query.attribute(node, "epsilon", 1e-5))
    return Stored(mean, variance + epsilon, positions, *(end.name or "" for end in ends))


def _sums(tape: Tape, value: ir.Value) -> Iterable[ir.Value]:
    axes = [axis for axis in range(len(shape(value))) if axis != 1]
    return [tape.sum(v, axes, keepdims=False) for v in (value, tape.op("Mul", value, value))]
