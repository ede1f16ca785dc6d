"""How far float arithmetic alone may move a network's outputs: every weight moved by one unit in the last place.

Two ways to compute the same function round otherwise at every node. Most networks hardly notice; some amplify it beyond
any fixed tolerance, and there a rewrite that is exact on paper looks like a wrong one. Moving the weights by what they
are rounded by anyway shows what a network makes of it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from equiquant.graph import edit, query
from equiquant.verify.equivalence import Reference

__all__ = ["float_noise"]


def float_noise(model: ir.Model, reference: Reference) -> dict[str, float]:
    """Return how far each output of a model moves when every float32 weight is moved to one of its two neighbours.

    Args:
        model: The float model; not changed.
        reference: Its outputs.

    Raises:
        ModelError: onnxruntime cannot run it.
    """
    rng = np.random.default_rng(0)
    moved = model.clone()
    for value in list(moved.graph.initializers.values()):
        array = query.constant(value)
        if array is not None and array.dtype == np.float32 and array.ndim > 1:  # of one dimension: sizes, sometimes
            towards = np.where(rng.random(array.shape) < 0.5, np.float32(-np.inf), np.float32(np.inf))
            neighbours = np.nextafter(array, towards)
            edit.set_initializer(value, np.where((array == 0) | ~np.isfinite(neighbours), array, neighbours))
    return reference.errors(moved)
