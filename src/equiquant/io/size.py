"""The files of a model, external weight files included, and how much room they take on disk."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from equiquant.graph.query import all_graphs, stored

__all__ = ["files_bytes", "model_files"]


def model_files(path: str | Path) -> set[Path]:
    """Return the paths, resolved, of a model file and of the weight files beside it; weights are not read."""
    files = {Path(path).resolve()}
    for graph in all_graphs(ir.load(path)):
        for _, tensor in stored(graph):
            if isinstance(tensor, ir.ExternalTensor):
                files.add((Path(path).parent / tensor.location).resolve())
    return files


def files_bytes(path: str | Path) -> int:
    """Return the size in bytes of all files of a model."""
    return sum(file.stat().st_size for file in model_files(path))
