"""Refinement of a quantized model without training: bias correction and optimal rounding of weights."""

from equiquant.refine.cost import rounding_cost
from equiquant.refine.layers import Layer, layers_of
from equiquant.refine.means import OutputMeans, output_means
from equiquant.refine.run import Original, Refined, refine
from equiquant.refine.solve import Refinement

__all__ = [
    "Layer",
    "Original",
    "OutputMeans",
    "Refined",
    "Refinement",
    "layers_of",
    "output_means",
    "refine",
    "rounding_cost",
]
