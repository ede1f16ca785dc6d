"""Every adjoint rule against numerical differentiation, element by element."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from equiquant.backward import rules
from equiquant.backward.tape import Tape
from tests.backward.support import Array, analytic, body, noise, numerical, spaced


@dataclass(frozen=True)
class Case:
    text: str
    shape: tuple[int, ...] = (2, 4, 6, 3)
    constants: dict[str, Array] = field(default_factory=dict)
    opset: int = 17
    positive: bool = False

    @property
    def id(self) -> str:
        return self.text.replace(" ", "") + f"@{self.opset}"


def ints(*values: int) -> Array:
    return np.array(values, dtype=np.int64)


def floats(*values: float) -> Array:
    return np.array(values, dtype=np.float32)


def scalar(value: float) -> Array:
    return np.array(value, dtype=np.float32)


LINE, CUBE, MATRIX = (2, 4, 18), (1, 4, 3, 3, 4), (12, 12)
W = {"w": noise(6, 4, 3, 2)}
LINEAR = [
    Case("y = Conv (a, w)", constants=W),
    Case("y = Conv <pads = [1, 0, 2, 1]> (a, w, b)", constants={**W, "b": noise(6)}),
    Case("y = Conv <pads = [4, 0, 0, 3]> (a, w)", constants=W),
    Case("y = Conv <strides = [2, 2], pads = [1, 1, 0, 0]> (a, w)", constants=W),
    Case("y = Conv <strides = [4, 3]> (a, w)", constants={"w": noise(6, 4, 1, 1)}),
    Case("y = Conv <dilations = [2, 2], pads = [2, 1, 2, 1]> (a, w)", constants=W),
    Case('y = Conv <auto_pad = "SAME_UPPER", strides = [2, 1]> (a, w)', constants=W),
    Case('y = Conv <auto_pad = "SAME_LOWER"> (a, w)', constants=W),
    Case('y = Conv <auto_pad = "VALID", strides = [2, 2]> (a, w)', constants=W),
    Case("y = Conv <group = 4, pads = [1, 1, 1, 1]> (a, w)", constants={"w": noise(4, 1, 3, 3)}),
    Case("y = Conv <group = 2, pads = [1, 1, 1, 1]> (a, w)", constants={"w": noise(6, 2, 3, 3)}),
    Case("y = Conv <group = 2, strides = [2, 2], pads = [1, 1, 1, 1]> (a, w)", constants={"w": noise(6, 2, 3, 3)}),
    Case("y = Conv <pads = [2, 1]> (a, w)", LINE, {"w": noise(5, 4, 4)}),
    Case("y = Conv <strides = [3]> (a, w)", LINE, {"w": noise(5, 4, 4)}),
    Case("y = Conv <pads = [1, 1, 1, 1, 1, 1]> (a, w)", CUBE, {"w": noise(3, 4, 3, 3, 3)}),
    Case("y = Conv <strides = [2, 1, 2]> (a, w)", CUBE, {"w": noise(3, 4, 2, 2, 3)}),
    Case("c = ReduceMean <axes = [0, 2, 3], keepdims = 0> (a)  y = Conv (d, w, c)",
         (2, 4, 6, 3), {"d": noise(1, 2, 4, 4), "w": noise(4, 2, 3, 3)}),
    Case("y = ConvTranspose (a, w)", constants={"w": noise(4, 3, 3, 2)}),
    Case("y = ConvTranspose <strides = [2, 3], pads = [1, 0, 0, 1], output_padding = [1, 2]> (a, w)",
         constants={"w": noise(4, 3, 3, 2)}),
    Case("y = ConvTranspose <group = 2, strides = [2, 2], dilations = [2, 1]> (a, w, b)",
         constants={"w": noise(4, 3, 2, 3), "b": noise(6)}),
    Case("y = ConvTranspose <strides = [2, 2], output_shape = [12, 5]> (a, w)", constants={"w": noise(4, 3, 3, 2)}),
    Case('y = ConvTranspose <strides = [2, 2], auto_pad = "SAME_UPPER"> (a, w)', constants={"w": noise(4, 3, 3, 3)}),
    Case('y = ConvTranspose <strides = [2, 2], auto_pad = "SAME_LOWER"> (a, w)', constants={"w": noise(4, 3, 3, 3)}),
    Case("y = ConvTranspose <strides = [2]> (a, w)", LINE, {"w": noise(4, 2, 3)}),
    Case("y = ConvTranspose <strides = [2, 1, 1]> (a, w)", CUBE, {"w": noise(4, 2, 2, 3, 1)}),
    Case("y = Gemm <alpha = 0.5> (a, w, c)", MATRIX, {"w": noise(12, 5), "c": noise(5)}),
    Case("y = Gemm <transA = 1, transB = 1> (a, w)", (12, 12), {"w": noise(5, 12)}),
    Case("y = Gemm <transA = 1> (a, a)", (6, 24)),
    Case("y = Gemm <transB = 1> (a, a)", (6, 24)),
    Case("c = Neg (a)  y = Gemm <transA = 1, transB = 1> (c, a)", MATRIX),
    Case("c = ReduceMean <axes = [0], keepdims = 0> (a)  y = Gemm <beta = 2.0> (a, w, c)",
         MATRIX, {"w": noise(12, 12)}),
    Case("y = MatMul (a, w)", constants={"w": noise(3, 5)}),
    Case("y = MatMul (w, a)", constants={"w": noise(5, 6)}),
    Case("y = MatMul (a, w)", constants={"w": noise(3)}),
    Case("y = MatMul (w, a)", constants={"w": noise(6)}),
    Case("c = Transpose <perm = [0, 1, 3, 2]> (a)  y = MatMul (a, c)"),
    Case("c = ReduceMean <axes = [0, 1], keepdims = 0> (a)  d = Transpose (c)  y = MatMul (a, d)"),
    Case("c = ReduceMean <axes = [0, 1, 2], keepdims = 0> (a)  y = MatMul (a, c)"),
    Case("c = ReduceMean <axes = [0, 1, 3], keepdims = 0> (a)  y = MatMul (c, a)"),
]  # fmt: skip
UNARY = ("Relu", "Abs", "Neg", "Exp", "Sigmoid", "Tanh", "Softplus", "Sin", "Cos", "Erf")
ELEMENTWISE = [
    *(Case(f"y = {op} (a)") for op in UNARY),
    *(Case(f"y = {op} (a)", positive=True) for op in ("Sqrt", "Log", "Reciprocal")),
    *(Case(f"y = {op} (a)") for op in ("HardSigmoid", "HardSwish", "Elu", "Selu", "Celu", "Softsign", "Atan", "Sinh")),
    *(Case(f"y = {op} (a)") for op in ("Cosh", "Asinh", "Identity", "Dropout")),
    Case("b = Clip (a, lo, hi)  y = Tan (b)", constants={"lo": scalar(-1.0), "hi": scalar(1.0)}),
    Case("y = Gelu (a)", opset=20),
    Case("y = Mish (a)", opset=18),
    Case("y = ThresholdedRelu <alpha = 0.48> (a)"),
    Case("y = Shrink <lambd = 0.48> (a)"),
    Case("y = LeakyRelu <alpha = 0.2> (a)"),
    Case("y = LeakyRelu <alpha = -1.5> (a)"),
    Case("y = PRelu (a, w)", constants={"w": noise(4, 1, 1)}),
    Case("y = Clip (a, lo, hi)", constants={"lo": scalar(0.0), "hi": scalar(1.0)}),
    Case("y = Clip (a, lo)", constants={"lo": scalar(-0.48)}),
    Case("y = Clip (a, , hi)", constants={"hi": scalar(0.48)}),
    Case("y = Clip (a)"),
    Case("y = Pow (a, p)", constants={"p": scalar(2.0)}),
    Case("y = Pow (a, p)", constants={"p": floats(0.5, 2.0, 3.0)}, positive=True),
    Case("y = Pow (a, p)", (144,), {"p": ints(1, 2).reshape(2, 1)}),
    Case("b = Cast <to = 11> (a)  y = Cast <to = 1> (b)"),
]  # fmt: skip
ARITHMETIC = [
    Case("y = Add (a, w)", constants={"w": noise(4, 1, 1)}),
    Case("y = Add (a, w)", (144, 1), {"w": noise(3, 1, 2)}),
    Case("c = ReduceMean <axes = [0, 2, 3]> (a)  y = Add (a, c)"),
    Case("c = ReduceMean <axes = [0, 1, 2], keepdims = 0> (a)  y = Sub (c, a)"),
    Case("c = Neg (a)  y = Sum (a, c, a)"),
    Case("c = Tanh (a)  y = Mean (a, c, w)", constants={"w": noise(3)}),
    Case("y = Mul (a, a)"),
    Case("c = GlobalAveragePool (a)  d = Sigmoid (c)  y = Mul (a, d)"),
    Case("c = Exp (a)  y = Div (a, c)"),
    Case("y = Div (a, w)", constants={"w": floats(2.0, 3.0, 4.0)}),
    Case("c = Neg (a)  y = Max (a, w, c)", constants={"w": scalar(0.48)}),
    Case("c = Neg (a)  y = Min (c, w, a)", constants={"w": scalar(-0.48)}),
    Case("t = Greater (a, z)  c = Mul (a, a)  y = Where (t, a, c)", constants={"z": scalar(0.48)}),
    Case("c = ReduceMean <axes = [1]> (a)  y = Where (t, a, c)", constants={"t": noise(2, 4, 6, 3) > 0}),
]  # fmt: skip
SHAPING = [
    Case("y = Reshape (a, n)", constants={"n": ints(2, -1)}),
    Case("s = Shape (a)  b = Neg (a)  y = Reshape (b, s)"),
    Case("y = Flatten (a)"),
    Case("y = Squeeze (a, n)", (1, 144, 1), {"n": ints(0)}),
    Case("y = Unsqueeze (a, n)", constants={"n": ints(0, 2)}),
    Case("y = Transpose <perm = [3, 0, 2, 1]> (a)"),
    Case("y = Transpose (a)"),
    Case("c = Neg (a)  y = Concat <axis = -1> (c, w, a)", constants={"w": noise(2, 4, 6, 1)}),
    Case("c, d = Split <axis = 1> (a, n)  y = Mul (c, c)", constants={"n": ints(1, 3)}),
    Case("c, d = Split <axis = 2> (a)  y = Sub (d, c)"),
    Case("y = Slice (a, n, m, k)", constants={"n": ints(1, -4), "m": ints(9, -1), "k": ints(1, 2)}),
    Case("y = Slice (a, n, m)", constants={"n": ints(0, 1), "m": ints(1, 3)}),
    Case("y = Slice (a, n, m, k, s)", constants={"n": ints(5), "m": ints(-9), "k": ints(2), "s": ints(-2)}),
    Case("s = Shape (a)  e = Slice (s, n, m)  y = Slice (a, n, e)", constants={"n": ints(1), "m": ints(2)}),
    Case("y = Gather <axis = 1> (a, n)", constants={"n": ints(3, 0, -2, 1)}),
    Case("y = Gather <axis = 1> (a, n)", constants={"n": ints(3, 0, 0)}),
    Case("y = Gather <axis = 2> (a, n)", constants={"n": np.array(3)}),
    Case("y = GatherElements <axis = 3> (a, n)", constants={"n": np.zeros((2, 4, 6, 2), dtype=np.int64)}),
    Case("y = GatherND (a, n)", constants={"n": ints(1, 0, 1, 2).reshape(2, 2)}),
    Case("y = Pad (a, n)", constants={"n": ints(0, 1, 2, 0, 1, 0, -1, 1)}),
    Case("y = Pad (a, n, v, k)", constants={"n": ints(1, 2, 0, 1), "v": scalar(7.0), "k": ints(1, 3)}, opset=18),
    Case('y = Pad <mode = "reflect"> (a, n)', constants={"n": ints(0, 0, 2, 1, 0, 0, 1, 1)}),
    Case('y = Pad <mode = "edge"> (a, n)', constants={"n": ints(0, 0, 2, 1, 0, 0, 1, 1)}),
    Case("y = Expand (a, n)", (144, 1), {"n": ints(3, 1, 2)}),
    Case("y = Tile (a, n)", constants={"n": ints(1, 2, 1, 3)}),
    Case("y = DepthToSpace <blocksize = 2> (a)"),
    Case('y = DepthToSpace <blocksize = 2, mode = "CRD"> (a)', (1, 8, 6, 3)),
    Case("y = SpaceToDepth <blocksize = 3> (a)"),
    Case("y = Trilu <upper = 0> (a)"),
    Case('y = Resize <mode = "nearest"> (a, , s)', constants={"s": floats(1, 1, 2, 2)}),
    Case('y = Resize <mode = "linear"> (a, , s)', constants={"s": floats(1, 1, 1.7, 0.6)}),
    Case('y = Resize <mode = "linear", coordinate_transformation_mode = "align_corners"> (a, , , n)',
         constants={"n": ints(2, 4, 9, 5)}),
    Case('y = Resize <mode = "cubic"> (a, , s)', constants={"s": floats(1, 1, 1.5, 2)}),
    Case('y = Resize <coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> (a, e, e, n)',
         constants={"e": floats(), "n": ints(2, 4, 3, 7)}),
    Case('y = Resize <mode = "nearest"> (a, , s)', (4, 36), {"s": floats(2, 1)}),
    Case('y = Resize <mode = "nearest", axes = [3, 2]> (a, , s)', constants={"s": floats(2, 3)}, opset=18),
]  # fmt: skip
REDUCTIONS = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2")
POOLING = [
    Case("y = GlobalAveragePool (a)"),
    Case("y = GlobalMaxPool (a)"),
    *(Case(f"y = {op} <axes = [1, -1]> (a)") for op in REDUCTIONS),
    *(Case(f"y = {op} <axes = [2], keepdims = 0> (a)") for op in ("ReduceSumSquare", "ReduceLogSumExp", "ReduceMax")),
    Case("y = ReduceSum <keepdims = 0> (a, n)", constants={"n": ints(2)}),
    Case("y = ReduceSum (a)"),
    Case("y = ReduceSum <noop_with_empty_axes = 1> (a)"),
    Case("y = ReduceL2 <noop_with_empty_axes = 1> (a)", opset=18),
    Case("y = ReduceMax <noop_with_empty_axes = 1> (a)", opset=18),
    Case("y = ReduceMean (a, n)", constants={"n": ints(2, 3)}, opset=18),
    Case("y = AveragePool <kernel_shape = [2, 3], strides = [2, 1]> (a)"),
    Case("y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (a)"),
    Case("y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1> (a)"),
    Case("y = AveragePool <kernel_shape = [4, 2], strides = [4, 2], ceil_mode = 1> (a)"),
    Case('y = AveragePool <kernel_shape = [3, 2], strides = [2, 2], auto_pad = "SAME_UPPER"> (a)'),
    Case("y = AveragePool <kernel_shape = [3], strides = [2]> (a)", LINE),
    Case("y = AveragePool <kernel_shape = [2, 2, 2]> (a)", CUBE),
    Case("y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)"),
    Case("y = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (a)"),
    Case("y = MaxPool <kernel_shape = [3, 2], strides = [2, 2], ceil_mode = 1, dilations = [2, 1]> (a)"),
    Case('y = MaxPool <kernel_shape = [3, 3], auto_pad = "SAME_LOWER", strides = [2, 2], storage_order = 1> (a)'),
    Case("y = MaxPool <kernel_shape = [3]> (a)", LINE),
    Case("y = MaxPool <kernel_shape = [2, 2, 2]> (a)", CUBE),
]  # fmt: skip
STATISTICS = {"m": noise(4), "v": np.abs(noise(4)) + 0.1, "s": noise(4, seed=1), "b": noise(4, seed=2)}
NORMALIZATION = [
    Case("y = BatchNormalization <epsilon = 0.1> (a, s, b, m, v)", constants=STATISTICS),
    Case("y = InstanceNormalization (a, s, b)", constants={k: STATISTICS[k] for k in "sb"}),
    Case("y = LayerNormalization (a, s, b)", (12, 12), {"s": noise(12), "b": noise(12)}),
    Case("y = LayerNormalization <axis = 1, epsilon = 0.1> (a, s)", constants={"s": noise(4, 6, 3)}),
    Case("y = Softmax (a)", MATRIX),
    Case("y = Softmax <axis = 1> (a)"),
    Case("y = LogSoftmax <axis = 0> (a)", MATRIX),
]  # fmt: skip
CASES = [*LINEAR, *ELEMENTWISE, *ARITHMETIC, *SHAPING, *POOLING, *NORMALIZATION]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_the_gradient_is_the_numerical_one(case: Case) -> None:
    model = body(case.text, case.shape, case.opset, **case.constants)
    x = spaced(case.positive)
    gradient, v, seeded = analytic(model, x)
    assert seeded == ["y"]
    expected = numerical(model, x, v)
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=2e-3 * np.abs(expected).max())


def test_every_rule_has_a_case() -> None:
    tested = {n for case in CASES for n in rules.RULES if f"= {n} " in case.text}
    untested = set(rules.RULES) - tested - set(rules.NOTHING)
    assert untested == {"CastLike", "Swish"}  # Swish: opset 24; CastLike: as Cast


@pytest.mark.parametrize("case", [LINEAR[0], POOLING[0]], ids=lambda c: c.id)
def test_the_comparison_finds_a_wrong_rule(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    send = Tape.send
    monkeypatch.setattr(Tape, "send", lambda t, v, g: send(t, v, t.op("Mul", g, t.number(1.01))))
    with pytest.raises(AssertionError):
        test_the_gradient_is_the_numerical_one(case)
