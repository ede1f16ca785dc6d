"""Small models, statistics collected by hand, and the run of a QDQ model, for the tests of `target` and `qdq`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort

from equiquant import hardware, io, qdq, target
from equiquant.calibrate.stats import TensorRecord, TensorStats
from equiquant.graph.edit import infer_shapes
from equiquant.io.runtime import Runner
from equiquant.io.upgrade import upgrade_opset
from equiquant.numerics.statistics.histogram import DyadicHistogram
from equiquant.recipe import Recipe
from equiquant.target import QuantPlan

Array = npt.NDArray[Any]
Feeds = Sequence[dict[str, Array]]


def parse(text: str, /, opset: int = 17, **initializers: Array) -> ir.Model:
    """Return the model of an ONNX text graph plus initializers."""
    version = 10 if opset > 19 else 8
    proto = onnx.parser.parse_model(f'<ir_version: {version}, opset_import: ["" : {opset}]>\n{text}')
    for name, array in initializers.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    model = io.load_model(proto).model
    infer_shapes(model)
    return model


def noise(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    """Return seeded normal noise, float32."""
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def statistics(model: ir.Model, names: Sequence[str], feeds: Feeds, *, histograms: bool = False) -> TensorStats:
    """Run the float model and record the named tensors."""
    runner = Runner(model, names, optimize=False)
    seen: dict[str, list[Array]] = {n: [] for n in names}
    for feed in feeds:
        for name, value in zip(names, runner.run(feed), strict=True):
            seen[name].append(value.ravel())
    records = {}
    for name, parts in seen.items():
        x = np.concatenate(parts)
        histogram = DyadicHistogram.of(x) if histograms else None
        records[name] = TensorRecord(float(x.min()), float(x.max()), x.size, histogram)
    return TensorStats(len(feeds), records)


def quantize(model: ir.Model, recipe: Recipe, feeds: Feeds) -> tuple[ir.Model, QuantPlan]:
    """Return the QDQ model of a copy, checked by onnx, and its plan."""
    copy = model.clone()
    if copy.graph.opset_imports[""] < target.required_opset(recipe):
        upgrade_opset(copy, target.required_opset(recipe))
    if recipe.npu:
        hardware.rewrite(copy, hardware.NEEDED, frozenset())
    found = target.survey(copy, recipe)
    stats = statistics(copy, found.calibrated, feeds, histograms=recipe.calibration != "minmax")
    plan = target.choose(copy, found, stats, recipe)
    plan = target.cpu_form(copy, plan, found.target)
    qdq.insert(copy, plan)
    onnx.checker.check_model(ir.to_proto(copy), full_check=True)
    return copy, plan


def run(model: ir.Model, feed: dict[str, Array], *, optimize: bool = False) -> list[Array]:
    """Run the nodes as written, or as onnxruntime fuses them."""
    return Runner(model, optimize=optimize).run(feed)


def sqnr(reference: Array, candidate: Array) -> float:
    """Return signal power over error power in dB."""
    error = float(((reference - candidate).astype(np.float64) ** 2).sum())
    return float("inf") if error == 0 else 10 * float(np.log10((reference.astype(np.float64) ** 2).sum() / error))


def fused_ops(model: ir.Model, folder: Path) -> Counter[str]:
    """Return the op types of the graph onnxruntime really runs on the CPU."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(n.op_type for n in onnx.load(options.optimized_model_filepath, load_external_data=False).graph.node)


def op_types(model: ir.Model) -> Counter[str]:
    """Return how many nodes of each op type the main graph has."""
    return Counter(n.op_type for n in model.graph)


def node(model: ir.Model, name: str) -> ir.Node:
    """Return the node of that name."""
    return next(n for n in model.graph.all_nodes() if n.name == name)
