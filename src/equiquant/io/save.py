"""Write a model whole or not at all: a temporary file beside the target, checked, then renamed."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import onnx
import onnx_ir as ir

from equiquant.errors import OutputError

__all__ = [
    "INLINE_LIMIT",
    "check_makeable",
    "check_writable",
    "model_bytes",
    "refuse_special",
    "save_model",
    "to_proto",
]

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


def refuse_special(path: Path) -> None:
    """Refuse to write where something is that is no file: a file made elsewhere and renamed would take its place.

    Raises:
        OutputError: The path is a device, a pipe or a socket.
    """
    if path.exists() and not path.is_file():
        raise OutputError(f"{path} exists and is not a regular file; give the name of a file.")


def check_writable(target: str | Path, source: Path | None = None) -> Path:
    """Check, before any work, that `target` can be written and is not the input.

    Raises:
        OutputError: The folder is missing or read-only, the path is a folder, a device or a pipe, or the input file.
    """
    path = Path(target)
    if path.is_dir():
        raise OutputError(f"The output {path} is a folder; give the name of a file in it.")
    refuse_special(path)
    if source is not None and path.exists() and source.exists() and path.samefile(source):
        raise OutputError(f"The output {path} is the input model; choose another name so that nothing is lost.")
    if not path.parent.is_dir():
        raise OutputError(f"The output folder {path.parent} does not exist.")
    _check_folder(path.parent)
    return path


def check_makeable(folder: str | Path) -> Path:
    """Check, before any work, that `folder` can be made, with all its parents, and written to.

    Raises:
        OutputError: It or one of its parents is a file or read-only.
    """
    path = Path(folder)
    existing = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not existing.is_dir():
        raise OutputError(f"The folder {path} cannot be made: {existing} is a file.")
    _check_folder(existing)
    return path


def _check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be written to."""
    if not os.access(folder, os.W_OK):
        raise OutputError(f"The output folder {folder} is not writable.")
    try:  # root may pass os.access on a read-only file system; ask the file system itself
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"Cannot write to {folder}: {error.strerror}") from error


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
