"""What the affine folds share: an affine map disappears into the linear operator before it, or those after it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from equiquant.canonical.affine import Affine, Arithmetic, Factors
from equiquant.canonical.commuting import Place, channel_place, commutes
from equiquant.canonical.linear import Linear, Parameters, linear_at
from equiquant.canonical.rule import Rule, refuse
from equiquant.graph.edit import Names, bypass
from equiquant.graph.input_scales import evens_out, is_from_input
from equiquant.graph.query import is_public, label

__all__ = ["STANDARDIZES", "AfterLinear", "BeforeLinear", "IntoNext", "IntoPrevious", "Step", "linear_readers"]

Step = tuple[ir.Node, int]
"""An operator between a map and a linear operator, and which of its inputs comes from the side of the data."""


STANDARDIZES = "it brings features of a graph input to one scale, and without it they would be rounded with one step"
"""Why a map of a graph input stays."""


@dataclass(frozen=True, eq=False)
class AfterLinear:
    """An affine map of what a linear operator computes, through what lies between, in the order of the data."""

    affine: Affine
    linear: Linear
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, eq=False)
class BeforeLinear:
    """An affine map whose readers are linear operators, all of them where the fold is to be exact.

    They may read it through what lies between, in the order of the data.
    """

    affine: Affine
    readers: tuple[Linear, ...]
    steps: tuple[Step, ...] = ()


class IntoPrevious(Rule[AfterLinear, Parameters]):
    """Check and rewrite of a fold into the operator before."""

    def check(self, match: AfterLinear) -> Parameters:
        """Refuse if the unscaled value is seen by anybody else, or does not pass; return the new parameters."""
        affine, linear = match.affine, match.linear
        reader = match.steps[0][0] if match.steps else affine.node
        others = [n for n in linear.output.consumers() if n is not reader]
        if linear.output.is_graph_output():
            refuse(f"the result of '{label(linear.node)}' is a graph output")
        if others:
            refuse(f"the result of '{label(linear.node)}' is also read by '{label(others[0])}'")
        place, channels = linear.output_axis(), linear.channels()[1]
        for step, index in match.steps:
            place = _followed(step, channel_place(step, index, place[0], channels))
        factors = affine.factors(*place, channels)
        _let_through(match.steps, factors)
        return linear.after(*factors)

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
        """Refuse if others read the value, it does not pass or features need it; return the new parameters."""
        affine = match.affine
        value = match.steps[-1][0].outputs[0] if match.steps else affine.output
        if is_public(value):
            refuse("its result is a graph output, or read by the body of an If, Loop or Scan")
        wanted = {reader.node for reader in match.readers}
        others = [n for n in value.consumers() if n not in wanted]
        if others:
            refuse(f"its result is also read by '{label(others[0])}' ({others[0].op_type}), which cannot absorb it")
        plans = []
        for reader in match.readers:
            place, channels = reader.input_axis(), reader.channels()[0]
            for step, index in match.steps[::-1]:
                place = _followed(step, channel_place(step, index, place[0], channels, back=True))
            factors = affine.factors(*place, channels)
            if isinstance(affine, Arithmetic) and affine.expands(*place, channels):
                refuse("the shape of its input is unknown, or its constant widens it")
            _let_through(match.steps, factors)
            if factors[0] is not None and evens_out(factors[0]) and is_from_input(affine.source):
                refuse(STANDARDIZES)
            plans.append(reader.before(*factors))
        return tuple(plans)

    def rewrite(self, match: BeforeLinear, plan: tuple[Parameters, ...], names: Names) -> str:
        """Write the parameters and remove the node."""
        for reader, parameters in zip(match.readers, plan, strict=True):
            reader.write(parameters, names)
        done = bypass(match.affine.node, match.affine.source)
        assert done, "check let a public source through"
        return "folded into " + ", ".join(f"'{label(r.node)}'" for r in match.readers)


def _followed(step: ir.Node, place: Place | None) -> Place:
    if place is None:
        refuse(f"the channels cannot be followed through '{label(step)}' ({step.op_type})")
    return place


def _let_through(steps: tuple[Step, ...], factors: Factors) -> None:
    for step, _ in steps:
        if not commutes(step, *factors):
            refuse(f"'{label(step)}' ({step.op_type}) does not let it through")


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
