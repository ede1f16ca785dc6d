"""The operators that absorb a per-channel affine map exactly: Conv, ConvTranspose, Gemm, MatMul with a constant.

With y = W·x + b, channels o of the output and i of the input:

    after:   s∘y + t       = (s∘W)·x + (s∘b + t)
    before:  W·(s∘x + t)+b = (W∘s)·x + (W·t + b)        exact only where no padding is added to x, unless t = 0

Gemm's alpha goes into W and its beta into b. A MatMul has no bias: the Add of a per-channel constant right after it
is taken as its bias, and one is inserted where there is none. All arithmetic is float64, each parameter is written
once, in the type it had. Source: ONNX operator specification; Jacob et al., arXiv:1712.05877, section 3.2 (folding).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.canonical.rule import refuse
from equiquant.graph.edit import Names, add_initializer, own_constant
from equiquant.graph.query import FLOAT_KINDS, LINEAR_OPS, attribute, constant, label, rank, sole_consumer

__all__ = ["Linear", "Parameters", "linear_at", "linear_producing", "multiply"]

Array = npt.NDArray[Any]
Factor = Array | None  # float64, shape (C,); None is 1 for a scale and 0 for a shift


@dataclass(frozen=True, eq=False)
class Parameters:
    """New parameters of a linear operator, in its own type.

    Attributes:
        weight: As the operator stores it; None leaves it alone.
        bias: Shape (output channels,); None leaves it alone.
    """

    weight: Array | None
    bias: Array | None


@dataclass(frozen=True, eq=False)
class Linear:
    """A Conv, ConvTranspose, Gemm or MatMul, with the Add that serves a MatMul as bias.

    Attributes:
        node: The operator.
        add: The Add of a constant after a MatMul, if there is one.
    """

    node: ir.Node
    add: ir.Node | None = None

    @property
    def output(self) -> ir.Value:
        """What the operator, with its bias, computes."""
        return (self.add or self.node).outputs[0]

    @property
    def data(self) -> ir.Value:
        """The input that is not a parameter."""
        value = self.node.inputs[0]
        assert value is not None
        return value

    def weight(self) -> Array:
        """Return the weight, as stored; refuse if it is not constant."""
        array = constant(self.node.inputs[1])
        if array is None:
            refuse(f"the weight of '{label(self.node)}' is not a constant")
        return array

    def channels(self) -> tuple[int, int]:
        """Return the number of input and of output channels."""
        w = self.weight()
        match self.node.op_type:
            case "Conv":
                return w.shape[1] * self._group, w.shape[0]
            case "ConvTranspose":
                return w.shape[0], w.shape[1] * self._group
            case "Gemm" if self._transposed:
                return w.shape[1], w.shape[0]
        return w.shape[-2], w.shape[-1]

    def output_axis(self) -> tuple[int, int]:
        """Return the channel axis of the output, counted from the front, and the output's rank."""
        if self.node.op_type == "MatMul":
            return _last_axis(self.output, self.node)
        return 1, self.weight().ndim

    def input_axis(self) -> tuple[int, int]:
        """Return the channel axis of the data input, counted from the front, and its rank."""
        if self.node.op_type == "MatMul":
            return _last_axis(self.data, self.node)
        if self.node.op_type == "Gemm" and attribute(self.node, "transA", 0):
            refuse(f"'{label(self.node)}' transposes its input")
        return 1, self.weight().ndim

    def _obstacle(self) -> str | None:
        """Return why a shift of the data is not the same shift of the output everywhere, None if it is."""
        node = self.node
        if node.op_type == "ConvTranspose":
            return "spreads its input, so a shift of it differs from place to place"
        if node.op_type == "MatMul" and self.weight().ndim != 2:
            return "has a stack of matrices as weight"
        if node.op_type != "Conv":
            return None
        mode = attribute(node, "auto_pad", "NOTSET")
        if mode == "NOTSET":
            padded = any(p != 0 for p in attribute(node, "pads", ()))
        else:
            padded = mode != "VALID" and any(k != 1 for k in self.weight().shape[2:])
        return "pads its input with zeros, which a shift would have to reach too" if padded else None

    def after(self, scale: Factor, shift: Factor) -> Parameters:
        """Return the parameters that compute scale∘y + shift, shapes (output channels,)."""
        w, b = self.weight(), self._bias()
        weight = self._times(w, None if scale is None else self._spread_out(scale))
        if b is not None and scale is not None:
            b = b * scale
        return Parameters(weight, self._cast_bias(_add(b, shift), w.dtype))

    def before(self, scale: Factor, shift: Factor) -> Parameters:
        """Return the parameters that compute the operator of scale∘x + shift, shapes (input channels,)."""
        w, bias = self.weight(), None
        if shift is not None and np.any(shift):
            if obstacle := self._obstacle():
                refuse(f"'{label(self.node)}' {obstacle}")
            taps = self._alpha * w.astype(np.float64) * self._spread_in(shift)
            passed = taps.sum(axis=tuple(a for a in range(w.ndim) if a != self._output_weight_axis))
            bias = self._cast_bias(_add(self._bias(), passed), w.dtype)
        return Parameters(self._times(w, None if scale is None else self._spread_in(scale)), bias)

    def write(self, parameters: Parameters, names: Names) -> None:
        """Store new parameters; an initializer that anything else reads is left alone and replaced by a new one."""
        node = self.node
        if parameters.weight is not None:
            own_constant(node, 1, parameters.weight, f"{node.name}.weight", names)
            node.attributes.pop("alpha", None)
        if parameters.bias is None:
            return
        node.attributes.pop("beta", None)
        name = f"{node.name}.bias"
        if node.op_type != "MatMul":
            own_constant(node, 2, parameters.bias, name, names)
        elif self.add is not None:
            own_constant(self.add, _constant_side(self.add), parameters.bias, name, names)
        else:
            _insert_add(node, parameters.bias, names)

    @property
    def _group(self) -> int:
        return int(attribute(self.node, "group", 1))

    @property
    def _transposed(self) -> bool:
        return bool(attribute(self.node, "transB", 0))

    @property
    def _alpha(self) -> float:
        return float(attribute(self.node, "alpha", 1.0)) if self.node.op_type == "Gemm" else 1.0

    @property
    def _output_weight_axis(self) -> int:
        if self.node.op_type == "Conv" or (self.node.op_type == "Gemm" and self._transposed):
            return 0
        return self.weight().ndim - 1

    def _bias(self) -> Array | None:
        """Return the bias as it is added, float64 of shape (output channels,), None if there is none."""
        holder, index = (self.node, 2) if self.add is None else (self.add, _constant_side(self.add))
        if self.node.op_type == "MatMul" and self.add is None:
            return None
        value = holder.inputs[index] if index < len(holder.inputs) else None
        if value is None:
            return None
        array, outputs = constant(value), self.channels()[1]
        if array is None:
            refuse(f"the bias of '{label(self.node)}' is not a constant")
        if array.size not in (1, outputs) or (array.ndim and array.shape[-1] != array.size):
            refuse(f"the bias of '{label(self.node)}' is not per channel (shape {array.shape})")
        beta = float(attribute(self.node, "beta", 1.0)) if self.node.op_type == "Gemm" else 1.0
        return beta * np.broadcast_to(array.astype(np.float64).reshape(-1), (outputs,))

    def _times(self, weight: Array, factor: Array | None) -> Array | None:
        """Return weight·factor·alpha in the weight's type, None if that is the weight itself."""
        if factor is None and self._alpha == 1.0:
            return None
        whole = np.float64(self._alpha) if factor is None else factor * self._alpha
        return multiply(weight, whole, f"the weight of '{label(self.node)}'")

    def _cast_bias(self, bias: Array | None, dtype: Any) -> Array | None:
        return None if bias is None else _cast(bias, dtype, f"the bias of '{label(self.node)}'")

    def _spread_out(self, factor: Array) -> Array:
        """Shape a factor (output channels,) to broadcast against the weight."""
        w = self.weight()
        match self.node.op_type:
            case "Conv":
                return factor.reshape(-1, *[1] * (w.ndim - 1))
            case "ConvTranspose":  # weight (I, O/group, k…): rows of one group share its output channels
                rows = np.repeat(factor.reshape(self._group, -1), w.shape[0] // self._group, axis=0)
                return rows.reshape(*rows.shape, *[1] * (w.ndim - 2))
            case "Gemm" if self._transposed:
                return factor[:, None]
        return factor

    def _spread_in(self, factor: Array) -> Array:
        """Shape a factor (input channels,) to broadcast against the weight."""
        w = self.weight()
        match self.node.op_type:
            case "Conv":  # weight (O, I/group, k…)
                rows = np.repeat(factor.reshape(self._group, -1), w.shape[0] // self._group, axis=0)
                return rows.reshape(*rows.shape, *[1] * (w.ndim - 2))
            case "ConvTranspose":
                return factor.reshape(-1, *[1] * (w.ndim - 1))
            case "Gemm" if self._transposed:
                return factor
        return factor[:, None]


def linear_at(node: ir.Node) -> Linear | None:
    """Return the linear operator whose node this is, with the bias Add of a MatMul; None for other operators."""
    if node.op_type not in LINEAR_OPS or node.domain != "" or len(node.inputs) < 2 or node.inputs[0] is None:
        return None
    if node.op_type != "MatMul":
        return Linear(node)
    weight = constant(node.inputs[1])
    if weight is None or weight.ndim < 2:
        return None
    add = sole_consumer(node.outputs[0])
    return Linear(node, add if add is not None and _is_bias(add, node, weight.shape[-1]) else None)


def linear_producing(value: ir.Value | None) -> Linear | None:
    """Return the linear operator whose result `value` is, None if it is something else's."""
    node = None if value is None else value.producer()
    if node is None:
        return None
    if node.op_type == "Add" and node.domain == "":
        producers = [None if v is None else v.producer() for v in node.inputs]
        found = next((p for p in producers if p is not None and p.op_type == "MatMul"), None)
        linear = None if found is None else linear_at(found)
        return linear if linear is not None and linear.add is node else None
    linear = linear_at(node)
    return None if linear is None else Linear(linear.node)


def _is_bias(add: ir.Node, matmul: ir.Node, outputs: int) -> bool:
    if add.op_type != "Add" or add.domain != "":
        return False
    bias, ranks = constant(add.inputs[_constant_side(add)]), rank(matmul.outputs[0])
    if bias is None or bias.ndim > (1 if ranks is None else ranks):
        return False
    return bias.size == 1 or bias.size == bias.shape[-1] == outputs


def _constant_side(add: ir.Node) -> int:
    return 0 if constant(add.inputs[0]) is not None else 1


def _last_axis(value: ir.Value, node: ir.Node) -> tuple[int, int]:
    dimensions = rank(value)
    if not dimensions:
        refuse(f"the rank of the data of '{label(node)}' is unknown")
    return dimensions - 1, dimensions


def _add(a: Array | None, b: Array | None) -> Array | None:
    if a is None or b is None:
        return b if a is None else a
    return np.asarray(a + b)


def multiply(array: Array, factor: Any, what: str) -> Array:
    """Return array·factor, computed in float64, in the array's type; refuse integers, and what leaves its range."""
    if array.dtype.kind not in FLOAT_KINDS:
        refuse(f"{what} are integers")
    if array.dtype.itemsize < 4:
        return _cast(array.astype(np.float64) * factor, array.dtype, what)
    result = np.empty(array.shape, array.dtype)
    with np.errstate(over="ignore", under="ignore"):  # numpy converts in small blocks: no float64 copy of the weight
        np.multiply(array, factor, out=result, dtype=np.float64, casting="unsafe")
    if not np.isfinite(result).all():
        refuse(f"{what} would leave the range of {result.dtype.name}")
    return result


def _cast(array: Array, dtype: Any, what: str) -> Array:
    """Return float64 numbers in `dtype`; refuse if they leave its range, or a short type's precision."""
    with np.errstate(over="ignore", under="ignore"):
        result = array.astype(dtype)
    lost = not np.isfinite(result.astype(np.float64)).all()
    if result.dtype.itemsize < 4 and not lost:
        error = np.abs(result.astype(np.float64) - array).max(initial=0.0)
        lost = bool(error > np.abs(array).max(initial=0.0) / 100)  # bfloat16 rounds to one part in 256
    if lost:
        refuse(f"{what} would leave the range of {result.dtype.name}")
    return np.asarray(result)


def _insert_add(matmul: ir.Node, bias: Array, names: Names) -> None:
    """Put an Add of `bias` between a MatMul and its readers; a graph output keeps its name."""
    graph, out = matmul.graph, matmul.outputs[0]
    assert graph is not None
    inner = names.fresh(f"{out.name}_product")
    name = out.name
    total = ir.Value(name=name, shape=out.shape, type=out.type)
    out.replace_all_uses_with(total, replace_graph_outputs=True)
    out.name = inner
    constant_bias = add_initializer(graph, names.fresh(f"{matmul.name}.bias"), bias)
    add = ir.Node("", "Add", [out, constant_bias], outputs=[total], name=names.fresh(f"{matmul.name}_bias"))
    graph.insert_after(matmul, add)
