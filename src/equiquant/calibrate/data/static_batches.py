"""Samples as the model takes them: checked, and where its batch is static single ones joined to batches of that size.

A last batch that is too short is filled with its own samples again, which do not count: those of other batches may be
held back from what it is used for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from equiquant.calibrate.data.feeds import CountedFeed, checked
from equiquant.calibrate.data.sample_axis import static_batch
from equiquant.calibrate.data.source import LabelledFeed
from equiquant.errors import DataError
from equiquant.io.runtime import InputSpec

__all__ = ["batched"]


def batched(feeds: Iterable[LabelledFeed], specs: Sequence[InputSpec]) -> Iterator[CountedFeed]:
    """Yield the feeds checked; of a model with a static batch what comes one sample at a time in batches.

    Other feeds must have the model's batch, since axis 0 may be another than that of the samples; only a loader's last
    may be smaller.

    Raises:
        DataError: A feed does not fit the model.
    """
    size = static_batch(specs)
    if size == 1:
        yield from (checked(feed, specs, label) for label, feed in feeds)
        return
    each = [replace(spec, shape=(None, *spec.shape[1:])) if spec.shape else spec for spec in specs]
    waiting: list[CountedFeed] = []
    begun, smaller, where = False, CountedFeed({}, 0), ""
    for label, feed in feeds:
        if smaller:
            checked(smaller, specs, where)  # refused: it is not the last
        part, where = checked(feed, each, label), label
        lengths = {len(array) for array in part.values() if array.ndim}
        if lengths == {1}:
            waiting.append(_copied(part))  # whoever gives it may fill it with the next sample
            if len(waiting) < size:
                continue
            batch, waiting = _joined(waiting, label), []
        elif begun and not waiting and len(lengths) == 1 and max(lengths) < size:
            smaller = _copied(part)
            continue
        else:
            batch = checked(feed, specs, label)
        begun = True
        yield batch
    if last := _joined(waiting, where) if waiting else smaller:
        arrays = {name: np.resize(a, (size, *a.shape[1:])) if a.ndim else a for name, a in last.items()}
        yield CountedFeed(arrays, last.samples, size - last.samples)


def _copied(feed: CountedFeed) -> CountedFeed:
    return CountedFeed({name: array.copy() for name, array in feed.items()}, feed.samples)


def _joined(parts: Sequence[CountedFeed], label: str) -> CountedFeed:
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
    return CountedFeed(whole, sum(part.samples for part in parts))
