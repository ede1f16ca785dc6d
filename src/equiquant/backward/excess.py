"""What gradients make of the part of a tensor that lies beyond given ends.

A range cuts that part off, x − clip(x, low, high). It is nothing like noise: it has one sign on either side, fills
whole regions, and many channels have theirs in the same places. To first order an output changes by the sum of g · e
over all channels and positions, where noise of the same power, independent everywhere, would make Σ g² e² of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.backward.layout import Layout
from equiquant.backward.tape import Tape

__all__ = ["Ends", "excess_sums"]


@dataclass(frozen=True, eq=False)
class Ends:
    """Where the part of a tensor begins that is looked at, and where it ends.

    Attributes:
        low: (C,) at or below 0.
        high: (C,) at or above 0.
        most: Magnitudes above and below 0 beyond which a value counts as if it lay there; infinite for none.
    """

    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    most: tuple[float, float] = (np.inf, np.inf)


def excess_sums(tape: Tape, x: ir.Value, g: ir.Value, layout: Layout, ends: Ends) -> tuple[ir.Value, ir.Value]:
    """Append Σ g·e over the positions of each sample and the mean of e², (samples, channels) both.

    Args:
        tape: The backward nodes, complete.
        x: The tensor, in the layout.
        g: Its gradient, in the layout.
        layout: Theirs.
        ends: Beyond which x counts.
    """
    wide = [1] * len(layout.sizes)
    wide[layout.axis] = -1
    low, high = (tape.constant(end.astype(np.float32).reshape(wide)) for end in (ends.low, ends.high))
    if np.isfinite(ends.most).any():
        above, below = ends.most
        x = tape.op("Clip", x, tape.number(-below), tape.number(above))
    excess = tape.op("Relu", tape.op("Sub", x, high))
    if ends.low.any():
        excess = tape.op("Sub", excess, tape.op("Relu", tape.op("Sub", low, x)))
    felt = layout.sum(tape, tape.op("Mul", g, excess))
    power = layout.sum(tape, tape.op("Mul", excess, excess))
    return felt, tape.op("Mul", power, tape.number(1 / layout.positions))
