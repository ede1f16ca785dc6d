"""What the summary says of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from equiquant.cli import main
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
