"""The noise that is predicted is that of the scales the model has, whatever the proof left of those planned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from equiquant import quantize
from equiquant.pipeline.scales import equalizing
from equiquant.verify import Proof, apply_proven
from tests.canonical.support import proto, weights

DATA = np.random.default_rng(1).standard_normal((8, 3, 6, 6)).astype(np.float32)
OPTIONS: dict[str, Any] = {"preset": "a8w8", "cle_accept": "always", "weight_rounding": "nearest", "data": DATA}


def _predicted(monkeypatch: pytest.MonkeyPatch, share: float) -> Mapping[str, Any]:
    """Return the report's section where the proof left a share of the log-scales."""
    given = weights(w=(8, 3, 1, 1), v=(4, 8, 1, 1))
    given["w"] *= np.logspace(0, -2, 8, dtype=np.float32).reshape(8, 1, 1, 1)
    given["v"] /= np.logspace(0, -2, 8, dtype=np.float32).reshape(1, 8, 1, 1)
    model = proto("a = Conv(x, w) r = Relu(a) y = Conv(r, v)", "float[N,3,6,6] x", "float[] y", given)

    def left(model: Any, classes: Any, z: Any, *rest: Any) -> Proof:
        return apply_proven(model, classes, share * z, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(equalizing, "apply_proven", left)
        return quantize(model, **OPTIONS).report.equalization


@pytest.mark.parametrize("large", [False, True])
def test_what_was_rolled_back_is_not_predicted(monkeypatch: pytest.MonkeyPatch, large: bool) -> None:
    if large:
        monkeypatch.setattr(equalizing, "LARGE", 0)  # its terms are not kept until then
    whole, part, none = (_predicted(monkeypatch, share) for share in (1.0, 0.1, 0.0))
    method = whole["method"]
    assert whole["objective_db"][method] > whole["objective_db"]["before"] + 3
    for then, row in zip(whole["noise"], none["noise"], strict=True):
        holds = row["name"] in "xy" and not large  # of these no channel moves: they keep the ranges that were chosen
        assert row[method] == (then[method] if holds else row["before"])
    if large:
        assert method not in {*part["objective_db"], *part["noise"][0]}
    else:
        assert none["objective_db"][method] + 1 < part["objective_db"][method] < whole["objective_db"][method] - 1
