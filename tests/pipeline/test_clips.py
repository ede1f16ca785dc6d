"""What keeping a ReLU6 rests on: that its channels stay below its bound on samples the scales were not found on."""

import warnings

import numpy as np
import onnx
import pytest

from equiquant import equalize, quantize
from tests.canonical.support import proto, weights


def network() -> tuple[onnx.ModelProto, np.ndarray]:
    """Return Conv, Clip(0, 6), Conv with channels of unlike sizes, and samples, the last ones larger."""
    parameters = weights(w1=(8, 3, 1, 1), b1=(8,), w2=(4, 8, 1, 1), b2=(4,))
    parameters["w1"] *= np.logspace(0, -2, 8, dtype=np.float32).reshape(8, 1, 1, 1)
    parameters["b1"] *= 0
    parameters |= {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    nodes = "a = Conv(x, w1, b1) c = Clip(a, low, high) y = Conv(c, w2, b2)"
    samples = np.random.default_rng(0).standard_normal((8, 3, 6, 6), np.float32)
    samples[4:] *= 4
    return proto(nodes, "float[N,3,6,6] x", "float[] y", parameters), samples


def test_channels_that_reach_a_bound_on_other_samples_are_told() -> None:
    source, samples = network()
    with pytest.warns(UserWarning, match=r"dB of the float output are left: channels that stayed below a Clip's bound"):
        report = equalize(source, data=samples, method="pairwise").report.to_dict()
    assert report["equalization"]["clip_sqnr_db"] < 80
    assert report["equalization"]["equivalence_error"] <= 1e-5


@pytest.mark.parametrize("mode", ["exact", "per_channel"])
def test_nothing_is_told_where_the_function_is_kept(mode: str) -> None:
    source, samples = network()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = samples[:4] if mode == "exact" else samples
        report = equalize(source, data=data, clip_mode=mode, method="pairwise").report.to_dict()
    assert report["equalization"].get("clip_sqnr_db", 200) > 80


def test_quantizing_measures_it_too() -> None:
    source, samples = network()
    with pytest.warns(UserWarning, match="More samples, or --clip-mode per_channel"):
        report = quantize(source, data=samples, preset="a8w8", cle_accept="always").report.to_dict()
    assert report["equalization"]["clip_sqnr_db"] < 40
