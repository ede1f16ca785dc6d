"""Cross-layer equalization: which channels must share a scale, the scales, and writing them into the weights."""

from equiquant.equalization.apply import apply
from equiquant.equalization.classes import ScaleClasses, find_classes
from equiquant.equalization.plan import EqualizationPlan, LayerSpread, solve, spread
from equiquant.equalization.relu6 import replace_clip6

__all__ = [
    "EqualizationPlan",
    "LayerSpread",
    "ScaleClasses",
    "apply",
    "find_classes",
    "replace_clip6",
    "solve",
    "spread",
]
