"""How a tensor lies where sums are taken for each sample and channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from equiquant.backward.tape import Tape, shape

__all__ = ["Layout"]


@dataclass(frozen=True)
class Layout:
    """A shape with samples first.

    Attributes:
        sizes: The shape.
        axis: The channel axis.
        as_it_is: The tensor has that shape already.
    """

    sizes: tuple[int, ...]
    axis: int
    as_it_is: bool

    @classmethod
    def of(cls, value: ir.Value, axis: int, batch: int) -> Layout:
        """Return that of a tensor.

        Args:
            value: The tensor; one without axes is a channel.
            axis: Its channel axis.
            batch: Samples that axis 0 holds; taken for one where it holds channels, or cannot hold so many.
        """
        sizes = shape(value)
        if not sizes:
            return cls((1, 1), 1, False)
        axis %= len(sizes)
        if axis == 0 or batch == 0 or sizes[0] % batch:
            return cls((1, *sizes), axis + 1, False)
        if sizes[0] == batch:
            return cls(sizes, axis, True)
        return cls((batch, sizes[0] // batch, *sizes[1:]), axis + 1, False)  # windows or tokens of a sample

    @property
    def positions(self) -> int:
        """Values of a channel in a sample."""
        return int(np.prod(self.sizes)) // (self.sizes[0] * self.sizes[self.axis])

    def laid(self, tape: Tape, value: ir.Value) -> ir.Value:
        """Append the tensor, or its gradient, in this shape."""
        return value if self.as_it_is else tape.reshape(value, self.sizes)

    def sum(self, tape: Tape, value: ir.Value) -> ir.Value:
        """Append the sums over the positions of what has this shape, (samples, channels)."""
        axes = [i for i in range(1, len(self.sizes)) if i != self.axis]
        return tape.sum(value, axes, keepdims=False) if axes else tape.op("Identity", value)
