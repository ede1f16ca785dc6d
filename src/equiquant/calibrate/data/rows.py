"""Arrays with samples along axis 0, as feeds.

Arrays of the input's rank are fed one row at a time, arrays of one rank more hold whole feeds. A single number goes
with every sample. Where axis 0 of an input is not open, or not that of the samples in all of them, the layers of a
state, say, arrays that fit as they are make one feed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from equiquant.calibrate.data.sample_axis import batch_input
from equiquant.calibrate.data.source import LabelledFeed
from equiquant.errors import DataError
from equiquant.io.runtime import InputSpec

__all__ = ["row_count", "rows"]


def rows(arrays: Mapping[str, Any], specs: Sequence[InputSpec], origin: str = "") -> Iterator[LabelledFeed]:
    """Split arrays into feeds; anything with `shape`, `__len__` and slices will do.

    Args:
        arrays: Input name to array.
        specs: The model's inputs.
        origin: Where they are from, for the labels.

    Raises:
        DataError: They hold different numbers of samples.
    """
    each = {name: a for name, a in arrays.items() if a.shape}
    extra = _extra_axes(each, specs)
    if extra is None or (not extra and _one_feed(each, specs)):
        yield f"sample 0{origin}", arrays  # one feed, or wrong: the check says how
        return
    lengths = {name: a.shape[0] for name, a in each.items()}
    if len(set(lengths.values())) != 1:
        text = ", ".join(f"'{n}' has {k}" for n, k in lengths.items())
        raise DataError(f"The arrays hold different numbers of samples along axis 0: {text}.")
    count = next(iter(lengths.values()))
    for i in range(count):
        row = {name: a[i : i + 1][0] if extra else a[i : i + 1] for name, a in each.items()}
        yield f"sample {i}{origin}", {**arrays, **row}


def row_count(arrays: Mapping[str, Any], specs: Sequence[InputSpec]) -> int | None:
    """Return how many samples the arrays hold; None where their shapes do not say."""
    each = {name: a for name, a in arrays.items() if a.shape}
    extra = _extra_axes(each, specs)
    if extra is None:
        return None
    name = batch_input(specs)
    if name is None:
        return next(iter(each.values())).shape[0] if extra else 1
    return math.prod(each[name].shape[: extra + 1]) if name in each else None


def _extra_axes(arrays: Mapping[str, Any], specs: Sequence[InputSpec]) -> int | None:
    """Return how many axes the arrays have before those of the inputs, 0 or 1; None if they differ in that."""
    ranks = {s.name: len(s.shape) for s in specs}
    extra = {len(a.shape) - ranks.get(name, len(a.shape)) for name, a in arrays.items()}
    return extra.pop() if len(extra) == 1 and extra <= {0, 1} and not ranks.keys().isdisjoint(arrays) else None


def _one_feed(arrays: Mapping[str, Any], specs: Sequence[InputSpec]) -> bool:
    """True if axis 0 is not open in all inputs and the arrays fit as they are, with one batch size."""
    shapes = {s.name: s.shape for s in specs}
    if not arrays.keys() <= shapes.keys() or {shapes[name][0] for name in arrays} == {None}:
        return False
    pairs = [(a.shape, shapes[name]) for name, a in arrays.items()]
    fits = all(want in (None, got) for shape, wanted in pairs for got, want in zip(shape, wanted, strict=True))
    return fits and len({shape[0] for shape, wanted in pairs if wanted[0] is None}) <= 1
