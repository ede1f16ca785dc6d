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


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """Return the model as a proto with its weights inline.

    Raises:
        OutputError: The weights exceed what one proto can hold; save to a file instead.
    """
    if model_bytes(model) > INLINE_LIMIT:
        raise OutputError("The model is larger than 2 GB and cannot be one ModelProto; give an output path instead.")
    return ir.to_proto(_inline(model))


def _inline(model: ir.Model) -> ir.Model:
    """Return a copy of the graph whose weights on disk are read into memory; the model itself keeps them mapped."""
    copy = model.clone()
    ir.external_data.load_to_model(copy)
    return copy


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
                ir.save(_inline(model), folder / path.name)
            if large:
                (folder / f"{path.name}.data").replace(path.parent / f"{path.name}.data")
            (folder / path.name).replace(path)
        except OSError as error:
            raise OutputError(f"Cannot write {path}: {error.strerror or error}") from error
    return path
