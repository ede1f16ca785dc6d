"""The canonical graph: the same function in fewer kinds of operators. The whole recipe, in order.

Every fold is exact in real arithmetic, computed in float64 and stored in the type the parameter had; whatever cannot be
exact is left alone, and the refusal says where and why. Inputs and outputs keep their names.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from equiquant.canonical.expand_pad import ExpandPad
from equiquant.canonical.fold_batch_norm import FoldBatchNorm
from equiquant.canonical.fold_batch_norm_next import FoldBatchNormNext
from equiquant.canonical.fold_clip import FoldClip
from equiquant.canonical.fold_constants import fold_constants
from equiquant.canonical.fold_pad import FoldPad
from equiquant.canonical.fold_prelu import ACTIVATIONS, FoldPRelu
from equiquant.canonical.fold_scale import FoldScale
from equiquant.canonical.fold_scale_next import FoldScaleNext
from equiquant.canonical.fold_scale_past import FoldScalePast
from equiquant.canonical.fold_shapes import fold_shapes
from equiquant.canonical.fold_through import FoldThrough, FoldThroughNext
from equiquant.canonical.fuse_matmul_add import FuseMatMulAdd
from equiquant.canonical.initializer_inputs import initializer_inputs
from equiquant.canonical.inline_calls import inline_calls
from equiquant.canonical.lift_constants import lift_constants
from equiquant.canonical.remove_dead import remove_dead
from equiquant.canonical.remove_dropout import RemoveDropout
from equiquant.canonical.remove_identity import RemoveIdentity
from equiquant.canonical.rule import apply_rules
from equiquant.canonical.sink_squeeze import SinkSqueeze, UndoSqueeze
from equiquant.canonical.unflatten_softmax import UnflattenSoftmax
from equiquant.canonical.upgrade import upgrade
from equiquant.decisions import Decision
from equiquant.graph.edit import infer_shapes

__all__ = ["FOLDS", "WHOLES", "canonicalize", "settle_constants"]

WHOLES = (*ACTIVATIONS, "Gemm")
"""Op types that may take the place of several operators."""

FOLDS = (
    RemoveIdentity(),
    RemoveDropout(),
    SinkSqueeze(),
    UndoSqueeze(),
    FoldClip(),
    FoldBatchNorm(),
    FoldScale(),
    FoldThrough(),
    FoldThroughNext(),
    FoldBatchNormNext(),
    FoldScaleNext(),
    FoldScalePast(),
    UnflattenSoftmax(),
    ExpandPad(),
    FoldPad(),
)


def canonicalize(
    model: ir.Model, *, optimize: bool = True, kinds: Collection[str] | None = WHOLES, needed: int | None = None
) -> list[Decision]:
    """Bring `model` into canonical form, in place.

    Args:
        model: A private copy, its nodes named; its shapes are inferred on return.
        optimize: False leaves the graph as it is, apart from an operator set too old for QDQ.
        kinds: Those of `WHOLES` that may come in, for not every target has them all; None for those the graph has.
        needed: The least opset, 13 or later; None converts what is below 13 to 17.

    Returns:
        What was done and what was refused, with node and reason.

    Raises:
        ModelError: The operator set is too old and cannot be converted.
    """
    if not optimize:
        decisions = initializer_inputs(model, habits=False) + upgrade(model, needed)
    else:
        decisions = inline_calls(model) + settle_constants(model, needed)
        allowed = {node.op_type for node in model.graph} if kinds is None else kinds
        fuse = (FuseMatMulAdd(),) if "Gemm" in allowed else ()
        decisions += apply_rules(model, (FoldPRelu(allowed), *fuse, *FOLDS))
        decisions += remove_dead(model)
    infer_shapes(model)
    return decisions


def settle_constants(model: ir.Model, needed: int | None = None) -> list[Decision]:
    """Make initializers of all that is constant, in place, operators and their names left as they are.

    Args:
        model: A private copy, its nodes named; its shapes are inferred, its operator set is new enough on return.
        needed: See `canonicalize`.

    Returns:
        What was done and what was refused, with node and reason.

    Raises:
        ModelError: The operator set is too old and cannot be converted.
    """
    decisions = initializer_inputs(model)
    decisions += upgrade(model, needed)
    decisions += lift_constants(model)
    infer_shapes(model)  # the folds ask for ranks and channel counts
    while found := fold_shapes(model):
        decisions += found
        infer_shapes(model)  # a constant bound or target makes more shapes known
    return decisions + fold_constants(model)
