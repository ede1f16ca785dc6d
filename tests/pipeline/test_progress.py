"""Equalization tells how far it is: never back, of a number that stays, and to the end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from equiquant import equalize, quantize
from tests.canonical.support import proto, weights

MODEL = proto(
    "a = Conv(x, w) r = Clip(a, low, high) y = Conv(r, v)",
    "float[N,3,6,6] x",
    "float[] y",
    weights(w=(8, 3, 3, 3), v=(4, 8, 3, 3)) | {"low": np.array(0, np.float32), "high": np.array(6, np.float32)},
)
DATA = np.random.default_rng(0).standard_normal((12, 3, 6, 6)).astype(np.float32)


@pytest.mark.parametrize(
    ("run", "options", "least"),
    [
        (quantize, {"preset": "a8w8"}, 7),
        (quantize, {"preset": "xint8"}, 8),
        (quantize, {"preset": "a8w8", "cle_method": "pairwise", "calibration": "minmax"}, 4),
        (equalize, {}, 7),
        (equalize, {"method": "pairwise"}, 5),
    ],
)
def test_equalization_tells_how_far_it_is(run: Any, options: dict[str, Any], least: int) -> None:
    told: list[tuple[int, int | None]] = []
    run(MODEL, data=DATA, **options, progress=lambda stage, *step: told.append(step) if stage == "equalize" else None)
    done, totals = zip(*told, strict=True)
    assert set(totals) == {done[-1]}
    assert list(done) == sorted(done)
    assert done[0] == 0
    assert len(set(done)) >= least
