"""The benchmarks' own parts: the networks are valid and healthy, and the counters count."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from benchmarks import accuracy, accuracy_by_step, common, latency, mixed_precision, networks, other_toolchains

from equiquant import equalize
from equiquant.io import Runner

TINY = {
    "mobilenet_v2": lambda: networks.mobilenet_v2(width=0.25, resolution=32, blocks=(1, 1, 2), classes=5),
    "resnet18": lambda: networks.resnet(18, width=8, resolution=32, blocks=(1, 1), classes=5),
    "resnet50": lambda: networks.resnet(50, width=8, resolution=32, blocks=(2, 1), classes=5),
}


@pytest.mark.parametrize("name", TINY)
def test_a_network_is_valid_and_every_layer_is_of_ordinary_size(name: str) -> None:
    model = TINY[name]()
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    values = [node.outputs[0].name for node in model.graph]
    feed = {"input": np.random.default_rng(5).standard_normal((3, 3, 32, 32)).astype(np.float32)}
    outputs = Runner(model, [str(v) for v in values], threads=1).run(feed)
    assert outputs[-1].shape == (3, 5)
    for output in outputs:
        assert 0.1 < output.std() < 10
    assert outputs[-1].std(axis=0).min() > 1e-3  # the answer depends on the image


def test_a_seed_fixes_every_weight() -> None:
    first, again = (TINY["mobilenet_v2"]().graph.initializers["fc.weight"].const_value for _ in range(2))
    assert first is not None
    assert again is not None
    np.testing.assert_array_equal(first.numpy(), again.numpy())


def test_the_full_sized_tables_are_the_published_ones() -> None:
    assert sum(3 * blocks for blocks in networks.RESNET_BLOCKS[152]) + 2 == 152
    assert sum(row[2] for row in networks.INVERTED_RESIDUALS) == 17


def test_noise_is_what_the_peer_draws() -> None:
    rng = np.random.default_rng(0)
    expected = [rng.standard_normal((1, 2)).astype(np.float32) for _ in range(3)]
    np.testing.assert_array_equal(np.stack(list(common.noise((1, 2), 3))), np.stack(expected))


def quantized_conv_then_float_pool(integer_pool: bool) -> ir.Model:
    """x -> Quantize -> [MaxPool] -> Dequantize -> [MaxPool] -> y, as onnxruntime's optimizer could leave it."""
    x = ir.Value(name="x", shape=ir.Shape([1, 1, 4, 4]), type=ir.TensorType(ir.DataType.FLOAT))
    scale = ir.Value(name="s", const_value=ir.tensor(np.float32(0.1), name="s"))
    zero = ir.Value(name="z", const_value=ir.tensor(np.uint8(0), name="z"))
    quantize = ir.node("QuantizeLinear", [x, scale, zero])
    nodes, value = [quantize], quantize.outputs[0]
    for kind in ("MaxPool", "DequantizeLinear") if integer_pool else ("DequantizeLinear", "MaxPool"):
        inputs = [value, scale, zero] if kind == "DequantizeLinear" else [value]
        nodes.append(ir.node(kind, inputs, {"kernel_shape": [2, 2]} if kind == "MaxPool" else {}))
        value = nodes[-1].outputs[0]
    value.name, value.type = "y", ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([x], [value], nodes=nodes, initializers=[scale, zero], opset_imports={"": 17}, name="g")
    return ir.Model(graph, ir_version=8)


@pytest.mark.parametrize(("integer_pool", "expected"), [(True, {}), (False, {"MaxPool": 1})])
def test_float_nodes_follows_integers_through_pools(
    tmp_path: Path, integer_pool: bool, expected: dict[str, int]
) -> None:
    ir.save(quantized_conv_then_float_pool(integer_pool), tmp_path / "m.onnx")
    assert latency.float_nodes(tmp_path / "m.onnx") == expected


def test_another_quantizer_takes_the_equalized_model(tmp_path: Path) -> None:
    source, floated = tmp_path / "m.onnx", tmp_path / "float.onnx"
    ir.save(TINY["resnet18"](), source)
    inputs = np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype(np.float32)
    equalize(source, floated, data=inputs)
    assert other_toolchains.interface(floated) == other_toolchains.interface(source)
    out = other_toolchains.static_quantized(floated, inputs, tmp_path / "int8.onnx")
    expected, got = (Runner(ir.load(path)).run({"input": inputs})[0] for path in (source, out))
    assert "QuantizeLinear" in {node.op_type for node in ir.load(out).graph}
    assert np.square(expected - got).mean() < 0.1 * np.square(expected).mean()


def test_markdown_aligns_figures_right() -> None:
    assert common.markdown(["a", "b"], [["x", 1]]) == "| a | b |\n| --- | --: |\n| x | 1 |"


def test_a_failing_command_says_why() -> None:
    with pytest.raises(RuntimeError, match="no such thing"):
        common.last_json([sys.executable, "-c", "raise SystemExit('no such thing')"], timeout=60)


class OneModel:
    """Stands in for the folder of real models."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self, _: str, __: str) -> tuple[np.ndarray, None]:
        return np.random.default_rng(0).standard_normal((6, 3, 32, 32)).astype(np.float32), None

    def reference(self, _: str) -> str:
        return str(self._path)

    def score(self, *_: str) -> dict[str, Any]:
        return {"top1": 0.5, "float_top1": 0.75, "sqnr_db": [20.0]}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("module", "options"),
    [(accuracy, ["--cle", "on", "--draws", "2"]), (accuracy, ["--no-data", "--cle", "on"]), (mixed_precision, [])],
)
def test_accuracy_tables_are_written(
    module: Any, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(ir.to_proto(TINY["mobilenet_v2"]()), tmp_path / "model.onnx")
    monkeypatch.setattr(module, "real_data", lambda *_: OneModel(tmp_path / "model.onnx"))
    monkeypatch.setattr(mixed_precision, "WAYS", ({}, {"int16": 3}))
    words = ["--models", "mobilenetv1_025", "--presets", "a8w8", *options]
    monkeypatch.setattr(sys, "argv", ["benchmark", *words])
    assert module.main() == 0
    assert "| 50.0" in capsys.readouterr().out


def test_every_step_is_measured_and_scored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    onnx.save(ir.to_proto(TINY["resnet18"]()), tmp_path / "float.onnx")
    asked: list[dict[str, Any]] = []

    class Data:
        @staticmethod
        def load(name: str, split: str) -> tuple[np.ndarray, None]:
            return np.zeros((4, 3, 32, 32), np.float32), None

        @staticmethod
        def reference(name: str) -> str:
            return str(tmp_path / "float.onnx")

        @staticmethod
        def score(path: str, name: str) -> dict[str, Any]:
            return {"top1": 0.5, "float_top1": 0.6, "sqnr_db": [20.0]}

    def write(_: str, out: Path, *, data: Any, **options: Any) -> None:
        asked.append({"data": data is not None, "cle": options["cle"]})
        onnx.save(ir.to_proto(TINY["resnet18"]()), out)

    monkeypatch.setattr("equiquant.quantize", write)
    row = accuracy_by_step.row(Data, "kws_dscnn", "a8w8", argparse.Namespace(draws=2))
    assert row[1:7] == ["60.0%"] + ["50.0 ± 0.0%, 20.0 ± 0.0 dB"] * 5
    assert [a["cle"] for a in asked[::2]] == [False, True, True, True, True]
    assert [a["data"] for a in asked[::2]] == [True, True, True, True, False]
