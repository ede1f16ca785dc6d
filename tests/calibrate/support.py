"""Small models and inputs for the calibration tests."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper

from equiquant.io import InputSpec, load_model

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
