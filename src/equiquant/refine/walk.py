"""Run a model piece by piece over many samples, so that what lies ahead may change while it runs.

A walk goes from layer to layer. It keeps, for every sample, only the values that nodes still to come will read; of the
quantized model these are integers, and the DequantizeLinear behind them runs again in every piece that needs it. So
all the samples pass each node once, however many layers are changed on the way, and memory holds one cut through the
graph. Where that exceeds the limit, the last samples leave; they join again, by one run of everything up to there, once
the cuts have become small enough. So the first layers of a network, whose activations are its largest, see fewer
samples, each of them at more positions, and the limit costs the others nothing.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from equiquant.graph.extract import RUN_AGAIN, extract, held
from equiquant.graph.query import reads
from equiquant.io import Runner
from equiquant.numerics.parallel import THREADS

__all__ = ["Leg", "Route", "Walk"]

Array = npt.NDArray[Any]
Values = dict[str, Array]

RECENT = 8  # stops that samples must fit at to join: a block of layers and more, so that they do not leave at once


@dataclass(frozen=True, eq=False)
class Leg:
    """Some nodes that are run at once.

    Attributes:
        runner: Runs them; None if there are none.
        outputs: What they make that is still needed.
        needed: All the values that are still needed afterwards.
    """

    runner: Runner | None
    outputs: tuple[str, ...]
    needed: tuple[str, ...]

    def run(self, values: Values) -> None:
        """Bring one sample's values up to date."""
        if self.runner is not None:
            feed = {spec.name: values[spec.name] for spec in self.runner.inputs}
            values.update(zip(self.outputs, self.runner.run(feed), strict=True))
        for name in [name for name in values if name not in self.needed]:
            del values[name]


class Route:
    """One model on the walk: which of its nodes have run.

    Args:
        model: The model; constants of nodes that have not run may change.
    """

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self._pending = {
            node: [self.held(v) for v in reads(node) if self._varies(v)]
            for node in model.graph
            if node.op_type not in RUN_AGAIN
        }
        self._passed: list[ir.Node] = []
        self._needed = tuple(value.name or "" for value in model.graph.inputs)
        self._readers = Counter(name for read in self._pending.values() for name in read)
        self._producers = {value.name: node for node in model.graph for value in node.outputs}

    def held(self, value: ir.Value) -> str:
        """Return the name of the value kept in place of this one: what goes into a DequantizeLinear, else itself."""
        return held(value).name or ""

    def leg(self, wanted: ir.Value) -> Leg:
        """Take the nodes that have to run before a value is there."""
        target = self.held(wanted)
        nodes = self._ancestors(target)
        for node in nodes:
            self._readers.subtract(self._pending.pop(node))
        self._passed += nodes
        self._needed = tuple(dict.fromkeys([*(name for name, count in self._readers.items() if count), target]))
        return self._leg(nodes)

    def way(self) -> Leg:
        """Return all the nodes that have run, as one leg."""
        return self._leg(self._passed)

    def _leg(self, nodes: Sequence[ir.Node]) -> Leg:
        made = {v.name or "" for node in nodes for v in node.outputs}
        outputs = tuple(name for name in self._needed if name in made)
        return Leg(self._runner(nodes, outputs) if nodes else None, outputs, self._needed)

    def _varies(self, value: ir.Value) -> bool:
        """True unless the value is a constant, quantized or not."""
        value = held(value)
        node = value.producer()
        return not value.is_initializer() and (node is None or node.op_type != "Constant")

    def _ancestors(self, name: str) -> list[ir.Node]:
        found: set[ir.Node] = set()
        stack = [self._producers.get(name)]
        while stack:
            node = stack.pop()
            if node is None or node not in self._pending or node in found:
                continue
            found.add(node)
            stack += [self._producers.get(name) for name in self._pending[node]]
        return [node for node in self._pending if node in found]

    def _runner(self, nodes: Sequence[ir.Node], outputs: Sequence[str]) -> Runner:
        """Return a runner of some nodes, of the DequantizeLinear before them, and of nothing else."""
        made = {value.name: value for node in nodes for value in node.outputs}
        piece = extract(self.model, nodes, [made[name] for name in outputs])
        return Runner(piece, threads=1, optimize=False, disposable=True, arena=False)


class Walk:
    """Several models walked together over the same samples, which share one limit of memory.

    Args:
        models: The models.
        feeds: Samples; read more than once.
        limit: Bytes of activations to hold.
        enough: As many samples may hold up to `most` bytes.
        most: Bytes never to exceed, but by a single sample.

    Attributes:
        count: Samples on the walk, always the first of them.
    """

    def __init__(
        self, models: Sequence[ir.Model], feeds: Iterable[Mapping[str, Array]], limit: int, enough: int, most: int
    ) -> None:
        self._routes = [Route(model) for model in models]
        self._feeds, self._limit, self._enough, self._most = feeds, limit, enough, most
        self._pool = ThreadPoolExecutor(THREADS)
        self._samples: list[list[Values]] = []
        self._sizes: deque[float] = deque(maxlen=RECENT)  # bytes of a sample at the last stops
        self._complete = False  # all samples are on the walk
        for feed in feeds:
            self._samples.append([dict(feed) for _ in models])
            if self._leave():
                break
        else:
            self._complete = True

    @property
    def count(self) -> int:
        """Samples on the walk."""
        return len(self._samples)

    def read(self, wanted: Sequence[ir.Value]) -> Iterator[list[Array]]:
        """Run every model as far as a value of its own, and yield them sample by sample.

        Args:
            wanted: One value of each model; of one behind a DequantizeLinear the integers are returned.
        """
        legs = [route.leg(value) for route, value in zip(self._routes, wanted, strict=True)]
        names = [route.held(value) for route, value in zip(self._routes, wanted, strict=True)]
        done = 0
        while done < self.count:
            group = self._samples[done : done + THREADS]
            self._run(legs, group)
            done += len(group)
            self._leave()
        self._sizes.append(self._bytes() / self.count)
        self._join()
        for sample in self._samples:
            yield [values[name] for values, name in zip(sample, names, strict=True)]

    def _run(self, legs: Sequence[Leg], samples: Iterable[list[Values]]) -> None:
        def step(sample: list[Values]) -> None:
            for values, leg in zip(sample, legs, strict=True):
                leg.run(values)

        list(self._pool.map(step, samples))

    def _leave(self) -> bool:
        """Let the last samples go that do not fit; return whether there were any."""
        before = self.count
        while self.count > self._room(self._bytes() / self.count):
            self._samples.pop()
            self._complete = False
        return self.count < before

    def _join(self) -> None:
        """Take in those of the samples left that would have fitted at the last stops."""
        room = self._room(max(self._sizes))
        if self._complete or room <= self.count:
            return
        absent = itertools.islice(self._feeds, self.count, room)
        legs: list[Leg] = []
        while group := [[dict(feed) for _ in self._routes] for feed in itertools.islice(absent, THREADS)]:
            legs = legs or [route.way() for route in self._routes]
            self._run(legs, group)
            self._samples += group
            if self._leave():
                return
        self._complete = self.count < room

    def _room(self, size: float) -> int:
        """Return how many samples of so many bytes may be held."""
        size = max(size, 1.0)
        return max(1, int(self._limit / size), min(self._enough, int(self._most / size)))

    def _bytes(self) -> int:
        arrays = {id(a): a.nbytes for sample in self._samples for values in sample for a in values.values()}
        return sum(arrays.values())
