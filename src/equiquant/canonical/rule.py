"""A fold: pattern, check, rewrite; and the loop that applies folds until none applies any more.

`pattern` is cheap and only looks at the shape of the graph around a node; `check` decides and does the arithmetic, or
refuses with a reason; `rewrite` only writes. A refusal becomes a `Decision` with the node and the reason.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Any, ClassVar, Generic, NoReturn, TypeVar

import onnx_ir as ir

from equiquant.decisions import Decision
from equiquant.graph.edit import Names
from equiquant.graph.query import label

__all__ = ["STAGE", "Refused", "Rule", "apply_rules", "refuse"]

STAGE = "canonical"

Match = TypeVar("Match")
Plan = TypeVar("Plan")


class Refused(Exception):  # noqa: N818 - it is an answer, not an error
    """Raised by `check`: the pattern is there, but the fold would not be exact or would reach outside the graph."""


def refuse(reason: str) -> NoReturn:
    """Refuse the fold at hand."""
    raise Refused(reason)


class Rule(ABC, Generic[Match, Plan]):
    """One fold.

    Attributes:
        name: The rule's name in the report, as its file is called.
        op_types: The operators (of the default domain) the rule is tried on.
    """

    name: ClassVar[str]
    op_types: ClassVar[frozenset[str]]

    @abstractmethod
    def pattern(self, node: ir.Node) -> Match | None:
        """Return what surrounds `node` if the fold is about it, else None."""

    @abstractmethod
    def check(self, match: Match) -> Plan:
        """Return what to write, or `refuse` with a reason. Changes nothing."""

    @abstractmethod
    def rewrite(self, match: Match, plan: Plan, names: Names) -> str:
        """Change the graph and return what was done."""


def apply_rules(
    model: ir.Model, rules: Sequence[Rule[Any, Any]], *, stage: str = STAGE, skip: Collection[str] = ()
) -> list[Decision]:
    """Apply `rules` to the main graph, in order at each node, in sweeps until nothing changes.

    Args:
        model: The model, changed in place.
        rules: The rules.
        stage: What the decisions are filed under.
        skip: Names of nodes that are left alone.

    Returns:
        What was applied, in order, then the refusals that stand at the end.
    """
    names = Names(model.graph)
    applied: list[Decision] = []
    refused: dict[tuple[str, ir.Node], str] = {}
    changed = True
    while changed:
        changed = False
        for node in tuple(model.graph):
            if node.graph is None or node.domain not in ("", "ai.onnx") or node.name in skip:
                continue
            for rule in rules:
                if node.op_type not in rule.op_types or (match := rule.pattern(node)) is None:
                    continue
                where = label(node)
                try:
                    plan = rule.check(match)
                except Refused as refusal:
                    refused[rule.name, node] = str(refusal)
                    continue
                applied.append(Decision(stage, rule.name, where, True, rule.rewrite(match, plan, names)))
                refused.pop((rule.name, node), None)
                changed = True
                break
    standing = ((rule, node, reason) for (rule, node), reason in refused.items() if node.graph is not None)
    return applied + [Decision(stage, rule, label(node), False, reason) for rule, node, reason in standing]
