"""The limits of the NPU, checked on an emitted model: its scales read from the file, the limits written out again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

FUSED = ("Relu", "Clip", "LeakyRelu", "PRelu")
SHARING = ("Concat", "AveragePool", "GlobalAveragePool", "MaxPool", "GlobalMaxPool", "Pad", "Slice")


@dataclass
class Emitted:
    """A QDQ model as lookups: `position` of a tensor a DequantizeLinear makes, or a QuantizeLinear reads."""

    model: onnx.ModelProto

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.arrays = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.producer = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def scale(self, node: onnx.NodeProto) -> int:
        scale = self.arrays[node.input[1]]
        mantissa, exponent = np.frexp(scale.item())
        assert mantissa == 0.5, f"{node.name}: the scale {scale} is no power of two"
        return 1 - int(exponent)

    def read(self, name: str) -> int | None:
        node = self.producer.get(name)
        return self.scale(node) if node is not None and node.op_type == "DequantizeLinear" else None

    def written(self, name: str) -> int | None:
        for node in self.readers.get(name, []):
            if node.op_type == "QuantizeLinear":
                return self.scale(node)
            if node.op_type in FUSED or (node.op_type == "Min" and len(self.readers[name]) == 1):
                return self.written(node.output[0])
        return None

    def bias(self, node: onnx.NodeProto) -> int | None:
        return self.read(node.input[2]) if len(node.input) > 2 else None


def violations(model: onnx.ModelProto) -> list[str]:
    """Return what the NPU could not run, one line each."""
    emitted = Emitted(model)
    return [line for node in model.graph.node for line in _of_node(emitted, node)]


def checks(model: onnx.ModelProto) -> int:
    """Return how many nodes have positions to check: a checker that finds none proves nothing."""
    emitted = Emitted(model)
    layers = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sub", "Mul", "HardSigmoid", *SHARING)
    nodes = [node for node in model.graph.node if node.op_type in layers]
    return sum(
        emitted.read(node.input[0]) is not None and emitted.written(node.output[0]) is not None for node in nodes
    )


def _of_node(emitted: Emitted, node: onnx.NodeProto) -> Iterator[str]:
    if node.op_type in ("QuantizeLinear", "DequantizeLinear") or not node.input:
        return
    inputs = [p for name in node.input if (p := emitted.read(name)) is not None]
    output = emitted.written(node.output[0])
    if not inputs or output is None:
        return

    def within(name: str, low: int, value: int, high: int) -> Iterator[str]:
        if not low <= value <= high:
            yield f"{node.op_type} {node.name}: {name} {value} is not in [{low}, {high}]"

    if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") and len(inputs) >= 2:
        product = inputs[0] + inputs[1]
        yield from within("cut", 0, product - output, 16)
        bias = emitted.bias(node)
        if bias is not None:
            leaky = any(n.op_type == "LeakyRelu" for n in emitted.readers.get(node.output[0], []))
            low = 0 if leaky else min(0, -(24 - (8 + product - output)))
            yield from within("bias", low, product - bias, 15)
    if node.op_type in ("Add", "Sub") and len(inputs) == 2:
        yield from within("read", 0, abs(inputs[0] - inputs[1]), 7)
    if node.op_type == "Add" and len(inputs) == 2:
        yield from within("write", -7, min(inputs) - output, 25)
    if node.op_type == "Mul" and len(inputs) == 2:
        gated = any(n.op_type == "HardSigmoid" for name in node.input for n in emitted.readers[name] if n is not node)
        yield from within("write", 0, sum(inputs) - output, 15 if gated else 32)
    if node.op_type == "HardSigmoid":
        yield from within("input", 0, inputs[0], 15)
        yield from within("output", 7, output, 14 + inputs[0])
    if node.op_type in SHARING and set(inputs) != {output}:
        yield f"{node.op_type} {node.name}: positions {inputs} go in, {output} comes out"
