"""Sessions read large weights where they are, and compute the same."""

import importlib

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from equiquant.errors import ModelError
from equiquant.io import Runner, expose, load_model


def fusable() -> ir.Model:
    """x -> Conv -> Mul -> BatchNormalization -> Relu -> Flatten -> MatMul -> Add: onnxruntime rewrites the weights."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((32, 4, 3, 3)),
        "k": rng.uniform(0.5, 2, (32, 1, 1)),
        "gamma": rng.uniform(0.5, 2, 32),
        "beta": rng.standard_normal(32),
        "mean": rng.standard_normal(32),
        "var": rng.uniform(0.5, 2, 32),
        "m": rng.standard_normal((32 * 16, 8)),
        "b": rng.standard_normal(8),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"]),
            helper.make_node("Mul", ["c", "k"], ["s"]),
            helper.make_node("BatchNormalization", ["s", "gamma", "beta", "mean", "var"], ["n"]),
            helper.make_node("Relu", ["n"], ["r"]),
            helper.make_node("Flatten", ["r"], ["f"]),
            helper.make_node("MatMul", ["f", "m"], ["d"]),
            helper.make_node("Add", ["d", "b"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    return load_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)).model


def array(model: ir.Model, name: str) -> np.ndarray:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


@pytest.mark.parametrize("lean_above", [0, 50_000_000])
@pytest.mark.parametrize("optimize", [False, True])
def test_weights_in_place_compute_the_same(monkeypatch: pytest.MonkeyPatch, lean_above: int, optimize: bool) -> None:
    model = fusable()
    x = np.random.default_rng(1).standard_normal((3, 4, 6, 6)).astype(np.float32)
    expected = Runner(ir.to_proto(model), optimize=False).run({"x": x})[0]
    before = {name: array(model, name).copy() for name in model.graph.initializers}
    monkeypatch.setattr(importlib.import_module("equiquant.io.runtime"), "LEAN_ABOVE", lean_above)
    for _ in range(2):
        assert np.allclose(Runner(model, optimize=optimize).run({"x": x})[0], expected, rtol=1e-4, atol=1e-4)
    for name, values in before.items():
        assert np.array_equal(array(model, name), values)


@pytest.mark.parametrize("optimize", [False, True])
def test_the_session_of_a_large_model_holds_no_copy_of_a_weight(
    monkeypatch: pytest.MonkeyPatch, optimize: bool
) -> None:
    monkeypatch.setattr(importlib.import_module("equiquant.io.runtime"), "LEAN_ABOVE", 0)
    model = fusable()
    own = np.ones((512, 8), np.float32)
    model.graph.initializers["m"].const_value = ir.Tensor(own, name="m")
    x = np.random.default_rng(1).standard_normal((1, 4, 6, 6)).astype(np.float32)
    runner = Runner(model, optimize=optimize)
    before = runner.run({"x": x})[0]
    own[:] = 0.0
    assert np.allclose(runner.run({"x": x})[0], array(model, "b"), atol=1e-6)
    assert not np.allclose(before, array(model, "b"), atol=1e-3)


def test_only_what_the_outputs_need_is_run() -> None:
    model = fusable()
    part = expose(model, ["s"])
    assert [node.op_type for node in part.graph] == ["Conv", "Mul"]
    assert set(part.graph.initializers) == {"w", "k"}
    assert [v.name for v in part.graph.inputs] == ["x"]
    assert len(list(model.graph)) == 7


@pytest.mark.parametrize("lean_above", [0, 50_000_000])
@pytest.mark.parametrize("optimize", [False, True])
def test_a_weight_may_be_an_output_or_an_input_that_nothing_reads(
    monkeypatch: pytest.MonkeyPatch, lean_above: int, optimize: bool
) -> None:
    monkeypatch.setattr(importlib.import_module("equiquant.io.runtime"), "LEAN_ABOVE", lean_above)
    model = fusable()
    numbers = np.arange(1024, dtype=np.float32)
    for name in ("published", "overridable"):
        value = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1024]))
        value.const_value = ir.Tensor(numbers, name=name)
        model.graph.initializers[name] = value
    model.graph.outputs.append(model.graph.initializers["published"])
    model.graph.inputs.append(model.graph.initializers["overridable"])
    x = np.zeros((1, 4, 6, 6), np.float32)
    assert np.array_equal(Runner(model, optimize=optimize).run({"x": x})[1], numbers)


def test_a_float8_output_is_the_numbers_not_the_bytes_onnxruntime_returns() -> None:
    kind = TensorProto.FLOAT8E4M3FN
    graph = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["y"], to=kind)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5])],
        [helper.make_tensor_value_info("y", kind, [5])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    (y,) = Runner(model).run({"x": np.array([0, -1.5, 1 / 3, 20, -440], np.float32)})
    assert y.dtype == np.float32
    assert y.tolist() == [0, -1.5, 0.34375, 20, -448]


def expanded(size: int) -> onnx.ModelProto:
    """A model that makes a tensor of so many numbers of one, and their sum."""
    graph = helper.make_graph(
        [helper.make_node("Expand", ["x", "size"], ["large"]), helper.make_node("ReduceMax", ["large"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1]), helper.make_tensor_value_info("size", 7, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("arena", [False, True])
def test_want_of_memory_is_said_to_be_that(arena: bool) -> None:
    size = 1 << 44
    feed = {"x": np.ones(1, np.float32), "size": np.array([size])}
    with pytest.raises(ModelError, match="has not enough memory for the model"):
        Runner(expanded(size), optimize=False, arena=arena).run(feed)


@pytest.mark.parametrize("module", ["runtime.ort.InferenceSession", "runtime.edit.remove_dead", "parse.ir.from_proto"])
def test_a_memory_error_is_not_the_models_fault(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    def short(*_: object, **__: object) -> None:
        raise MemoryError

    model = fusable()
    proto = ir.to_proto(model)
    monkeypatch.setattr(f"equiquant.io.{module}", short)
    with pytest.raises(MemoryError):
        Runner(load_model(proto).model, ["y"])
