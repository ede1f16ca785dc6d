"""A model's own functions become part of the graph, so that what is inside them is folded and quantized, too."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import InlinePass

from equiquant import ModelError, Result, equalize, quantize
from equiquant.io import load_model
from tests.qdq.support import noise

pytestmark = pytest.mark.filterwarnings("ignore:As onnxruntime runs the model")  # tests/test_kernels.py is about that

DATA = [{"x": array} for array in np.random.default_rng(0).standard_normal((8, 4, 48)).astype(np.float32)]


def _model(opset: int, of_functions: int | None = None) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["" : {opset}, "own" : 1]>
        g (float[B, 48] x) => (float[B, 40] y) {{
            [call] t = own.Layer (x, w)
            [last] y = MatMul (t, v)
        }}
        <domain: "own", opset_import: ["" : {of_functions or opset}, "own" : 1]>
        Layer (a, b) => (c) {{
            p = own.Inner (a, b)
            c = Relu (p)
        }}
        <domain: "own", opset_import: ["" : {of_functions or opset}]>
        Inner (a, b) => (c) {{
            d = MatMul (a, b)
            c = Identity (d)
        }}
    """)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in (("w", noise(48, 40)), ("v", noise(40, 40)))
    )
    return model


@pytest.mark.parametrize(
    ("inner", "number", "refusal"),
    [
        ("q = QuantizeLinear (a, s)  c = DequantizeLinear (q, s)", 0.1, "already quantized"),
        ("c = Mul (a, s)", float("nan"), "contains NaN"),
    ],
)
def test_functions_are_refused_for_what_the_graph_is_if_they_are_called(
    inner: str, number: float, refusal: str
) -> None:
    text = f"Spare (a, b) => (c) {{ s = Constant <value = float {{1}}> ()  {inner} }}"
    function = onnx.parser.parse_function(f'<domain: "own", opset_import: ["" : 17]> {text}')
    function.node[0].attribute[0].t.CopyFrom(onnx.numpy_helper.from_array(np.array(number, np.float32)))
    model = _model(17)
    model.functions.append(function)
    assert not load_model(model).quantized
    del model.functions[1]
    function.name = "Inner"
    model.functions.append(function)
    with pytest.raises(ModelError, match=refusal):
        load_model(model)


def _integer_layers(result: Result) -> int:
    """Return how many MatMuls read an integer weight."""
    restored = {n.output[0] for n in result.model.graph.node if n.op_type == "DequantizeLinear"}
    return sum(n.op_type == "MatMul" and n.input[1] in restored for n in result.model.graph.node)


@pytest.mark.parametrize("opset", [17, 21])
@pytest.mark.parametrize("preset", ["a8w8", "w8"])
def test_layers_inside_functions_are_quantized(opset: int, preset: str) -> None:
    result = quantize(_model(opset), data=DATA, preset=preset)
    assert _integer_layers(result) == 2
    assert not result.model.functions
    assert [o.domain for o in result.model.opset_import] == [""]
    assert {n.name for n in result.model.graph.node if n.op_type == "MatMul"} == {"MatMul_d", "last"}
    assert any(d.where == "call" and d.rule == "inline_calls" for d in result.report.decisions) or opset == 17


@pytest.mark.parametrize(("options", "layers"), [({"nodes_to_exclude": ["call"]}, 1), ({"optimize": False}, 1)])
def test_a_call_that_is_named_stays_float_and_so_it_does_where_the_graph_is_left(options: Any, layers: int) -> None:
    assert _integer_layers(quantize(_model(21), data=DATA, preset="a8w8", **options)) == layers


def test_functions_are_equalized_through() -> None:
    model = equalize(_model(21), data=DATA).model
    assert not model.functions
    assert not np.array_equal(onnx.numpy_helper.to_array(model.graph.initializer[0]), noise(48, 40))


def test_functions_of_another_operator_set_stay_what_they_are() -> None:
    result = quantize(_model(21, of_functions=20), data=DATA, preset="a8w8")
    assert len(result.model.functions) == 2
    (reason,) = [d.reason for d in result.report.decisions if d.rule == "inline_calls"]
    assert "cannot be made part of its graph" in reason


def test_calls_that_nobody_names_become_nodes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[ir.Model] = []
    inline = InlinePass.call

    def counted(self: InlinePass, model: ir.Model) -> Any:
        calls.append(model)
        return inline(self, model)

    monkeypatch.setattr(InlinePass, "call", counted)
    quantize(_model(21), data=DATA, preset="a8w8")
    assert len(calls) == 1
