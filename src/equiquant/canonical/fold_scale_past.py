"""A factor before an addition, into the linear operators after it: s·x + t = s·(x + t/s).

Where those pad with zeros the addition has to stay, and a learnable affine block (a factor and an offset behind an
activation) would be rounded once for the factor and once for the offset. s is one number for all channels: with one for
each, an offset of a channel that is nearly switched off would grow beyond all others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.canonical.absorb import linear_readers
from equiquant.canonical.affine import Arithmetic, arithmetic_at
from equiquant.canonical.linear import Linear, Parameters
from equiquant.canonical.rule import Rule, refuse
from equiquant.graph.edit import Names, own_constant
from equiquant.graph.query import is_public, label, rank, sole_consumer

__all__ = ["FoldScalePast"]


@dataclass(frozen=True, eq=False)
class _Match:
    """A factor, the addition that alone reads it, and the linear operators that read that."""

    scale: Arithmetic
    shift: Arithmetic
    readers: tuple[Linear, ...]


@dataclass(frozen=True, eq=False)
class _Plan:
    """The offset in units of what the factor multiplies, and the parameters of the readers."""

    offset: npt.NDArray[Any]
    parameters: tuple[Parameters, ...]


class FoldScalePast(Rule[_Match, _Plan]):
    """Factor, addition, linear operators."""

    name = "fold_scale_past"
    op_types = frozenset({"Mul", "Div"})

    def pattern(self, node: ir.Node) -> _Match | None:
        """Match a factor whose only reader adds a constant, or subtracts, and is read by a linear operator."""
        scale, reader = arithmetic_at(node), sole_consumer(node.outputs[0])
        shift = arithmetic_at(reader) if reader is not None and reader.op_type in ("Add", "Sub") else None
        if scale is None or shift is None or shift.source is not scale.output:
            return None
        readers = linear_readers(shift.output)
        return _Match(scale, shift, readers) if readers else None

    def check(self, match: _Match) -> _Plan:
        """Refuse if anybody but the linear operators sees the sum, or the factor differs; return what to write."""
        if is_public(match.shift.output):
            refuse(f"the result of '{label(match.shift.node)}' is a graph output, or read by a body")
        wanted = {reader.node for reader in match.readers}
        others = [node for node in match.shift.output.consumers() if node not in wanted]
        if others:
            refuse(f"'{label(others[0])}' ({others[0].op_type}) reads the sum, too, and cannot absorb its factor")
        factor = _factor(match.scale)
        with np.errstate(over="ignore"):
            offset = (match.shift.operand.astype(np.float64) / factor).astype(match.shift.operand.dtype)
        if not np.isfinite(offset.astype(np.float64)).all():
            refuse(f"the offset over a factor of {factor:g} is beyond its type")
        return _Plan(offset, tuple(r.before(np.full(r.channels()[0], factor), None) for r in match.readers))

    def rewrite(self, match: _Match, plan: _Plan, names: Names) -> str:
        """Write the offset and the parameters, and remove the factor."""
        shift = match.shift.node
        own_constant(shift, 0 if match.shift.operand_first else 1, plan.offset, f"{shift.name}.offset", names)
        for reader, parameters in zip(match.readers, plan.parameters, strict=True):
            reader.write(parameters, names)
        node = match.scale.node
        assert node.graph is not None
        match.scale.output.replace_all_uses_with(match.scale.source)  # which is what it was, and keeps its name
        node.graph.remove(node, safe=True)
        return f"past '{label(shift)}' into " + ", ".join(f"'{label(r.node)}'" for r in match.readers)


def _factor(scale: Arithmetic) -> float:
    """Return the factor of a Mul or Div of all channels alike, or refuse."""
    if scale.operand.size != 1:
        refuse("its factor differs from channel to channel")
    dimensions = rank(scale.source)
    if scale.operand.ndim > 1 and (dimensions is None or dimensions < scale.operand.ndim):
        refuse("the shape of its input is unknown, or its constant widens it")
    if scale.node.op_type == "Div" and scale.operand_first:
        refuse("it divides a constant")
    number = float(scale.operand.reshape(()))
    if not number:
        refuse("its factor is 0")
    return 1 / number if scale.node.op_type == "Div" else number
