"""How long one inference takes, in onnxruntime on this machine's CPU: what a mixed precision costs here."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from equiquant.io import Runner

__all__ = ["latencies"]

SECONDS, LEAST_RUNS = 1.0, 5  # of measuring a model


def latencies(shapes: Mapping[str, Sequence[int]], *paths: str) -> tuple[int, list[float]]:
    """Return how many samples a feed of ones with these shapes of the inputs is, and each model's median seconds on it.

    Args:
        shapes: By the names of the inputs, which are the same in all models.
        paths: The models' files.

    Raises:
        ModelError: onnxruntime cannot run a model.
    """
    from equiquant.calibrate.data.sample_axis import sample_count
    from equiquant.io import Runner

    samples, taken = 1, []
    for path in paths:
        runner = Runner(path)
        feed = {spec.name: np.ones(shapes[spec.name], dtype=spec.dtype) for spec in runner.inputs}
        samples = sample_count(feed, runner.inputs)
        taken.append(_median(runner, feed))
    return samples, taken


def _median(runner: Runner, feed: Mapping[str, npt.NDArray[Any]]) -> float:
    runner.run(feed)
    taken: list[float] = []
    while len(taken) < LEAST_RUNS or sum(taken) < SECONDS:
        start = time.perf_counter()
        runner.run(feed)
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))
