"""Rewrites of ReLU6: as ReLU, which changes the function, or with a bound for every channel, which does not.

After `split_clips` a Clip(0, c) is Relu and Min with a constant of shape (1, C, 1, …), or C wherever the channels lie;
the constant absorbs the scale of its channels like any other, so that all of them may move.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from equiquant.decisions import Decision
from equiquant.equalization.classes import find_classes
from equiquant.graph import query
from equiquant.graph.edit import Names, add_initializer, remove_unread

__all__ = ["replace_clip6", "split_clips"]


def replace_clip6(model: ir.Model) -> list[Decision]:
    """Replace every Clip(0, 6) of the main graph by a Relu of the same name and output; any opset, bounds any form."""
    decisions = []
    for node in list(model.graph):
        if _is_clip(node) and query.clip_ends(node) == (0.0, 6.0):
            relu = ir.node("Relu", [node.inputs[0]], num_outputs=1, name=node.name)
            _put(model.graph, node, [relu])
            reason = "Clip(0, 6) became Relu"
            decisions.append(Decision("equalize", "replace_clip6_relu", query.label(relu), True, reason))
    return decisions


def split_clips(model: ir.Model, count: int | None = None) -> list[Decision]:
    """Give the first `count` Clip(0, c) of the main graph (all of them for None) a bound per channel.

    A Clip whose number of channels is unknown is refused, and one whose channels cannot move in any case.
    """
    decisions: list[Decision] = []
    classes = find_classes(model)
    names = Names(model.graph)
    done = 0
    for node in list(model.graph):
        if not _is_clip(node) or done == count:
            continue
        low, high = query.clip_ends(node)
        if low != 0.0 or high is None or not 0.0 < high < np.inf:
            continue
        out = node.outputs[0]
        shape = query.static_shape(out)
        dtype = out.dtype
        where = query.label(node)
        varying = classes.varying_axis(out)
        axis = 1 if varying is None else varying
        channels = None if shape is None or len(shape) <= axis else shape[axis]
        ids = classes.values.get(out)
        if ids is not None and not ids.any():
            pin = classes.pins.get(out)
            reason = (
                f"its channels keep their scale in any case{'' if pin is None else f': {pin.reason}'}; the Clip stays"
            )
            decisions.append(Decision("equalize", "per_channel_clip", where, False, reason))
            continue
        if shape is None or channels is None or dtype is None:
            reason = "its number of channels is unknown; the Clip stays"
            decisions.append(Decision("equalize", "per_channel_clip", where, False, reason))
            continue
        sizes = [channels if index == axis else 1 for index in range(len(shape))]
        table = np.full(sizes, high, dtype=dtype.numpy())
        bound = add_initializer(model.graph, names.fresh(f"{out.name}_bound"), table)
        relu = ir.node("Relu", [node.inputs[0]], num_outputs=1, name=names.fresh(f"{where}_relu"))
        relu.outputs[0].name = names.fresh(f"{out.name}_relu")
        relu.outputs[0].shape, relu.outputs[0].type = out.shape, out.type
        minimum = ir.node("Min", [relu.outputs[0], bound], num_outputs=1, name=node.name)
        _put(model.graph, node, [relu, minimum])
        reason = f"Clip(0, {high:g}) became Relu and a Min with a bound for each of {channels} channels"
        decisions.append(Decision("equalize", "per_channel_clip", where, True, reason))
        done += 1
    return decisions


def _is_clip(node: ir.Node) -> bool:
    """True for a Clip of floats: one of integers limits indices."""
    return node.op_type == "Clip" and node.domain == "" and query.is_float(node.outputs[0])


def _put(graph: ir.Graph, node: ir.Node, replacement: list[ir.Node]) -> None:
    """Put nodes in the place of a Clip; the last output takes over its name, also as a graph output."""
    out, new = node.outputs[0], replacement[-1].outputs[0]
    graph.insert_before(node, replacement)
    name, new.shape, new.type = out.name, out.shape, out.type
    out.replace_all_uses_with(new, replace_graph_outputs=True)
    bounds = [value for value in node.inputs[1:] if value is not None]
    graph.remove(node, safe=True)
    remove_unread(graph, bounds)
    new.name = name
