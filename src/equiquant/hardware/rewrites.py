"""The rewrites in order, each with the recipe field that asks for it; `NEEDED` are not asked for.

First those that keep the function (the same numbers in operators the NPU has), then those that change values to what
the NPU computes (`simulate_dpu`), in the order in which one makes work for the next: a ReduceMean becomes a pool, which
is split, whose parts get factors; a Sigmoid becomes a HardSigmoid, which gets one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import onnx_ir as ir

from equiquant.canonical.rule import Rule, apply_rules
from equiquant.decisions import Decision
from equiquant.graph.edit import infer_shapes, remove_dead
from equiquant.hardware.batch_norm_to_conv import BatchNormToConv
from equiquant.hardware.clip import ClipBounds
from equiquant.hardware.factor_mul import AveragePoolFactor, HardSigmoidFactor, ReduceMeanFactor
from equiquant.hardware.gemm_factors import GemmFactors
from equiquant.hardware.leaky_relu import LeakyReluSlope
from equiquant.hardware.reduce_mean_to_pool import ReduceMeanToPool
from equiquant.hardware.sigmoid import SigmoidToHardSigmoid
from equiquant.hardware.split_large_pool import SplitLargePool
from equiquant.hardware.split_to_slice import SplitToSlice
from equiquant.recipe import Recipe

__all__ = ["EXACT", "FIELDS", "NEEDED", "STAGE", "VALUES", "rewrite", "wanted"]

STAGE = "hardware"

NEEDED: tuple[Rule[Any, Any], ...] = (GemmFactors(),)
"""Without these the limits of the hardware would be those of another network."""

EXACT: tuple[Rule[Any, Any], ...] = (BatchNormToConv(), ReduceMeanToPool(), SplitLargePool(), SplitToSlice())
VALUES: tuple[Rule[Any, Any], ...] = (
    LeakyReluSlope(),
    SigmoidToHardSigmoid(),
    HardSigmoidFactor(),
    AveragePoolFactor(),
    ReduceMeanFactor(),
    ClipBounds(),
)
FIELDS = (
    "npu",
    "simulate_dpu",
    *(rule.name for rule in (*EXACT, *VALUES)),
    *("nodes_to_quantize", "nodes_to_exclude", "subgraphs_to_exclude", "op_types_to_quantize"),
)
"""Fields of the recipe that decide how the graph is rewritten: the first whether at all."""

MAKES = {
    "bn_to_conv": "Conv",
    "reduce_mean_to_pool": "GlobalAveragePool",
    "split_large_pool": "AveragePool",
    "split_to_slice": "Slice",
    "dpu_sigmoid": "HardSigmoid",
}
"""The operator type a rewrite introduces."""


def wanted(recipe: Recipe) -> tuple[list[Rule[Any, Any]], list[Rule[Any, Any]]]:
    """Return the rewrites a recipe asks for: those that keep the function, and those that change values."""
    if not recipe.npu:
        return [], []
    exact = [*NEEDED, *(rule for rule in EXACT if getattr(recipe, rule.name) and _may_make(rule, recipe))]
    values = [rule for rule in VALUES if recipe.simulate_dpu and getattr(recipe, rule.name) and _may_make(rule, recipe)]
    return exact, values


def _may_make(rule: Rule[Any, Any], recipe: Recipe) -> bool:
    """False where the user chose the operator types to quantize, and the one a rule makes is not among them."""
    made = MAKES.get(rule.name)
    return made is None or not recipe.op_types_to_quantize or made in recipe.op_types_to_quantize


def rewrite(model: ir.Model, rules: Sequence[Rule[Any, Any]], float_nodes: Collection[str]) -> list[Decision]:
    """Apply rewrites to a canonical model, in place, and infer shapes again.

    Args:
        model: The model; every node named.
        rules: Some of `EXACT` or of `VALUES`.
        float_nodes: Names of the nodes that will stay float: they are left as they are.
    """
    done = apply_rules(model, rules, stage=STAGE, skip=frozenset(float_nodes))
    if any(d.applied for d in done):
        remove_dead(model)
        infer_shapes(model)
    return done
