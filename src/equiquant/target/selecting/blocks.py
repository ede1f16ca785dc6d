"""Weight-only quantization: which weights are stored in few bits, along which axis, in blocks of what size.

Activations stay float. Of MatMul and Gemm the constant operand is stored, its blocks along the axis that is summed
over; of Conv, where `op_types_to_quantize` asks for it, the weight as int8 with one scale an output channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from equiquant.errors import ModelError, OptionError
from equiquant.graph.query import attribute, constant
from equiquant.recipe import LEAST_BLOCK, Recipe
from equiquant.target.selecting.select import IN_BODY, deselected
from equiquant.target.table.targets import target_of

__all__ = ["BlockPlan", "BlockWeight", "plan_blocks"]

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
DEFAULT = frozenset({"MatMul", "Gemm"})
POSSIBLE = DEFAULT | {"Conv"}


@dataclass(frozen=True)
class BlockWeight:
    """One weight to store as integers.

    Attributes:
        node: Name of the node that reads it.
        index: Which of the node's inputs it is.
        type: Storage type.
        axis: The axis that is cut into blocks, or the channel axis of a weight with one scale a channel.
        block: Numbers in a block, no more than twice those along the axis; None for one scale along `axis`.
    """

    node: str
    index: int
    type: Literal["int4", "int8"]
    axis: int
    block: int | None


@dataclass(frozen=True, eq=False)
class BlockPlan:
    """What is stored as integers.

    Attributes:
        weights: In graph order.
        kept_float: Node name to the reason its weight stays float, for the kinds of nodes that were asked for.
    """

    weights: tuple[BlockWeight, ...]
    kept_float: Mapping[str, str]


def plan_blocks(model: ir.Model, recipe: Recipe) -> BlockPlan:
    """Decide which weights to store; the model is only read.

    Raises:
        OptionError: A name or operator type of the options cannot be meant.
        ModelError: No weight can be stored.
    """
    wanted = frozenset(recipe.op_types_to_quantize) or DEFAULT
    if wanted - POSSIBLE:
        raise OptionError(
            f"Weight-only quantization stores weights of {', '.join(sorted(POSSIBLE))}; op_types_to_quantize names"
            f" {', '.join(sorted(wanted - POSSIBLE))}."
        )
    left_out = deselected(model, recipe, target_of(recipe))
    found: list[BlockWeight] = []
    kept: dict[str, str] = {}
    for node in model.graph:
        if node.op_type not in wanted or node.domain != "":
            continue
        reason = left_out.get(node.name or "") or _refusal(node)
        if reason is not None:
            kept[node.name or ""] = reason
            continue
        found.append(_weight(node, recipe))
    kept |= {
        n.name or "": IN_BODY for n in model.graph.all_nodes() if n.graph is not model.graph and n.op_type in wanted
    }
    if not found:
        example = next((f" For example '{name}': {why}." for name, why in kept.items()), "")
        raise ModelError(f"The model has no weight of {', '.join(sorted(wanted))} to store in few bits.{example}")
    return BlockPlan(tuple(found), kept)


def _refusal(node: ir.Node) -> str | None:
    value = node.inputs[1]
    weight = constant(value)
    if value is None or weight is None:
        return "its second operand is not a constant"
    if value.dtype is not None and value.dtype not in FLOATS:
        return f"its weight is {value.dtype.name.lower()}; only float32 and float16 weights are stored in few bits"
    if not weight.size:
        return "its weight is empty"
    return "its weight is a vector" if weight.ndim < 2 else None


def _weight(node: ir.Node, recipe: Recipe) -> BlockWeight:
    name, weight = node.name or "", constant(node.inputs[1])
    assert weight is not None
    if node.op_type == "Conv":
        return BlockWeight(name, 1, "int8", 0, None)
    kind: Literal["int4", "int8"] = "int4" if recipe.weight_type == "int4" else "int8"
    summed = 1 if node.op_type == "Gemm" and attribute(node, "transB", 0) else weight.ndim - 2
    enough = max(LEAST_BLOCK, 1 << (weight.shape[summed] - 1).bit_length())  # more is room that onnxruntime fills
    return BlockWeight(name, 1, kind, summed, min(recipe.block_size, enough))
