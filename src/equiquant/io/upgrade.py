"""Raise a model's operator set and IR version: the one place that calls onnx's version converter.

QuantizeLinear and DequantizeLinear have the form we write from opset 13 on. Weights larger than a kilobyte stay out of
the conversion (no adapter reads them), so that size is no limit and external data stays memory-mapped.
Source: ONNX `docs/VersionConverter.md` and `docs/Versioning.md` (which IR version an operator set needs).
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import version_converter
from onnx_ir.passes.common import InlinePass

from equiquant.errors import ModelError, first_line
from equiquant.graph.edit import Names, add_initializer
from equiquant.graph.query import constant
from equiquant.io.load import name_nodes

__all__ = ["TARGET_OPSET", "inline_functions", "is_operator", "raise_ir_version", "upgrade_opset"]

TARGET_OPSET = 17
GROUP_NORM_BY_CHANNEL = 21  # the first operator set whose GroupNormalization has a scale for each channel, not group
CALL = "equiquant.call"  # where a node notes the call it has taken the place of
SMALL = 1024  # bytes; an adapter may need to read operands such as axes and scales, never a weight


def is_operator(op_type: str) -> bool:
    """True for an operator of the default ONNX domain, in whatever version."""
    return bool(onnx.defs.has(op_type))


def upgrade_opset(model: ir.Model, target: int = TARGET_OPSET) -> None:
    """Convert `model` in place to operator set `target`; names of nodes, and all of inputs and outputs, survive.

    The model's own functions become part of the graph: the converter would leave their bodies as they are.

    Raises:
        ModelError: The converter has no way for one of the operators.
    """
    source = model.graph.opset_imports.get("", 1)
    inline_functions(model)
    try:
        converted = ir.from_proto(version_converter.convert_version(_without_weights(model), target))
    except MemoryError:
        raise
    except Exception as error:  # the C++ converter raises RuntimeError, ConvertError and more
        reason = first_line(error).rpartition("failed: ")[2]
        raise ModelError(
            f"The model uses opset {source} and cannot be converted to {target} ({reason})."
            " Export it again with opset 13 or later."
        ) from error
    _restore_weights(converted.graph, model.graph)
    _restore_names(converted.graph, model.graph)
    _restore_notes(converted.graph, model.graph)
    if source < 11:
        _resize_as_before(converted)
    if source < GROUP_NORM_BY_CHANNEL <= target:
        _group_norm_by_channel(converted)
    model.graph = converted.graph
    name_nodes(model)
    raise_ir_version(model)


def inline_functions(model: ir.Model) -> dict[str, list[str]]:
    """Make the model's own functions part of the graph, in place; names of inputs, outputs and other nodes survive.

    Returns:
        The names of the values that each call computes now, by the name of its node.

    Raises:
        ModelError: A function is of another operator set than the model, or takes a graph as an attribute; nothing
            changes then.
    """
    if not model.functions:
        return {}
    inlined = model.clone()
    for node in inlined.graph.all_nodes():
        if node.op_identifier() in inlined.functions:
            node.metadata_props[CALL] = node.name or ""
    for function in inlined.functions.values():
        name_nodes(function)
    try:
        InlinePass()(inlined)
    except MemoryError:
        raise
    except Exception as error:  # the pass raises many kinds
        raise ModelError(f"The functions of the model cannot be made part of its graph: {first_line(error)}") from error
    name_nodes(inlined)
    made: dict[str, list[str]] = {}
    for node in inlined.graph.all_nodes():
        if (call := node.metadata_props.pop(CALL, None)) is not None:
            made.setdefault(call, []).extend(value.name or "" for value in node.outputs)
    read = {"", *(node.domain for node in inlined.graph.all_nodes())}
    for domain in {function.domain for function in model.functions.values()} - read:
        inlined.graph.opset_imports.pop(domain, None)
    model.graph = inlined.graph
    model.functions.clear()
    return made


def raise_ir_version(model: ir.Model) -> None:
    """Raise the IR version to the least one the model's operator set may be used with."""
    domains = [onnx.helper.make_opsetid(d, v) for d, v in model.graph.opset_imports.items() if d in ("", "ai.onnx")]
    least = max(onnx.helper.find_min_ir_version_for(domains, ignore_unknown=True), 4)
    model.ir_version = max(model.ir_version, least)


def _without_weights(model: ir.Model) -> onnx.ModelProto:
    """Return a proto in which every large initializer is only a typed graph input."""
    clone = model.clone()
    clone.ir_version = max(clone.ir_version, 4)  # before 4 an initializer had to be an input as well
    present = set(clone.graph.inputs)
    for name, value in list(clone.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.nbytes <= SMALL:
            if isinstance(tensor, ir.ExternalTensor):  # its path means nothing to a model that is not a file
                value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)
            continue
        value.shape, value.type = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
        del clone.graph.initializers[name]
        if value not in present:
            clone.graph.inputs.append(value)
    return ir.to_proto(clone)


def _restore_weights(converted: ir.Graph, original: ir.Graph) -> None:
    inputs = {v.name: v for v in converted.inputs}
    for name, value in original.initializers.items():
        if name in inputs and name not in converted.initializers:
            inputs[name].const_value = value.const_value
            converted.register_initializer(inputs[name])
    public = {v.name for v in original.inputs}
    kept = [v for v in converted.inputs if v.name in public]
    converted.inputs.clear()
    converted.inputs.extend(kept)


def _restore_names(converted: ir.Graph, original: ir.Graph) -> None:
    """Name the nodes that the converter replaced by another operator (Upsample by Resize) after those they replace."""
    kept = {node.name for node in converted.all_nodes()}
    lost = {n.outputs[0].name: n.name for n in original.all_nodes() if n.name and n.name not in kept and n.outputs}
    for node in converted.all_nodes():
        if not node.name and node.outputs and node.outputs[0].name in lost:
            node.name = lost[node.outputs[0].name]


def _restore_notes(converted: ir.Graph, original: ir.Graph) -> None:
    """Give inputs and outputs their metadata back, which the converter knows nothing of."""
    noted = {value.name: value.metadata_props for value in (*original.inputs, *original.outputs)}
    for value in (*converted.inputs, *converted.outputs):
        value.metadata_props.update(noted.get(value.name, {}))


def _resize_as_before(model: ir.Model) -> None:
    """Give Resize the coordinates of Upsample-9 and Resize-10, which the converter forgets: x_in = x_out / scale.

    The nearest pixel is the one before, or where onnxruntime's Resize-10 shrinks an axis the one behind. Of one that
    shrinks one axis and stretches another only the latter is right; the proof has to tell.
    """
    for node in model.graph.all_nodes():
        if node.op_type == "Resize" and node.domain == "" and "coordinate_transformation_mode" not in node.attributes:
            scales = constant(node.inputs[2]) if len(node.inputs) > 2 else None
            shrinks = scales is not None and bool((scales <= 1).all())
            node.attributes.add(ir.AttrString("coordinate_transformation_mode", "asymmetric"))
            node.attributes.add(ir.AttrString("nearest_mode", "ceil" if shrinks else "floor"))


def _group_norm_by_channel(model: ir.Model) -> None:
    """Repeat the scales and biases of GroupNormalization-18, one a group, for each channel: the converter forgets to.

    Raises:
        ModelError: They are computed, or the number of channels is not known.
    """
    names = Names(model.graph)
    for node in model.graph.all_nodes():
        if node.op_type != "GroupNormalization" or node.domain != "":
            continue
        shape = node.inputs[0].shape if node.inputs[0] is not None else None
        channels = shape[1] if shape is not None and len(shape) > 1 else None
        for position in (1, 2):
            value = node.inputs[position]
            array = constant(value)
            if value is None or array is None or node.graph is None or not isinstance(channels, int):
                raise ModelError(
                    f"'{node.name}': a GroupNormalization of opset 18 needs constant scales and a known number of"
                    f" channels to be converted to opset {GROUP_NORM_BY_CHANNEL}. Export the model again with opset 21."
                )
            repeated = np.repeat(array, channels // array.size)
            name = names.fresh(f"{value.name}_by_channel")
            node.replace_input_with(position, add_initializer(node.graph, name, repeated))
