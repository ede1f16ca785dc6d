"""Open a .onnx file without reading its weights: the graph is parsed, the weights stay where they are on disk.

A model file is a protobuf: fields of (tag, length, bytes). The raw bytes of every large initializer are left out of
what is parsed and become tensors over a memory map of the file, so that opening costs neither time nor memory that
grows with the weights. Field numbers are those of `onnx.proto` (ModelProto.graph, GraphProto.initializer,
TensorProto.raw_data); wire format: Protocol Buffers documentation, "Encoding".

Every weight has a map of its own part of the file and no more. It goes with the weight; and where the system brings in
large pieces of a file at a time, a map of the whole file for each weight would hold its neighbours as well, which came
to more than the weights of a ResNet-152. What was read stays in memory until `unload` lets it go.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from equiquant.errors import ModelError, first_line
from equiquant.graph.query import all_graphs, stored
from equiquant.io.parse import parse

__all__ = [
    "GRAPH",
    "INITIALIZER",
    "MAP_ABOVE",
    "RAW_DATA",
    "external_tensors",
    "field_head",
    "load_mapped",
    "map_held",
    "read_graph",
    "unload",
]

GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9
LENGTH_DELIMITED = 2
FIXED_SIZES = {1: 8, 5: 4}
MAP_ABOVE = 4096  # bytes; smaller tensors are read: a map takes a page, and a descriptor as long as it lives

Span = tuple[int, int]


def load_mapped(path: Path) -> ir.Model:
    """Read a model whose large weights stay on disk, those of external data files included.

    Raises:
        DecodeError: The file is not a protobuf of this shape, or is truncated.
        ModelError: A file of external data is missing, too short, or outside the model's folder.
        OSError: A file cannot be read.
    """
    proto, places = read_graph(path)
    weights = [(tensor.name, tensor.data_type, tuple(tensor.dims)) for tensor in proto.graph.initializer]
    model = parse(proto)
    ir.external_data.set_base_dir(model.graph, path.absolute().parent)
    for index, (start, end) in places.items():
        name, kind, shape = weights[index]
        model.graph.initializers[name].const_value = _mapped(path, start, end, name, ir.DataType(kind), shape)
    _map_external(model, path)
    return model


def read_graph(path: Path) -> tuple[onnx.ModelProto, dict[int, Span]]:
    """Return a model file's message less its large weights, and where in the file those are, by initializer index.

    Raises:
        DecodeError: The file is not a protobuf of this shape, or is truncated.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            raise DecodeError("empty file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            skeleton, places = _without_weights(data)
    return onnx.ModelProto.FromString(skeleton), places


def map_held(model: ir.Model) -> None:
    """Map the tensors that a model in memory leaves in files, as those of a model file are.

    onnx_ir maps the whole file anew for each, and holds a descriptor for each.

    Raises:
        ModelError: The file cannot be read, or is too short.
    """
    for value, tensor in external_tensors(model):
        if not tensor.size:
            continue
        start = tensor.offset or 0
        try:
            file = Path(tensor.path)
            if start + tensor.nbytes > file.stat().st_size:
                raise ValueError(f"{file} ends before them")
            _replace(value, tensor, file, start)
        except MemoryError:
            raise
        except Exception as error:  # no file, no type of numpy's: many kinds
            raise ModelError(
                f"Cannot read the data of '{value.name}': {first_line(error)}."
                " Give the model's path, or load it with its external data."
            ) from error


class _WeightMap(mmap.mmap):
    """A map made here, of which nobody changes anything: in one of the caller's, changes not in its file would go."""


def unload(array: npt.NDArray[Any]) -> None:
    """Let go of the memory that a mapped weight takes; it comes back when it is read. Other arrays are left alone."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    if isinstance(base, _WeightMap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def _mapped(path: Path, start: int, end: int, name: str, kind: ir.DataType, shape: Sequence[int]) -> ir.TensorProtocol:
    """Return a tensor whose elements are a part of a file."""
    data: mmap.mmap | bytes
    with path.open("rb") as file:
        if end - start > MAP_ABOVE:
            before = start % mmap.ALLOCATIONGRANULARITY  # a map begins at a page
            data = _WeightMap(file.fileno(), end - start + before, access=mmap.ACCESS_READ, offset=start - before)
        else:
            before = 0
            file.seek(start)
            data = file.read(end - start)
    if kind.bitwidth < 8:  # several in a byte
        return ir.PackedTensor(np.frombuffer(data, np.uint8, offset=before), kind, shape=shape, name=name)
    return ir.Tensor(np.frombuffer(data, kind.numpy(), offset=before).reshape(shape), kind, name=name)


def _map_external(model: ir.Model, path: Path) -> None:
    """Map the tensors that lie in other files, those of Constant nodes and in functions included.

    Such a file has to be in the model's folder. Where model and weights are links into one store, as a download cache
    keeps them, it is the folder they are named in that counts, or the one they are both kept in.
    """
    named = path.absolute().parent
    folders = named.resolve(), path.resolve().parent
    for value, tensor in external_tensors(model):
        if not tensor.size:
            continue
        file = (named / tensor.location).resolve()
        if not any(map(file.is_relative_to, folders)):
            raise ModelError(
                f"The weights of '{value.name}' are in {tensor.location}, outside the model's folder; put the file"
                " beside the model."
            )
        if not file.is_file():
            what = "is no file" if file.exists() else "does not exist"
            raise ModelError(
                f"The weights of '{value.name}' are in {named / tensor.location}, which {what}; put the file beside"
                " the model."
            )
        start = tensor.offset or 0
        end = start + (tensor.length or tensor.nbytes)
        if end > file.stat().st_size or end - start < tensor.nbytes:
            raise ModelError(f"The weights of '{value.name}' go beyond the end of {file}: the file is truncated.")
        _replace(value, tensor, file, start)


def external_tensors(model: ir.Model) -> Iterator[tuple[ir.Value, ir.ExternalTensor]]:
    """Yield the tensors that lie in other files, with their values; they may be replaced."""
    for graph in all_graphs(model):
        for value, tensor in list(stored(graph)):
            if isinstance(tensor, ir.ExternalTensor):
                yield value, tensor


def _replace(value: ir.Value, tensor: ir.ExternalTensor, file: Path, start: int) -> None:
    """Put a tensor over its part of the file in place of an external one."""
    mapped = _mapped(file, start, start + tensor.nbytes, value.name or "", tensor.dtype, tensor.shape.numpy())
    if (node := value.producer()) is None:
        value.const_value = mapped
    else:
        node.attributes.add(ir.AttrTensor("value", mapped))


def _without_weights(data: mmap.mmap) -> tuple[bytes, dict[int, Span]]:
    """Return the model's bytes less its large weights, and where in the file those are, by initializer index."""
    parts: list[bytes] = []
    places: dict[int, Span] = {}
    for number, whole, content in _fields(data, 0, len(data)):
        if number != GRAPH:
            parts.append(data[slice(*whole)])
            continue
        graph: list[bytes] = []
        count = 0
        for inner, inner_whole, inner_content in _fields(data, *content):
            if inner != INITIALIZER:
                graph.append(data[slice(*inner_whole)])
                continue
            tensor, place = _tensor(data, inner_whole, inner_content)
            graph.append(tensor)
            if place is not None:
                places[count] = place
            count += 1
        parts += [field_head(GRAPH, sum(map(len, graph))), *graph]
    return b"".join(parts), places


def _tensor(data: mmap.mmap, whole: Span, content: Span) -> tuple[bytes, Span | None]:
    """Return one initializer's field without its raw bytes, and their place; as it is if it is small."""
    if content[1] - content[0] <= MAP_ABOVE:
        return data[slice(*whole)], None
    place: Span | None = None
    kept: list[bytes] = []
    for number, field_whole, field_content in _fields(data, *content):
        if number == RAW_DATA and field_content[1] - field_content[0] > MAP_ABOVE:
            place = field_content
        else:
            kept.append(data[slice(*field_whole)])
    return field_head(INITIALIZER, sum(map(len, kept))) + b"".join(kept), place


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, Span, Span]]:
    """Yield (field number, span of the whole field, span of its content) of one message."""
    position = start
    while position < end:
        tag, after = _varint(data, position, end)
        wire = tag & 7
        if wire == LENGTH_DELIMITED:
            size, body = _varint(data, after, end)
            stop = body + size
        elif wire == 0:
            body = after
            _, stop = _varint(data, after, end)
        elif wire in FIXED_SIZES:
            body, stop = after, after + FIXED_SIZES[wire]
        else:
            raise DecodeError(f"unknown wire type {wire}")
        if stop > end:
            raise DecodeError("truncated")
        yield tag >> 3, (position, stop), (body, stop)
        position = stop


def _varint(data: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    """Return a variable-length integer and the position after it."""
    value = shift = 0
    while position < end and shift < 64:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
    raise DecodeError("truncated")


def field_head(number: int, size: int) -> bytes:
    """Return what precedes the content of a length-delimited field."""
    head = bytearray()
    for value in (number << 3 | LENGTH_DELIMITED, size):
        while value >= 0x80:
            head.append(value & 0x7F | 0x80)
            value >>= 7
        head.append(value)
    return bytes(head)
