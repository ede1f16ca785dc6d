"""The CPU form: the very numbers of the plain one, on onnxruntime's integer kernels; Int32Bias on the NPU target."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from equiquant import compare, qdq
from equiquant import quantize as quantize_model
from equiquant.graph.edit import Names
from equiquant.graph.query import constant
from equiquant.qdq.integer_clip import clip_integers
from equiquant.recipe import preset
from tests.qdq.support import Array, fused_ops, noise, op_types, parse, quantize, run
from tests.qdq.test_fusing import ALLOWED, BOTTLENECK, INVERTED_RESIDUAL, _network

XINT8, CPU = preset("xint8"), preset("xint8", bias_type="int32")
FEED = {"x": noise(1, 3, 32, 32)}
W, V = noise(4, 2, 3, 3, seed=1), noise(3, 4, 1, 1, seed=2)
BOUNDS = {
    "zero": np.array(0, np.float32),
    "low": np.array(-0.337, np.float32),
    "bound": np.array(1.7301, np.float32),  # on no grid
    "each": np.array([0.3, 1.7301, 2.9, 9.0], np.float32).reshape(1, 4, 1, 1),
}


def _biases(model: ir.Model) -> dict[str, Array]:
    """Return the value of every bias as the runtime sees it, by layer."""
    found = {}
    for node in model.graph:
        if node.op_type in ("Conv", "Gemm") and len(node.inputs) > 2:
            source = node.inputs[2]
            assert source is not None
            linear = source.producer()
            assert linear is not None
            integers, scale = constant(linear.inputs[0]), constant(linear.inputs[1])
            assert integers is not None
            assert scale is not None
            found[f"{node.name} {integers.dtype}"] = integers.astype(np.float64) * scale
    return found


@pytest.mark.parametrize("body", [INVERTED_RESIDUAL, BOTTLENECK], ids=["inverted residual", "bottleneck"])
def test_the_same_numbers_run_on_integers(body: str, tmp_path: Path) -> None:
    model = _network(body)
    (documented, plan), (form, _) = quantize(model, XINT8, [FEED]), quantize(model, CPU, [FEED])
    found = fused_ops(form, tmp_path)
    assert set(found) <= ALLOWED | {"Clip"}
    assert found["QLinearConv"] == op_types(model)["Conv"]
    assert "FusedConv" in fused_ops(documented, tmp_path)  # what the form is for
    expected = run(documented, FEED)[0]
    np.testing.assert_array_equal(run(form, FEED)[0], expected)
    step = float(plan.activations["y"].scale)
    assert np.abs(run(form, FEED, optimize=True)[0] - expected).max() <= step


def test_biases_keep_their_int8_values() -> None:
    model = _network(BOTTLENECK)
    ours, theirs = _biases(quantize(model, CPU, [FEED])[0]), _biases(quantize(model, XINT8, [FEED])[0])
    assert {name.split()[1] for name in ours} == {"int32"}
    assert {name.split()[1] for name in theirs} == {"int8"}
    for mine, other in zip(ours.values(), theirs.values(), strict=True):
        np.testing.assert_array_equal(mine, other)
    floats = [b for b in map(_float_bias, model.graph) if b is not None]
    assert any(not np.allclose(a, b, rtol=1e-3) for a, b in zip(floats, ours.values(), strict=False))  # 8 bits are few


def _float_bias(node: ir.Node) -> Array | None:
    return constant(node.inputs[2]) if node.op_type == "Conv" and len(node.inputs) > 2 else None


def test_a_bias_finer_than_the_accumulator_is_rounded_to_it_and_reported() -> None:
    text = "g (float[1, 2, 8, 8] x) => (float[] y) { a = Conv (x, w, b)  y = Relu (a) }"
    model = parse(text, w=W, b=np.array([1e-4, -2e-4, 3e-4, 1e-5], np.float32))
    feed = {"x": noise(1, 2, 8, 8)}
    (documented, plan), (form, widened) = quantize(model, XINT8, [feed]), quantize(model, CPU, [feed])
    assert [(d.rule, d.applied) for d in widened.remarks] == [("int32_bias", True)]
    assert "finer than the accumulator" in widened.remarks[0].reason
    step = float(plan.activations["y"].scale)
    assert np.abs(run(form, feed)[0] - run(documented, feed)[0]).max() <= step


def test_a_bias_out_of_reach_stays_int8() -> None:
    """Only without the limits can a bias be so large beside the accumulator."""
    text = "g (float[1, 2, 8, 8] x) => (float[] y) { y = Conv (x, w, b) }"
    model = parse(text, w=W, b=np.array([1e9, 1, 1, 1], np.float32))
    _, plan = quantize(model, CPU.replace(npu_limits=False), [{"x": noise(1, 2, 8, 8)}])
    assert not plan.remarks[0].applied
    assert "does not fit int32" in plan.remarks[0].reason
    assert plan.constants["Conv_y", 2].type.name == "int8"


@pytest.mark.parametrize(
    ("tail", "moved"),
    [
        ("r = Relu (a)", 1),
        ("r = Clip (a, zero, bound)", 1),
        ("r = Clip (a, low, bound)", 1),
        ("t = Relu (a)  r = Min (t, each)", 2),
        ("r = LeakyRelu <alpha = 0.1> (a)", 0),
        ("r = Relu (a)  s = Add (a, a)", 0),  # somebody else reads what goes in
    ],
)
@pytest.mark.parametrize("kind", ["uint8", "int8"])
def test_clipping_integers_is_exact(tail: str, moved: int, kind: str) -> None:
    used = {k: v for k, v in BOUNDS.items() if f" {k}" in tail}
    end = "z = Conv (r, v)  y = Add (z, q)  q = Conv (s, v)" if "s =" in tail else "y = Conv (r, v)"
    end = "z = Conv (r, v)  q = Conv (s, v)  y = Add (z, q)" if "s =" in tail else end
    text = f"g (float[2, 2, 9, 9] x) => (float[] y) {{ a = Conv (x, w)  {tail}  {end} }}"
    model = parse(text, 17, w=W, v=V, **used)
    feed = {"x": noise(2, 2, 9, 9, seed=4)}
    quantized, plan = quantize(model, preset("xint8", activation_type=kind), [feed])
    before = run(quantized, feed)[0]
    clips = {node.name for node in quantized.graph if node.op_type in ("Relu", "Clip", "Min")}
    clip_integers(quantized, plan.nodes, Names(quantized.graph).fresh)
    assert len(clips - {node.name for node in quantized.graph}) == moved
    np.testing.assert_array_equal(run(quantized, feed)[0], before)
    assert all(v.uses() for v in quantized.graph.initializers.values())


@pytest.mark.parametrize(
    ("tail", "options", "moved"),
    [
        ("r = Clip (a, low, bound)", {"activation_symmetric": True}, True),
        ("r = Relu (a)", {"activation_symmetric": True}, True),
        ("r = Relu (a)", {}, False),  # vanishes into the saturation
        ("t = Relu (a)  r = Min (t, each)", {}, True),
        ("t = Relu (a)  r = Min (t, each)", {"activation_symmetric": True}, True),
    ],
)
@pytest.mark.parametrize("name", ["a8w8", "a8w8_per_channel"])
def test_float_scales_run_on_integers_too(
    tail: str, options: dict[str, Any], moved: bool, name: str, tmp_path: Path
) -> None:
    used = {k: v for k, v in BOUNDS.items() if f" {k}" in tail}
    text = f"g (float[2, 2, 9, 9] x) => (float[] y) {{ a = Conv (x, w)  {tail}  y = Conv (r, v) }}"
    model, feed = parse(text, 17, w=W, v=V, **used), {"x": noise(2, 2, 9, 9, seed=4)}
    form, plan = quantize(model, preset(name, calibration="minmax", **options), [feed])
    plain = model.clone()
    qdq.insert(plain, dataclasses.replace(plan, integer_clips=False))
    written = run(form, feed)[0]
    np.testing.assert_array_equal(written, run(plain, feed)[0])
    assert {row.name for row in compare(model, form, data=[feed]).tensors} >= {"a", "r"}
    assert fused_ops(form, tmp_path)["QLinearConv"] == 2
    assert (fused_ops(plain, tmp_path)["QLinearConv"] < 2) == moved
    assert np.abs(run(form, feed, optimize=True)[0] - written).max() <= float(plan.activations["y"].scale)


@pytest.mark.parametrize(("size", "moved"), [(1, False), (3, True)])
def test_a_minimum_that_makes_the_tensor_larger_stays(size: int, moved: bool) -> None:
    """onnxruntime gave the integers before it the memory of those behind it, and failed as they had another shape."""
    bound = np.linspace(0.1, 2, 36, dtype=np.float32).reshape(1, 4, 3, 3)
    text = (
        f"g (float[1, 2, {size + 2}, {size + 2}] x) => (float[] r) {{ a = Conv (x, w)  t = Relu (a)  r = Min (t, b) }}"
    )
    model, feed = parse(text, 17, w=W, b=bound), {"x": noise(1, 2, size + 2, size + 2)}
    form, _ = quantize(model, preset("a8w8", calibration="minmax", activation_symmetric=True), [feed])
    assert ("Cast" in op_types(form)) == moved
    assert run(form, feed)[0].shape == bound.shape


def test_int8_activations_keep_the_form_that_other_runtimes_know() -> None:
    text = "g (float[2, 2, 9, 9] x) => (float[] y) { a = Conv (x, w)  r = Relu (a)  y = Conv (r, v) }"
    recipe = preset("a8w8", calibration="minmax", activation_symmetric=True, activation_type="int8")
    form, _ = quantize(parse(text, w=W, v=V), recipe, [{"x": noise(2, 2, 9, 9)}])
    assert op_types(form)["Relu"] == 1


def test_a_wrong_bound_would_be_seen() -> None:
    """The seeded fault: the oracle above can fail."""
    text = "g (float[2, 2, 9, 9] x) => (float[] y) { a = Conv (x, w)  r = Relu (a)  y = Conv (r, v) }"
    feed = {"x": noise(2, 2, 9, 9, seed=4)}
    quantized, _ = quantize(parse(text, w=W, v=V), CPU, [feed])
    expected = run(quantized, feed)[0]
    clip = next(node for node in quantized.graph if node.op_type == "Clip")
    bound = clip.inputs[1]
    assert bound is not None
    bound.const_value = ir.tensor(np.array(129, np.uint8), name=bound.name)
    assert not np.array_equal(run(quantized, feed)[0], expected)


def test_from_the_outside(tmp_path: Path) -> None:
    from equiquant.cli.parser import parse as parse_arguments

    model = _network(BOTTLENECK)
    ir.save(model, tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", FEED["x"])
    words = ["quantize", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "q.onnx"), "--data", str(tmp_path / "x.npy")]
    args = parse_arguments([*words, "--bias-type", "int32", "--no-cle", "-q"])
    assert args.run(args) == 0
    found = fused_ops(ir.load(tmp_path / "q.onnx"), tmp_path)
    assert set(found) <= ALLOWED | {"Clip", "GlobalAveragePool", "Mul"}  # a pool with the hardware's factor stays float
    documented = quantize_model(tmp_path / "m.onnx", data=[FEED["x"]], cle=False)
    assert documented.report.recipe.bias_type == "int8"


@pytest.mark.filterwarnings("ignore:Onnxruntime's kernels")
def test_kernels_that_overflow_get_the_same_numbers_as_uint8(tmp_path: Path) -> None:
    """Large numbers on both sides, which overflow the 16-bit sums of uint8 times int8 kernels on CPUs without VNNI."""
    text = "g (float[1, 64, 4, 4] x) => (float[] y) { a = Conv (x, w)  r = Relu (a)  y = Conv (r, w) }"
    model = parse(text, w=1 + 0.1 * noise(64, 64, 1, 1, seed=1))
    x = 1 + 0.1 * noise(1, 64, 4, 4)
    documented = quantize_model(ir.to_proto(model), data=[x], cle=False)
    form = quantize_model(ir.to_proto(model), data=[x], cle=False, bias_type="int32")
    expected = run(ir.from_proto(documented.model), {"x": x})[0]
    for optimize in (False, True):
        np.testing.assert_array_equal(run(ir.from_proto(form.model), {"x": x}, optimize=optimize)[0], expected)
    assert fused_ops(ir.from_proto(form.model), tmp_path)["QLinearConv"] == 2


@pytest.mark.shared
@pytest.mark.filterwarnings("ignore:Onnxruntime's kernels")
@pytest.mark.parametrize("name", ["ultraface_rfb_320", "kws_dscnn"])
def test_real_models_compute_the_same(name: str, shared_data: Path, tmp_path: Path) -> None:
    import realdata

    inputs, _ = realdata.load(name, "calib")
    outputs = []
    for recipe in (XINT8, CPU):
        data = (inputs[k : k + 1] for k in range(2))
        result = quantize_model(
            realdata.reference(name), data=data, preset=recipe, cle=False, weight_rounding="nearest"
        )
        assert not [d for d in result.report.decisions if d.rule == "int32_bias"]
        model = ir.from_proto(result.model)
        feed = {model.graph.inputs[0].name or "": inputs[:1]}
        outputs.append(run(model, feed, optimize=recipe is not XINT8))
    for ours, theirs in zip(outputs[1], outputs[0], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not {"Conv", "FusedConv", "Gemm"} & set(fused_ops(model, tmp_path))


@pytest.mark.parametrize("options", [{"nodes_to_int16": ("Conv_a",)}, {"int16": 1}])
def test_a_relu_on_sixteen_bits_stays_as_it_is(options: dict[str, Any]) -> None:
    """onnxruntime clips no 16-bit integers."""
    text = "g (float[1, 2, 8, 8] x) => (float[1, 3, 6, 6] y) { a = Conv (x, w)  r = Relu (a)  y = Conv (r, v) }"
    model = parse(text, w=W, v=V)
    result = quantize_model(model, data=noise(6, 2, 8, 8), preset=CPU, **options)
    quantized = ir.from_proto(result.model)
    assert {"uint16", "int16"} & {t["type"] for t in result.report.tensors}
    assert np.isfinite(run(quantized, {"x": noise(1, 2, 8, 8)}, optimize=True)[0]).all()
    assert op_types(quantized)["Relu"] == 1
