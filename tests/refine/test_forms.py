"""Each layer as a product of matrices computes what onnxruntime computes."""

from __future__ import annotations

import dataclasses
from typing import Any
from unittest.mock import Mock

import numpy as np
import onnx_ir as ir
import pytest

from equiquant.io import Runner
from equiquant.numerics.layers.patches import Patches
from equiquant.refine.forms import Form, form_of
from tests.qdq.support import noise

CASES: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("Conv", (2, 3, 8, 7), (4, 3, 3, 2), {"strides": [2, 1], "pads": [1, 0, 2, 1]}),
    ("Conv", (2, 4, 9, 9), (6, 2, 3, 3), {"group": 2, "dilations": [2, 1], "pads": [2, 1, 0, 1]}),
    ("Conv", (1, 5, 6, 6), (5, 1, 3, 3), {"group": 5, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", (1, 5, 7, 6), (10, 1, 2, 3), {"group": 5, "auto_pad": "SAME_LOWER"}),
    ("Conv", (1, 2, 6, 6), (3, 2, 3, 3), {"auto_pad": "VALID"}),
    ("Conv", (2, 3, 11), (4, 3, 3), {"pads": [1, 1]}),
    ("Conv", (1, 2, 5, 4, 6), (3, 2, 2, 3, 2), {"strides": [1, 2, 2], "pads": [1, 0, 1, 0, 1, 0]}),
    ("ConvTranspose", (2, 3, 5, 4), (3, 4, 3, 2), {"strides": [2, 3], "pads": [1, 0, 1, 1]}),
    ("ConvTranspose", (1, 4, 5, 5), (4, 3, 3, 3), {"group": 2, "strides": [2, 2], "output_padding": [1, 0]}),
    ("ConvTranspose", (1, 2, 6, 6), (2, 3, 2, 2), {"dilations": [2, 1], "pads": [3, 0, 0, 2]}),
    ("ConvTranspose", (1, 2, 9), (2, 3, 4), {"strides": [2]}),
    ("Gemm", (5, 6), (6, 4), {"alpha": 0.5}),
    ("Gemm", (5, 6), (4, 6), {"transB": 1}),
    ("MatMul", (5, 6), (6, 4), {}),
    ("MatMul", (2, 5, 6), (6, 4), {}),
    ("MatMul", (2, 3, 5, 6), (6, 4), {}),
]


def layer(op: str, x: np.ndarray, w: np.ndarray, attributes: dict[str, Any]) -> tuple[ir.Node, np.ndarray]:
    """Return the node and its result."""
    kind = ir.TensorType(ir.DataType.FLOAT)
    inputs = [ir.Value(name=n, shape=ir.Shape(a.shape), type=kind) for n, a in (("x", x), ("w", w))]
    node = ir.node(op, inputs, attributes, name="layer")
    node.outputs[0].name = "y"
    graph = ir.Graph(inputs, node.outputs, nodes=[node], opset_imports={"": 17}, name="g")
    (result,) = Runner(ir.Model(graph, ir_version=8), optimize=False).run({"x": x, "w": w})
    node.outputs[0].shape = ir.Shape(result.shape)
    return node, result


def computed(form: Form, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return (N, outputs, positions) by matrices."""
    rows = form.rows(w) * form.gain
    result = np.einsum("gmk,ngkp->ngmp", rows, form.columns(x))
    return np.asarray(result).reshape(len(x), form.outputs, -1)


def expected(op: str, y: np.ndarray) -> np.ndarray:
    if op in ("Gemm", "MatMul"):
        return y.reshape(len(y), -1, y.shape[-1]).swapaxes(1, 2)
    return y.reshape(*y.shape[:2], -1)


@pytest.mark.parametrize(("op", "shape", "weight", "attributes"), CASES)
def test_matrices_compute_the_layer(
    op: str, shape: tuple[int, ...], weight: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    x, w = noise(*shape, seed=1), noise(*weight, seed=2)
    node, y = layer(op, x, w, attributes)
    form = form_of(node, w)
    assert isinstance(form, Form)
    np.testing.assert_allclose(computed(form, x, w), expected(op, y), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(form.mean_column(x), form.columns(x).mean(axis=3), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(form.stored(form.rows(w)), w)
    assert form.rows(w).shape[2] == form.inputs
    if form.patches is not None:  # the comparison sees a window that is one element off
        begins = (form.patches.begins[0] + 1, *form.patches.begins[1:])
        ends = (form.patches.ends[0] - 1, *form.patches.ends[1:])
        wrong = dataclasses.replace(form, patches=dataclasses.replace(form.patches, begins=begins, ends=ends))
        assert not np.allclose(computed(wrong, x, w), expected(op, y), rtol=1e-2)


@pytest.mark.parametrize(("op", "shape", "weight", "attributes"), [case for case in CASES if len(case[1]) != 2])
def test_the_column_of_even_channels_is_that_of_an_even_input(
    op: str, shape: tuple[int, ...], weight: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    x, w = noise(*shape, seed=1), noise(*weight, seed=2)
    node, _ = layer(op, x, w, attributes)
    form = form_of(node, w)
    assert isinstance(form, Form)
    if op != "MatMul":
        means = noise(form.channels, seed=3)
        even = np.broadcast_to(means.reshape(1, -1, *(1,) * (x.ndim - 2)), x.shape)
        expected = form.mean_column(even[:1])[0]
        np.testing.assert_allclose(form.even_column(means, x.shape[2:]), expected, rtol=1e-5, atol=1e-6)
        assert form.even_column(means, [1] * (x.ndim - 2)).shape == expected.shape


def test_the_mean_column_of_a_large_kernel_takes_the_passes_of_its_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    patches = Patches((31, 31), (1, 1), (1, 1), (15, 15), (15, 15), (1, 1))
    stack = Mock(wraps=np.stack)
    monkeypatch.setattr(np, "stack", stack)
    assert patches.mean_column(noise(1, 2, 32, 32)).shape == (1, 2, 31 * 31)
    assert sum(len(call.args[0]) for call in stack.call_args_list) == 31 + 31


@pytest.mark.parametrize("shift", [0, 1, 7, 20])
def test_some_positions_are_some_of_all(shift: int) -> None:
    x, w = noise(1, 2, 13, 11), noise(3, 2, 3, 3)
    node, _ = layer("Conv", x, w, {"pads": [1, 1, 1, 1]})
    form = form_of(node, w)
    assert isinstance(form, Form)
    every = {column.tobytes() for column in form.columns(x)[0, 0].T}
    some = form.columns(x, 20, shift)[0, 0].T
    assert 5 <= len(some) <= 20
    assert all(np.ascontiguousarray(column).tobytes() in every for column in some)


@pytest.mark.parametrize(
    ("op", "weight", "attributes", "reason"),
    [
        ("MatMul", (2, 6, 4), {}, "stack"),
        ("Gemm", (5, 4), {"transA": 1}, "transposes"),
        ("ConvTranspose", (2, 3, 2, 2), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, "size of its output"),
    ],
)
def test_what_has_no_form_says_why(op: str, weight: tuple[int, ...], attributes: dict[str, Any], reason: str) -> None:
    x = {"MatMul": noise(2, 5, 6), "Gemm": noise(5, 3), "ConvTranspose": noise(1, 2, 4, 4)}[op]
    w = noise(*weight)
    node, _ = layer(op, x, w, attributes)
    found = form_of(node, w)
    assert isinstance(found, str)
    assert reason in found
