"""SplitLargeKernelPool: a GlobalAveragePool over more than 512 values becomes an AveragePool and a smaller one.

Each side is split into the two factors closest to its root; a mean of means over equal parts is the mean: exact in real
arithmetic, with one more rounding when quantized.
Source: AMD Quark documentation, SplitLargeKernelPool, and its limit of 512.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from equiquant.canonical.rule import Rule, refuse
from equiquant.graph.edit import Names
from equiquant.graph.query import static_shape
from equiquant.hardware.factors import kernel_of
from equiquant.hardware.replace import described

__all__ = ["LARGEST_WINDOW", "SplitLargePool"]

LARGEST_WINDOW = 512  # values


class SplitLargePool(Rule[ir.Node, tuple[int, int]]):
    """GlobalAveragePool over a large picture."""

    name = "split_large_pool"
    op_types = frozenset({"GlobalAveragePool"})

    def pattern(self, node: ir.Node) -> ir.Node | None:
        """Match a pool that is larger than the limit, or may be."""
        return node if _count(kernel_of(node)) > LARGEST_WINDOW else None

    def check(self, match: ir.Node) -> tuple[int, int]:
        """Return the window of the first pool, or refuse where one split is not enough."""
        size = kernel_of(match)
        if size is None or None in size:
            refuse("how many values it averages is unknown; fix the model's input shape")
        height, width = size if len(size) == 2 else (None, None)
        if height is None or width is None:
            refuse(f"only pools over height and width are split, and this one is over {len(size)} axes")
        first = (_smaller_factor(height), _smaller_factor(width))
        rest = height // first[0] * (width // first[1])
        if first == (1, 1) or max(math.prod(first), rest) > LARGEST_WINDOW:
            refuse(f"its {height} x {width} values cannot be split into two windows of at most {LARGEST_WINDOW}")
        return first

    def rewrite(self, match: ir.Node, plan: tuple[int, int], names: Names) -> str:
        """Insert the AveragePool before the GlobalAveragePool."""
        source, graph = match.inputs[0], match.graph
        assert source is not None
        assert graph is not None
        attributes = {"kernel_shape": list(plan), "strides": list(plan)}
        pool = ir.node("AveragePool", [source], attributes, name=names.fresh(f"{match.name}_split"))
        shape = static_shape(source)
        assert shape is not None
        assert source.shape is not None
        height, width = (shape[2] or 0) // plan[0], (shape[3] or 0) // plan[1]
        between = ir.Shape([source.shape[0], source.shape[1], height, width])
        out = described(pool, source, names.fresh(f"{source.name}_split"), between)
        graph.insert_before(match, pool)
        match.replace_input_with(0, out)
        return f"an AveragePool of {plan[0]} x {plan[1]} goes before it"


def _count(size: tuple[int | None, ...] | None) -> float:
    """Return how many values there are, infinite where that is unknown."""
    return math.inf if size is None else math.prod(math.inf if n is None else n for n in size)


def _smaller_factor(number: int) -> int:
    """Return the largest divisor that is not above the root."""
    return next(d for d in range(math.isqrt(number), 0, -1) if number % d == 0)
