"""An affine map of the channels into the linear operator before it, or those after it, through what lies between.

Exporters leave a bias behind a residual sum or a Reshape, and networks normalize behind their Relu or before a pool.
Where the map commutes with all that lies between (`commuting`), it is folded like one right beside the operator.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from equiquant.canonical.absorb import AfterLinear, BeforeLinear, IntoNext, IntoPrevious, linear_readers
from equiquant.canonical.affine import ARITHMETIC_OPS, Affine, Arithmetic, Factors, arithmetic_at, batch_norm_at
from equiquant.canonical.commuting import CARRIERS, SCALED, SHIFTED, channel_axis, commutes
from equiquant.canonical.linear import Linear, Parameters, linear_producing
from equiquant.canonical.rule import refuse
from equiquant.graph.query import label, rank, sole_consumer

__all__ = ["AfterSteps", "BeforeSteps", "FoldThrough", "FoldThroughNext"]

MAPS = ARITHMETIC_OPS | {"BatchNormalization"}
Step = tuple[ir.Node, int]
"""An operator on the way, and which of its inputs comes from the side of the data."""


@dataclass(frozen=True, eq=False)
class AfterSteps(AfterLinear):
    """An affine map, the linear operator before it, and what lies between, in the order of the data."""

    steps: tuple[Step, ...]


@dataclass(frozen=True, eq=False)
class BeforeSteps(BeforeLinear):
    """An affine map, the linear operators after it, and what lies between, in the order of the data."""

    steps: tuple[Step, ...]


class FoldThrough(IntoPrevious):
    """Linear operator, operators the map commutes with, then the map."""

    name = "fold_through"
    op_types = MAPS

    def pattern(self, node: ir.Node) -> AfterSteps | None:
        """Match a map behind operators of which each is read by the next one alone, and the first is linear."""
        affine = _affine_at(node)
        found = None if affine is None else _way_back(affine.source, node, _passable(node))
        return None if affine is None or found is None or not found[1] else AfterSteps(affine, *found)

    def check(self, match: AfterLinear) -> Parameters:
        """Refuse where something between does not let the map through; return the new parameters."""
        assert isinstance(match, AfterSteps)
        affine, linear = match.affine, match.linear
        axis, channels = linear.output_axis()[0], linear.channels()[1]
        for step, index in match.steps:
            axis = _followed(step, channel_axis(step, index, axis, channels))
        factors = _factors(affine, affine.source, axis, channels)
        _let_through(match.steps, factors)
        return linear.after(*factors)


class FoldThroughNext(IntoNext):
    """The map, operators it commutes with, then linear operators."""

    name = "fold_through_next"
    op_types = MAPS

    def pattern(self, node: ir.Node) -> BeforeSteps | None:
        """Match a map before operators of which each is read by the next one alone, and the last by linear ones."""
        affine = _affine_at(node)
        passable = _passable(node)
        value, steps = node.outputs[0], list[Step]()
        while affine is not None and (reader := sole_consumer(value)) is not None and reader.op_type in passable:
            if reader.domain != "" or reader.op_type in ("Add", "Sum") or reader.inputs[0] is not value:
                return None
            steps.append((reader, 0))
            value = reader.outputs[0]
        readers = linear_readers(value) if steps else ()
        return BeforeSteps(affine, readers, tuple(steps)) if affine is not None and readers else None

    def check(self, match: BeforeLinear) -> tuple[Parameters, ...]:
        """Refuse where something between does not let the map through; return the new parameters."""
        assert isinstance(match, BeforeSteps)
        self.read_by_them_alone(match.steps[-1][0].outputs[0], match.readers)
        plans = []
        for reader in match.readers:
            axis, channels = reader.input_axis()[0], reader.channels()[0]
            for step, index in match.steps[::-1]:
                axis = _followed(step, channel_axis(step, index, axis, channels, back=True))
            factors = _factors(match.affine, match.affine.output, axis, channels)
            _let_through(match.steps, factors)
            plans.append(reader.before(*factors))
        return tuple(plans)


def _affine_at(node: ir.Node) -> Affine | None:
    return batch_norm_at(node) if node.op_type == "BatchNormalization" else arithmetic_at(node)


def _passable(node: ir.Node) -> frozenset[str]:
    """Return the op types that may let the map of a node through."""
    return SCALED if node.op_type in ("Mul", "Div") else SHIFTED if node.op_type in ("Add", "Sub") else CARRIERS


def _way_back(value: ir.Value, reader: ir.Node, passable: frozenset[str]) -> tuple[Linear, tuple[Step, ...]] | None:
    """Return the linear operator behind a value that nothing but `reader` reads, once, and what lies between."""
    if sole_consumer(value) is not reader or len(tuple(value.uses())) != 1:
        return None
    linear = linear_producing(value)
    if linear is not None:
        return linear, ()
    node = value.producer()
    if node is None or node.op_type not in passable or node.domain != "" or value is not node.outputs[0]:
        return None
    operands = range(len(node.inputs)) if node.op_type in ("Add", "Sum") else range(1)
    for index in operands:
        source = node.inputs[index]
        found = None if source is None else _way_back(source, node, passable)
        if found is not None:
            return found[0], (*found[1], (node, index))
    return None


def _followed(step: ir.Node, axis: int | None) -> int:
    if axis is None:
        refuse(f"the channels cannot be followed through '{label(step)}' ({step.op_type})")
    return axis


def _factors(affine: Affine, value: ir.Value, axis: int, channels: int) -> Factors:
    """Return scale and shift of the channels on an axis of a value that the map neither widens nor narrows."""
    dimensions = rank(value)
    if dimensions is None or (isinstance(affine, Arithmetic) and affine.expands(axis, dimensions, channels)):
        refuse("the shape of its input is unknown, or its constant widens it")
    return affine.factors(axis, dimensions, channels)


def _let_through(steps: tuple[Step, ...], factors: Factors) -> None:
    for step, _ in steps:
        if not commutes(step, *factors):
            refuse(f"'{label(step)}' ({step.op_type}) does not let it through")
