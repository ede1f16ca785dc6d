"""Groups that share parameters, fused activations, and what stays float."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from equiquant import io, target
from equiquant.errors import ModelError
from equiquant.graph.edit import infer_shapes
from equiquant.recipe import preset
from equiquant.target import Survey
from equiquant.target.selecting.float_regions import FOR_EXCLUDED
from equiquant.target.selecting.indices import BECOMES_INDEX
from tests.qdq.support import Array, noise, parse

WEIGHT = noise(4, 4, 1, 1)


def _survey(text: str, name: str = "a8w8", **constants: Array) -> Survey:
    model = parse(f"g (float[1, 4, 8, 8] x) => (float[] y) {{ {text} }}", 17, w=WEIGHT, **constants)
    return target.survey(model, preset(name))


def _groups(found: Survey) -> set[frozenset[str]]:
    return {frozenset(g.members) for g in found.groups}


def test_data_movement_shares_one_group_with_one_source() -> None:
    moves = "b = MaxPool <kernel_shape = [2, 2]> (a)  c = Transpose (b)  d = Transpose (c)"
    found = _survey(f"a = Conv (x, w)  {moves}  y = Conv (d, w)")
    assert _groups(found) == {frozenset({"x"}), frozenset("abcd"), frozenset({"y"})}
    assert found.calibrated == ("x", "a", "y")


def test_an_average_with_dilations_has_no_integer_form() -> None:
    pool = "AveragePool <kernel_shape = [2, 2], dilations = [2, 2]> (a)"
    model = parse(
        f"g (float[1, 4, 8, 8] x) => (float[] y) {{ a = Conv (x, w)  b = {pool}  y = Conv (b, w) }}", 19, w=WEIGHT
    )
    found = target.survey(model, preset("a8w8"))
    assert found.kept_float["AveragePool_b"] == "onnxruntime has no integer AveragePool with dilations"


@pytest.mark.parametrize("name", ["a8w8", "xint8"])
def test_a_model_whose_weights_are_inputs_is_refused(name: str) -> None:
    text = "g (float[1, 4, 8, 8] x, float[4, 4, 1, 1] w) => (float[] y) { a = Relu (x)  b = Conv (a, w)  y = Relu (b) }"
    model = parse(text, w=WEIGHT)
    with pytest.raises(ModelError, match=r"for example 'w' of 'Conv_b': all stay float\. Remove.*of the model\.$"):
        target.survey(model, preset(name))
    with pytest.raises(ModelError, match=r"of the model, or leave optimize on"):
        target.survey(model, preset(name).replace(optimize=False))
    assert target.survey(model, preset(name).replace(nodes_to_exclude=("Conv_b",), op_types_to_quantize=("Relu",)))


def test_a_batch_normalization_made_a_conv_is_no_layer_left_of_a_model_whose_weights_are_inputs() -> None:
    text = (
        "g (float[1, 4, 8, 8] x, float[4, 4, 1, 1] w) => (float[] y) { a = Conv (x, w)  y = Conv <group = 4> (a, s) }"
    )
    with pytest.raises(ModelError, match="'w' of 'Conv_a': all stay float"):
        target.survey(parse(text, w=WEIGHT, s=noise(4, 1, 1, 1)), preset("xint8"))


@pytest.mark.parametrize(
    ("name", "members", "sources"), [("a8w8", {"c"}, {"c"}), ("xint8", {"a", "b", "c"}, {"a", "b"})]
)
def test_concat_shares_one_scale_where_the_target_asks(name: str, members: set[str], sources: set[str]) -> None:
    text = "a = Conv (x, w)  b = Conv (x, w)  c = Concat <axis = 1> (a, b)  y = Conv (c, v)"
    found = _survey(text, name, v=noise(4, 8, 1, 1))
    (united,) = [g for g in found.groups if "c" in g.members]
    assert (set(united.members), set(united.sources)) == (members, sources)


def test_an_activation_fuses_with_its_sole_producer_only() -> None:
    found = _survey("a = Conv (x, w)  b = Relu (a)  y = Conv (b, w)")
    assert _groups(found) == {frozenset("x"), frozenset("b"), frozenset("y")}
    found = _survey("a = Conv (x, w)  b = Relu (a)  c = Conv (a, w)  y = Add (b, c)")
    assert frozenset("a") in _groups(found)
    assert found.kept_float["Relu_b"] == "'Relu' stays float on this target"


@pytest.mark.parametrize("name", ["a8w8", "xint8"])
def test_leaky_relu_is_computed_before_rounding(name: str) -> None:
    found = _survey("a = Conv (x, w)  b = LeakyRelu (a)  y = Conv (b, w)", name)
    assert "a" not in found.calibrated
    assert "LeakyRelu_b" in found.nodes


def test_shape_arithmetic_stays_float() -> None:
    shape = "s = Shape (a)  i = Gather (s, zero)  u = Unsqueeze (i, zeros)  n = Concat <axis = 0> (u, minus)"
    found = _survey(
        f"a = Conv (x, w)  {shape}  r = Reshape (a, n)  y = MatMul (r, m)",
        zero=np.array(0, np.int64),
        zeros=np.zeros(1, np.int64),
        minus=np.full(1, -1, np.int64),
        m=noise(256, 3),
    )
    assert found.calibrated == ("x", "a")
    assert {"Gather_i", "Unsqueeze_u", "Concat_n"} <= set(found.kept_float)
    assert found.kept_float["Gather_i"] == "computes shapes or indices, not activations"


def test_a_float_result_stays_float_where_an_integer_kernel_can_return_it() -> None:
    text = "g (float[2, 4] x) => (float[] y) { y = MatMul (x, m) }"
    assert target.survey(parse(text, m=noise(4, 4)), preset("a8w8")).calibrated == ("x",)
    assert target.survey(parse(text, m=noise(4, 4)), preset("xint8")).calibrated == ("x", "y")


@pytest.mark.parametrize("name", ["a8w8", "xint8"])
def test_moving_float_data_to_a_float_reader_is_left_alone(name: str) -> None:
    found = _survey("a = Conv (x, w)  b = Softmax (a)  y = Flatten (b)", name)
    assert found.kept_float == {
        "Softmax_b": "'Softmax' stays float on this target",
        "Flatten_y": "its result is only read in float",
    }


POOLED = "a = Conv (x, w)  p = GlobalAveragePool (a)"


@pytest.mark.parametrize("name", ["a8w8", "xint8"])
@pytest.mark.parametrize(
    ("text", "options", "kept"),
    [
        (f"{POOLED}  f = Flatten (p)  y = Gemm (f, m)", {"nodes_to_exclude": ["Gemm_y"]}, {"p"}),
        (f"{POOLED}  f = Flatten (p)  y = Gemm (f, m)", {"subgraphs_to_exclude": [(["Flatten_f"], ["Gemm_y"])]}, {"p"}),
        (f"{POOLED}  b = Conv (p, w)  y = Conv (p, w)", {"nodes_to_exclude": ["Conv_y", "Conv_b"]}, {"p"}),
        ("a = Conv (x, w)  s = Add (a, x)  r = Relu (s)  y = Conv (r, w)", {"nodes_to_exclude": ["Conv_y"]}, set("sr")),
        # nothing to gain: read elsewhere, named to be quantized, no excluded layer, computed with one, or only moved
        (f"{POOLED}  b = Conv (p, w)  y = Conv (p, w)", {"nodes_to_exclude": ["Conv_y"]}, set()),
        (
            f"{POOLED}  y = Conv (p, w)",
            {"nodes_to_exclude": ["Conv_y"], "op_types_to_quantize": ["Conv", "GlobalAveragePool"]},
            set(),
        ),
        (f"{POOLED}  y = Mul (p, x)", {"nodes_to_exclude": ["Mul_y"]}, set()),
        ("a = Conv (x, w)  r = Relu (a)  y = Conv (r, w)", {"nodes_to_exclude": ["Conv_y"]}, set()),
        ("a = MatMul (x, v)  s = Add (a, d)  y = MatMul (s, v)", {"nodes_to_exclude": ["MatMul_y"]}, set()),
        (
            "a = Conv (x, w)  p = MaxPool <kernel_shape = [8, 8]> (a)  y = Conv (p, w)",
            {"nodes_to_exclude": ["Conv_y"]},
            set(),
        ),
    ],
)
def test_what_only_excluded_layers_read_stays_float(
    name: str, text: str, options: dict[str, Any], kept: set[str]
) -> None:
    model = parse(
        f"g (float[1, 4, 8, 8] x) => (float[] y) {{ {text} }}", w=WEIGHT, m=noise(4, 4), v=noise(8, 8), d=noise(8)
    )
    found = target.survey(model, preset(name, **options))
    why = {node.outputs[0].name: found.kept_float.get(node.name or "", "") for node in model.graph}
    unrounded = {v for v, reason in why.items() if reason == FOR_EXCLUDED}
    assert unrounded | ({"r"} & kept) == kept  # the CPU has no Relu of its own to leave float
    assert kept.isdisjoint(chain.from_iterable(group.members for group in found.groups))


def test_a_result_of_the_network_is_quantized_though_an_excluded_layer_reads_it() -> None:
    model = parse(f"g (float[1, 4, 8, 8] x) => (float[] p, float[] y) {{ {POOLED}  y = Conv (p, w) }}", w=WEIGHT)
    found = target.survey(model, preset("xint8", nodes_to_exclude=("Conv_y",)))
    assert "GlobalAveragePool_p" in found.nodes


@pytest.mark.parametrize(("name", "kept"), [("xint8", True), ("a8w8", False)])
def test_a_gemm_that_keeps_its_alpha_is_nothing_for_the_npu(name: str, kept: bool) -> None:
    text = """g (float[2, 4] x, float[4, 3] w) => (float[] y) {
        a = MatMul (x, v)  b = Gemm <alpha = 0.5> (a, w)  y = MatMul (b, u) }"""
    model = parse(text, v=noise(4, 4), u=noise(3, 3))
    found = target.survey(model, preset(name)).kept_float
    assert ("multiplies by neither" in found.get(model.graph[1].name or "", "")) is kept


def test_float16_tensors_stay_float() -> None:
    model = parse("g (float16[2, 4] x) => (float16 y) { y = Add (x, x) }")
    with pytest.raises(ModelError, match="'x' is float16; only float32 tensors are quantized"):
        target.survey(model, preset("a8w8"))


def test_types_unknown_to_shape_inference_come_from_the_inputs() -> None:
    model = parse("g (float[1, 4, 8, 8] x) => (float[] y) { a = Conv (x, w)  y = Conv (a, w) }", w=WEIGHT)
    next(iter(model.graph)).outputs[0].type = None
    assert target.survey(model, preset("a8w8")).calibrated == ("x", "a", "y")


def branching() -> ir.Model:
    """A Conv, then an If whose bodies read the Conv's result."""
    body = "g () => (float[1, 4, 8, 8] {0}) {{ {0} = {1} (a, a) }}"
    parts = [onnx.parser.parse_graph(body.format(n, op)) for n, op in (("p", "Add"), ("q", "Mul"))]
    model = parse("g (float[1, 4, 8, 8] x, bool k) => (float[] y) { a = Conv (x, w)  y = Conv (a, w) }", w=WEIGHT)
    proto = ir.to_proto(model)
    proto.graph.node.append(onnx.helper.make_node("If", ["k"], ["z"], then_branch=parts[0], else_branch=parts[1]))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [1, 4, 8, 8]))
    result = io.load_model(proto).model
    infer_shapes(result)
    return result


def test_bodies_stay_float() -> None:
    found = target.survey(branching(), preset("a8w8"))
    assert found.kept_float["Add_p"] == "inside the body of an If, Loop or Scan"
    assert set(found.nodes) == {"Conv_a", "Conv_y"}


def test_layers_that_are_all_in_bodies_are_named() -> None:
    bodies = [onnx.parser.parse_graph(f"g () => (float[1, 4, 8, 8] {n}) {{ {n} = Conv (x, w) }}") for n in ("p", "q")]
    proto = ir.to_proto(parse("g (float[1, 4, 8, 8] x, bool k) => (float[] y) { y = Neg (x) }", w=WEIGHT))
    node = onnx.helper.make_node("If", ["k"], ["z"], then_branch=bodies[0], else_branch=bodies[1])
    proto.graph.node.append(node)
    proto.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [1, 4, 8, 8]))
    with pytest.raises(ModelError, match=r"layers .* 'Conv_[pq]', are inside the body of an If.* a model of its own"):
        target.survey(io.load_model(proto).model, preset("a8w8"))


def test_a_wrong_shape_in_the_file_costs_its_own_node_only(caplog: pytest.LogCaptureFixture) -> None:
    proto = ir.to_proto(
        parse("g (float[1, 4, 8, 8] x) => (float[] y) { a = Relu (x)  b = Neg (x)  y = Conv (b, w) }", w=WEIGHT)
    )
    del proto.graph.value_info[:]
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, []))
    model = io.load_model(proto).model
    infer_shapes(model)
    shapes = {v.name: v.shape for n in model.graph for v in n.outputs}
    assert shapes["b"] == shapes["y"] == (1, 4, 8, 8)
    assert not caplog.records


@pytest.mark.parametrize("bound", ["Clip (f, low, high)", "Min (f, high)"])
def test_what_becomes_an_index_stays_float(bound: str) -> None:
    """The last row that a Gather may read is 47; with a step of 8 it would become 48."""
    text = f"a = Conv (x, w)  f = Add (a, low)  b = {bound}  i = Cast <to = 7> (b)  g = Gather (rows, i)"
    found = _survey(f"{text}  y = Conv (x, w)", "xint8", low=_number(0), high=_number(47), rows=noise(48))
    kept = [name for name, why in found.kept_float.items() if why == BECOMES_INDEX]
    assert len(kept) == 2
    assert "b" not in {name for group in found.groups for name in group.members}
    assert any("f" not in group.members for group in found.groups)


@pytest.mark.parametrize("reader", ["i = Cast <to = 7> (b)  c = Conv (b, w)", "i = Cast <to = 2> (b)  c = Conv (a, w)"])
def test_what_is_also_read_as_a_number_or_becomes_a_pixel_is_quantized(reader: str) -> None:
    found = _survey(f"a = Conv (x, w)  b = Mul (a, two)  {reader}  y = Conv (c, w)", "a8w8", two=_number(2))
    assert BECOMES_INDEX not in found.kept_float.values()


def test_a_bound_behind_a_layer_is_not_fused_where_it_makes_an_index() -> None:
    text = "a = Conv (x, w)  b = Clip (a, low, high)  i = Cast <to = 7> (b)  y = Conv (x, w)"
    found = _survey(text, "xint8", low=_number(0), high=_number(47))
    assert "b" not in {name for group in found.groups for name in group.members}


def test_nor_where_the_options_leave_it_float_anyway() -> None:
    text = "a = Conv (x, w)  b = Clip (a, low, high)  i = Cast <to = 7> (b)  y = Conv (x, w)"
    model = parse(
        f"g (float[1, 4, 8, 8] x) => (float[] y) {{ {text} }}", 17, w=WEIGHT, low=_number(0), high=_number(47)
    )
    found = target.survey(model, preset("xint8", op_types_to_quantize=("Conv",)))
    assert "b" not in {name for group in found.groups for name in group.members}


def _number(value: float) -> Array:
    return np.array(value, np.float32)


@pytest.mark.parametrize(("divisor", "kept"), [([6.0], False), ([2.0, 3.0, 4.0, 5.0], False), ([0.01, 1, -2, 9], True)])
def test_uneven_divisors_stay_float(divisor: list[float], kept: bool) -> None:
    """Of 0.01 and 9 with one scale of 8 bits the former is 0, and what it divides infinite."""
    text = "a = Conv (x, w)  b = Div (a, d)  y = Conv (b, w)"
    found = _survey(text, "xint8", d=np.array(divisor, np.float32).reshape(1, -1, 1, 1))
    assert ("Div_b" in found.kept_float) == kept
    assert ("Div_b" in found.nodes) != kept
