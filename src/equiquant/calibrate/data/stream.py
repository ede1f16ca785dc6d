"""The calibration data as something that can be read again and again, without ever being in memory whole.

Arrays and array files are simply read again. Everything else (generators, readers, images) is written, feed after feed
as it is first read, to one unnamed temporary file, from which later passes replay; the operating system frees it when
the stream is closed, collected, or the process dies.
"""

from __future__ import annotations

import io
import itertools
import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import IO, Any, Self

import numpy as np
import onnx_ir as ir

from equiquant.calibrate.data.feeds import CountedFeed, Feed
from equiquant.calibrate.data.sample_axis import static_batch
from equiquant.calibrate.data.source import Source, numbered
from equiquant.calibrate.data.sources import open_source
from equiquant.calibrate.data.static_batches import batched
from equiquant.calibrate.made_up.inputs import made_up
from equiquant.errors import DataError, ModelError
from equiquant.io.runtime import InputSpec
from equiquant.numerics.statistics.histogram import DyadicHistogram
from equiquant.recipe import Recipe

__all__ = ["SampleStream", "SampleView", "open_samples"]


class SampleStream:
    """A re-iterable stream of checked feeds; every pass gives the same feeds in the same order.

    A feed is what the source yields, one sample or a batch, or what the model's static batch takes.

    Args:
        source: Where the feeds come from.
        specs: The model's inputs.
        limit: Stop after the feed that completes this many samples; None reads everything.

    Attributes:
        synthetic: The feeds are made up.
        distilled: How they came to fit the model, where they do.
        units: Why they are made up in other units than usual; empty where they are not.
        images: They are prepared as the image options say.
        skipped: Files of the folder that hold no samples.
    """

    def __init__(self, source: Source, specs: Sequence[InputSpec], limit: int | None = None) -> None:
        self.synthetic, self.distilled = source.synthetic, source.distilled
        self.units, self.images, self.skipped = source.units, source.images, source.skipped
        self._source, self._specs, self._limit = source, tuple(specs), limit
        self._samples: int | None = None
        self._spool = None if source.replayable else _Spool(self._read())

    @property
    def samples(self) -> int:
        """Number of samples; reads what has not been read yet.

        Raises:
            DataError: As iterating does.
        """
        while self._samples is None:
            for _ in self:
                pass
        return self._samples

    @property
    def guessed(self) -> bool:
        """True if the feeds are made up and nothing tells how far they are from real ones."""
        return self.synthetic and self.distilled is None

    @property
    def known(self) -> int | None:
        """Number of samples if it is known without reading them, None otherwise."""
        if self._samples is not None or self._source.count is None:
            return self._samples
        size = static_batch(self._specs)
        count = self._source.count if self._limit is None else min(self._source.count, self._limit)
        return min(self._source.count, -(-count // size) * size)

    def __iter__(self) -> Iterator[Feed]:
        """Yield the feeds, input name to array.

        Raises:
            DataError: A feed does not fit the model, or there is none; says which and why.
        """
        return self._read() if self._spool is None else self._spool.replay(self._specs)

    def first(self, count: int) -> list[Feed]:
        """Return the first `count` feeds, or all if there are fewer, without reading the rest."""
        return list(itertools.islice(self, count))

    def number(self, index: int) -> int:
        """Return the number of a feed in the data, from 0."""
        return index

    def count_up_to(self, most: int) -> int:
        """Return the number of feeds, or `most` if there are more, without reading beyond."""
        return sum(1 for _ in itertools.islice(self, most))

    def close(self) -> None:
        """Free the temporary file; the stream cannot be read any more."""
        if self._spool is not None:
            self._spool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _read(self) -> Iterator[CountedFeed]:
        """Yield the checked feeds of one pass over the source, counting samples."""
        count = 0
        for result in batched(self._source.start(), self._specs):
            count += result.samples
            yield result
            if self._limit is not None and count >= self._limit:
                break
        if not count:
            raise DataError("The calibration data are empty: the first feed never came. A reader that was used up?")
        self._samples = count


class SampleView:
    """Some feeds of a stream, re-iterable like it.

    Args:
        stream: The stream.
        start: First feed.
        stop: The feed after the last; None for all there are.
    """

    def __init__(self, stream: SampleStream, start: int, stop: int | None) -> None:
        self.synthetic, self.images, self.skipped = stream.synthetic, stream.images, stream.skipped
        self._stream, self._start, self._stop = stream, start, stop
        self._picks: frozenset[int] | None = None

    @classmethod
    def picked(cls, stream: SampleStream, picks: Iterable[int]) -> SampleView:
        """Return the feeds of these numbers, in the order of the stream; there must be at least one."""
        numbers = frozenset(picks)
        view = cls(stream, min(numbers), max(numbers) + 1)
        view._picks = numbers
        return view

    @property
    def known(self) -> int | None:
        """Number of feeds, at most; None if it is not known without reading them."""
        if self._picks is not None:
            return len(self._picks)
        if self._stop is not None:
            return self._stop - self._start
        whole = self._stream.known
        return None if whole is None else max(0, whole - self._start)

    def __iter__(self) -> Iterator[Feed]:
        span = itertools.islice(self._stream, self._start, self._stop)
        if self._picks is None:
            return span
        return (feed for number, feed in enumerate(span, self._start) if number in self._picks)

    def number(self, index: int) -> int:
        """Return the number in the data of the feed with this index here, both from 0."""
        return self._start + index if self._picks is None else sorted(self._picks)[index]

    def __len__(self) -> int:
        known = None if self._stop is None else self.known
        return sum(1 for _ in self) if known is None else known


class _Spool:
    """A growing file of feeds: what has been read is replayed; what has not is pulled from the source and kept."""

    def __init__(self, live: Iterator[CountedFeed]) -> None:
        self._live = live
        self._kept: list[tuple[int, int, int]] = []  # where each feed begins, its samples, and rows that fill up
        self._file: IO[bytes] | None = None
        self._finished = False
        self._error: Exception | None = None
        self._lock = threading.Lock()

    def replay(self, specs: Sequence[InputSpec]) -> Iterator[Feed]:
        for index in itertools.count():
            with self._lock:
                if index == len(self._kept) and not self._pull():
                    return
                feed = self._load(index, specs)
            yield feed

    def _pull(self) -> bool:
        """Write the next feed of the live iterator to the file; False at its end.

        Nobody gets the arrays themselves: the caller may fill them with the next sample.
        """
        if self._error is not None:  # the iterator is dead, but a second pass must not mistake that for the end
            raise self._error
        if self._finished:
            return False
        try:
            feed = next(self._live, None)
            if feed is not None:
                self._append(feed)
        except Exception as error:
            self._error = error
            raise
        self._finished = feed is None
        return not self._finished

    def _append(self, feed: CountedFeed) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="equiquant-", buffering=0)  # noqa: SIM115 - lives with the spool
                weakref.finalize(self, self._file.close)
            offset = self._file.seek(0, os.SEEK_END)
            for array in feed.values():
                kept = io.BytesIO()  # numpy does not tell of a write to a file that was cut short
                np.save(kept, array.astype(str) if array.dtype.kind == "O" else array, allow_pickle=False)
                rest = kept.getbuffer()
                while rest:
                    rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise DataError(
                f"Cannot keep the calibration data in {tempfile.gettempdir()}: {error.strerror or error}."
                " Make room, or set TMPDIR to a folder with room."
            ) from error
        self._kept.append((offset, feed.samples, feed.filling))

    def _load(self, index: int, specs: Sequence[InputSpec]) -> Feed:
        if self._file is None or self._file.closed:
            raise ValueError("the sample stream is closed")
        offset, *counts = self._kept[index]
        self._file.seek(offset)
        return CountedFeed({s.name: np.load(self._file, allow_pickle=False) for s in specs}, *counts)

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._error = ValueError("the sample stream is closed")


def open_samples(
    data: Any,
    inputs: Sequence[InputSpec],
    recipe: Recipe,
    model: ir.Model | None = None,
    *,
    known: Mapping[str, DyadicHistogram] = MappingProxyType({}),
    distill: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> SampleStream:
    """Return the calibration data as a stream of feeds for a model with these inputs.

    Args:
        data: None, an array, a mapping of input names to arrays, an iterable of arrays or feed dicts, a reader with
            `get_next()`, a .npy or .npz file, or a folder of .npy, .npz or image files; or a stream of real samples.
        inputs: The model's inputs.
        recipe: Gives `calibration_samples`, `image` and `seed`.
        model: The model as it came; made-up inputs then have sizes it runs with, and those of a single input fit its
            first BatchNormalizations.
        known: How real float inputs are distributed, by name, as far as that is known: made-up ones follow it.
        distill: Move made-up inputs until they fit all of them.
        progress: Called with the number of steps of that done, and of all.

    Raises:
        DataError: The data are of no known kind or cannot be opened. What is wrong with a single sample shows when the
            stream reaches it.
        ModelError: The model has no inputs.
    """
    if not inputs:
        raise ModelError("The model has no inputs: what it computes is a constant, and there is nothing to quantize.")
    if data is None:
        source = made_up(inputs, recipe, model, known=known, distill=distill, progress=progress)
    elif isinstance(data, SampleStream | SampleView):
        source = Source(lambda: numbered(data), replayable=True, images=data.images, skipped=data.skipped)
    else:
        source = open_source(data, inputs, recipe)
    return SampleStream(source, inputs, recipe.calibration_samples)
