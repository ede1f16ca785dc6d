"""Identity, removed: its readers read its input. A graph output keeps its name."""

from __future__ import annotations

import onnx_ir as ir

from equiquant.canonical.rule import Rule, refuse
from equiquant.graph.edit import Names, bypass
from equiquant.graph.query import is_public

__all__ = ["RemoveIdentity", "check_bypass"]


def check_bypass(node: ir.Node, source: ir.Value) -> None:
    """Refuse to remove a node that stands between a graph output and a value that cannot take its name."""
    if not node.outputs[0].is_graph_output():
        return
    producer = source.producer()
    if producer is None or producer.graph is not node.graph:
        refuse("it is all there is between a graph output and a graph input or a constant")
    if is_public(source):
        refuse("its input and its result are both visible from outside and need a name each")


class RemoveIdentity(Rule[ir.Value, None]):
    """Identity."""

    name = "remove_identity"
    op_types = frozenset({"Identity"})

    def pattern(self, node: ir.Node) -> ir.Value | None:
        """Match every Identity of a tensor."""
        return node.outputs[0] if node.inputs and node.inputs[0] is not None else None

    def check(self, match: ir.Value) -> None:
        """Refuse where a public name would be lost."""
        node = match.producer()
        assert node is not None
        assert node.inputs[0] is not None
        check_bypass(node, node.inputs[0])

    def rewrite(self, match: ir.Value, plan: None, names: Names) -> str:
        """Let the readers read the input."""
        node = match.producer()
        assert node is not None
        assert node.inputs[0] is not None
        done = bypass(node, node.inputs[0])
        assert done, "check let a public source through"
        return "removed"
