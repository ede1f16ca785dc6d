"""The graph in the operators of the NPU: one rewrite a file, each an option, those that change values apart."""

from equiquant.hardware.factors import is_hardware_factor
from equiquant.hardware.rewrites import FIELDS, rewrite, wanted

__all__ = ["FIELDS", "is_hardware_factor", "rewrite", "wanted"]
