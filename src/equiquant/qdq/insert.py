"""Insert a quantization plan into the graph as standard QuantizeLinear and DequantizeLinear nodes.

An activation t becomes t -> QuantizeLinear -> DequantizeLinear -> its readers. One pair serves all readers. A float
reader keeps t itself if t comes from a float node or is a graph input. If t comes from a quantized node, float readers
take the dequantized value too, since an integer kernel hands out nothing else; except those with weights: onnxruntime
(`WeightBiasQuantization`) quantizes the float weights of a Conv or Gemm it finds between a DequantizeLinear and a
QuantizeLinear, and a node that was left out must stay float.
Weights and biases become integer initializers behind a DequantizeLinear. Only the default ONNX domain is used.
Source: ONNX operator specification, QuantizeLinear and DequantizeLinear; onnxruntime, "Quantize ONNX models".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.errors import ModelError
from equiquant.graph.edit import Names, add_initializer, remove_unread
from equiquant.graph.query import constant, nodes_by_name, opset, values_by_name
from equiquant.numerics.affine import QuantParams, fake_quantize, quantize
from equiquant.numerics.parallel import parallel
from equiquant.qdq.integer_clip import clip_integers
from equiquant.target.plan import QuantPlan
from equiquant.target.table.ops import row_of
from equiquant.target.table.targets import PER_AXIS_OPSET, SIXTEEN_BIT_OPSET

__all__ = ["insert"]

Array = npt.NDArray[Any]


def insert(model: ir.Model, plan: QuantPlan) -> None:
    """Turn the model into the QDQ model of the plan, in place; graph inputs and outputs keep their names.

    Args:
        model: The float model the plan was made for.
        plan: Parameters of every quantized tensor.

    Raises:
        ModelError: The model's opset is too old for the plan (see `target.required_opset`).
    """
    wide = any(p.type.bits == 16 for p in (*plan.activations.values(), *plan.constants.values()))
    needed = SIXTEEN_BIT_OPSET if wide else PER_AXIS_OPSET
    if opset(model) < needed:
        raise ModelError(
            f"Quantized with these types the model needs opset {needed}, but it has {opset(model)}."
            " Convert it before it is quantized."
        )
    editor = _Editor(model.graph)
    values, nodes = values_by_name(model), nodes_by_name(model)
    stored = [(nodes[name], index, p, plan.grids.get((name, index), p)) for (name, index), p in plan.constants.items()]
    for place, integers in zip(stored, parallel(lambda place: _integers(*place), stored), strict=True):
        editor.store(*place, integers)
    quantized = frozenset(plan.nodes)
    for name, params in plan.activations.items():
        editor.round_trip(values[name], params, quantized)
    remove_unread(model.graph, editor.replaced)
    if plan.integer_clips:
        clip_integers(model, quantized, editor.name)


def _integers(node: ir.Node, index: int, params: QuantParams, grid: QuantParams) -> Array:
    """Return the integers of a node's constant, rounded to `grid`."""
    array = constant(node.inputs[index])
    assert array is not None
    return quantize(array if grid is params else fake_quantize(array, grid), params)


class _Editor:
    """The edits, with the names already taken and the integer copies already made."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.first = graph[0]
        self.name = Names(graph).fresh
        self.stored: dict[tuple[object, ...], ir.Value] = {}
        self.replaced: dict[ir.Value, None] = {}

    def store(self, node: ir.Node, index: int, params: QuantParams, grid: QuantParams, integers: Array) -> None:
        """Let a node read a constant, rounded to `grid`, as integers; readers that agree on both share one copy."""
        value = node.inputs[index]
        assert value is not None
        key = (value, *_key(params), *_key(grid))
        if key not in self.stored:
            base = value.name or node.name or "constant"
            copy = add_initializer(self.graph, self.name(f"{base}_quantized"), integers)
            self.stored[key] = self._linear("DequantizeLinear", copy, base, self._parameters(base, params), params)
            _describe(self.stored[key], value.shape, value.dtype)
            self.graph.insert_before(self.first, _node(self.stored[key]))
        node.replace_input_with(index, self.stored[key])
        self.replaced[value] = None

    def round_trip(self, value: ir.Value, params: QuantParams, quantized: frozenset[str]) -> None:
        """Round an activation to integers and back, for the readers that take it rounded."""
        base = value.name or "activation"
        producer = value.producer()
        everyone = producer is not None and producer.name in quantized
        readers = [u for u in value.uses() if self._reads_rounded(u.node, everyone, quantized)]
        parameters = self._parameters(base, params)
        integers = self._linear("QuantizeLinear", value, base, parameters, params)
        result = self._linear("DequantizeLinear", integers, base, parameters, params)
        _describe(integers, value.shape, ir.DataType.from_numpy(np.dtype(params.type.name)))
        _describe(result, value.shape, value.dtype)
        for use in readers:
            use.node.replace_input_with(use.idx, result)
        pair = [_node(integers), _node(result)]
        if producer is None:
            self.graph.insert_before(self.first, pair)
        else:
            self.graph.insert_after(producer, pair)
        if everyone and value.is_graph_output():
            self._publish(value, result)

    def _reads_rounded(self, node: ir.Node, everyone: bool, quantized: frozenset[str]) -> bool:
        if node.graph is self.graph and node.name in quantized:
            return True
        row = row_of(node)
        return everyone and (row is None or row.weight is None)

    def _publish(self, value: ir.Value, result: ir.Value) -> None:
        """Hand the public name, the place among the outputs and what is noted of it to the dequantized value."""
        name = value.name
        for index, output in enumerate(self.graph.outputs):
            if output is value:
                self.graph.outputs[index] = result
        value.name = self.name(f"{name}_float")
        result.name, result.doc_string = name, value.doc_string
        result.metadata_props.update(value.metadata_props)
        value.metadata_props.clear()
        value.doc_string = None

    def _parameters(self, base: str, params: QuantParams) -> list[ir.Value]:
        """Add scale and zero point; an int32 bias has zero point 0, which is the default."""
        inputs = [add_initializer(self.graph, self.name(f"{base}_scale"), params.scale)]
        if params.type.name != "int32":
            inputs.append(add_initializer(self.graph, self.name(f"{base}_zero_point"), params.zero_point))
        return inputs

    def _linear(
        self, op_type: str, source: ir.Value, base: str, parameters: Iterable[ir.Value], params: QuantParams
    ) -> ir.Value:
        name = self.name(f"{base}_{op_type}")
        output = ir.Value(name=self.name(f"{name}_Output"))
        attributes = {} if params.axis is None else {"axis": params.axis}
        node = ir.node(op_type, [source, *parameters], attributes, outputs=[output], name=name)
        return node.outputs[0]


def _key(params: QuantParams) -> tuple[object, ...]:
    return params.type.name, params.axis, params.scale.tobytes(), params.zero_point.tobytes()


def _node(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None
    return node


def _describe(value: ir.Value, shape: ir.Shape | None, dtype: ir.DataType | None) -> None:
    value.shape = shape
    value.type = None if dtype is None else ir.TensorType(dtype)
