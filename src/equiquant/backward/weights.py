"""What noise in each weight of a convolution makes of the outputs: the gradient by that weight.

Noise e on the weight W[o,i] adds e·x[i] to channel o, which an output feels as e · Σ_positions g[o]·x[i], with g the
gradient at the layer's output. How far it adds up over the positions depends on how smooth both are. It is told by the
middle tap of a kernel, which stands for the others.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.backward.tape import Tape, operand, shape
from equiquant.graph import query
from equiquant.graph.windows import Window, window

__all__ = ["weight_energy"]


def weight_energy(tape: Tape, node: ir.Node, means: Mapping[str, npt.NDArray[np.float64]]) -> ir.Value | None:
    """Append (Σ_positions g[o]·(x[i] − mean[i]))² summed over axis 0, (groups, outputs, inputs) a group.

    Args:
        tape: The backward nodes, complete.
        node: Any node.
        means: (channels,) to subtract from x, by its name.

    Returns:
        None where the node is no Conv, no gradient reaches it, its weight is computed, no mean is known of its input,
        or one of other channels.
    """
    if (node.domain, node.op_type) != ("", "Conv") or query.constant(node.inputs[1]) is None:
        return None
    gradient, x = tape.gradient(node.outputs[0]), operand(node, 0)
    mean, sizes, made = means.get(x.name or ""), shape(x), shape(node.outputs[0])
    if gradient is None or mean is None or mean.size != sizes[1] or 0 in (*sizes, *made):
        return None
    group = int(query.attribute(node, "group", 1))
    place = window(node, shape(operand(node, 1))[2:], sizes[2:], made[2:])
    centers = mean.astype(np.float32).reshape(-1, *[1] * len(place.kernel))
    x = tape.op("Sub", _middle(tape, x, place), tape.constant(centers))
    positions = int(np.prod(made[2:]))
    x = tape.reshape(x, [made[0], group, sizes[1] // group, positions])
    gradient = tape.reshape(gradient, [made[0], group, made[1] // group, positions])
    product = tape.op("MatMul", gradient, tape.op("Transpose", x, perm=[0, 1, 3, 2]))
    return tape.sum(tape.op("Mul", product, product), [0], keepdims=False)


def _middle(tape: Tape, x: ir.Value, place: Window) -> ir.Value:
    """Append what the middle tap of each window reads: zeros where it lies in the padding."""
    rank = len(place.kernel)
    starts = [d * (k // 2) - b for k, d, b in zip(place.kernel, place.dilations, place.begins, strict=True)]
    ends = [b + s * (o - 1) + 1 for b, s, o in zip(starts, place.strides, place.outputs, strict=True)]
    before = [max(0, -b) for b in starts]
    after = [max(0, e - i) for e, i in zip(ends, place.inputs, strict=True)]
    if any((*before, *after)):
        x = tape.op("Pad", x, tape.ints([0, 0, *before, 0, 0, *after]))
    starts, ends = ([v + b for v, b in zip(values, before, strict=True)] for values in (starts, ends))
    if not any(starts) and place.inputs == place.outputs and not any(before):
        return x
    return tape.op(
        "Slice", x, tape.ints(starts), tape.ints(ends), tape.ints(range(2, 2 + rank)), tape.ints(place.strides)
    )
