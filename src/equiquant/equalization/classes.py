"""Find the scale classes of a graph: which channels of which tensors must share one scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx_ir as ir

from equiquant.equalization.builder import ClassBuilder, ClipSite, Ids, Pin, Slot
from equiquant.equalization.rules import RULES
from equiquant.graph import query

__all__ = ["ScaleClasses", "find_classes"]


@dataclass(frozen=True, eq=False)
class ScaleClasses:
    """The classes of a graph.

    Attributes:
        count: Number of classes; class 0 is pinned.
        values: Class of every channel of every float tensor; an array that broadcasts against the tensor.
        slots: The constants that absorb the factors, in graph order, with classes in place of ids.
        clips: Every Clip(0, c) that lets its channels through.
        pins: For each tensor with a pinned channel, why the first such channel is pinned.
    """

    count: int
    values: Mapping[ir.Value, Ids]
    slots: tuple[Slot, ...]
    clips: tuple[ClipSite, ...]
    pins: Mapping[ir.Value, Pin]

    @property
    def layers(self) -> list[Slot]:
        """The weights of Conv, ConvTranspose, Gemm and MatMul, in graph order."""
        return [slot for slot in self.slots if slot.role == "weight" and slot.node.op_type in query.LINEAR_OPS]

    def varying_axis(self, value: ir.Value) -> int | None:
        """Return the axis along which a tensor's classes differ; None where there is none, or more than one."""
        ids = self.values.get(value)
        varying = [] if ids is None else [axis for axis, size in enumerate(ids.shape) if size > 1]
        return varying[0] if len(varying) == 1 else None


def find_classes(model: ir.Model) -> ScaleClasses:
    """Walk the graph once and return its scale classes. The model is not changed.

    An op without a rule, and every value somebody outside can see, is pinned: its scale stays as it is.
    """
    builder = ClassBuilder()
    for value in model.graph.inputs:
        builder.set(value, builder.fixed(value.name or "", "a graph input"))
    for node in model.graph:
        rule = RULES.get(node.op_type) if node.domain == "" else None
        if rule is None:
            builder.refuse(node, f"{node.op_type} has no scale rule")
        elif (infinite := query.infinite_constant(node)) is not None:
            builder.refuse(node, f"its constant '{infinite.name}' is not finite")
        else:
            rule(builder, node)
        for output in node.outputs:
            _seal(builder, node, output)
    _unite_shared_weights(builder)
    return _freeze(builder)


def _seal(builder: ClassBuilder, node: ir.Node, output: ir.Value) -> None:
    """Pin what a reader outside this graph's own nodes would see, and what is no float tensor."""
    if output not in builder.values:
        return  # a Constant, or an optional output nobody reads
    ids = builder.ids(output)
    if output.is_graph_output():
        builder.pin(ids, node, f"'{output.name}' is a graph output")
    elif query.is_public(output):
        builder.pin(ids, node, f"'{output.name}' is read inside an If, Loop or Scan body")
    if not query.is_float(output):
        builder.pin(ids, node, f"'{output.name}' is not a float tensor")
        builder.set(output, builder.fixed(node, f"'{output.name}' is not a float tensor"))


def _unite_shared_weights(builder: ClassBuilder) -> None:
    """A weight read by several nodes of one kind keeps one copy: all of them must ask for the same factors.

    Where they read it in different ways, `apply` gives each reader a copy of its own instead.
    """
    first: dict[tuple[ir.Value, object], Slot] = {}
    for slot in builder.slots:
        if slot.role != "weight":
            continue
        way = (slot.node.op_type, slot.index, slot.groups, slot.out_axis, slot.gain.ndim, slot.loss.ndim)
        other = first.setdefault((slot.value, way), slot)
        if other is not slot:
            builder.unite(slot.gain, other.gain)
            builder.unite(slot.loss, other.loss)


def _freeze(builder: ClassBuilder) -> ScaleClasses:
    classes, culprit = builder.resolve()
    values = {value: classes[ids] for value, ids in builder.values.items()}
    pins = {}
    for value, ids in builder.values.items():
        blamed = culprit[ids.reshape(-1)[classes[ids].reshape(-1) == 0]]
        blamed = blamed[blamed >= 0]
        if blamed.size:
            pins[value] = builder.pins[int(blamed[0])]
    slots = tuple(replace(s, gain=classes[s.gain], loss=classes[s.loss]) for s in builder.slots)
    clips = tuple(ClipSite(c.node, classes[c.ids], c.bound, classes[c.bound_id]) for c in builder.clips)
    return ScaleClasses(int(classes.max(initial=0)) + 1 if classes.size else 1, values, slots, clips, pins)
