"""Write a model whole or not at all: a temporary file beside the target, checked, then renamed."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import onnx
import onnx_ir as ir

from equiquant.errors import OutputError
from equiquant.io.places import check_writable

__all__ = ["INLINE_LIMIT", "model_bytes", "save_model", "to_proto"]

INLINE_LIMIT = 1_900_000_000  # protobuf refuses 2 GiB; leave room for the graph itself


def model_bytes(model: ir.Model) -> int:
    """Return the size of all initializers in bytes."""
    return sum(v.const_value.nbytes for g in model.graphs() for v in g.initializers.values() if v.const_value)


def to_proto(model: ir.Model, written: Path | None = None) -> onnx.ModelProto:
    """Return the model as a proto with its weights inline; one too large for that with references to its weights.

    Args:
        model: The model.
        written: Where it was saved, if it was: there its weights lie, beside the file.

    Raises:
        OutputError: The weights exceed what one proto can hold, and were not saved to a file.
    """
    if model_bytes(model) <= INLINE_LIMIT:
        return ir.to_proto(_lean(model))
    if written is None:
        raise OutputError("The model is larger than 2 GB and cannot be one ModelProto; give an output path instead.")
    return onnx.load(written, load_external_data=False)


def _lean(model: ir.Model) -> ir.Model:
    """Return a copy with its weights on disk read into memory, and no type of a constant told beside its numbers.

    Of a small network such entries, of constants and of those behind a DequantizeLinear, are a seventh of the file. The
    model itself keeps its weights mapped.
    """
    copy = model.clone()
    ir.external_data.load_to_model(copy)
    for graph in copy.graphs():
        restored = [n.outputs[0] for n in graph if n.op_type == "DequantizeLinear" and _is_constant(n.inputs[0])]
        for value in (*graph.initializers.values(), *restored):
            if not (value.is_graph_input() or value.is_graph_output()):
                value.type = value.shape = None
    return copy


def _is_constant(value: ir.Value | None) -> bool:
    return value is not None and value.is_initializer()


def save_model(model: ir.Model, target: str | Path) -> Path:
    """Write the model to `target`; above 2 GB the weights go to `<target>.data` beside it.

    Raises:
        OutputError: The file cannot be written; nothing is left behind.
    """
    path = check_writable(target)
    large = model_bytes(model) > INLINE_LIMIT
    with contextlib.ExitStack() as stack:
        try:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=path.parent, prefix=".equiquant-")))
            if large:
                ir.save(model, folder / path.name, external_data=f"{path.name}.data")
            else:
                ir.save(_lean(model), folder / path.name)
            if large:
                (folder / f"{path.name}.data").replace(path.parent / f"{path.name}.data")
            (folder / path.name).replace(path)
        except OSError as error:
            raise OutputError(f"Cannot write {path}: {error.strerror or error}") from error
    return path
