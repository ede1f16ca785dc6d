"""Load a model as onnx_ir without touching what the caller holds, and refuse what cannot be quantized."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from equiquant.errors import ModelError, first_line
from equiquant.graph.query import FINITE, label, stored
from equiquant.io.mapped import load_mapped, map_held
from equiquant.io.parse import parse
from equiquant.io.places import path_of

__all__ = ["LoadedModel", "ModelLike", "load_model", "name_nodes"]

ModelLike = str | os.PathLike[str] | onnx.ModelProto | ir.Model

QUANTIZED_OPS = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"}
    | {"ConvInteger", "MatMulInteger"}
)


@dataclass(frozen=True)
class LoadedModel:
    """A private copy of the caller's model.

    Attributes:
        model: The graph, ours to edit.
        sha256: Hash of the input file, or of the serialized proto.
        path: Where it came from, None for in-memory models.
    """

    model: ir.Model
    sha256: str
    path: Path | None

    @property
    def quantized(self) -> bool:
        """True if the model holds quantized operators."""
        return any(node.op_type in QUANTIZED_OPS for graph in _reached(self.model) for node in graph.all_nodes())


def load_model(source: ModelLike, *, allow_quantized: bool = False) -> LoadedModel:
    """Read a model from a path, a ModelProto or an onnx_ir.Model; external weights stay memory-mapped.

    Args:
        source: The model; in-memory models are copied, never edited.
        allow_quantized: Accept a model that already holds quantized operators.

    Raises:
        ModelError: The file is missing, truncated or not ONNX, the model is invalid or already quantized, or a
            weight is NaN or infinite.
        DataError: The path is empty.
    """
    path: Path | None = None
    if isinstance(source, ir.Model):
        proto = ir.to_proto(source)
        model = source.clone() if _in_order(source) else parse(proto)  # only what is in order can be cloned
        digest = hashlib.sha256(proto.SerializeToString()).hexdigest()
    elif isinstance(source, onnx.ModelProto):
        data = source.SerializeToString()
        model, digest = parse(onnx.ModelProto.FromString(data)), hashlib.sha256(data).hexdigest()
    elif isinstance(source, str | os.PathLike):
        path = path_of(source)
        model, digest = _read(path)
    else:
        raise ModelError(f"A model is a path, an onnx.ModelProto or an onnx_ir.Model, not {type(source).__name__}.")
    if not _in_order(model):
        try:
            model.graph.sort()
        except ValueError as error:
            raise ModelError("The graph has a cycle: a node reads what is made of its own output.") from error
    map_held(model)
    _validate(model, allow_quantized)
    _free_dimensions(model)
    name_nodes(model)
    return LoadedModel(model, digest, path)


def _read(path: Path) -> tuple[ir.Model, str]:
    if not path.exists():
        raise ModelError(f"No such model file: {path}")
    if path.is_dir():
        raise ModelError(f"{path} is a folder; give the .onnx file in it.")
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        model = load_mapped(path)
    except (MemoryError, ModelError):
        raise
    except DecodeError as error:
        raise ModelError(f"{path} is not an ONNX model, or the file is truncated.") from error
    except OSError as error:
        raise ModelError(f"Cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # damaged files raise many kinds
        raise ModelError(f"{path} is not a valid ONNX model: {first_line(error)}") from error
    return model, digest


def _validate(model: ir.Model, allow_quantized: bool) -> None:
    if not len(model.graph):
        raise ModelError("The model has no nodes: the file is empty, truncated or not an ONNX model.")
    if not model.graph.outputs:
        raise ModelError("The model has no outputs.")
    graphs = _reached(model)
    for node in chain.from_iterable(graph.all_nodes() for graph in graphs):
        if node.op_type in QUANTIZED_OPS and not allow_quantized:
            raise ModelError(
                f"The model is already quantized (node '{label(node)}' is {node.op_type}). Start from the float model."
            )
    for value in model.graph.initializers.values():
        if value.const_value is None:
            raise ModelError(f"Initializer '{value.name}' has no data.")
    for value, tensor in chain.from_iterable(map(stored, graphs)):
        if not tensor.dtype.is_floating_point() or not (value.uses() or value.is_graph_output()):
            continue
        wide = _numbers(value, tensor).astype(np.float32, copy=False)
        if np.isfinite(wide).all():
            continue
        if np.isnan(wide).any() or any(node.op_type in FINITE for node in value.consumers()):
            raise ModelError(f"The constant '{value.name}' contains NaN or infinite values; repair the model first.")


def _numbers(value: ir.Value, tensor: ir.TensorProtocol) -> npt.NDArray[Any]:
    """Return the numbers of a tensor; a lazy one of the caller's may have none."""
    try:
        array: npt.NDArray[Any] = tensor.numpy()
    except MemoryError:
        raise
    except Exception as error:
        raise ModelError(f"Cannot read the data of '{value.name}': {first_line(error)}.") from error
    return array


def _reached(model: ir.Model) -> list[ir.Graph]:
    """Return the graph of the model and those of the functions it calls, directly or not."""
    graphs = [model.graph]
    for graph in graphs:  # which grows
        called = (model.functions.get(node.op_identifier()) for node in graph.all_nodes())
        graphs += [f.graph for f in dict.fromkeys(called) if f is not None and f.graph not in graphs]
    return graphs


def _in_order(model: ir.Model) -> bool:
    """True if every node comes after those that make what it reads, as ONNX asks for; onnxruntime takes others too."""
    place = {node: index for graph in model.graphs() for index, node in enumerate(graph)}
    return all(
        maker is None or maker.graph is not node.graph or place[maker] < place[node]
        for node in place
        for maker in (value.producer() for value in node.inputs if value is not None)
    )


def _free_dimensions(model: ir.Model) -> None:
    """Leave open every dimension stored as a negative size, as Paddle's exporter writes what is dynamic."""
    for graph in model.graphs():
        produced = (value for node in graph for value in node.outputs)
        for value in (*graph.inputs, *graph.outputs, *produced):
            if value.shape is not None and any(isinstance(d, int) and d < 0 for d in value.shape):
                value.shape = ir.Shape([None if isinstance(d, int) and d < 0 else d for d in value.shape])


def name_nodes(model: ir.Model | ir.Function) -> None:
    """Give every node of a graph a name of its own, so that each decision can say where it happened."""
    taken: set[str] = set()
    for node in model.graph.all_nodes():
        base = node.name or (f"{node.op_type}_{node.outputs[0].name}" if node.outputs else node.op_type)
        name, count = base, 1
        while name in taken:
            name, count = f"{base}_{count}", count + 1
        node.name = name
        taken.add(name)
