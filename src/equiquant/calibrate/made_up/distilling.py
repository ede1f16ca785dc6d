"""Move made-up inputs until every BatchNormalization sees the means and deviations it was trained on.

The inputs minimise the mean over all BatchNormalizations and their channels of

    ((m − μ)/σ)² + ((s − σ)/σ)²

where m and s are the mean and the deviation of a channel over all inputs, μ and σ those stored, by gradient descent
with adaptive steps (Adam). A backward graph run by onnxruntime gives the gradients, one feed at a time: forward for the
statistics of all, forward and backward for the gradients at each.

Source: Cai et al., ZeroQ, arXiv:2001.00281; Kingma and Ba, Adam, arXiv:1412.6980.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.backward.forward import single
from equiquant.backward.statistics import StatisticsGraph, build_statistics
from equiquant.calibrate.data.feeds import Feed, batch_size
from equiquant.calibrate.made_up.matching import alive
from equiquant.errors import ModelError
from equiquant.graph.cost import multiplications
from equiquant.graph.query import LINEAR_OPS
from equiquant.io.runtime import Runner
from equiquant.numerics.parallel import parallel

__all__ = ["Distilled", "distilled"]

Array = npt.NDArray[Any]

STEP = 0.1  # the first, of the deviation of an input
DECAYS = 0.5, 0.9  # of the averages of gradients and of their squares
LEAST_SHARE = 0.5  # BatchNormalizations over layers with weights: where fewer are left they tell too little
FEWEST_STEPS, MOST_STEPS = 12, 200  # large inputs soon fit the statistics in ways that real ones do not
STEPS_COST = 6e10  # multiplications that more steps than the fewest may take
FEWEST_INPUTS = 4
INPUTS_COST = 2e12  # multiplications that more inputs than the fewest may take
PASSES = 4  # forward, forward and backward
INPUT_BYTES = 64_000_000  # of all inputs together; the descent holds three times as much
ALONE_ABOVE = 1e9  # multiplications: feeds of larger networks run one after the other
UNITS = 1e6  # the loss is in millionths: squares of gradients shall not underflow


@dataclass(frozen=True, eq=False)
class Distilled:
    """Inputs that were moved.

    Attributes:
        feeds: The inputs.
        before: Root mean square distance of means and deviations from those stored, in deviations.
        after: The same of `feeds`.
    """

    feeds: list[dict[str, Array]]
    before: float
    after: float


def distilled(
    model: ir.Model, feeds: Iterable[Feed], progress: Callable[[int, int], None] | None = None
) -> Distilled | None:
    """Return the feeds moved, fewer of large networks and of large inputs.

    Args:
        model: The model, BatchNormalizations not folded, opset 13 or later; it is not changed.
        feeds: Made-up inputs, all of one shape.
        progress: Called with the number of steps done, and of all.

    Returns:
        The feeds; None where too few BatchNormalizations have statistics, or where moving brought them no closer.
    """
    source = iter(feeds)
    given = [next(source)]
    try:
        graph = build_statistics(model, single(given[0]))
        if graph is None or len(graph.layers) < LEAST_SHARE * sum(n.op_type in LINEAR_OPS for n in model.graph):
            return None
        cost = PASSES * sum(map(multiplications, graph.model.graph)) * batch_size(given[0])
        size = sum(array.nbytes for array in given[0].values())
        most = min(INPUT_BYTES // max(size, 1), int(INPUTS_COST / (FEWEST_STEPS * cost + 1)))
        given += itertools.islice(source, max(most, FEWEST_INPUTS) - 1)
        wide = [single(feed) for feed in given]
        steps = max(FEWEST_STEPS, min(MOST_STEPS, int(STEPS_COST / (len(wide) * cost + 1))))
        descent = _Descent(graph, wide, alone=cost > PASSES * ALONE_ABOVE)
        before = after = descent.look()
        for step in range(steps):
            descent.move(STEP * (0.5 + 0.5 * math.cos(math.pi * step / steps)))
            after = descent.look()
            if progress is not None:
                progress(step + 1, steps)
    except ModelError:  # onnxruntime has no kernel for what the backward graph needs
        return None
    if not after < before:
        return None
    types = {name: array.dtype for name, array in given[0].items()}
    moved = [{name: array.astype(types[name]) for name, array in feed.items()} for feed in wide]
    return Distilled(moved, math.sqrt(before), math.sqrt(after))


class _Descent:
    """Feeds on their way down.

    Args:
        graph: The backward graph.
        feeds: The inputs; `move` replaces those a gradient reaches.
        alone: Run them one after the other.
    """

    def __init__(self, graph: StatisticsGraph, feeds: list[dict[str, Array]], *, alone: bool) -> None:
        self._graph, self._feeds, self._alone = graph, feeds, alone
        names = [value.name or "" for value in graph.model.graph.outputs]
        self._forward = Runner(graph.model, names[len(graph.inputs) :], threads=0 if alone else 1)
        self._both = Runner(graph.model, names[: len(graph.inputs)], threads=0 if alone else 1)
        self._spread = {name: _spread(np.asarray([feed[name] for feed in feeds])) for name in graph.inputs}
        self._averages = [{n: (np.zeros_like(feed[n]), np.zeros_like(feed[n])) for n in graph.inputs} for feed in feeds]
        sizes = {name: layer.mean.size for layer in graph.layers for name in (layer.constant, layer.slope)}
        self._derivatives = {name: np.zeros(size, np.float32) for name, size in sizes.items()}
        self._steps = 0

    def look(self) -> float:
        """Return the loss where the inputs are now, and prepare its derivatives."""
        sums = self._run(self._forward)
        totals = [np.sum([one[index] for one in sums], axis=0, dtype=np.float64) for index in range(len(sums[0]))]
        loss = 0.0
        for index, layer in enumerate(self._graph.layers):
            count = layer.positions * len(self._feeds)
            mean = totals[2 * index] / count
            live = alive(layer.variance)
            least = 1e-12 * layer.variance
            deviation = np.sqrt(np.maximum(totals[2 * index + 1] / count - np.square(mean), least))
            off, wide = mean - layer.mean, deviation - np.sqrt(layer.variance)
            share = live / (layer.variance * max(live.sum(), 1) * len(self._graph.layers))
            loss += float(share @ (np.square(off) + np.square(wide)))
            slope = 2 * UNITS * share / count * wide / deviation
            self._derivatives[layer.slope] = slope.astype(np.float32)
            self._derivatives[layer.constant] = (2 * UNITS * share / count * off - slope * mean).astype(np.float32)
        return loss

    def move(self, step: float) -> None:
        """Move all inputs, by up to `step` of their deviation."""
        self._steps += 1
        first, second = (1 - decay**self._steps for decay in DECAYS)  # averages begin at 0
        for feed, averages, gradients in zip(self._feeds, self._averages, self._run(self._both), strict=True):
            for name, gradient in zip(self._graph.inputs, gradients, strict=True):
                mean, square = averages[name]
                mean += (1 - DECAYS[0]) * (gradient - mean)
                square += (1 - DECAYS[1]) * (np.square(gradient) - square)
                way = (mean / first) / (np.sqrt(square / second) + np.float32(1e-20))
                feed[name] = feed[name] - np.float32(step * self._spread[name]) * way

    def _run(self, runner: Runner) -> list[list[Array]]:
        def one(feed: Mapping[str, Array]) -> list[Array]:
            return runner.run({**feed, **self._derivatives})

        return [one(feed) for feed in self._feeds] if self._alone else parallel(one, self._feeds)


def _spread(values: Array) -> float:
    """Return the deviation of an input; 0 of zeros and ones, a mask's, which stay what they are."""
    return 0.0 if np.isin(values, (0, 1)).all() else float(np.std(values))
