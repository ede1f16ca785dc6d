"""Every row of the op table, end to end: Add -> op -> Add, quantized, run as written, compared with float."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from equiquant.qdq import store_unsigned
from equiquant.recipe import Recipe, preset
from equiquant.target.table.ops import OPS
from tests.qdq.support import Array, noise, parse, quantize, run, sqnr


@dataclass(frozen=True)
class Case:
    op: str
    call: str
    shape: tuple[int, ...] = (2, 4, 6, 6)
    constants: dict[str, Array] = field(default_factory=dict)
    opset: int = 17
    moves: bool = False

    @property
    def id(self) -> str:
        return self.call.replace(" ", "")


def _ints(*values: int) -> Array:
    return np.array(values, dtype=np.int64)


def _float(value: float) -> Array:
    return np.array(value, dtype=np.float32)


CONV = {"w": noise(8, 4, 3, 3, seed=1), "bias": noise(8, seed=2)}
GEMM = {"w": noise(16, 8, seed=1), "bias": noise(8, seed=2)}
TALL = (6, 16)
CASES = [
    Case("Conv", "Conv <pads = [1, 1, 1, 1]> (a, w, bias)", constants=CONV),
    Case("Conv", "Conv <group = 4> (a, w)", constants={"w": noise(4, 1, 3, 3)}),
    Case("Conv", "Conv (a, w, bias)", (2, 4, 12), {"w": noise(8, 4, 3), "bias": noise(8)}),
    Case("ConvTranspose", "ConvTranspose (a, w, bias)", constants={"w": noise(4, 8, 3, 3), "bias": noise(8)}),
    Case("ConvTranspose", "ConvTranspose <group = 2> (a, w)", constants={"w": noise(4, 3, 3, 3)}),
    Case("Gemm", "Gemm (a, w, bias)", TALL, GEMM),
    Case("Gemm", "Gemm <transB = 1> (a, w)", TALL, {"w": noise(8, 16)}),
    Case("Gemm", "Gemm <alpha = 0.5, beta = 2.0> (a, w, bias)", TALL, GEMM),
    Case("Gemm", "Gemm <alpha = -1.0> (a, w, bias)", TALL, GEMM),
    Case("MatMul", "MatMul (a, w)", TALL, {"w": noise(16, 8)}),
    Case("MatMul", "MatMul (w, a)", TALL, {"w": noise(8, 6)}),
    Case("MatMul", "MatMul (a, a)", (2, 6, 6)),
    Case("Add", "Add (a, w)", constants={"w": noise(4, 1, 1)}),
    Case("Add", "Add (a, a)"),
    Case("Mul", "Mul (a, w)", constants={"w": noise(4, 1, 1)}),
    Case("Mul", "Mul (a, a)"),
    Case("Sub", "Sub (w, a)", constants={"w": noise(4, 1, 1)}),
    Case("Div", "Div (a, w)", constants={"w": np.array([2.0, 3.0, 1.5, 5.0], np.float32).reshape(4, 1, 1)}),
    Case("Sum", "Sum (a, a, w)", constants={"w": noise(4, 1, 1)}),
    Case("Max", "Max (a, w)", constants={"w": noise(4, 1, 1)}),
    Case("Min", "Min (a, w)", constants={"w": noise(4, 1, 1)}),
    Case("Concat", "Concat <axis = 1> (a, w, a)", constants={"w": noise(2, 3, 6, 6)}),
    Case("AveragePool", "AveragePool <kernel_shape = [2, 2]> (a)"),
    Case("GlobalAveragePool", "GlobalAveragePool (a)"),
    Case("ReduceMean", "ReduceMean <axes = [2, 3]> (a)"),
    Case("Relu", "Relu (a)"),
    Case("Clip", "Clip (a, lo, hi)", constants={"lo": _float(-0.5), "hi": _float(1.0)}),
    Case("LeakyRelu", "LeakyRelu <alpha = 0.2> (a)"),
    Case("PRelu", "PRelu (a, w)", constants={"w": noise(4, 1, 1)}),
    Case("Sigmoid", "Sigmoid (a)"),
    Case("HardSigmoid", "HardSigmoid (a)"),
    Case("HardSwish", "HardSwish (a)"),
    Case("Tanh", "Tanh (a)"),
    Case("Elu", "Elu (a)"),
    Case("Gelu", "Gelu (a)", opset=20),
    Case("Softmax", "Softmax <axis = 1> (a)"),
    Case("MaxPool", "MaxPool <kernel_shape = [2, 2]> (a)", moves=True),
    Case("GlobalMaxPool", "GlobalMaxPool (a)", moves=True),
    Case("ReduceMax", "ReduceMax <axes = [2]> (a)", moves=True),
    Case("ReduceMin", "ReduceMin <axes = [2]> (a)", moves=True),
    Case("Reshape", "Reshape (a, n)", constants={"n": _ints(2, -1)}, moves=True),
    Case("Flatten", "Flatten (a)", moves=True),
    Case("Transpose", "Transpose <perm = [0, 2, 3, 1]> (a)", moves=True),
    Case("Squeeze", "Squeeze (a, n)", (2, 1, 6), {"n": _ints(1)}, moves=True),
    Case("Unsqueeze", "Unsqueeze (a, n)", (2, 6), {"n": _ints(1)}, moves=True),
    Case("Slice", "Slice (a, n, m, n)", constants={"n": _ints(1), "m": _ints(3)}, moves=True),
    Case("Split", "Split <axis = 1> (a, n)", constants={"n": _ints(4)}, moves=True),
    Case("Gather", "Gather <axis = 1> (a, n)", constants={"n": _ints(2, 0)}, moves=True),
    Case("Identity", "Identity (a)", moves=True),
    Case("Dropout", "Dropout (a)", moves=True),
    Case("DepthToSpace", "DepthToSpace <blocksize = 2> (a)", moves=True),
    Case("SpaceToDepth", "SpaceToDepth <blocksize = 2> (a)", moves=True),
    Case("Expand", "Expand (a, n)", (2, 1, 6), {"n": _ints(2, 3, 6)}, moves=True),
    Case("Tile", "Tile (a, n)", (2, 6), {"n": _ints(1, 2)}, moves=True),
    Case("Pad", "Pad (a, n)", (2, 6), {"n": _ints(0, 1, 0, 1)}, moves=True),
    Case("Pad", 'Pad <mode = "reflect"> (a, n)', (2, 6), {"n": _ints(0, 1, 0, 1)}, moves=True),
    Case("Pad", "Pad (a, n, v)", (2, 6), {"n": _ints(0, 1, 0, 1), "v": _float(9.0)}),
    Case("Resize", "Resize (a, , n)", constants={"n": np.array([1, 1, 2, 2], np.float32)}, moves=True),
    Case("Resize", 'Resize <mode = "linear"> (a, , n)', constants={"n": np.array([1, 1, 2, 2], np.float32)}),
]


def test_every_row_of_the_table_has_a_case() -> None:
    assert {c.op for c in CASES} == set(OPS)


def _recipes(op: str) -> list[tuple[Recipe, float]]:
    """Recipes that quantize the op, with the least SQNR expected of three roundings and a weight."""
    wanted = (op, "Add")
    return [
        (preset("a8w8", op_types_to_quantize=wanted), 28.0),
        (preset("a8w8_per_channel", op_types_to_quantize=wanted), 28.0),
        (preset("a16w8", op_types_to_quantize=wanted), 30.0),
        (preset("xint8", op_types_to_quantize=wanted), 20.0),
        (preset("a8w8", activation_type="int8", weight_type="uint8", op_types_to_quantize=wanted), 28.0),
    ]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_the_quantized_op_is_close_to_float_but_not_float(case: Case) -> None:
    dims = ",".join(map(str, case.shape))
    text = f"g (float[{dims}] x) => (float[] y) {{ a = Add(x, first)  b = {case.call}  y = Add(b, last) }}"
    model = parse(text, case.opset, first=_float(0.25), last=_float(-0.5), **case.constants)
    feed = {"x": noise(*case.shape, seed=5)}
    (reference,) = run(model, feed)
    name = next(n.name for n in model.graph if n.outputs[0].name == "b")
    for recipe, least in _recipes(case.op):
        quantized, plan = quantize(model, recipe, [feed])
        assert name in plan.nodes
        assert name not in plan.kept_float
        (result,) = run(quantized, feed)
        assert result.shape == reference.shape
        assert least < sqnr(reference, result) < 100, recipe.name
        store_unsigned(quantized)  # the form whose kernels overflow on no CPU
        (fused,) = run(quantized, feed, optimize=True)  # onnxruntime's integer kernels mean the same
        assert least - 3 < sqnr(reference, fused) < 100, recipe.name
        if case.moves:
            assert plan.activations["a"] == plan.activations["b"]
