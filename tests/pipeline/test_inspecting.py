"""What is foreseen of layers that no gradient tells anything of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from equiquant import inspect
from equiquant.cli import main
from tests.canonical.support import proto, weights

DATA = np.random.default_rng(0).standard_normal((4, 3, 6, 6)).astype(np.float32)
GATE = "a = Conv(x, w1) g = Conv(x, w3) k = Greater(g, z) f = Cast<to=1>(k) m = Mul(a, f) y = Conv(m, w2)"
INFINITE = "a = Conv(x, w1) r = Relu(a) b = Conv(r, w2) n = Sub(b, b) y = Log(n)"


@pytest.mark.parametrize(("nodes", "told"), [(GATE, [True, False, True]), (INFINITE, [False, False])])
def test_a_layer_without_a_gradient_is_not_called_float(
    nodes: str, told: list[bool], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    constants = weights(w1=(4, 3, 1, 1), w2=(4, 4, 1, 1), w3=(4, 3, 1, 1), z=())
    model = proto(nodes, "float[N,3,6,6] x", "float[] y", constants)
    outlook = inspect(model, DATA).outlook
    assert outlook is not None
    assert all(layer.quantized for layer in outlook.layers)
    assert [layer.sqnr_before_db is not None for layer in outlook.layers] == told
    onnx.save(model, tmp_path / "m.onnx")
    assert main(["inspect", str(tmp_path / "m.onnx")]) == 0
    shown = capsys.readouterr().out
    assert "No gradient: quantized" in shown
    assert "stays float" not in shown
