"""Channels of an output whose weights all round to 0 are named, where nothing adds them to larger ones."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from equiquant import quantize
from tests.canonical.support import proto, weights

DATA = np.random.default_rng(0).standard_normal((16, 3, 6, 6)).astype(np.float32)
MOVED = "r = Tanh(c) t = Transpose(r) y, z = Split<axis = 2>(t, ends)"


def told(nodes: str, outputs: str = "float[] y", *, small: float = 1e-4, **options: Any) -> list[str]:
    parameters = weights(w=(4, 3, 1, 1), v=(2, 4, 1, 1), wide=(32, 3, 1, 1), head=(3, 32, 1, 1))
    parameters |= {"ends": np.array([1, 3], np.int64)}
    parameters |= {"slope": np.full((4, 1, 1), 0.5, np.float32), "far": np.full(4, 3, np.float32)}
    parameters |= {"bias": np.full(4, 1e-3, np.float32)}
    parameters["w"][2:] *= small
    parameters["head"][1:] *= 0.0006
    used = {name: array for name, array in parameters.items() if name in nodes}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quantize(proto(nodes, "float[N,3,6,6] x", outputs, used), data=DATA, **{"preset": "a8w8"} | options)
    return [text for w in caught if (text := str(w.message)).startswith("Output channels")]


@pytest.mark.parametrize("preset", ["a8w8", "xint8"])
@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        ("y = Conv(x, w)", "float[] y"),
        (f"c = Conv(x, w) {MOVED}", "float[] y, float[] z"),
        ("c = Conv(x, w) y = PRelu(c, slope)", "float[] y"),
        ("y = Conv(x, w, bias)", "float[] y"),
    ],
)
def test_channels_lost_to_an_output_are_named(nodes: str, outputs: str, preset: str) -> None:
    (text,) = told(nodes, outputs, preset=preset)
    assert ": 2 of 4 of '" in text
    assert ("per_channel=True" in text) == (preset == "a8w8")
    assert "nodes_to_exclude" in text


@pytest.mark.parametrize(
    ("nodes", "options"),
    [
        ("y = Conv(x, w)", {"small": 0.1}),
        ("y = Conv(x, w)", {"small": 0.0}),  # pruned
        ("y = Conv(x, w)", {"small": 1e-9}),  # decayed
        ("y = Conv(x, w)", {"preset": "a8w8_per_channel"}),
        ("y = Conv(x, w, far)", {}),  # a constant
        ("c = Conv(x, w) y = Conv(c, v)", {"cle": False}),
        ("c = Conv(x, w) y = Softmax<axis = 1>(c)", {}),
        ("c = Conv(x, w) d = Conv(x, w) y = Add(c, d)", {}),
    ],
)
def test_what_is_not_lost_or_is_added_to_more_is_no_matter(nodes: str, options: dict[str, Any]) -> None:
    assert not told(nodes, **options)


def test_three_layers_are_named() -> None:
    heads = " ".join(f"{y} = Conv(x, w)" for y in "pqrst")
    (text,) = told(heads, ", ".join(f"float[] {y}" for y in "pqrst"))
    assert text.count("2 of 4 of '") == 3
    assert "and of 2 more" in text


def test_a_weight_that_adaptive_rounding_leaves_is_no_channel() -> None:
    (text,) = told("c = Conv(x, wide) r = Relu(c) y = Conv(r, head)")
    assert ": 2 of 3 of '" in text
