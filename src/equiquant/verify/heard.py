"""What of a tensor its readers hear: values beyond both ends of it make no difference, and a range may leave them out.

Compared one by one, what a range leaves out would look like noise: a convolution before a HardSwish whose range ends at
−3 would be the worst tensor of its network, and cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from equiquant.equalization.saturation import saturation
from equiquant.graph.query import clip_ends, constant, name_of, sole_consumer

__all__ = ["EVERYTHING", "Ends", "heard"]

Ends = tuple[float, float]
EVERYTHING: Ends = (-math.inf, math.inf)
NEAR = 0.25  # a range ends where its readers go level, to so much of the distance from 0


def heard(values: Iterable[ir.Value], quantized: ir.Model) -> dict[str, Ends]:
    """Return the smallest and the largest value that count, of tensors whose range ends where their readers go level.

    Args:
        values: Tensors of the float model, of one graph.
        quantized: The quantized model, the tensors named alike.
    """
    ranges = {name_of(node.inputs[0]): _range(node) for node in quantized.graph if node.op_type == "QuantizeLinear"}
    known = {name: ends for name, ends in ranges.items() if ends is not None}
    level = saturation(values, {name: (2 * min(low, 0.0), 2 * max(high, 0.0)) for name, (low, high) in known.items()})
    found = {}
    for name, (above, below) in level.items():
        low, high = known[name]
        ends = (
            -below if math.isclose(-low, below, rel_tol=NEAR) else -math.inf,
            above if math.isclose(high, above, rel_tol=NEAR) else math.inf,
        )
        if ends != EVERYTHING:
            found[name] = ends
    return found


def _range(node: ir.Node) -> Ends | None:
    """Return the ends of what a QuantizeLinear with one scale hands on, a Clip of its integers included."""
    scale, zero = (constant(v) for v in (*node.inputs[1:], None)[:2])
    if scale is None or scale.size != 1 or (zero is not None and zero.dtype.kind not in "iu"):
        return None
    limits = np.iinfo(np.uint8 if zero is None else zero.dtype)
    clip = sole_consumer(node.outputs[0])
    low, high = clip_ends(clip) if clip is not None and clip.op_type == "Clip" else (None, None)
    least = limits.min if low is None else max(limits.min, low)
    most = limits.max if high is None else min(limits.max, high)
    step, middle = float(scale.reshape(())), 0 if zero is None else int(zero.reshape(()))
    return (least - middle) * step, (most - middle) * step
