"""A few loud samples do not decide for all, and the report says which they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from equiquant import quantize
from equiquant.calibrate import SampleView, open_samples
from equiquant.io import input_specs, load_model
from equiquant.pipeline.measuring.judging import Yardstick
from equiquant.recipe import preset
from tests.canonical.support import proto, weights

EVEN = np.random.default_rng(0).standard_normal((16, 3, 6, 6)).astype(np.float32)
LOUD = EVEN * np.where(np.arange(16) % 5 == 2, 100, 1).astype(np.float32)[:, None, None, None]


def network(nodes: str, batch: str = "N") -> onnx.ModelProto:
    given = weights(w=(4, 3, 1, 1)) | ({"top": np.array(30, np.float32)} if "top" in nodes else {})
    return proto(nodes, f"float[{batch},3,6,6] x", "float[] y", given)


def measured(data: np.ndarray, other: str, batch: str = "N") -> tuple[float, float]:
    """Return what a model measures with loud samples leveled, and its signal-to-noise ratio."""
    whole, less = (load_model(network(nodes, batch)).model for nodes in ("y = Conv(x, w)", other))
    with open_samples(data, input_specs(whole), preset("a8w8")) as stream:
        yardstick = Yardstick(whole, SampleView(stream, 0, stream.count_up_to(99)), weighed=True)
        (leveled,) = yardstick._ratios(less, loudness=yardstick.loudness).values()
        return leveled, yardstick.sqnr_db(less)


@pytest.mark.parametrize("batch", ["N", "8"])
def test_what_is_lost_of_ordinary_samples_is_heard_beside_loud_ones(batch: str) -> None:
    coarse = "a = Conv(x, w) r = Round(a) y = Identity(r)"
    even, loud = measured(EVEN, coarse, batch), measured(LOUD, coarse, batch)
    assert even[0] == even[1] < 25
    assert loud[1] > even[1] + 30
    assert loud[0] < loud[1] - 10


def test_what_is_lost_of_loud_samples_alone_is_heard() -> None:
    cut = "a = Conv(x, w) y = Min(a, top)"
    assert measured(EVEN, cut)[0] > 100
    assert measured(LOUD, cut)[0] < 10


@pytest.mark.parametrize(("data", "told"), [(EVEN, False), (LOUD, True)], ids=["even", "loud"])
def test_the_report_says_which_outputs_have_loud_samples(data: np.ndarray, told: bool) -> None:
    result = quantize(network("a = Conv(x, w) y = Relu(a)"), None, data=data, preset="a8w8")
    found: list[dict[str, Any]] = [d for d in result.report.to_dict()["decisions"] if d["rule"] == "loud_samples"]
    assert bool(found) is told
    assert all(d["where"] == "y" and "samples as 10 medians" in d["reason"] for d in found)
