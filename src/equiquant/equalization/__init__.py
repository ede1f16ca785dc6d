"""Cross-layer equalization: which channels must share a scale, the scales, and writing them into the weights."""

from equiquant.equalization.apply import apply
from equiquant.equalization.backward import Gains, measure_gains
from equiquant.equalization.classes import ScaleClasses, find_classes
from equiquant.equalization.noise_model import QuantizerModel, noise_terms
from equiquant.equalization.plan import (
    Bounds,
    EqualizationPlan,
    LayerSpread,
    clip_bounds,
    plan_global,
    plan_pairwise,
    spread,
)
from equiquant.equalization.relu6 import replace_clip6

__all__ = [
    "Bounds",
    "EqualizationPlan",
    "Gains",
    "LayerSpread",
    "QuantizerModel",
    "ScaleClasses",
    "apply",
    "clip_bounds",
    "find_classes",
    "measure_gains",
    "noise_terms",
    "plan_global",
    "plan_pairwise",
    "replace_clip6",
    "spread",
]
