"""How much room a model takes on disk, external weight files included."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

__all__ = ["files_bytes"]


def files_bytes(path: str | Path) -> int:
    """Return the size in bytes of a model file and of the weight files beside it; weights are not read."""
    model = ir.load(path)
    files = {Path(path).resolve()}
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                files.add(Path(value.const_value.path).resolve())
    return sum(file.stat().st_size for file in files)
