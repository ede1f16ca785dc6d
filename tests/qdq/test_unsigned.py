"""int8 weights stored as uint8 are the same numbers, in a form whose integer kernels do not overflow."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from equiquant import qdq
from equiquant.recipe import preset
from equiquant.verify import kernel_sqnr_db
from tests.qdq.support import noise, parse, quantize, run

CONV = "g (float[1, 8, 6, 6] x) => (float[1, 4, 6, 6] y) { y = Conv <pads = [1, 1, 1, 1]> (x, w, b) }"
GEMM = "g (float[2, 8] x) => (float[2, 4] y) { y = Gemm <transB = 1> (x, w, b) }"


def _model(text: str, weight: np.ndarray) -> ir.Model:
    return parse(text, w=weight, b=noise(4, seed=1))


def _stored(model: ir.Model) -> set[str]:
    layers = [n for n in model.graph if n.op_type in ("Conv", "Gemm")]
    dequantize = [n.inputs[1].producer() for n in layers if n.inputs[1] is not None]
    return {str(n.inputs[0].dtype.numpy()) for n in dequantize if n and n.inputs[0] and n.inputs[0].dtype}


@pytest.mark.parametrize("name", ["a8w8", "a8w8_per_channel"])
@pytest.mark.parametrize(("text", "shape", "kernel"), [(CONV, (1, 8, 6, 6), (4, 8, 3, 3)), (GEMM, (2, 8), (4, 8))])
def test_the_numbers_stay_the_same(name: str, text: str, shape: tuple[int, ...], kernel: tuple[int, ...]) -> None:
    feed = {"x": noise(*shape)}
    model, _ = quantize(_model(text, noise(*kernel, seed=2)), preset(name, calibration="minmax"), [feed])
    before = run(model, feed)[0]
    assert _stored(model) == {"int8"}
    assert qdq.store_unsigned(model) == 1
    assert _stored(model) == {"uint8"}
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert np.array_equal(run(model, feed)[0], before)
    assert qdq.store_unsigned(model) == 0


def test_pairs_of_large_products_are_summed_in_full() -> None:
    feed = {"x": np.ones((1, 8, 6, 6), np.float32)}
    weight = np.ones((4, 8, 3, 3), np.float32)
    model, _ = quantize(_model(CONV, weight), preset("a8w8", calibration="minmax"), [feed])
    qdq.store_unsigned(model)
    assert kernel_sqnr_db(model, [feed])["y"] > 40
