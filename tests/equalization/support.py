"""Tiny models, and what equalization must do to them: preserve the function, change the weights, keep what it must."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import numpy_helper, parser

from equiquant import io
from equiquant.equalization import ScaleClasses, apply, clip_bounds, find_classes
from equiquant.graph import edit, query

Array = npt.NDArray[Any]

TOLERANCE = 1e-5
BATCH = 2  # dynamic dimensions of a graph input, unless a case says otherwise


@dataclass(frozen=True, eq=False)
class Case:
    """One topology.

    Attributes:
        name: What it shows.
        nodes: Graph body in ONNX text.
        changes: Names of all constants that must change when every free class moves; the others must not.
        pinned: Tensors whose channels may not move, and a part of the reason expected.
        inputs: Graph inputs in ONNX text.
        outputs: Graph outputs.
        weights: Shapes (random values, rows of different size) or values of the initializers.
        feed: Inputs that must not be random.
        opset: Version of the default operator set.
        overridable: Initializers that are graph inputs too.
        dynamic: Size of every dynamic dimension of an input.
        tolerance: Largest relative error allowed.
    """

    name: str
    nodes: str
    changes: str = ""
    pinned: Mapping[str, str] = field(default_factory=dict)
    inputs: str = "float[N,4,6,6] x"
    outputs: str = "float[] y"
    weights: Mapping[str, Any] = field(default_factory=dict)
    feed: Mapping[str, Array] = field(default_factory=dict)
    opset: int = 17
    overridable: tuple[str, ...] = ()
    dynamic: int = BATCH
    tolerance: float = TOLERANCE

    def proto(self) -> onnx.ModelProto:
        imports = f'"": {self.opset}, "com.microsoft": 1'
        ir_version = 8 if self.opset < 20 else 10
        text = (
            f"<ir_version: {ir_version}, opset_import: [{imports}]>"
            f" g ({self.inputs}) => ({self.outputs}) {{ {self.nodes} }}"
        )
        model = parser.parse_model(text)
        generator = np.random.default_rng(1)
        for name, given in self.weights.items():
            array = spread_weight(generator, given) if isinstance(given, tuple) else np.asarray(given)
            model.graph.initializer.append(numpy_helper.from_array(array, name))
            if name in self.overridable:
                kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
                model.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, array.shape))
        return model

    def model(self) -> ir.Model:
        model = io.load_model(self.proto()).model
        edit.infer_shapes(model)
        return model

    def feeds(self) -> list[dict[str, Array]]:
        generator = np.random.default_rng(2)
        given = {s.name: s for s in io.input_specs(self.model())}
        feeds = []
        for _ in range(2):
            feed = {}
            for name, spec in given.items():
                array = generator.standard_normal([self.dynamic if d is None else d for d in spec.shape])
                feed[name] = np.asarray(array > 0 if spec.dtype == "bool" else array).astype(spec.dtype)
            feeds.append(feed | dict(self.feed))
        return feeds


def floats(*values: float) -> Array:
    return np.array(values, dtype=np.float32)


def ints(*values: int) -> Array:
    return np.array(values, dtype=np.int64)


def spread_weight(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Random float32 numbers whose rows differ in size by up to 30."""
    array = generator.standard_normal(shape)
    rows = 10 ** generator.uniform(-0.75, 0.75, shape[:1])
    return np.asarray(array * rows.reshape(-1, *[1] * (len(shape) - 1)), dtype=np.float32)


def random_scales(classes: ScaleClasses, seed: int = 3, reach: float = 2.0) -> Array:
    """Random log-scales for every free class: any of them must preserve the function."""
    z = np.random.default_rng(seed).uniform(-reach, reach, classes.count)
    z += np.where(z > 0, 0.2, -0.2)  # none is near zero
    lower, upper = clip_bounds(classes, {}, 1)
    z = np.clip(z, lower, upper)
    z[0] = 0.0
    return z


class SilentError(AssertionError):
    """A model whose output could not show a fault."""


def run(model: ir.Model | onnx.ModelProto, feeds: list[dict[str, Array]]) -> list[Array]:
    runner = io.Runner(model, optimize=False, threads=1)
    return [array for feed in feeds for array in runner.run(feed)]


def error(expected: list[Array], actual: list[Array]) -> float:
    """Largest |Δ|, relative to the largest magnitude of each output."""
    worst = 0.0
    for e, a in zip(expected, actual, strict=True):
        assert e.shape == a.shape
        assert e.dtype == a.dtype
        wide = e.astype(np.float64)
        assert np.isfinite(wide).all()
        worst = max(worst, float(np.abs(wide - a).max(initial=0) / max(np.abs(wide).max(initial=0), 1e-30)))
    return worst


def equalized(model: ir.Model, z: Array) -> ir.Model:
    copy = model.clone()
    apply(copy, find_classes(copy), z)
    return copy


def changed(before: ir.Model, after: ir.Model) -> set[str]:
    """Names, in `before`, of the constants that some reader now reads differently."""
    found = set()
    for node, other in zip(before.graph, after.graph, strict=True):
        for value, now in zip(node.inputs, other.inputs, strict=True):
            old, new = query.constant(value), query.constant(now)
            if old is not None and value is not None and (new is None or not _equal(old, new)):
                found.add(value.name or "")
    return found


def _equal(left: Array, right: Array) -> bool:
    wide = np.promote_types(left.dtype, np.float32) if left.dtype != ml_dtypes.bfloat16 else np.float32
    if right.ndim > left.ndim:
        return False
    return left.shape == right.shape and bool((left.astype(wide) == right.astype(wide)).all())


def names(model: ir.Model) -> list[Any]:
    """Everything a user sees of a model besides its weights."""
    graph = model.graph
    shape = [(v.name, v.dtype, str(v.shape)) for v in (*graph.inputs, *graph.outputs)]
    return [*shape, *((n.domain, n.op_type, n.name, [o.name for o in n.outputs]) for n in graph.all_nodes())]


def why_pinned(classes: ScaleClasses, model: ir.Model, tensor: str) -> str:
    """Why a tensor may not move, '' if any of its channels may."""
    values = {v.name: v for v in model.graph.inputs} | {v.name: v for n in model.graph for v in n.outputs}
    value = values[tensor]
    if classes.values[value].any():
        return ""
    pin = classes.pins[value]
    return f"{pin.node}: {pin.reason}"


def check(case: Case, z: Array | None = None, sabotage: Callable[[ir.Model], None] | None = None) -> None:
    """Assert that log-scales (random ones if None) preserve the function and the names, and that the model is valid."""
    model = case.model()
    classes = find_classes(model)
    after = equalized(model, random_scales(classes) if z is None else z)
    if sabotage is not None:
        sabotage(after)
    assert names(after) == names(model)
    onnx.checker.check_model(ir.to_proto(after.clone()), full_check=True)
    feeds = case.feeds()
    expected = run(model, feeds)
    if not all(np.abs(e.astype(np.float64)).max(initial=0) > 1e-30 for e in expected):
        raise SilentError("an output is zero: comparing it proves nothing")
    found = error(expected, run(after, feeds))
    assert found <= case.tolerance, f"the function changed by {found:.1e}"
