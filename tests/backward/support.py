"""Small graphs, and gradients by numerical differentiation."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from equiquant.backward.builder import build
from equiquant.io import Runner

Array = npt.NDArray[Any]

COUNT = 144  # elements of every test input
STEP = 2.0**-6
SPACING = 0.04  # more than two steps: no kink and no tie is crossed


def parse(text: str, opset: int = 17, /, **initializers: Array) -> ir.Model:
    """Return the model of an ONNX text graph plus initializers."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}, "custom" : 1]>\n{text}')
    for name, array in initializers.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    return ir.from_proto(proto)


def noise(*shape: int, seed: int = 0) -> Array:
    """Return seeded normal noise, float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def spaced(positive: bool = False) -> Array:
    """Return 144 values in random order, no two of them and none and 0 closer than half a spacing, (1, 144)."""
    start = 12 if positive else -COUNT // 2
    values = (np.arange(COUNT) + start + 0.5) * SPACING
    return np.random.default_rng(1).permutation(values).astype(np.float32)[None]


def body(text: str, shape: tuple[int, ...], opset: int = 17, /, **initializers: Array) -> ir.Model:
    """Return a model that reads `x` (1, 144), reshapes it to `a` and computes `y` from it."""
    graph = f"g (float[1,{COUNT}] x) => (float[] y) {{ a = Reshape(x, a_shape) {text} }}"
    return parse(graph, opset, a_shape=np.array(shape, dtype=np.int64), **initializers)


def disturbed(model: ir.Model, name: str, rank: int) -> ir.Model:
    """Return a copy with a new input `added` that is added to a tensor of so many axes, whatever reads it."""
    noisy = model.clone()
    values = {v.name: v for v in (*noisy.graph.inputs, *(v for n in noisy.graph for v in n.outputs))}
    value = values[name]
    added = ir.Value(name="added", shape=ir.Shape([None] * rank), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.node("Add", [value, added])
    for use in list(value.uses()):
        use.node.replace_input_with(use.idx, node.outputs[0])
    node.replace_input_with(0, value)
    if value.is_graph_output():
        noisy.graph.outputs[list(noisy.graph.outputs).index(value)] = node.outputs[0]
    producer = value.producer()
    if producer is None:
        noisy.graph.insert_before(noisy.graph[0], node)
    else:
        noisy.graph.insert_after(producer, node)
    noisy.graph.inputs.append(added)
    return noisy


def analytic(model: ir.Model, x: Array) -> tuple[Array, Array, list[str]]:
    """Return the gradient of vᵀy for each element of x, v, and the names of what was seeded."""
    graph = build(model, {"x": x}, {"x": 1})
    rng = np.random.default_rng(2)
    seeds = {name: rng.standard_normal(sizes, dtype=np.float32) for name, sizes in graph.seeds.values()}
    runner = Runner(graph.model)
    feed = {"x": x, **seeds}
    squares, gradient, *_ = runner.run({i.name: feed[i.name] for i in runner.inputs})
    np.testing.assert_allclose(squares, gradient**2, rtol=1e-5, atol=1e-12)
    first = next(iter(seeds.values()))
    return gradient.reshape(-1), first, list(graph.seeds)


def numerical(model: ir.Model, x: Array, v: Array) -> Array:
    """Return the central differences of vᵀy, one an element of x."""
    runner = Runner(model)
    found = np.zeros(x.size)
    for index in range(x.size):
        sides = []
        for sign in (1, -1):
            moved = x.copy()
            moved[0, index] += sign * STEP
            sides.append(runner.run({"x": moved})[0].astype(np.float64))
        found[index] = ((sides[0] - sides[1]) * v).sum() / (2 * STEP)
    return found
