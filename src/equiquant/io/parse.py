"""Make a graph of a protobuf, and say plainly what in it nothing after this could work with."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

from equiquant.errors import ModelError, first_line

__all__ = ["parse"]


def parse(proto: onnx.ModelProto) -> ir.Model:
    """Return the model a protobuf describes.

    Raises:
        ModelError: It holds sparse tensors, takes or returns a map, reads what nothing defines, or is malformed, the
            places of weights in other files included.
    """
    for graph in (inner for outer in (proto.graph, *proto.functions) for inner in _graphs(outer)):
        held = graph if isinstance(graph, onnx.GraphProto) else onnx.GraphProto()  # a function has no initializers
        for sparse in held.sparse_initializer:
            raise ModelError(f"The initializer '{sparse.values.name}' is sparse. Store it as a dense tensor.")
        for node in graph.node:
            if any(attribute.type == onnx.AttributeProto.SPARSE_TENSOR for attribute in node.attribute):
                raise ModelError(f"The node '{node.name or node.op_type}' holds a sparse tensor. Store it dense.")
        for tensor in (*held.initializer, *(attribute.t for node in graph.node for attribute in node.attribute)):
            for entry in tensor.external_data:
                if entry.key in ("offset", "length") and not entry.value.isdecimal():
                    raise ModelError(
                        f"The {entry.key} of '{tensor.name}' in its file is '{entry.value}', which is no number of"
                        " bytes; export the model again."
                    )
    for value in (*proto.graph.input, *proto.graph.output):
        if "map_type" in (value.type.WhichOneof("value"), value.type.sequence_type.elem_type.WhichOneof("value")):
            raise ModelError(
                f"'{value.name}' is a map, not a tensor. Export the model without ZipMap (skl2onnx: zipmap=False)."
            )
    try:
        model = ir.from_proto(proto)
    except Exception as error:  # onnx_ir raises many kinds on malformed graphs, one inside the other
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, MemoryError):
            raise cause from None
        raise ModelError(f"The model is not valid ONNX: {first_line(cause)}") from error
    for node in model.graph.all_nodes():
        for value in node.inputs:
            if value is not None and not (value.producer() or value.is_graph_input() or value.is_initializer()):
                raise ModelError(f"The node '{node.name or node.op_type}' reads '{value.name}', which nothing defines.")
    return model


def _graphs(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                yield from _graphs(body)
