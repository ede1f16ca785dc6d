"""Cross-layer equalization: which channels must share a scale, the scales, and writing them into the weights."""

from equiquant.equalization.apply import apply
from equiquant.equalization.classes import ScaleClasses, find_classes
from equiquant.equalization.dead_channels import awakened
from equiquant.equalization.headroom import without_growth
from equiquant.equalization.layer_noise import operands
from equiquant.equalization.noise_model import Sketches, cut_ends, noise_terms, range_terms
from equiquant.equalization.plan import (
    Bounds,
    EqualizationPlan,
    LayerSpread,
    Ranges,
    clip_bounds,
    plan_global,
    plan_pairwise,
    plan_ranges,
    settle_ranges,
    spread,
    with_noise,
)
from equiquant.equalization.quantizer_model import QuantizerModel
from equiquant.equalization.relu6 import replace_clip6, split_clips
from equiquant.equalization.shared_ranges import join_ranges, share_ranges

__all__ = [
    "Bounds",
    "EqualizationPlan",
    "LayerSpread",
    "QuantizerModel",
    "Ranges",
    "ScaleClasses",
    "Sketches",
    "apply",
    "awakened",
    "clip_bounds",
    "cut_ends",
    "find_classes",
    "join_ranges",
    "noise_terms",
    "operands",
    "plan_global",
    "plan_pairwise",
    "plan_ranges",
    "range_terms",
    "replace_clip6",
    "settle_ranges",
    "share_ranges",
    "split_clips",
    "spread",
    "with_noise",
    "without_growth",
]
