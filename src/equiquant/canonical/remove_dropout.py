"""Dropout in inference mode, removed: it returns its input. Source: ONNX operator specification, Dropout-13."""

from __future__ import annotations

import onnx_ir as ir

from equiquant.canonical.remove_identity import RemoveIdentity
from equiquant.canonical.rule import refuse
from equiquant.graph.query import constant, is_public

__all__ = ["RemoveDropout"]


class RemoveDropout(RemoveIdentity):
    """Dropout."""

    name = "remove_dropout"
    op_types = frozenset({"Dropout"})

    def check(self, match: ir.Value) -> None:
        """Refuse in training mode, or where the mask is used."""
        node = match.producer()
        assert node is not None
        training = node.inputs[2] if len(node.inputs) > 2 else None
        if training is not None:
            flag = constant(training)
            if flag is None:
                refuse("its training_mode is not a constant")
            if flag.any():
                refuse("it is in training mode; export the model for inference")
        if any(o.uses() or is_public(o) for o in node.outputs[1:]):
            refuse("its mask is used")
        super().check(match)
