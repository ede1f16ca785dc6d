"""Measure noise gains: run the backward graph on samples and average.

For small noise e on a tensor, the noise at an output is J·e, and its energy eᵀJᵀJe. With v ~ N(0, I) the gradient
g = Jᵀv has E g·gᵀ = JᵀJ, so that (Hutchinson, Communications in Statistics 19, 1990),

    white[c]    = E Σ_positions g[c, ·]²       constant[c] = E (Σ_positions g[c, ·])²

the mean over samples, and of a weight what `weights` says. Seeds are divided by the root of the output's power summed
over all samples, so that sums over samples are noise over signal; they add up over the outputs. Of a single output the
power is summed on the way, and divided by at the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.backward.builder import BackwardGraph, build
from equiquant.backward.excess import Ends
from equiquant.backward.forward import Feed, single
from equiquant.backward.gains import Gains
from equiquant.io import Runner, model_bytes

__all__ = ["measure_gains"]

Array = npt.NDArray[Any]

FOLD_BELOW = (
    100_000_000  # bytes of weights; above, the turned kernels onnxruntime would fold and keep cost too much memory
)
FOLD_NODES = 20_000  # of the backward graph; above, onnxruntime takes longer to optimize it than samples run faster
SIGNS = np.array([-1.0, 1.0], dtype=np.float32)


def measure_gains(
    model: ir.Model,
    feeds: Iterable[Feed],
    tensors: Mapping[str, int],
    means: Mapping[str, Array] | None = None,
    ends: Mapping[str, Ends] | None = None,
    *,
    seed: int = 0,
    draws: int = 1,
) -> dict[str, Gains]:
    """Return the noise gains of tensors, to first order exact for the samples given.

    Where there are several outputs, feeds are read twice (a plain iterator is kept in memory): once forward for the
    power of each, once forward and backward. Float inputs of an op without an adjoint rule count as outputs, each with
    its own power; no gradient passes through comparisons, rounding, integer and boolean tensors.

    Args:
        model: The float model, opset 13 or later; it is not changed.
        feeds: Inputs by name; axis 0 is the batch.
        tensors: Channel axis of each tensor wanted, by value name; graph inputs may be among them.
        means: Mean of each channel of tensors, by name, (C,) float64: of the Convs that read them the gains of the
            weights are measured too, those of what differs from the mean. Zeros for the whole.
        ends: Of tensors, by name, what lies beyond which is measured, too.
        seed: Of the random directions; the same seed gives the same gains.
        draws: Directions a feed. The error falls with the root of samples times draws.

    Returns:
        Gains by name. A sample with an infinite gradient tells nothing of the tensors it is infinite at. Tensors no
        gradient reaches, empty ones, those with no other gradients than such and those whose number of channels differs
        from sample to sample are absent.
    """
    samples = list(feeds) if isinstance(feeds, Iterator) else feeds
    rng = np.random.default_rng(seed)
    scales: dict[str, np.float32] = {}
    white: dict[str, Array] = {}
    constant: dict[str, Array] = {}
    weight: dict[str, Array] = {}  # of each layer, over one seed's power
    told: Counter[tuple[str, str]] = Counter()  # samples and draws with finite gradients there
    asked = 0  # all of them
    beyond: dict[str, _Beyond] = {}
    uneven: set[str] = set()
    power = 0.0  # of a single output

    def prepare(graph: BackwardGraph) -> None:
        if len(graph.seeds) == 1:
            scales.update(dict.fromkeys(graph.seeds, np.float32(1)))
        elif not scales:  # before the session for both ways is made: one of them in memory is enough
            scales.update(_scales(model, samples, list(graph.seeds)))

    for graph, runner, feed in _sessions(model, samples, tensors, means, ends, prepare):
        for draw in range(draws):
            for value, (name, sizes) in graph.seeds.items():
                feed[name] = np.asarray(rng.choice(SIGNS, sizes) * scales[value])
            sums = runner.run({i.name: feed[i.name] for i in runner.inputs})
            first = 2 * (len(graph.tensors) + len(graph.ranged))
            last = first + len(graph.layers)
            pairs = list(zip(sums[:first:2], sums[1:first:2], strict=True))
            asked += 1
            for tensor, pair in zip(graph.ranged, pairs[len(graph.tensors) :], strict=True):
                beyond.setdefault(tensor, _Beyond()).add(*pair)
            for layer, energy in zip(graph.layers, sums[first:last], strict=True):
                if np.isfinite(energy).all():
                    weight[layer] = weight.get(layer, 0.0) + energy / np.float32(draws)
                    told["weight", layer] += 1
            for tensor, pair in zip(graph.tensors, pairs, strict=False):
                squares, total = (s.astype(np.float64) for s in pair)
                each = squares.sum(axis=0), np.square(total).sum(axis=0)
                if not np.isfinite(each).all():
                    continue
                told["tensor", tensor] += 1
                if tensor in white and white[tensor].shape != each[0].shape:
                    uneven.add(tensor)
                    continue
                white[tensor] = white.get(tensor, 0.0) + each[0] / draws
                constant[tensor] = constant.get(tensor, 0.0) + each[1] / draws
            if draw == 0:
                power += sum(_power(output.astype(np.float64)) for output in sums[last:])
    unit = np.square(_inverse_root(power)) if len(scales) == 1 else 1.0
    white, constant = (_of_all(sums, "tensor", told, asked) for sums in (white, constant))
    with np.errstate(over="ignore"):  # of outputs below 1e-19; the gains of tensors do then
        weight = {n: (x * unit).astype(np.float32) for n, x in _of_all(weight, "weight", told, asked).items()}
    weight = {name: energy for name, energy in weight.items() if np.isfinite(energy).all()}
    times = {name: beyond[name].times(white[name], draws) for name in (beyond.keys() & white.keys()) - uneven}
    found = {
        name: Gains(white[name] * unit, constant[name] * unit, weight.get(name), times.get(name))
        for name in white.keys() - uneven
    }
    return {n: g for n, g in found.items() if np.isfinite(g.white).all() and np.isfinite(g.constant).all()}


def _of_all(sums: Mapping[str, Array], kind: str, told: Mapping[tuple[str, str], int], asked: int) -> dict[str, Array]:
    """Return sums as if what told nothing had been like the others."""
    return {name: found * (asked / told[kind, name]) for name, found in sums.items()}


def _sessions(
    model: ir.Model,
    feeds: Iterable[Feed],
    tensors: Mapping[str, int],
    means: Mapping[str, Array] | None,
    ends: Mapping[str, Ends] | None,
    prepare: Callable[[BackwardGraph], None],
) -> Iterator[tuple[BackwardGraph, Runner, dict[str, Array]]]:
    """Yield each feed with the session for its shapes, one held at a time; nothing if no tensor gets a gradient."""
    held: tuple[Any, BackwardGraph, Runner] | None = None
    for raw in feeds:
        feed = single(raw)
        key = {name: array.shape for name, array in feed.items()}
        if held is None or held[0] != key:
            graph = build(model, feed, tensors, means, ends)
            if not graph.tensors:
                return
            prepare(graph)
            fold = model_bytes(model) < FOLD_BELOW and len(graph.model.graph) <= FOLD_NODES
            held = key, graph, Runner(graph.model, optimize=fold)
        yield held[1], held[2], feed


@dataclass(eq=False)
class _Beyond:
    """Sums over samples and draws of what lies beyond a tensor's ends."""

    felt: float = 0.0
    power: Array | float = 0.0
    count: int = 0  # of samples and draws that were finite
    given: int = 0

    def add(self, felt: Array, power: Array) -> None:
        """Add what it made of the outputs, and the mean of its squares, (samples, channels) both, where finite."""
        total = felt.sum(axis=1, dtype=np.float64)
        finite = np.isfinite(total) & np.isfinite(power).all(axis=1)
        total, power = total[finite], power[finite]
        self.felt += float(total @ total)
        self.power = self.power + power.sum(axis=0, dtype=np.float64)
        self.count += len(power)
        self.given += len(finite)

    def times(self, white: Array, draws: int) -> float | None:
        """Return how many times as much was felt as of independent errors as strong, whose gain is `white`."""
        expected = float(np.dot(white, self.power)) / self.count * draws if self.count else 0.0
        return self.felt * self.given / self.count / expected if expected > 0 else None


def _scales(model: ir.Model, feeds: Iterable[Feed], names: list[str]) -> dict[str, np.float32]:
    """Return 1/√power of each value over all feeds, 0 where it is always 0 or never finite."""
    runner = Runner(model, names)
    power = np.zeros(len(names))
    for feed in feeds:
        power += [_power(array.astype(np.float64)) for array in runner.run(feed)]
    return dict(zip(names, _inverse_root(power).astype(np.float32), strict=True))


def _power(output: Array) -> float:
    """Return the sum of squares of what is finite: a masked logit of −∞ is no signal."""
    return float(np.square(output[np.isfinite(output)]).sum())


def _inverse_root(power: Array | float) -> Array:
    """Return 1/√power, 0 where it is 0 or not finite."""
    usable = np.isfinite(power) & (np.asarray(power) > 0)
    return np.asarray(np.where(usable, 1 / np.sqrt(np.where(usable, power, 1.0)), 0.0))
