"""Weights are read where they lie: in the model's file, in another, behind links; refused where that is not safe."""

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from equiquant import inspect, quantize
from equiquant.errors import ModelError
from equiquant.io import Runner, load_model, unload
from equiquant.io.size import files_bytes, model_files

RNG = np.random.default_rng(0)
WEIGHTS: dict[str, np.ndarray] = {
    "large": RNG.standard_normal((64, 33)).astype(np.float32),
    "small": RNG.standard_normal(33).astype(np.float32),
    "half": RNG.standard_normal((33, 128)).astype(np.float16),
}


def proto() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Gemm", ["x", "large", "small"], ["h"]),
        helper.make_node("Cast", ["h"], ["c"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["c", "half"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["N", 128])],
        [numpy_helper.from_array(array, name) for name, array in WEIGHTS.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def saved(folder: Path, *, external: bool) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    onnx.save(proto(), path, save_as_external_data=external, location="weights.bin", size_threshold=0)
    return path


def check_weights(path: Path) -> None:
    initializers = load_model(path).model.graph.initializers
    for name, expected in WEIGHTS.items():
        tensor = initializers[name].const_value
        assert tensor is not None
        assert tensor.numpy().dtype == expected.dtype
        assert np.array_equal(tensor.numpy(), expected)
        assert tensor.tobytes() == expected.tobytes()


@pytest.mark.parametrize("external", [False, True])
def test_weights_read_as_written(tmp_path: Path, external: bool) -> None:
    check_weights(saved(tmp_path, external=external))


@pytest.mark.parametrize("external", [False, True])
def test_a_model_may_be_a_link_into_a_store(tmp_path: Path, external: bool) -> None:
    """As a download cache keeps files: under the hash of their content, with links of the right names elsewhere."""
    saved(tmp_path / "store", external=external)
    (tmp_path / "named").mkdir()
    for name, digest in (("model.onnx", "1f"), ("weights.bin", "2e")):
        if (stored := tmp_path / "store" / name).exists():
            stored.rename(tmp_path / "store" / digest)
            (tmp_path / "named" / name).symlink_to(Path("..") / "store" / digest)
    check_weights(tmp_path / "named" / "model.onnx")
    assert files_bytes(tmp_path / "named" / "model.onnx") > sum(w.nbytes for w in WEIGHTS.values())


@pytest.mark.parametrize("external", [False, True])
def test_files_may_have_a_second_name(tmp_path: Path, external: bool) -> None:
    path = saved(tmp_path, external=external)
    for file in list(tmp_path.iterdir()):
        os.link(file, file.with_suffix(".copy"))
    check_weights(path)


def test_weights_of_four_bits(tmp_path: Path) -> None:
    values = (np.arange(20_000) % 15 - 7).astype(np.int8)
    model = proto()
    model.graph.initializer.append(helper.make_tensor("w4", TensorProto.INT4, values.shape, values))
    model.graph.initializer[-1].raw_data = ir.from_proto(model.graph.initializer[-1]).tobytes()
    model.graph.initializer[-1].ClearField("int32_data")
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    tensor = load_model(path).model.graph.initializers["w4"].const_value
    assert tensor is not None
    assert np.array_equal(tensor.numpy().astype(np.int8), values)


def as_constant(path: Path) -> None:
    """Rewrite a model with external data so that the first of its weights is a Constant node's."""
    model = onnx.load(path, load_external_data=False)
    tensor = model.graph.initializer.pop(0)
    model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    onnx.save(model, path)


def test_constant_nodes_may_have_theirs_in_a_file(tmp_path: Path) -> None:
    path = saved(tmp_path, external=True)
    as_constant(path)
    data = np.random.default_rng(1).standard_normal((4, 64)).astype(np.float32)
    expected = quantize(proto(), data=data, preset="w8").model
    given = quantize(path, data=data, preset="w8").model
    assert {t.name: t for t in given.graph.initializer} == {t.name: t for t in expected.graph.initializer}
    model = onnx.load(path, load_external_data=False)
    model.graph.node[0].attribute[0].t.external_data[0].value = "other.bin"
    onnx.save(model, path)
    with pytest.raises(ModelError, match=r"'large' are in .*other\.bin, which does not exist"):
        load_model(path)
    (tmp_path / "other.bin").write_bytes(b"123")
    with pytest.raises(ModelError, match="'large' go beyond the end of"):
        load_model(path)


def test_constants_inside_functions_may_have_theirs_in_a_file(tmp_path: Path) -> None:
    path = saved(tmp_path, external=True)
    as_constant(path)
    model = onnx.load(path, load_external_data=False)
    constant, gemm = model.graph.node.pop(0), model.graph.node.pop(0)
    model.graph.node.insert(0, helper.make_node("F", ["x", "small"], ["h"], domain="own"))
    model.functions.add().CopyFrom(
        helper.make_function("own", "F", ["x", "small"], ["h"], [constant, gemm], model.opset_import)
    )
    model.opset_import.append(helper.make_opsetid("own", 1))
    onnx.save(model, path)
    data = np.random.default_rng(1).standard_normal((4, 64)).astype(np.float32)
    expected = quantize(proto(), data=data, preset="w8").model
    given = quantize(path, data=data, preset="w8").model
    assert {t.name: t for t in given.graph.initializer} == {t.name: t for t in expected.graph.initializer}
    entry = model.functions[0].node[0].attribute[0].t.external_data[0]
    entry.value = "other.bin"
    onnx.save(model, path)
    with pytest.raises(ModelError, match=r"'large' are in .*other\.bin, which does not exist"):
        load_model(path)
    assert tmp_path / "other.bin" in model_files(path)
    entry.key, entry.value = "offset", "abc"
    onnx.save(model, path)
    with pytest.raises(ModelError, match="The offset of 'large' in its file is 'abc'"):
        load_model(path)


@pytest.mark.parametrize(("key", "value"), [("offset", "-5"), ("offset", "abc"), ("length", "")])
@pytest.mark.parametrize("constant", [False, True])
def test_places_that_are_no_numbers_are_named(tmp_path: Path, key: str, value: str, constant: bool) -> None:
    path = saved(tmp_path, external=True)
    model = onnx.load(path, load_external_data=False)
    next(entry for entry in model.graph.initializer[0].external_data if entry.key == key).value = value
    onnx.save(model, path)
    if constant:
        as_constant(path)
    with pytest.raises(ModelError, match=f"The {key} of 'large' in its file is '{value}', which is no number of bytes"):
        load_model(path)


def test_weights_outside_the_folder_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "model", external=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "model" / "weights.bin").rename(tmp_path / "elsewhere" / "weights.bin")
    (tmp_path / "model" / "weights.bin").symlink_to(tmp_path / "elsewhere" / "weights.bin")
    with pytest.raises(ModelError, match="outside the model's folder; put the file beside"):
        load_model(path)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = "../elsewhere/weights.bin"
    onnx.save(model, path)
    with pytest.raises(ModelError, match="outside the model's folder"):
        load_model(path)


def test_a_missing_file_of_weights_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path, external=True)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"weights\.bin, which does not exist; put the file beside"):
        load_model(path)


@pytest.mark.parametrize("location", [None, "."])
def test_a_place_of_weights_that_is_a_folder_is_named(tmp_path: Path, location: str | None) -> None:
    path = saved(tmp_path, external=True)
    model = onnx.load(path, load_external_data=False)
    if location is None:
        del model.graph.initializer[0].external_data[:]
    else:
        model.graph.initializer[0].external_data[0].value = location
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"The weights of 'large' are in .*, which is no file; put the file beside"):
        load_model(path)


@pytest.mark.parametrize("size", [None, 8])
def test_integers_of_a_model_in_memory_are_looked_for_in_their_file(tmp_path: Path, size: int | None) -> None:
    model = proto()
    model.graph.node.append(helper.make_node("Reshape", ["y", "sizes"], ["z"]))
    model.graph.output[0].name = "z"
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 128]), "sizes"))
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    held = onnx.load(path, load_external_data=False)
    for tensor in held.graph.initializer[:-1]:
        onnx.external_data_helper.load_external_data_for_tensor(tensor, str(tmp_path))
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
    of_file = ir.load(path)
    of_file.graph.initializers["large"].const_value = ir.tensor(WEIGHTS["large"], name="large")
    (tmp_path / "weights.bin").unlink()
    if size is not None:
        (tmp_path / "weights.bin").write_bytes(bytes(size))
    for source in (held, of_file):
        with pytest.raises(
            ModelError, match=r"Cannot read the data of .*\. Give the model's path, or load it with its"
        ):
            inspect(source)


def _unloaded(path: Path) -> onnx.ModelProto:
    return onnx.load(path, load_external_data=False)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the system does not say what is open")
@pytest.mark.parametrize("read", [Path, ir.load, _unloaded])
def test_only_large_weights_hold_a_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], Any]
) -> None:
    source = read(saved(tmp_path, external=True))
    monkeypatch.chdir(tmp_path)  # where the places in a proto are looked up
    gc.collect()  # of the tests before
    before = len(list(Path("/proc/self/fd").iterdir()))
    loaded = load_model(source)
    arrays = {v.name: v.const_value.numpy() for v in loaded.model.graph.initializers.values() if v.const_value}
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 2
    assert all(np.array_equal(arrays[name], expected) for name, expected in WEIGHTS.items())


@pytest.mark.parametrize("named", [str, os.fsencode])
def test_a_path_is_whatever_says_where_it_leads(tmp_path: Path, named: Callable[[Path], Any]) -> None:
    saved(tmp_path, external=False)
    with os.scandir(named(tmp_path)) as entries:
        assert load_model(next(entries)).path == tmp_path / "model.onnx"


def test_a_truncated_file_of_weights_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path, external=True)
    (tmp_path / "weights.bin").write_bytes((tmp_path / "weights.bin").read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"beyond the end of .*weights\.bin: the file is truncated"):
        load_model(path)


def resident(what: str) -> int:
    """Return the kilobytes of one kind of memory this process holds."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not say what is in memory")
@pytest.mark.parametrize("external", [False, True])
def test_a_weight_can_be_let_go_and_comes_back(tmp_path: Path, external: bool) -> None:
    model = proto()
    large = np.random.default_rng(1).standard_normal((64, 1 << 17)).astype(np.float32)  # 32 MB
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(large, "large"))
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=external, location="weights.bin", size_threshold=0)
    tensor = load_model(path).model.graph.initializers["large"].const_value
    assert tensor is not None
    array = tensor.numpy()
    total = float(array.sum())
    before = resident("RssFile")
    unload(array.reshape(-1)[5:])  # a view of it will do
    assert before - resident("RssFile") > 0.9 * large.nbytes / 1024
    assert float(array.sum()) == total


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not say what is in memory")
def test_a_session_that_copies_an_unaligned_weight_lets_go_of_it(tmp_path: Path) -> None:
    large = np.random.default_rng(1).standard_normal((64, 1 << 17)).astype(np.float32)  # 32 MB
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", d]) for n, d in (("x", 64), ("y", 1 << 17))]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(large, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "model.onnx"
    arrays = {}
    for filler in ("", "x"):  # the data begin one byte later
        model.producer_name = "filler" + filler
        onnx.save(model, path.with_stem(f"model{filler}"))
        loaded = load_model(path.with_stem(f"model{filler}")).model
        tensor = loaded.graph.initializers["w"].const_value
        assert tensor is not None
        arrays[tensor.numpy().flags.aligned] = loaded, tensor.numpy()
    loaded, array = arrays[False]
    total = float(array.sum())
    before = resident("RssFile")
    runner = Runner(loaded, optimize=False)
    assert before - resident("RssFile") > 0.9 * large.nbytes / 1024
    assert float(array.sum()) == total
    assert runner.outputs == ("y",)


def test_other_arrays_are_left_alone() -> None:
    array = np.arange(12.0)
    unload(array.reshape(3, 4)[1:])
    assert array.sum() == 66
    unload(np.frombuffer(bytes(8), np.uint8))


def test_what_the_caller_changed_in_a_map_of_his_own_is_kept(tmp_path: Path) -> None:
    np.zeros(5000, np.float32).tofile(tmp_path / "w.bin")
    own = np.memmap(tmp_path / "w.bin", np.float32, mode="c")
    own += 1.0
    unload(own)
    assert (own == 1.0).all()


def test_a_constant_of_a_function_may_stand_for_an_attribute_of_the_call(tmp_path: Path) -> None:
    given = onnx.AttributeProto(name="value", ref_attr_name="w", type=onnx.AttributeProto.TENSOR)
    constant = helper.make_node("Constant", [], ["c"])
    constant.attribute.append(given)
    nodes, opset = [constant, helper.make_node("MatMul", ["x", "c"], ["y"])], helper.make_opsetid("", 17)
    function = helper.make_function("my", "F", ["x"], ["y"], nodes, [opset], attributes=["w"])
    weight = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    call = helper.make_node("F", ["x"], ["y"], domain="my", w=numpy_helper.from_array(weight, "w"))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", n]) for name, n in (("x", 8), ("y", 4))]
    graph, opsets = helper.make_graph([call], "g", ends[:1], ends[1:]), [opset, helper.make_opsetid("my", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=9), tmp_path / "m.onnx")
    assert model_files(tmp_path / "m.onnx") == {tmp_path / "m.onnx"}
    assert load_model(tmp_path / "m.onnx").model.functions
