"""Where a sliding window of a convolution or a pool goes: padding, strides, dilations, any number of dimensions.

Source: ONNX operator specification, Conv, MaxPool and AveragePool (`auto_pad`, `ceil_mode`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.graph.query import attribute
from equiquant.verify.integer.exact import Unsupported

__all__ = ["ALL", "Window", "window_of"]

Array = npt.NDArray[Any]
Sizes = tuple[int, ...]

ALL: tuple[Any, ...] = (Ellipsis,)  # in front of an index into the spatial dimensions


@dataclass(frozen=True)
class Window:
    """A sliding window; every entry is one number a spatial dimension.

    Attributes:
        kernel: Its size.
        strides: How far apart its positions are.
        dilations: How far apart its taps are.
        begin: Padding in front.
        end: Padding behind.
        beyond: Further places behind that the last position reaches, with `ceil_mode`.
        positions: How many positions there are.
    """

    kernel: Sizes
    strides: Sizes
    dilations: Sizes
    begin: Sizes
    end: Sizes
    beyond: Sizes
    positions: Sizes

    def pad(self, x: Array, fill: float, *, outside: float | None = None) -> Array:
        """Return x, shaped (N, C, *spatial), with its padding; `outside` fills what lies beyond even that."""
        padded = np.pad(x, [(0, 0), (0, 0), *zip(self.begin, self.end, strict=True)], constant_values=fill)
        widths = [(0, 0), (0, 0), *((0, b) for b in self.beyond)]
        return np.pad(padded, widths, constant_values=fill if outside is None else outside)

    def taps(self, padded: Array) -> Iterator[tuple[Sizes, Array]]:
        """Yield each tap of the kernel and what it sees, shaped (N, C, *positions)."""
        for tap in product(*(range(k) for k in self.kernel)):
            yield tap, padded[(*ALL, *self.places(tap))]

    def places(self, tap: Sizes) -> tuple[slice, ...]:
        """Return where a tap is in the padded tensor, over all positions."""
        return tuple(
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, n, s in zip(tap, self.dilations, self.positions, self.strides, strict=True)
        )


def window_of(node: ir.Node, spatial: Sizes, kernel: Sizes) -> Window:
    """Return the window of a node over a tensor of some spatial size.

    Raises:
        Unsupported: onnxruntime puts it elsewhere.
    """
    count = len(kernel)
    strides = tuple(attribute(node, "strides", [1] * count))
    dilations = tuple(attribute(node, "dilations", [1] * count))
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    mode = attribute(node, "auto_pad", "NOTSET")
    if mode.startswith("SAME") and node.op_type != "Conv" and any(d != 1 for d in dilations):
        raise Unsupported("onnxruntime leaves the dilations of a pool out of its auto_pad")
    pads = list(attribute(node, "pads", [0] * 2 * count)) if mode == "NOTSET" else [0] * 2 * count
    if mode.startswith("SAME"):
        for i, (size, stride) in enumerate(zip(spatial, strides, strict=True)):
            total = max((-(-size // stride) - 1) * stride + reach[i] - size, 0)
            small, large = total // 2, total - total // 2
            pads[i], pads[count + i] = (small, large) if mode == "SAME_UPPER" else (large, small)
    positions, beyond = [], []
    for i, (size, stride) in enumerate(zip(spatial, strides, strict=True)):
        room = size + pads[i] + pads[count + i] - reach[i]
        number = room // stride + 1
        if attribute(node, "ceil_mode", 0) and (number * stride < size + pads[i]):  # it must not start in the padding
            number = -(-room // stride) + 1
        positions.append(number)
        beyond.append(max((number - 1) * stride - room, 0))
    begin, end = tuple(pads[:count]), tuple(pads[count:])
    return Window(kernel, strides, dilations, begin, end, tuple(beyond), tuple(positions))
