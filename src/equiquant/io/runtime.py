"""onnxruntime sessions over onnx_ir models, by value name.

Large weights are not serialized: the session gets a graph without them and reads the arrays in place, so that a session
costs little memory and time and may hold more than the 2 GB a protobuf can. Those of a large model are inputs of the
graph and go in with every run: of anything else onnxruntime makes a copy, if only while the session is made.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort

from equiquant.errors import ModelError, first_line
from equiquant.graph import edit, query
from equiquant.io.mapped import unload
from equiquant.io.save import model_bytes

__all__ = ["Feed", "InputSpec", "Runner", "expose", "input_specs"]

Array = npt.NDArray[Any]
Feed = Mapping[str, Array]
"""An array for every input of a model."""

LEND_ABOVE = 1024  # bytes; a smaller weight is cheaper inside the graph
LEAN_ABOVE = 50_000_000  # bytes of weights; above, onnxruntime's repacked copies cost more memory than they save time
LENDABLE = {"FLOAT", "FLOAT16", "DOUBLE", "INT8", "UINT8", "INT16", "UINT16", "INT32", "INT64"}

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

OUT_OF_MEMORY = ("bad_alloc", "bad allocation", "Failed to allocate memory")  # Linux, Windows, onnxruntime's own arena

UNKNOWN_TO_NUMPY = ("bfloat16", "float8", "float4", "int4", "uint4")


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


def input_specs(model: ir.Model) -> tuple[InputSpec, ...]:
    """Return what the model's inputs accept; initializers listed as inputs are left out.

    Raises:
        ModelError: An input is not a tensor of a known type.
    """
    specs = []
    for value in model.graph.inputs:
        if value.name in model.graph.initializers:
            continue
        if value.dtype is None:
            raise ModelError(f"Input '{value.name}' has no tensor type; EquiQuant feeds tensors only.")
        shape = query.static_shape(value)
        if shape is None:
            raise ModelError(f"Input '{value.name}' has no rank; give it a shape in the model first.")
        dtype = "bfloat16" if value.dtype == ir.DataType.BFLOAT16 else value.dtype.numpy().name
        specs.append(InputSpec(value.name or "", dtype, tuple(d if d else None for d in shape)))
    return tuple(specs)


class Runner:
    """Runs a model with onnxruntime.

    Args:
        model: The model, a path, or a proto.
        outputs: Names of values to return, in order; None for the graph's outputs. Intermediate values are exposed
            on a copy.
        optimize: Let onnxruntime optimize the graph; off, the nodes run as written.
        threads: Intra-op threads, 0 for all cores.
        disposable: Nobody else uses the `ir.Model`: it is taken apart instead of a copy.
        arena: Take memory in large pieces, which stay as long as anything that lies in them, results too: off for
            results that are kept.
        lean: Keep the weights of a large model out of the session, which then fuses nothing with them; off, it is the
            session that a user gets, at the cost of its copies.
        entries: Further entries of the session's configuration.

    Raises:
        ModelError: onnxruntime refuses the model, or has not enough memory for it.
    """

    def __init__(
        self,
        model: ir.Model | onnx.ModelProto | str | Path,
        outputs: Sequence[str] | None = None,
        *,
        optimize: bool = True,
        threads: int = 0,
        disposable: bool = False,
        arena: bool = True,
        lean: bool = True,
        entries: Mapping[str, str] | None = None,
    ) -> None:
        options = ort.SessionOptions()
        for key, entry in (entries or {}).items():
            options.add_session_config_entry(key, entry)
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        options.enable_cpu_mem_arena = arena
        options.enable_mem_pattern = False  # a block for all activations, beside what the first run took
        levels = ort.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
        lean = lean and isinstance(model, ir.Model) and model_bytes(model) > LEAN_ABOVE
        if lean:
            options.add_session_config_entry("session.disable_prepacking", "1")
            if optimize:
                options.graph_optimization_level = levels.ORT_ENABLE_EXTENDED
        self._lent: list[ort.OrtValue] = []  # weights the session reads in place: they must outlive it
        self._fed: dict[str, Array] = {}  # weights that are inputs
        try:
            source: bytes | str
            if isinstance(model, ir.Model):
                if not disposable:
                    model = model.clone() if outputs is None else expose(model, outputs)
                if lean:
                    self._feed_weights(model)
                else:
                    self._lend_weights(model, options, share=not optimize)
                source = bytes(ir.to_proto(model).SerializeToString())
            else:
                source = bytes(model.SerializeToString()) if isinstance(model, onnx.ModelProto) else os.fspath(model)
            self._session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except MemoryError:
            raise
        except Exception as error:  # onnxruntime has its own unexported exception classes
            raise ModelError(f"{_fails(error, 'cannot run')} the model: {first_line(error)}") from error
        self.inputs = tuple(
            InputSpec(
                i.name,
                NUMPY_TYPES.get(i.type, i.type),
                tuple(d if isinstance(d, int) and d > 0 else None for d in i.shape),
            )
            for i in self._session.get_inputs()
            if i.name not in self._fed
        )
        self.outputs = tuple(outputs) if outputs is not None else tuple(o.name for o in self._session.get_outputs())
        kinds = {o.name: _kind(o) for o in self._session.get_outputs()}
        self._float8 = {n: ir.DataType[k.upper()].numpy() for n, k in kinds.items() if k.startswith("float8")}

    def _feed_weights(self, model: ir.Model) -> None:
        """Make the large weights inputs of the graph."""
        for value, array in _large_weights(model).items():
            del model.graph.initializers[value.name or ""]
            value.const_value, value.shape = None, ir.Shape(array.shape)
            if not value.is_graph_input():
                model.graph.inputs.append(value)
            self._fed[value.name or ""] = array

    def _lend_weights(self, model: ir.Model, options: ort.SessionOptions, *, share: bool) -> None:
        """Let the large weights go by way of the options, in place if `share`: else the session reads copies."""
        weights = _large_weights(model)
        for value, array in weights.items():
            dtype = ir.DataType.from_numpy(array.dtype)
            value.const_value = ir.ExternalTensor(
                "lent", 0, array.nbytes, dtype, shape=ir.Shape(array.shape), name=value.name or ""
            )
            self._lent.append(ort.OrtValue.ortvalue_from_numpy(array))
        if weights:
            names = [value.name or "" for value in weights]
            options.add_external_initializers(names, self._lent)
            if share:
                for name, weight in zip(names, self._lent, strict=True):
                    options.add_initializer(name, weight)

    def run(self, feed: Feed) -> list[Array]:
        """Return the outputs for one feed, in the order asked for.

        Raises:
            ModelError: onnxruntime fails at run time, for want of memory for one.
        """
        try:
            result = self._session.run(list(self.outputs), {**feed, **self._fed})
        except MemoryError:
            raise
        except Exception as error:
            raise ModelError(self._failure(error)) from error
        return [self._decoded(name, _array(value)) for name, value in zip(self.outputs, result, strict=True)]

    def _decoded(self, name: str, array: Array) -> Array:
        """Return an output's numbers: of a float8 type onnxruntime hands over the bytes, if anything."""
        kind = self._float8.get(name)
        return array if kind is None else array.view(kind).astype(np.float32)

    def _failure(self, error: Exception) -> str:
        """Say why a run failed: onnxruntime does not name the output it cannot hand to Python."""
        for output in self._session.get_outputs():
            if (kind := _kind(output)).startswith(UNKNOWN_TO_NUMPY):
                return (
                    f"The output '{output.name}' is {kind}, which onnxruntime's Python interface cannot return."
                    " End the model with a Cast to float."
                )
        return f"{_fails(error, 'failed on')} the model: {first_line(error)}"


def _fails(error: Exception, otherwise: str) -> str:
    """Return what onnxruntime does to a model, to put before it: it raises a MemoryError in a guise of its own."""
    short = any(sign in str(error) for sign in OUT_OF_MEMORY)
    return "onnxruntime has not enough memory for" if short else f"onnxruntime {otherwise}"


def _kind(output: Any) -> str:
    """Return the element type of a session's output, such as `float`."""
    return str(output.type).removeprefix("tensor(").removesuffix(")")


def _array(value: Any) -> Array:
    """Return an output as an array; of a sequence, whose tensors need not have one shape, the numbers one by one."""
    if isinstance(value, list):
        return np.concatenate([np.zeros(0), *(_array(part).ravel() for part in value)])
    return np.asarray(value)


def _large_weights(model: ir.Model) -> dict[ir.Value, Array]:
    """Return the weights that need not be serialized; a small one is part of the graph, not of a file, on return."""
    found = {}
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None:
            continue
        readers = {node.graph for node in value.consumers()}
        unread = not readers and not value.is_graph_output()  # onnxruntime drops those, and then misses them
        if tensor.nbytes < LEND_ABOVE or tensor.dtype.name not in LENDABLE or unread or readers - {model.graph}:
            if isinstance(tensor, ir.ExternalTensor):  # its path means nothing to a model that is not a file
                value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)
            continue
        array = tensor.numpy()
        found[value] = np.require(array, requirements=("C", "A"))
        if found[value] is not array:  # a mapped weight may lie unaligned in its file: the copy does
            unload(array)
    return found


def expose(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """Return a clone whose graph outputs are the named values, without the nodes that none of them needs."""
    clone = model.clone()
    values = query.values_by_name(clone)
    clone.graph.outputs.clear()
    clone.graph.outputs.extend(values[n] for n in names)
    edit.remove_dead(clone)  # onnxruntime would run them all the same
    return clone
