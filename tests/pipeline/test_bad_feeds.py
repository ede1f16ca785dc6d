"""What only the model can tell of a feed ends in its error with the number the feed has in the data."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from equiquant import compare, quantize
from equiquant.errors import ModelError
from tests.canonical.support import proto, weights

RNG = np.random.default_rng(0)
FEEDS = [{"ids": RNG.integers(0, 9, (1, 4))} for _ in range(20)]


def _model() -> onnx.ModelProto:
    """Return a network that looks up one of 9 rows for each of its integers."""
    body = "e = Gather(t, ids) h = MatMul(e, w) s = Sigmoid(h) y = Concat<axis=-1>(h, s)"
    return proto(body, "int64[N,4] ids", "float[] y", weights(t=(9, 64), w=(64, 64)))


def _compared(feeds: list[dict[str, np.ndarray]]) -> None:
    compare(_model(), _model(), feeds)


RUNS: list[Callable[[Any], Any]] = [
    _compared,
    lambda feeds: quantize(_model(), data=feeds, preset="w8"),
    lambda feeds: quantize(_model(), data=feeds, preset="a8w8"),
    lambda feeds: quantize(_model(), data=feeds, preset="xint8"),
]


def _joined(feeds: list[dict[str, np.ndarray]]) -> None:
    quantize(_model(), data=feeds, preset="xint8", simulate_dpu=False, cle=False)


@pytest.mark.parametrize(("run", "bad"), [*itertools.product(RUNS, [0, 1, 3, 7, 13, 15]), (_joined, 0)])
def test_an_index_beyond_the_table_is_told_with_the_number_of_the_feed(run: Callable[[Any], Any], bad: int) -> None:
    feeds = [*FEEDS[:bad], {"ids": np.full((1, 4), 9)}, *FEEDS[bad + 1 :]]
    with pytest.raises(ModelError, match=rf"^Calibration feed {bad}: onnxruntime failed"):
        run(feeds)
