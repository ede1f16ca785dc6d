"""How long one inference takes, in onnxruntime on this machine's CPU: what a mixed precision costs here."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from equiquant.io import Runner

__all__ = ["latencies"]

SECONDS, LEAST_RUNS = 1.0, 5  # of measuring a model


def latencies(shapes: Mapping[str, Sequence[int]], *paths: str) -> list[float]:
    """Return the median seconds of one inference of each model on a feed of ones with the inputs' shapes, by name.

    Raises:
        ModelError: onnxruntime cannot run a model.
    """
    from equiquant.io import Runner

    return [_median(Runner(path), shapes) for path in paths]


def _median(runner: Runner, shapes: Mapping[str, Sequence[int]]) -> float:
    feed = {spec.name: np.ones(shapes[spec.name], dtype=spec.dtype) for spec in runner.inputs}
    runner.run(feed)
    taken: list[float] = []
    while len(taken) < LEAST_RUNS or sum(taken) < SECONDS:
        start = time.perf_counter()
        runner.run(feed)
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))
