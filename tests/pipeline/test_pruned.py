"""Layers that pruning left without a channel."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from equiquant import equalize, inspect, quantize
from equiquant.errors import ModelError
from tests.pipeline.test_unusual_values import PRESETS, SAMPLES, network, output, quality


@pytest.mark.parametrize("preset", PRESETS)
def test_a_branch_whose_channels_were_all_pruned(preset: str) -> None:
    nodes = [
        helper.make_node("Conv", ["b", "none"], ["p"], name="pruned"),
        helper.make_node("Relu", ["p"], ["r"], name="r2"),
        helper.make_node("Concat", ["r", "s"], ["k"], axis=1),
        helper.make_node("Conv", ["k", "w3"], ["y"], name="c3"),
    ]
    w3 = np.random.default_rng(2).standard_normal((2, 6, 1, 1))
    model = network(nodes, [output(TensorProto.FLOAT, [1, 2, 8, 8])], w3=w3, none=np.zeros((0, 8, 1, 1)))
    assert inspect(model, data=SAMPLES).outlook is not None
    equalize(model, data=SAMPLES)
    assert quality(model, preset)["y"] > 15


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("kind", "shape"), [("Conv", (0, 6, 1, 1)), ("ConvTranspose", (6, 0, 1, 1))])
def test_a_branch_of_layers_without_channels_between_them(preset: str, kind: str, shape: tuple[int, ...]) -> None:
    nodes = [
        helper.make_node(kind, ["s", "none"], ["p"], name="pruned"),
        helper.make_node("Relu", ["p"], ["r"], name="r2"),
        helper.make_node("Conv", ["r", "empty", "bias"], ["q"], name="c3"),
        helper.make_node("Add", ["s", "q"], ["y"]),
    ]
    given = {"none": np.zeros(shape), "empty": np.zeros((6, 0, 1, 1)), "bias": np.ones(6)}
    model = network(nodes, [output(TensorProto.FLOAT, [1, 6, 8, 8])], **given)
    equalize(model, data=SAMPLES)
    assert quality(model, preset)["y"] > 15


@pytest.mark.parametrize("preset", PRESETS)
def test_a_branch_of_zeros_that_shows_few_values(preset: str) -> None:
    """As a block begins that training has left alone: no range of it matters to an output."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["s"], ["p"]),
        helper.make_node("Conv", ["p", "zeros"], ["q"], name="c3"),
        helper.make_node("Add", ["s", "q"], ["y"]),
    ]
    model = network(nodes, [output(TensorProto.FLOAT, [1, 6, 8, 8])], zeros=np.zeros((6, 6, 1, 1)))
    data = np.random.default_rng(3).standard_normal((8, 3, 8, 8), np.float32)
    assert quality(model, preset, data)["y"] > 15


def test_layers_without_channels_between_them_are_told() -> None:
    nodes = [helper.make_node("MatMul", ["x", "v"], ["h"], name="first"), helper.make_node("MatMul", ["h", "w"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        [output(TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(np.zeros(shape, np.float32), n) for n, shape in (("v", (3, 0)), ("w", (0, 4)))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    data = np.random.default_rng(0).standard_normal((4, 3), np.float32)
    equalize(model, data=data)
    with pytest.raises(ModelError, match="'first': 'v' has no elements"):
        quantize(model, data=data)
