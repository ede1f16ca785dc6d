"""The forward half: a copy of the model in float32, with the static shapes of one feed.

Half precision would drown small gradients, and rounding noise is what is measured; so every floating-point type becomes
float32. Shapes come from ONNX shape inference; those it cannot find are taken from one run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.graph import edit
from equiquant.io import Runner

__all__ = ["forward_copy", "single"]

Feed = Mapping[str, npt.NDArray[Any]]

SCATTER_OPSET = 16  # the first in which ScatterElements adds up


def single(feed: Feed) -> dict[str, npt.NDArray[Any]]:
    """Return a feed with its floating-point arrays in float32, as the copy takes them."""
    return {name: np.asarray(array, dtype=np.float32) if _is_float(array) else array for name, array in feed.items()}


def _is_float(array: npt.NDArray[Any]) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def forward_copy(model: ir.Model, feed: Feed) -> ir.Model:
    """Return a copy of the model for feeds like this one (of `single`): float32, static shapes, nothing dead."""
    copy = model.clone()
    _raise_opset(copy)
    _widen(copy)
    edit.remove_dead(copy)
    for value in copy.graph.inputs:
        array = feed.get(value.name or "")
        if array is not None:
            value.shape = ir.Shape(array.shape)
    for node in copy.graph:
        for value in node.outputs:
            value.shape = None  # what the file says may be of another batch size
    edit.infer_shapes(copy)
    _measure_shapes(copy, feed)
    return copy


def _raise_opset(model: ir.Model) -> None:
    """Declare opset 16 for 13 to 15, between which no op changes its meaning but RoiAlign its default."""
    if not 13 <= model.graph.opset_imports.get("", 1) < SCATTER_OPSET:
        return
    model.graph.opset_imports[""] = SCATTER_OPSET
    for node in model.graph.all_nodes():
        if node.op_type == "RoiAlign" and "coordinate_transformation_mode" not in node.attributes:
            node.attributes.add(ir.AttrString("coordinate_transformation_mode", "output_half_pixel"))


WIDE = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}


def _widen(model: ir.Model) -> None:
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in graph.initializers.values():
            if value.const_value is not None and value.const_value.dtype in WIDE:
                edit.set_initializer(value, value.const_value.numpy().astype(np.float32))
        for value in graph.inputs:
            _retype(value)
    for node in model.graph.all_nodes():
        for value in node.outputs:
            _retype(value)
        for attribute in list(node.attributes.values()):
            if attribute.type == ir.AttributeType.TENSOR and attribute.value.dtype in WIDE:
                array = attribute.value.numpy().astype(np.float32)
                node.attributes.add(ir.AttrTensor(attribute.name, ir.Tensor(array)))
            elif attribute.name in ("to", "dtype") and attribute.value in WIDE:
                node.attributes.add(ir.AttrInt64(attribute.name, int(ir.DataType.FLOAT)))


def _retype(value: ir.Value) -> None:
    if isinstance(value.type, ir.TensorType) and value.dtype in WIDE:
        value.type = ir.TensorType(ir.DataType.FLOAT)


def _measure_shapes(model: ir.Model, feed: Feed) -> None:
    unknown = [v for node in model.graph for v in node.outputs if v.name and not _known(v)]
    if not unknown:
        return
    arrays = Runner(model, [v.name or "" for v in unknown], optimize=False).run(feed)
    for value, array in zip(unknown, arrays, strict=True):
        value.shape = ir.Shape(array.shape)
        value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))


def _known(value: ir.Value) -> bool:
    if value.type is not None and not isinstance(value.type, ir.TensorType):
        return True  # a sequence or an optional: no gradient, no shape
    return value.type is not None and value.shape is not None and value.shape.is_static()
