"""Rewrites that are exact on paper, on networks that amplify rounding beyond any fixed tolerance."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from equiquant import equalize, quantize
from equiquant.canonical.affine import BatchNorm
from equiquant.verify import Reference, float_noise
from tests.qdq.support import noise, parse

DATA = noise(6, 3, 6, 6, seed=9)
GAMMA, VAR = np.array([0.7, 1.3, 0.9, 1.1], np.float32), np.array([0.5, 1.7, 0.8, 1.2], np.float32)


def _difference(gap: float) -> ir.Model:
    """What is left of a Conv and its BatchNormalization once nearly the same Conv is subtracted."""
    w = noise(4, 3, 3, 3, seed=8)
    twin = (w.astype(np.float64) * (GAMMA / np.sqrt(VAR.astype(np.float64) + 1e-5)).reshape(4, 1, 1, 1)) * (1 + gap)
    zero = np.zeros(4, np.float32)
    body = "c = Conv(x, w) n = BatchNormalization(c, g, z, z, v) t = Conv(x, w2) y = Sub(n, t)"
    return parse(
        f"f (float[N,3,6,6] x) => (float[] y) {{ {body} }}", w=w, g=GAMMA, z=zero, v=VAR, w2=twin.astype(np.float32)
    )


def test_noise_is_small_where_nothing_cancels_and_large_where_it_does() -> None:
    noise_of = {gap: float_noise(m, Reference.of(m, [{"x": DATA}])) for gap in (1.0, 1e-3) for m in [_difference(gap)]}
    assert noise_of[1.0]["y"] < 1e-6
    assert noise_of[1e-3]["y"] > 1e-5


def test_a_fold_within_the_noise_is_kept_and_said() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = quantize(_difference(1e-3), data=DATA, preset="a8w8").report
    (said,) = [d for d in report.decisions if d.rule == "float_noise"]
    assert said.applied
    assert "unit in the last place" in said.reason
    assert any(d.rule == "fold_batch_norm" and d.applied for d in report.decisions)


@pytest.fixture
def wrong_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seeded fault: a BatchNormalization folds with factors a thousandth too large."""
    original = BatchNorm.factors

    def wrong(self: BatchNorm, axis: int, rank: int, channels: int) -> Any:
        scale, shift = original(self, axis, rank, channels)
        assert scale is not None
        return scale * 1.001, shift

    monkeypatch.setattr(BatchNorm, "factors", wrong)


@pytest.mark.usefixtures("wrong_fold")
def test_a_wrong_fold_is_not_taken_for_noise() -> None:
    with pytest.warns(UserWarning, match="Folding changed 'y' by .* it was undone"):
        quantize(_difference(0.5), data=DATA, preset="a8w8")


def test_constants_that_are_sizes_stay() -> None:
    model = parse(
        'f (float[1,3,6,6] x) => (float[] y) { r = Resize<mode="nearest">(x, , s) y = Conv(r, w) }',
        s=np.array([1, 1, 2, 2], np.float32),
        w=noise(4, 3, 3, 3),
    )
    reference = Reference.of(model, [{"x": DATA[:1]}])
    assert reference.measure(model).error == 0
    assert 0 < float_noise(model, reference)["y"] < 1e-5


def _flipping() -> ir.Model:
    """A BatchNormalization whose result is an output, and another one as integers that any rounding changes."""
    body = "c = Conv(x, w) y = BatchNormalization(c, g, z, z, v) m = Mul(y, much) i = Cast<to=7>(m)"
    constants: dict[str, Any] = {"g": GAMMA, "z": np.zeros(4, np.float32), "v": VAR, "much": np.array(1e6, np.float32)}
    return parse(f"f (float[1,3,6,6] x) => (float[] y, int64[] i) {{ {body} }}", w=noise(4, 3, 3, 3), **constants)


@pytest.mark.usefixtures("wrong_fold")
def test_an_output_that_flips_does_not_hide_a_wrong_one() -> None:
    with pytest.warns(UserWarning, match="Folding changed 'i' by .* it was undone"):
        quantize(_flipping(), data=DATA, preset="a8w8")


@pytest.mark.filterwarnings("error")
def test_an_output_that_flips_stops_no_fold() -> None:
    report = equalize(_flipping(), data=DATA).report
    assert any(d.rule == "fold_batch_norm" and d.applied for d in report.decisions)
    assert [d.where for d in report.decisions if d.rule == "float_noise"] == ["i"]
