"""Sketch the magnitudes of tensors' channels: what a solver needs to weigh clipping against rounding."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from equiquant.calibrate.stream import SampleStream, SampleView
from equiquant.io import Runner
from equiquant.numerics.sketch import MagnitudeSketch, SketchBuilder

__all__ = ["sketch_tensors"]


def sketch_tensors(
    model: ir.Model, stream: SampleStream | SampleView, axes: Mapping[str, int]
) -> dict[str, tuple[MagnitudeSketch, MagnitudeSketch]]:
    """Return sketches of the positive and negative side of each named tensor.

    Args:
        model: The float model; not changed.
        stream: The samples.
        axes: Channel axis of each tensor, by name; graph inputs may be among them.
    """
    if not axes:
        return {}
    inputs = {v.name for v in model.graph.inputs}
    computed = [name for name in axes if name not in inputs]
    runner = Runner(model, computed)
    builders = {name: SketchBuilder() for name in axes}
    for feed in stream:
        values = dict(zip(computed, runner.run(feed), strict=True)) | {n: feed[n] for n in axes if n in inputs}
        for name, value in values.items():
            axis = axes[name]
            builders[name].add(np.moveaxis(value, axis, 0).reshape(value.shape[axis], -1))
    return {name: builder.result() for name, builder in builders.items()}
