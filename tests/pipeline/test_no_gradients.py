"""Where onnxruntime cannot run the backward graph, ranges alone decide, and the run goes on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from equiquant import equalize, quantize
from equiquant.errors import ModelError
from tests.canonical.support import proto, weights

DATA = np.random.default_rng(0).standard_normal((8, 3, 6, 6)).astype(np.float32)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a network with channels of very different ranges, whose gradients nobody can compute."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise ModelError("no kernel for that")

    monkeypatch.setattr("equiquant.pipeline.scales.solving.measure_gains", refuse)
    nodes = "a = Conv(x, w1) r = Relu(a) y = Conv(r, w2)"
    constants = weights(w1=(8, 3, 1, 1), w2=(4, 8, 1, 1))
    constants["w1"] *= np.float32(4.0) ** np.arange(-4, 4, dtype=np.float32).reshape(8, 1, 1, 1)
    return proto(nodes, "float[N,3,6,6] x", "float[] y", constants)


@pytest.mark.parametrize("preset", ["xint8", "a8w8", "a8w8_per_channel"])
def test_the_pairwise_solver_equalizes(model: Any, preset: str) -> None:
    report = quantize(model, data=DATA, preset=preset, bias_correction=False).report
    (said,) = [d for d in report.decisions if d.rule == "global_solver"]
    assert not said.applied
    assert "no kernel for that" in said.reason
    assert [trial["method"] for trial in report.equalization["trials"]] == ["none", "pairwise"]
    assert report.to_dict()["quality"]["outputs"][0]["sqnr_db"] > 25


def test_so_it_does_for_other_tools(model: Any) -> None:
    report = equalize(model, data=DATA).report
    assert report.equalization["method"] == "pairwise"
    assert report.equalization["spread_after"] < report.equalization["spread_before"]


def test_gradients_that_tell_nothing_are_said() -> None:
    nodes = "a = Conv(x, w1) r = Relu(a) b = Conv(r, w2) n = Sub(b, b) y = Log(n)"
    model = proto(nodes, "float[N,3,6,6] x", "float[] y", weights(w1=(8, 3, 1, 1), w2=(4, 8, 1, 1)))
    with pytest.warns(UserWarning, match="'y' is NaN or infinite"):
        report = equalize(model, data=DATA).report
    (said,) = [d for d in report.decisions if d.rule == "global_solver"]
    assert "No finite gradient" in said.reason
