"""A model is written weight after weight, and is the same to every reader as one written whole."""

import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from equiquant.io import files_of, load_model, save, save_model, to_proto

RNG = np.random.default_rng(0)
X = np.ones((1, 64), np.float32)


def weight(dtype: type, *shape: int) -> np.ndarray:
    return RNG.integers(-8, 8, shape).astype(dtype)


def mixed() -> ir.Model:
    """A model whose tensors are of many kinds, large and small by turns, in a branch and among the outputs, too."""
    held = {
        "large": weight(np.float32, 64, 64),
        "small": weight(np.float32, 64),
        "half": weight(np.float16, 64, 64),
        "four": weight(ml_dtypes.int4, 64, 255),
        "given": weight(np.float32, 64, 64),
        "told": weight(np.int8, 64, 128),
    }
    tensors = [numpy_helper.from_array(array, name) for name, array in held.items()]
    tensors.insert(2, numpy_helper.from_array(np.array(["text", *["æ"] * 999], object), "text"))
    inner = numpy_helper.from_array(weight(np.float32, 64, 64), "inner")
    nodes = [helper.make_node("MatMul", ["x", "inner"], ["then"])], [helper.make_node("Relu", ["x"], ["else"])]
    branches = [
        helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(name, 1, [1, 64])], some)
        for nodes, name, some in zip(nodes, ("then", "else"), ([inner], []), strict=True)
    ]
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "large", "small"], ["g"]),
            helper.make_node("MatMul", ["g", "given"], ["m"]),
            helper.make_node("ReduceSum", ["m"], ["s"], keepdims=0),
            helper.make_node("Cast", ["s"], ["b"], to=TensorProto.BOOL),
            helper.make_node("If", ["b"], ["y"], then_branch=branches[0], else_branch=branches[1]),
            helper.make_node("Cast", ["half"], ["h"], to=TensorProto.FLOAT),
            helper.make_node("Cast", ["four"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Gather", ["text", "at"], ["t"], axis=0),
        ],
        "g",
        [helper.make_tensor_value_info("x", 1, [1, 64]), helper.make_tensor_value_info("given", 1, [64, 64])],
        [
            helper.make_tensor_value_info("y", 1, [1, 64]),
            helper.make_tensor_value_info("h", 1, [64, 64]),
            helper.make_tensor_value_info("f", 1, [64, 255]),
            helper.make_tensor_value_info("t", TensorProto.STRING, []),
            helper.make_tensor_value_info("told", TensorProto.INT8, [64, 128]),
        ],
        [*tensors, numpy_helper.from_array(np.array(0), "at")],
    )
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))
    told = ir.Tensor(held["told"], name="told", doc_string="weights", metadata_props={"b": "2", "a": "1"})
    model.graph.initializers["told"].const_value = told
    model.metadata_props["made"] = "here"
    return model


@pytest.mark.parametrize("file", ["m.onnx", "m.json"])
def test_every_reader_finds_what_a_whole_proto_holds(file: str, tmp_path: Path) -> None:
    model = mixed()
    whole = to_proto(model)
    path = save_model(model, tmp_path / file)
    written = onnx.load(path, "protobuf")
    assert written == whole
    assert [t.name for t in written.graph.initializer] == list(model.graph.initializers)
    assert path.stat().st_size == whole.ByteSize()
    onnx.checker.check_model(path.read_bytes(), full_check=True)
    for read in (ir.from_proto(written), load_model(path, allow_quantized=True).model):
        tensors = [[v.const_value for v in m.graph.initializers.values()] for m in (read, model)]
        assert all(a and b and np.array_equal(a.numpy(), b.numpy()) for a, b in zip(*tensors, strict=True))
    told, expected = (
        ort.InferenceSession(source, providers=["CPUExecutionProvider"]).run(None, {"x": X})
        for source in (str(path), whole.SerializeToString())
    )
    assert all(np.array_equal(a, b) for a, b in zip(told, expected, strict=True))
    assert save_model(model, tmp_path / "again").read_bytes() == path.read_bytes()


def test_what_was_read_from_a_file_is_written_the_same(tmp_path: Path) -> None:
    first = save_model(mixed(), tmp_path / "first.onnx")
    read = load_model(first, allow_quantized=True).model
    assert onnx.load(save_model(read, tmp_path / "second.onnx")) == to_proto(read)


def plain(count: int, size: int) -> ir.Model:
    """A model that adds weights of as many floats."""
    tensors = [ir.tensor(np.ones(size, np.float32), name=f"w{index}") for index in range(count)]
    values = [ir.Value(name=tensor.name, const_value=tensor) for tensor in tensors]
    node = ir.node("Sum", values)
    node.outputs[0].name = "y"
    graph = ir.Graph([], node.outputs, nodes=[node], initializers=values, opset_imports={"": 17})
    return ir.Model(graph, ir_version=8)


def test_no_more_than_one_weight_is_copied_at_a_time(tmp_path: Path) -> None:
    count, size = 16, 1 << 18
    model, path = plain(count, size), tmp_path / "m.onnx"
    tracemalloc.start()
    try:
        save_model(model, path)
        written = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        assert files_of(path) == {path}
        looked_at = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert written < 3 * 4 * size < count * 4 * size
    assert looked_at < 4 * size


def test_a_large_model_is_of_the_same_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(save, "INLINE_LIMIT", 10)
    model = plain(2, 100)
    path = save_model(model, tmp_path / "m.json")
    assert onnx.load(path, "protobuf", load_external_data=False) == to_proto(model, path)
    assert Path(f"{path}.data").stat().st_size == 2 * 4 * 100
