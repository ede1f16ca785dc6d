"""Refinement of a quantized model without training: bias correction and optimal rounding of weights."""

from equiquant.refine.layers import layers_of
from equiquant.refine.run import Refined, refine
from equiquant.refine.solve import Refinement

__all__ = ["Refined", "Refinement", "layers_of", "refine"]
