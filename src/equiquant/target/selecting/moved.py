"""Who reads a value, the ops that only move data looked through."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from equiquant.graph.query import is_float
from equiquant.target.table.ops import moves_data

__all__ = ["moved", "readers"]


def moved(value: ir.Value) -> Iterator[ir.Value]:
    """Yield a value, and what ops that only move data make of it."""
    yield value
    for use in value.uses():
        if use.idx == 0 and moves_data(use.node):
            for result in use.node.outputs:
                yield from moved(result)


def readers(value: ir.Value) -> Iterator[ir.Node]:
    """Yield the nodes that compute floats from a value, or from where it is moved to."""
    for copy in moved(value):
        for use in copy.uses():
            if not (use.idx == 0 and moves_data(use.node)) and any(map(is_float, use.node.outputs)):
                yield use.node
