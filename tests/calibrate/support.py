"""Small models and inputs for the calibration tests."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper

from equiquant.io import InputSpec, Runner, load_model
from tests.backward.support import noise, parse

IMAGE = InputSpec("x", "float32", (None, 3, 4, 5))


def relu_model(batch: int | str = "N", dtype: int = TensorProto.FLOAT) -> ir.Model:
    """x -> Mul 2 -> `double` -> Relu -> `y`; shape (batch, 3, 4, 5)."""
    return load_model(proto(batch, dtype)).model


def proto(batch: int | str = "N", dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """Return the same as a proto."""
    shape = [batch, 3, 4, 5]
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "two"], ["double"]), helper.make_node("Relu", ["double"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, shape)],
        [onnx.numpy_helper.from_array(np.asarray(2, kind), "two")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def samples(count: int, seed: int = 0) -> np.ndarray:
    """Return `(count, 3, 4, 5)` float32."""
    return np.random.default_rng(seed).standard_normal((count, 3, 4, 5)).astype(np.float32)


TWO_LAYERS = """g (float[N,3,16,16] x) => (float[N,8,8,8] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1)  n = BatchNormalization (a, gamma, beta, mean1, var1)  r = Relu (n)
    b = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (r, w2)
    m = BatchNormalization (b, gamma, beta, mean2, var2)  y = Relu (m) }"""


def trained(dead: int = 0) -> ir.Model:
    """Return a network whose statistics are those of dark, smooth inputs behind the first Relu.

    The first `dead` channels of either layer are as good as zero.
    """
    weights = {"w1": noise(8, 3, 3, 3, seed=1), "w2": noise(8, 8, 3, 3, seed=2), "gamma": np.ones(8, np.float32)}
    for name in ("w1", "w2"):
        weights[name][:dead] *= np.float32(1e-20)
    weights |= {"beta": noise(8, seed=3)}
    weights |= {f"{kind}{k}": np.full(8, kind == "var", np.float32) for kind in ("mean", "var") for k in (1, 2)}
    seen = 0.5 * noise(64, 3, 16, 16, seed=4).cumsum(axis=3).cumsum(axis=2) / 8 - 1
    for name, k in (("a", 1), ("b", 2)):  # the second sees what the first has normalized
        (array,) = Runner(parse(TWO_LAYERS, 17, **weights), [name]).run({"x": seen.astype(np.float32)})
        weights[f"mean{k}"], weights[f"var{k}"] = array.mean((0, 2, 3)), array.var((0, 2, 3))
    return parse(TWO_LAYERS, 17, **weights)


def plain(count: int = 16) -> Iterator[dict[str, np.ndarray]]:
    return ({"x": noise(1, 3, 16, 16, seed=k)} for k in range(count))
