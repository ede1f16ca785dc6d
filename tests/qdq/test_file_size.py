"""A small network's file holds its numbers, and little besides: no type told twice, no name longer than it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from equiquant import io, quantize
from tests.qdq.support import noise, parse

GRAPH = """g (float[1, 3, 8, 8] x) => (float[1, 4, 6, 6] y, float[1, 4, 6, 6] z) {
  a = Conv<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(x, w, b)
  r = Relu(a)
  y = Conv<kernel_shape=[3, 3]>(r, v)
  z = Conv<kernel_shape=[3, 3]>(r, v)
}"""


@pytest.fixture(name="written", params=["xint8", "a8w8"])
def _written(request: pytest.FixtureRequest, tmp_path: Path) -> onnx.ModelProto:
    model = parse(GRAPH, w=noise(4, 3, 3, 3), b=noise(4, seed=1), v=noise(4, 4, 3, 3, seed=2))
    feeds = np.random.default_rng(0).standard_normal((48, 3, 8, 8)).astype(np.float32)
    quantize(io.to_proto(model), tmp_path / "q.onnx", data=feeds, preset=request.param, weight_rounding="optimal")
    return onnx.load(tmp_path / "q.onnx")


def test_no_type_is_told_beside_the_numbers(written: onnx.ModelProto) -> None:
    told = {info.name for info in written.graph.value_info}
    assert {"r", "r_QuantizeLinear_Output", "r_DequantizeLinear_Output"} <= told
    constants = {constant.name for constant in written.graph.initializer}
    restored = {n.output[0] for n in written.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in constants}
    assert restored
    assert not told & (constants | restored)
    onnx.checker.check_model(written, full_check=True)


def test_refined_constants_keep_their_names(written: onnx.ModelProto) -> None:
    names = {constant.name.removesuffix("_quantized") for constant in written.graph.initializer}
    assert {"w", "b", "v", "v_1"} <= names  # v is read by two layers, each of which has its own
