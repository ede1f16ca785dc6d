"""Values as long as numbers say: what ends by them, counts them or is steered by them; not what sizes say."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from equiquant import quantize
from equiquant.graph.varying import varying
from tests.qdq.support import noise


def _decoder(*, stops: bool) -> onnx.ModelProto:
    """A layer, then a loop that writes its result up to 9 times: until its mean is large enough, or always 9 times."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Add", ["state", "h"], ["next"]),
            helper.make_node("ReduceMax", ["next"], ["top"], keepdims=0),
            helper.make_node("Less", ["top", "enough"], ["more"])
            if stops
            else helper.make_node("Identity", ["go"], ["more"]),
            helper.make_node("Identity", ["next"], ["word"]),
        ],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("state", TensorProto.FLOAT, None)],
        [value(n, t, None) for n, t in (("more", TensorProto.BOOL), ("next", 1), ("word", 1))],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="layer"),
        helper.make_node("Loop", ["times", "yes", "h"], ["last", "words"], body=body),
    ]
    constants = {
        "w": noise(8, 8, seed=1),
        "enough": np.float32(9),
        "times": np.array(9, np.int64),
        "yes": np.array(True),
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, [1, 8])],
        [value("words", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _names(model: onnx.ModelProto) -> set[str]:
    return {str(value.name) for value in varying(ir.from_proto(model))}


def test_a_loop_that_ends_by_its_numbers() -> None:
    assert _names(_decoder(stops=True)) == {"last", "words"}
    assert _names(_decoder(stops=False)) == set()


@pytest.mark.parametrize("preset", ["a8w8", "xint8"])
def test_a_decoder_is_measured_by_what_goes_into_it(preset: str) -> None:
    data = [noise(1, 8, seed=seed) for seed in range(12)]
    report = quantize(_decoder(stops=True), data=data, preset=preset).report.to_dict()
    (output,) = report["quality"]["outputs"]
    assert output["name"] == "h"
    assert output["sqnr_db"] > 15


@pytest.mark.parametrize(("steer", "found"), [("ReduceMax <keepdims = 0> (x)", {"r"}), ("Size (x)", set())])
def test_a_range_up_to_a_number_or_a_size(steer: str, found: set[str]) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[4] x) => (float[] r) {{
            n = {steer}
            f = Cast <to = 1> (n)
            zero = Constant <value = float {{0}}> ()
            one = Constant <value = float {{1}}> ()
            r = Range (zero, f, one)
        }}"""
    assert _names(onnx.parser.parse_model(text)) == found
