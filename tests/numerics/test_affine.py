"""Affine arithmetic against onnxruntime's QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from equiquant.numerics.affine import INT_TYPES, QuantParams, dequantize, fake_quantize, params_from_range, quantize

Array = npt.NDArray[Any]
STORED = ("int8", "uint8", "int16", "uint16")
SCALES = st.floats(2**-20, 2**10, width=32)
ARRAYS = hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=5), elements=st.floats(-1000, 1000, width=32))


@functools.cache
def _session(op: str, kind: str, per_axis: bool) -> ort.InferenceSession:
    source, result = ("float", kind) if op == "QuantizeLinear" else (kind, "float")
    size = "C" if per_axis else ""
    call = f"{op} <axis = 0> (x, s, z)"
    text = (
        f'<ir_version: 10, opset_import: ["" : 21]> g ({source} x, float[{size}] s, {kind}[{size}] z) => ({result} y)'
    )
    model = onnx.parser.parse_model(f"{text} {{ y = {call} }}")
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.ClearField("shape")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _runtime(op: str, x: Array, params: QuantParams) -> Array:
    session = _session(op, params.type.name, params.axis is not None)
    result: Array = session.run(None, {"x": x, "s": params.scale, "z": params.zero_point})[0]
    return result


def _check_quantize(x: Array, params: QuantParams) -> None:
    ours = quantize(x, params).astype(np.int64)
    theirs = _runtime("QuantizeLinear", x, params).astype(np.int64)
    # onnxruntime divides in float32: a quotient next to a tie may fall on the other side of it
    steps = np.abs(x.astype(np.float64) / params.aligned(x.ndim)[0])
    tie = np.abs(steps - np.floor(steps) - 0.5) <= 1e-6 * np.maximum(steps, 1)
    assert np.abs(ours - theirs)[tie].max(initial=0) <= 1
    np.testing.assert_array_equal(ours[~tie], theirs[~tie])


@pytest.mark.parametrize("kind", STORED)
@given(x=ARRAYS, scale=SCALES, data=st.data())
def test_quantize_is_onnxruntimes(kind: str, x: Array, scale: float, data: st.DataObject) -> None:
    zero = data.draw(st.integers(INT_TYPES[kind].qmin, INT_TYPES[kind].qmax))
    _check_quantize(x, QuantParams.make(scale, zero, kind))


@pytest.mark.parametrize("kind", STORED)
@given(x=ARRAYS, data=st.data())
def test_per_channel_quantize_is_onnxruntimes(kind: str, x: Array, data: st.DataObject) -> None:
    scale = data.draw(hnp.arrays(np.float32, x.shape[0], elements=SCALES))
    _check_quantize(x, QuantParams.make(scale, INT_TYPES[kind].center, kind, axis=0))


@pytest.mark.parametrize("kind", STORED)
@given(scale=SCALES, data=st.data())
def test_dequantize_is_onnxruntimes(kind: str, scale: float, data: st.DataObject) -> None:
    span = st.integers(INT_TYPES[kind].qmin, INT_TYPES[kind].qmax)
    q = data.draw(hnp.arrays(kind, hnp.array_shapes(max_dims=2, max_side=4), elements=span))
    params = QuantParams.make(scale, data.draw(span), kind)
    np.testing.assert_array_equal(dequantize(q, params), _runtime("DequantizeLinear", q, params))


@given(x=ARRAYS, kind=st.sampled_from(STORED), symmetric=st.booleans())
def test_a_covered_value_moves_by_at_most_half_a_step(x: Array, kind: str, symmetric: bool) -> None:
    params = params_from_range(x.min(), x.max(), INT_TYPES[kind], symmetric=symmetric)
    # an asymmetric zero point is rounded too: the grid may miss an end of the range by half a step more
    allowed = (0.5 if symmetric else 1.0) * float(params.scale) * (1 + 1e-4) + 1e-4 * float(np.abs(x).max())
    assert np.abs(fake_quantize(x, params) - x).max() <= allowed


@given(x=ARRAYS, kind=st.sampled_from(STORED), symmetric=st.booleans())
def test_zero_is_exact_and_rounding_twice_changes_nothing(x: Array, kind: str, symmetric: bool) -> None:
    params = params_from_range(x.min(), x.max(), INT_TYPES[kind], symmetric=symmetric)
    assert fake_quantize(np.zeros(1, np.float32), params)[0] == 0
    once = fake_quantize(x, params)
    np.testing.assert_array_equal(fake_quantize(once, params), once)


def test_ties_go_to_even() -> None:
    params = QuantParams.make(1.0, 0, "int8")
    np.testing.assert_array_equal(quantize(np.array([0.5, 1.5, -0.5, -2.5], np.float32), params), [0, 2, 0, -2])


def test_an_all_zero_channel_gets_scale_one() -> None:
    params = params_from_range(np.array([0.0, -1.0]), np.array([0.0, 1.0]), INT_TYPES["int8"], symmetric=True, axis=0)
    np.testing.assert_allclose(params.scale, [1.0, 1 / 127], rtol=1e-6)


def test_parameters_differ_when_any_part_does() -> None:
    base = QuantParams.make(0.5, 3, "uint8")
    assert base == QuantParams.make(0.5, 3, "uint8")
    others = [QuantParams.make(0.25, 3, "uint8"), QuantParams.make(0.5, 4, "uint8"), QuantParams.make(0.5, 3, "int8")]
    assert all(base != other for other in others)
