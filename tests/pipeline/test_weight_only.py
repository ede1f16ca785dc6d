"""Weights alone in int4 or int8 with a scale a block: what the model computes, how small it gets, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest

from equiquant import quantize
from equiquant.cli import main
from equiquant.errors import ModelError, OptionError
from equiquant.numerics.affine import INT_TYPES
from equiquant.numerics.layers.blocks import block_steps, round_blocks
from equiquant.numerics.layers.rounding import round_rows
from tests.canonical.support import proto, weights

pytestmark = pytest.mark.filterwarnings("ignore:As onnxruntime runs the model")  # tests/test_kernels.py is about that

Array = npt.NDArray[Any]
WIDTH = 96  # three blocks of 32; of blocks of 64, one and a half


def _block(kind: Any = np.float32) -> onnx.ModelProto:
    """A transformer block: attention with one head, an MLP, and a Gemm with either layout behind it."""
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5 for name in ("q", "k", "v", "o", "t")}
    weights |= {"up": rng.standard_normal((WIDTH, 4 * WIDTH)) / WIDTH**0.5}
    weights |= {"down": rng.standard_normal((4 * WIDTH, WIDTH)) / (4 * WIDTH) ** 0.5}
    weights |= {"head": rng.standard_normal((10, WIDTH)) / WIDTH**0.5, "scale": np.ones(WIDTH)}
    element = "float16" if kind == np.float16 else "float"
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    g ({element}[1, N, {WIDTH}] x) => ({element}[N, 10] y) {{
        n = LayerNormalization <axis = -1> (x, scale)
        query = MatMul (n, q)
        key = MatMul (n, k)
        value = MatMul (n, v)
        turned = Transpose <perm = [0, 2, 1]> (key)
        score = MatMul (query, turned)
        weight = Softmax <axis = -1> (score)
        mixed = MatMul (weight, value)
        out = MatMul (mixed, o)
        r = Add (x, out)
        wide = MatMul (r, up)
        act = Relu (wide)
        narrow = MatMul (act, down)
        z = Add (r, narrow)
        flat = Squeeze (z)
        once = Gemm (flat, t)
        y = Gemm <transB = 1> (once, head)
    }}
    """
    model = onnx.parser.parse_model(text)
    for name, array in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(kind), name))
    onnx.checker.check_model(model, full_check=True)
    return model


def _data(kind: Any = np.float32) -> list[Array]:
    return list(np.random.default_rng(1).standard_normal((4, 1, 6, WIDTH)).astype(kind))


def _run(model: onnx.ModelProto, x: Array, *, optimize: bool = False) -> Array:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def _error(reference: Array, result: Array) -> float:
    wide = reference.astype(np.float64)
    return float(np.abs(wide - result).max() / np.abs(wide).max())


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _rows(integers: Array, steps: Array, size: int) -> Array:
    """Return the (M, K) float32 weights that (M, K) integers stand for."""
    return np.asarray(integers * np.repeat(steps, size, axis=1)[:, : integers.shape[1]], np.float32)


def _restored(model: onnx.ModelProto, block: int, bits: str, fault: float = 1.0) -> onnx.ModelProto:
    """Return the float model with the weights that its blocks stand for."""
    result = _copy(model)
    for tensor in result.graph.initializer:
        if len(tensor.dims) != 2:
            continue
        array = onnx.numpy_helper.to_array(tensor)
        rows = array if tensor.name == "head" else array.T
        kind = INT_TYPES[bits]
        steps = block_steps(rows, block, kind)
        back = _rows(round_blocks(rows, steps, block, kind), steps * np.float32(fault), block)
        tensor.CopyFrom(onnx.numpy_helper.from_array(back if tensor.name == "head" else back.T.copy(), tensor.name))
    return result


@pytest.mark.parametrize("block", [16, 32, 64, 128])
@pytest.mark.parametrize(("name", "bits"), [("w4", "int4"), ("w8", "int8")])
def test_the_model_computes_with_the_weights_its_blocks_stand_for(name: str, bits: str, block: int) -> None:
    model = _block()
    result = quantize(model, data=_data(), preset=name, block_size=block, weight_rounding="nearest").model
    onnx.checker.check_model(result, full_check=True)
    for x in _data():
        assert _error(_run(_restored(model, block, bits), x), _run(result, x)) < 1e-5
        assert _error(_run(_restored(model, block, bits, fault=1.01), x), _run(result, x)) > 1e-3


@pytest.mark.parametrize(("name", "least_db", "share"), [("w4", 11, 0.18), ("w8", 35, 0.30)])
def test_quality_and_size(tmp_path: Path, name: str, least_db: float, share: float) -> None:
    source, out = tmp_path / "float.onnx", tmp_path / "out.onnx"
    onnx.save(_block(), source)
    report = quantize(source, out, data=_data(), preset=name).report
    assert report.quality is not None
    assert report.quality["outputs"][0]["sqnr_db"] > least_db
    assert out.stat().st_size < share * source.stat().st_size
    stored = {row["name"]: row for row in report.tensors}
    assert len(stored) == 8
    assert {row["block_size"] for row in stored.values()} == {32}


@pytest.mark.parametrize("name", ["w4", "w8"])
def test_onnxruntime_runs_it_optimized(name: str) -> None:
    result = quantize(_block(), data=_data(), preset=name).model
    for x in _data():  # its kernel rounds the activations to 8 bits on the way
        assert _error(_run(result, x), _run(result, x, optimize=True)) < 0.12


@pytest.mark.parametrize("name", ["w4", "w8"])
def test_rounding_for_the_inputs_gains_on_samples_it_has_not_seen(name: str) -> None:
    rng = np.random.default_rng(3)
    mixing = rng.standard_normal((WIDTH, WIDTH)) * np.geomspace(1, 0.01, WIDTH)
    samples = (rng.standard_normal((24, 1, 6, WIDTH)) @ mixing.T).astype(np.float32)
    nearest = quantize(_block(), data=list(samples[:16]), preset=name, weight_rounding="nearest")
    rounded = quantize(_block(), data=list(samples[:16]), preset=name)
    trials = {t["name"]: t["sqnr_db"] for t in rounded.report.refinement["trials"]}
    assert rounded.report.refinement["kept"] == "rounding"
    assert trials["rounding"] > trials["none"] + 1
    errors = []
    for result in (nearest, rounded):
        pairs = [(_run(_block(), x), _run(result.model, x)) for x in samples[16:]]
        errors.append(sum(float(np.square(a - b).sum()) for a, b in pairs))
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize(("count", "on"), [(1, "the same"), (2, "1 other")])
def test_the_page_says_what_was_fitted_to_whose_inputs(count: int, on: str) -> None:
    model = proto("y = MatMul(x, w)", "float[N,8] x", "float[N,4] y", weights(w=(8, 4)))
    report = quantize(model, data=np.eye(8, dtype=np.float32)[:count], preset="w8").report
    assert [d.where for d in report.decisions if d.rule == "held_back"] == ["whole network"] * (count == 1)
    page = report.to_html()
    assert f"Weights of 1 layer were fitted to 1 feed and measured on {on}. " in page
    assert "Each layer sees the inputs of the float network." in page


def test_columns_may_have_steps_of_their_own() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((6, 40)) * np.geomspace(1, 1e-5, 6)[:, None]
    rows, second = rng.standard_normal((1, 50, 6)), (inputs @ inputs.T)[None]
    plain = round_rows(rows, second, np.full((1, 50), 0.1), -127, 127)
    assert not np.array_equal(plain, np.rint(rows / 0.1))
    assert np.array_equal(plain, round_rows(rows, second, np.full((1, 50, 6), 0.1), -127, 127))
    # weights and steps times a factor, inputs divided by it: the same problem, so the same integers
    factor = np.exp2(rng.integers(-1, 2, 6))
    steps = 0.1 * np.broadcast_to(factor, (1, 50, 6))
    assert np.array_equal(plain, round_rows(rows * factor, second / np.outer(factor, factor), steps, -127, 127))
    assert not np.array_equal(plain, round_rows(rows * factor, second, steps, -127, 127))


def test_float16_weights_keep_float16_scales() -> None:
    result = quantize(_block(np.float16), data=_data(np.float16), preset="w4").model
    onnx.checker.check_model(result, full_check=True)
    kinds = {t.name: t.data_type for t in result.graph.initializer}
    scales = [n.input[1] for n in result.graph.node if n.op_type == "DequantizeLinear"]
    assert {kinds[name] for name in scales} == {onnx.TensorProto.FLOAT16}
    x = _data(np.float16)[0]
    assert _error(_run(_block(np.float16), x), _run(result, x)) < 0.5


def test_a_weight_read_twice_is_stored_once_and_external_data_is_read(tmp_path: Path) -> None:
    model = _block()
    for node in model.graph.node:
        node.input[:] = ["q" if name == "k" else name for name in node.input]
    path = tmp_path / "float.onnx"
    onnx.save(model, path, save_as_external_data=True, location="float.data", size_threshold=0)
    result = quantize(path, data=_data(), preset="w4", weight_rounding="nearest").model
    assert sum(n.op_type == "DequantizeLinear" for n in result.graph.node) == 7
    assert _error(_run(_restored(_block_with(model), 32, "int4"), _data()[0]), _run(result, _data()[0])) < 1e-5


def _block_with(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with its weights inline again."""
    result = _copy(model)
    del result.graph.initializer[:]
    result.graph.initializer.extend(_block().graph.initializer)
    return result


def test_conv_is_stored_per_channel_when_asked() -> None:
    rng = np.random.default_rng(0)
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N, 3, 8, 8] x) => (float[N, 8, 6, 6] y) { y = Conv (x, w) }
    """
    model = onnx.parser.parse_model(text)
    weight = rng.standard_normal((8, 3, 3, 3)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    x = rng.standard_normal((2, 3, 8, 8)).astype(np.float32)
    with pytest.raises(ModelError, match="no weight of Gemm, MatMul"):
        quantize(model, data=x, preset="w8")
    result = quantize(model, data=x, preset="w8", op_types_to_quantize=("Conv",)).model
    onnx.checker.check_model(result, full_check=True)
    (node,) = [n for n in result.graph.node if n.op_type == "DequantizeLinear"]
    assert {a.name: a.i for a in node.attribute} == {"axis": 0}
    assert _error(_run(model, x), _run(result, x)) < 0.02


def test_exclusions_are_respected() -> None:
    result = quantize(_block(), data=_data(), preset="w4", nodes_to_exclude=("Gemm_*",))
    assert all("Gemm" not in row["name"] for row in result.report.tensors)
    assert any("nodes_to_exclude" in d.reason for d in result.report.decisions)
    assert any("not a constant" in d.reason for d in result.report.decisions)


def test_the_searched_steps_beat_the_largest_weight() -> None:
    rows = np.random.default_rng(0).standard_normal((64, 100)).astype(np.float32)
    kind = INT_TYPES["int4"]
    steps = block_steps(rows, 32, kind)
    assert steps.shape == (64, 4)
    plain = np.stack([np.abs(rows[:, k : k + 32]).max(axis=1) / 7 for k in range(0, 100, 32)], axis=1)

    def loss(steps: Array) -> float:
        integers = round_blocks(rows, steps, 32, kind)
        assert np.abs(integers).max() <= 7
        return float(np.square(rows - _rows(integers, steps, 32)).sum())

    assert loss(steps) < 0.95 * loss(plain)
    assert np.array_equal(block_steps(np.zeros((2, 40), np.float32), 32, kind), np.ones((2, 2)))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"block_size": 24}, "a power of two, at least 16"),
        ({"block_size": 8}, "a power of two, at least 16"),
        ({"cle": True}, "cle must be False"),
        ({"keep_float": 1}, "use nodes_to_exclude"),
        ({"bias_correction": True}, "leaves biases as they are"),
        ({"npu": True}, "needs npu=False"),
        ({"weight_type": "uint8"}, "'int4' or 'int8'"),
        ({"weight_symmetric": False}, "symmetric"),
        ({"op_types_to_quantize": ("Add",)}, "stores weights of Conv, Gemm, MatMul"),
        ({"nodes_to_exclude": ("MatMull",)}, "Did you mean"),
        ({"weight_only": False}, "int4 weights need weight_only=True"),
    ],
)
def test_nonsense_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        quantize(_block(), data=_data(), preset="w4", **options)


def test_from_the_command_line_without_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out, report = tmp_path / "float.onnx", tmp_path / "out.onnx", tmp_path / "report"
    onnx.save(_block(), source)
    words = ["--preset", "w4", "--block-size", "64", "--report", str(report)]
    assert main(["quantize", str(source), "-o", str(out), *words]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "8 tensors" in shown.out
    assert "int4 weights in blocks of 64, float activations" in (report / "report.html").read_text()


def test_a_file_of_statistics_is_of_no_use_and_that_is_said(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="neither read nor written"):
        quantize(_block(), preset="w8", calibration_cache=tmp_path / "some.stats", weight_rounding="nearest")
    assert not list(tmp_path.iterdir())
