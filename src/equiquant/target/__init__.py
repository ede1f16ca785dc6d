"""The target: what is quantized, and with which scale, zero point and type."""

from equiquant.target.blocks import BlockPlan, plan_blocks
from equiquant.target.choose import choose, counts_decide, in_doubt, missing
from equiquant.target.final_concats import final_concats
from equiquant.target.hardware import HARDWARE, Hardware, Shift
from equiquant.target.layers import Layer, layers
from equiquant.target.limits import Bound, LimitReport
from equiquant.target.ops import moves_data
from equiquant.target.plan import QuantPlan
from equiquant.target.select import left_float, names_matched
from equiquant.target.survey import Group, Survey, survey
from equiquant.target.targets import Target, required_opset, target_of
from equiquant.target.widening import cpu_form

__all__ = [
    "HARDWARE",
    "BlockPlan",
    "Bound",
    "Group",
    "Hardware",
    "Layer",
    "LimitReport",
    "QuantPlan",
    "Shift",
    "Survey",
    "Target",
    "choose",
    "counts_decide",
    "cpu_form",
    "final_concats",
    "in_doubt",
    "layers",
    "left_float",
    "missing",
    "moves_data",
    "names_matched",
    "plan_blocks",
    "required_opset",
    "survey",
    "target_of",
]
