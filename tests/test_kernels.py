"""A run sees to it that the integer kernels of this machine give what the model says."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from equiquant import quantize
from equiquant.pipeline import kernels
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

    def sqnr_db(model: ir.Model, feeds: object) -> dict[str, float]:
        kinds = {value.dtype for value in model.graph.initializers.values() if len(value.shape or ()) == 4}
        return {"y": 3.0 if ir.DataType.INT8 in kinds else unsigned_db}

    monkeypatch.setattr(kernels, "kernel_sqnr_db", sqnr_db)


def test_weights_are_stored_as_uint8_where_kernels_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    _overflowing(monkeypatch)
    result = quantize(_model(), data=noise(3, 4, 6, 6), preset="a8w8")
    assert _weights(result.model) == {onnx.TensorProto.UINT8}
    (decision,) = [d for d in result.report.to_dict()["decisions"] if d["rule"] == "avoid_overflow"]
    assert "3.0 dB" in decision["reason"]


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
    monkeypatch.setattr(kernels, "kernel_sqnr_db", lambda model, feeds: {"y": np.inf})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = quantize(_model(), data=noise(3, 4, 6, 6), preset="a8w8")
    assert _weights(result.model) == {onnx.TensorProto.INT8}
