"""A Mul after what the NPU computes with a fixed-point factor: average pools, ReduceMean, HardSigmoid.

It is multiplied in before the result is rounded, so that the pair stands for sum · k / 2^s; see `factors`.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from equiquant.canonical.rule import Rule, refuse
from equiquant.graph.edit import Names, add_initializer
from equiquant.graph.query import sole_consumer
from equiquant.hardware.factors import factor_of, is_hardware_factor
from equiquant.hardware.replace import described

__all__ = ["AveragePoolFactor", "HardSigmoidFactor", "ReduceMeanFactor"]


class _Factor(Rule[ir.Node, float]):
    """Insert the Mul."""

    def pattern(self, node: ir.Node) -> ir.Node | None:
        """Match an operator whose factor is not 1 and is not there yet."""
        reader = sole_consumer(node.outputs[0])
        done = reader is not None and reader.inputs[0] is node.outputs[0] and is_hardware_factor(reader)
        return None if done or factor_of(node) == 1.0 else node

    def check(self, match: ir.Node) -> float:
        """Refuse where the factor is not known."""
        factor = factor_of(match)
        if isinstance(factor, str):
            refuse(factor)
        return factor

    def rewrite(self, match: ir.Node, plan: float, names: Names) -> str:
        """Give the operator a new result, and the old one, with its name and readers, to the Mul."""
        graph, out = match.graph, match.outputs[0]
        assert isinstance(graph, ir.Graph)
        dtype = np.float32 if out.dtype is None else out.dtype.numpy()
        factor = add_initializer(graph, names.fresh(f"{match.name}_factor"), np.asarray(plan, dtype=dtype))
        mul = ir.node("Mul", [out, factor], name=names.fresh(f"{match.name}_factor_mul"))
        result = described(mul, out, out.name or "")
        graph.insert_after(match, mul)
        for use in [u for u in out.uses() if u.node is not mul]:
            use.node.replace_input_with(use.idx, result)
        for index, public in enumerate(graph.outputs):
            if public is out:
                graph.outputs[index] = result
        out.name = names.fresh(f"{result.name}_unscaled")
        return f"times {plan:.6g}"


class AveragePoolFactor(_Factor):
    """ConvertAvgPoolToDPUVersion."""

    name = "dpu_average_pool"
    op_types = frozenset({"AveragePool", "GlobalAveragePool"})


class ReduceMeanFactor(_Factor):
    """ConvertReduceMeanToDPUVersion."""

    name = "dpu_reduce_mean"
    op_types = frozenset({"ReduceMean"})


class HardSigmoidFactor(_Factor):
    """ConvertHardSigmoidToDPUVersion."""

    name = "dpu_hard_sigmoid"
    op_types = frozenset({"HardSigmoid"})
