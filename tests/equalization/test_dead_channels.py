"""A channel no sample woke is not free: the next may wake it, whatever scale it has."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from equiquant import quantize
from equiquant.backward import Gains
from equiquant.equalization import awakened, find_classes
from equiquant.io import to_proto
from equiquant.numerics.statistics.figures import ChannelFigures
from tests.qdq.support import parse, run, sqnr

SAMPLES = 9
W1 = np.array([[3, 4, 0, 0], [0, 0, 6, 8], [1, 0, 0, 0], [0, 0, 0, 0]], np.float32)  # (outputs, inputs); the last is 0
POWER = np.array([1.0, 1.0, 4.0, 4.0])  # of the inputs: rows are driven by 25, 400, 1 and 0


def figures_and_gains(
    factors: npt.NDArray[np.float64],
) -> tuple[dict[str, ChannelFigures], dict[str, Gains]]:
    """Return those of x -> Gemm -> Relu -> Gemm with rows scaled by `factors`; 0 and 1 are awake, 2 and 3 are not."""
    model = parse(
        "g (float[N, 4] x) => (float[N, 2] y) { a = Gemm<transB=1>(x, w1) r = Relu(a) y = Gemm<transB=1>(r, w2) }",
        w1=(W1 * factors[:, None]).astype(np.float32),
        w2=np.ones((2, 4), np.float32),
    )
    awake = np.array([50.0, 200.0, 0.0, 0.0]) * factors**2
    figures = {
        "x": ChannelFigures(1, -np.sqrt(POWER), np.sqrt(POWER), 0 * POWER, POWER, 0 * POWER),
        "r": ChannelFigures(1, 0 * awake, np.sqrt(awake), 0 * awake, awake, awake / 4),
    }
    white = np.array([0.02, 0.01, 0.0, 0.0]) / factors**2
    behind = np.array([0.04, 0.01, 0.5, 0.0]) / factors**2
    gains = {"a": Gains(white, 2 * white), "r": Gains(behind, 4 * behind), "x": Gains(np.zeros(4), np.zeros(4))}
    return awakened(find_classes(model), figures, gains, SAMPLES)


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_a_dead_channel_is_as_active_as_others_once_in_so_many_samples(scale: float) -> None:
    factors = np.array([1.0, 1.0, scale, 1.0])
    figures, gains = figures_and_gains(factors)
    typical = np.median([50 / 25, 200 / 400])
    assert figures["r"].mean_square == pytest.approx([50, 200, typical * scale**2 / (SAMPLES + 1), 0])
    assert figures["r"].constant_square == pytest.approx(figures["r"].mean_square / 4)
    told = 0.5 * np.median([0.02 / 0.04, 0.01 / 0.01]) / (SAMPLES + 1)
    assert gains["a"].white == pytest.approx([0.02, 0.01, told / scale**2, 0])
    assert gains["a"].constant == pytest.approx(2 * gains["a"].white)
    assert (gains["x"].white == 0).all()  # what has no say is not dead


def test_a_channel_without_weights_has_no_say() -> None:
    """Pruned channels are dead for good: whatever their scale, nothing must follow from it."""
    figures, gains = figures_and_gains(np.ones(4))
    assert figures["r"].mean_square[3] == 0
    assert gains["a"].white[3] == 0


@pytest.mark.parametrize("preset", ["a8w8", "xint8"])
def test_large_weights_of_dead_channels_are_not_clipped(preset: str) -> None:
    rng = np.random.default_rng(1)
    sleepers = np.arange(24) % 4 == 0
    weights: dict[str, Any] = {
        "w1": rng.standard_normal((12, 24)).astype(np.float32),
        "b1": np.where(sleepers, -5.0, 0.0).astype(np.float32),
        "w2": (rng.standard_normal((24, 5)) * np.where(sleepers, 6.0, 1.0)[:, None]).astype(np.float32),
    }
    model: ir.Model = parse(
        "g (float[N, 12] x) => (float[N, 5] y) { a = Gemm(x, w1, b1) r = Relu(a) y = Gemm(r, w2) }", **weights
    )
    x = rng.uniform(-1, 1, (400, 12)).astype(np.float32)
    wakes = (x @ weights["w1"] + weights["b1"])[:, sleepers].max(axis=1) > 0
    assert 0 < wakes.sum() < 20
    options: dict[str, Any] = {"cle_method": "global", "cle_accept": "always"}
    options |= {"bias_correction": False, "weight_rounding": "nearest"}
    done = quantize(to_proto(model), data=x[~wakes][:100], preset=preset, **options)
    waking = {"x": x[wakes]}
    assert sqnr(run(model, waking)[0], run(ir.from_proto(done.model), waking)[0]) > 20  # 6 and 9 dB where they are free
