"""The documented options of the NPU's limits, as rows of the option table; positions are p = -log2(scale)."""

from __future__ import annotations

from equiquant.options.kinds import applied, automatic

__all__ = ["NPU_LIMITS"]

NPU_LIMITS = [
    applied(
        "NPULimitationCheck",
        "bool",
        True,
        "npu_limits",
        "With `enable_npu_cnn`: keep the positions of the scales within what the NPU's shifters can do; False switches"
        " every Align and Adjust option off.",
    ),
    applied("AlignConcat", "bool", True, "limits_off", "One scale for the inputs and the output of a Concat."),
    applied(
        "AlignPool",
        "bool",
        True,
        "limits_off",
        "One scale for input and output of an average pool; a max pool always has one.",
    ),
    applied(
        "AlignPad",
        "bool",
        True,
        "limits_off",
        "One scale for input and output of a Pad with a value of its own; one with zeros always has one.",
    ),
    applied(
        "AlignSlice", "bool", True, "limits_off", "One scale for input and output of a Slice, which always has one."
    ),
    applied("AdjustShiftCut", "bool", True, "limits_off", "Layers with weights: 0 <= p_w + p_in - p_out <= 16."),
    applied(
        "AdjustShiftBias",
        "bool",
        True,
        "limits_off",
        "Layers with a bias: min(0, -(24 - (8 + cut))) <= p_w + p_in - p_b <= 15, from 0 before a LeakyRelu.",
    ),
    applied(
        "AdjustShiftRead", "bool", True, "limits_off", "Add and Sub: positions of the inputs within 7 of each other."
    ),
    applied(
        "AdjustShiftWrite",
        "bool",
        True,
        "limits_off",
        "Add: -7 <= min p_in - p_out <= 25; Mul: 0 <= sum of p_in - p_out <= 32.",
    ),
    applied(
        "AdjustHardSigmoid",
        "bool",
        True,
        "limits_off",
        "HardSigmoid with alpha 1/6: 0 <= p_in <= 15, 7 <= p_out <= 14 + p_in.",
    ),
    applied(
        "AdjustShiftSwish",
        "bool",
        True,
        "limits_off",
        "Mul of x and HardSigmoid(x): 0 <= sum of p_in - p_out <= 15.",
    ),
    *automatic("All limits are solved together; there are no rounds to count.", "int", MaxLoopNum=5),
]
