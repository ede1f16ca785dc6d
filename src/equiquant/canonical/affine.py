"""The operators that are a per-channel affine map y = s∘x + t: BatchNormalization; Mul, Div, Add, Sub of a constant.

    BatchNormalization (inference):  s = γ / √(σ² + ε),  t = β − μ·s,  channels on axis 1, ε = 1e-5 where absent
    x·c: s = c      x/c: s = 1/c      x + c: t = c      x − c: t = −c      with c broadcast as ONNX (numpy) does

Source: ONNX operator specification, BatchNormalization and multidirectional broadcasting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.canonical.rule import refuse
from equiquant.graph.query import attribute, constant, infinite_constant, is_public, static_shape

__all__ = ["ARITHMETIC_OPS", "Affine", "Arithmetic", "BatchNorm", "arithmetic_at", "batch_norm_at"]

Array = npt.NDArray[Any]
Factors = tuple[Array | None, Array | None]  # (scale, shift), float64, shape (channels,); None for 1 and 0

ARITHMETIC_OPS = frozenset({"Mul", "Div", "Add", "Sub"})


@dataclass(frozen=True, eq=False)
class Affine:
    """A node that maps `source` to its first output by an affine map.

    Attributes:
        node: The node.
        source: Its data input.
    """

    node: ir.Node
    source: ir.Value

    @property
    def output(self) -> ir.Value:
        """The result."""
        return self.node.outputs[0]

    def factors(self, axis: int, rank: int, channels: int) -> Factors:
        """Return scale and shift of the `channels` on `axis` of a tensor of `rank` dimensions, or refuse."""
        raise NotImplementedError


class BatchNorm(Affine):
    """A BatchNormalization."""

    def factors(self, axis: int, rank: int, channels: int) -> Factors:
        """Return s = γ / √(σ² + ε) and t = β − μ·s."""
        node = self.node
        if attribute(node, "training_mode", 0):
            refuse("it is in training mode; export the model for inference")
        if any(o.uses() or is_public(o) for o in node.outputs[1:]):
            refuse("its running mean or variance is used")
        if axis != 1:
            refuse(f"its channels are axis 1 and those of its neighbour axis {axis} of {rank}")
        arrays = [constant(v) for v in node.inputs[1:5]]
        if len(arrays) != 4 or any(a is None for a in arrays):
            refuse("its parameters are not all constants")
        gamma, beta, mean, variance = (np.asarray(a, dtype=np.float64).reshape(-1) for a in arrays)
        if gamma.size != channels:
            refuse(f"it has {gamma.size} channels and its neighbour {channels}")
        spread = variance + float(attribute(node, "epsilon", 1e-5))
        if not (spread > 0).all():
            refuse("a variance plus epsilon is not positive")
        scale = gamma / np.sqrt(spread)
        return scale, beta - mean * scale


@dataclass(frozen=True, eq=False)
class Arithmetic(Affine):
    """A Mul, Div, Add or Sub whose other operand is a constant.

    Attributes:
        operand: The constant.
        operand_first: The constant comes first.
    """

    operand: Array
    operand_first: bool

    def factors(self, axis: int, rank: int, channels: int) -> Factors:
        """Return the constant as a scale or a shift of each channel."""
        kind = self.node.op_type
        if self.operand_first and kind in ("Sub", "Div"):
            refuse("it subtracts from a constant" if kind == "Sub" else "it divides a constant")
        shape = self.operand.shape
        if len(shape) > rank:
            refuse(f"its constant has shape {shape}, more dimensions than the {rank} of its neighbour")
        aligned = (1,) * (rank - len(shape)) + shape
        if any(size != 1 for i, size in enumerate(aligned) if i != axis):
            refuse(f"its constant of shape {shape} differs along more than the channels")
        if aligned[axis] not in (1, channels):
            refuse(f"its constant has {aligned[axis]} channels and its neighbour {channels}")
        values = np.broadcast_to(self.operand.astype(np.float64).reshape(-1), (channels,))
        if kind == "Mul":
            return values, None
        if kind == "Div":
            if not values.all():
                refuse("it divides by zero")
            return 1.0 / values, None
        return None, values if kind == "Add" else -values

    def expands(self, axis: int, rank: int, channels: int) -> bool:
        """True unless the source is known to have this rank and, for a constant per channel, these channels."""
        shape = static_shape(self.source)
        return shape is None or len(shape) != rank or (self.operand.size > 1 and shape[axis] != channels)


def batch_norm_at(node: ir.Node) -> BatchNorm | None:
    """Return the BatchNormalization at `node`, None if it is another operator."""
    if node.op_type != "BatchNormalization" or not node.inputs or node.inputs[0] is None:
        return None
    return BatchNorm(node, node.inputs[0])


def arithmetic_at(node: ir.Node) -> Arithmetic | None:
    """Return the Mul, Div, Add or Sub of a tensor and a finite constant at `node`, None if it is something else."""
    if node.op_type not in ARITHMETIC_OPS or len(node.inputs) != 2:
        return None
    first, second = (constant(v) for v in node.inputs)
    if (first is None) == (second is None) or infinite_constant(node) is not None:
        return None
    source, operand = (node.inputs[1], first) if second is None else (node.inputs[0], second)
    assert source is not None
    assert operand is not None
    return Arithmetic(node, source, operand, operand_first=second is None)
