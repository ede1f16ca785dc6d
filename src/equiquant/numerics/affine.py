"""Affine quantization: q = clamp(rint(x / scale) + zero_point, qmin, qmax), x̂ = (q − zero_point) · scale.

Rounding is half to even, as in ONNX QuantizeLinear. Scales are float32, real units per step.
Source: ONNX operator specification, QuantizeLinear and DequantizeLinear; Nagel et al., arXiv:2106.08295, section 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "INT_TYPES",
    "IntType",
    "QuantParams",
    "dequantize",
    "fake_quantize",
    "params_from_range",
    "power_of_two_params",
    "quantize",
]

Array = npt.NDArray[Any]

SMALLEST_SCALE = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class IntType:
    """An integer type a tensor is stored in.

    Attributes:
        name: The numpy name, e.g. `uint8`.
        qmin: Smallest value.
        qmax: Largest value.
    """

    name: str
    qmin: int
    qmax: int

    @property
    def signed(self) -> bool:
        """True for int8 and its kin."""
        return self.qmin < 0

    @property
    def bits(self) -> int:
        """Width in bits."""
        return int(self.qmax - self.qmin).bit_length()

    @property
    def center(self) -> int:
        """The zero point of a symmetric tensor: 0 for signed types, 128 for uint8."""
        return 0 if self.signed else (self.qmax + 1) // 2


INT_TYPES: dict[str, IntType] = {
    t.name: t
    for t in (
        IntType("int4", -8, 7),
        IntType("int8", -128, 127),
        IntType("uint8", 0, 255),
        IntType("int16", -32768, 32767),
        IntType("uint16", 0, 65535),
        IntType("int32", -(2**31), 2**31 - 1),
    )
}


@dataclass(frozen=True, eq=False)
class QuantParams:
    """How one tensor is quantized.

    Attributes:
        scale: Real units per step, float32, shape `()` or `(C,)`.
        zero_point: The integer that stands for 0.0, same shape as `scale`, dtype of `type`.
        type: Storage type.
        axis: The channel axis of a per-channel tensor, None per tensor.
    """

    scale: Array
    zero_point: Array
    type: IntType
    axis: int | None = None

    @staticmethod
    def make(scale: Any, zero_point: Any, type_name: str, axis: int | None = None) -> QuantParams:
        """Build from plain numbers; `zero_point` is broadcast to the shape of `scale`."""
        kind = INT_TYPES[type_name]
        scale = np.asarray(scale, dtype=np.float32)
        return QuantParams(scale, np.full(scale.shape, zero_point, dtype=kind.name), kind, axis)

    def __eq__(self, other: object) -> bool:
        """Equal when both describe the same mapping."""
        return (
            isinstance(other, QuantParams)
            and self.type == other.type
            and self.axis == other.axis
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
        )

    def aligned(self, rank: int) -> tuple[Array, Array]:
        """Return scale and zero point shaped to broadcast against a tensor of `rank` dimensions."""
        if self.axis is None:
            return self.scale, self.zero_point
        shape = [1] * rank
        shape[self.axis] = -1
        return self.scale.reshape(shape), self.zero_point.reshape(shape)


def quantize(x: Array, params: QuantParams) -> Array:
    """Return the integers of `x`, shape of `x`, dtype of `params.type`."""
    scale, zero = params.aligned(x.ndim)
    q = np.asarray(np.divide(x, scale, dtype=np.float64))
    np.rint(q, out=q)
    np.add(q, zero, out=q)
    np.clip(q, params.type.qmin, params.type.qmax, out=q)
    return q.astype(params.type.name)


def dequantize(q: Array, params: QuantParams) -> Array:
    """Return the float32 values of the integers `q`."""
    scale, zero = params.aligned(q.ndim)
    return ((q.astype(np.float64) - zero) * scale).astype(np.float32)


def fake_quantize(x: Array, params: QuantParams) -> Array:
    """Return `x` rounded to the grid of `params`, float32."""
    return dequantize(quantize(x, params), params)


def params_from_range(low: Any, high: Any, kind: IntType, *, symmetric: bool, axis: int | None = None) -> QuantParams:
    """Scale and zero point that cover [low, high], widened to contain 0.

    Args:
        low: Smallest value, scalar or `(C,)`.
        high: Largest value, same shape.
        kind: Storage type.
        symmetric: The zero point is the type's center and the grid is [−127, 127] wide for 8 bits.
        axis: Channel axis if the bounds are per channel.

    Returns:
        The parameters; an all-zero tensor gets scale 1.
    """
    low = np.minimum(np.asarray(low, dtype=np.float64), 0.0)
    high = np.maximum(np.asarray(high, dtype=np.float64), 0.0)
    if symmetric:
        half = kind.qmax - kind.center
        scale = np.maximum(-low, high) / half
        zero = np.full(scale.shape, kind.center)
    else:
        scale = (high - low) / (kind.qmax - kind.qmin)
        safe = np.where(scale < SMALLEST_SCALE, 1.0, scale)
        zero = np.clip(np.rint(kind.qmin - low / safe), kind.qmin, kind.qmax)
    flat = scale < SMALLEST_SCALE
    scale = np.where(flat, 1.0, scale).astype(np.float32)
    zero = np.where(flat, np.clip(0, kind.qmin, kind.qmax) if not symmetric else zero, zero)
    return QuantParams(scale, zero.astype(kind.name), kind, axis)


def power_of_two_params(end: float, kind: IntType, zero_point: int | None = None) -> QuantParams:
    """Parameters whose largest integer stands for `end`, the scale rounded to the nearest power of two.

    The zero point is the type's center, unless another is given.

    >>> float(power_of_two_params(127.0, INT_TYPES["int8"]).scale)
    1.0
    """
    zero = kind.center if zero_point is None else zero_point
    exponent = int(np.clip(np.rint(np.log2(max(end, SMALLEST_SCALE) / (kind.qmax - zero))), -126, 127))
    return QuantParams.make(np.ldexp(np.float32(1), exponent), zero, kind.name)
