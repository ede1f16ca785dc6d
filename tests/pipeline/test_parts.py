"""An output that joins boxes in pixels and scores says how well either survived: the boxes would hide the scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from equiquant import compare, quantize
from equiquant.cli import main
from equiquant.numerics.statistics.sqnr import ErrorFigures
from equiquant.verify import OutputQuality
from tests.canonical.support import proto, run, weights

NODES = (
    "a = Conv(x, w1) r = Relu(a) b = Conv(r, w2) p = Mul(b, pixels)"
    " c = Conv(r, w3) s = Sigmoid(c) y = Concat<axis = 1>(p, s)"
)
DATA = np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32)


@pytest.fixture(name="detector")
def _detector() -> onnx.ModelProto:
    given = weights(w1=(16, 3, 1, 1), w2=(4, 16, 1, 1), w3=(2, 16, 1, 1))
    return proto(NODES, "float[N,3,8,8] x", "float[] y", given | {"pixels": np.array(100, np.float32)})


def test_each_part_has_its_figure(detector: onnx.ModelProto) -> None:
    result = quantize(detector, data=DATA, preset="a8w8", cle=False)
    (row,) = result.report.to_dict()["quality"]["outputs"]
    (output,) = compare(detector, result.model, DATA).outputs
    assert set(row["parts"]) == set(output.parts) == {"p", "c"}
    (expected,), (got,) = (run(model, {"x": DATA}) for model in (detector, result.model))
    noise = np.square(got[:, :4] - expected[:, :4]).sum()
    assert output.parts["p"] == pytest.approx(10 * np.log10(np.square(expected[:, :4]).sum() / noise), abs=0.1)


def test_the_worst_part_speaks_for_the_output() -> None:
    figures = ErrorFigures(count=6, sqnr_db=30.0, aligned_sqnr_db=30.0, max_abs_error=1.0, cosine=1.0)
    assert OutputQuality("y", figures, None).worst == ("the output 'y'", 30.0)
    joined = OutputQuality("y", figures, None, parts={"p": 31.0, "c": 2.0})
    assert joined.worst == ("'c', a part of the output 'y',", 2.0)
    silent = OutputQuality("y", figures, None, parts={"p": 31.0, "c": -np.inf})
    assert silent.worst == ("the output 'y'", 30.0)


def test_it_is_shown(detector: onnx.ModelProto, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(detector, tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", DATA)
    words = [str(tmp_path / "m.onnx"), "-o", str(tmp_path / "q.onnx"), "--data", str(tmp_path / "x.npy")]
    assert main(["quantize", *words, "--preset", "a8w8", "--no-cle", "--report", str(tmp_path / "report")]) == 0
    assert "dB of its part c" in " ".join(capsys.readouterr().out.split())
    assert main(["compare", *words[:1], words[2], *words[3:]]) == 0
    assert "of its part c" in capsys.readouterr().out
    assert "of its part <code>c</code>" in (tmp_path / "report" / "report.html").read_text()
