from __future__ import annotations

import logging
import threading

import onnx
import pytest

from equiquant import io
from equiquant.graph.edit import infer_shapes


def test_a_failed_inference_leaves_shapes_unknown_and_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    text = """
        <ir_version: 9, opset_import: ["": 18, "my": 1]> g (float[1,2] x) => (float[] y) { y = my.F(x) }
        <domain: "my", opset_import: ["": 18]> F (a) => (b, c) { c = Neg(a) b = Relu(c) }
    """
    model = io.load_model(onnx.parser.parse_model(text)).model
    with caplog.at_level(logging.WARNING):
        infer_shapes(model)
    assert not caplog.records


def test_an_output_keeps_the_shape_it_was_declared_with() -> None:
    text = """
        <ir_version: 9, opset_import: ["": 18]> g (float[N,2] x) => (float[N,some] y, float z)
        { a = Neg(x) y = Relu(a) z = ReduceSum(a) }
    """
    model = io.load_model(onnx.parser.parse_model(text)).model
    declared = [str(value.shape) for value in model.graph.outputs]
    infer_shapes(model)
    assert [str(value.shape) for value in model.graph.outputs] == declared
    assert str(model.graph.node(0).outputs[0].shape) == "[N,2]"


def test_what_another_thread_logs_meanwhile_is_kept(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = logging.getLogger("onnx_ir.passes.common.shape_inference")

    class Pass:
        def __init__(self, **_: object) -> None: ...

        def __call__(self, _: object) -> None:
            log.warning("ours")
            other = threading.Thread(target=log.warning, args=("theirs",))
            other.start()
            other.join()

    monkeypatch.setattr("equiquant.graph.edit.passes.ShapeInferencePass", Pass)
    text = '<ir_version: 9, opset_import: ["": 18]> g (float[2] x) => (float[2] y) { y = Neg(x) }'
    model = io.load_model(onnx.parser.parse_model(text)).model
    infer_shapes(model)
    assert [record.message for record in caplog.records] == ["theirs"]
