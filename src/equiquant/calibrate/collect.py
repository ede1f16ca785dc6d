"""Over the samples: run the float model, reduce every activation to a few numbers, let it go.

Memory holds the activations of one batch, whatever the number of samples, and no more than a limit: beyond it the
tensors take turns, one pass over the samples each. `accumulate` says what is kept, `batches` when samples share a run.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from equiquant.calibrate.accumulate import HISTOGRAM_LIMIT, Accumulator, Wanted
from equiquant.calibrate.batches import batches, default_memory_limit, safe_batch, split_by_memory
from equiquant.calibrate.checkpoint import ALL, Checkpoint
from equiquant.calibrate.data.feeds import Feed
from equiquant.calibrate.data.stream import SampleStream, SampleView
from equiquant.calibrate.methods import needs_histogram
from equiquant.calibrate.stats import TensorRecord, TensorStats
from equiquant.calibrate.workers import Workers
from equiquant.io.memory import release_memory
from equiquant.io.runtime import Runner, input_specs
from equiquant.io.save import model_bytes
from equiquant.recipe import Recipe

__all__ = ["HISTOGRAM_LIMIT", "collect"]

BATCH_BELOW = 50_000_000  # bytes of weights; above, a sample keeps the cores busy by itself
ALONE_ABOVE = 200_000_000  # bytes of weights; above, a second sample's activations cost more than its thread gains
CORES = os.cpu_count() or 1
MOST_WORKERS = 4  # samples in memory at once


def collect(
    model: ir.Model,
    stream: SampleStream | SampleView,
    tensors: Sequence[str],
    recipe: Recipe,
    *,
    channels: Mapping[str, int] | None = None,
    sketches: Collection[str] = (),
    progress: Callable[[int], None] | None = None,
    histograms: bool | None = None,
    exact: Collection[str] = (),
    sampled: bool = False,
    checkpoint: Checkpoint | None = None,
) -> TensorStats:
    """Return the statistics of the named tensors over all samples of the stream.

    Args:
        model: The float model; not changed.
        stream: The samples.
        tensors: Value names: graph inputs or outputs of nodes.
        recipe: Says which statistics its calibration method needs, and the memory limit.
        channels: Value name to channel axis of the tensors that also need per-channel figures.
        sketches: Those of `channels` whose magnitudes are sketched too.
        progress: Called after every batch with the number of samples done, all passes together.
        histograms: Keep histograms; None where the recipe's method needs them.
        exact: Those whose histograms count every element, whatever the recipe says.
        sampled: Histograms of the other large tensors count a sample, whatever the recipe says.
        checkpoint: Where to save what is done from time to time, and to go on from.

    Raises:
        DataError: A sample does not fit the model, or an activation is NaN or infinite.
        ModelError: onnxruntime refuses or fails on the model.
    """
    axes = dict(channels or {})
    names = list(dict.fromkeys([*tensors, *axes]))
    keep = needs_histogram(recipe) if histograms is None else histograms
    wanted = Wanted.by(recipe, histogram=keep)
    if sampled:
        wanted = replace(wanted, limit=HISTOGRAM_LIMIT)
    first = next(iter(stream))
    limit = default_memory_limit() if recipe.calibration_memory is None else recipe.calibration_memory << 20
    alone = recipe.moving_average or model_bytes(model) > ALONE_ABOVE
    groups, workers = _shares(model, names, first, limit, 1 if alone else min(CORES, MOST_WORKERS))
    samples = 0
    done: dict[str, TensorRecord] = {}
    for index, group in enumerate(groups):
        report = _shared(progress, index, len(groups), samples)
        samples, records = _Pass(model, group, axes, frozenset(sketches), frozenset(exact), wanted, workers).run(
            stream, report, checkpoint, index
        )
        done |= records
    release_memory()  # of the sessions and their activations
    if checkpoint is not None:
        checkpoint.remove()
    full = keep and wanted.limit is None
    return TensorStats(samples, done, stream.synthetic, averaged=recipe.moving_average, exact=full)


def _shares(model: ir.Model, names: Sequence[str], feed: Feed, limit: int, workers: int) -> tuple[list[list[str]], int]:
    """Return the tensors of each pass, and how many feeds at once fit into the limit; no more passes than for one."""
    passes = split_by_memory(model, names, feed, limit) or [[]]
    while workers > 1 and len(split_by_memory(model, names, feed, limit // workers)) > 1:
        workers -= 1
    return passes, workers


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
    sketches: Collection[str]
    exact: Collection[str]
    wanted: Wanted
    workers: int

    def run(
        self,
        stream: SampleStream | SampleView,
        progress: Callable[[int], None] | None,
        checkpoint: Checkpoint | None,
        index: int,
    ) -> tuple[int, dict[str, TensorRecord]]:
        """Return the number of samples and the records."""
        start, before = (0, None) if checkpoint is None else checkpoint.resume(index, self.names)
        if checkpoint is not None and before is not None and start == ALL:
            if checkpoint.same(stream):
                checkpoint.finish(index, before)
                return before.samples, dict(before.tensors)
            start, before = 0, None
        source = iter(stream)
        if checkpoint is not None and before is not None and not checkpoint.skip(itertools.islice(source, start)):
            start, before, source = 0, None, iter(stream)
        inputs = {v.name for v in self.model.graph.inputs}
        computed = [n for n in self.names if n not in inputs]
        threads = CORES // self.workers if self.workers > 1 else 0
        runner = Runner(self.model, outputs=computed, threads=threads) if computed else None
        size = 1
        if runner is not None and self.wanted.pace is None and model_bytes(self.model) < BATCH_BELOW:
            size = safe_batch(runner, input_specs(self.model), stream, stream.known)
        samples, feeds = 0 if before is None else before.samples, start

        def done(count: int) -> None:
            nonlocal samples
            samples += count
            if progress is not None:
                progress(samples)

        with Workers(runner, self.names, self._accumulator, self.workers, done, stream.number) as workers:
            for group in batches(source, size):
                workers.submit(group, feeds)
                feeds += len(group)
                if checkpoint is not None and checkpoint.due(group):
                    records = workers.records()
                    checkpoint.save(index, feeds, self._result(samples, records, before))
            records = workers.records()
            result = self._result(samples, records, before)
        if checkpoint is not None:
            checkpoint.finish(index, result)
        return samples, dict(result.tensors)

    def _accumulator(self, name: str) -> Accumulator:
        wanted = replace(self.wanted, limit=None) if name in self.exact else self.wanted
        return Accumulator(name, wanted, self.axes.get(name), name in self.sketches)

    def _result(self, samples: int, fresh: Mapping[str, TensorRecord], before: TensorStats | None) -> TensorStats:
        if before is None:
            return TensorStats(samples, fresh)
        return TensorStats(samples, {name: before.tensors[name].merge(record) for name, record in fresh.items()})
