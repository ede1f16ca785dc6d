"""The tape: appends the backward nodes to a graph and adds up the gradients that reach each value.

A gradient has the shape of its value, and every value has a static shape before the walk begins, so a rule never has to
ask onnxruntime for one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.graph import edit

__all__ = ["Tape", "first", "operand", "shape"]

STEEPEST = 1e30  # a slope beyond is infinite


def shape(value: ir.Value) -> tuple[int, ...]:
    """Return the static shape of a forward value."""
    assert value.shape is not None, f"'{value.name}' has no shape"
    return tuple(int(d) for d in value.shape)  # type: ignore[arg-type]


def operand(node: ir.Node, index: int) -> ir.Value:
    """Return an input that the op requires."""
    value = node.inputs[index]
    assert value is not None, f"'{node.name}' has no input {index}"
    return value


def first(node: ir.Node, gradients: Sequence[ir.Value | None]) -> tuple[ir.Value, ir.Value]:
    """Return the first input of a node and the gradient of its first output."""
    gradient = gradients[0]
    assert gradient is not None, f"no gradient reached '{node.name}'"
    return operand(node, 0), gradient


class Tape:
    """Backward nodes in the making.

    Args:
        graph: The forward graph; the nodes are appended to it.
        carriers: Float values that depend on a tensor whose gains are wanted: the only ones gradients go to.

    Attributes:
        seeded: Values that act as outputs, in the order they were found, with the graph input that feeds their seed.
    """

    def __init__(self, graph: ir.Graph, carriers: set[ir.Value]) -> None:
        self.seeded: dict[ir.Value, ir.Value] = {}
        self._graph, self._carriers = graph, carriers
        self._prefix = edit.Names(graph).fresh("backward")
        self._count = 0
        self._gradients: dict[ir.Value, ir.Value] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    def wants(self, value: ir.Value | None) -> bool:
        """True if a gradient sent to the value is of use."""
        return value is not None and value in self._carriers

    def gradient(self, value: ir.Value) -> ir.Value | None:
        """Return the sum of the gradients sent to a value, None if there were none."""
        return self._gradients.get(value)

    def send(self, value: ir.Value | None, gradient: ir.Value) -> None:
        """Add a gradient of the value's shape to what reached it already; ignored where it is of no use."""
        if value is None or value not in self._carriers:
            return
        before = self._gradients.get(value)
        self._gradients[value] = gradient if before is None else self.op("Add", before, gradient)

    def stop(self, *values: ir.Value | None) -> None:
        """Treat values as outputs of the network, because no gradient comes back from what reads them."""
        for value in values:
            if value is None or value not in self._carriers or value in self.seeded:
                continue
            self.seeded[value] = self.input(shape(value))
            self.send(value, self.seeded[value])

    def input(self, sizes: Iterable[int]) -> ir.Value:
        """Append a float32 input to the graph."""
        value = ir.Value(name=self._name(), shape=ir.Shape(tuple(sizes)), type=ir.TensorType(ir.DataType.FLOAT))
        self._graph.inputs.append(value)
        return value

    def op(self, kind: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Append a node with one output and return it."""
        return self._append(ir.node(kind, inputs, attributes))[0]

    def again(self, node: ir.Node, inputs: Sequence[ir.Value | None], outputs: int = 1) -> Sequence[ir.Value]:
        """Append the same op with other inputs and return its outputs."""
        attributes = list(node.attributes.values())
        return self._append(ir.Node(node.domain, node.op_type, inputs, attributes, num_outputs=outputs))

    def ints(self, numbers: Iterable[int]) -> ir.Value:
        """Return a constant int64 vector."""
        return self.constant(np.fromiter(numbers, dtype=np.int64))

    def number(self, number: float) -> ir.Value:
        """Return a constant float32 scalar."""
        return self.constant(np.array(number, dtype=np.float32))

    def constant(self, array: npt.NDArray[Any]) -> ir.Value:
        """Return an initializer with these numbers, one for all who ask for the same."""
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = edit.add_initializer(self._graph, self._name(), array)
        return self._constants[key]

    def reshape(self, value: ir.Value, sizes: Iterable[int]) -> ir.Value:
        """Append a Reshape to static sizes."""
        return self.op("Reshape", value, self.ints(sizes))

    def sum(self, value: ir.Value, axes: Iterable[int], *, keepdims: bool = True) -> ir.Value:
        """Append a ReduceSum; no axes leave the value alone."""
        axes = list(axes)
        return self.op("ReduceSum", value, self.ints(axes), keepdims=int(keepdims)) if axes else value

    def zeros(self, sizes: Iterable[int]) -> ir.Value:
        """Append a float32 tensor of zeros."""
        return self.op("ConstantOfShape", self.ints(sizes))

    def gate(self, gradient: ir.Value, open_: ir.Value) -> ir.Value:
        """Append gradient · [open]; the product is several times faster than Where in onnxruntime."""
        return self.op("Mul", gradient, self.op("Cast", open_, to=int(ir.DataType.FLOAT)))

    def finite(self, slope: ir.Value) -> ir.Value:
        """Append the slope, 0 where it is infinite, as of a root at 0: often behind a gate that is shut there."""
        small = self.op("Less", self.op("Abs", slope), self.number(STEEPEST))  # false of NaN
        return self.op("Where", small, slope, self.number(0.0))

    def send_broadcast(self, value: ir.Value | None, gradient: ir.Value, sizes: Sequence[int]) -> None:
        """Send a gradient of shape `sizes` to an operand that was broadcast to them: the copies add up."""
        if value is None or not self.wants(value):
            return
        target = shape(value)
        lead = len(sizes) - len(target)
        axes = [*range(lead), *(i + lead for i, d in enumerate(target) if d == 1 and sizes[i + lead] != 1)]
        gradient = self.sum(gradient, axes)
        self.send(value, self.reshape(gradient, target) if lead else gradient)

    def _append(self, node: ir.Node) -> Sequence[ir.Value]:
        node.name = self._name()
        for output in node.outputs:
            output.name = self._name()
        self._graph.append(node)
        return node.outputs

    def _name(self) -> str:
        self._count += 1
        return f"{self._prefix}/{self._count}"
