"""Tiny models in ONNX text, and the oracle: the same function before and after, onnxruntime's optimizations off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import numpy_helper, parser

from equiquant import io
from equiquant.canonical import canonicalize
from equiquant.decisions import Decision

Array = npt.NDArray[Any]

Shapes = dict[str, tuple[int, ...]]

TOLERANCE = 1e-5


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def weights(**shapes: tuple[int, ...]) -> dict[str, Array]:
    """Random float32 parameters; a name that ends in `var` is positive, one that ends in `near` differs little."""
    generator, result = rng(1), {}
    for name, shape in shapes.items():
        array = np.asarray(generator.standard_normal(shape)).astype(np.float32)
        result[name] = np.abs(array) + np.float32(0.3) if name.endswith("var") else array
        if name.endswith("near"):
            result[name] = near(array)
    return result


def near(array: Array) -> Array:
    """Return numbers of the same signs and sizes from 1 to 1.25: factors of a graph input that may be folded."""
    return np.copysign(1 + np.tanh(np.abs(array)) / 4, array).astype(array.dtype)


def bn(channels: int, prefix: str = "") -> dict[str, Array]:
    """Parameters of a BatchNormalization, named to follow `BN`, of channels that are much alike."""
    found = weights(**{f"{prefix}{k}": (channels,) for k in ("gamma", "beta", "mean", "var")})
    return found | {name: near(found[name]) for name in (f"{prefix}gamma", f"{prefix}var")}


BN = "gamma, beta, mean, var"


def proto(
    nodes: str, inputs: str, outputs: str, parameters: Mapping[str, Array], *, opset: int = 17, ir_version: int = 8
) -> onnx.ModelProto:
    """Parse a graph body; `inputs` and `outputs` in ONNX text, e.g. `float[N,3] x`."""
    text = f'<ir_version: {ir_version}, opset_import: ["": {opset}, "my": 1]> g ({inputs}) => ({outputs}) {{ {nodes} }}'
    model = parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in parameters.items())
    return model


def feed_for(model: onnx.ModelProto | ir.Model, batch: int = 2) -> dict[str, Array]:
    generator, feed = rng(2), {}
    for spec in io.Runner(model, optimize=False, threads=1).inputs:
        array = generator.standard_normal([batch if d is None else d for d in spec.shape])
        feed[spec.name] = np.asarray(array > 0 if spec.dtype == "bool" else array).astype(spec.dtype)
    return feed


def run(model: onnx.ModelProto | ir.Model, feed: Mapping[str, Array]) -> list[Array]:
    return io.Runner(model, optimize=False, threads=1).run(feed)


def error(expected: list[Array], actual: list[Array]) -> float:
    """Largest |Δ|, relative to the largest magnitude of each output."""
    worst = 0.0
    for e, a in zip(expected, actual, strict=True):
        assert e.shape == a.shape
        assert e.dtype == a.dtype
        wide = e.astype(np.float64)
        worst = max(worst, float(np.abs(wide - a).max() / max(np.abs(wide).max(), 1e-30)))
    return worst


class Outcome:
    """What canonicalize did to a model."""

    def __init__(self, source: onnx.ModelProto, model: ir.Model, decisions: list[Decision]) -> None:
        self.source, self.model, self.decisions = source, model, decisions

    @property
    def ops(self) -> list[str]:
        return [n.op_type for n in self.model.graph]

    def node(self, op_type: str, index: int = 0) -> ir.Node:
        return [n for n in self.model.graph if n.op_type == op_type][index]

    def applied(self, rule: str) -> list[Decision]:
        return [d for d in self.decisions if d.rule == rule and d.applied]

    def refused(self, rule: str) -> str:
        """The one reason the rule gave."""
        (reason,) = [d.reason for d in self.decisions if d.rule == rule and not d.applied]
        return reason


def removed_readers(model: ir.Model) -> list[str]:
    """Return the nodes that are no longer in the graph, but count as readers of a value that is."""
    values = [*model.graph.inputs, *model.graph.initializers.values(), *(v for n in model.graph for v in n.outputs)]
    return [use.node.name or use.node.op_type for v in values for use in v.uses() if use.node.graph is None]


def canonical(
    source: onnx.ModelProto,
    *,
    optimize: bool = True,
    tolerance: float = TOLERANCE,
    sabotage: Callable[[ir.Model], None] | None = None,
) -> Outcome:
    """Canonicalize a copy of `source` and prove it computes the same under the same names."""
    feed = feed_for(source)
    expected = run(source, feed)
    assert all(np.abs(e.astype(np.float64)).max() > 1e-3 for e in expected), (
        "the oracle needs an output that says something"
    )
    model = io.load_model(source).model
    decisions = canonicalize(model, optimize=optimize)
    if sabotage is not None:
        sabotage(model)
    initializers = {i.name for i in source.graph.initializer}
    assert [v.name for v in model.graph.inputs if not v.is_initializer()] == [
        i.name for i in source.graph.input if i.name not in initializers
    ]
    assert [v.name for v in model.graph.outputs] == [o.name for o in source.graph.output]
    onnx.checker.check_model(ir.to_proto(model.clone()))
    names = [n.name for n in model.graph.all_nodes()]
    assert len(set(names)) == len(names)
    assert not removed_readers(model)
    left = {v.name for v in model.graph.inputs}
    actual = run(model, {k: v for k, v in feed.items() if k in left})
    found = error(expected, actual)
    assert found <= tolerance, f"the function changed by {found:.1e}"
    return Outcome(source, model, decisions)
