"""MatMul and the Add of a constant after it, as one Gemm: A·B + c, where A and B are matrices.

Source: ONNX operator specification, Gemm-13 (c is broadcast one way, to the shape of A·B).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.canonical.affine import Arithmetic, arithmetic_at
from equiquant.canonical.rule import Rule, refuse
from equiquant.graph.edit import Names, add_initializer, bypass, set_input
from equiquant.graph.query import label, rank, static_shape

__all__ = ["FuseMatMulAdd", "MatMulAdd"]

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16})


@dataclass(frozen=True, eq=False)
class MatMulAdd:
    """A MatMul and the Add of a constant that reads it."""

    matmul: ir.Node
    add: Arithmetic


class FuseMatMulAdd(Rule[MatMulAdd, npt.NDArray[Any]]):
    """MatMul, then Add of a constant."""

    name = "fuse_matmul_add"
    op_types = frozenset({"Add"})

    def pattern(self, node: ir.Node) -> MatMulAdd | None:
        """Match the Add of a constant to the product of two matrices; products of higher rank have no Gemm."""
        add = arithmetic_at(node)
        matmul = None if add is None else add.source.producer()
        if add is None or matmul is None or matmul.op_type != "MatMul" or matmul.domain != "":
            return None
        ranks = [None if v is None else rank(v) for v in matmul.inputs]
        return MatMulAdd(matmul, add) if ranks == [2, 2] else None

    def check(self, match: MatMulAdd) -> npt.NDArray[Any]:
        """Return the bias, shape (N,); refuse if it is not one number per column, or the product is read elsewhere."""
        product, operand = match.add.source, match.add.operand
        others = [n for n in product.consumers() if n is not match.add.node]
        if product.is_graph_output():
            refuse(f"the result of '{label(match.matmul)}' is a graph output")
        if others:
            refuse(f"the result of '{label(match.matmul)}' is also read by '{label(others[0])}'")
        right = match.matmul.inputs[1]
        assert right is not None
        columns = (static_shape(right) or (None, None))[1]
        if columns is None:
            refuse("the number of columns is unknown")
        if operand.ndim > 2 or operand.size not in (1, columns) or (operand.ndim and operand.shape[-1] != operand.size):
            refuse(f"its constant of shape {operand.shape} is not one number for each of the {columns} columns")
        if product.dtype not in FLOATS:
            refuse("it is not floating point")
        return np.broadcast_to(operand.reshape(-1), (columns,))

    def rewrite(self, match: MatMulAdd, plan: npt.NDArray[Any], names: Names) -> str:
        """Turn the MatMul into a Gemm, which keeps its name, and remove the Add."""
        matmul, add = match.matmul, match.add.node
        bias = next(v for v in add.inputs if v is not match.add.source)
        assert bias is not None
        if bias.shape != plan.shape:
            graph = matmul.graph
            assert graph is not None
            bias = add_initializer(graph, names.fresh(f"{matmul.name}.bias"), plan)
        matmul.op_type = "Gemm"
        set_input(matmul, 2, bias)
        done = bypass(add, match.add.source)
        assert done, "check let a public source through"
        return f"fused with '{label(matmul)}' into a Gemm"
