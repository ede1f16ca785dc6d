"""onnxruntime sessions over onnx_ir models, by value name."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort

from equiquant.errors import ModelError
from equiquant.io.save import INLINE_LIMIT, model_bytes, to_proto

__all__ = ["InputSpec", "Runner"]

Feed = Mapping[str, npt.NDArray[Any]]

NUMPY_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int16)": "int16",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(bool)": "bool",
}


@dataclass(frozen=True)
class InputSpec:
    """What a model input accepts.

    Attributes:
        name: Its name.
        dtype: Its numpy type name, e.g. `float32`.
        shape: One entry a dimension: a size, or None where it is dynamic.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]


class Runner:
    """Runs a model with onnxruntime.

    Args:
        model: The model, a path, or a proto. A model above 2 GB is spilled to a temporary file.
        outputs: Names of values to return, in order; None for the graph's outputs. Intermediate values are exposed
            on a copy.
        optimize: Let onnxruntime optimize the graph; off, the nodes run as written.
        threads: Intra-op threads, 0 for all cores.

    Raises:
        ModelError: onnxruntime refuses the model.
    """

    def __init__(
        self,
        model: ir.Model | onnx.ModelProto | str | Path,
        outputs: Sequence[str] | None = None,
        *,
        optimize: bool = True,
        threads: int = 0,
    ) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        levels = ort.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
        if isinstance(model, ir.Model) and outputs is not None:
            model = _expose(model, outputs)
        self._spill: tempfile.TemporaryDirectory[str] | None = None
        try:
            self._session = ort.InferenceSession(self._source(model), options, providers=["CPUExecutionProvider"])
        except ModelError:
            raise
        except Exception as error:  # onnxruntime has its own unexported exception classes
            raise ModelError(f"onnxruntime cannot run the model: {str(error).strip().splitlines()[0]}") from error
        self.inputs = tuple(
            InputSpec(
                i.name,
                NUMPY_TYPES.get(i.type, i.type),
                tuple(d if isinstance(d, int) and d > 0 else None for d in i.shape),
            )
            for i in self._session.get_inputs()
        )
        self.outputs = tuple(outputs) if outputs is not None else tuple(o.name for o in self._session.get_outputs())

    def _source(self, model: ir.Model | onnx.ModelProto | str | Path) -> bytes | str:
        if isinstance(model, str | Path):
            return os.fspath(model)
        if isinstance(model, onnx.ModelProto):
            return bytes(model.SerializeToString())
        if model_bytes(model) > INLINE_LIMIT:
            self._spill = tempfile.TemporaryDirectory(prefix="equiquant-")
            path = Path(self._spill.name) / "model.onnx"
            ir.save(model, path, external_data="model.data")
            return os.fspath(path)
        return bytes(to_proto(model.clone()).SerializeToString())

    def run(self, feed: Feed) -> list[npt.NDArray[Any]]:
        """Return the outputs for one feed, in the order asked for.

        Raises:
            ModelError: onnxruntime fails at run time.
        """
        try:
            result: list[npt.NDArray[Any]] = self._session.run(list(self.outputs), dict(feed))
        except Exception as error:
            raise ModelError(f"onnxruntime failed on the model: {str(error).strip().splitlines()[0]}") from error
        return [np.asarray(r) for r in result]


def _expose(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """Return a clone whose graph outputs are the named values."""
    clone = model.clone()
    values = {v.name: v for v in clone.graph.inputs}
    values |= {v.name: v for node in clone.graph for v in node.outputs}
    clone.graph.outputs.clear()
    clone.graph.outputs.extend(values[n] for n in names)
    return clone
