"""Hashes that say whether statistics belong to a model, and a checkpoint to the data: SHA-256 over what was computed.

The hash of a model covers operators, attributes, names and every weight, but not metadata, shapes of intermediate
values or how the file is laid out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.calibrate.feeds import Feed

__all__ = ["FeedHash", "model_hash"]

Array = npt.NDArray[Any]


def model_hash(model: ir.Model) -> str:
    """Return the hash of a model's graph and weights, hexadecimal."""
    digest = hashlib.sha256()
    _text(digest, sorted(model.graph.opset_imports.items()))
    _graph(digest, model.graph)
    for key, function in sorted(model.functions.items()):
        _text(digest, key)
        _nodes(digest, function)
    return digest.hexdigest()


class FeedHash:
    """A running hash of the feeds of a stream."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    @classmethod
    def of(cls, feeds: Iterable[Feed]) -> Self:
        """Return the hash of some feeds, which may go on."""
        result = cls()
        for feed in feeds:
            result.add(feed)
        return result

    def add(self, feed: Feed) -> None:
        """Take in the next feed."""
        for name, array in feed.items():
            _text(self._digest, (name, array.dtype.name, array.shape))
            self._digest.update(_bytes(array))

    def value(self) -> str:
        """Return the hash of all feeds so far, hexadecimal."""
        return self._digest.copy().hexdigest()


def _graph(digest: Any, graph: ir.Graph) -> None:
    _text(digest, [(v.name, str(v.dtype), str(v.shape)) for v in graph.inputs])
    _text(digest, [v.name for v in graph.outputs])
    for name, value in sorted(graph.initializers.items()):
        _text(digest, name)
        if value.const_value is not None:
            _tensor(digest, value.const_value)
    _nodes(digest, graph)


def _nodes(digest: Any, graph: ir.Graph | ir.Function) -> None:
    for node in graph:
        names = [None if v is None else v.name for v in node.inputs], [v.name for v in node.outputs]
        _text(digest, (node.domain, node.op_type, names))
        for name, attribute in sorted(node.attributes.items()):
            _text(digest, (name, str(attribute.type)))
            _attribute(digest, attribute)


def _attribute(digest: Any, attribute: ir.Attr) -> None:
    value = attribute.value
    if attribute.type == ir.AttributeType.GRAPH:
        _graph(digest, value)
    elif attribute.type == ir.AttributeType.GRAPHS:
        for graph in value:
            _graph(digest, graph)
    elif attribute.type == ir.AttributeType.TENSOR:
        _tensor(digest, value)
    elif attribute.type == ir.AttributeType.TENSORS:
        for tensor in value:
            _tensor(digest, tensor)
    else:
        _text(digest, list(value) if isinstance(value, list | tuple) else value)


def _tensor(digest: Any, tensor: ir.TensorProtocol) -> None:
    _text(digest, (str(tensor.dtype), tuple(tensor.shape)))
    digest.update(_bytes(tensor.numpy()))


def _text(digest: Any, value: object) -> None:
    text = repr(value).encode()
    digest.update(len(text).to_bytes(8, "little") + text)


def _bytes(array: Array) -> Any:
    if array.dtype.hasobject:  # strings
        return repr(array.tolist()).encode()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
