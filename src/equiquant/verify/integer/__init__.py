"""The integer reference: a QDQ model with power-of-two scales, run with integer arithmetic and shifts only."""

from equiquant.verify.integer.agreement import (
    INTEGER_FEEDS,
    IntegerAgreement,
    OutputAgreement,
    TensorAgreement,
    integer_agreement,
)
from equiquant.verify.integer.executor import IntegerModel

__all__ = [
    "INTEGER_FEEDS",
    "IntegerAgreement",
    "IntegerModel",
    "OutputAgreement",
    "TensorAgreement",
    "integer_agreement",
]
