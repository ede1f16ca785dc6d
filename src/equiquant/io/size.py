"""The files of a model, external weight files included, and how much room they take on disk."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import onnx
import onnx_ir as ir

from equiquant.io.load import ModelLike
from equiquant.io.mapped import external_tensors, read_graph
from equiquant.io.places import path_of

__all__ = ["files_bytes", "files_of", "model_files"]


def model_files(path: str | os.PathLike[str]) -> set[Path]:
    """Return the paths, resolved, of a model file and of the weight files beside it; weights are not read."""
    file = path_of(path)
    graph, _ = read_graph(file)
    tensors = external_tensors(ir.from_proto(graph))
    return {file.resolve(), *((file.parent / tensor.location).resolve() for _, tensor in tensors)}


def files_of(model: ModelLike | None) -> set[Path]:
    """Return the files that a model is read from, as far as can be told; of a model in memory those of its weights."""
    with contextlib.suppress(Exception):  # loading says what is wrong with it
        if isinstance(model, str | os.PathLike):
            return model_files(model)
        held = ir.from_proto(model) if isinstance(model, onnx.ModelProto) else model
        return set() if held is None else {Path(tensor.path).resolve() for _, tensor in external_tensors(held)}
    return {path_of(model)} if isinstance(model, str | os.PathLike) else set()


def files_bytes(path: str | Path) -> int:
    """Return the size in bytes of all files of a model."""
    return sum(file.stat().st_size for file in model_files(path))
