"""Options that were set and do nothing, because of others: said, not refused, for documented scripts set many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from equiquant.calibrate.methods import needs_histogram
from equiquant.hardware import EXACT, VALUES
from equiquant.recipe import PRESETS, Recipe

__all__ = ["idle_options"]


@dataclass(frozen=True)
class _Group:
    """Fields that do nothing under one condition.

    Attributes:
        fields: Of `Recipe`.
        idle: True if they do nothing.
        reason: Why, for the user.
    """

    fields: tuple[str, ...]
    idle: Callable[[Recipe], bool]
    reason: str


SIMULATED = tuple(rule.name for rule in VALUES)
REWRITTEN = tuple(rule.name for rule in EXACT)
GROUPS = (
    _Group(("block_size",), lambda r: not r.weight_only, "only the presets w4 and w8 store weights in blocks"),
    _Group(
        ("npu_limits", "limits_off", "simulate_dpu", *SIMULATED, *REWRITTEN),
        lambda r: not r.npu,
        "the target is not the NPU, whose preset is xint8",
    ),
    _Group(SIMULATED, lambda r: r.npu and not r.simulate_dpu, "simulate_dpu is off"),
    _Group(("limits_off",), lambda r: r.npu and not r.npu_limits, "npu_limits is off, and with it every limit"),
    _Group(
        ("limits_off",),
        lambda r: r.npu and set(r.limits_off) <= {"AlignSlice"},
        "a Slice only moves values: its input and output always share one scale",
    ),
    _Group(
        ("symmetric_ranges",),
        lambda r: r.scale_kind == "power_of_two",
        "the ranges of these scales are symmetric anyway",
    ),
    _Group(
        ("cle_steps", "cle_append_bias", "clip_mode", "replace_clip6_relu"), lambda r: not r.cle, "equalization is off"
    ),
    _Group(
        ("cle_steps", "cle_append_bias"),
        lambda r: r.cle and r.cle_method == "global",
        "only the pairwise solver reads it, and cle_method is 'global'",
    ),
    _Group(
        ("cle_method", "cle_accept"),
        lambda r: not r.cle and r.calibration != "noise",
        "equalization is off, and ranges are not chosen by the noise they leave",
    ),
    _Group(
        ("unsigned_relu",),
        lambda r: r.scale_kind == "float" and not r.activation_symmetric,
        "ranges that need not be symmetric begin at 0 there already",
    ),
    _Group(
        ("separate",),
        lambda r: not r.npu and set(r.separate) <= {"PRelu"},
        "onnxruntime has no integer kernel for a PRelu: what is before it is quantized on its own anyway",
    ),
    _Group(
        (
            *("calibration", "scale_kind", "per_channel", "activation_type", "activation_symmetric"),
            *("symmetric_ranges", "separate", "exact_histograms", "moving_average", "calibration_memory"),
            "avoid_overflow",
        ),
        lambda r: r.weight_only,
        "the presets w4 and w8 store weights in blocks and leave activations float",
    ),
    _Group(("percentile",), lambda r: r.calibration != "percentile", "calibration is not 'percentile'"),
    _Group(
        ("histogram_bins",),
        lambda r: r.calibration not in ("percentile", "entropy"),
        "calibration is neither 'percentile' nor 'entropy'",
    ),
    _Group(
        ("exact_histograms",),
        lambda r: not (needs_histogram(r) or r.weight_only),
        "the smallest and the largest value are of every element anyway, and no file of statistics was asked for",
    ),
    _Group(("minmse_mode",), lambda r: r.calibration != "minmse", "calibration is not 'minmse'"),
    _Group(("nonoverflow_rounding",), lambda r: r.calibration != "nonoverflow", "calibration is not 'nonoverflow'"),
    _Group(("moving_average_constant",), lambda r: not r.moving_average, "moving_average is off"),
)


def idle_options(recipe: Recipe, *, stored: bool = False) -> dict[str, str]:
    """Return the fields that were set and do nothing, with the reason; set is what differs from the preset's value.

    Args:
        recipe: The recipe.
        stored: Statistics go to a file or come from one, which always holds histograms.

    >>> idle_options(PRESETS["xint8"].replace(block_size=64))
    {'block_size': 'only the presets w4 and w8 store weights in blocks'}
    """
    usual = PRESETS.get(recipe.name, Recipe())
    return {
        field: group.reason
        for group in GROUPS
        if group.idle(recipe)
        for field in group.fields
        if getattr(recipe, field) != getattr(usual, field) and not (stored and field == "exact_histograms")
    }
