"""The graph in the operators of the NPU: one rewrite a file, each an option, those that change values apart."""

from equiquant.hardware.factors import is_hardware_factor
from equiquant.hardware.gemm_factors import gemm_factors
from equiquant.hardware.rewrites import EXACT, FIELDS, NEEDED, VALUES, rewrite, wanted

__all__ = ["EXACT", "FIELDS", "NEEDED", "VALUES", "gemm_factors", "is_hardware_factor", "rewrite", "wanted"]
