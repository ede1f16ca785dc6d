"""Refinement of a quantized model without training: bias correction and optimal rounding of weights."""

from equiquant.refine.cost import rounding_cost
from equiquant.refine.layers import Layer, layers_of
from equiquant.refine.run import Refined, refine
from equiquant.refine.solve import Refinement

__all__ = ["Layer", "Refined", "Refinement", "layers_of", "refine", "rounding_cost"]
