"""Weights alone: values at the ends of their type, shapes and readers that are out of the ordinary."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from equiquant import Result, quantize
from equiquant.errors import ModelError
from equiquant.numerics.affine import INT_TYPES
from equiquant.numerics.layers.blocks import block_steps

pytestmark = pytest.mark.filterwarnings("ignore:As onnxruntime runs the model")  # tests/test_kernels.py is about that

Array = npt.NDArray[Any]
RNG = np.random.default_rng(0)
K, N = 48, 40
W = RNG.standard_normal((K, N)).astype(np.float32)
DATA = [{"x": RNG.standard_normal((4, K)).astype(np.float32)} for _ in range(8)]


def _model(nodes: list[onnx.NodeProto], weights: dict[str, Array], outputs: list[str], opset: int = 17) -> Any:
    kind = TensorProto.FLOAT16 if weights["w"].dtype == np.float16 else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, ["B", K])],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def _single(weight: Array) -> Any:
    return _model([helper.make_node("MatMul", ["x", "w"], ["y"], name="mul")], {"w": weight}, ["y"])


def _run(model: onnx.ModelProto, feed: dict[str, Array]) -> Array:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feed)[0]).astype(np.float64)


def _db(model: onnx.ModelProto, result: Result) -> float:
    feeds = DATA
    if model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16:
        feeds = [{"x": feed["x"].astype(np.float16)} for feed in DATA]
    pairs = [(_run(model, feed), _run(result.model, feed)) for feed in feeds]
    noise = sum(float(np.square(a - b).sum()) for a, b in pairs)
    return float(10 * np.log10(sum(float(np.square(a).sum()) for a, _ in pairs) / noise))


def _reasons(result: Result, rule: str) -> dict[str, str]:
    return {d.where: d.reason for d in result.report.decisions if d.rule == rule}


@pytest.mark.parametrize("size", [1e-2, 1e-3, 1e-4])
def test_float16_weights_may_have_scales_below_the_normal_numbers(size: float) -> None:
    model = _single((W * size).astype(np.float16))
    assert _db(model, quantize(model, preset="w8", weight_rounding="nearest")) > 42


def test_steps_are_chosen_as_they_are_stored() -> None:
    rows, kind = (RNG.uniform(-1, 1, (64, 32)) * 2e-5).astype(np.float32), INT_TYPES["int8"]
    steps = block_steps(rows, 32, kind, np.float16)
    assert np.array_equal(steps, steps.astype(np.float16))
    assert (np.abs(rows).max(axis=1) <= 1.4 * kind.qmax * steps[:, 0]).all()
    assert (steps <= 2 * np.abs(rows).max() / kind.qmax + 6e-8).all()


@pytest.mark.parametrize("preset", ["w4", "w8"])
@pytest.mark.parametrize("data", [None, DATA])
def test_weights_of_any_size_keep_their_bits(preset: str, data: Any) -> None:
    weight = W.copy()
    weight[:, 0], weight[:, 1], weight[:32, 2] = W[:, 0] * np.float32(1e30), W[:, 1] * np.float32(1e-30), 0
    result = quantize(_single(weight), data=data, preset=preset)
    pairs = [(_run(_single(weight), feed), _run(result.model, feed)) for feed in DATA]
    exact, given = (np.concatenate(side) for side in zip(*pairs, strict=True))
    left = 10 * np.log10(np.square(exact).sum(axis=0) / np.square(exact - given).sum(axis=0))
    assert left[:3].min() > (12 if preset == "w4" else 38)


def test_a_weight_read_along_both_axes_is_rounded_for_the_inputs_of_each() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["t"], name="enc"),
        helper.make_node("Tanh", ["t"], ["u"]),
        helper.make_node("Gemm", ["u", "w"], ["y"], transB=1, name="dec"),
    ]
    result = quantize(_model(nodes, {"w": W}, ["y"]), data=DATA, preset="w4", block_size=16)
    assert {row["name"]: row["axis"] for row in result.report.tensors} == {"enc[1]": 0, "dec[1]": 1}
    assert result.report.refinement["layers"] == 2


@pytest.mark.parametrize("data", [None, DATA])
def test_blocks_longer_than_the_weight_take_no_more_room(data: Any) -> None:
    expected = quantize(_single(W), data=data, preset="w4", block_size=64).model
    given = quantize(_single(W), data=data, preset="w4", block_size=1 << 40).model
    assert given.graph.node == expected.graph.node
    assert given.graph.initializer == expected.graph.initializer


def test_an_empty_weight_is_told() -> None:
    with pytest.raises(ModelError, match="'mul': its weight is empty"):
        quantize(_single(W[:, :0]), preset="w4")


def test_a_poor_result_is_told_with_what_may_help() -> None:
    weight = np.eye(K, dtype=np.float32)
    weight[0] = 30.0
    feeds = [{"x": feed["x"] * (np.arange(K) > 0).astype(np.float32)} for feed in DATA]
    with pytest.warns(
        UserWarning, match=r"Only .* dB of the output 'y' .*preset='w8'.*block_size=16.*nodes_to_exclude"
    ) as w:
        quantize(_single(weight), data=feeds, preset="w4", weight_rounding="nearest")
    assert "keep_float" not in str(w[0].message)


def _branching() -> Any:
    bodies = [
        helper.make_graph(
            [helper.make_node("MatMul", ["x", name], [f"{name}_y"], name=f"in_{name}")],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)],
        )
        for name in ("w", "v")
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["t"], name="mul"),
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["i"], then_branch=bodies[0], else_branch=bodies[1]),
        helper.make_node("Add", ["t", "i"], ["y"]),
    ]
    return _model(nodes, {"w": W, "v": 2 * W, "zero": np.zeros((), np.float32)}, ["y"])


def test_layers_in_bodies_are_told_and_so_are_weights_that_they_keep() -> None:
    result = quantize(_branching(), data=DATA, preset="w4")
    reason = "inside the body of an If, Loop or Scan"
    assert {where: why for where, why in _reasons(result, "keep_float").items() if where.startswith("in_")} == {
        "in_w": reason,
        "in_v": reason,
    }
    assert "in float as well for 'in_w'" in _reasons(result, "stored_twice")["mul"]


def test_a_weight_that_an_embedding_reads_as_well_is_in_the_file_twice() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["n"], to=TensorProto.INT64),
        helper.make_node("Gather", ["w", "n"], ["e"], name="embed"),
        helper.make_node("Transpose", ["w"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["e", "turned"], ["y"], name="head"),
    ]
    feeds = [{"x": RNG.integers(0, K, (4, K)).astype(np.float32)} for _ in range(4)]
    result = quantize(_model(nodes, {"w": W}, ["y"]), data=feeds, preset="w4")
    assert "in float as well for 'embed'" in _reasons(result, "stored_twice")["head"]


def test_inputs_that_are_not_finite_have_no_say_in_the_rounding() -> None:
    nodes = [
        helper.make_node("Exp", ["x"], ["e"]),
        helper.make_node("MatMul", ["e", "w"], ["t"], name="mul"),
        helper.make_node("Sigmoid", ["t"], ["y"]),
    ]
    feeds = [{"x": feed["x"].copy()} for feed in DATA]
    for feed in feeds[::2]:
        feed["x"][0, 0] = 100.0
    result = quantize(_model(nodes, {"w": W}, ["y"]), data=feeds, preset="w4")
    assert "are not finite" in _reasons(result, "weight_rounding")["mul"]


def test_a_corner_tells_weights_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparing every weight with all others whole would take longer than the quantization of many."""
    compared: list[int] = []
    equal = np.array_equal

    def counted(first: Array, second: Array) -> bool:
        compared.append(first.size)
        return equal(first, second)

    monkeypatch.setattr(np, "array_equal", counted)
    nodes = [helper.make_node("MatMul", ["x", w], [y], name=w) for w, y in (("w", "y"), ("v", "z"))]
    model = _model(nodes, {"w": W, "v": 2 * W}, ["y", "z"])
    quantize(model, data=DATA, preset="w4", weight_rounding="nearest", nodes_to_exclude=["v"])
    assert compared
    assert W.size not in compared
