"""Where QuantizeLinear and DequantizeLinear go, and what keeps its name and its numbers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from equiquant import qdq
from equiquant.errors import ModelError
from equiquant.numerics.affine import QuantParams
from equiquant.recipe import preset
from equiquant.target import QuantPlan
from tests.qdq.support import node, noise, op_types, parse, quantize, run, sqnr
from tests.target.test_survey import branching

W = noise(4, 4, 1, 1, seed=3)
FEED = {"x": noise(1, 4, 8, 8)}


def _graph(body: str, outputs: str = "float[] y") -> ir.Model:
    return parse(f"g (float[1, 4, 8, 8] x) => ({outputs}) {{ {body} }}", w=W)


def _source(value: ir.Value | None) -> str:
    assert value is not None
    producer = value.producer()
    return "" if producer is None else producer.op_type


def test_public_names_and_order_survive() -> None:
    model = _graph("y = Conv (x, w)  z = Relu (y)  u = Conv (z, w)", "float[] y, float[] u")
    quantized, _ = quantize(model, preset("a8w8"), [FEED])
    assert [v.name for v in quantized.graph.inputs] == ["x"]
    assert [v.name for v in quantized.graph.outputs] == ["y", "u"]
    assert [_source(v) for v in quantized.graph.outputs] == ["DequantizeLinear", "DequantizeLinear"]
    for float_value, rounded in zip(run(model, FEED), run(quantized, FEED), strict=True):
        assert 30 < sqnr(float_value, rounded) < 100


def test_one_pair_serves_all_readers() -> None:
    quantized, plan = quantize(_graph("a = Conv (x, w)  b = Conv (a, w)  y = Add (a, b)"), preset("a8w8"), [FEED])
    assert op_types(quantized)["QuantizeLinear"] == len(plan.activations) == 4
    assert node(quantized, "Conv_b").inputs[0] is node(quantized, "Add_y").inputs[0]


def test_a_weight_read_twice_is_stored_once() -> None:
    quantized, _ = quantize(_graph("a = Conv (x, w)  y = Conv (a, w)"), preset("a8w8"), [FEED])
    assert "w" not in quantized.graph.initializers
    assert sum(name.startswith("w_quantized") for name in quantized.graph.initializers) == 1


def test_a_bias_read_at_two_scales_is_stored_twice() -> None:
    model = parse(
        "g (float[1, 4, 8, 8] x) => (float[] y) { a = Conv (x, w, b)  y = Conv (a, w, b) }", w=W, b=noise(4, scale=3)
    )
    quantized, _ = quantize(model, preset("a8w8"), [FEED])
    assert {"b_quantized", "b_quantized_1"} <= set(quantized.graph.initializers)
    assert 30 < sqnr(run(model, FEED)[0], run(quantized, FEED)[0]) < 100


def test_a_float_node_keeps_the_float_constant() -> None:
    model = _graph("a = Conv (x, w)  y = Conv (a, w)")
    quantized, _ = quantize(model, preset("a8w8", nodes_to_exclude=("Conv_y",)), [FEED])
    weight = node(quantized, "Conv_y").inputs[1]
    assert weight is not None
    assert weight.name == "w"
    assert _source(node(quantized, "Conv_a").inputs[1]) == "DequantizeLinear"


def test_float_readers_take_the_float_value_only_from_float_producers() -> None:
    model = _graph("s = Tanh (x)  a = Conv (s, w)  b = Exp (a)  c = Exp (s)  y = Sum (b, c)")
    quantized, _ = quantize(model, preset("a8w8"), [FEED])
    assert _source(node(quantized, "Exp_b").inputs[0]) == "DequantizeLinear"
    assert _source(node(quantized, "Exp_c").inputs[0]) == "Tanh"
    assert _source(node(quantized, "Conv_a").inputs[0]) == "DequantizeLinear"


def test_fused_activations_have_nothing_in_between() -> None:
    quantized, _ = quantize(_graph("a = Conv (x, w)  b = Relu (a)  y = Conv (b, w)"), preset("xint8"), [FEED])
    assert _source(node(quantized, "Relu_b").inputs[0]) == "Conv"


def test_names_already_taken_are_avoided() -> None:
    body = "x_scale = Conv (x, w)  x_QuantizeLinear = Conv (x_scale, w)  y = Conv (x_QuantizeLinear, w)"
    model = _graph(body)
    quantized, _ = quantize(model, preset("a8w8"), [FEED])
    names = [v.name for n in quantized.graph for v in n.outputs] + list(quantized.graph.initializers)
    assert len(names) == len(set(names))
    assert 30 < sqnr(run(model, FEED)[0], run(quantized, FEED)[0]) < 100


def test_constant_nodes_are_stored_as_integers_too() -> None:
    model = parse("g (float[2, 2] x) => (float[] y) { k = Constant <value = float[2] {1.0, -3.0}> ()  y = Add (x, k) }")
    feed = {"x": noise(2, 2)}
    quantized, _ = quantize(model, preset("a8w8"), [feed])
    assert op_types(quantized)["Constant"] == 0
    assert 25 < sqnr(run(model, feed)[0], run(quantized, feed)[0]) < 100


def test_what_is_noted_of_an_output_stays_with_it() -> None:
    model = _graph("y = Conv (x, w)")
    model.graph.outputs[0].metadata_props["unit"] = "logits"
    model.graph.outputs[0].doc_string = "one a pixel"
    quantized, _ = quantize(model, preset("a8w8"), [FEED])
    (output,) = quantized.graph.outputs
    assert _source(output) == "DequantizeLinear"
    assert (output.metadata_props, output.doc_string) == ({"unit": "logits"}, "one a pixel")
    (before,) = (v for node in quantized.graph for v in node.outputs if v.name == "y_float")
    assert (before.metadata_props, before.doc_string) == ({}, None)


def test_values_read_inside_bodies_are_valid() -> None:
    quantized, _ = quantize(branching(), preset("a8w8"), [FEED | {"k": np.array(True)}])
    for choice in (True, False):
        feed = FEED | {"k": np.array(choice)}
        for float_value, rounded in zip(run(branching(), feed), run(quantized, feed), strict=True):
            assert 30 < sqnr(float_value, rounded) < 100


def test_a_node_stays_float_where_the_caller_can_override_its_constant() -> None:
    """No range can be known for what only the caller knows."""
    text = "g (float[1, 4, 8, 8] x, float[4, 4, 1, 1] w) => (float[] y) { a = Conv (x, w) y = Conv (a, v) }"
    model = parse(text, w=W, v=W)
    quantized, plan = quantize(model, preset("a8w8"), [FEED])
    assert plan.kept_float == {"Conv_a": "the caller can override its 'w'"}
    assert set(plan.activations) == {"a", "y"}
    assert 30 < sqnr(run(model, FEED)[0], run(quantized, FEED)[0]) < 100


@pytest.mark.parametrize(("name", "domain_ops"), [("a8w8", 1), ("a16w8", 1), ("xint8", 1)])
def test_only_the_default_domain_is_used(name: str, domain_ops: int) -> None:
    quantized, _ = quantize(_graph("y = Conv (x, w)"), preset(name), [FEED])
    assert len(quantized.graph.opset_imports) == domain_ops
    assert {n.domain for n in quantized.graph} == {""}


def test_an_opset_without_the_types_is_refused() -> None:
    model = _graph("y = Conv (x, w)")
    plan = QuantPlan({"x": QuantParams.make(0.1, 0, "uint16")}, {}, ("Conv_y",), {})
    with pytest.raises(ModelError, match="needs opset 21, but it has 17"):
        qdq.insert(model, plan)
