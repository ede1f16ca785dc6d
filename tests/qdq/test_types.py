"""The documented choices of types: Int16Bias, ActivationSymmetric, UseUnsignedReLU and 16-bit activations, and that
what comes out runs in onnxruntime with standard operators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from equiquant import (
    CalibrationMethod,
    Config,
    ModelQuantizer,
    PowerOfTwoMethod,
    QuantizationConfig,
    QuantType,
    get_default_config,
)
from equiquant.cli.parser import parse as parse_arguments
from equiquant.recipe import preset
from tests.qdq.support import Array, noise, parse, quantize, run, sqnr
from tests.qdq.test_fusing import BOTTLENECK, _network

FEED = {"x": noise(1, 3, 32, 32)}
CALIBRATION = [{"x": noise(1, 3, 32, 32, seed=k)} for k in range(1, 13)]
TEXT = "g (float[1, 2, 8, 8] x) => (float[] y) { a = Conv (x, w, b)  r = Relu (a)  y = Conv (r, v) }"
SMALL = {"x": noise(1, 2, 8, 8)}


class Reader:
    def __init__(self, *feeds: dict[str, Array]) -> None:
        self.feeds = iter(feeds)

    def get_next(self) -> dict[str, Array] | None:
        return next(self.feeds, None)


def _small() -> ir.Model:
    return parse(TEXT, w=noise(4, 2, 3, 3, seed=1), b=noise(4, seed=3), v=noise(3, 4, 1, 1, seed=2))


def _infer(model: onnx.ModelProto, feed: dict[str, Array]) -> Array:
    """Run as onnxruntime does by default."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feed)[0])


def _standard(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    assert {o.domain for o in model.opset_import} == {""}
    assert {n.domain for n in model.graph.node} == {""}


def _types(model: onnx.ModelProto) -> dict[str, set[str]]:
    """Return the types QuantizeLinear writes and DequantizeLinear reads from initializers."""
    kinds = {t.name: onnx.TensorProto.DataType.Name(t.data_type).lower() for t in model.graph.initializer}
    reads = [n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in kinds]
    return {
        "activations": {kinds[n.input[2]] for n in model.graph.node if n.op_type == "QuantizeLinear"},
        "constants": {kinds[n.input[0]] for n in reads},
    }


@pytest.mark.parametrize(
    ("config", "activations"),
    [
        (get_default_config("A16W8"), {"int16"}),
        (QuantizationConfig(activation_type=QuantType.QUInt16), {"uint16"}),
        (
            QuantizationConfig(activation_type=QuantType.QInt16, calibrate_method=PowerOfTwoMethod.NonOverflow),
            {"int16"},
        ),
    ],
)
def test_sixteen_bit_activations_from_the_documented_interface(config: Any, activations: set[str]) -> None:
    model = ir.to_proto(_network(BOTTLENECK))
    made = ModelQuantizer(Config(config)).quantize_model(model, None, Reader(*CALIBRATION))
    _standard(made)
    assert made.opset_import[0].version == 21  # the first with 16-bit QuantizeLinear in the standard domain
    assert _types(made) == {"activations": activations, "constants": {"int8", "int32"}}
    reference = run(_network(BOTTLENECK), FEED)[0]
    assert 25 < sqnr(reference, _infer(made, FEED)) < 100


def test_sixteen_bits_beat_eight_where_activations_decide(tmp_path: Path) -> None:
    """Weights on the grid, so that nothing but the activations is rounded."""
    whole = np.rint(noise(4, 2, 3, 3, seed=1) * 40).clip(-127, 127) / 64
    whole.flat[0] = 127 / 64
    model = parse(
        TEXT, w=whole.astype(np.float32), b=noise(4, seed=3), v=np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)
    )
    reference = run(model, SMALL)[0]
    wide, _ = quantize(model, preset("a16w8", calibration="minmax"), [SMALL])
    narrow, _ = quantize(model, preset("a8w8", calibration="minmax"), [SMALL])
    assert sqnr(reference, run(wide, SMALL)[0]) > sqnr(reference, run(narrow, SMALL)[0]) + 30


def test_sixteen_bit_activations_on_the_command_line(tmp_path: Path) -> None:
    ir.save(_network(BOTTLENECK), tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", FEED["x"])
    out = tmp_path / "q.onnx"
    words = ["quantize", str(tmp_path / "m.onnx"), "-o", str(out), "--data", str(tmp_path / "x.npy"), "-q"]
    args = parse_arguments([*words, "--preset", "a16w8"])
    assert args.run(args) == 0
    made = onnx.load(out)
    _standard(made)
    assert _types(made)["activations"] == {"uint16"}
    assert np.isfinite(_infer(made, FEED)).all()


@pytest.mark.parametrize("npu", [True, False])
def test_int16_bias(npu: bool) -> None:
    """A bias that 8 bits would lose beside a larger one."""
    model = parse(
        TEXT, w=noise(4, 2, 3, 3, seed=1), b=np.array([50, 0.02, 0.03, 0.04], np.float32), v=noise(3, 4, 1, 1, seed=2)
    )
    options: dict[str, Any] = {"calibrate_method": PowerOfTwoMethod.MinMSE, "activation_type": QuantType.QUInt8}
    config = QuantizationConfig(enable_npu_cnn=npu, extra_options={"Int16Bias": True}, include_cle=False, **options)
    made = ModelQuantizer(config).quantize_model(ir.to_proto(model), None, Reader(SMALL))
    _standard(made)
    assert made.opset_import[0].version == 21
    assert "int16" in _types(made)["constants"]
    assert np.isfinite(_infer(made, SMALL)).all()
    array = next(onnx.numpy_helper.to_array(t) for t in made.graph.initializer if t.data_type == onnx.TensorProto.INT16)
    assert (array != 0).all()  # in int8 all but the first are 0


@pytest.mark.parametrize("kind", ["uint8", "int8"])
def test_activation_symmetric_centers_every_zero_point(kind: str) -> None:
    center = 128 if kind == "uint8" else 0
    recipe = preset("a8w8", calibration="minmax", activation_type=kind, activation_symmetric=True)
    _, plan = quantize(_small(), recipe, [SMALL])
    assert {int(p.zero_point) for p in plan.activations.values()} == {center}
    _, plan = quantize(_small(), recipe.replace(activation_symmetric=False), [SMALL])
    assert {int(p.zero_point) for p in plan.activations.values()} != {center}


@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize("name", ["a8w8", "xint8"])
def test_unsigned_relu_uses_the_whole_range_for_relu_and_nothing_else(name: str, kind: str) -> None:
    options: dict[str, Any] = {"calibration": "minmax"} if name == "a8w8" else {"calibration": "nonoverflow"}
    recipe = preset(name, activation_type=kind, activation_symmetric=True, unsigned_relu=True, **options)
    model, feed = _small(), {"x": np.abs(SMALL["x"])}  # x is never negative, but no Relu says so
    quantized, plan = quantize(model, recipe, [feed])
    plain, before = quantize(model, recipe.replace(unsigned_relu=False), [feed])
    smallest, center = (0, 128) if kind == "uint8" else (-128, 0)
    zeros = {name: int(p.zero_point) for name, p in plan.activations.items()}
    assert zeros == {"x": center, "r": smallest, "y": center}
    assert float(plan.activations["r"].scale) < 0.6 * float(before.activations["r"].scale)
    reference = run(model, feed)[0]
    assert sqnr(reference, run(quantized, feed)[0]) > sqnr(reference, run(plain, feed)[0]) - 0.5


@pytest.mark.filterwarnings("ignore:Onnxruntime's kernels")
def test_unsigned_relu_holds_for_ranges_chosen_with_the_scales() -> None:
    model = ir.to_proto(_network(BOTTLENECK))
    for name in ("xint8", "a8w8"):
        from equiquant import quantize as quantize_model

        made = quantize_model(
            model, data=[FEED["x"]] * 2, preset=name, unsigned_relu=True, activation_symmetric=True, cle_accept="always"
        )
        zeros = {t["name"]: t["zero_point"] for t in made.report.tensors if t["type"] == "uint8"}
        assert zeros["ra"] == zeros["re"] == 0
        assert zeros["x"] == 128
        reference = run(_network(BOTTLENECK), FEED)[0]
        assert sqnr(reference, run(ir.from_proto(made.model), FEED)[0]) > 15


def test_the_documented_names_reach_the_model() -> None:
    config = QuantizationConfig(
        calibrate_method=CalibrationMethod.MinMax,
        activation_type=QuantType.QUInt8,
        include_cle=False,
        extra_options={"ActivationSymmetric": True, "UseUnsignedReLU": True},
    )
    made = ModelQuantizer(config).quantize_model(ir.to_proto(_small()), None, Reader(SMALL))
    _standard(made)
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in made.graph.initializer}
    zeros = sorted(int(arrays[n.input[2]]) for n in made.graph.node if n.op_type == "QuantizeLinear")
    assert zeros == [0, 128, 128]
