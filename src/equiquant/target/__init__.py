"""The target: what is quantized, and with which scale, zero point and type."""

from equiquant.target.choosing.choose import choose, counts_decide, in_doubt, missing
from equiquant.target.choosing.limits import Bound, LimitReport
from equiquant.target.choosing.widening import cpu_form
from equiquant.target.plan import QuantPlan
from equiquant.target.selecting.blocks import BlockPlan, plan_blocks
from equiquant.target.selecting.final_joins import final_joins
from equiquant.target.selecting.layers import Layer, layers
from equiquant.target.selecting.select import left_float, names_matched
from equiquant.target.selecting.survey import Group, Survey, survey
from equiquant.target.table.hardware import HARDWARE, Hardware, Shift
from equiquant.target.table.ops import moves_data
from equiquant.target.table.targets import Target, required_opset, target_of

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
    "final_joins",
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
