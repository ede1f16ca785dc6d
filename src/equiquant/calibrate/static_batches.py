"""Samples as the model takes them: checked, and where its batch is static joined to batches of that size.

A last batch that is too short is filled with the first samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from equiquant.calibrate.feeds import Feed, checked
from equiquant.calibrate.source import LabelledFeed
from equiquant.errors import DataError
from equiquant.io.runtime import InputSpec

__all__ = ["batched", "static_batch"]


def static_batch(specs: Sequence[InputSpec]) -> int:
    """Return the batch size that all inputs but single numbers share, 1 where it is dynamic or not one."""
    sizes = {spec.shape[0] for spec in specs if spec.shape}
    return (sizes.pop() or 1) if len(sizes) == 1 else 1


def batched(feeds: Iterable[LabelledFeed], specs: Sequence[InputSpec]) -> Iterator[Feed]:
    """Yield the feeds checked; of a model with a static batch their samples, that many at a time.

    Raises:
        DataError: A feed does not fit the model.
    """
    size = static_batch(specs)
    if size == 1:
        yield from (checked(feed, specs, label) for label, feed in feeds)
        return
    each = [replace(spec, shape=(None, *spec.shape[1:])) if spec.shape else spec for spec in specs]
    waiting: list[Feed] = []
    count, first = 0, Feed()
    for label, feed in feeds:
        part = checked(feed, specs if _numbers(feed) else each, label)
        lengths = {len(array) for array in part.values() if array.ndim}
        if len(lengths) > 1:
            raise DataError(f"Calibration {label}: the inputs have different numbers of samples along axis 0.")
        count += lengths.pop()
        waiting.append(part if count >= size else _copied(part))  # whoever gives it may fill it with the next sample
        if count < size:
            continue
        whole = _joined(waiting, label)
        for start in range(0, count - size + 1, size):
            batch = _part(whole, slice(start, start + size))
            first = first or _copied(batch)
            yield batch
        done = count - count % size
        waiting, count = [_copied(_part(whole, slice(done, None)))] if done < count else [], count - done
    if count:
        last = _joined(waiting, label)
        same = all(first[name].shape[1:] == array.shape[1:] for name, array in last.items()) if first else False
        more = _repeated(first if same else last, size - count)
        yield _joined([last, more], label)


def _numbers(feed: Mapping[str, Any]) -> bool:
    """True if the feed holds nothing but single numbers: less than a sample, most likely the row of a table."""
    return all(np.isscalar(value) or getattr(value, "shape", None) == () for value in feed.values())


def _part(feed: Feed, rows: slice) -> Feed:
    return {name: array[rows] if array.ndim else array for name, array in feed.items()}


def _copied(feed: Feed) -> Feed:
    return {name: array.copy() for name, array in feed.items()}


def _repeated(feed: Feed, count: int) -> Feed:
    """Return the first `count` samples, over again where there are fewer."""
    return {name: np.resize(a, (count, *a.shape[1:])) if a.ndim else a for name, a in feed.items()}


def _joined(parts: Sequence[Feed], label: str) -> Feed:
    """Return several feeds as one."""
    if len(parts) == 1:
        return parts[0]
    whole = {}
    for name, array in parts[0].items():
        arrays = [part[name] for part in parts]
        if any(a.shape[1:] != array.shape[1:] or (not a.ndim and not np.array_equal(a, array)) for a in arrays):
            raise DataError(
                f"Calibration {label}, input '{name}': the model takes several samples at once, which must be of one"
                " shape, and single numbers the same for all of them."
            )
        whole[name] = np.concatenate(arrays) if array.ndim else array
    return whole
