"""`equiquant inspect`: the prediction it shows, with data and without, and where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from equiquant import api, equalize
from equiquant.cli import main
from equiquant.errors import DataError


def network(path: Path, scales: npt.NDArray[np.float32], act: str = "Relu") -> Path:
    """Write Conv, activation, Conv whose middle channels are off by `scales`."""
    rng = np.random.default_rng(0)
    first = rng.standard_normal((scales.size, 3, 3, 3)).astype(np.float32) * scales[:, None, None, None]
    second = rng.standard_normal((5, scales.size, 1, 1)).astype(np.float32) / scales[None, :, None, None]
    weights = [numpy_helper.from_array(a, n) for a, n in ((first, "w"), (second, "v"))]
    clip = (
        [numpy_helper.from_array(np.asarray(b, np.float32), n) for b, n in ((0, "low"), (6, "high"))]
        if act == "Clip"
        else []
    )
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
            helper.make_node(act, ["c", *(t.name for t in clip)], ["r"], name="act"),
            helper.make_node("Conv", ["r", "v"], ["y"], name="conv2"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5, 6, 6])],
        [*weights, *clip],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


UNEVEN = np.asarray([1, 300, 1, 1], np.float32)
DATA = np.random.default_rng(1).standard_normal((4, 3, 8, 8)).astype(np.float32)


def test_the_outlook_names_what_is_uneven_and_what_is_held(tmp_path: Path) -> None:
    found = api.inspect(network(tmp_path / "m.onnx", UNEVEN), DATA)
    outlook = found.outlook
    assert outlook is not None
    assert (outlook.preset, outlook.samples, outlook.synthetic) == ("xint8", 4, False)
    first, last = outlook.layers
    assert (first.name, first.channels, first.free, first.held) == ("conv", 4, 4, ())
    assert first.spread_before > 200
    assert first.spread_after < 5
    assert first.helped
    assert outlook.sqnr_db["global"] > outlook.sqnr_db["none"] + 10
    assert last.free == 0
    assert [(h.channels, h.node) for h in last.held] == [(5, "conv2")]
    assert "graph output" in last.held[0].reason


def test_it_foresees_what_equalize_then_does(tmp_path: Path) -> None:
    model = network(tmp_path / "m.onnx", UNEVEN)
    outlook = api.inspect(model, DATA, preset="a8w8").outlook
    assert outlook is not None
    done = {row["tensor"]: row for row in equalize(model, data=DATA).report.equalization["tensors"]}
    for layer in outlook.layers:
        assert layer.spread_before == pytest.approx(done[layer.name]["spread_before"])
        assert layer.spread_after == pytest.approx(done[layer.name]["spread_after"], rel=0.3)


def test_a_large_model_is_told_without_the_pairwise_solver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("equiquant.pipeline.scales.solving.MEASURE_BELOW", 0)
    assert main(["inspect", str(network(tmp_path / "m.onnx", UNEVEN))]) == 0
    printed = capsys.readouterr().out
    assert "as it is" in printed
    assert "pairwise" not in printed


def test_an_even_network_gains_nothing(tmp_path: Path) -> None:
    outlook = api.inspect(network(tmp_path / "m.onnx", np.ones(4, np.float32)), DATA).outlook
    assert outlook is not None
    assert outlook.sqnr_db["global"] - outlook.sqnr_db["none"] < 3


def test_channels_that_reach_6_are_held_by_their_clip(tmp_path: Path) -> None:
    outlook = api.inspect(network(tmp_path / "m.onnx", UNEVEN, "Clip"), DATA).outlook
    assert outlook is not None
    ((held,),) = [layer.held for layer in outlook.layers if layer.name == "conv"]
    assert held.node == "act"
    assert 1 <= held.channels <= 4
    assert "Clip(0, 6)" in held.reason
    assert outlook.layers[0].free == 4 - held.channels


def test_what_bounds_per_channel_would_free_is_foreseen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = network(tmp_path / "m.onnx", UNEVEN, "Clip")
    outlook = api.inspect(model, DATA, preset="a8w8").outlook
    assert outlook is not None
    assert outlook.sqnr_db["per_channel"] > outlook.sqnr_db["global"] + 1
    done = equalize(model, data=DATA, clip_mode="per_channel").report.equalization["objective_db"]
    assert outlook.sqnr_db["per_channel"] == pytest.approx(done["global"], abs=1.0)
    assert main(["inspect", str(model)]) == 0
    assert "--clip-mode per_channel" in capsys.readouterr().out
    assert "per_channel" not in api.inspect(network(tmp_path / "r.onnx", UNEVEN), DATA).outlook.sqnr_db  # type: ignore[union-attr]


def test_what_cannot_be_told_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = network(tmp_path / "m.onnx", UNEVEN)
    assert main(["quantize", str(model), "-o", str(tmp_path / "q.onnx"), "-q"]) == 0
    found = api.inspect(tmp_path / "q.onnx")
    assert (found.outlook, found.no_outlook) == (None, "it is already quantized")
    assert main(["inspect", str(tmp_path / "q.onnx")]) == 0
    assert "cannot be predicted: it is already quantized" in capsys.readouterr().out
    with pytest.raises(DataError):
        api.inspect(model, np.zeros((2, 4, 8, 8), np.float32))


def test_the_command_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, data = network(tmp_path / "m.onnx", UNEVEN), tmp_path / "x.npy"
    np.save(data, DATA)
    before = model.read_bytes()
    assert main(["inspect", str(model), "--data", str(data), "--preset", "a8w8"]) == 0
    shown = capsys.readouterr().out
    for words in ("predicted for a8w8 from 4 samples", "1 of 2 layers can be rescaled", "5 channels, 'y' is a graph"):
        assert words in shown, words
    assert main(["inspect", str(model), "--worst", "1"]) == 0
    shown = capsys.readouterr().out
    assert "made-up inputs" in shown
    assert "The 1 worst of" in shown
    assert "real samples with --data" in shown
    assert main(["inspect", str(model), "--brief"]) == 0
    assert "predicted" not in capsys.readouterr().out
    assert main(["inspect", str(model), "--json"]) == 0
    layers = json.loads(capsys.readouterr().out)["outlook"]["layers"]
    assert [layer["name"] for layer in layers] == ["conv", "conv2"]
    assert model.read_bytes() == before


@pytest.mark.parametrize(
    ("act", "options", "added"),
    [("Relu", {}, set()), ("Clip", {}, set()), ("Clip", {"clip_mode": "per_channel"}, {"Min", "Relu"})],
)
def test_the_equalized_model_looks_like_the_one_given(
    act: str, options: dict[str, str], added: set[str], tmp_path: Path
) -> None:
    model = onnx.load(network(tmp_path / "m.onnx", UNEVEN, act))
    result = equalize(model, data=DATA, **options).model  # type: ignore[arg-type]
    assert list(result.graph.input) == list(model.graph.input)
    assert list(result.graph.output) == list(model.graph.output)
    kinds = {node.op_type for node in model.graph.node}
    assert {node.op_type for node in result.graph.node} - kinds <= added
    assert {node.name for node in model.graph.node} <= {node.name for node in result.graph.node}
    assert {p.key for p in result.metadata_props} >= {"equiquant.recipe", "equiquant.input_sha256"}
