"""What the affine folds share: an affine map disappears into the linear operator before it, or those after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from equiquant.canonical.affine import Affine, Arithmetic
from equiquant.canonical.linear import Linear, Parameters, linear_at
from equiquant.canonical.rule import Rule, refuse
from equiquant.graph.edit import Names, bypass
from equiquant.graph.query import is_public, label

__all__ = ["AfterLinear", "BeforeLinear", "IntoNext", "IntoPrevious", "linear_readers"]


@dataclass(frozen=True, eq=False)
class AfterLinear:
    """An affine map of what a linear operator computes."""

    affine: Affine
    linear: Linear


@dataclass(frozen=True, eq=False)
class BeforeLinear:
    """An affine map whose readers are linear operators, all of them where the fold is to be exact."""

    affine: Affine
    readers: tuple[Linear, ...]


class IntoPrevious(Rule[AfterLinear, Parameters]):
    """Check and rewrite of a fold into the operator before."""

    def check(self, match: AfterLinear) -> Parameters:
        """Refuse if the unscaled value is seen by anybody else; return the new parameters."""
        affine, linear = match.affine, match.linear
        others = [n for n in linear.output.consumers() if n is not affine.node]
        if linear.output.is_graph_output():
            refuse(f"the result of '{label(linear.node)}' is a graph output")
        if others:
            refuse(f"the result of '{label(linear.node)}' is also read by '{label(others[0])}'")
        axis, rank = linear.output_axis()
        return linear.after(*affine.factors(axis, rank, linear.channels()[1]))

    def rewrite(self, match: AfterLinear, plan: Parameters, names: Names) -> str:
        """Write the parameters and remove the node."""
        node = match.affine.node
        index = node.inputs.index(match.affine.source)
        match.linear.write(plan, names)
        source = node.inputs[index]
        assert source is not None
        done = bypass(node, source)
        assert done, "check let a public source through"
        return f"folded into '{label(match.linear.node)}'"


class IntoNext(Rule[BeforeLinear, tuple[Parameters, ...]]):
    """Check and rewrite of a fold into the operators after."""

    def check(self, match: BeforeLinear) -> tuple[Parameters, ...]:
        """Refuse if anybody but a linear operator reads the value; return the new parameters."""
        affine = match.affine
        self.read_by_them_alone(affine.output, match.readers)
        plans = []
        for reader in match.readers:
            axis, rank = reader.input_axis()
            channels = reader.channels()[0]
            factors = affine.factors(axis, rank, channels)
            if isinstance(affine, Arithmetic) and affine.expands(axis, rank, channels):
                refuse("the shape of its input is unknown, or its constant widens it")
            plans.append(reader.before(*factors))
        return tuple(plans)

    @staticmethod
    def read_by_them_alone(value: ir.Value, readers: Sequence[Linear]) -> None:
        """Refuse if anybody but these operators reads the value."""
        if is_public(value):
            refuse("its result is a graph output, or read by the body of an If, Loop or Scan")
        wanted = {reader.node for reader in readers}
        others = [n for n in value.consumers() if n not in wanted]
        if others:
            refuse(f"its result is also read by '{label(others[0])}' ({others[0].op_type}), which cannot absorb it")

    def rewrite(self, match: BeforeLinear, plan: tuple[Parameters, ...], names: Names) -> str:
        """Write the parameters and remove the node."""
        for reader, parameters in zip(match.readers, plan, strict=True):
            reader.write(parameters, names)
        done = bypass(match.affine.node, match.affine.source)
        assert done, "check let a public source through"
        return "folded into " + ", ".join(f"'{label(r.node)}'" for r in match.readers)


def linear_readers(value: ir.Value) -> tuple[Linear, ...]:
    """Return the linear operators that read a value as their data, and as nothing else."""
    readers = []
    for node in value.consumers():
        if node.graph is not value.graph or [v is value for v in node.inputs].count(True) != 1:
            continue
        linear = linear_at(node)
        if linear is not None and linear.data is value:
            readers.append(linear)
    return tuple(readers)
