"""An XINT8 model run with integers: multiply, add, compare and shift, and nothing else.

    DequantizeLinear   q, scale 2^e        -> the exact values (q − zero point) · 2^e
    any operator       exact values        -> exact values: an accumulator is never rounded
    QuantizeLinear     exact values        -> a shift, rounded half to even, saturated

Graph inputs are rounded once, where they enter. An operator that cannot be done on integers (Softmax, or one the
quantizer left float) runs in float, as onnxruntime runs it alone, and is reported with the reason; so does whatever
reads its result before it is quantized again. What computes shapes and indices runs as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.errors import ModelError
from equiquant.graph.edit import WRAPPING
from equiquant.graph.query import attribute, constant, label
from equiquant.io import Feed, Runner
from equiquant.numerics.affine import INT_TYPES, IntType
from equiquant.verify.integer.exact import Exact, Unsupported, exact_of
from equiquant.verify.integer.kernels import KERNELS, Kernel

__all__ = ["IntegerModel", "Observer"]

Array = npt.NDArray[Any]
Value = Exact | Array
Observer = Callable[[ir.Value, Array, bool], Array]

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


class IntegerModel:
    """A QDQ model with power-of-two scales, ready to run on integers.

    Args:
        model: The model; it is only read.

    Attributes:
        outputs: Names of the graph outputs.
        integer_nodes: How many nodes of the last run computed on integers.
        float_nodes: Name of each node of the last run that computed in float, with the reason.

    Raises:
        ModelError: The model has no QuantizeLinear, or one with a scale this reference does not run.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._nodes = list(model.graph)
        self.outputs = tuple(str(v.name) for v in model.graph.outputs)
        self.integer_nodes = 0
        self.float_nodes: dict[str, str] = {}
        self._scales = {n: _rounding(n) for n in self._nodes if n.op_type in (QUANTIZE, DEQUANTIZE)}
        if not any(n.op_type == QUANTIZE for n in self._scales):
            raise ModelError("The model has no QuantizeLinear; the integer reference runs quantized models (xint8).")
        self._alone: dict[ir.Node, Runner] = {}
        self._last_reader = {v: n for n in self._nodes for v in n.inputs if v is not None}
        self._constants: dict[ir.Value, Value] = {}
        read = (v for n in self._nodes for v in n.inputs if v is not None)
        for value in (*read, *model.graph.outputs):
            array = constant(value)
            if array is not None:
                self._constants[value] = array
        for node in self._scales:
            if node.op_type == DEQUANTIZE and node.inputs[0] in self._constants:
                self._constants[node.outputs[0]] = self._dequantized(node, self._constants[node.inputs[0]])

    def run(self, feed: Feed, observe: Observer | None = None) -> list[Array]:
        """Return the outputs for one feed, in graph order.

        Args:
            feed: Arrays by input name.
            observe: Called at each QuantizeLinear with its output, its integers and whether float32 arithmetic gives
                the same; what it returns is used instead.

        Raises:
            ModelError: A node cannot be run at all.
        """
        values: dict[ir.Value, Value] = dict(self._constants)
        for value in self._model.graph.inputs:
            if (name := value.name or "") in feed:
                values[value] = np.asarray(feed[name])
            elif value.const_value is not None:  # an initializer the caller might have overridden
                values[value] = value.const_value.numpy()
        self.integer_nodes, self.float_nodes = 0, {}
        public = set(self._model.graph.outputs)
        for node in self._nodes:
            if node.outputs[0] in self._constants or node.op_type == "Constant":
                continue
            results = self._step(node, values, observe)
            values.update(zip((v for v in node.outputs if v.name), results, strict=False))
            for read in node.inputs:
                if read is not None and self._last_reader[read] is node and read not in public:
                    values.pop(read, None)
        return [_as_array(values[v]) for v in self._model.graph.outputs]

    def _step(self, node: ir.Node, values: Mapping[ir.Value, Value], observe: Observer | None) -> list[Value]:
        """Return the results of a node, but for those left out."""
        if node.op_type == QUANTIZE:
            codes, same = self._quantized(node, values[_first(node)])
            return [codes if observe is None else observe(node.outputs[0], codes, same)]
        if node.op_type == DEQUANTIZE:
            return [self._dequantized(node, values[_first(node)])]
        inputs = [None if v is None else values[v] for v in node.inputs]
        why = "it reads float values"
        if any(isinstance(x, Exact) for x in inputs):
            try:
                results = self._integer(node, inputs)
            except Unsupported as reason:
                why = str(reason)
            else:
                self.integer_nodes += 1
                return list(results)
        return self._as_it_is(node, inputs, why)

    def _integer(self, node: ir.Node, inputs: list[Value | None]) -> list[Exact]:
        """Run a node on integers, or say why that is not possible."""
        kernel = KERNELS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if kernel is None:
            raise Unsupported(f"{node.op_type} has no integer form here")
        if any(o.uses() or o.is_graph_output() for o in node.outputs[1:]) and node.op_type != "Split":
            raise Unsupported("a second result of it is used")
        if node.op_type == "Dropout" and len(node.inputs) > 2:
            raise Unsupported("it may be in training mode")
        result = kernel.run(node, *self._operands(node, kernel, inputs))
        results = result if isinstance(result, list) else [result]
        return [r for r, value in zip(results, node.outputs, strict=False) if value.name]

    def _operands(self, node: ir.Node, kernel: Kernel, inputs: list[Value | None]) -> list[Value | None]:
        operands: list[Value | None] = []
        for index, (value, x) in enumerate(zip(node.inputs, inputs, strict=True)):
            if x is None or index in kernel.parameters:
                operands.append(x)
                continue
            if not isinstance(x, Exact):
                assert value is not None
                if value not in self._constants:
                    raise Unsupported(f"it reads the float value '{value.name}'")
                x = exact_of(x)
            operands.append(x)
        return operands

    def _as_it_is(self, node: ir.Node, inputs: list[Value | None], why: str) -> list[Value]:
        """Run one node as onnxruntime does: what computes in float, which is reported, and what computes shapes."""
        if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
            raise ModelError(f"'{label(node)}' ({node.op_type}) has a body; the integer reference runs plain graphs.")
        if node.op_type in WRAPPING:
            raise ModelError(
                f"'{label(node)}' ({node.op_type}) makes a sequence or an optional value; the integer reference runs"
                " graphs of tensors."
            )
        given = {f"i{k}": _as_array(x) for k, x in enumerate(inputs) if x is not None}
        if node not in self._alone:
            self._alone[node] = Runner(_alone(node, given, self._model), optimize=False)
        runner = self._alone[node]
        results = runner.run({i.name: given[i.name] for i in runner.inputs})
        if any(np.issubdtype(r.dtype, np.floating) for r in results):
            self.float_nodes[label(node)] = why
        return list(results)

    def _quantized(self, node: ir.Node, x: Value) -> tuple[Array, bool]:
        """Return the integers of a QuantizeLinear, and whether float32 arithmetic gives the same ones."""
        exponents, zero_point, kind = self._scales[node]
        exponent, zero = int(exponents), int(zero_point)
        if isinstance(x, Exact):
            try:
                return x.round_to(exponent, zero, kind), x.same_in_float32
            except Unsupported as reason:
                self.float_nodes[label(node)] = str(reason)
                x = x.to_float()
        steps = np.rint(np.ldexp(x.astype(np.float64), -exponent)) + zero
        return np.asarray(np.clip(steps, kind.qmin, kind.qmax)).astype(kind.name), _first(node).is_graph_input()

    def _dequantized(self, node: ir.Node, codes: Value) -> Exact:
        """Return the exact values of integers; scales of channels are brought to the finest."""
        assert isinstance(codes, np.ndarray)
        exponents, zero_point, _ = self._scales[node]
        if exponents.ndim:
            shape = [1] * codes.ndim
            shape[int(attribute(node, "axis", 1))] = -1
            exponents, zero_point = exponents.reshape(shape), zero_point.reshape(shape)
        least = int(exponents.min())
        wide = codes.astype(np.int64) - zero_point
        if int(exponents.max()) - least > 62 - 32:
            raise ModelError(f"'{label(node)}' has scales that are too far apart for 64-bit integers.")
        shifted = wide << (exponents - least)
        return Exact(shifted, least, 1, bool(np.abs(wide).max(initial=0) <= 1 << 24))


def _first(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value


def _as_array(x: Value) -> Array:
    return x.to_float() if isinstance(x, Exact) else x


def _rounding(node: ir.Node) -> tuple[Array, Array, IntType]:
    """Return exponents and zero points of a QuantizeLinear or DequantizeLinear, int64, and its integer type."""
    where = f"'{label(node)}' ({node.op_type})"
    scale = constant(node.inputs[1])
    if scale is None:
        raise ModelError(f"{where} has a scale that is not constant; the integer reference needs constant scales.")
    mantissa, exponent = np.frexp(np.asarray(scale, dtype=np.float64))
    if not np.all(mantissa == 0.5):
        bad = float(np.asarray(scale).reshape(-1)[np.argmax((mantissa != 0.5).reshape(-1))])
        raise ModelError(
            f"{where} has the scale {bad:.6g}, which is not a power of two; the integer reference runs models with"
            " power-of-two scales (preset xint8)."
        )
    if exponent.size == 1:
        exponent = exponent.reshape(())
    elif node.op_type == QUANTIZE or attribute(node, "block_size", 0):
        raise ModelError(f"{where} has several scales; the integer reference runs one scale an activation.")
    given = node.inputs[2] if len(node.inputs) > 2 else None
    zero = constant(given)
    if zero is None and given is not None:
        raise ModelError(f"{where} has a zero point that is not constant.")
    name = zero.dtype.name if zero is not None else _stored(node)
    if name not in INT_TYPES:
        raise ModelError(f"{where} stores {name}; the integer reference runs {', '.join(INT_TYPES)}.")
    zeros = np.zeros(exponent.shape, dtype=np.int64) if zero is None else zero.astype(np.int64).reshape(exponent.shape)
    return exponent.astype(np.int64) - 1, zeros, INT_TYPES[name]


def _stored(node: ir.Node) -> str:
    """Return the type of the integers where no zero point says it."""
    if node.op_type == DEQUANTIZE:
        dtype = _first(node).dtype
        return "uint8" if dtype is None else dtype.numpy().name
    given = attribute(node, "output_dtype", 0)
    return ir.DataType(given).numpy().name if given else "uint8"


def _alone(node: ir.Node, given: Mapping[str, Array], model: ir.Model) -> ir.Model:
    """Return a model of one node, its inputs those of the node in order, but for constants, which it keeps."""
    inputs: list[ir.Value | None] = []
    held: list[ir.Value] = []
    for index, value in enumerate(node.inputs):
        array = given.get(f"i{index}")
        inputs.append(None if array is None or value is None else _placeholder(f"i{index}", array))
        if inputs[-1] is not None and (fixed := constant(value)) is not None:  # an operator may tell by it what to do
            inputs[-1].const_value = ir.Tensor(fixed, name=f"i{index}")
            held.append(inputs[-1])
    copy = ir.Node(node.domain, node.op_type, inputs, list(node.attributes.values()), num_outputs=len(node.outputs))
    for index, (mine, theirs) in enumerate(zip(copy.outputs, node.outputs, strict=True)):
        mine.name = f"o{index}" if theirs.name else ""
    outputs = [o for o in copy.outputs if o.name]
    present = [v for v in inputs if v is not None and v not in held]
    opsets = dict(model.graph.opset_imports)
    graph = ir.Graph(present, outputs, nodes=[copy], initializers=held, opset_imports=opsets, name="one_node")
    return ir.Model(graph, ir_version=model.ir_version)


def _placeholder(name: str, array: Array) -> ir.Value:
    """Return an input without a shape: the next sample's may be another, and an unknown length is read as 0 by some."""
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.from_numpy(array.dtype)))
