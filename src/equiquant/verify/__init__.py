"""Proof and measurement: float before against float after, and float against quantized."""

from equiquant.verify.compare import Comparison, OutputQuality, TensorQuality, compare_models
from equiquant.verify.equivalence import Equivalence, Reference, equivalence
from equiquant.verify.float_noise import float_noise
from equiquant.verify.integer import INTEGER_FEEDS, IntegerAgreement, IntegerModel, integer_agreement
from equiquant.verify.kernels import WHOLE_BELOW, kernel_sqnr_db
from equiquant.verify.proof import Proof, apply_known, apply_proven
from equiquant.verify.twins import compared_values

__all__ = [
    "INTEGER_FEEDS",
    "WHOLE_BELOW",
    "Comparison",
    "Equivalence",
    "IntegerAgreement",
    "IntegerModel",
    "OutputQuality",
    "Proof",
    "Reference",
    "TensorQuality",
    "apply_known",
    "apply_proven",
    "compare_models",
    "compared_values",
    "equivalence",
    "float_noise",
    "integer_agreement",
    "kernel_sqnr_db",
]
