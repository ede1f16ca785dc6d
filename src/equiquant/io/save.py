"""Write a model whole or not at all: a temporary file beside the target, checked, then renamed."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import onnx
import onnx_ir as ir

from equiquant.errors import OutputError
from equiquant.io.places import check_writable, replacing
from equiquant.io.size import model_files
from equiquant.io.write import write_model

__all__ = ["INLINE_LIMIT", "check_place", "data_file", "is_large", "model_bytes", "save_model", "to_proto"]

INLINE_LIMIT = 1_900_000_000  # protobuf refuses 2 GiB; leave room for the graph itself


def model_bytes(model: ir.Model) -> int:
    """Return the size of all initializers in bytes."""
    return sum(v.const_value.nbytes for g in model.graphs() for v in g.initializers.values() if v.const_value)


def is_large(model: ir.Model) -> bool:
    """True if the weights are too many for one file, and go to another beside it."""
    return model_bytes(model) > INLINE_LIMIT


def data_file(target: str | os.PathLike[str]) -> Path:
    """Return where the weights of a large model at `target` go."""
    return Path(f"{os.fspath(target)}.data")


def check_place(target: str | Path, *read: Path, large: bool) -> Path:
    """Check that a model can be written to `target`, and that weights beside it take the place of nothing else.

    What lies there is replaced only if the model at `target` refers to it: then it is what an earlier run has left.
    A small model has none there, and leaves alone what is.

    Args:
        target: A file, which may exist.
        read: Files that the run reads.
        large: The weights will go to a file of their own.

    Raises:
        OutputError: As `check_writable`; or the file of the weights is read, or is of something else than the model
            at `target`.
    """
    path, weights = check_writable(target, *read), data_file(target)
    if not (large and weights.exists()):
        return path
    if weights.resolve() in [source.resolve() for source in read]:
        raise OutputError(
            f"Beside the output {path} its weights may go to {weights}, which is the input model's, or among its data;"
            " choose another name so that nothing is lost."
        )
    if weights.resolve() not in _files_at(path):
        raise OutputError(
            f"The weights of the output go to {weights}, which exists and is not of a model at {path}; choose another"
            " name, or remove that file."
        )
    return path


def _files_at(path: Path) -> set[Path]:
    with contextlib.suppress(Exception):  # no file, or no model
        return model_files(path)
    return set()


def to_proto(model: ir.Model, written: Path | None = None) -> onnx.ModelProto:
    """Return the model as a proto with its weights inline; one too large for that with references to its weights.

    Args:
        model: The model.
        written: Where it was saved, if it was: there its weights lie, beside the file.

    Raises:
        OutputError: The weights exceed what one proto can hold, and were not saved to a file.
    """
    if not is_large(model):
        return ir.to_proto(_lean(model))
    if written is None:
        raise OutputError("The model is larger than 2 GB and cannot be one ModelProto; give an output path instead.")
    return onnx.load(written, "protobuf", load_external_data=False)


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


def save_model(model: ir.Model, target: str | Path, *read: Path) -> Path:
    """Write the model to `target`; above 2 GB the weights go to `<target>.data` beside it.

    Args:
        model: The model.
        target: A file, which may exist.
        read: Files that it was made from.

    Raises:
        OutputError: The file cannot be written, or a file would be lost, see `check_place`; nothing is left behind.
    """
    large = is_large(model)
    path = check_place(target, *read, large=large)
    with replacing(path) as place:
        if large:
            ir.save(model, place, "protobuf", external_data=data_file(path).name)
        else:
            write_model(_lean(model), place)
    return path
