"""Run a model piece by piece over many samples, so that what lies ahead may change while it runs.

A walk goes from layer to layer. It keeps, for every sample, only the values that nodes still to come will read; of the
quantized model these are integers, and the DequantizeLinear behind them runs again in every piece that needs it. So
all the samples pass each node once, however many layers are changed on the way, and memory holds one cut through the
graph: where that exceeds the limit, the last samples are given up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from equiquant.graph.query import reads
from equiquant.io import Runner
from equiquant.numerics.parallel import THREADS

__all__ = ["Route", "Walk"]

Array = npt.NDArray[Any]
Values = dict[str, Array]


def _source(value: ir.Value) -> ir.Value:
    """Return what goes into the DequantizeLinear that makes a value; the value itself where none does."""
    node = value.producer()
    while node is not None and node.op_type == "DequantizeLinear":
        source = node.inputs[0]
        assert source is not None
        value, node = source, source.producer()
    return value


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
            if node.op_type not in ("DequantizeLinear", "Constant")
        }
        self._readers = Counter(name for read in self._pending.values() for name in read)
        self._producers = {value.name: node for node in model.graph for value in node.outputs}

    def held(self, value: ir.Value) -> str:
        """Return the name of the value kept in place of this one: what goes into a DequantizeLinear, else itself."""
        return _source(value).name or ""

    def piece(self, wanted: ir.Value) -> tuple[Runner | None, tuple[str, ...], tuple[str, ...]]:
        """Take the nodes that have to run before a value is there.

        Returns:
            What runs them, None if nothing has to; the values it leaves that are still needed; and all the values that
            are still needed afterwards.
        """
        target = self.held(wanted)
        nodes = self._ancestors(target)
        for node in nodes:
            self._readers.subtract(self._pending.pop(node))
        needed = dict.fromkeys([*(name for name, count in self._readers.items() if count), target])
        made = {v.name or "" for node in nodes for v in node.outputs}
        outputs = tuple(name for name in needed if name in made)
        return (self._runner(nodes, outputs) if nodes else None), outputs, tuple(needed)

    def _varies(self, value: ir.Value) -> bool:
        """True unless the value is a constant, quantized or not."""
        value = _source(value)
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
        return Runner(_extract(self.model, nodes, outputs), threads=1, optimize=False, disposable=True)


def _extract(model: ir.Model, nodes: Sequence[ir.Node], outputs: Sequence[str]) -> ir.Model:
    """Return a model of copies of the nodes; what they read and none of them makes becomes an input."""
    values: dict[ir.Value, ir.Value] = {}
    inputs: list[ir.Value] = []
    constants: list[ir.Value] = []
    copies: list[ir.Node] = []

    def value_of(value: ir.Value | None) -> ir.Value | None:
        if value is None or value in values:
            return None if value is None else values[value]
        node = value.producer()
        if node is not None and node.op_type in ("DequantizeLinear", "Constant"):
            copy(node)
            return values[value]
        fresh = ir.Value(name=value.name, type=value.type, const_value=value.const_value)
        if value.is_initializer():
            fresh.shape = value.shape
            constants.append(fresh)
        else:
            shape = value.shape
            if shape is not None and len(shape) > 1:  # a list keeps its length: shape inference counts on it
                shape = ir.Shape([None] * len(shape))
            fresh.shape = shape
            inputs.append(fresh)
        values[value] = fresh
        return fresh

    def copy(node: ir.Node) -> None:
        made = [ir.Value(name=v.name, type=v.type) for v in node.outputs]
        for read in reads(node):  # what a body captures is found by its name
            value_of(read)
        sources = [value_of(v) for v in node.inputs]
        copies.append(
            ir.Node(node.domain, node.op_type, sources, node.attributes.values(), outputs=made, name=node.name)
        )
        values.update(zip(node.outputs, made, strict=True))

    for node in nodes:
        copy(node)
    by_name = {v.name: fresh for v, fresh in values.items()}
    graph = ir.Graph(
        inputs,
        [by_name[name] for name in outputs],
        nodes=copies,
        initializers=constants,
        opset_imports=dict(model.graph.opset_imports),
        name="piece",
    )
    return ir.Model(graph, ir_version=model.ir_version, functions=tuple(model.functions.values()))


class Walk:
    """Several models walked together over the same samples, which share one limit of memory.

    Args:
        models: The models.
        feeds: Samples; read only as far as memory allows.
        limit: Bytes of activations to hold.

    Attributes:
        count: Samples still on the walk.
    """

    def __init__(self, models: Sequence[ir.Model], feeds: Iterable[Mapping[str, Array]], limit: int) -> None:
        self._routes = [Route(model) for model in models]
        self._limit = limit
        self._samples: list[list[Values]] = []
        for feed in feeds:
            self._samples.append([dict(feed) for _ in models])
            if self._bytes() > limit and len(self._samples) > 1:
                self._samples.pop()
                break

    @property
    def count(self) -> int:
        """Samples still on the walk."""
        return len(self._samples)

    def read(self, wanted: Sequence[ir.Value]) -> Iterator[list[Array]]:
        """Run every model as far as a value of its own, and yield them sample by sample.

        Args:
            wanted: One value of each model; of one behind a DequantizeLinear the integers are returned.
        """
        pieces = [route.piece(value) for route, value in zip(self._routes, wanted, strict=True)]
        names = [route.held(value) for route, value in zip(self._routes, wanted, strict=True)]

        def step(sample: list[Values]) -> None:
            for values, (runner, outputs, needed) in zip(sample, pieces, strict=True):
                if runner is not None:
                    feed = {spec.name: values[spec.name] for spec in runner.inputs}
                    values.update(zip(outputs, runner.run(feed), strict=True))
                for name in [name for name in values if name not in needed]:
                    del values[name]

        with ThreadPoolExecutor(THREADS) as pool:
            done = 0
            while done < len(self._samples):
                group = self._samples[done : done + THREADS]
                list(pool.map(step, group))
                done += len(group)
                while self._bytes() > self._limit and len(self._samples) > 1:
                    self._samples.pop()
        for sample in self._samples:
            yield [values[name] for values, name in zip(sample, names, strict=True)]

    def _bytes(self) -> int:
        arrays = {id(a): a.nbytes for sample in self._samples for values in sample for a in values.values()}
        return sum(arrays.values())
