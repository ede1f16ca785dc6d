"""What a model is, before anything is done to it: its inputs and operators, and what equalization could do for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from equiquant.graph.query import all_graphs, stored
from equiquant.io.load import LoadedModel
from equiquant.report.plain import plain
from equiquant.report.texts import NOTICEABLE_DB

__all__ = ["Held", "Inspection", "LayerOutlook", "Outlook", "TensorInfo", "TensorOutlook", "inspect_model"]


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a model.

    Attributes:
        name: Its name.
        dtype: Its element type, e.g. `float32`, or `unknown`.
        shape: One entry a dimension: a size, or the name of a dynamic one; None if even the rank is unknown.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None


@dataclass(frozen=True)
class Held:
    """Channels of a layer that must keep their scale.

    Attributes:
        channels: How many.
        reason: Why.
        node: Where the reason lies.
    """

    channels: int
    reason: str
    node: str


@dataclass(frozen=True)
class LayerOutlook:
    """What equalization could do for one layer.

    Attributes:
        name: The layer.
        op_type: Its op.
        channels: Output channels.
        free: Output channels that may be rescaled.
        spread_before: Largest over median channel range of the weight; dead channels do not count.
        spread_after: The same with the scales of the global solver.
        quantized: Its weight would be quantized; else it stays float.
        sqnr_before_db: Predicted SQNR at the network's output if this layer's weight and bias were all that is rounded;
            None for a layer that stays float, and where no finite gradient of the output reaches it.
        sqnr_after_db: The same with the scales of the global solver.
        held: The other channels, by what holds them.
    """

    name: str
    op_type: str
    channels: int
    free: int
    spread_before: float
    spread_after: float
    quantized: bool
    sqnr_before_db: float | None
    sqnr_after_db: float | None
    held: tuple[Held, ...]

    @property
    def helped(self) -> bool:
        """Equalization takes noise away from this layer."""
        before, after = self.sqnr_before_db, self.sqnr_after_db
        return before is not None and after is not None and after > before + NOTICEABLE_DB


@dataclass(frozen=True)
class TensorOutlook:
    """What equalization could do for one activation tensor: predicted SQNR if it were all that is rounded, in dB."""

    name: str
    sqnr_before_db: float
    sqnr_after_db: float


@dataclass(frozen=True)
class Outlook:
    """What equalization could do for a model, predicted by its own solver; nothing has been quantized.

    Attributes:
        preset: Name of the quantization it is predicted for.
        samples: Samples the prediction stands on.
        synthetic: They were made up.
        sqnr_db: Predicted SQNR of the whole network in dB, all rounding together, by method: `none`,
            `pairwise` (not of a large model), `global`, and where there is a ReLU6 `per_channel`, `global` with a bound
            of its own for every channel; empty if nothing can be predicted.
        layers: In graph order.
        tensors: Activation tensors, in graph order.
    """

    preset: str
    samples: int
    synthetic: bool
    sqnr_db: Mapping[str, float]
    layers: tuple[LayerOutlook, ...]
    tensors: tuple[TensorOutlook, ...]


@dataclass(frozen=True)
class Inspection:
    """What a model is.

    Attributes:
        path: Where it came from, None for a model given in memory.
        sha256: Hash of the file.
        producer: The exporter that wrote it, with its version where given.
        opsets: Version of each operator domain; the default domain is `ai.onnx`.
        inputs: What a caller must feed.
        outputs: What it returns.
        ops: Number of nodes of each kind, most frequent first, bodies of control flow included.
        parameters: Elements of all tensors stored, as initializers or in Constant nodes, those of functions included.
        parameter_bytes: Their size in bytes.
        parameter_types: Bytes per element type.
        quantized: It already holds quantized operators.
        outlook: What equalization could do for it; None where that cannot be told.
        no_outlook: Why it cannot be told; empty if it can.
    """

    path: str | None
    sha256: str
    producer: str
    opsets: Mapping[str, int]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    ops: Mapping[str, int]
    parameters: int
    parameter_bytes: int
    parameter_types: Mapping[str, int]
    quantized: bool
    outlook: Outlook | None = None
    no_outlook: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        result: dict[str, Any] = plain(self)
        return result


def inspect_model(loaded: LoadedModel) -> Inspection:
    """Describe a model that `io.load_model(..., allow_quantized=True)` read; weights are not touched."""
    model = loaded.model
    ops = Counter(node.op_type for node in model.graph.all_nodes())
    tensors = [tensor for graph in all_graphs(model) for _, tensor in stored(graph)]
    types: Counter[str] = Counter()
    for tensor in tensors:
        types[_dtype(tensor.dtype)] += tensor.nbytes
    return Inspection(
        path=str(loaded.path) if loaded.path else None,
        sha256=loaded.sha256,
        producer=" ".join(filter(None, (model.producer_name, model.producer_version))) or "unknown",
        opsets={domain or "ai.onnx": version for domain, version in model.graph.opset_imports.items()},
        inputs=tuple(_info(v) for v in model.graph.inputs if v.name not in model.graph.initializers),
        outputs=tuple(_info(v) for v in model.graph.outputs),
        ops=dict(ops.most_common()),
        parameters=sum(t.size for t in tensors),
        parameter_bytes=sum(t.nbytes for t in tensors),
        parameter_types=dict(types.most_common()),
        quantized=loaded.quantized,
    )


def _info(value: ir.Value) -> TensorInfo:
    shape = None
    if value.shape is not None:
        shape = tuple(d if isinstance(d, int) else str(d.value or "?") for d in value.shape)
    return TensorInfo(str(value.name), _dtype(value.dtype), shape)


def _dtype(dtype: ir.DataType | None) -> str:
    """Return the numpy name of an element type where it has one."""
    if dtype is None:
        return "unknown"
    try:
        return str(dtype.numpy())
    except TypeError:
        return dtype.name.lower()
