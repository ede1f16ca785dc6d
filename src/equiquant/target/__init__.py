"""The target: what is quantized, and with which scale, zero point and type."""

from equiquant.target.choose import GivenRanges, choose, in_doubt
from equiquant.target.plan import QuantPlan
from equiquant.target.select import left_float
from equiquant.target.survey import Group, Survey, survey
from equiquant.target.targets import Target, required_opset, target_of

__all__ = [
    "GivenRanges",
    "Group",
    "QuantPlan",
    "Survey",
    "Target",
    "choose",
    "in_doubt",
    "left_float",
    "required_opset",
    "survey",
    "target_of",
]
