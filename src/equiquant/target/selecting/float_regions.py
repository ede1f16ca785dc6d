"""What lies between operators in float: rounding there costs accuracy and gains nothing.

A normalization or an activation function that an exporter wrote out, node by node, has operators among its nodes that
no target runs on integers: the root, the exponential. Those beside them could be, and rounding them ruins the whole:
the variance of a flat row is less than one 8-bit step of the largest one, and the inverse of its root explodes; a mask
of −10000 leaves a softmax one step. Where one part is float, all of it is. So is what brings the features of a graph
input to one scale: rounded before that, the small ones are lost.

What is computed for excluded layers alone is float as they are: they were excluded for what rounding does to them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx_ir as ir

from equiquant.graph.input_scales import evens_out, is_from_input
from equiquant.graph.query import constant, is_float, is_public, is_square, operands, origin, sole_consumer
from equiquant.target.selecting.moved import moved, readers
from equiquant.target.table.ops import has_weight, moves_data, row_of
from equiquant.target.table.targets import Target

__all__ = ["BETWEEN_FLOAT", "FOR_EXCLUDED", "float_region", "for_excluded"]

BETWEEN_FLOAT = "between operators in float, where rounding only adds noise"
FOR_EXCLUDED = "its result is only read by excluded layers, in float"

LINEAR = frozenset({"Constant", "BatchNormalization"})
"""Op types without a row of their own beside which rounding is what it is elsewhere."""

APART = frozenset({"Concat", "AveragePool", "Resize"})
"""Op types without weights that are no step of a function written out: they stay what they are."""


def float_region(nodes: Sequence[ir.Node]) -> set[ir.Node]:
    """Return nodes to leave float although a target may run them.

    It starts at the operators no target runs, at squares, which need twice the bits, and at factors that bring the
    features of a graph input to one scale. A node without weights follows them

    - where nothing else reads its result;
    - where one of its operands comes from there, and each of the others does too or is read there as well: the x of
      x·f(x).

    Args:
        nodes: Those of a graph, in topological order; what computes indices left out.
    """
    floats = {node for node in nodes if _is_float_only(node)}
    region = floats | {node for node in nodes if is_square(node) or _standardizes(node)}
    if not region:
        return set()
    candidates = [_Candidate(node) for node in nodes if node not in region and _may_follow(node)]
    while found := [c.node for c in candidates if c.node not in region and c.follows(region)]:
        region.update(found)
    return region - floats


def for_excluded(nodes: Sequence[ir.Node], excluded: Collection[str], target: Target) -> set[ir.Node]:
    """Return the nodes without weights that compute for excluded layers alone.

    What moves data is looked through: it adds no rounding. An activation computed with a quantized layer stays there.

    Args:
        nodes: Those of a graph, in topological order; what computes indices left out.
        excluded: Names of the nodes that the options exclude one by one.
        target: What is quantized for.
    """
    found = {node for node in nodes if node.name in excluded and has_weight(node)}
    for node in reversed(nodes):
        if has_weight(node) or any(map(is_public, node.outputs)) or _joins_layer(node, found, target):
            continue
        readers = {use.node for value in node.outputs for use in value.uses() if any(map(is_float, use.node.outputs))}
        if readers and readers <= found:
            found.add(node)
    return {node for node in found if not has_weight(node) and not moves_data(node)}


def _joins_layer(node: ir.Node, floats: Collection[ir.Node], target: Target) -> bool:
    """True of an activation that is fused into a layer, and of what is added to a layer's result as its bias."""
    read = node.inputs[:1] if node.op_type in target.fused else node.inputs if node.op_type == "Add" else ()
    data = [value for value in read if value is not None and constant(value) is None]
    host = data[0].producer() if len(data) == 1 and sole_consumer(data[0]) is node else None
    return host is not None and has_weight(host) and host not in floats


class _Candidate:
    """A node that may follow, with what it needs to know of its neighbours, moves of data looked through."""

    def __init__(self, node: ir.Node) -> None:
        self.node = node
        self.operands = [(origin(value, moves_data), frozenset(readers(value))) for value in operands(node)]
        self.readers = frozenset(readers(node.outputs[0]))
        self.public = any(map(is_public, moved(node.outputs[0])))

    def follows(self, region: Collection[ir.Node]) -> bool:
        if self.readers and not self.public and all(reader in region for reader in self.readers):
            return True
        if not any(maker in region for maker, _ in self.operands):
            return False
        return all(maker in region or any(r in region for r in readers) for maker, readers in self.operands)


def _is_float_only(node: ir.Node) -> bool:
    """True for an operator that computes floats, and that no target runs on integers."""
    row = row_of(node)
    known = node.op_type in LINEAR if row is None else row.cpu or row.npu
    return not known and any(map(is_float, node.outputs))


def _may_follow(node: ir.Node) -> bool:
    return not (row_of(node) is None or has_weight(node) or moves_data(node) or node.op_type in APART)


def _standardizes(node: ir.Node) -> bool:
    """True for a Mul or Div by a constant for each channel that makes features of a graph input alike."""
    if node.op_type not in ("Mul", "Div") or node.domain != "" or not is_from_input(node.outputs[0]):
        return False
    factors = [array for array in map(constant, node.inputs) if array is not None]
    return all(max(array.shape, default=1) == array.size and evens_out(array) for array in factors)
