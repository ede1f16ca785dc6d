"""Which operators run on integers: one row an operator, with the inputs that carry values and those that say how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from equiquant.verify.integer import elementwise, linear, movement, pooling
from equiquant.verify.integer.exact import Exact

__all__ = ["KERNELS", "Kernel"]


@dataclass(frozen=True)
class Kernel:
    """How to run one operator.

    Attributes:
        run: Called with the node and its inputs; returns its result, or one for each output.
        parameters: The inputs that say how (a shape, axes), handed on as they are; the others are values.
    """

    run: Callable[..., Exact | list[Exact]]
    parameters: frozenset[int] = frozenset()


_MOVE = Kernel(movement.move, frozenset(range(1, 6)))
_REDUCE = Kernel(pooling.reduce, frozenset({1}))

KERNELS: dict[str, Kernel] = {
    "Conv": Kernel(linear.conv),
    "ConvTranspose": Kernel(linear.conv_transpose),
    "Gemm": Kernel(linear.gemm),
    "MatMul": Kernel(linear.matmul),
    "Add": Kernel(elementwise.add),
    "Sum": Kernel(elementwise.add),
    "Sub": Kernel(elementwise.sub),
    "Mul": Kernel(elementwise.mul),
    "Max": Kernel(elementwise.maximum),
    "Min": Kernel(elementwise.minimum),
    "Neg": Kernel(elementwise.neg),
    "Abs": Kernel(elementwise.absolute),
    "Relu": Kernel(elementwise.relu),
    "LeakyRelu": Kernel(elementwise.leaky_relu),
    "PRelu": Kernel(elementwise.prelu),
    "Clip": Kernel(elementwise.clip),
    "HardSigmoid": Kernel(elementwise.hard_sigmoid),
    "HardSwish": Kernel(elementwise.hard_swish),
    "MaxPool": Kernel(pooling.max_pool),
    "GlobalMaxPool": Kernel(pooling.global_max_pool),
    "AveragePool": Kernel(pooling.average_pool),
    "GlobalAveragePool": Kernel(pooling.global_average_pool),
    "ReduceMean": _REDUCE,
    "ReduceSum": _REDUCE,
    "ReduceMax": _REDUCE,
    "ReduceMin": _REDUCE,
    "Concat": Kernel(movement.concat),
    "Split": Kernel(movement.split, frozenset({1})),
    "Pad": Kernel(movement.pad, frozenset({1, 3})),
    "Reshape": _MOVE,
    "Flatten": _MOVE,
    "Transpose": _MOVE,
    "Squeeze": _MOVE,
    "Unsqueeze": _MOVE,
    "Slice": _MOVE,
    "Gather": _MOVE,
    "Expand": _MOVE,
    "Tile": _MOVE,
    "DepthToSpace": _MOVE,
    "SpaceToDepth": _MOVE,
    "Resize": _MOVE,
    "Identity": _MOVE,
    "Dropout": _MOVE,
}
