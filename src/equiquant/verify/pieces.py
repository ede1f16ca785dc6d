"""Run a model in pieces, each as far as some values that are wanted at once.

So one pass shows every value of a network, and only those of one piece are alive, beside what later pieces read. Of a
quantized model that is kept as integers, see `graph.extract`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from equiquant.graph.edit import infer_shapes
from equiquant.graph.extract import RUN_AGAIN, extract
from equiquant.graph.query import reads, values_by_name
from equiquant.io import Runner, model_bytes
from equiquant.io.runtime import LEAN_ABOVE

__all__ = ["Pieces", "ends_of"]

Array = npt.NDArray[Any]
Names = Sequence[str]

FED = frozenset(
    ir.DataType[name]
    for name in (
        *("FLOAT", "DOUBLE", "FLOAT16", "INT8", "INT16", "INT32", "INT64"),
        *("UINT8", "UINT16", "UINT32", "UINT64", "BOOL", "STRING"),
    )
)
"""Element types that onnxruntime's Python interface returns and takes."""


class _Plan:
    """Which nodes each piece runs, and what it leaves to later ones."""

    def __init__(self, model: ir.Model, groups: Sequence[Names]) -> None:
        self.model = model.clone()
        infer_shapes(self.model)  # for the types of what is fed
        graph = self.model.graph
        values = values_by_name(self.model)
        self.wanted = [[values[name] for name in group] for group in groups]
        self.nodes: list[list[ir.Node]] = []
        order = {node: place for place, node in enumerate(graph)}
        done: set[ir.Node] = set()
        read: list[set[ir.Value]] = []
        for group in self.wanted:
            found: set[ir.Node] = set()
            needed = {source for value in group for source in _sources(value)}
            pending = list(needed)
            while pending:
                node = pending.pop().producer()
                if node is None or node in found or node in done:
                    continue
                found.add(node)
                before = {source for value in reads(node) for source in _sources(value)}
                needed |= before
                pending += before
            self.nodes.append(sorted((node for node in found if node.op_type not in RUN_AGAIN), key=order.__getitem__))
            read.append(needed)
            done |= found
        self.left: list[list[ir.Value]] = []
        later: set[ir.Value] = set()
        alive: list[set[ir.Value]] = []
        for nodes, needed in zip(reversed(self.nodes), reversed(read), strict=True):
            self.left.insert(0, [v for node in nodes for v in node.outputs if v in later])
            alive.insert(0, later)
            later = (later | needed) - {v for node in nodes for v in node.outputs}
        self.alive = [{v for v in values if v.producer() is not None} for values in alive]

    def whole(self, index: int) -> bool:
        """True if what a piece and those before it leave can be fed to another session."""
        return all(isinstance(v.type, ir.TensorType) and v.type.dtype in FED for v in self.alive[index])


class Pieces:
    """One model in pieces.

    Args:
        model: The model; it runs as it is written.
        groups: For each piece the names of the values it returns.
    """

    def __init__(self, model: ir.Model, groups: Sequence[Names]) -> None:
        self._groups = groups
        self._runners: list[Runner | None] = []
        self._kept: list[set[str]] = []
        inputs = {v.name or "" for v in model.graph.inputs if not v.is_initializer()}
        if len(groups) == 1:  # as a whole
            outputs = list(dict.fromkeys(name for name in groups[0] if name not in inputs))
            self._runners, self._kept = [Runner(model, outputs, optimize=False) if outputs else None], [inputs]
            return
        plan = _Plan(model, groups)
        entries = {"session.intra_op.allow_spinning": "0"}  # the threads of one session would hold up the next
        if model_bytes(model) > LEAN_ABOVE:
            entries["session.disable_prepacking"] = "1"
        for wanted, nodes, left, alive in zip(plan.wanted, plan.nodes, plan.left, plan.alive, strict=True):
            before = self._kept[-1] if self._kept else inputs
            made = list(dict.fromkeys(v for v in (*wanted, *left) if v.name not in before))
            piece = extract(plan.model, nodes, made)
            runner = Runner(piece, optimize=False, disposable=True, arena=False, entries=entries) if made else None
            self._runners.append(runner)
            self._kept.append(inputs | {v.name or "" for v in alive})

    def run(self, index: int, values: dict[str, Array]) -> list[Array]:
        """Run one piece and return what is wanted of it.

        Args:
            index: Which; all those before it have run.
            values: A feed at first; what one piece leaves to the next.
        """
        runner = self._runners[index]
        if runner is not None:
            feed: Mapping[str, Array] = {spec.name: values[spec.name] for spec in runner.inputs}
            values.update(zip(runner.outputs, runner.run(feed), strict=True))
        found = [values[name] for name in self._groups[index]]
        for name in values.keys() - self._kept[index]:
            del values[name]
        return found


def ends_of(model: ir.Model, groups: Sequence[Names]) -> list[bool]:
    """Return, for each group, whether a piece may end behind it: not where a value passes that cannot be fed.

    Such a value is a sequence, or of a type that onnxruntime's Python interface does not take.
    """
    plan = _Plan(model, groups)
    return [plan.whole(index) for index in range(len(groups))]


def _sources(value: ir.Value) -> set[ir.Value]:
    """Return what must be kept or run for a value: itself, or what the nodes read that make it again."""
    node = value.producer()
    if node is None or node.op_type not in RUN_AGAIN:
        return set() if value.is_initializer() else {value}
    return {source for read in reads(node) for source in _sources(read)}
