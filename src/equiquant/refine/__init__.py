"""Refinement of a quantized model without training: bias correction and optimal rounding of weights."""

from equiquant.refine.cost import rounding_cost
from equiquant.refine.layers import Layer, layers_of, mean_inputs
from equiquant.refine.means import ChannelMeans, OutputMeans, output_means
from equiquant.refine.run import Original, Refined, refine, refine_by_means
from equiquant.refine.solve import Refinement

__all__ = [
    "ChannelMeans",
    "Layer",
    "Original",
    "OutputMeans",
    "Refined",
    "Refinement",
    "layers_of",
    "mean_inputs",
    "output_means",
    "refine",
    "refine_by_means",
    "rounding_cost",
]
