"""From what calibration saw to the range a tensor's scale must cover."""

from __future__ import annotations

from equiquant.calibrate.stats import TensorRecord
from equiquant.recipe import Recipe

__all__ = ["needs_histogram", "ranges"]


def needs_histogram(recipe: Recipe) -> bool:
    """True if the recipe's calibration method needs more than the smallest and largest value."""
    return recipe.calibration in ("minmse", "percentile", "entropy", "mse")


def ranges(record: TensorRecord, recipe: Recipe) -> tuple[float, float]:
    """Return (low, high), real units, for min-max scales; `symmetric_ranges` makes low = −high.

    Source: onnxruntime quantization, `CalibTensorRangeSymmetric`.
    """
    if not recipe.symmetric_ranges:
        return record.low, record.high
    bound = max(abs(record.low), abs(record.high))
    return -bound, bound
