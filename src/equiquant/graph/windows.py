"""Where a sliding window lies, from static shapes: pads of every auto_pad mode, and those of the adjoint.

Output position i and tap j of a window read input position s·i + d·j − begin (ONNX Conv and pooling operators).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from equiquant.graph import query

__all__ = ["Window", "same_begin", "window"]


@dataclass(frozen=True)
class Window:
    """A window on static shapes, one entry a spatial axis.

    Attributes:
        kernel: Taps.
        strides: Steps between windows.
        dilations: Steps between taps.
        begins: Padding before the first element.
        inputs: Sizes the window slides over.
        outputs: Number of windows.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def ends(self) -> list[int]:
        """Padding after the last element that the last window needs; negative if it leaves elements out."""
        axes = zip(self.kernel, self.strides, self.dilations, self.begins, self.inputs, self.outputs, strict=True)
        return [s * (o - 1) + d * (k - 1) + 1 - b - i for k, s, d, b, i, o in axes]

    @property
    def pads(self) -> list[int]:
        """The `pads` attribute, of the op as of its adjoint; with `left_out` for what no window reads."""
        return [*self.begins, *(max(e, 0) for e in self.ends)]

    @property
    def left_out(self) -> list[int]:
        """Elements at the end that no window reads: the `output_padding` of the adjoint."""
        return [max(-e, 0) for e in self.ends]


def window(node: ir.Node, kernel: Sequence[int], inputs: Sequence[int], outputs: Sequence[int]) -> Window:
    """Return the window of a Conv or pooling node."""
    rank = len(kernel)
    strides = tuple(query.attribute(node, "strides", None) or [1] * rank)
    dilations = tuple(query.attribute(node, "dilations", None) or [1] * rank)
    begins = tuple((query.attribute(node, "pads", None) or [0] * rank)[:rank])
    found = Window(tuple(kernel), strides, dilations, begins, tuple(inputs), tuple(outputs))
    mode = query.attribute(node, "auto_pad", "NOTSET")
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        return found if mode == "NOTSET" else _moved(found, [0] * rank)
    totals = [max(e, 0) for e in _moved(found, [0] * rank).ends]
    return _moved(found, [same_begin(total, mode) for total in totals])


def same_begin(total: int, mode: str) -> int:
    """Return the part of the padding that comes first: the smaller half unless the mode says otherwise."""
    return total // 2 if mode == "SAME_UPPER" else total - total // 2


def _moved(old: Window, begins: Sequence[int]) -> Window:
    return Window(old.kernel, old.strides, old.dilations, tuple(begins), old.inputs, old.outputs)
