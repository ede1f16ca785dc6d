"""The integer reference: every operator against onnxruntime, the last bit where float32 is exact, and seeded faults."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from equiquant import io, quantize
from equiquant.errors import DataError, ModelError
from equiquant.graph.query import constant
from equiquant.numerics.affine import INT_TYPES
from equiquant.recipe import preset
from equiquant.target import HARDWARE
from equiquant.verify.integer import IntegerAgreement, IntegerModel, executor, integer_agreement
from equiquant.verify.integer.exact import Exact, Unsupported, align, exact_of, halve_to_even, multiply
from tests.qdq import support
from tests.qdq.support import noise
from tests.qdq.test_every_op import CASES, Case

FLOAT_ONLY = {"Div", "Sigmoid", "Tanh", "Elu", "Gelu", "Softmax"}
SPATIAL = (2, 4, 11, 9)
UP = (2, 3, 5, 4)  # what a ConvTranspose or a Resize makes larger


def _case(call: str, shape: tuple[int, ...], **constants: Any) -> Case:
    return Case(call.split()[0], call, shape, {name: np.asarray(a) for name, a in constants.items()})


def _conv(attributes: str, weight: Any, shape: tuple[int, ...] = SPATIAL) -> Case:
    return _case(f"Conv <{attributes}> (a, w)", shape, w=weight)


def _transposed(attributes: str, weight: Any, shape: tuple[int, ...] = UP) -> Case:
    return _case(f"ConvTranspose <{attributes}> (a, w)", shape, w=weight)


def _resize(coordinates: str, nearest: str, inputs: str, factors: Any) -> Case:
    attributes = f'coordinate_transformation_mode = "{coordinates}", nearest_mode = "{nearest}"'
    return _case(f"Resize <{attributes}> ({inputs})", UP, n=factors)


OBLONG, SQUARE = noise(8, 4, 3, 2, seed=3), noise(3, 4, 3, 3)
PADDED = "pads = [1, 1, 1, 1]"
COORDINATES = ("asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel")
ROUNDINGS = ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
LAST = {"s": [-1], "e": [-100], "d": [1], "n": [-2]}
GEOMETRY = [
    _conv("strides = [2, 3], dilations = [2, 1], pads = [1, 0, 2, 1]", OBLONG),
    _conv('auto_pad = "SAME_UPPER", strides = [2, 2]', OBLONG),
    _conv('auto_pad = "SAME_LOWER", strides = [3, 2]', OBLONG),
    _conv('auto_pad = "VALID"', OBLONG),
    _conv(f"group = 2, {PADDED}", noise(6, 2, 3, 3)),
    _conv("group = 4", noise(8, 1, 3, 3)),
    _conv("pads = [1, 0, 1, 0, 1, 0]", noise(4, 3, 3, 2, 2), (2, 3, 5, 6, 4)),
    _transposed("strides = [2, 3], pads = [1, 0, 0, 1]", SQUARE),
    _transposed("strides = [2, 2], output_padding = [1, 1], dilations = [2, 1]", SQUARE),
    _transposed('auto_pad = "SAME_UPPER", strides = [2, 2]', SQUARE),
    _transposed('auto_pad = "SAME_LOWER", strides = [2, 2]', SQUARE),
    _transposed("output_shape = [11, 9], strides = [2, 2]", SQUARE),
    _transposed("strides = [2], group = 3", noise(3, 2, 4), (2, 3, 5)),
    _case(f"AveragePool <kernel_shape = [3, 3], strides = [2, 2], {PADDED}> (a)", SPATIAL),
    _case(f"AveragePool <kernel_shape = [3, 3], {PADDED}, count_include_pad = 1> (a)", SPATIAL),
    _case("AveragePool <kernel_shape = [3, 2], strides = [2, 2], ceil_mode = 1> (a)", SPATIAL),
    _case(
        f"AveragePool <kernel_shape = [3, 3], strides = [3, 3], {PADDED}, ceil_mode = 1, count_include_pad = 1> (a)",
        SPATIAL,
    ),
    _case(f"MaxPool <kernel_shape = [3, 3], strides = [2, 2], {PADDED}> (a)", SPATIAL),
    _case("MaxPool <kernel_shape = [3, 2], strides = [2, 2], ceil_mode = 1, dilations = [2, 1]> (a)", SPATIAL),
    _case("ReduceMean <axes = [1], keepdims = 0> (a)", (2, 4, 6, 6)),
    _case("Clip (a, , hi)", (2, 4, 6, 6), hi=np.float32(0.7)),
    _case("Slice (a, s, e, d, n)", (2, 7, 5), **LAST),
    _case("Slice (a, s, e, d, n)", (2, 7, 5), **{**LAST, "s": [-100]}),
    _case("Reshape (a, n)", (2, 6, 5), n=[0, -1, 2]),
    _case('DepthToSpace <blocksize = 2, mode = "CRD"> (a)', (2, 4, 6, 6)),
    _case('Pad <mode = "edge"> (a, n)', (2, 6), n=[0, 2, 0, 1]),
    *(
        _resize(c, r, "a, , n", np.array([1, 1, 1.8, 2.5], np.float32))
        for c, r in itertools.product(COORDINATES, ROUNDINGS)
    ),
    _resize("asymmetric", "floor", "a, , , n", [2, 3, 10, 3]),
]


def quantized(
    text: str, shape: tuple[int, ...], opset: int = 17, bias_type: Any = "int8", **constants: Any
) -> ir.Model:
    """Return the XINT8 model of a graph, without equalization, every operator of the target quantized."""
    model = support.parse(text, opset, **constants)
    recipe = preset("xint8", bias_type=bias_type, op_types_to_quantize=sorted(HARDWARE["npu_cnn"].quantized))
    return support.quantize(model, recipe, [{"x": noise(*shape, seed=5)}])[0]


def of_case(case: Case) -> ir.Model:
    dims = ",".join(map(str, case.shape))
    text = f"g (float[{dims}] x) => (float[] y) {{ a = Add(x, first)  b = {case.call}  y = Add(b, last) }}"
    first, last = np.array(0.25, np.float32), np.array(-0.5, np.float32)
    return quantized(text, case.shape, case.opset, "int8", first=first, last=last, **case.constants)


def agreement(model: ir.Model, *shape: int, count: int = 3) -> IntegerAgreement:
    return integer_agreement(model, [{"x": noise(*shape, seed=k)} for k in range(count)])


def check(found: IntegerAgreement) -> None:
    """Assert agreement, tensor by tensor, with a message."""
    assert [t for t in found.tensors if not t.agrees] == []
    assert found.agrees
    assert found.integer_nodes > 0


@pytest.mark.parametrize("case", [*CASES, *GEOMETRY], ids=lambda c: c.id)
def test_every_operator_agrees(case: Case) -> None:
    found = agreement(of_case(case), *case.shape)
    check(found)
    in_float = case.op in FLOAT_ONLY or "linear" in case.call
    assert len(found.float_nodes) == int(in_float), found.float_nodes
    for output in found.outputs:
        assert output.different <= 0.01 * output.values, output


NETWORK = """g (float[2,3,12,12] x) => (float[2,10] y) {
    c = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
    r = Relu(c)
    d = Conv <pads = [1, 1, 1, 1], group = 8> (r, w1, b1)
    l = LeakyRelu <alpha = 0.1015625> (d)
    s = Add(l, r)
    p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (s)
    q = GlobalAveragePool(p)
    f = Flatten(q)
    y = Gemm(f, w2, b2)
}"""
WEIGHTS: dict[str, Any] = {
    "w0": noise(8, 3, 3, 3, seed=1),
    "b0": noise(8, seed=2),
    "w1": noise(8, 1, 3, 3, seed=3),
    "b1": noise(8, seed=4),
    "w2": noise(8, 10, seed=6),
    "b2": noise(10, seed=7),
}


@pytest.mark.parametrize("bias", ["int8", "int16", "int32"])
def test_a_network_is_the_same_to_the_last_bit(bias: str) -> None:
    found = agreement(quantized(NETWORK, (2, 3, 12, 12), 21, bias_type=bias, **WEIGHTS), 2, 3, 12, 12)
    check(found)
    assert found.float_nodes == {}
    exact = [t for t in found.tensors if t.exact]
    inexact = 2 if bias == "int16" else 1  # the mean of 36 values, and a slope times a sum that a fine bias widened
    assert len(exact) >= len(found.tensors) - inexact
    assert all(t.different == 0 for t in exact)
    assert found.outputs[0].different == 0


def _half_up(codes: Any, bits: int) -> Any:
    return (codes + (1 << (bits - 1))) >> bits


def _one_bit_off(codes: Any, bits: int) -> Any:
    return halve_to_even(codes, bits + 1)


def _truncate(codes: Any, bits: int) -> Any:
    return codes >> bits


@pytest.mark.parametrize("fault", [_half_up, _one_bit_off, _truncate])
def test_a_wrong_shift_is_found(monkeypatch: pytest.MonkeyPatch, fault: Callable[[Any, int], Any]) -> None:
    module = importlib.import_module("equiquant.verify.integer.exact")
    monkeypatch.setattr(module, "halve_to_even", fault)
    assert not agreement(quantized(NETWORK, (2, 3, 12, 12), **WEIGHTS), 2, 3, 12, 12).agrees


@pytest.mark.parametrize("name", ["w0", "b0", "b1", "w2"])
def test_a_changed_parameter_is_found(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    model = quantized(NETWORK, (2, 3, 12, 12), **WEIGHTS)

    def wrong(value: ir.Value | None) -> Any:
        array = constant(value)
        return array // 2 if array is not None and value is not None and value.name == f"{name}_quantized" else array

    monkeypatch.setattr(executor, "constant", wrong)
    assert not agreement(model, 2, 3, 12, 12).agrees


def test_a_scale_off_by_two_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model = quantized(NETWORK, (2, 3, 12, 12), **WEIGHTS)
    original = executor._rounding

    def wrong(node: ir.Node) -> Any:
        exponent, zero, kind = original(node)
        return (exponent + 1 if (node.name or "").startswith("b1_") else exponent), zero, kind

    monkeypatch.setattr(executor, "_rounding", wrong)
    assert not agreement(model, 2, 3, 12, 12).agrees


def test_what_runs_in_float_is_said() -> None:
    text = """g (float[1,4,6,6] x) => (float[1,4] y) {
        c = Conv(x, w)  p = GlobalAveragePool(c)  f = Flatten(p)  y = Softmax(f) }"""
    found = agreement(quantized(text, (1, 4, 6, 6), w=noise(4, 4, 3, 3)), 1, 4, 6, 6)
    check(found)
    assert list(found.float_nodes.values()) == ["Softmax has no integer form here"]


@pytest.mark.parametrize(
    "case",
    [
        _case('MaxPool <kernel_shape = [3, 3], auto_pad = "SAME_UPPER", dilations = [2, 2]> (a)', SPATIAL),
        _transposed('auto_pad = "SAME_UPPER", strides = [4, 4]', SQUARE),
    ],
    ids=lambda c: c.op,
)
def test_what_onnxruntime_pads_in_its_own_way_runs_in_float(case: Case) -> None:
    found = agreement(of_case(case), *case.shape)
    check(found)
    (why,) = found.float_nodes.values()
    assert "auto_pad" in why


def test_outputs_that_no_node_reads_and_results_left_out() -> None:
    text = """g (float[1,4,6,6] x) => (float[] y, float[5,2] anchors, float[3] k) {
        c = Conv(x, w)  k = Constant <value = float[3] {1, 2, 3}> ()  s = Reshape(c, n)
        , h = GRU <hidden_size = 3> (s, v, r)  y = Relu(h) }"""
    constants: dict[str, Any] = {
        "anchors": noise(5, 2),
        "n": np.array([4, 1, 16]),
        "v": noise(1, 9, 16),
        "r": noise(1, 9, 3),
    }
    found = agreement(quantized(text, (1, 4, 6, 6), w=noise(4, 4, 3, 3), **constants), 1, 4, 6, 6)
    check(found)
    assert [o.different for o in found.outputs][1:] == [0, 0]


def test_sequences_are_refused_by_name() -> None:
    text = """g (float[1,4,6,6] x) => (float[] y) {
        c = Conv(x, w)  [apart] s = SplitToSequence <axis = 1> (c)  y = ConcatFromSequence <axis = 2> (s) }"""
    with pytest.raises(ModelError, match=r"'apart' \(SplitToSequence\) makes a sequence"):
        agreement(quantized(text, (1, 4, 6, 6), w=noise(4, 4, 3, 3)), 1, 4, 6, 6)


def test_a_node_left_float_and_its_reader() -> None:
    text = "g (float[1,4,6,6] x) => (float[1,4,2,2] y) { c = Conv(x, w)  r = Sigmoid(c)  d = Conv(r, w)  y = Relu(d) }"
    model = support.parse(text, w=noise(4, 4, 3, 3))
    excluded = [n.name or "" for n in model.graph if n.op_type == "Sigmoid"]
    recipe = preset("xint8", nodes_to_exclude=tuple(excluded))
    done, _ = support.quantize(model, recipe, [{"x": noise(1, 4, 6, 6)}])
    found = agreement(done, 1, 4, 6, 6)
    check(found)
    assert set(found.float_nodes) == set(excluded)


def test_shapes_computed_in_the_graph_are_no_float_nodes() -> None:
    text = """g (float[N,4,6,6] x) => (float[] y) {
        c = Conv(x, w)  s = Shape(c)  n = Gather(s, zero)  u = Unsqueeze(n, zeros)  t = Concat <axis = 0> (u, rest)
        y = Reshape(c, t) }"""
    constants: dict[str, Any] = {"zero": np.array(0), "zeros": np.array([0]), "rest": np.array([-1])}
    found = agreement(quantized(text, (1, 4, 6, 6), w=noise(4, 4, 3, 3), **constants), 1, 4, 6, 6)
    check(found)
    assert found.float_nodes == {}


def test_an_interpolation_to_computed_sizes_runs_in_float() -> None:
    text = """g (float[1,4,6,6] x) => (float[] y) {
        c = Conv(x, w)  p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c)  s = Shape(x)
        y = Resize <mode = "linear"> (p, , , s) }"""
    found = agreement(quantized(text, (1, 4, 6, 6), w=noise(4, 4, 3, 3)), 1, 4, 6, 6)
    check(found)
    (why,) = found.float_nodes.values()
    assert "it interpolates" in why


def test_a_single_number_stays_an_array() -> None:
    text = "g (float[1,4,6,6] x) => (float[] y) { c = Conv(x, w)  m = ReduceMax <keepdims = 0> (c)  y = Mul(c, m) }"
    check(agreement(quantized(text, (1, 4, 6, 6), w=noise(4, 4, 3, 3)), 1, 4, 6, 6))


def test_a_scale_that_is_no_power_of_two_is_refused() -> None:
    text = "g (float[1,4,6,6] x) => (float[] y) { y = Conv(x, w) }"
    model = support.parse(text, w=noise(4, 4, 3, 3))
    done, _ = support.quantize(model, preset("a8w8"), [{"x": noise(1, 4, 6, 6)}])
    with pytest.raises(ModelError, match=r"not a power of two.*preset xint8"):
        IntegerModel(done)
    with pytest.raises(ModelError, match="no QuantizeLinear"):
        IntegerModel(model)


def test_no_samples_is_an_error() -> None:
    with pytest.raises(DataError, match="no samples"):
        integer_agreement(quantized(NETWORK, (2, 3, 12, 12), **WEIGHTS), [])


def test_per_channel_powers_of_two() -> None:
    text = "g (float[1,4,6,6] x) => (float[] y) { y = Conv(x, w, b) }"
    weight = noise(6, 4, 3, 3) * np.exp2(np.arange(6)).reshape(-1, 1, 1, 1).astype(np.float32)
    model = support.parse(text, w=weight, b=noise(6))
    recipe = preset("xint8", npu=False, per_channel=True, bias_type="int32")
    done, _ = support.quantize(model, recipe, [{"x": noise(1, 4, 6, 6)}])
    check(agreement(done, 1, 4, 6, 6))


def test_round_to_is_quantize_linear_also_with_a_divisor() -> None:
    codes = np.arange(-600, 600)
    for divisor, exponent in itertools.product((1, 3, 4, 9), (-5, -2, 0, 1)):
        got = Exact(codes, -3, divisor).round_to(exponent, 128, INT_TYPES["uint8"])
        want = np.clip(np.rint(np.ldexp(codes / divisor, -3 - exponent)) + 128, 0, 255)
        assert got.tolist() == want.tolist()


def test_a_float_constant_is_exactly_an_integer_times_a_power_of_two() -> None:
    values = np.array([0.1, -3.5, 0.0, 1 / 3, 1024.0], dtype=np.float32)
    exact = exact_of(values)
    assert np.array_equal(np.ldexp(exact.codes.astype(np.float64), exact.exponent), values.astype(np.float64))
    with pytest.raises(Unsupported, match="not finite"):
        exact_of(np.array([np.inf]))
    with pytest.raises(Unsupported, match="too far apart"):
        exact_of(np.array([1e30, 1e-30]))


def test_means_are_brought_to_one_divisor() -> None:
    (first, second), exponent, divisor = align(Exact(np.array([5]), 0, 3), Exact(np.array([1]), -1, 2))
    assert (first.item(), second.item(), exponent, divisor) == (20, 3, -1, 6)
    assert multiply(Exact(np.array([5]), 0, 9), Exact(np.array(63), -6)).divisor == 1  # 63/64 of a mean of nine: 7/64


def test_numbers_too_large_for_int64_are_refused() -> None:
    with pytest.raises(Unsupported, match="64-bit"):
        align(Exact(np.array([1 << 40]), 0), Exact(np.array([1]), -40))
    with pytest.raises(Unsupported, match="64-bit"):
        multiply(Exact(np.array([1 << 40]), 0), Exact(np.array([1 << 40]), 0))


@pytest.mark.shared
@pytest.mark.filterwarnings("ignore:onnxruntime's kernels for uint8 times int8 overflow")  # not the nodes as written
@pytest.mark.parametrize("bias", ["int8", "int32"])
@pytest.mark.parametrize("name", ["mobilenetv1_025", "posenet_mnv1_075", "ultraface_rfb_320", "kws_dscnn"])
def test_real_models(shared_data: Path, name: str, bias: str) -> None:
    realdata: Any = importlib.import_module("realdata")
    calibration, _ = realdata.load(name, "calib")
    held, _ = realdata.load(name, "eval")
    data = [calibration[k : k + 1] for k in range(4)]
    # without equalization, which has proofs of its own and would only take time here, as rounding for the inputs would
    recipe = preset("xint8", cle=False, weight_rounding="nearest", bias_type=bias)
    done = quantize(realdata.reference(name), data=data, preset=recipe)
    model = io.load_model(done.model, allow_quantized=True).model
    found = integer_agreement(model, [{model.graph.inputs[0].name or "": held[:1]}])
    check(found)
    assert set(found.float_nodes.values()) <= {"Softmax has no integer form here"}
    if name != "mobilenetv1_025":  # its slope of 0.1 is no short binary fraction
        assert all(o.different == 0 for o in found.outputs)
