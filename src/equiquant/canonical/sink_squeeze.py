"""Squeeze taken behind what follows it, until an Unsqueeze undoes it.

TensorFlow computes a 1-D convolution as a 2-D one between an Unsqueeze and a Squeeze. Activations, sums and padding
between two of them compute the same on either form. On the long one they meet the Conv they belong to: an integer
kernel rounds once behind both, and the pair is gone. Source: ONNX operator specification, Squeeze and Unsqueeze.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.canonical.remove_identity import check_bypass
from equiquant.canonical.rule import Rule
from equiquant.graph.edit import Names, bypass, own_constant, remove_unread
from equiquant.graph.query import constant, is_public, rank

__all__ = ["SinkSqueeze", "Squeezed", "UndoSqueeze"]

Array = npt.NDArray[Any]
Pair = tuple[ir.Node, ir.Value]
"""An Unsqueeze, and what went into the Squeeze before it."""

UNARY = frozenset(
    {"Abs", "Clip", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Neg", "Relu", "Selu"}
    | {"Sigmoid", "Softplus", "Softsign", "Sqrt", "Tanh"}
)
BINARY = frozenset({"Add", "Div", "Mul", "Sub"})


@dataclass(frozen=True, eq=False)
class Squeezed:
    """An operator that reads what Squeezes of the same axes hand on, and besides that constants only.

    Attributes:
        node: The operator.
        squeezes: By input, the Squeeze that makes it.
        axes: Of the tensor before a Squeeze, ascending.
    """

    node: ir.Node
    squeezes: Mapping[int, ir.Node]
    axes: tuple[int, ...]


class SinkSqueeze(Rule[Squeezed, Mapping[int, Array]]):
    """Squeeze, then an operator that works element by element, or pads."""

    name = "sink_squeeze"
    op_types = UNARY | BINARY | {"Pad"}

    def pattern(self, node: ir.Node) -> Squeezed | None:
        """Match an operator of squeezed tensors, where all that reads these can follow: else one would become two."""
        squeezes = {i: made for i, v in enumerate(node.inputs) if (made := _squeeze(v)) is not None}
        axes = next((_axes(squeeze, squeeze.inputs[0]) for squeeze in squeezes.values()), None)
        others = [v for i, v in enumerate(node.inputs) if i not in squeezes and v is not None]
        short = [squeeze.outputs[0] for squeeze in squeezes.values()]
        if axes is None or any(constant(v) is None for v in others) or any(map(is_public, short)):
            return None
        readers = {reader for value in short for reader in value.consumers()}
        follow = all(r.op_type == "Unsqueeze" or _sinks(r, axes) for r in readers)
        return Squeezed(node, squeezes, axes) if follow else None

    def check(self, match: Squeezed) -> Mapping[int, Array]:
        """Return the constants that have to grow, by input."""
        node, axes, short = match.node, match.axes, rank(match.node.outputs[0])
        if node.op_type in UNARY:
            return {}
        arrays = {i: constant(v) for i, v in enumerate(node.inputs) if i not in match.squeezes}
        if node.op_type == "Pad":
            pads = arrays[1]
            assert pads is not None
            places = [axis - k for k, axis in enumerate(axes)]
            return {1: np.insert(pads.reshape(2, -1), places, 0, axis=1).reshape(-1)}
        assert short is not None
        return {
            index: np.expand_dims(array.reshape((1,) * (short - array.ndim) + array.shape), axes)
            for index, array in arrays.items()
            if array is not None and array.ndim
        }

    def rewrite(self, match: Squeezed, plan: Mapping[int, Array], names: Names) -> str:
        """Let the operator read what was squeezed, and squeeze its result, which keeps its name."""
        node, out = match.node, match.node.outputs[0]
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        for index, squeeze in match.squeezes.items():
            node.replace_input_with(index, squeeze.inputs[0])
        for index, array in plan.items():
            own_constant(node, index, array, f"{node.name}_{index}", names)
        result = ir.Value(name=out.name, type=out.type, shape=out.shape)
        out.replace_all_uses_with(result)
        out.name = names.fresh(f"{out.name}_unsqueezed")
        if out.shape is not None:
            dims = list(out.shape)
            for axis in match.axes:
                dims.insert(axis, 1)
            out.shape = ir.Shape(dims)
        first = next(iter(match.squeezes.values()))
        squeeze = ir.Node(
            "",
            "Squeeze",
            [out, *first.inputs[1:]],
            first.attributes.values(),
            outputs=[result],
            name=names.fresh(f"{node.name}_squeeze"),
        )
        graph.insert_after(node, squeeze)
        remove_unread(graph, [s.outputs[0] for s in match.squeezes.values()])  # else they count as readers themselves
        return "works on what is not squeezed yet"


class UndoSqueeze(Rule[Pair, None]):
    """Unsqueeze of what a Squeeze of the same axes made."""

    name = "undo_squeeze"
    op_types = frozenset({"Unsqueeze"})

    def pattern(self, node: ir.Node) -> Pair | None:
        """Match the pair."""
        squeeze = _squeeze(node.inputs[0])
        source = None if squeeze is None else squeeze.inputs[0]
        if squeeze is None or source is None:
            return None
        axes = _axes(squeeze, source)
        return (node, source) if axes is not None and axes == _axes(node, node.outputs[0]) else None

    def check(self, match: Pair) -> None:
        """Refuse where a public name would be lost."""
        check_bypass(*match)

    def rewrite(self, match: Pair, plan: None, names: Names) -> str:
        """Let the readers read what was squeezed."""
        node, source = match
        graph, squeezed = node.graph, node.inputs[0]
        assert isinstance(graph, ir.Graph)
        assert squeezed is not None
        done = bypass(node, source)
        assert done, "check let a public source through"
        remove_unread(graph, [squeezed])
        return "undoes a Squeeze"


def _sinks(node: ir.Node, axes: tuple[int, ...]) -> bool:
    """True if an operator may work on the long form, now or once what it reads does."""
    kind, short = node.op_type, rank(node.outputs[0])
    if node.domain != "" or kind not in SinkSqueeze.op_types or is_public(node.outputs[0]) or short is None:
        return False
    if kind in BINARY:
        return all(_is_long(v, axes, short) for v in node.inputs)
    if kind == "Pad" and (len(node.inputs) > 3 or constant(node.inputs[1]) is None):
        return False
    return constant(node.inputs[0]) is None and _is_long(node.inputs[0], axes, short)


def _is_long(value: ir.Value | None, axes: tuple[int, ...], short: int) -> bool:
    """True of a constant, of what a Squeeze of these axes makes, and of what is computed from it and may follow."""
    array = constant(value)
    if array is not None:
        return array.ndim <= short
    squeeze, maker = _squeeze(value), None if value is None else value.producer()
    if squeeze is not None:
        return _axes(squeeze, squeeze.inputs[0]) == axes
    return maker is not None and _sinks(maker, axes)


def _squeeze(value: ir.Value | None) -> ir.Node | None:
    maker = None if value is None else value.producer()
    return maker if maker is not None and maker.op_type == "Squeeze" and maker.domain == "" else None


def _axes(node: ir.Node, long: ir.Value | None) -> tuple[int, ...] | None:
    """Return the axes of a Squeeze or an Unsqueeze, counted from the front of its longer side; None if unknown."""
    given = constant(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] is not None else None
    dimensions = None if long is None else rank(long)
    if given is None or dimensions is None:
        return None
    return tuple(sorted(int(axis) % dimensions for axis in given.reshape(-1)))
