"""What the summary says of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from equiquant.cli import main
from equiquant.cli.latency import latencies
from tests.cli.test_outlook import DATA, UNEVEN, network


@pytest.mark.parametrize(("batch", "told"), [(1, "a sample"), (4, "a batch of 4")])
def test_latency_is_told_of_what_was_fed(
    batch: int, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("equiquant.cli.latency.SECONDS", 0.0)
    model = onnx.load(network(tmp_path / "m.onnx", UNEVEN))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    onnx.save(model, tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", DATA)
    words = [str(tmp_path / "m.onnx"), "-o", str(tmp_path / "q.onnx"), "--data", str(tmp_path / "x.npy")]
    assert main(["quantize", *words, "--latency"]) == 0
    assert f" ms {told} in onnxruntime" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("inputs", "counted"),
    [("float[3, 8, 8] x", 1), ("float[10, 4] a, float[1, 3, 8, 8] x", 1), ("float[N, 3, 8, 8] x", 5)],
    ids=["no batch", "anchors first", "open batch"],
)
def test_latency_is_that_of_samples_as_calibration_counts_them(
    inputs: str, counted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("equiquant.cli.latency.SECONDS", 0.0)
    head = '<ir_version: 8, opset_import: ["" : 17]>'
    model = onnx.parser.parse_model(f"{head} g ({inputs}) => (int64[rank] y) {{ y = Shape (x) }}")
    onnx.save(model, tmp_path / "m.onnx")
    shapes = {i.name: [d.dim_value or 5 for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
    assert latencies(shapes, str(tmp_path / "m.onnx"))[0] == counted


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_samples_of_which_little_is_left_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = np.tile(DATA, (4, 1, 1, 1)) * np.geomspace(1, 1 / 100, 16, dtype=np.float32)[:, None, None, None]
    np.save(tmp_path / "x.npy", data)
    model, quantized = str(network(tmp_path / "m.onnx", UNEVEN)), str(tmp_path / "q.onnx")
    given = ["--data", str(tmp_path / "x.npy")]
    assert main(["quantize", model, "-o", quantized, *given, "--report", str(tmp_path / "r")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert ", a quarter of them " in out
    assert " dB or less" in out
    assert "of a quarter of its samples, at most" in (tmp_path / "r" / "report.html").read_text()
    assert main(["compare", model, quantized, *given]) == 0
    assert "of a quarter of its samples, at most" in capsys.readouterr().out
