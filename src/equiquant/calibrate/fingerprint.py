"""Hashes that say whether statistics belong to a model, and a checkpoint to the data: SHA-256 over what was computed.

The hash of a model covers operators, attributes, names of activations and every constant, but not metadata, shapes of
intermediate values or how the file is laid out. Nor does it tell a model from itself at a higher operator set: which of
them a run needs depends on the types it writes, and the statistics do not.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.calibrate.data.feeds import Feed
from equiquant.errors import ModelError
from equiquant.graph.query import constant, opset
from equiquant.io.upgrade import upgrade_opset

__all__ = ["FeedHash", "model_hash"]

Array = npt.NDArray[Any]


OPSET = 21  # of the form that is hashed: the highest that any recipe asks for
FLOATS = frozenset({ir.AttributeType.FLOAT, ir.AttributeType.FLOATS})


def model_hash(model: ir.Model) -> str:
    """Return the hash of a model's graph and weights, hexadecimal."""
    return _ModelHash(_at_one_opset(model)).digest.hexdigest()


def _at_one_opset(model: ir.Model) -> ir.Model:
    """Return the model in the form that is hashed, where there is a way to it."""
    if opset(model) >= OPSET:
        return model
    raised = model.clone()
    with contextlib.suppress(ModelError):
        upgrade_opset(raised, OPSET)
        return raised
    return model


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


class _ModelHash:
    """The hash of one model as it grows; constants count by their numbers, by whatever name the graph holds them."""

    def __init__(self, model: ir.Model) -> None:
        self.digest = hashlib.sha256()
        self._constants: dict[ir.Value, int] = {}
        _text(self.digest, sorted(model.graph.opset_imports.items()))
        self._graph(model.graph)
        for key, function in sorted(model.functions.items()):
            _text(self.digest, key)
            self._nodes(function)

    def _graph(self, graph: ir.Graph) -> None:
        for value in graph.inputs:
            _text(self.digest, (value.name, str(value.dtype), str(value.shape)))
            if value.const_value is not None:  # what it is unless the caller gives another
                self._array(value.const_value.numpy())
        self._nodes(graph)
        _text(self.digest, [(value.name, self._operand(value)) for value in graph.outputs])

    def _nodes(self, graph: ir.Graph | ir.Function) -> None:
        for node in graph:
            if all(constant(value) is not None for value in node.outputs):
                continue  # counts where it is read
            names = [self._operand(value) for value in node.inputs], [value.name for value in node.outputs]
            _text(self.digest, (node.domain, node.op_type, names))
            for name, attribute in sorted(node.attributes.items()):
                _text(self.digest, (name, str(attribute.type)))
                self._attribute(attribute)

    def _operand(self, value: ir.Value | None) -> str | int | None:
        """Return what stands for an operand: its name; a constant's place among the constants, its numbers hashed."""
        if value is None or (array := constant(value)) is None:
            return None if value is None else value.name
        if value not in self._constants:
            self._constants[value] = len(self._constants)
            self._array(array)
        return self._constants[value]

    def _attribute(self, attribute: ir.Attr) -> None:
        value = attribute.value
        if attribute.type == ir.AttributeType.GRAPH:
            self._graph(value)
        elif attribute.type == ir.AttributeType.GRAPHS:
            for graph in value:
                self._graph(graph)
        elif attribute.type == ir.AttributeType.TENSOR:
            self._array(value.numpy())
        elif attribute.type == ir.AttributeType.TENSORS:
            for tensor in value:
                self._array(tensor.numpy())
        else:
            if attribute.type in FLOATS:
                value = np.float32(value).tolist()  # as a file holds it; a rewrite may have been finer
            _text(self.digest, list(value) if isinstance(value, list | tuple) else value)

    def _array(self, array: Array) -> None:
        _text(self.digest, (array.dtype.name, array.shape))
        self.digest.update(_bytes(array))


def _text(digest: Any, value: object) -> None:
    text = repr(value).encode()
    digest.update(len(text).to_bytes(8, "little") + text)


def _bytes(array: Array) -> Any:
    if array.dtype.hasobject:  # strings
        return repr(array.tolist()).encode()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
