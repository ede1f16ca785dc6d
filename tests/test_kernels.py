"""A run sees to it that the integer kernels of this machine give what the model says."""

from __future__ import annotations

import importlib
import warnings

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from equiquant import quantize
from equiquant.errors import ModelError
from equiquant.pipeline.measuring.splitting import held_back
from equiquant.pipeline.telling import kernels
from equiquant.verify import kernel_sqnr_db
from tests.qdq.support import noise

TEXT = "g (float[1, 4, 6, 6] x) => (float[1, 4, 6, 6] y) { y = Conv <pads = [1, 1, 1, 1]> (x, w, b) }"


def _model() -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{TEXT}')
    for name, array in (("w", noise(4, 4, 3, 3)), ("b", noise(4, seed=1))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


def _weights(model: onnx.ModelProto) -> set[int]:
    return {i.data_type for i in model.graph.initializer if len(i.dims) == 4}


def _overflowing(monkeypatch: pytest.MonkeyPatch, unsigned_db: float = 60.0) -> None:
    """Pretend that kernels leave 3 dB with int8 weights."""

    def sqnr_db(model: ir.Model, feeds: object, entries: object = None) -> dict[str, float]:
        kinds = {value.dtype for value in model.graph.initializers.values() if len(value.shape or ()) == 4}
        return {"y": 3.0 if ir.DataType.INT8 in kinds else unsigned_db}

    monkeypatch.setattr(kernels, "kernel_sqnr_db", sqnr_db)


def test_weights_are_stored_as_uint8_where_kernels_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    _overflowing(monkeypatch)
    result = quantize(_model(), data=noise(3, 4, 6, 6), preset="a8w8")
    assert _weights(result.model) == {onnx.TensorProto.UINT8}
    (decision,) = [d for d in result.report.to_dict()["decisions"] if d["rule"] == "avoid_overflow"]
    assert "3.0 dB" in decision["reason"]


def test_kernels_that_read_stored_weights_are_measured_of_a_large_model_too(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "g (float[1, 4, 256] x) => (float[1, 4, 256] y) { y = MatMul (x, w) }"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    model.graph.initializer.append(onnx.numpy_helper.from_array(noise(256, 256), "w"))
    data = noise(4, 4, 256)
    for above in (50_000_000, 0):
        monkeypatch.setattr(importlib.import_module("equiquant.io.runtime"), "LEAN_ABOVE", above)
        with pytest.warns(UserWarning, match="the kernel for MatMul with stored weights rounds activations"):
            quantized = ir.from_proto(quantize(model, data=data, preset="w8").model)
    feeds = [{"x": x[None]} for x in data]
    monkeypatch.setattr(importlib.import_module("equiquant.verify.kernels"), "WHOLE_BELOW", 0)
    assert kernel_sqnr_db(quantized, feeds)["y"] > 100
    monkeypatch.setattr(kernels, "WHOLE_BELOW", 0)
    rows = quantize(model, data=data, preset="w8").report.to_dict()["decisions"]
    assert [row["applied"] for row in rows if row["rule"] == "kernels"] == [False]


def test_int8_is_kept_where_uint8_is_no_better(monkeypatch: pytest.MonkeyPatch) -> None:
    _overflowing(monkeypatch, unsigned_db=4.0)
    result = quantize(_model(), data=noise(3, 4, 6, 6), preset="a8w8")
    assert _weights(result.model) == {onnx.TensorProto.INT8}


def test_int8_is_kept_on_request_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    _overflowing(monkeypatch)
    with pytest.warns(UserWarning, match="x64quantprecision"):
        result = quantize(_model(), data=noise(3, 4, 6, 6), preset="a8w8", avoid_overflow=False)
    assert _weights(result.model) == {onnx.TensorProto.INT8}


def test_int8_is_kept_where_kernels_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "kernel_sqnr_db", lambda *_: {"y": np.inf})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = quantize(_model(), data=noise(3, 4, 6, 6), preset="a8w8")
    assert _weights(result.model) == {onnx.TensorProto.INT8}


@pytest.mark.parametrize("preset", ["w8", "a16w8"])
def test_a_kernel_that_rounds_what_the_model_does_not_is_told_of(preset: str) -> None:
    """onnxruntime fuses stored weights and MatMul into a kernel that reads 8-bit activations."""
    text = "g (float[4, 64] x) => (float[4, 32] y) { y = MatMul (x, w) }"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    model.graph.initializer.append(onnx.numpy_helper.from_array(noise(64, 32), "w"))
    x = noise(8, 64, seed=2)
    x[:, 0] *= 100  # so that 8 bits leave little of the others
    with pytest.warns(UserWarning, match=r"session\.qdq_matmulnbits_accuracy_level=0"):
        result = quantize(model, data=[{"x": x[:4]}, {"x": x[4:]}], preset=preset)
    assert _run(result.model, "0") > _run(result.model, None) + 10


def test_what_kernels_do_to_the_last_bits_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def sqnr_db(model: ir.Model, feeds: object, entries: object = None) -> dict[str, float]:
        return {"y": np.inf if entries else 144.0}

    monkeypatch.setattr(kernels, "kernel_sqnr_db", sqnr_db)
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[4, 64] x) => (float[4, 32] y) { y = MatMul (x, w) }'
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((64, 32), np.float32), "w"))  # w8 is exact
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantize(model, data=noise(8, 64), preset="w8")


@pytest.mark.parametrize("preset", ["w4", "w8"])
def test_an_output_of_zeros_has_nothing_to_lose(preset: str) -> None:
    """A head initialised to zero beside a live one: onnxruntime's kernel leaves a last bit of noise."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[4, 40] x) => (float[4, 8] y, float[4, 8] z)'
        " { y = MatMul (x, v)  z = MatMul (x, w) }"
    )
    for name, array in (("v", np.zeros((40, 8), np.float32)), ("w", noise(40, 8))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantize(model, data=noise(32, 40), preset=preset)


@pytest.mark.parametrize(
    ("as_written", "said"),
    [(True, r"graph optimizations fail on it .*ORT_DISABLE_ALL, or leave"), (False, "as it is written .* Leave")],
)
def test_uint8_weights_are_looked_at_too(as_written: bool, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> dict[str, float]:
        raise ModelError("no such kernel.")

    monkeypatch.setattr(kernels, "kernel_sqnr_db", fails)
    if not as_written:
        monkeypatch.setattr(kernels, "Runner", fails)
    with pytest.warns(UserWarning, match=said):
        quantize(_model(), data=noise(3, 4, 6, 6), preset="a8w8", weight_type="uint8")


def test_layers_beside_the_node_that_fails_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> dict[str, float]:
        raise ModelError("Name:'pool' has no kernel.")

    text = "{ [before] a = Conv (x, w)  b = Relu (a)  [pool] c = MaxPool <kernel_shape = [1, 1]> (b)  d = Relu (c)"
    text += "  [after] y = Conv (d, w)  [far] z = Conv (y, w) }"
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[1, 4, 6, 6] x) => (float[1, 4, 6, 6] z) {text}'
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(noise(4, 4, 1, 1), "w"))
    monkeypatch.setattr(kernels, "kernel_sqnr_db", fails)
    with pytest.warns(UserWarning, match="nodes_to_exclude='before' or 'after'"):
        quantize(model, data=noise(3, 4, 6, 6), preset="a8w8")


def test_every_output_is_judged_on_what_quality_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of least dB may lose nothing to be heard: as much of it is lost to quantization."""
    samples = [{"x": noise(4, 64, seed=seed)} for seed in range(8)]

    def sqnr_db(model: ir.Model, feeds: list[dict[str, np.ndarray]], entries: object = None) -> dict[str, float]:
        np.testing.assert_array_equal([feed["x"] for feed in feeds], [samples[k]["x"] for k in held_back(8)])
        return {"coarse": np.inf, "exact": np.inf} if entries else {"coarse": 25.0, "exact": 30.0}

    monkeypatch.setattr(kernels, "kernel_sqnr_db", sqnr_db)
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[4, 64] x) => (float[4, 32] coarse, float[4, 32] exact)'
        " { coarse = MatMul (x, v)  exact = MatMul (x, w) }"
    )
    for name, array in (("v", noise(64, 32)), ("w", np.ones((64, 32), np.float32))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    with pytest.warns(UserWarning, match="of the output 'exact' about 30 dB are left"):
        quantize(model, data=samples, preset="w4")


def _run(model: onnx.ModelProto, level: str | None) -> float:
    """Return the signal-to-noise ratio of the default session against the model as written, in dB."""
    x = noise(4, 64, seed=3)
    x[:, 0] *= 100
    written, options = ort.SessionOptions(), ort.SessionOptions()
    written.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if level is not None:
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", level)
    a, b = (ort.InferenceSession(model.SerializeToString(), o).run(None, {"x": x})[0] for o in (written, options))
    return float(10 * np.log10(np.square(a).sum() / max(np.square(a - b).sum(), 1e-20)))
