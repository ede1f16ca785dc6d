"""Networks of the published shapes with seeded weights, built directly as ONNX, to measure time, memory and latency.

    python benchmarks/networks.py resnet50 resnet50.onnx

MobileNetV2 (Sandler et al., arXiv:1801.04381) and ResNet (He et al., arXiv:1512.03385, stride in the 3x3 convolution as
the published checkpoints have it), BatchNormalization unfolded, dynamic batch `N`, opset 17. Weights are He-scaled. The
statistics of each BatchNormalization are measured, as training would, on two seeded noise images while the network is
built, so every layer sees inputs of ordinary size however deep it lies; gamma is log-normal, so folding it leaves the
spread of channel ranges that makes per-tensor quantization hard. The weights are not trained: accuracy is meaningless.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort

__all__ = ["NETWORKS", "mobilenet_v2", "resnet"]

Array = npt.NDArray[np.float32]

INVERTED_RESIDUALS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
RESNET_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
GAMMA_SPREAD = 0.5  # standard deviation of log(gamma)
RESIDUAL_GAMMA = (
    0.3  # the last normalization of a residual branch starts small, so that sums of 36 branches stay bounded
)
REACH = 16  # probe values kept: a residual branch is at most 11 nodes long


class _Builder:
    """Appends nodes and computes, beside each value, what it is on the two probe images."""

    def __init__(self, name: str, resolution: int, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.name = name
        self.nodes: list[ir.Node] = []
        self.initializers: dict[str, ir.Value] = {}
        self.probe: dict[str, Array] = {}
        self.input = ir.Value(name="input", shape=ir.Shape(["N", 3, resolution, resolution]), type=_FLOAT)
        self.probe["input"] = self.rng.standard_normal((2, 3, resolution, resolution)).astype(np.float32)

    def constant(self, name: str, array: npt.ArrayLike) -> ir.Value:
        if name not in self.initializers:
            tensor = ir.Tensor(np.asarray(array, np.float32), name=name)
            self.initializers[name] = ir.Value(name=name, shape=ir.Shape(tensor.shape), type=_FLOAT, const_value=tensor)
        return self.initializers[name]

    def op(self, kind: str, name: str, inputs: Sequence[ir.Value], **attributes: Any) -> ir.Value:
        self.nodes.append(ir.node(kind, inputs, attributes, name=name))
        out = self.nodes[-1].outputs[0]
        out.name, out.type = f"{name}_out", _FLOAT
        arrays = [self.probe[str(v.name)] if v.const_value is None else v.const_value.numpy() for v in inputs]
        self.probe[out.name] = _evaluate(kind, arrays, attributes)
        if len(self.probe) > REACH:
            del self.probe[next(iter(self.probe))]
        return out

    def conv(
        self, name: str, x: ir.Value, out: int, kernel: int, stride: int = 1, *, depthwise: bool = False
    ) -> ir.Value:
        channels = self.probe[str(x.name)].shape[1]
        per_group = 1 if depthwise else channels
        he = np.sqrt(2 / (per_group * kernel * kernel))
        weight = self.constant(f"{name}.weight", self.rng.normal(0, he, (out, per_group, kernel, kernel)))
        pads, group = [kernel // 2] * 4, channels if depthwise else 1
        return self.op(
            "Conv", name, [x, weight], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads, group=group
        )

    def norm(self, name: str, x: ir.Value, gain: float = 1.0) -> ir.Value:
        probe = self.probe[str(x.name)].astype(np.float64)
        gamma = gain * np.exp(self.rng.normal(0, GAMMA_SPREAD, probe.shape[1]))
        beta = gamma * self.rng.normal(0, 0.5, probe.shape[1])
        figures = {
            "weight": gamma,
            "bias": beta,
            "running_mean": probe.mean((0, 2, 3)),
            "running_var": probe.var((0, 2, 3)),
        }
        parameters = [self.constant(f"{name}.{key}", value.astype(np.float32)) for key, value in figures.items()]
        return self.op("BatchNormalization", name, [x, *parameters], epsilon=1e-5)

    def relu6(self, name: str, x: ir.Value) -> ir.Value:
        bounds = [self.constant("relu6.min", np.float32(0)), self.constant("relu6.max", np.float32(6))]
        return self.op("Clip", name, [x, *bounds])

    def model(self, x: ir.Value, classes: int) -> ir.Model:
        x = self.op("Flatten", "flatten", [self.op("GlobalAveragePool", "avgpool", [x])], axis=1)
        features = self.probe[str(x.name)].shape[1]
        weight = self.constant("fc.weight", self.rng.normal(0, np.sqrt(1 / features), (classes, features)))
        bias = self.constant("fc.bias", self.rng.normal(0, 0.1, classes))
        x = self.op("Gemm", "fc", [x, weight, bias], transB=1)
        x.name, x.shape = "logits", ir.Shape(["N", classes])
        graph = ir.Graph(
            [self.input], [x], nodes=self.nodes, initializers=list(self.initializers.values()),
            opset_imports={"": 17}, name=self.name,
        )  # fmt: skip
        return ir.Model(graph, ir_version=8, producer_name="equiquant-benchmarks")


_FLOAT = ir.TensorType(ir.DataType.FLOAT)


def _evaluate(kind: str, arrays: Sequence[Array], attributes: Mapping[str, Any]) -> Array:
    """Run one node in onnxruntime."""
    inputs = [ir.Value(name=f"i{k}", shape=ir.Shape(a.shape), type=_FLOAT) for k, a in enumerate(arrays)]
    node = ir.node(kind, inputs, attributes)
    node.outputs[0].name, node.outputs[0].type = "out", _FLOAT
    graph = ir.Graph(inputs, node.outputs, nodes=[node], opset_imports={"": 17}, name="node")
    proto = ir.to_proto(ir.Model(graph, ir_version=8)).SerializeToString()
    session = ort.InferenceSession(proto, providers=["CPUExecutionProvider"])
    result: Array = session.run(None, {f"i{k}": a for k, a in enumerate(arrays)})[0]
    return result


def mobilenet_v2(
    width: float = 1.0, resolution: int = 224, blocks: Sequence[int] | None = None, classes: int = 1000, seed: int = 0
) -> ir.Model:
    """Return MobileNetV2.

    Args:
        width: Channel multiplier; channels are rounded to multiples of 8.
        resolution: Input height and width.
        blocks: Inverted residuals in each stage, (1, 2, 3, 4, 3, 3, 1) as published; fewer entries drop later stages.
        classes: Outputs.
        seed: Of every random number.
    """

    def scaled(channels: float) -> int:
        return max(8, int(channels + 4) // 8 * 8)

    b = _Builder("mobilenet_v2", resolution, seed)
    x = b.relu6("stem.relu6", b.norm("stem.bn", b.conv("stem.conv", b.input, scaled(32 * width), 3, 2)))
    channels = scaled(32 * width)
    counts = [stage[2] for stage in INVERTED_RESIDUALS] if blocks is None else blocks
    for s, ((expand, out, _, first_stride), count) in enumerate(zip(INVERTED_RESIDUALS, counts, strict=False)):
        for k in range(count):
            name, start, hidden, out_channels = f"stage{s}.{k}", x, channels * expand, scaled(out * width)
            stride = first_stride if k == 0 else 1
            residual = stride == 1 and channels == out_channels
            if expand > 1:
                x = b.norm(f"{name}.expand.bn", b.conv(f"{name}.expand.conv", x, hidden, 1))
                x = b.relu6(f"{name}.expand.relu6", x)
            x = b.norm(f"{name}.depthwise.bn", b.conv(f"{name}.depthwise.conv", x, hidden, 3, stride, depthwise=True))
            x = b.relu6(f"{name}.depthwise.relu6", x)
            x = b.conv(f"{name}.project.conv", x, out_channels, 1)
            x = b.norm(f"{name}.project.bn", x, RESIDUAL_GAMMA if residual else 1.0)
            x = b.op("Add", f"{name}.add", [start, x]) if residual else x
            channels = out_channels
    last = scaled(1280 * max(1.0, width)) if blocks is None else 4 * channels
    x = b.relu6("head.relu6", b.norm("head.bn", b.conv("head.conv", x, last, 1)))
    return b.model(x, classes)


def resnet(
    depth: int, width: int = 64, resolution: int = 224, blocks: Sequence[int] | None = None, classes: int = 1000,
    seed: int = 0,
) -> ir.Model:  # fmt: skip
    """Return a ResNet: basic blocks for 18 and 34, bottlenecks for 50, 101 and 152.

    Args:
        depth: 18, 34, 50, 101 or 152.
        width: Channels of the first stage's 3x3 convolutions, 64 as published.
        resolution: Input height and width.
        blocks: Blocks in each stage, as published for the depth by default; fewer entries drop later stages.
        classes: Outputs.
        seed: Of every random number.
    """
    b = _Builder(f"resnet{depth}", resolution, seed)
    x = b.op("Relu", "stem.relu", [b.norm("stem.bn", b.conv("stem.conv", b.input, width, 7, 2))])
    x = b.op("MaxPool", "maxpool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    expansion = 1 if depth < 50 else 4
    channels = width
    for s, count in enumerate(RESNET_BLOCKS[depth] if blocks is None else blocks):
        inner, out = width * 2**s, width * 2**s * expansion
        for k in range(count):
            name, shortcut, stride = f"layer{s + 1}.{k}", x, 2 if s > 0 and k == 0 else 1
            plan = (
                [(inner, 3, stride), (out, 3, 1)]
                if expansion == 1
                else [(inner, 1, 1), (inner, 3, stride), (out, 1, 1)]
            )
            for n, (filters, kernel, step) in enumerate(plan, 1):
                x = b.conv(f"{name}.conv{n}", x, filters, kernel, step)
                if n < len(plan):
                    x = b.op("Relu", f"{name}.relu{n}", [b.norm(f"{name}.bn{n}", x)])
            x = b.norm(f"{name}.bn{len(plan)}", x, RESIDUAL_GAMMA)
            if stride != 1 or channels != out:
                shortcut = b.norm(f"{name}.downsample.bn", b.conv(f"{name}.downsample.conv", shortcut, out, 1, stride))
            x = b.op("Relu", f"{name}.relu", [b.op("Add", f"{name}.add", [x, shortcut])])
            channels = out
    return b.model(x, classes)


NETWORKS: Mapping[str, Callable[[], ir.Model]] = {
    "mobilenet_v2": mobilenet_v2,
    **{f"resnet{depth}": functools.partial(resnet, depth) for depth in RESNET_BLOCKS},
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write one benchmark network.")
    parser.add_argument("name", choices=sorted(NETWORKS))
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    ir.save(NETWORKS[arguments.name](), arguments.out)


if __name__ == "__main__":
    main()
