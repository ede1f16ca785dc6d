"""One pass over the samples: run the float model, reduce every activation to a few numbers, let it go.

Memory holds the activations of one feed, whatever the number of samples. Smallest and largest values are over every
element; histograms count all of a small tensor and a sample of a large one (`numerics.histogram`).

Moving average (onnxruntime, `CalibMovingAverage`): low ← low + c·(low of this feed − low), the same for high, starting
from the first feed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.calibrate.channels import ChannelBuilder
from equiquant.calibrate.feeds import batch_size
from equiquant.calibrate.methods import needs_histogram
from equiquant.calibrate.stats import TensorRecord, TensorStats
from equiquant.calibrate.stream import SampleStream, SampleView
from equiquant.errors import DataError
from equiquant.io.runtime import Runner
from equiquant.numerics.histogram import HistogramBuilder
from equiquant.recipe import Recipe

__all__ = ["HISTOGRAM_LIMIT", "collect"]

Array = npt.NDArray[Any]

THREADS = min(os.cpu_count() or 1, 4)
CALL_COST = 20_000  # what handling a tensor of no elements costs, in elements
HISTOGRAM_LIMIT = 1 << 14  # elements of a tensor counted per feed, plus as many of its tails


class _Accumulator:
    """The running figures of one tensor."""

    def __init__(self, name: str, recipe: Recipe, axis: int | None) -> None:
        self._name = name
        self._pace = recipe.moving_average_constant if recipe.moving_average else None
        self._low, self._high, self._count = math.inf, -math.inf, 0
        self._histogram = HistogramBuilder() if needs_histogram(recipe) else None
        self._channels = None if axis is None else ChannelBuilder(name, axis)

    def add(self, x: Array) -> None:
        """Take in the tensor's value for one feed."""
        if not x.size:
            return
        if x.dtype not in (np.float32, np.float64):
            x = x.astype(np.float32)
        low, high = (float(x.min()), float(x.max())) if self._channels is None else self._channels.add(x)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise DataError(
                f"The float model computes NaN or infinite values in tensor '{self._name}' on the calibration data."
            )
        if self._histogram is not None:
            self._histogram.add(x, (low, high), HISTOGRAM_LIMIT)
        if self._pace is not None and self._count:
            self._low += self._pace * (low - self._low)
            self._high += self._pace * (high - self._high)
        else:
            self._low, self._high = min(self._low, low), max(self._high, high)
        self._count += x.size

    def result(self) -> TensorRecord:
        low, high = (self._low, self._high) if self._count else (0.0, 0.0)
        histogram = None if self._histogram is None else self._histogram.result()
        channels = None if self._channels is None else self._channels.result()
        return TensorRecord(low, high, self._count, histogram, channels)


def collect(
    model: ir.Model,
    stream: SampleStream | SampleView,
    tensors: Sequence[str],
    recipe: Recipe,
    *,
    channels: Mapping[str, int] | None = None,
    progress: Callable[[int], None] | None = None,
) -> TensorStats:
    """Return the statistics of the named tensors over all samples of the stream.

    Args:
        model: The float model; not changed.
        stream: The samples.
        tensors: Value names: graph inputs or outputs of nodes.
        recipe: Says which statistics its calibration method needs.
        channels: Value name to channel axis of the tensors that also need per-channel figures.
        progress: Called after every feed with the number of samples done.

    Raises:
        DataError: A sample does not fit the model, or an activation is NaN or infinite.
        ModelError: onnxruntime refuses or fails on the model.
    """
    axes = dict(channels or {})
    names = list(dict.fromkeys([*tensors, *axes]))
    records = {name: _Accumulator(name, recipe, axes.get(name)) for name in names}
    inputs = {v.name for v in model.graph.inputs}
    computed = [n for n in names if n not in inputs]
    runner = Runner(model, outputs=computed) if computed else None
    samples = 0
    with ThreadPoolExecutor(THREADS) as pool:
        for feed in stream:
            values = dict(zip(computed, runner.run(feed), strict=True)) if runner else {}
            values |= {name: feed[name] for name in names if name in inputs}
            _reduce(pool, records, values)
            samples += batch_size(feed)
            if progress is not None:
                progress(samples)
    return TensorStats(samples, {n: r.result() for n, r in records.items()}, stream.synthetic)


def _reduce(pool: ThreadPoolExecutor, records: Mapping[str, _Accumulator], values: dict[str, Array]) -> None:
    """Empty `values` into the accumulators, in shares of about equal size, one a thread; numpy releases the GIL."""
    shares: list[list[str]] = [[] for _ in range(THREADS)]
    load = [0] * THREADS
    for name in sorted(values, key=lambda n: values[n].size, reverse=True):
        lightest = load.index(min(load))
        shares[lightest].append(name)
        load[lightest] += values[name].size + CALL_COST

    def work(share: list[str]) -> None:
        for name in share:
            records[name].add(values.pop(name))  # freed as soon as it is done

    futures = [pool.submit(work, share) for share in shares[1:]]
    try:
        work(shares[0])
    finally:
        for future in futures:
            future.result()
