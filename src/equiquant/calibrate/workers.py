"""Run several groups of samples at once, each on one thread: inference and statistics of one beside those of others.

A network runs faster as two samples on one thread each than as one sample on two: no thread waits for another after
every operator, and while one worker counts the other is in onnxruntime. One at a time counts: the many short steps of
numpy would spend their time handing the interpreter's lock to and fro (a third of all, docs/calibration.md). Sums are
exact, so that neither the number of workers nor the order of the samples shows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from types import TracebackType
from typing import Self

from equiquant.calibrate.accumulate import Accumulator
from equiquant.calibrate.batches import joined
from equiquant.calibrate.data.feeds import Feed, batch_size, filling, told_feeds
from equiquant.calibrate.stats import TensorRecord
from equiquant.io.runtime import Runner

__all__ = ["Workers"]


class Workers:
    """Runs the model on groups of feeds and adds up the figures of its tensors.

    Args:
        runner: Computes the tensors that are not inputs; None if all are.
        names: The tensors.
        make: Makes the accumulator of a tensor.
        count: How many groups to run at once.
        done: Called with the number of samples when a group is done, in the order they were submitted.
        number: Returns the number in the data of the feed with an index, for errors.
    """

    def __init__(
        self,
        runner: Runner | None,
        names: Sequence[str],
        make: Callable[[str], Accumulator],
        count: int,
        done: Callable[[int], None],
        number: Callable[[int], int],
    ) -> None:
        self._runner, self._done, self._count, self._number = runner, done, count, number
        self._pool = ThreadPoolExecutor(count)
        self._figures = {name: make(name) for name in names}
        self._counting = Lock()
        self._waiting: deque[Future[int]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def submit(self, group: Sequence[Feed], first: int) -> None:
        """Start on consecutive feeds, run as one batch; waits while all workers are busy.

        Args:
            group: The feeds.
            first: The index of the first of them.

        Raises:
            EquiQuantError: What a group before this one met.
        """
        if len(self._waiting) > self._count:  # one more waits, so that no worker does
            self._next()
        self._waiting.append(self._pool.submit(self._work, group, first))

    def records(self) -> dict[str, TensorRecord]:
        """Wait for everything submitted so far and return the records.

        Raises:
            EquiQuantError: What a group met.
        """
        while self._waiting:
            self._next()
        return {name: accumulator.result() for name, accumulator in self._figures.items()}

    def _next(self) -> None:
        self._done(self._waiting.popleft().result())

    def _work(self, group: Sequence[Feed], first: int) -> int:
        with told_feeds(self._number(first), self._number(first + len(group) - 1)):
            return self._count_in(joined(group))

    def _count_in(self, feed: Feed) -> int:
        samples = batch_size(feed)
        computed = {} if self._runner is None else dict(zip(self._runner.outputs, self._runner.run(feed), strict=True))
        with self._counting:
            for name, accumulator in self._figures.items():
                value = computed.pop(name) if name in computed else feed[name]  # freed as soon as it is done
                accumulator.add(value, samples + filling(feed))
        return samples
