"""Run several samples at once where the model gives the very same numbers, and tensors in turns where memory is short.

Batching saves the cost of a call and of starting threads. It is used only where one batch of the first samples gives,
in every tensor, the bits that the samples give alone, so that statistics cannot depend on it.

A feed's activations are estimated from the inferred shapes, its own sizes standing for symbolic dimensions. Where they
exceed the limit, the tensors are collected in several passes over the samples.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from equiquant.calibrate.data.feeds import CountedFeed, Feed, batch_size
from equiquant.errors import ModelError
from equiquant.graph.query import values_by_name
from equiquant.io.runtime import InputSpec, Runner

__all__ = ["batches", "default_memory_limit", "joined", "safe_batch", "split_by_memory"]

MOST_SAMPLES = 4
MOST_ELEMENTS = 6_000_000  # of all exposed tensors: more, and they leave the last-level cache before they are reduced
WORTHWHILE = 16  # a probe costs as much as twice a batch of samples: not for fewer batches than this
ELEMENT_BYTES = 4
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def default_memory_limit() -> int:
    """Return a quarter of the memory of the machine, or of the container it is limited to, in bytes."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 8 << 30
    for name in CGROUP_LIMITS:
        path = Path(name)
        text = path.read_text().strip() if path.exists() else ""
        if text.isdigit():
            total = min(total, int(text))
    return total // 4


def split_by_memory(model: ir.Model, names: Sequence[str], feed: Feed, limit: int) -> list[list[str]]:
    """Return the names in groups, in order, whose values for one feed are estimated to fit into `limit` bytes each."""
    values, sizes = values_by_name(model), _symbols(model, feed)
    known = {name: _elements(values[name], sizes) for name in names}
    unknown = max((n for n in known.values() if n is not None), default=1)
    groups: list[list[str]] = []
    used = limit + 1
    for name in names:
        elements = known[name]
        need = ELEMENT_BYTES * (unknown if elements is None else elements)
        if used + need > limit:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += need
    return groups


def _symbols(model: ir.Model, feed: Feed) -> dict[str, int]:
    """Return the size of each named dimension of the inputs."""
    sizes: dict[str, int] = {}
    for value in model.graph.inputs:
        if value.name in feed and value.shape is not None:
            for dimension, size in zip(value.shape, feed[value.name].shape, strict=False):
                if isinstance(dimension, ir.SymbolicDim) and dimension.value is not None:
                    sizes[str(dimension.value)] = size
    return sizes


def _elements(value: ir.Value, sizes: Mapping[str, int]) -> int | None:
    if value.shape is None:
        return None
    count = 1
    for dimension in value.shape:
        size = dimension if isinstance(dimension, int) else sizes.get(str(dimension.value))
        if size is None:
            return None
        count *= size
    return count


def batches(feeds: Iterable[Feed], size: int) -> Iterator[list[Feed]]:
    """Group consecutive feeds of equal shapes, at most `size` samples a group."""
    group: list[Feed] = []
    for feed in feeds:
        if group and (_shapes(feed) != _shapes(group[0]) or batch_size(feed) * (len(group) + 1) > size):
            yield group
            group = []
        group.append(feed)
    if group:
        yield group


def joined(group: Sequence[Feed]) -> Feed:
    """Return several feeds as one."""
    if len(group) == 1:
        return group[0]
    arrays = {name: np.concatenate([feed[name] for feed in group]) for name in group[0]}
    return CountedFeed(arrays, sum(map(batch_size, group)))


def _shapes(feed: Feed) -> list[Any]:
    return [array.shape for array in feed.values()]


def safe_batch(runner: Runner, specs: Sequence[InputSpec], stream: Iterable[Feed], known: int | None) -> int:
    """Return how many samples to run at once: 1, or more where that gives the bits each sample gives alone.

    Args:
        runner: Returns the tensors that are wanted.
        specs: The model's inputs.
        stream: The samples; the first few are read.
        known: How many samples there are, None if unknown.
    """
    if (known is not None and known < 2 * WORTHWHILE) or any(not s.shape or s.shape[0] is not None for s in specs):
        return 1
    first = list(itertools.islice(iter(stream), MOST_SAMPLES))
    if len(first) < 2 or any(a.shape[0] != 1 for feed in first for a in feed.values()):
        return 1
    try:
        alone = [runner.run(first[0])]
        elements = sum(value.size for value in alone[0])
        size = min(MOST_SAMPLES, len(first), MOST_ELEMENTS // max(elements, 1))
        if known is not None:
            size = min(size, known // WORTHWHILE)
        first = first[:size]
        if size < 2 or any(_shapes(feed) != _shapes(first[0]) for feed in first):
            return 1
        alone += [runner.run(feed) for feed in first[1:]]
        together = runner.run(joined(first))
    except ModelError:  # the pass will say on which sample, if it is not on all of them together
        return 1
    same = all(
        parts[0].ndim > 0 and whole.shape[:1] == (size,) and np.array_equal(whole, np.concatenate(parts))
        for whole, parts in zip(together, zip(*alone, strict=True), strict=True)
        if parts[0].shape[:1] == (1,) or not np.array_equal(whole, parts[0])
    )
    return size if same else 1
