"""Write a model file without a copy of its weights: the counterpart of `mapped`.

As one protobuf a model would be in memory twice more, as messages and as bytes. Here the large initializers of the
graph are left out of the messages, and their bytes go into the file one after the other. Their sizes are known before,
so that it is a file of one graph, as any other.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir

from equiquant.io.mapped import GRAPH, INITIALIZER, MAP_ABOVE, RAW_DATA, field_head, unload

__all__ = ["write_model"]


def write_model(model: ir.Model, path: Path) -> None:
    """Write the model to a file, and let go of the memory that its mapped weights take.

    Args:
        model: The model; its large initializers are taken from it.
        path: The file.

    Raises:
        OSError: The file cannot be written.
    """
    weights: dict[str, ir.TensorProtocol] = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.dtype != ir.DataType.STRING and tensor.nbytes > MAP_ABOVE:
            weights[name], value.const_value = tensor, _without_bytes(tensor)
    proto = ir.to_proto(model)
    large = [weights.get(tensor.name) for tensor in proto.graph.initializer]
    fields = [_field(*pair) for pair in zip(proto.graph.initializer, large, strict=True)]
    del proto.graph.initializer[:]
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    size = len(graph) + sum(map(len, fields)) + sum(weight.nbytes for weight in weights.values())
    with path.open("wb") as file:
        file.write(proto.SerializeToString() + field_head(GRAPH, size) + graph)
        for field, weight in zip(fields, large, strict=True):
            file.write(field)
            if weight is not None:
                file.write(weight.tobytes())
                unload(weight.raw)


def _without_bytes(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    described = onnx.TensorProto(
        data_type=tensor.dtype, dims=tensor.shape.numpy(), doc_string=tensor.doc_string or None
    )
    left = ir.serde.TensorProtoTensor(described)
    left.metadata_props.update(tensor.metadata_props)
    return left


def _field(described: onnx.TensorProto, weight: ir.TensorProtocol | None) -> bytes:
    """Return the field of an initializer, up to its bytes if they are left out."""
    message, size = bytes(described.SerializeToString()), 0
    if weight is not None:
        size = weight.nbytes
        message += field_head(RAW_DATA, size)
    return field_head(INITIALIZER, len(message) + size) + message
