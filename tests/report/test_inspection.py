import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from equiquant.io import load_model
from equiquant.io.size import files_bytes
from equiquant.report import inspect_model
from equiquant.report.plain import dumps


def proto() -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4]),
            helper.make_tensor_value_info("b", TensorProto.FLOAT, [300]),  # an initializer listed as an input
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 300])],
        [
            numpy_helper.from_array(np.ones((4, 300), np.float32), "w"),
            numpy_helper.from_array(np.ones(300, np.float32), "b"),
        ],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="maker", producer_version="1.2"
    )


def test_inspection() -> None:
    found = inspect_model(load_model(proto()))
    assert (found.path, found.producer, found.opsets) == (None, "maker 1.2", {"ai.onnx": 17})
    assert [(i.name, i.dtype, i.shape) for i in found.inputs] == [("x", "float32", ("batch", 4))]
    assert [o.shape for o in found.outputs] == [("batch", 300)]
    assert found.ops == {"Gemm": 1, "Relu": 1}
    assert (found.parameters, found.parameter_bytes) == (1500, 6000)
    assert found.parameter_types == {"float32": 6000}
    assert not found.quantized
    assert json.loads(dumps(found.to_dict()))["inputs"][0]["shape"] == ["batch", 4]


def test_weights_in_constant_nodes_count() -> None:
    model = proto()
    weight = model.graph.initializer.pop(0)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=weight))
    found = inspect_model(load_model(model))
    assert (found.parameters, found.parameter_bytes) == (1500, 6000)


def test_files_bytes_counts_external_weights(tmp_path: Path) -> None:
    inline, split = tmp_path / "inline.onnx", tmp_path / "split.onnx"
    onnx.save(proto(), inline)
    onnx.save(proto(), split, save_as_external_data=True, location="split.bin", size_threshold=0)
    assert files_bytes(inline) == inline.stat().st_size
    assert files_bytes(split) == split.stat().st_size + (tmp_path / "split.bin").stat().st_size
    assert files_bytes(split) > 6000


def test_weights_in_functions_count() -> None:
    model = proto()
    constant = helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.ones((3, 2), np.float32)))
    nodes = [constant, helper.make_node("Identity", ["k"], ["o"])]
    model.functions.append(helper.make_function("own", "F", ["a"], ["o"], nodes, [helper.make_opsetid("", 17)]))
    model.opset_import.append(helper.make_opsetid("own", 1))
    found = inspect_model(load_model(model))
    assert (found.parameters, found.parameter_bytes) == (1506, 6024)
