"""From what is known of a tensor's values to the scale and zero point of an activation.

Min-max takes the whole range; asymmetric types get it widened to contain 0, so that zero padding is exact. Power-of-two
scales are symmetric: the zero point is the type's center, or 0 for an unsigned tensor that is never negative when the
recipe says `unsigned_relu`. The exponent is the one of least squared error, or the smallest without overflow
(`numerics.pow2`).
Source: Nagel et al., arXiv:2106.08295, section 2; AMD Quark documentation, `PowerOfTwoMethod`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from equiquant.calibrate.stats import TensorRecord
from equiquant.errors import DataError
from equiquant.graph.query import attribute, constant
from equiquant.numerics.affine import QuantParams, params_from_range
from equiquant.numerics.histogram import DyadicHistogram
from equiquant.numerics.pow2 import minmse_exponent, nonoverflow_exponent
from equiquant.recipe import Recipe
from equiquant.target.targets import Target

__all__ = ["Evidence", "activation_params", "clip_bounds", "union"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of the values of one tensor or of several that share a scale.

    Attributes:
        low: Smallest value.
        high: Largest value.
        histogram: Distribution, needed by `minmse` only.
    """

    low: float
    high: float
    histogram: DyadicHistogram | None = None

    @staticmethod
    def of_record(record: TensorRecord) -> Evidence:
        """Return the evidence calibration collected."""
        return Evidence(record.low, record.high, record.histogram)

    @staticmethod
    def of_array(array: Array, target: Target) -> Evidence:
        """Return the evidence of a constant."""
        if not array.size:
            return Evidence(0.0, 0.0, DyadicHistogram.of(array) if target.method == "minmse" else None)
        histogram = DyadicHistogram.of(array) if target.method == "minmse" else None
        return Evidence(float(array.min()), float(array.max()), histogram)

    def clipped(self, low: float, high: float) -> Evidence:
        """Return the evidence with its range cut to the bounds its producer guarantees."""
        return Evidence(min(max(self.low, low), high), max(min(self.high, high), low), self.histogram)


def union(parts: Iterable[Evidence]) -> Evidence:
    """Return the evidence of all the values together."""
    parts = list(parts)
    histograms = [p.histogram for p in parts if p.histogram is not None]
    merged = DyadicHistogram.merged(histograms) if len(histograms) == len(parts) else None
    return Evidence(min(p.low for p in parts), max(p.high for p in parts), merged)


def activation_params(evidence: Evidence, target: Target, recipe: Recipe, name: str) -> QuantParams:
    """Return scale and zero point of an activation, per tensor.

    Args:
        evidence: What is known of its values.
        target: Types and method.
        recipe: `unsigned_relu` and `symmetric_ranges`.
        name: The tensor, for the error.

    Raises:
        DataError: The method needs a histogram that calibration did not collect.
    """
    kind, low, high = target.activation, evidence.low, evidence.high
    if target.scale_kind == "float":
        if recipe.symmetric_ranges:
            high = max(abs(low), abs(high))
            low = -high
        return params_from_range(low, high, kind, symmetric=target.activation_symmetric)
    unsigned = recipe.unsigned_relu and not kind.signed and low >= 0
    zero = 0 if unsigned else kind.center
    if target.method == "minmse":
        if evidence.histogram is None:
            raise DataError(f"The statistics of '{name}' hold no histogram, which 'minmse' needs; calibrate again.")
        exponent = minmse_exponent(evidence.histogram, kind, zero_point=zero)
    else:
        exponent = nonoverflow_exponent(low, high, kind, zero_point=zero)
    return QuantParams.make(np.ldexp(np.float32(1), exponent), zero, kind.name)


def clip_bounds(node: ir.Node) -> tuple[float, float]:
    """Return the range a node's output cannot leave, as far as its op tells."""
    low, high = _BOUNDS.get(node.op_type, (-np.inf, np.inf)) if node.domain == "" else (-np.inf, np.inf)
    if node.op_type == "Clip":
        low, high = attribute(node, "min", low), attribute(node, "max", high)
        for index, value in enumerate(node.inputs[1:3]):
            bound = constant(value)
            if bound is not None and bound.size == 1:
                low, high = (float(bound.item()), high) if index == 0 else (low, float(bound.item()))
    return low, high


_BOUNDS = {"Relu": (0.0, np.inf), "Sigmoid": (0.0, 1.0), "HardSigmoid": (0.0, 1.0), "Softmax": (0.0, 1.0)}
