"""Graphs whose nodes are not in order: sorted where that can be, refused where a node reads its own output."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from equiquant import equalize
from equiquant.errors import ModelError
from equiquant.io import load_model
from tests.canonical.support import proto, weights


def _turned(nodes: str) -> onnx.ModelProto:
    model = proto(nodes, "float[N,3,6,6] x", "float[] y", weights(w=(4, 3, 1, 1)))
    turned = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(turned)
    return model


def test_nodes_are_brought_into_order() -> None:
    model = _turned("a = Conv(x, w) b = Relu(a) y = Abs(b)")
    for source in (model, ir.from_proto(model)):
        assert [node.op_type for node in load_model(source).model.graph] == ["Conv", "Relu", "Abs"]
    assert [node.op_type for node in model.graph.node] == ["Abs", "Relu", "Conv"]
    data = np.random.default_rng(0).standard_normal((4, 3, 6, 6)).astype(np.float32)
    assert [node.op_type for node in equalize(model, data=data).model.graph.node] == ["Conv", "Relu", "Abs"]


def test_a_cycle_is_refused() -> None:
    model = _turned("a = Conv(x, w) b = Add(a, a) y = Relu(b)")
    next(node for node in model.graph.node if node.op_type == "Add").input[1] = "y"
    with pytest.raises(ModelError, match="cycle"):
        load_model(model)
