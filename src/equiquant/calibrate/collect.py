"""Over the samples: run the float model, reduce every activation to a few numbers, let it go.

Memory holds the activations of one batch, whatever the number of samples, and no more than a limit: beyond it the
tensors take turns, one pass over the samples each. `accumulate` says what is kept, `batches` when samples share a run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from equiquant.calibrate.accumulate import HISTOGRAM_LIMIT, THREADS, Accumulator, Wanted, reduce
from equiquant.calibrate.batches import batches, default_memory_limit, joined, safe_batch, split_by_memory
from equiquant.calibrate.checkpoint import ALL, Checkpoint
from equiquant.calibrate.feeds import batch_size
from equiquant.calibrate.methods import needs_histogram
from equiquant.calibrate.stats import TensorRecord, TensorStats
from equiquant.calibrate.stream import SampleStream, SampleView
from equiquant.io.runtime import Runner, input_specs
from equiquant.io.save import model_bytes
from equiquant.recipe import Recipe

__all__ = ["HISTOGRAM_LIMIT", "collect"]

BATCH_BELOW = 50_000_000  # bytes of weights; above, a sample keeps the cores busy by itself

Array = npt.NDArray[Any]


def collect(
    model: ir.Model,
    stream: SampleStream | SampleView,
    tensors: Sequence[str],
    recipe: Recipe,
    *,
    channels: Mapping[str, int] | None = None,
    progress: Callable[[int], None] | None = None,
    histograms: bool | None = None,
    exact: bool = False,
    checkpoint: Checkpoint | None = None,
) -> TensorStats:
    """Return the statistics of the named tensors over all samples of the stream.

    Args:
        model: The float model; not changed.
        stream: The samples.
        tensors: Value names: graph inputs or outputs of nodes.
        recipe: Says which statistics its calibration method needs, and the memory limit.
        channels: Value name to channel axis of the tensors that also need per-channel figures.
        progress: Called after every batch with the number of samples done, all passes together.
        histograms: Keep histograms; None where the recipe's method needs them.
        exact: Count every element in the histograms.
        checkpoint: Where to save what is done from time to time, and to go on from.

    Raises:
        DataError: A sample does not fit the model, or an activation is NaN or infinite.
        ModelError: onnxruntime refuses or fails on the model.
    """
    axes = dict(channels or {})
    names = list(dict.fromkeys([*tensors, *axes]))
    keep = needs_histogram(recipe) if histograms is None else histograms
    wanted = Wanted.by(recipe, histogram=keep, exact=exact)
    first = next(iter(stream))
    limit = default_memory_limit() if recipe.calibration_memory is None else recipe.calibration_memory << 20
    groups = split_by_memory(model, names, first, limit) or [[]]
    samples = 0
    done: dict[str, TensorRecord] = {}
    for index, group in enumerate(groups):
        report = _shared(progress, index, len(groups), samples)
        samples, records = _Pass(model, group, axes, wanted).run(stream, report, checkpoint, index)
        done |= records
    if checkpoint is not None:
        checkpoint.remove()
    return TensorStats(samples, done, stream.synthetic, averaged=recipe.moving_average)


def _shared(
    progress: Callable[[int], None] | None, index: int, passes: int, samples: int
) -> Callable[[int], None] | None:
    """Return a progress that counts samples of one pass of several as parts of samples."""
    return None if progress is None else lambda done: progress((index * samples + done) // passes)


@dataclass(frozen=True, eq=False)
class _Pass:
    """One pass over the samples for some of the tensors."""

    model: ir.Model
    names: Sequence[str]
    axes: Mapping[str, int]
    wanted: Wanted

    def run(
        self,
        stream: SampleStream | SampleView,
        progress: Callable[[int], None] | None,
        checkpoint: Checkpoint | None,
        index: int,
    ) -> tuple[int, dict[str, TensorRecord]]:
        """Return the number of samples and the records."""
        start, before = (0, None) if checkpoint is None else checkpoint.resume(index, self.names)
        if before is not None and start == ALL:
            if checkpoint is not None:
                checkpoint.finish(index, before)
            return before.samples, dict(before.tensors)
        source = iter(stream)
        if checkpoint is not None and before is not None and not checkpoint.skip(itertools.islice(source, start)):
            start, before, source = 0, None, iter(stream)
        fresh = self._accumulators()
        inputs = {v.name for v in self.model.graph.inputs}
        computed = [n for n in self.names if n not in inputs]
        runner = Runner(self.model, outputs=computed) if computed else None
        size = 1
        if runner is not None and self.wanted.pace is None and model_bytes(self.model) < BATCH_BELOW:
            size = safe_batch(runner, input_specs(self.model), stream, stream.known)
        samples, feeds = 0 if before is None else before.samples, start
        with ThreadPoolExecutor(THREADS) as pool:
            for group in batches(source, size):
                feed = joined(group)
                values = dict(zip(computed, runner.run(feed), strict=True)) if runner else {}
                values |= {name: feed[name] for name in self.names if name in inputs}
                reduce(pool, fresh, values, batch_size(feed))
                samples += batch_size(feed)
                feeds += len(group)
                if checkpoint is not None and checkpoint.due(group):
                    checkpoint.save(index, feeds, self._result(samples, fresh, before))
                if progress is not None:
                    progress(samples)
        result = self._result(samples, fresh, before)
        if checkpoint is not None:
            checkpoint.finish(index, result)
        return samples, dict(result.tensors)

    def _accumulators(self) -> dict[str, Accumulator]:
        return {name: Accumulator(name, self.wanted, self.axes.get(name)) for name in self.names}

    def _result(self, samples: int, fresh: Mapping[str, Accumulator], before: TensorStats | None) -> TensorStats:
        records = {name: accumulator.result() for name, accumulator in fresh.items()}
        if before is not None:
            records = {name: before.tensors[name].merge(record) for name, record in records.items()}
        return TensorStats(samples, records)
